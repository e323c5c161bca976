//! The visitor's address and the requested host, as proxies pass them on: `Forwarded`
//! (RFC 7239), `X-Forwarded-For` and `X-Forwarded-Host`. These headers are believed only
//! from the networks that the configuration names.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::http::{Headers, is_authority};

/// A visitor as the proxies describe it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestOrigin<'r> {
    pub(crate) ip: IpAddr,
    /// The requested host, where a trusted proxy names it.
    pub(crate) host: Option<&'r str>,
    /// The addresses of two headers that disagree: one of the headers is the proxy's.
    pub(crate) claims: Option<[IpAddr; 2]>,
}

/// Tells where a request came from. That is the peer, unless the peer is a trusted
/// proxy; then it is the right-most address in the headers that is no trusted proxy,
/// since the addresses left of it are the visitor's claims. Where both headers are there
/// and disagree, the proxy has passed one on as the visitor sent it, and neither is
/// believed; the request rate is then counted for both, since the visitor could avoid
/// the limit otherwise.
pub(crate) fn origin<'r>(headers: Headers<'r>, peer: IpAddr, trusted: &[IpNet]) -> RequestOrigin<'r> {
    let peer = peer.to_canonical();
    if !is_in(peer, trusted) {
        return RequestOrigin { ip: peer, host: None, claims: None };
    }
    let hops = headers.all("x-forwarded-for").rev().flat_map(|value| text(value).rsplit(',')).map(str::trim);
    let x_forwarded = farthest(hops, peer, trusted, |hop| hop);
    let elements: Vec<ForwardedElement<'r>> =
        headers.all("forwarded").flat_map(|value| ForwardedElements(text(value))).collect();
    let forwarded = farthest(elements.iter().rev(), peer, trusted, |element| element.client);
    let (ip, claims) = match (&x_forwarded, &forwarded) {
        (Some((a, _)), Some((b, _))) if a != b => (peer, Some([*a, *b])),
        (Some((ip, _)), _) | (None, Some((ip, _))) => (*ip, None),
        (None, None) => (peer, None),
    };
    let host = forwarded.filter(|_| claims.is_none()).and_then(|(_, element)| element?.host).or_else(|| {
        // The first proxy's. A visitor may name any host in `Host` as well.
        headers.get("x-forwarded-host").and_then(|value| text(value).split(',').next()).map(str::trim)
    });
    RequestOrigin { ip, host: host.filter(|host| !host.is_empty() && is_authority(host)), claims }
}

/// Whether the address is in one of the networks.
pub(crate) fn is_in(ip: IpAddr, networks: &[IpNet]) -> bool {
    networks.iter().any(|network| network.contains(&ip))
}

fn text(value: &[u8]) -> &str {
    str::from_utf8(value).unwrap_or_default()
}

/// Returns the first address from the right that is not trusted, and the hop that names
/// it; if all are trusted, the left-most. None without hops.
fn farthest<H: Copy>(
    hops: impl Iterator<Item = H>,
    peer: IpAddr,
    trusted: &[IpNet],
    client: impl for<'h> Fn(&'h H) -> &'h str,
) -> Option<(IpAddr, Option<H>)> {
    let mut found = None;
    for hop in hops {
        let Some(ip) = address(client(&hop)) else { return found.or(Some((peer, None))) };
        found = Some((ip, Some(hop)));
        if !is_in(ip, trusted) {
            break;
        }
    }
    found
}

/// Reads an address with or without a port and brackets.
fn address(hop: &str) -> Option<IpAddr> {
    let ip = hop
        .parse::<IpAddr>()
        .ok()
        .or_else(|| hop.parse::<SocketAddr>().ok().map(|address| address.ip()))
        .or_else(|| hop.strip_prefix('[')?.strip_suffix(']')?.parse().ok())?;
    Some(ip.to_canonical())
}

/// An element of `Forwarded`, which is one proxy's; empty where the proxy says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct ForwardedElement<'r> {
    client: &'r str,
    host: Option<&'r str>,
}

/// Reads the elements of a `Forwarded` header (RFC 7239 §4). Escapes in quoted texts
/// are not undone: no address and no host needs one.
struct ForwardedElements<'r>(&'r str);

impl<'r> Iterator for ForwardedElements<'r> {
    type Item = ForwardedElement<'r>;

    fn next(&mut self) -> Option<ForwardedElement<'r>> {
        if self.0.is_empty() {
            return None;
        }
        let mut element = ForwardedElement::default();
        loop {
            let (pair, end) = until_separator(self.0);
            let rest = self.0.get(pair.len() + 1..).unwrap_or_default();
            self.0 = rest;
            if let Some((name, value)) = pair.split_once('=') {
                let value = value.trim();
                let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
                match name.trim() {
                    name if name.eq_ignore_ascii_case("for") => element.client = value,
                    name if name.eq_ignore_ascii_case("host") => element.host = Some(value),
                    _ => {}
                }
            }
            if end != Some(b';') {
                return Some(element);
            }
        }
    }
}

