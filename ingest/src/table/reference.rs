//! Addresses as RFC 3986 writes them, which is what a `Location` must be (RFC 9110
//! §10.2.2). Browsers and the API take more: `|`, `{`, `\` and others as they are, and a `%`
//! that encodes nothing. Clients that are no browsers refuse these.

use std::borrow::Cow;

/// Returns whether a byte stands for itself in a path, a query and a fragment: `pchar` of
/// RFC 3986 without `%`, and `/`.
const fn is_pchar(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\''
        | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@' | b'/')
}

/// The bytes that stand for themselves.
static PCHAR: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = is_pchar(byte as u8);
        byte += 1;
    }
    table
};

/// A part of an address, which allows a byte of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AddressPart {
    /// The user's name and password.
    User,
    Path,
    /// A query or a fragment, in which `?` stands for itself.
    Query,
}

impl AddressPart {
    fn allows(self, byte: u8) -> bool {
        match byte {
            b'?' => self == Self::Query,
            b'@' | b'/' => self != Self::User,
            _ => PCHAR[usize::from(byte)],
        }
    }

    /// Returns the length of the beginning of `text` that needs no encoding.
    fn clean_len(self, text: &[u8]) -> usize {
        let mut at = 0;
        while let Some(&byte) = text.get(at) {
            if self.allows(byte) {
                at += 1;
            } else if byte == b'%' && is_escape(&text[at..]) {
                at += 3;
            } else {
                break;
            }
        }
        at
    }

    /// Appends `text` to `out`, with everything percent-encoded that does not stand for
    /// itself. Escapes stay as they are.
    pub(super) fn write(self, mut text: &[u8], out: &mut Vec<u8>) {
        const HEX: &[u8; 16] = b"0123456789ABCDEF";
        loop {
            let clean = self.clean_len(text);
            out.extend_from_slice(&text[..clean]);
            let Some(byte) = text.get(clean) else { return };
            out.extend_from_slice(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            text = &text[clean + 1..];
        }
    }
}

fn is_escape(text: &[u8]) -> bool {
    matches!(text, [b'%', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit())
}

/// Whether the part of an address behind its host is a reference as it is.
pub(super) fn is_reference(rest: &str) -> bool {
    let rest = rest.as_bytes();
    let (main, fragment) = rest.split_at(memchr::memchr(b'#', rest).unwrap_or(rest.len()));
    let (path, query) = main.split_at(memchr::memchr(b'?', main).unwrap_or(main.len()));
    // The signs themselves are left out.
    let is_clean = |part: AddressPart, text: &[u8]| part.clean_len(text) == text.len();
    is_clean(AddressPart::Path, path)
        && is_clean(AddressPart::Query, query)
        && is_clean(AddressPart::Query, fragment.get(1..).unwrap_or_default())
}

/// Returns an address, which a parser has taken, as a reference. Nothing that a browser
/// reads in it changes. In paths of http and https, `\` is `/`.
pub(super) fn reference(url: &str, scheme: SchemeKind) -> Cow<'_, str> {
    let (main, fragment) = split(url, '#');
    let (hierarchy, query) = split(main, '?');
    let hierarchy = match scheme {
        SchemeKind::Web if hierarchy.contains('\\') => Cow::Owned(hierarchy.replace('\\', "/")),
        _ => Cow::Borrowed(hierarchy),
    };
    let mut out = Vec::with_capacity(url.len() + 16);
    let (scheme, rest) = hierarchy.split_once(':').unwrap_or((&hierarchy, ""));
    out.extend_from_slice(scheme.as_bytes());
    out.push(b':');
    let path = match rest.strip_prefix("//") {
        Some(rest) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            out.extend_from_slice(b"//");
            write_authority(authority, &mut out);
            path
        }
        None => rest,
    };
    AddressPart::Path.write(path.as_bytes(), &mut out);
    for (sign, text) in [(b'?', query), (b'#', fragment)] {
        if let Some(text) = text {
            out.push(sign);
            AddressPart::Query.write(text.as_bytes(), &mut out);
        }
    }
    match String::from_utf8(out) {
        Ok(out) if out == url => Cow::Borrowed(url),
        Ok(out) => Cow::Owned(out),
        // Never: all of it is ASCII.
        Err(_) => Cow::Borrowed(url),
    }
}

