//! The addresses that are not on the public internet. The API refuses endpoints that lead
//! to them, and the dispatcher refuses to connect to them.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::LazyLock,
};

use ipnet::{IpNet, Ipv6Net};

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
#[must_use]
pub fn unwrap_ipv4(address: IpAddr) -> IpAddr {
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

/// Tells whether webhooks may be sent to a port: to 443, to those above 1023, and to 80
/// where plain HTTP is allowed. The ports below belong to services that are no webhook
/// receivers, and that a request could speak to.
#[must_use]
pub const fn is_receivers_port(port: u16, allow_http: bool) -> bool {
    port == 443 || port > 1023 || (port == 80 && allow_http)
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
}
