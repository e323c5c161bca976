//! The path and the query of a request: which address a visitor asks for, as people type,
//! copy and scan it, and whether it was scanned.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// The address that a visitor asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RequestedPath<'r> {
    /// The root, `/`.
    Root,
    /// A slug; a link may have it.
    Slug(Cow<'r, str>),
    /// A slug with a slash behind it. Some domains ignore the slash.
    SlashedSlug(Cow<'r, str>),
    /// An address that programs ask every host for, and no link can have.
    Reserved(ReservedPath),
    /// A path that no link can have.
    Other(&'r str),
}

/// An address that programs ask every host for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReservedPath {
    /// `/healthz`: a load balancer asks whether the redirector lives.
    Health,
    /// `/robots.txt` (RFC 9309).
    Robots,
    /// `/favicon.ico`, `/.well-known/…` (RFC 8615) and their like, which are not here.
    Absent,
}

/// Whether an address is that of a QR code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ScanMark {
    Scanned,
    NotScanned,
}

/// Reads a path, and whether it is the path of a QR code: `/q/sale`. QR codes are smaller
/// in capital letters, so `/Q/SALE` is one, too.
pub(super) fn read_path(path: &str) -> (RequestedPath<'_>, ScanMark) {
    let rest = path.strip_prefix('/').unwrap_or(path);
    if rest.is_empty() {
        return (RequestedPath::Root, ScanMark::NotScanned);
    }
    if let Some(reserved) = reserved(rest) {
        return (RequestedPath::Reserved(reserved), ScanMark::NotScanned);
    }
    let (slug, mark) = match rest.strip_prefix("q/").or_else(|| rest.strip_prefix("Q/")) {
        Some(slug) => (slug, ScanMark::Scanned),
        None => (rest, ScanMark::NotScanned),
    };
    let read = match slug.strip_suffix('/') {
        Some(slug) => decoded(slug).map(RequestedPath::SlashedSlug),
        None => decoded(slug).map(RequestedPath::Slug),
    };
    (read.unwrap_or(RequestedPath::Other(path)), mark)
}

fn reserved(rest: &str) -> Option<ReservedPath> {
    match rest {
        "healthz" => Some(ReservedPath::Health),
        "robots.txt" => Some(ReservedPath::Robots),
        "favicon.ico" | "apple-app-site-association" | ".well-known" => Some(ReservedPath::Absent),
        _ => rest.starts_with(".well-known/").then_some(ReservedPath::Absent),
    }
}

/// Decodes a slug. Some programs encode an address that is encoded already: no slug has
/// a `%`, so what still has one is decoded once more.
fn decoded(slug: &str) -> Option<Cow<'_, str>> {
    let mut text = percent_decode_str(slug).decode_utf8().ok()?;
    if text.contains('%')
        && let Ok(twice) = percent_decode_str(&text).decode_utf8()
    {
        text = Cow::Owned(twice.into_owned());
    }
    (!text.is_empty() && !text.contains('/')).then_some(text)
}

/// Removes `qr=1`, the mark of a QR code, from the query; any other `qr` is the
/// destination's.
pub(super) fn read_query(query: Option<&str>) -> (Option<Cow<'_, str>>, ScanMark) {
    let Some(query) = query else { return (None, ScanMark::NotScanned) };
    let is_mark = |pair: &str| pair.eq_ignore_ascii_case("qr=1");
    let (kept, mark) = if query.split('&').any(is_mark) {
        let kept: Vec<&str> = query.split('&').filter(|pair| !is_mark(pair)).collect();
        (Cow::Owned(kept.join("&")), ScanMark::Scanned)
    } else {
        (Cow::Borrowed(query), ScanMark::NotScanned)
    };
    ((!kept.is_empty()).then_some(kept), mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slug(path: &str) -> Option<(String, ScanMark)> {
        match read_path(path) {
            (RequestedPath::Slug(slug), mark) => Some((slug.into_owned(), mark)),
            _ => None,
        }
    }

    #[test]
    fn paths_lead_to_slugs() {
        use ScanMark::{NotScanned, Scanned};
        for (path, expected, mark) in [
            ("/sale", "sale", NotScanned),
            ("/q/sale", "sale", Scanned),
            ("/Q/SALE", "SALE", Scanned),
            ("/q", "q", NotScanned),
            ("/Q", "Q", NotScanned),
            ("/s%61le", "sale", NotScanned),
            ("/caf%C3%A9", "caf\u{e9}", NotScanned),
            ("/caf%25C3%25A9", "caf\u{e9}", NotScanned),
            ("/s%2561le", "sale", NotScanned),
            ("/%25ff", "%ff", NotScanned),
            ("/sale%252561", "sale%61", NotScanned),
            ("/sale%20", "sale ", NotScanned),
            ("/healthz2", "healthz2", NotScanned),
        ] {
            assert_eq!(slug(path), Some((expected.to_owned(), mark)), "{path}");
        }
        for path in ["/q/", "/a/b", "/%ff", "/a%2Fb", "/a%252Fb", "//", "/sale//", "/q/q/sale", "/sale%2F"] {
            assert_eq!(read_path(path).0, RequestedPath::Other(path), "{path}");
        }
        for (path, expected) in [("/sale/", "sale"), ("/q/sale/", "sale"), ("/q//", "")] {
            let slashed = match read_path(path).0 {
                RequestedPath::SlashedSlug(slug) => slug.into_owned(),
                _ => String::new(),
            };
            assert_eq!(slashed, expected, "{path}");
        }
        assert_eq!(read_path("/").0, RequestedPath::Root);
    }

    #[test]
    fn what_programs_ask_every_host_for_is_no_link() {
        for (path, expected) in [
            ("/healthz", ReservedPath::Health),
            ("/robots.txt", ReservedPath::Robots),
            ("/favicon.ico", ReservedPath::Absent),
            ("/.well-known/assetlinks.json", ReservedPath::Absent),
            ("/apple-app-site-association", ReservedPath::Absent),
        ] {
            assert_eq!(read_path(path).0, RequestedPath::Reserved(expected), "{path}");
        }
    }

    #[test]
    fn the_mark_of_a_qr_code_is_removed_and_nothing_else() {
        use ScanMark::{NotScanned, Scanned};
        for (query, expected, mark) in [
            (None, None, NotScanned),
            (Some(""), None, NotScanned),
            (Some("qr=1"), None, Scanned),
            (Some("QR=1"), None, Scanned),
            (Some("qr"), Some("qr"), NotScanned),
            (Some("qr=0"), Some("qr=0"), NotScanned),
            (Some("qr=table-12"), Some("qr=table-12"), NotScanned),
            (Some("qr=1&utm_source=a%20b"), Some("utm_source=a%20b"), Scanned),
            (Some("a=1&qr=1&a=2&qr=2"), Some("a=1&a=2&qr=2"), Scanned),
            (Some("&&a"), Some("&&a"), NotScanned),
            (Some("xqr=1"), Some("xqr=1"), NotScanned),
        ] {
            let (kept, read) = read_query(query);
            assert_eq!((kept.as_deref(), read), (expected, mark), "{query:?}");
        }
    }
}