/// The kind of a scheme, as the WHATWG's URL standard tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SchemeKind {
    /// http or https.
    Web,
    /// A scheme of an app.
    App,
}

fn split(text: &str, sign: char) -> (&str, Option<&str>) {
    text.split_once(sign).map_or((text, None), |(before, after)| (before, Some(after)))
}

fn write_authority(authority: &str, out: &mut Vec<u8>) {
    let host = match authority.rsplit_once('@') {
        Some((user, host)) => {
            AddressPart::User.write(user.as_bytes(), out);
            out.push(b'@');
            host
        }
        None => authority,
    };
    // The only brackets that a parser takes there are those of an IPv6 address.
    if host.starts_with('[') {
        out.extend_from_slice(host.as_bytes());
    } else {
        AddressPart::User.write(host.as_bytes(), out);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use url::Url;

    use super::*;

    #[test]
    fn what_no_reference_may_have_is_encoded() {
        for (url, expected) in [
            ("https://search.example/#details|org.acme|1.0|", "https://search.example/#details%7Corg.acme%7C1.0%7C"),
            ("https://app.example/n?c=CB__^COJ^&x=", "https://app.example/n?c=CB__%5ECOJ%5E&x="),
            ("https://offers.example/a?sub={subid}", "https://offers.example/a?sub=%7Bsubid%7D"),
            ("https://a.example/x?q=\"q\"<b>", "https://a.example/x?q=%22q%22%3Cb%3E"),
            ("https://a.example/100%?p=50%", "https://a.example/100%25?p=50%25"),
            ("https://a.example/%zz%4?p=%C3%A9", "https://a.example/%25zz%254?p=%C3%A9"),
            ("https://a.example/`a`?b=c`", "https://a.example/%60a%60?b=c%60"),
            ("https://a.example/a\\b?c\\d#e\\f", "https://a.example/a/b?c%5Cd#e%5Cf"),
            ("https://a.example/[a]?b[]=c[1]#d[e]", "https://a.example/%5Ba%5D?b%5B%5D=c%5B1%5D#d%5Be%5D"),
            ("https://a.example/?a#b#c", "https://a.example/?a#b%23c"),
            ("https://[2001:db8::1]:8080/a|b", "https://[2001:db8::1]:8080/a%7Cb"),
            ("https://u|s:p^w@a.example/", "https://u%7Cs:p%5Ew@a.example/"),
            ("myapp:a|b?c=[d]", "myapp:a%7Cb?c=%5Bd%5D"),
            ("myapp:a\\b", "myapp:a%5Cb"),
            ("intent://scan/#Intent;scheme=zxing;end", "intent://scan/#Intent;scheme=zxing;end"),
            ("https://a.example/a?b=c/d?e:f@g!$&'()*+,;=~#/?", "https://a.example/a?b=c/d?e:f@g!$&'()*+,;=~#/?"),
        ] {
            let kind = if url.starts_with("http") { SchemeKind::Web } else { SchemeKind::App };
            assert_eq!(reference(url, kind), expected);
            assert_eq!(reference(expected, kind), expected, "once is enough");
        }
    }

    proptest! {
        #[test]
        fn a_browser_reads_the_same(rest in "[/?#]?[!-~]{0,24}") {
            let url = format!("https://a.example{rest}");
            let Ok(before) = Url::parse(&url) else { return Ok(()) };
            let written = reference(&url, SchemeKind::Web);
            let is_allowed = |byte: u8| byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte);
            prop_assert!(written.bytes().all(is_allowed), "{}", written);
            let after = Url::parse(&written).unwrap();
            prop_assert_eq!(before.host_str(), after.host_str());
            let decoded = |text: &str| percent_encoding::percent_decode_str(text).collect::<Vec<u8>>();
            prop_assert_eq!(decoded(before.path()), decoded(after.path()));
            prop_assert_eq!(before.query().map(decoded), after.query().map(decoded));
            let behind_host = &written["https://a.example".len()..];
            prop_assert!(is_reference(behind_host) || !behind_host.starts_with(['/', '?', '#']), "{}", behind_host);
        }
    }
}
