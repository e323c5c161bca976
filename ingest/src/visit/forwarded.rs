//! The visitor's address and the requested host, as proxies pass them on: in
//! `X-Forwarded-For` and `X-Forwarded-Host`, or in `Forwarded` (RFC 7239). The
//! configuration says which of the two is believed, and from which networks; the other
//! one may be the visitor's own.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::{
    Config,
    config::ClientAddress,
    http::{Headers, is_authority},
    visit::{
        hints::{ForwardingHeaders, ProxyTrust},
        limits::RateKey,
    },
};

/// The most bytes of an element of `Forwarded`.
const ELEMENT_BYTES: usize = 1 << 10;

/// A visitor as the proxies describe it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestOrigin<'r> {
    pub(crate) ip: IpAddr,
    /// The requested host, where a trusted proxy names it.
    pub(crate) host: Option<&'r str>,
    pub(crate) rate_key: RateKey,
}

impl<'r> RequestOrigin<'r> {
    /// Tells where a request came from. That is the peer, unless the peer is a trusted
    /// proxy; then it is the right-most address in the believed header that is no trusted
    /// proxy, since the addresses left of it are the visitor's claims.
    pub(crate) fn read(
        headers: Headers<'r>,
        peer: IpAddr,
        trust: ProxyTrust,
        forwarding: ForwardingHeaders,
        config: &Config,
    ) -> Self {
        let own = |rate_key| Self { ip: peer, host: None, rate_key };
        let trusted = config.trusted_proxies.as_slice();
        let (chain, host) = match (trust, config.client_address) {
            (_, ClientAddress::Peer) => return own(RateKey::Visitor(peer)),
            (ProxyTrust::Ignored, _) => {
                return own(match forwarding {
                    ForwardingHeaders::Absent => RateKey::Visitor(peer),
                    ForwardingHeaders::Present => RateKey::UnknownProxy(peer),
                });
            }
            (ProxyTrust::Believed, ClientAddress::XForwardedFor) => {
                let hops = headers.all("x-forwarded-for").rev().flat_map(|value| value.rsplit(|byte| *byte == b','));
                let hops = hops.map(<[u8]>::trim_ascii).filter(|hop| !hop.is_empty());
                let client = |hop| Hop { client: str::from_utf8(hop).ok().and_then(address), host: None };
                // The first proxy's. A visitor may name any host in `Host` as well.
                let host = headers.get("x-forwarded-host").and_then(|value| str::from_utf8(value).ok());
                (Chain::of(hops.map(client), trusted), host.and_then(|hosts| hosts.split(',').next()))
            }
            (ProxyTrust::Believed, ClientAddress::Forwarded) => {
                let chain = Chain::of(headers.all("forwarded").rev().flat_map(ForwardedElements), trusted);
                (chain, chain.farthest.and_then(|(_, host)| host))
            }
        };
        let host = host.map(str::trim).filter(|host| !host.is_empty() && is_authority(host));
        let (ip, rate_key) = match (chain.farthest, chain.end) {
            (farthest, ChainEnd::Unreadable) => (farthest.map_or(peer, |(ip, _)| ip), RateKey::Unattributed),
            (Some((ip, _)), ChainEnd::Reached) => (ip, RateKey::Visitor(ip)),
            // The proxy asks for itself, unless it names its client in the other header.
            (None, ChainEnd::Reached) if forwarding == ForwardingHeaders::Absent => (peer, RateKey::Visitor(peer)),
            (None, ChainEnd::Reached) => (peer, RateKey::UnknownProxy(peer)),
        };
        Self { ip, host, rate_key }
    }
}

/// Whether the address is in one of the networks.
pub(crate) fn is_in(ip: IpAddr, networks: &[IpNet]) -> bool {
    networks.iter().any(|network| network.contains(&ip))
}

/// One proxy's word on the request that it got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Hop<'r> {
    /// None where the proxy does not say it, or nobody can read it.
    client: Option<IpAddr>,
    host: Option<&'r str>,
}

/// The way of a request through proxies, from the right.
#[derive(Clone, Copy, Debug)]
struct Chain<'r> {
    /// The first address that is not trusted, with the host that its hop names; the
    /// left-most address if all are trusted.
    farthest: Option<(IpAddr, Option<&'r str>)>,
    end: ChainEnd,
}

/// The end of a chain of proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChainEnd {
    /// An address that is not trusted, or the end of the header.
    Reached,
    /// A hop that names no address.
    Unreadable,
}

