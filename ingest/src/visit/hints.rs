//! The headers of a visit that say more than its user agent: what it was asked for
//! (`Sec-Purpose`, `Sec-Fetch-…`) and which browser asks (`Sec-CH-UA…`, User-Agent Client
//! Hints). One pass over the headers reads them all.

use schemas::hints::{Brand, FetchKind, HintPlatform, Hints};

use crate::http::Headers;

/// The brands of `Sec-CH-UA` that are looked at: browsers send three or four.
const BRANDS: usize = 8;

/// The facts of those headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestHints {
    /// Who asks before any person clicked, if so.
    pub(crate) asked_ahead: Option<AskedAhead>,
    pub(crate) forwarding: ForwardingHeaders,
    pub(crate) hints: Hints,
}

/// A program that asks before any person clicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum AskedAhead {
    /// A page is shown in small. Nobody will ask again.
    Preview,
    /// A browser that is refused asks again when the person clicks.
    Prefetch,
}

/// Whether a proxy has passed on for whom a request is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ForwardingHeaders {
    #[default]
    Absent,
    Present,
}

/// Whether a proxy's word about the connection is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProxyTrust {
    Believed,
    Ignored,
}

impl RequestHints {
    /// Reads the headers.
    pub(crate) fn read(headers: Headers<'_>, trust: ProxyTrust) -> Self {
        let mut read = Self::default();
        let mut https = false;
        for header in headers.0 {
            let (name, value) = (header.name, header.value);
            let is = |wanted: &str| name.eq_ignore_ascii_case(wanted);
            // The length of a name rules most of them out.
            match name.len() {
                5 if is("x-moz") => read.asked_ahead = read.asked_ahead.max(asked_ahead(value)),
                7 if is("purpose") => read.asked_ahead = read.asked_ahead.max(asked_ahead(value)),
                9 if is("forwarded") => read.forwarding = ForwardingHeaders::Present,
                9 if is("sec-ch-ua") => read.hints.brand = read.hints.brand.or(brand(value)),
                9 if is("x-purpose") => read.asked_ahead = read.asked_ahead.max(asked_ahead(value)),
                11 if is("sec-purpose") => read.asked_ahead = read.asked_ahead.max(asked_ahead(value)),
                14 if is("sec-fetch-mode") => read.hints.fetch = FetchKind::named(value),
                15 if is("x-forwarded-for") => read.forwarding = ForwardingHeaders::Present,
                16 if is("sec-ch-ua-mobile") => read.hints.mobile = mobile(value),
                17 if is("x-forwarded-proto") => https |= value.eq_ignore_ascii_case(b"https"),
                18 if is("sec-ch-ua-platform") => read.hints.platform = platform(value),
                _ => {}
            }
        }
        if read.hints.fetch.is_none() && https && trust == ProxyTrust::Believed {
            read.hints.fetch = Some(FetchKind::Missing);
        }
        read
    }
}

/// Reads the value of a purpose header: `Sec-Purpose` is the standard (Fetch,
/// "`Sec-Purpose` header"); older browsers and link previews send others.
fn asked_ahead(value: &[u8]) -> Option<AskedAhead> {
    let has = |word: &[u8]| value.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word));
    if has(b"prefetch") || has(b"prerender") {
        Some(AskedAhead::Prefetch)
    } else if has(b"preview") {
        // Safari's top sites and others that show a page in small.
        Some(AskedAhead::Preview)
    } else {
        None
    }
}

/// Returns the brand that names the browser, of a list such as
/// `"Brave";v="138", "Chromium";v="138", "Not=A?Brand";v="24"`.
fn brand(value: &[u8]) -> Option<Brand> {
    let texts = value.split(|byte| *byte == b'"').skip(1).step_by(2);
    // Each brand is followed by its version, which is no brand.
    texts.take(2 * BRANDS).find_map(Brand::named)
}

fn platform(value: &[u8]) -> Option<HintPlatform> {
    HintPlatform::named(value.trim_ascii().strip_prefix(b"\"")?.strip_suffix(b"\"")?)
}

/// Reads a boolean of structured headers (RFC 9651 §3.3.6).
fn mobile(value: &[u8]) -> Option<bool> {
    match value.trim_ascii() {
        b"?1" => Some(true),
        b"?0" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use httparse::Header;

    use super::*;

    fn read(headers: &[(&str, &str)], trust: ProxyTrust) -> RequestHints {
        let headers: Vec<Header<'_>> =
            headers.iter().map(|(name, value)| Header { name, value: value.as_bytes() }).collect();
        RequestHints::read(Headers(&headers), trust)
    }

    #[test]
    fn a_browser_is_named_by_a_brand_that_its_user_agent_hides() {
        let brave = read(
            &[
                ("Sec-CH-UA", r#""Not)A;Brand";v="8", "Chromium";v="138", "Brave";v="138""#),
                ("sec-ch-ua-mobile", "?1"),
                ("Sec-Ch-Ua-Platform", "\"Android\""),
                ("Sec-Fetch-Mode", "navigate"),
            ],
            ProxyTrust::Ignored,
        );
        let expected = Hints {
            brand: Some(Brand::Brave),
            platform: Some(HintPlatform::Android),
            mobile: Some(true),
            fetch: Some(FetchKind::Navigate),
        };
        assert_eq!(brave, RequestHints { hints: expected, ..RequestHints::default() });
        let chrome = read(
            &[("Sec-CH-UA", r#""Google Chrome";v="138", "Chromium";v="138", "Not=A?Brand";v="24""#)],
            ProxyTrust::Ignored,
        );
        assert_eq!(chrome, RequestHints::default());
    }

    #[test]
    fn only_a_trusted_proxy_says_that_fetch_headers_are_missing() {
        let headers = [("X-Forwarded-Proto", "https")];
        assert_eq!(read(&headers, ProxyTrust::Believed).hints.fetch, Some(FetchKind::Missing));
        assert_eq!(read(&headers, ProxyTrust::Ignored).hints.fetch, None);
        assert_eq!(read(&[], ProxyTrust::Believed).hints.fetch, None);
        let navigates = [("X-Forwarded-Proto", "https"), ("Sec-Fetch-Mode", "navigate")];
        assert_eq!(read(&navigates, ProxyTrust::Believed).hints.fetch, Some(FetchKind::Navigate));
    }

    #[test]
    fn nonsense_is_no_hint() {
        for value in ["", "\"", "\"\"", "Brave", ";v=", "\"Brave", "\u{ff}"] {
            let read = read(
                &[
                    ("sec-ch-ua", value),
                    ("sec-ch-ua-platform", value),
                    ("sec-ch-ua-mobile", value),
                    ("sec-fetch-mode", value),
                ],
                ProxyTrust::Ignored,
            );
            let brand = (value == "\"Brave").then_some(Brand::Brave);
            assert_eq!(read.hints, Hints { brand, ..Hints::default() }, "{value}");
        }
    }
}
