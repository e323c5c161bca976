//! The agents that were read before. Real visitors share few user agents, and in-app
//! browsers and strangers send ever new ones: those must cost no more than being read, and
//! must not drive out the agents that come again.

use std::sync::Arc;

use super::{Agent, AgentReader};
use crate::clicks::recent::RecentCache;

/// The most agents of a generation: both together have 8,192.
const GENERATION: usize = 4096;
/// The longest user agent that is kept, in bytes. The longest of in-app browsers are
/// shorter.
const KEY_BYTES: usize = 512;

/// The agents that a thread has read before.
pub(crate) struct AgentCache(RecentCache<str, Agent>);

impl Default for AgentCache {
    fn default() -> Self {
        Self(RecentCache::new(GENERATION))
    }
}

impl AgentCache {
    /// Returns the facts of a visit's user agent.
    pub(crate) fn agent(&mut self, reader: &AgentReader, user_agent: Option<&str>) -> Arc<Agent> {
        match user_agent.map(str::trim) {
            None | Some("") => Arc::clone(&reader.missing),
            Some(text) => self.get(text, || reader.read(text)),
        }
    }

    /// Returns the agent of a user agent, which `read` reads where it is not known.
    fn get(&mut self, text: &str, read: impl FnOnce() -> Agent) -> Arc<Agent> {
        if let Some(agent) = self.0.get(text) {
            return agent;
        }
        let agent = Arc::new(read());
        if text.len() <= KEY_BYTES {
            self.0.put(text.into(), Arc::clone(&agent));
        }
        agent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_new_agents_is_bounded_and_costs_only_the_misses() {
        let mut cache = AgentCache::default();
        let (mut reads, mut common_reads) = (0, 0);
        for number in 0..100_000 {
            cache.get(&format!("agent {number}"), || {
                reads += 1;
                Agent::default()
            });
            cache.get("common", || {
                common_reads += 1;
                Agent::default()
            });
            assert!(cache.0.len() <= 2 * GENERATION);
        }
        assert_eq!((reads, common_reads), (100_000, 1));
    }

    #[test]
    fn a_very_long_agent_is_read_but_not_kept() {
        let mut cache = AgentCache::default();
        let long = "x".repeat(KEY_BYTES + 1);
        let mut reads = 0;
        for _ in 0..2 {
            cache.get(&long, || {
                reads += 1;
                Agent::default()
            });
        }
        assert_eq!((reads, cache.0.len()), (2, 0));
    }
}
