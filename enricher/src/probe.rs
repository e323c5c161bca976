//! The reading of user agents, for benches. No part of the enricher's interface.

use std::sync::Arc;

use crate::clicks::agent::{Agent, AgentCache, AgentReader};

/// A reader of user agents with its cache.
pub struct AgentProbe {
    reader: AgentReader,
    cache: AgentCache,
}

/// The facts of a user agent.
pub struct ReadAgent(Arc<Agent>);

/// The tables of user agents cannot be built.
#[derive(Debug, thiserror::Error)]
#[error("the tables of user agents: {0}")]
pub struct TablesError(String);

impl AgentProbe {
    /// Builds the tables.
    ///
    /// # Errors
    /// When the tables are too large for an automaton.
    pub fn new() -> Result<Self, TablesError> {
        let reader = AgentReader::new().map_err(|error| TablesError(error.to_string()))?;
        Ok(Self { reader, cache: AgentCache::default() })
    }

    /// Reads a user agent, or finds it in the cache.
    pub fn read(&mut self, text: &str) -> ReadAgent {
        ReadAgent(self.cache.agent(&self.reader, Some(text)))
    }

    /// Reads a user agent as if it were new.
    #[must_use]
    pub fn read_anew(&self, text: &str) -> ReadAgent {
        ReadAgent(Arc::new(self.reader.read(text)))
    }

    /// Whether the user agent is a program's by its shape, without any name.
    #[must_use]
    pub fn is_program_by_shape(&self, text: &str) -> bool {
        self.reader.is_program_by_shape(text)
    }
}

#[allow(missing_docs, reason = "each is the fact of that name in the event's body")]
impl ReadAgent {
    #[must_use]
    pub fn device(&self) -> Option<&str> {
        self.0.device
    }

    #[must_use]
    pub fn browser(&self) -> Option<&str> {
        self.0.browser.as_deref()
    }

    #[must_use]
    pub fn os(&self) -> Option<&str> {
        self.0.os.as_deref()
    }

    #[must_use]
    pub fn os_version(&self) -> Option<&str> {
        self.0.os_version.as_deref()
    }

    #[must_use]
    pub fn app(&self) -> Option<&str> {
        self.0.app
    }

    #[must_use]
    pub fn bot_reason(&self) -> Option<&str> {
        self.0.bot_reason.as_deref()
    }
}
