//! Loopback ports for the children, the same ones at each start if possible:
//! Kafka tells its clients its port, and they may remember it.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::data_dir::write_atomically;
use crate::secure_listeners::SecurePorts;

/// Below the range from which Linux takes ports for outgoing connections. In
/// it, a client that retries while its server restarts can be given the
/// server's own port, connect to itself and keep the server out.
const FIRST: u16 = 20_000;
const LAST: u16 = 31_999;

/// The ports of the last start; 0 where there was none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Ports {
    #[serde(flatten)]
    pub(crate) first_broker: BrokerPorts,
    /// The other brokers of a cluster.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) more_brokers: Vec<BrokerPorts>,
    pub(crate) clickhouse: u16,
}

/// The two ports of a Kafka node: for clients, and for the other controllers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct BrokerPorts {
    #[serde(rename = "kafka")]
    pub(crate) clients: u16,
    #[serde(rename = "kafka_controller")]
    pub(crate) controllers: u16,
    /// The ports of listeners with TLS, if there are any; others at each start.
    #[serde(skip)]
    pub(crate) secure: Option<SecurePorts>,
}

impl BrokerPorts {
    /// Chooses the ports of several nodes.
    pub(crate) fn choose(preferred: &[Self]) -> Result<Vec<Self>, Error> {
        let flat: Vec<u16> = preferred.iter().flat_map(|ports| [ports.clients, ports.controllers]).collect();
        let chosen = choose(&flat)?;
        Ok(chosen.chunks_exact(2).map(|pair| Self { clients: pair[0], controllers: pair[1], secure: None }).collect())
    }

    /// Adds ports for listeners with TLS to those of each node.
    pub(crate) fn with_secure(mut nodes: Vec<Self>) -> Result<Vec<Self>, Error> {
        let mut preferred: Vec<u16> = nodes.iter().flat_map(|ports| [ports.clients, ports.controllers]).collect();
        preferred.resize(preferred.len() * 2, 0);
        let chosen = choose(&preferred)?;
        let (_, added) = chosen.split_at(chosen.len() / 2);
        for (node, pair) in nodes.iter_mut().zip(added.chunks_exact(2)) {
            node.secure = Some(SecurePorts { certificates: pair[0], logins: pair[1] });
        }
        Ok(nodes)
    }

    fn are_free(self) -> bool {
        is_free(self.clients) && is_free(self.controllers)
    }
}

/// Ports that children of one kind listen on.
pub(crate) trait Listening {
    /// Whether somebody else listens on one of the ports.
    fn is_taken(&self) -> bool;
}

impl Listening for u16 {
    fn is_taken(&self) -> bool {
        !is_free(*self)
    }
}

impl Listening for Vec<BrokerPorts> {
    fn is_taken(&self) -> bool {
        !self.iter().all(|ports| ports.are_free())
    }
}

impl Ports {
    /// Reads the ports of the last start. A missing or broken file only means other
    /// ports.
    pub(crate) fn load(path: &Path) -> Self {
        std::fs::read(path).ok().and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default()
    }

    /// The brokers of the last start; none before the first.
    pub(crate) fn brokers(&self) -> Vec<BrokerPorts> {
        let first = Some(self.first_broker).filter(|first| *first != BrokerPorts::default());
        first.into_iter().chain(self.more_brokers.iter().copied()).collect()
    }

    pub(crate) fn save(&self, path: &Path) -> Result<(), Error> {
        let json = serde_json::json!(self).to_string();
        write_atomically(path, &json)
    }
}

/// Whether a server could listen there now.
pub(crate) fn is_free(port: u16) -> bool {
    port != 0 && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Free ports, all different: each preferred one if it is free, else another.
pub(crate) fn choose(preferred: &[u16]) -> Result<Vec<u16>, Error> {
    let mut chosen = Vec::with_capacity(preferred.len());
    for preferred in preferred.iter().copied() {
        let usable = |port: &u16| !chosen.contains(port) && is_free(*port);
        let span = u64::from(LAST - FIRST) + 1;
        let random = RandomState::new().build_hasher().finish() % span;
        // At a random place, so that two processes that look at once differ.
        let others =
            (0..span).filter_map(|step| u16::try_from((random + step) % span).ok()).map(|offset| FIRST + offset);
        let port = std::iter::once(preferred).chain(others).find(usable);
        chosen.push(port.ok_or(Error::NoPort { from: FIRST, to: LAST })?);
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preferred_ports_are_kept_where_they_are_free() {
        // Other processes look for ports, too: one that was free may not be any more.
        let held = (0..100).find_map(|_| {
            let chosen = choose(&[0, 0]).unwrap();
            let (free, taken) = (chosen[0], chosen[1]);
            assert_ne!(free, taken);
            TcpListener::bind((Ipv4Addr::LOCALHOST, taken)).ok().map(|holder| (free, taken, holder))
        });
        let (free, taken, _holder) = held.unwrap();
        let chosen = choose(&[free, taken]).unwrap();
        assert_eq!(chosen[0], free);
        assert_ne!(chosen[1], taken);
        assert!((FIRST..=LAST).contains(&chosen[1]));
    }

    #[test]
    fn the_ports_of_a_node_alone_are_read_as_they_always_were() {
        let ports: Ports =
            serde_json::from_str(r#"{"kafka":20001,"kafka_controller":20002,"clickhouse":20003}"#).unwrap();
        assert_eq!(ports.brokers(), [BrokerPorts { clients: 20001, controllers: 20002, secure: None }]);
        assert_eq!(ports.clickhouse, 20003);
        assert_eq!(Ports::default().brokers(), []);
    }
}
