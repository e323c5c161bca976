//! The networks that are known by name: their hosts and Android packages. A name is
//! found by a hash of the host and then of its parents.
//!
//! A network is known by its hosts alone. What is only named like one
//! (`google.acme.example`) is another site.

use std::sync::LazyLock;

use foldhash::{HashMap, HashMapExt};

use super::{
    medium::Medium,
    network_hosts::{COUNTRY_SITES, HOSTS, PACKAGES, SEARCH_PORTALS},
};

/// A network with a name of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Network {
    pub(super) name: &'static str,
    pub(super) medium: Medium,
}

/// The most labels of a host that are looked up: no listed host has more.
const MAX_LABELS: usize = 5;

struct Networks {
    /// Hosts that count without their subdomains.
    exact: HashMap<&'static str, Network>,
    /// Hosts that count with their subdomains.
    hosts: HashMap<&'static str, Network>,
    packages: HashMap<&'static str, Network>,
    names: HashMap<&'static str, Network>,
}

static NETWORKS: LazyLock<Networks> = LazyLock::new(Networks::new);

impl Networks {
    fn new() -> Self {
        let mut networks =
            Self { exact: HashMap::new(), hosts: HashMap::new(), packages: HashMap::new(), names: HashMap::new() };
        for (medium, listed) in HOSTS {
            for (name, hosts) in *listed {
                let network = Network { name, medium: *medium };
                networks.names.entry(name).or_insert(network);
                for host in hosts.split(' ') {
                    match host.strip_prefix('=') {
                        Some(host) => networks.exact.insert(host, network),
                        None => networks.hosts.insert(host, network),
                    };
                }
            }
        }
        for (name, medium, countries) in COUNTRY_SITES {
            let network = Network { name, medium: *medium };
            networks.names.entry(name).or_insert(network);
            for country in countries.split(' ') {
                networks.hosts.insert(leaked(&[name, country]), network);
            }
        }
        for (name, countries, parts) in SEARCH_PORTALS {
            let search = Network { name, medium: Medium::Search };
            let other = Network { name, medium: Medium::Unknown };
            networks.names.insert(name, search);
            for country in countries.split(' ') {
                let host = leaked(&[name, country]);
                networks.exact.insert(host, search);
                networks.hosts.insert(host, other);
                for part in parts.split(' ') {
                    networks.exact.insert(leaked(&[part, host]), search);
                }
            }
        }
        for (medium, listed) in PACKAGES {
            for (name, packages) in *listed {
                let network = Network { name, medium: *medium };
                networks.names.entry(name).or_insert(network);
                networks.packages.extend(packages.split(' ').map(|package| (package, network)));
            }
        }
        networks
    }
}

/// Returns the parts with dots between them. The table is made once and kept for the
/// life of the process.
fn leaked(parts: &[&str]) -> &'static str {
    Box::leak(parts.join(".").into_boxed_str())
}

/// Returns the network that `host` belongs to.
pub(super) fn by_host(host: &str) -> Option<Network> {
    let networks = &*NETWORKS;
    if let Some(network) = networks.exact.get(host) {
        return Some(*network);
    }
    let mut dots: [usize; MAX_LABELS] = [0; MAX_LABELS];
    let mut count = 0;
    for at in memchr::memrchr_iter(b'.', host.as_bytes()).take(MAX_LABELS) {
        dots[count] = at;
        count += 1;
    }
    // From the longest suffix to the shortest of two labels.
    if count < MAX_LABELS
        && let Some(network) = networks.hosts.get(host)
    {
        return Some(*network);
    }
    (1..count).rev().find_map(|at| networks.hosts.get(&host[dots[at] + 1..])).copied()
}

/// Returns the network that an Android app belongs to, by its package in lower case.
pub(super) fn by_package(package: &str) -> Option<Network> {
    NETWORKS.packages.get(package).copied().or_else(|| by_host(package))
}

/// Returns the network of that name in lower case.
pub(super) fn by_name(name: &str) -> Option<Network> {
    NETWORKS.names.get(name).copied()
}
