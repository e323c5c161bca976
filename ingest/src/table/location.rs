//! The `Location` of a redirect. A destination is checked once, when its link is
//! read; a visit may add its query and its click's id to it and never changes the
//! address before them.

use std::{borrow::Cow, sync::Arc};

use percent_encoding::{percent_decode, percent_decode_str};
use schemas::{AppSchemes, ClickId, is_placeholder};
use url::Url;

use crate::{
    Config,
    table::reference::{AddressPart, SchemeKind, is_reference, reference},
};

/// The schemes of addresses that have no query (RFC 3966 and its like): a telephone would dial it.
const WITHOUT_QUERY: [&str; 7] = ["tel:", "telprompt:", "callto:", "fax:", "modem:", "facetime:", "facetime-audio:"];

/// An address that no redirect may lead to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LocationError {
    #[error("it is no URL: {0}")]
    Url(#[from] url::ParseError),
    #[error("it is a {0}: URL, which is neither http or https nor a scheme of `links.app_schemes`")]
    Scheme(String),
}

/// The installation's rules for all redirects.
#[derive(Clone, Debug)]
pub(crate) struct LocationRules {
    /// The schemes that a redirect may lead to.
    pub(crate) schemes: AppSchemes,
    /// The name under which a click's id is added.
    pub(crate) click_id_param: Arc<str>,
}

impl From<&Config> for LocationRules {
    fn from(config: &Config) -> Self {
        Self { schemes: config.app_schemes.clone(), click_id_param: config.click_id_param.as_str().into() }
    }
}

impl LocationRules {
    /// Returns `url` as it can be sent: as RFC 3986 writes it. Other characters are
    /// percent-encoded the way a browser would.
    pub(crate) fn check<'u>(&self, url: &'u str) -> Result<Cow<'u, str>, LocationError> {
        if is_plain(url) {
            return Ok(Cow::Borrowed(url));
        }
        let parsed = Url::parse(url)?;
        let scheme = parsed.scheme();
        if !self.schemes.allows(scheme) {
            return Err(LocationError::Scheme(scheme.chars().take(64).collect()));
        }
        // `https:a` is an address by itself, but a path where it stands in an answer.
        let relative =
            matches!(scheme, "http" | "https") && !url.get(scheme.len()..).is_some_and(|rest| rest.starts_with("://"));
        let kind = if matches!(scheme, "http" | "https") { SchemeKind::Web } else { SchemeKind::App };
        if !relative && url.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Ok(reference(url, kind));
        }
        Ok(Cow::Owned(reference(parsed.as_str(), kind).into_owned()))
    }

    /// Removes a click's id from `url`: an address copied from a browser has an old one.
    pub(crate) fn without_click_id<'u>(&self, url: &'u str) -> Cow<'u, str> {
        let (main, fragment) = url.split_at(url.find('#').unwrap_or(url.len()));
        let Some((base, query)) = main.split_once('?') else { return Cow::Borrowed(url) };
        let is_id = |pair: &&str| *key(pair) == *self.click_id_param.as_bytes();
        if !query.split('&').any(|pair| is_id(&pair)) {
            return Cow::Borrowed(url);
        }
        let kept: Vec<&str> = query.split('&').filter(|pair| !is_id(pair)).collect();
        let mark = if kept.is_empty() { "" } else { "?" };
        Cow::Owned([base, mark, &kept.join("&"), fragment].concat())
    }
}

/// Whether `url` is of the plain kind that no parser would refuse or spell
/// differently. Nearly all are, and a start reads millions of them. The check is
/// narrower than the parser.
fn is_plain(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")) else { return false };
    let (host, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let name = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-');
    // A host that ends in a number is an IPv4 address, or wrong.
    let top = host.rsplit('.').next().unwrap_or_default();
    top.starts_with(|first: char| first.is_ascii_lowercase())
        && host.bytes().all(name)
        && !host.contains("xn--")
        && is_reference(rest)
}

/// The value of a `Location`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Location<'a> {
    /// The address as [`LocationRules::check`] returned it.
    url: &'a [u8],
    passed: Option<&'a str>,
    /// The parameter that tells the click's id.
    click_id_param: Option<&'a str>,
    click_id: Option<ClickId>,
}

impl<'a> Location<'a> {
    /// Makes a location of an address that [`LocationRules::check`] returned.
    pub(crate) const fn new(url: &'a [u8]) -> Self {
        Self { url, passed: None, click_id_param: None, click_id: None }
    }