impl<'r> Chain<'r> {
    fn of(hops: impl Iterator<Item = Hop<'r>>, trusted: &[IpNet]) -> Self {
        let mut chain = Self { farthest: None, end: ChainEnd::Reached };
        for hop in hops {
            let Some(ip) = hop.client else { return Self { end: ChainEnd::Unreadable, ..chain } };
            chain.farthest = Some((ip, hop.host));
            if !is_in(ip, trusted) {
                break;
            }
        }
        chain
    }
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

/// Reads the elements of a `Forwarded` header from its end, where the last proxy has
/// added its own. A quote that the visitor has left open swallows none of them: an element
/// is the shortest text behind a comma that is well-formed by itself.
struct ForwardedElements<'r>(&'r [u8]);

impl<'r> Iterator for ForwardedElements<'r> {
    type Item = Hop<'r>;

    fn next(&mut self) -> Option<Hop<'r>> {
        let comma = |text: &[u8]| memchr::memrchr(b',', text);
        // Empty elements are no elements (RFC 9110 §5.6.1.2).
        let mut text = self.0.trim_ascii_end();
        while let Some(rest) = text.strip_suffix(b",") {
            text = rest.trim_ascii_end();
        }
        if text.is_empty() {
            return None;
        }
        let mut before = comma(text);
        loop {
            let begin = before.map_or(0, |at| at + 1);
            if let Some(hop) = element(&text[begin..]) {
                self.0 = &text[..before.unwrap_or(0)];
                return Some(hop);
            }
            match before {
                Some(at) if text.len() - at <= ELEMENT_BYTES => before = comma(&text[..at]),
                // Nothing can be said of the rest.
                _ => {
                    self.0 = &[];
                    return Some(Hop::default());
                }
            }
        }
    }
}

/// Reads an element of `Forwarded` (RFC 7239 §4); none where it is not well-formed.
/// Escapes in quoted texts are not undone: no address and no host needs one.
fn element(text: &[u8]) -> Option<Hop<'_>> {
    let mut rest = str::from_utf8(text).ok()?.trim();
    let mut hop = Hop::default();
    while !rest.is_empty() {
        if let Some(next) = rest.strip_prefix(';') {
            rest = next.trim_start();
            continue;
        }
        let (name, value) = rest.split_once('=')?;
        let name = name.trim_end();
        let (value, after) = value_of(value.trim_start())?;
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return None;
        }
        if name.eq_ignore_ascii_case("for") {
            hop.client = address(value);
        } else if name.eq_ignore_ascii_case("host") {
            hop.host = Some(value);
        }
        rest = after;
    }
    Some(hop)
}

/// Splits off the value at the beginning of `text`, a word or a quoted text, which the
/// next pair or nothing follows.
fn value_of(text: &str) -> Option<(&str, &str)> {
    let (value, after) = match text.strip_prefix('"') {
        Some(quoted) => {
            let mut escaped = false;
            let end = quoted.bytes().position(|byte| {
                let ends = byte == b'"' && !escaped;
                escaped = byte == b'\\' && !escaped;
                ends
            })?;
            (&quoted[..end], quoted[end + 1..].trim_start())
        }
        None => {
            let (value, after) = text.split_at(text.find(';').unwrap_or(text.len()));
            let value = value.trim_end();
            let is_word = value.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\,".contains(&byte));
            (is_word.then_some(value)?, after)
        }
    };
    (after.is_empty() || after.starts_with(';')).then_some((value, after))
}

#[cfg(test)]
mod tests {
    use httparse::Header;

    use super::*;
    use crate::visit::hints::RequestHints;

    fn config(client_address: ClientAddress) -> Config {
        let trusted_proxies = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        Config { trusted_proxies, client_address, ..Config::default() }
    }

