//! Loopback ports for the children, the same ones at each start if possible:
//! Kafka tells its clients its port, and they may remember it.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::data_dir::write_atomically;

/// Below the range from which Linux takes ports for outgoing connections. In
/// it, a client that retries while its server restarts can be given the
/// server's own port, connect to itself and keep the server out.
const FIRST: u16 = 20_000;
const LAST: u16 = 31_999;

/// The ports of the last start; 0 where there was none.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Ports {
    pub(crate) kafka: u16,
    pub(crate) kafka_controller: u16,
    pub(crate) clickhouse: u16,
}

impl Ports {
    /// Reads the remembered ports. A missing or broken file only means other ports.
    pub(crate) fn load(path: &Path) -> Self {
        std::fs::read(path).ok().and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default()
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
pub(crate) fn choose<const N: usize>(preferred: [u16; N]) -> Result<[u16; N], Error> {
    let mut chosen = [0; N];
    for (at, preferred) in preferred.into_iter().enumerate() {
        let taken = chosen;
        let usable = |port: &u16| !taken.contains(port) && is_free(*port);
        let span = u64::from(LAST - FIRST) + 1;
        let random = RandomState::new().build_hasher().finish() % span;
        // At a random place, so that two processes that look at once differ.
        let others =
            (0..span).filter_map(|step| u16::try_from((random + step) % span).ok()).map(|offset| FIRST + offset);
        chosen[at] =
            std::iter::once(preferred).chain(others).find(usable).ok_or(Error::NoPort { from: FIRST, to: LAST })?;
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
            let [free, taken] = choose([0, 0]).unwrap();
            assert_ne!(free, taken);
            TcpListener::bind((Ipv4Addr::LOCALHOST, taken)).ok().map(|holder| (free, taken, holder))
        });
        let (free, taken, _holder) = held.unwrap();
        let [first, second] = choose([free, taken]).unwrap();
        assert_eq!(first, free);
        assert_ne!(second, taken);
        assert!((FIRST..=LAST).contains(&second));
    }
}