    /// Merges the visit's query into the address's; the address's own keys win, but those
    /// of the campaign (`utm_…`) do not: the visit's are about this visit.
    pub(crate) const fn passing(self, query: Option<&'a str>) -> Self {
        Self { passed: query, ..self }
    }

    /// Adds the click's id, once it is known, under the name `param`. A parameter of
    /// that name in the visit's own query is never passed on.
    pub(crate) const fn telling(self, param: &'a str) -> Self {
        Self { click_id_param: Some(param), ..self }
    }

    /// Sets the click's id; none where no visit is recorded.
    pub(crate) const fn with_click_id(self, id: Option<ClickId>) -> Self {
        Self { click_id: id, ..self }
    }

    /// Appends the location to `out`, as RFC 3986 writes it.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        if (self.passed.is_none() && self.click_id_param.is_none()) || has_no_query(self.url) {
            out.extend_from_slice(self.url);
            return;
        }
        let (main, fragment) = self.url.split_at(memchr::memchr(b'#', self.url).unwrap_or(self.url.len()));
        let base = &main[..memchr::memchr(b'?', main).unwrap_or(main.len())];
        let own = main.get(base.len() + 1..).map(|own| match self.passed {
            Some(passed) => without_campaign_of(passed, own),
            None => Cow::Borrowed(own),
        });
        out.extend_from_slice(base);
        let mut joint = "?";
        if let Some(own) = &own {
            out.push(b'?');
            out.extend_from_slice(own);
            joint = if own.is_empty() || own.ends_with(b"&") { "" } else { "&" };
        }
        if let Some(passed) = self.passed {
            // Sorted, because strangers and customers may make both as long as they like.
            let mut taken: Vec<Cow<'_, [u8]>> =
                own.as_ref().map(|own| own.split(|byte| *byte == b'&')).into_iter().flatten().map(key_of).collect();
            taken.extend(self.click_id_param.map(|param| Cow::Borrowed(param.as_bytes())));
            taken.sort_unstable();
            let pairs = passed.split('&').filter(|pair| !pair.is_empty());
            // Most addresses have no key that could win.
            for pair in pairs.filter(|pair| taken.is_empty() || taken.binary_search(&key(pair)).is_err()) {
                out.extend_from_slice(joint.as_bytes());
                AddressPart::Query.write(pair.as_bytes(), out);
                joint = "&";
            }
        }
        if let (Some(param), Some(id)) = (self.click_id_param, self.click_id) {
            out.extend_from_slice(joint.as_bytes());
            out.extend_from_slice(param.as_bytes());
            out.push(b'=');
            id.write_to(out);
        }
        out.extend_from_slice(fragment);
    }
}

/// Whether an address has no query that anything could be added to.
fn has_no_query(url: &[u8]) -> bool {
    WITHOUT_QUERY
        .iter()
        .any(|scheme| url.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme.as_bytes())))
}

/// Returns an address's own query without the campaign's parameters that the visit has, too.
fn without_campaign_of<'o>(passed: &str, own: &'o [u8]) -> Cow<'o, [u8]> {
    if own.is_empty() || !passed.contains("utm_") {
        return Cow::Borrowed(own);
    }
    let campaign = passed.split('&').filter(|pair| pair.starts_with("utm_") && says_something(pair));
    let mut replaced: Vec<Cow<'_, [u8]>> = campaign.map(key).collect();
    replaced.sort_unstable();
    let stays = |pair: &&[u8]| replaced.binary_search(&key_of(pair)).is_err();
    if own.split(|byte| *byte == b'&').all(|pair| stays(&pair)) {
        return Cow::Borrowed(own);
    }
    let kept: Vec<&[u8]> = own.split(|byte| *byte == b'&').filter(stays).collect();
    Cow::Owned(kept.join(&b'&'))
}

/// Whether a pair has a value, as events count it: one that is not empty, and no macro
/// that was left in its place.
fn says_something(pair: &str) -> bool {
    let value = pair.split_once('=').map_or("", |(_, value)| value);
    let decoded = percent_decode_str(value).decode_utf8_lossy();
    let blank = decoded.trim_matches(['+', ' ']).is_empty();
    !blank && !is_placeholder(value) && !is_placeholder(&decoded)
}

fn key(pair: &str) -> Cow<'_, [u8]> {
    key_of(pair.as_bytes())
}

