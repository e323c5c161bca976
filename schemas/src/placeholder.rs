//! Macros of ad and affiliate networks that were not filled in, and words that programs
//! write where they have no value.

/// The signs between which networks write the names of their macros.
const BRACKETS: [(&str, &str); 14] = [
    ("{", "}"),
    ("[", "]"),
    ("(", ")"),
    ("<", ">"),
    ("${", "}"),
    ("#{", "}"),
    ("__", "__"),
    ("%", "%"),
    ("#", "#"),
    ("$", "$"),
    ("*|", "|*"),
    ("$(", ")"),
    ("%{", "}"),
    ("@{", "}"),
];

/// Returns whether `value` says nothing: it is wholly a macro (`{creative}`,
/// `{{ad.name}}`, `__CID__`, `[payout]`, `${TXID}`, `%TXID%`), or a word such as
/// `undefined`.
#[must_use]
pub fn is_placeholder(value: &str) -> bool {
    let value = value.trim();
    let words = ["undefined", "null", "nil", "none", "nan", "n/a", "not set"];
    let word = words.iter().any(|word| value.eq_ignore_ascii_case(word));
    word || value.strip_prefix('$').is_some_and(is_name)
        || BRACKETS.iter().any(|(open, close)| {
            let inner = value.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
            inner.is_some_and(|inner| !inner.is_empty())
        })
}

/// Reports whether a text is the name of a variable, as in `$TXID`: an amount in dollars
/// begins with a digit.
fn is_name(text: &str) -> bool {
    text.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macros_of_every_kind_say_nothing() {
        for nothing in [
            "{creative}",
            "{{ad.name}}",
            "{{CREATIVE_ID}}",
            "__CID__",
            "__CID_NAME__",
            "[payout]",
            "[[x]]",
            "${TXID}",
            "#{txid}",
            "(transaction_id)",
            "(not set)",
            "(none)",
            "%TXID%",
            "%%txid%%",
            "<affiliate>",
            "<%= x %>",
            "#payout#",
            "$txid$",
            "$(txid)",
            "$TXID",
            "%{txid}",
            "@{txid}",
            "N/A",
            "not set",
            "[object Object]",
            "*|CAMPAIGN|*",
            "undefined",
            "null",
            "NULL",
            " {x} ",
        ] {
            assert!(is_placeholder(nothing), "{nothing}");
        }
        for said in [
            "", "{}", "story-7", "a{b}", "{a}b", "50%", "100%_off", "__a", "(a) b", "#1", "null-7", "%", "__",
            "nonesuch", "$3.50", "$", "$1a", "-3.50",
        ] {
            assert!(!is_placeholder(said), "{said}");
        }
    }
}
