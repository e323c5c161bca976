//! Outgoing safety (docs/CONTRACTS.md §4): which addresses a webhook may be sent to.
//! The check happens when a connection is made (`exchange/dial.rs`), and on the very
//! address that is connected to. So a name that resolves to another address the second time
//! cannot get around it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::LazyLock,
};

use ipnet::{IpNet, Ipv6Net};

use super::config::Config;

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

/// The targets that an installation allows for its endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Policy {
    pub allow_private: bool,
    pub allow_http: bool,
    /// The networks that are allowed although they are not on the public internet.
    pub allow_nets: Vec<IpNet>,
    /// The networks that are refused although they are on the public internet.
    pub deny_nets: Vec<IpNet>,
}

/// The reason why no connection was made.
#[derive(Debug, thiserror::Error)]
pub(super) enum RefusedTarget {
    #[error(
        "{address} is {what}, and webhooks go to the public internet only (`endpoints.allow_private` or \
         `webhook.allow_nets` allows it)"
    )]
    Address { address: IpAddr, what: &'static str },
    #[error("{address} is in a network that `webhook.deny_nets` refuses")]
    Denied { address: IpAddr },
    #[error("its address does not begin with https:// (`endpoints.allow_http` allows it)")]
    Plain,
    #[error("its port {port} is not allowed: 443 and those above 1023 are")]
    Port { port: u16 },
    #[error("its name has no address")]
    NoAddress,
}

impl Policy {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            allow_private: config.allow_private,
            allow_http: config.allow_http,
            allow_nets: config.allow_nets.clone(),
            deny_nets: config.deny_nets.clone(),
        }
    }

    /// Checks an address, be it a literal or that of a name.
    fn check(&self, address: IpAddr) -> Result<(), RefusedTarget> {
        let meant = unwrap_ipv4(address);
        let is_in = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&address) || net.contains(&meant));
        if is_in(&self.deny_nets) {
            return Err(RefusedTarget::Denied { address });
        }
        match reserved(address) {
            Some(what) if !self.allow_private && !is_in(&self.allow_nets) => {
                Err(RefusedTarget::Address { address, what })
            }
            _ => Ok(()),
        }
    }

    /// Checks the scheme and the port of a target, before its name is resolved. Ports below
    /// 1024 belong to services that are no webhook receivers.
    pub(super) fn check_target(&self, tls: bool, port: u16) -> Result<(), RefusedTarget> {
        if !tls && !self.allow_http {
            return Err(RefusedTarget::Plain);
        }
        let is_allowed = port == 443 || port > 1023 || (port == 80 && self.allow_http);
        if is_allowed { Ok(()) } else { Err(RefusedTarget::Port { port }) }
    }

    /// Returns the addresses that may be connected to.
    pub(super) fn keep_allowed(&self, addresses: impl Iterator<Item = IpAddr>) -> Result<Vec<IpAddr>, RefusedTarget> {
        let mut refused = RefusedTarget::NoAddress;
        let mut kept = Vec::new();
        for address in addresses {
            match self.check(address) {
                Ok(()) => kept.push(address),
                Err(why) => refused = why,
            }
        }
        if kept.is_empty() { Err(refused) } else { Ok(kept) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn schemes_and_ports_are_checked() {
        let strict = Policy::default();
        let refused = |tls, port| strict.check_target(tls, port).err().map(|refused| refused.to_string());
        for port in [443, 8443, 1024, 65535] {
            assert_eq!(refused(true, port), None, "{port}");
        }
        for port in [0, 22, 25, 80, 110, 1023] {
            assert!(refused(true, port).is_some_and(|why| why.contains(&port.to_string())), "{port}");
        }
        assert!(refused(false, 8443).is_some_and(|why| why.contains("https://")));
        let open = Policy { allow_http: true, ..Policy::default() };
        assert!(open.check_target(false, 80).is_ok());
        assert!(open.check_target(false, 25).is_err());
    }

    #[test]
    fn networks_are_allowed_and_refused_by_name() {
        let nets = |list: &[&str]| list.iter().map(|net| net.parse().unwrap()).collect::<Vec<IpNet>>();
        let policy = Policy {
            allow_nets: nets(&["10.1.0.0/16"]),
            deny_nets: nets(&["10.1.2.0/24", "8.8.8.8/32"]),
            ..Policy::default()
        };
        let refused = |ip: &str| policy.check(ip.parse().unwrap()).err().map(|refused| refused.to_string());
        assert_eq!(refused("10.1.1.1"), None);
        assert_eq!(refused("::ffff:10.1.1.1"), None);
        assert!(refused("10.2.0.1").is_some_and(|why| why.contains("private")));
        for denied in ["10.1.2.3", "8.8.8.8", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"] {
            assert!(refused(denied).is_some_and(|why| why.contains("deny_nets")), "{denied}");
        }
        assert_eq!(refused("8.8.4.4"), None);
    }

    #[test]
    fn of_a_name_only_allowed_addresses_are_kept() {
        let strict = Policy::default();
        let addresses = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        let mixed = addresses(&["10.0.0.1", "1.1.1.1"]);
        assert_eq!(strict.keep_allowed(mixed.into_iter()).unwrap(), addresses(&["1.1.1.1"]));
        let inside = addresses(&["10.0.0.1"]);
        assert!(matches!(strict.keep_allowed(inside.into_iter()), Err(RefusedTarget::Address { .. })));
        assert!(matches!(strict.keep_allowed([].into_iter()), Err(RefusedTarget::NoAddress)));
    }
}
