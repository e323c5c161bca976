//! Parameters that name a person, and e-mail addresses. They are never stored and
//! never sent on: not as a fact, and not within a referrer.

use std::borrow::Cow;

use super::text;

/// The parameters in which mailers, shops and forms put the id or address of one
/// person, in lower case.
const KEYS: &[&str] = &[
    "__hsfp",
    "__hssc",
    "__hstc",
    "_hsenc",
    "_ke",
    "_kx",
    "bsft_uid",
    "ck_subscriber_id",
    "contact_email",
    "customer_email",
    "e-mail",
    "e_mail",
    "elq",
    "elqcontactid",
    "email",
    "email_address",
    "emailaddress",
    "et_rid",
    "first_name",
    "firstname",
    "fname",
    "hsctatracking",
    "iterable_user_id",
    "last_name",
    "lastname",
    "lname",
    "mail",
    "mc_eid",
    "mkt_tok",
    "ml_subscriber",
    "ml_subscriber_hash",
    "mobile",
    "msisdn",
    "oly_anon_id",
    "oly_enc_id",
    "password",
    "phone",
    "phone_number",
    "recipient",
    "recipient_id",
    "sfmc_sub",
    "subscriber",
    "subscriber_id",
    "subscriberkey",
    "tel",
    "trk_contact",
    "user_email",
    "useremail",
    "username",
    "vero_conv",
    "vero_id",
];

/// Returns whether a parameter names a person, by its key in lower case.
pub(super) fn is_personal(key: &str) -> bool {
    KEYS.binary_search(&key).is_ok()
}

/// Returns whether `text` has an e-mail address in it.
pub(super) fn has_email(text: &str) -> bool {
    let bytes = text.as_bytes();
    memchr::memchr_iter(b'@', bytes).any(|at| {
        let local = at > 0
            && (bytes[at - 1].is_ascii_alphanumeric() || matches!(bytes[at - 1], b'_' | b'-' | b'+' | b'.' | 0x80..));
        let rest = &text[at + 1..];
        let end = rest.find(|letter: char| !(letter.is_alphanumeric() || letter == '-' || letter == '.'));
        let host = rest[..end.unwrap_or(rest.len())].trim_end_matches('.');
        let top = host.rsplit_once('.').filter(|(name, _)| !name.is_empty()).map(|(_, top)| top);
        local && top.is_some_and(|top| top.chars().count() >= 2 && !top.bytes().all(|byte| byte.is_ascii_digit()))
    })
}

/// Returns an address without what names a person: the user before its host, and
/// personal parameters of its query and fragment. A path with an e-mail address in it
/// is left out.
pub(crate) fn without_persons(url: &str) -> Cow<'_, str> {
    if !url.contains(['?', '#', '@', '%']) {
        return Cow::Borrowed(url);
    }
    let (main, fragment) = url.split_once('#').map_or((url, None), |(main, fragment)| (main, Some(fragment)));
    let (base, query) = main.split_once('?').map_or((main, None), |(base, query)| (base, Some(query)));
    let base = base_without(base);
    let query = query.map(pairs_without);
    let fragment = fragment.map(pairs_without);
    let kept = |part: &Option<Cow<'_, str>>| part.as_ref().is_none_or(|part| matches!(part, Cow::Borrowed(_)));
    if matches!(base, Cow::Borrowed(_)) && kept(&query) && kept(&fragment) {
        return Cow::Borrowed(url);
    }
    let mut cleaned = base.into_owned();
    for (mark, part) in [('?', query), ('#', fragment)] {
        if let Some(part) = part.filter(|part| !part.is_empty()) {
            cleaned.push(mark);
            cleaned.push_str(&part);
        }
    }
    Cow::Owned(cleaned)
}

fn base_without(base: &str) -> Cow<'_, str> {
    let (scheme, rest) = base.split_once("://").unwrap_or(("", base));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let personal = has_email(&text::decode(path));
    if host.len() == authority.len() && !personal {
        return Cow::Borrowed(base);
    }
    let joint = if scheme.is_empty() { "" } else { "://" };
    let path = if personal { "/" } else { path };
    Cow::Owned([scheme, joint, host, path].concat())
}

/// Returns the pairs that name nobody; borrowed where all of them are kept.
fn pairs_without(query: &str) -> Cow<'_, str> {
    let names_nobody = |pair: &&str| !pair_is_personal(pair, true);
    if query.split(['&', ';']).all(|pair| names_nobody(&pair)) {
        return Cow::Borrowed(query);
    }
    // What is left of an `&amp;` says nothing.
    let kept: Vec<&str> = query.split(['&', ';']).filter(|pair| *pair != "amp" && names_nobody(pair)).collect();
    Cow::Owned(kept.join("&"))
}

/// Returns whether a pair of a query names a person. The value of an outermost pair may
/// be an address with a query of its own.
pub(super) fn pair_is_personal(pair: &str, outermost: bool) -> bool {
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    if text::key(key).is_some_and(|key| is_personal(&key)) || has_email(&text::decode(key)) {
        return true;
    }
    let value = text::decode(value);
    let value = text::decode_again(value);
    // An address within the address has parameters of its own.
    let nested = || value.split(['?', '&', '#', ';']).any(|pair| pair_is_personal(pair, false));
    has_email(&value) || (outermost && value.contains('=') && nested())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_sorted_so_that_they_are_found() {
        assert!(KEYS.is_sorted());
        for key in ["mc_eid", "_hsenc", "mkt_tok", "_kx", "vero_id", "ck_subscriber_id", "email"] {
            assert!(is_personal(key), "{key}");
        }
        assert!(!is_personal("mc_cid") && !is_personal("utm_source"));
    }

    #[test]
    fn addresses_of_people_are_told_from_other_text() {
        for text in ["jane@acme.example", "x jane.d+7@mail.acme.co.uk.", "<j@a.de>", "j\u{fc}rgen@m\u{fc}ller.de"] {
            assert!(has_email(text), "{text}");
        }
        for text in ["", "@", "@acme", "a@b", "sale @ acme.com", "1@2.30", "https://x.example/@jane/1"] {
            assert!(!has_email(text), "{text}");
        }
    }

    #[test]
    fn a_referrer_names_nobody() {
        for (url, expected) in [
            ("https://a.example/x?y=1#z", "https://a.example/x?y=1#z"),
            ("https://a.example/x?y=100%25&z", "https://a.example/x?y=100%25&z"),
            ("https://a.example/?mc_eid=1&b=2", "https://a.example/?b=2"),
            ("https://a.example/?b=2&amp;MC_EID=1", "https://a.example/?b=2"),
            ("https://a.example/?mkt%5ftok=1", "https://a.example/"),
            ("https://a.example/?b=2&c=jane%40acme.example#_hsenc=7", "https://a.example/?b=2"),
            ("https://a.example/?b=2&c=jane%2540acme.example", "https://a.example/?b=2"),
            ("https://a.example/?b=2;email=x;c=3", "https://a.example/?b=2&c=3"),
            ("https://a.example/?u=https%3A%2F%2Fb.example%2F%3Fvero_id%3D7&c=1", "https://a.example/?c=1"),
            ("https://jane:secret@a.example/x", "https://a.example/x"),
            ("https://a.example/unsubscribe/jane@acme.example/x?y", "https://a.example/?y"),
            ("https://a.example/jane%40acme.example", "https://a.example/"),
            ("https://social.example/@jane", "https://social.example/@jane"),
        ] {
            assert_eq!(without_persons(url), expected, "{url}");
        }
    }
}
