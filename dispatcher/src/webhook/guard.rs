//! Outgoing safety (docs/CONTRACTS.md §4): which addresses a webhook may be sent to.
//! The check happens when a connection is made, and on the very address that is
//! connected to. So a name that resolves to another address the second time cannot
//! get around it.

use std::{
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::LazyLock,
    task::{Context, Poll},
    vec,
};

use http::Uri;
use hyper_util::{
    client::legacy::connect::{
        HttpConnector,
        dns::{GaiResolver, Name},
    },
    rt::TokioIo,
};
use ipnet::{IpNet, Ipv6Net};
use tokio::net::TcpStream;
use tower_service::Service;

/// The networks that are not on the public internet: those of the IANA registries of
/// special-purpose addresses, and those of the clouds.
const RESERVED: &[(&str, &str)] = &[
    ("0.0.0.0/8", "this network"),
    ("10.0.0.0/8", "private"),
    ("100.64.0.0/10", "shared by a carrier's customers"),
    ("127.0.0.0/8", "loopback"),
    ("168.63.129.16/32", "a cloud's metadata service"),
    ("169.254.0.0/16", "link-local, where clouds serve metadata"),
    ("172.16.0.0/12", "private"),
    ("192.0.0.0/24", "reserved for protocols"),
    ("192.0.2.0/24", "reserved for documentation"),
    ("192.88.99.0/24", "reserved"),
    ("192.168.0.0/16", "private"),
    ("198.18.0.0/15", "reserved for benchmarks"),
    ("198.51.100.0/24", "reserved for documentation"),
    ("203.0.113.0/24", "reserved for documentation"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved"),
    ("::/128", "unspecified"),
    ("::1/128", "loopback"),
    ("2001::/23", "reserved for protocols"),
    ("2001:db8::/32", "reserved for documentation"),
    ("2002::/16", "reserved"),
    ("3fff::/20", "reserved for documentation"),
    ("fc00::/7", "private"),
    ("fe80::/10", "link-local"),
    ("ff00::/8", "multicast"),
];

/// The IPv6 addresses that are routed publicly.
const GLOBAL_UNICAST: &str = "2000::/3";
/// The prefix of IPv6 addresses that stand for IPv4 addresses behind a translator
/// (RFC 6052).
const NAT64: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0);

static NETS: LazyLock<Vec<(IpNet, &str)>> =
    LazyLock::new(|| RESERVED.iter().filter_map(|(net, what)| Some((net.parse().ok()?, *what))).collect());
static GLOBAL: LazyLock<Option<Ipv6Net>> = LazyLock::new(|| GLOBAL_UNICAST.parse().ok());

/// Returns the kind of an address that is not on the public internet.
#[must_use]
pub fn reserved(address: IpAddr) -> Option<&'static str> {
    let address = unwrap_ipv4(address);
    if let Some((_, what)) = NETS.iter().find(|(net, _)| net.contains(&address)) {
        return Some(what);
    }
    match address {
        IpAddr::V6(address) if !GLOBAL.is_some_and(|global| global.contains(&address)) => Some("reserved"),
        _ => None,
    }
}

/// Returns the IPv4 address that an IPv6 address stands for, if it stands for one.
fn unwrap_ipv4(address: IpAddr) -> IpAddr {
    let IpAddr::V6(six) = address else { return address };
    if let Some(four) = six.to_ipv4_mapped() {
        return four.into();
    }
    let octets = six.octets();
    let nat64 = NAT64.octets();
    if octets[..12] == nat64[..12] {
        return Ipv4Addr::new(octets[12], octets[13], octets[14], octets[15]).into();
    }
    address
}

/// The addresses that an installation allows for its endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    pub allow_private: bool,
    pub allow_http: bool,
}

/// The reason why no connection was made.
#[derive(Debug, thiserror::Error)]
pub(super) enum RefusedAddress {
    #[error("{address} is {what}, and webhooks go to the public internet only (`endpoints.allow_private` allows it)")]
    Address { address: IpAddr, what: &'static str },
    #[error("its address does not begin with https:// (`endpoints.allow_http` allows it)")]
    Plain,
    #[error("its name has no address")]
    NoAddress,
}

impl Policy {
    fn check(self, address: IpAddr) -> Result<(), RefusedAddress> {
        match reserved(address) {
            Some(what) if !self.allow_private => Err(RefusedAddress::Address { address, what }),
            _ => Ok(()),
        }
    }