    fn read(config: &Config, peer: &str, headers: &[(&str, &[u8])]) -> (String, Option<String>, RateKey) {
        let headers: Vec<Header<'_>> = headers.iter().map(|(name, value)| Header { name, value }).collect();
        let peer: IpAddr = peer.parse().unwrap();
        let peer = peer.to_canonical();
        let is_proxy = is_in(peer, &config.trusted_proxies);
        let trust = if is_proxy { ProxyTrust::Believed } else { ProxyTrust::Ignored };
        let hints = RequestHints::read(Headers(&headers), trust);
        let origin = RequestOrigin::read(Headers(&headers), peer, trust, hints.forwarding, config);
        (origin.ip.to_string(), origin.host.map(str::to_owned), origin.rate_key)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        let config = config(ClientAddress::XForwardedFor);
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
            // Empty elements are no elements.
            ("10.0.0.1", &["198.51.100.1,"], "198.51.100.1"),
            ("10.0.0.1", &["198.51.100.1, "], "198.51.100.1"),
            ("10.0.0.1", &["198.51.100.1,,10.0.0.6"], "198.51.100.1"),
            ("10.0.0.1", &[",198.51.100.1\t, ,\t10.0.0.6 ,"], "198.51.100.1"),
            ("10.0.0.1", &["198.51.100.1", ", ,"], "198.51.100.1"),
        ] {
            let headers: Vec<_> = forwarded.iter().map(|hops| ("x-forwarded-for", hops.as_bytes())).collect();
            assert_eq!(read(&config, peer, &headers).0, expected, "{peer} {forwarded:?}");
        }
        // Bytes that are no text are the visitor's, and hide nothing that is right of them.
        let headers: [(&str, &[u8]); 1] = [("x-forwarded-for", b"\xff, 198.51.100.1")];
        assert_eq!(read(&config, "10.0.0.1", &headers).0, "198.51.100.1");
    }

    #[test]
    fn the_standards_header_says_the_same() {
        let config = config(ClientAddress::Forwarded);
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
            (&["for=198.51.100.1, ,for=10.0.0.6"], "198.51.100.1", None),
            (&["for=198.51.100.1,"], "198.51.100.1", None),
            // An open quote of the visitor's swallows no proxy's element.
            (&["for=6.6.6.6;host=go.other.co;by=\", for=198.51.100.1"], "198.51.100.1", None),
            (&["for=6.6.6.6;by=\", for=\"198.51.100.1:80\""], "198.51.100.1", None),
            (&["for=6.6.6.6;by=\"", "for=198.51.100.1;host=go.acme.co"], "198.51.100.1", Some("go.acme.co")),
            (&["for=x;by=\"\\\", for=198.51.100.1"], "198.51.100.1", None),
            (&["for=198.51.100.1;by=\"a,for=6.6.6.6\""], "198.51.100.1", None),
        ] {
            let headers: Vec<_> = forwarded.iter().map(|value| ("forwarded", value.as_bytes())).collect();
            let (seen, named, _) = read(&config, "10.0.0.1", &headers);
            assert_eq!((&*seen, named.as_deref()), (ip, host), "{forwarded:?}");
            let (seen, named, _) = read(&config, "203.0.113.9", &headers);
            assert_eq!((&*seen, named), ("203.0.113.9", None), "{forwarded:?}");
        }
    }

    #[test]
    fn one_header_is_believed_and_the_other_is_the_visitors() {
        let headers: [(&str, &[u8]); 3] = [
            ("forwarded", b"for=6.6.6.6;host=other.example"),
            ("x-forwarded-for", b"198.51.100.1"),
            ("x-forwarded-host", b"go.acme.co"),
        ];
        for (believed, ip, host) in [
            (ClientAddress::XForwardedFor, "198.51.100.1", Some("go.acme.co")),
            (ClientAddress::Forwarded, "6.6.6.6", Some("other.example")),
            (ClientAddress::Peer, "10.0.0.1", None),
        ] {
            let (seen, named, _) = read(&config(believed), "10.0.0.1", &headers);
            assert_eq!((&*seen, named.as_deref()), (ip, host), "{believed:?}");
        }
    }

    #[test]
    fn every_request_is_counted_for_whom_it_can_be() {
        let believes = |client_address| config(client_address);
        let x_forwarded = believes(ClientAddress::XForwardedFor);
        for (config, peer, header, expected) in [
            (&x_forwarded, "203.0.113.9", None, RateKey::Visitor(ip("203.0.113.9"))),
            (&x_forwarded, "203.0.113.9", Some(("forwarded", "for=6.6.6.6")), RateKey::UnknownProxy(ip("203.0.113.9"))),
            (&x_forwarded, "10.0.0.1", Some(("x-forwarded-for", "6.6.6.6")), RateKey::Visitor(ip("6.6.6.6"))),
            (&x_forwarded, "10.0.0.1", Some(("x-forwarded-for", "unknown")), RateKey::Unattributed),
            (&x_forwarded, "10.0.0.1", None, RateKey::Visitor(ip("10.0.0.1"))),
            (&x_forwarded, "10.0.0.1", Some(("forwarded", "for=6.6.6.6")), RateKey::UnknownProxy(ip("10.0.0.1"))),
            (
                &believes(ClientAddress::Peer),
                "203.0.113.9",
                Some(("forwarded", "for=6.6.6.6")),
                RateKey::Visitor(ip("203.0.113.9")),
            ),
        ] {
            let headers: Vec<(&str, &[u8])> = header.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
            assert_eq!(read(config, peer, &headers).2, expected, "{peer} {header:?}");
        }
    }

    #[test]
    fn a_host_may_be_forwarded() {
        let config = config(ClientAddress::XForwardedFor);
        for (value, expected) in [
            ("go.acme.co", Some("go.acme.co")),
            ("go.acme.co:443, inner", Some("go.acme.co:443")),
            ("", None),
            ("a/b", None),
            ("u@a", None),
        ] {
            let headers = [("x-forwarded-host", value.as_bytes())];
            assert_eq!(read(&config, "10.0.0.1", &headers).1.as_deref(), expected, "{value:?}");
            assert_eq!(read(&config, "203.0.113.9", &headers).1, None, "{value:?}");
        }
    }
}
