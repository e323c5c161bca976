//! Texts that are kept although they could not be read: without what names a person.

use super::{persons, text};

/// The members of a report, in lower case, that name a person beside those of a query.
const REPORT_MEMBERS: &[&str] = &["customer_id"];

/// Returns a text without what names a person: values of personal parameters, and
/// words with an e-mail address.
pub(crate) fn scrub(text: &str) -> String {
    let ends =
        |letter: char| letter.is_whitespace() || matches!(letter, '"' | '\'' | '\\' | '&' | '?' | '#' | ';' | ',');
    let mut scrubbed = String::with_capacity(text.len());
    for part in text.split_inclusive(ends) {
        let word = part.strip_suffix(ends).unwrap_or(part);
        let (key, _) = word.split_once('=').unwrap_or((word, ""));
        if !persons::pair_is_personal(word, true) {
            scrubbed.push_str(part);
            continue;
        }
        if !persons::has_email(&text::decode(key)) {
            scrubbed.push_str(key);
        }
        scrubbed.push_str(&part[word.len()..]);
    }
    scrubbed
}

/// Returns a reported conversion without what names a person: as [`scrub`] does, and
/// without the values of members such as `customer_id`. The text may be no JSON, or the
/// beginning of some.
pub(crate) fn scrub_report(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('"') {
        let (before, quoted) = rest.split_at(at);
        let (name, behind) = quoted.split_at(string_length(quoted));
        kept.push_str(before);
        kept.push_str(name);
        rest = behind;
        let Some(value) = behind.trim_start().strip_prefix(':').map(str::trim_start) else { continue };
        if is_personal_member(name.trim_matches('"')) {
            kept.push_str(&behind[..behind.len() - value.len()]);
            kept.push_str("\"\"");
            rest = &value[value_length(value)..];
        }
    }
    kept.push_str(rest);
    scrub(&kept)
}

fn is_personal_member(name: &str) -> bool {
    let name = name.to_lowercase();
    REPORT_MEMBERS.contains(&&*name) || persons::is_personal(&name)
}

/// Returns the length of the JSON string that `text` begins with, or of the whole text
/// where the string does not end.
fn string_length(text: &str) -> usize {
    let mut escaped = true;
    let end = text.bytes().position(|byte| {
        let is_end = byte == b'"' && !escaped;
        // The first quote begins the string.
        escaped = byte == b'\\' && !escaped;
        is_end
    });
    end.map_or(text.len(), |end| end + 1)
}

/// Returns the length of the JSON value that `text` begins with, which is no object and no
/// list.
fn value_length(text: &str) -> usize {
    if text.starts_with('"') {
        return string_length(text);
    }
    text.find(|letter: char| letter.is_whitespace() || matches!(letter, ',' | '}' | ']')).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_text_that_is_kept_names_nobody() {
        let text =
            r#"{"query":"a=1&mc_eid=77&b=j%40a.example","referer":"https://a.example/?email=x","to":"jane@a.example"}"#;
        let expected = r#"{"query":"a=1&mc_eid&b","referer":"https://a.example/?email","to":""}"#;
        assert_eq!(scrub(text), expected);
        assert_eq!(scrub("no \"json\" at all"), "no \"json\" at all");
    }

    #[test]
    fn a_report_that_is_kept_names_no_customer() {
        for (text, expected) in [
            (
                r#"{"v":2,"order_id":"7","customer_id": "j\"ane","metadata":{"Email":"x","to":"a@b.example"}}"#,
                r#"{"v":2,"order_id":"7","customer_id": "","metadata":{"Email":"","to":""}}"#,
            ),
            (r#"{"customer_id":42,"v":1}"#, r#"{"customer_id":"","v":1}"#),
            (r#"{"customer_id":"cut o"#, r#"{"customer_id":"""#),
            (r#"["customer_id","customer_id"]"#, r#"["customer_id","customer_id"]"#),
            (r#"{"a":"customer_id","b":"c"}"#, r#"{"a":"customer_id","b":"c"}"#),
            ("no \"json\" at all", "no \"json\" at all"),
        ] {
            assert_eq!(scrub_report(text), expected);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_kept_without_a_panic(text in "([\"\\\\:, {}]|customer_id|\\PC){0,40}") {
            let kept = scrub_report(&text);
            prop_assert!(kept.len() <= text.len() + 2 * text.matches("customer_id").count());
        }
    }
}