/// Decodes the key of a pair as the destination will.
fn key_of(pair: &[u8]) -> Cow<'_, [u8]> {
    let key = &pair[..memchr::memchr(b'=', pair).unwrap_or(pair.len())];
    if memchr::memchr2(b'%', b'+', key).is_none() {
        return Cow::Borrowed(key);
    }
    let spaced: Vec<u8> = key.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    Cow::Owned(percent_decode(&spaced).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use schemas::Timestamp;

    use super::*;

    fn rules() -> LocationRules {
        let schemes = AppSchemes::try_from(vec!["myapp".to_owned()]).unwrap();
        LocationRules { schemes, click_id_param: "ch_click_id".into() }
    }

    proptest! {
        #[test]
        fn what_is_plain_is_so_to_a_parser(url in "https?://[a-z0-9.-]{0,12}[a-zA-Z0-9.:@\\\\-]{0,6}[/?#]?[!-~]{0,12}") {
            if is_plain(&url) {
                let parsed = Url::parse(&url);
                prop_assert!(parsed.is_ok(), "{url}: {parsed:?}");
                let parsed = parsed.unwrap();
                let host = url.split("://").nth(1).and_then(|rest| rest.split(['/', '?', '#']).next());
                prop_assert_eq!((parsed.host_str(), parsed.username(), parsed.port()), (host, "", None));
            }
        }
    }

    #[test]
    fn most_addresses_are_plain() {
        for url in
            ["https://acme.com", "http://a-b.c1.example/x?y=%20&z#/?", "https://acme.com?a=b", "https://localhost/"]
        {
            assert!(is_plain(url), "{url}");
        }
        for url in [
            "https://a.com/a|b",
            "https://a.com/50%",
            "https://192.0.2.1/",
            "https://1.0x2/",
            "https://xn--a.example/",
            "https:///",
            "https://a.com:8080/",
        ] {
            assert!(!is_plain(url), "{url}");
        }
    }

    fn written(location: Location<'_>) -> String {
        let mut out = Vec::new();
        location.write(&mut out);
        let is_reference = |byte: &u8| byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(byte);
        assert!(out.iter().all(is_reference), "{}", String::from_utf8_lossy(&out));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_location_is_always_ascii_and_of_an_allowed_scheme() {
        for (url, expected) in [
            ("https://acme.com", "https://acme.com"),
            ("HTTPS://Acme.com/a?b#c", "HTTPS://Acme.com/a?b#c"),
            ("https://acme.com/\u{fc}ber?q=a b", "https://acme.com/%C3%BCber?q=a%20b"),
            ("https://b\u{fc}cher.example/", "https://xn--bcher-kva.example/"),
            ("https://acme.com/\r\nSet-Cookie: a", "https://acme.com/Set-Cookie:%20a"),
            ("https:acme.com", "https://acme.com/"),
            ("https:/acme.com", "https://acme.com/"),
            ("http:\\\\acme.com", "http://acme.com/"),
            (" https://acme.com/ ", "https://acme.com/"),
            ("myapp://open/\u{fc}", "myapp://open/%C3%BC"),
            ("myapp:a b", "myapp:a%20b"),
            ("https://acme.com/a|b?c={d}", "https://acme.com/a%7Cb?c=%7Bd%7D"),
            ("https://acme.com\\a", "https://acme.com/a"),
            ("https://acme.com/\u{fc}|?a=[\u{fc}]", "https://acme.com/%C3%BC%7C?a=%5B%C3%BC%5D"),
        ] {
            assert_eq!(rules().check(url).unwrap(), expected, "{url:?}");
        }
        for url in ["javascript:alert(1)", "JavaScript:alert(1)", "data:text/html,x", "ftp://a/", "otherapp://a"] {
            assert!(matches!(rules().check(url), Err(LocationError::Scheme(_))), "{url:?}");
        }
        for url in ["", "/", "//acme.com", "acme.com", "https://", "https://a b/"] {
            assert!(matches!(rules().check(url), Err(LocationError::Url(_))), "{url:?}");
        }
    }

    #[test]
    fn a_query_is_merged_and_the_destinations_keys_win() {
        for (url, query, expected) in [
            ("https://a.example", None, "https://a.example"),
            ("https://a.example", Some("x=1"), "https://a.example?x=1"),
            ("https://a.example/?y=2", Some("x=1"), "https://a.example/?y=2&x=1"),
            ("https://a.example/?", Some("x=1"), "https://a.example/?x=1"),
            ("https://a.example/?y&", Some("x=1"), "https://a.example/?y&x=1"),
            ("https://a.example/?x=2", Some("x=1"), "https://a.example/?x=2"),
            ("https://a.example/?x=2", Some("%78=1&X=3&x"), "https://a.example/?x=2&X=3"),
            ("https://a.example/?a+b=2", Some("a%20b=1"), "https://a.example/?a+b=2"),
            ("https://a.example/#x?y", Some("x=1"), "https://a.example/?x=1#x?y"),
            ("https://a.example/?y=1#f", Some("x=1&x=2"), "https://a.example/?y=1&x=1&x=2#f"),
            ("https://a.example/", Some("&&x=%C3%A9%0d%0a&&"), "https://a.example/?x=%C3%A9%0d%0a"),
            ("https://a.example/", Some("x=\u{e9}\"<>"), "https://a.example/?x=%C3%A9%22%3C%3E"),
            (
                "https://a.example/",
                Some("ids=1|2&f={a}&x=a^b`c\\"),
                "https://a.example/?ids=1%7C2&f=%7Ba%7D&x=a%5Eb%60c%5C",
            ),
            ("https://a.example/", Some("p=%zz&q=%&r=100%"), "https://a.example/?p=%25zz&q=%25&r=100%25"),
            ("https://a.example/", Some("a[]=1&b=c?d/e"), "https://a.example/?a%5B%5D=1&b=c?d/e"),
            ("https://a.example/", Some("@evil.example"), "https://a.example/?@evil.example"),
            ("https://a.example", Some("@evil.example"), "https://a.example?@evil.example"),
            ("myapp:open", Some("x=1"), "myapp:open?x=1"),
            ("tel:+4930123456", Some("fbclid=x"), "tel:+4930123456"),
            ("TEL:+4930123456", Some("fbclid=x"), "TEL:+4930123456"),
            ("mailto:a@a.example", Some("x=1"), "mailto:a@a.example?x=1"),
        ] {
            assert_eq!(written(Location::new(url.as_bytes()).passing(query)), expected, "{url} {query:?}");
        }
    }

    #[test]
    fn the_visits_campaign_replaces_the_destinations() {
        for (url, query, expected) in [
            ("https://a.example/?utm_source=own", "utm_source=tiktok", "https://a.example/?utm_source=tiktok"),
            (
                "https://a.example/?a=1&utm_source=own&utm_medium=m#f",
                "utm_source=tiktok&a=2",
                "https://a.example/?a=1&utm_medium=m&utm_source=tiktok#f",
            ),
            ("https://a.example/?utm%5Fsource=own&b", "utm_source=x", "https://a.example/?b&utm_source=x"),
            ("https://a.example/?utm_source=1&utm_source=2", "utm_source=x", "https://a.example/?utm_source=x"),
            ("https://a.example/?utm_source=own", "utm_source=", "https://a.example/?utm_source=own"),
            ("https://a.example/?utm_source=own", "utm_source=+%20", "https://a.example/?utm_source=own"),
            ("https://a.example/?utm_source=own", "utm_source={source}", "https://a.example/?utm_source=own"),
            ("https://a.example/?utm_source=own", "utm_source=%7Bsource%7D", "https://a.example/?utm_source=own"),
            ("https://a.example/?utm_source=own", "utm_term=x", "https://a.example/?utm_source=own&utm_term=x"),
            ("https://a.example/?gclid=own", "gclid=x", "https://a.example/?gclid=own"),
        ] {
            assert_eq!(written(Location::new(url.as_bytes()).passing(Some(query))), expected, "{url} {query:?}");
        }
    }

    #[test]
    fn a_clicks_id_is_told_under_its_name_alone() {
        let id = ClickId::new(Timestamp::from_millis(1_770_301_425_120), 42, 7);
        let telling =
            |url, query, id| written(Location::new(url).passing(query).telling("ch_click_id").with_click_id(id));
        assert_eq!(telling(b"https://a.example/#f", None, Some(id)), format!("https://a.example/?ch_click_id={id}#f"));
        assert_eq!(
            telling(b"https://a.example/?a", Some("ch_click_id=clk_other&b"), Some(id)),
            format!("https://a.example/?a&b&ch_click_id={id}")
        );
        assert_eq!(telling(b"https://a.example/", Some("ch_click_id=clk_other"), None), "https://a.example/");
        for (url, expected) in [
            ("https://a.example/", "https://a.example/"),
            ("https://a.example/?a#ch_click_id=1", "https://a.example/?a#ch_click_id=1"),
            ("https://a.example/?ch_click_id=1#f", "https://a.example/#f"),
            ("https://a.example/?a&ch%5Fclick_id=1&b", "https://a.example/?a&b"),
        ] {
            assert_eq!(rules().without_click_id(url), expected, "{url}");
        }
    }
}
