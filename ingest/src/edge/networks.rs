//! How many connections each network has, over all cores: one network cannot have all of
//! them.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use foldhash::fast::RandomState;
use ipnet::IpNet;
use parking_lot::Mutex;

use crate::{Config, visit::forwarded::is_in};

/// Returns the network of an address, by its first address: a /24 of IPv4 and a /48 of
/// IPv6, as much as one customer of a network has at most.
pub(crate) fn network_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() & !0xff).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 80 << 80).into(),
    }
}

/// The connections of each network.
pub(crate) struct NetworkConnections {
    open: Mutex<HashMap<IpAddr, usize, RandomState>>,
    /// The most connections of a network; 0 for no limit.
    max: usize,
    trusted: Vec<IpNet>,
}

/// The place of a connection among those of its network. Dropping it frees it.
pub(crate) struct NetworkPlace {
    network: Option<(Arc<NetworkConnections>, IpAddr)>,
}

/// Whether a network has more connections than it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NetworkLevel {
    Within,
    Above,
}

impl NetworkConnections {
    pub(crate) fn new(config: &Config) -> Self {
        let (max, trusted) = (config.max_connections_per_network, config.trusted_proxies.clone());
        Self { open: Mutex::default(), max, trusted }
    }

    /// Adds a connection; says whether its network has too many with it.
    pub(crate) fn add(self: &Arc<Self>, peer: IpAddr) -> (NetworkPlace, NetworkLevel) {
        let peer = peer.to_canonical();
        if self.max == 0 || is_in(peer, &self.trusted) {
            return (NetworkPlace { network: None }, NetworkLevel::Within);
        }
        let network = network_of(peer);
        let mut open = self.open.lock();
        let count = open.entry(network).or_default();
        *count += 1;
        let level = if *count > self.max { NetworkLevel::Above } else { NetworkLevel::Within };
        (NetworkPlace { network: Some((Arc::clone(self), network)) }, level)
    }
}

impl Drop for NetworkPlace {
    fn drop(&mut self) {
        let Some((connections, network)) = self.network.take() else { return };
        let mut open = connections.open.lock();
        if let Some(count) = open.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                open.remove(&network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_as_many_connections_as_it_may_and_a_proxy_any_number() {
        let trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()];
        let config = Config { trusted_proxies, max_connections_per_network: 2, ..Config::default() };
        let connections = Arc::new(NetworkConnections::new(&config));
        let add = |ip: &str| connections.add(ip.parse().unwrap());
        let (first, level) = add("192.0.2.1");
        assert_eq!(level, NetworkLevel::Within);
        let (_second, level) = add("::ffff:192.0.2.2");
        assert_eq!(level, NetworkLevel::Within);
        assert_eq!(add("192.0.2.3").1, NetworkLevel::Above);
        drop(first);
        assert_eq!(add("192.0.2.3").1, NetworkLevel::Within);
        assert_eq!(add("192.0.3.1").1, NetworkLevel::Within);
        let _six = [add("2001:db8:1:2::1"), add("2001:db8:1:3::1")];
        assert_eq!(add("2001:db8:1:4::1").1, NetworkLevel::Above);
        assert_eq!(add("2001:db8:2::1").1, NetworkLevel::Within);
        let proxies: Vec<_> = (0..9).map(|_| add("10.1.2.3")).collect();
        assert!(proxies.iter().all(|(_, level)| *level == NetworkLevel::Within));
    }
}