    /// Checks a URI before its host name is resolved.
    fn check_uri(self, uri: &Uri) -> Result<(), RefusedAddress> {
        if !self.allow_http && uri.scheme() != Some(&http::uri::Scheme::HTTPS) {
            return Err(RefusedAddress::Plain);
        }
        // A literal address is never resolved, so the resolver cannot check it.
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        host.parse().map_or(Ok(()), |address| self.check(address))
    }

    fn keep_allowed(self, addresses: impl Iterator<Item = SocketAddr>) -> Result<Vec<SocketAddr>, RefusedAddress> {
        let mut refused = RefusedAddress::NoAddress;
        let mut kept = Vec::new();
        for address in addresses {
            match self.check(address.ip()) {
                Ok(()) => kept.push(address),
                Err(why) => refused = why,
            }
        }
        if kept.is_empty() { Err(refused) } else { Ok(kept) }
    }
}

/// A resolver that returns only allowed addresses.
#[derive(Clone)]
pub(super) struct Resolver {
    inner: GaiResolver,
    policy: Policy,
}

impl Service<Name> for Resolver {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let resolving = self.inner.call(name);
        let policy = self.policy;
        Box::pin(async move {
            let kept = policy.keep_allowed(resolving.await?).map_err(io::Error::other)?;
            Ok(kept.into_iter())
        })
    }
}

/// A connector that connects only to allowed addresses.
#[derive(Clone)]
pub(super) struct Connector {
    inner: HttpConnector<Resolver>,
    policy: Policy,
}

impl Connector {
    pub(super) fn new(policy: Policy) -> Self {
        let mut inner = HttpConnector::new_with_resolver(Resolver { inner: GaiResolver::new(), policy });
        // TLS is added by the caller, so other schemes than http are expected.
        inner.enforce_http(false);
        inner.set_nodelay(true);
        Self { inner, policy }
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        if let Err(refused) = self.policy.check_uri(&uri) {
            return Box::pin(async { Err(refused.into()) });
        }
        let connecting = self.inner.call(uri);
        Box::pin(async { Ok(connecting.await?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRICT: Policy = Policy { allow_private: false, allow_http: false };

    #[test]
    fn every_net_of_the_table_is_one() {
        assert_eq!(NETS.len(), RESERVED.len());
        assert!(GLOBAL.is_some());
    }

    #[test]
    fn addresses_that_are_not_public_are_refused() {
        let refused = [
            "0.0.0.0",
            "0.1.2.3",
            "10.255.255.255",
            "100.64.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.255.255.254",
            "168.63.129.16",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.7",
            "203.0.113.7",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:10.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ];
        for address in refused {
            assert!(reserved(address.parse().unwrap()).is_some(), "{address}");
        }
    }

    #[test]
    fn public_addresses_are_not() {
        let public = [
            "1.1.1.1",
            "8.8.8.8",
            "11.0.0.1",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "223.255.255.255",
            "::ffff:1.1.1.1",
            "64:ff9b::8.8.8.8",
            "2606:4700::1111",
            "2a00:1450::1",
        ];
        for address in public {
            assert_eq!(reserved(address.parse().unwrap()), None, "{address}");
        }
    }

    #[test]
    fn a_literal_address_is_checked_too() {
        let check = |uri: &'static str| STRICT.check_uri(&Uri::from_static(uri)).map_err(|refused| refused.to_string());
        assert!(check("https://acme.com/hook").is_ok());
        assert!(check("http://acme.com/hook").unwrap_err().contains("https://"));
        assert!(check("https://127.0.0.1/").unwrap_err().contains("loopback"));
        assert!(check("https://[::ffff:10.0.0.1]:8443/").unwrap_err().contains("private"));
        let open = Policy { allow_private: true, allow_http: true };
        assert!(open.check_uri(&Uri::from_static("http://127.0.0.1:9000/")).is_ok());
    }

    #[test]
    fn of_a_name_only_allowed_addresses_are_kept() {
        let addresses = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let mixed = addresses(&["10.0.0.1:443", "1.1.1.1:443"]);
        assert_eq!(STRICT.keep_allowed(mixed.into_iter()).unwrap(), addresses(&["1.1.1.1:443"]));
        let inside = addresses(&["10.0.0.1:443"]);
        assert!(matches!(STRICT.keep_allowed(inside.into_iter()), Err(RefusedAddress::Address { .. })));
        assert!(matches!(STRICT.keep_allowed([].into_iter()), Err(RefusedAddress::NoAddress)));
    }
}