/// Returns the text before the first `,` or `;` outside of quotes, and that separator.
fn until_separator(text: &str) -> (&str, Option<u8>) {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' | b';' if !quoted => return (&text[..at], Some(byte)),
            _ => {}
        }
    }
    (text, None)
}

#[cfg(test)]
mod tests {
    use httparse::Header;

    use super::*;

    fn networks() -> Vec<IpNet> {
        vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]
    }

    fn origin_of(peer: &str, headers: &[(&str, &str)]) -> (String, Option<String>) {
        let headers: Vec<Header<'_>> =
            headers.iter().map(|(name, value)| Header { name, value: value.as_bytes() }).collect();
        let origin = origin(Headers(&headers), peer.parse().unwrap(), &networks());
        (origin.ip.to_string(), origin.host.map(str::to_owned))
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        for (peer, forwarded, expected) in [
            ("203.0.113.9", &["198.51.100.1"][..], "203.0.113.9"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("::ffff:10.0.0.1", &["6.6.6.6, 198.51.100.1, 10.9.9.9"], "198.51.100.1"),
            ("10.0.0.1", &["6.6.6.6", "198.51.100.1,10.9.9.9"], "198.51.100.1"),
            ("10.0.0.1", &["6.6.6.6", "10.2.2.2"], "6.6.6.6"),
            ("fd00::1", &["[2001:db8::1]:4711"], "2001:db8::1"),
            ("10.0.0.1", &["198.51.100.1:80"], "198.51.100.1"),
            ("10.0.0.1", &["6.6.6.6, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["6.6.6.6, unknown, 10.3.3.3"], "10.3.3.3"),
            ("10.0.0.1", &["::ffff:198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &[""], "10.0.0.1"),
        ] {
            let headers: Vec<_> = forwarded.iter().map(|hops| ("x-forwarded-for", *hops)).collect();
            assert_eq!(origin_of(peer, &headers).0, expected, "{peer} {forwarded:?}");
        }
    }

    #[test]
    fn the_standards_header_says_the_same() {
        for (forwarded, ip, host) in [
            (&["for=198.51.100.1"][..], "198.51.100.1", None),
            (&["For=\"198.51.100.1:80\";Host=go.acme.co;proto=https"], "198.51.100.1", Some("go.acme.co")),
            (&["proto=http; for=\"[2001:db8::1]:4711\" ; by=10.0.0.2"], "2001:db8::1", None),
            (&["for=6.6.6.6, for=198.51.100.1;host=a.example, for=10.9.9.9;host=b"], "198.51.100.1", Some("a.example")),
            (&["for=6.6.6.6", "for=10.2.2.2;host=\"in,n;er\""], "6.6.6.6", None),
            (&["for=6.6.6.6, for=_hidden"], "10.0.0.1", None),
            (&["for=6.6.6.6, for=unknown, for=10.3.3.3"], "10.3.3.3", None),
            (&["for=\"6.6.6.6"], "10.0.0.1", None),
            (&["for=198.51.100.1;host=\"a b\""], "198.51.100.1", None),
            (&["", ",", ";", "=", "for", "for=;;,,"], "10.0.0.1", None),
        ] {
            let headers: Vec<_> = forwarded.iter().map(|value| ("forwarded", *value)).collect();
            assert_eq!(origin_of("10.0.0.1", &headers), (ip.to_owned(), host.map(str::to_owned)), "{forwarded:?}");
            assert_eq!(origin_of("203.0.113.9", &headers), ("203.0.113.9".to_owned(), None), "{forwarded:?}");
        }
    }

    #[test]
    fn where_both_headers_disagree_neither_is_believed() {
        for (x_forwarded, forwarded, expected) in [
            ("198.51.100.1", "for=198.51.100.1", "198.51.100.1"),
            ("198.51.100.1", "for=6.6.6.6", "10.0.0.1"),
            ("unknown", "for=6.6.6.6", "10.0.0.1"),
        ] {
            let headers = [("x-forwarded-for", x_forwarded), ("forwarded", forwarded)];
            assert_eq!(origin_of("10.0.0.1", &headers).0, expected, "{headers:?}");
        }
        let headers = [
            Header { name: "forwarded", value: b"for=6.6.6.6;host=other.example" },
            Header { name: "x-forwarded-for", value: b"198.51.100.1" },
            Header { name: "x-forwarded-host", value: b"go.acme.co" },
        ];
        let told = origin(Headers(&headers), "10.0.0.1".parse().unwrap(), &networks());
        assert_eq!(told.host, Some("go.acme.co"));
        assert_eq!(told.claims, Some(["198.51.100.1".parse().unwrap(), "6.6.6.6".parse().unwrap()]));
    }

    #[test]
    fn a_host_may_be_forwarded() {
        for (value, expected) in [
            ("go.acme.co", Some("go.acme.co")),
            ("go.acme.co:443, inner", Some("go.acme.co:443")),
            ("", None),
            ("a/b", None),
            ("u@a", None),
        ] {
            let headers = [("x-forwarded-host", value)];
            assert_eq!(origin_of("10.0.0.1", &headers).1.as_deref(), expected, "{value:?}");
            assert_eq!(origin_of("203.0.113.9", &headers).1, None, "{value:?}");
        }
    }
}
