//! Outgoing safety (docs/CONTRACTS.md §4): which addresses a webhook may be sent to.
//! The check happens when a connection is made (`exchange/dial.rs`), and on the very
//! address that is connected to. So a name that resolves to another address the second time
//! cannot get around it.

use std::net::IpAddr;

use ipnet::IpNet;
use service::public_address::{is_receivers_port, reserved, unwrap_ipv4};

use super::config::Config;

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

    /// Checks the scheme and the port of a target, before its name is resolved.
    pub(super) fn check_target(&self, tls: bool, port: u16) -> Result<(), RefusedTarget> {
        if !tls && !self.allow_http {
            return Err(RefusedTarget::Plain);
        }
        if is_receivers_port(port, self.allow_http) { Ok(()) } else { Err(RefusedTarget::Port { port }) }
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
