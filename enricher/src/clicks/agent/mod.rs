//! The user agent: device, browser, operating system and app, and whether the visitor is
//! a person or a program. Each user agent is read once and kept in a bounded cache.

mod cache;
mod facts;
mod hinted;
mod signs;
mod tables;
mod verdict;
mod version;

use std::sync::Arc;

use aho_corasick::BuildError;
use schemas::BotReason;
use woothee::parser::Parser;

pub(crate) use self::{
    cache::AgentCache,
    hinted::{Agent, Contradiction},
};
use self::{signs::Tokens, verdict::WootheeVerdict};

/// The tables by which user agents are read, for all threads.
pub(crate) struct AgentReader {
    woothee: Parser,
    tokens: Tokens,
    /// The agent of visits without a user agent, which counts as a program's.
    missing: Arc<Agent>,
}

impl AgentReader {
    /// Builds the tables.
    ///
    /// # Errors
    /// When the tables are too large for an automaton, which every test would show.
    pub(crate) fn new() -> Result<Self, BuildError> {
        let missing = Agent {
            device: Some("crawler"),
            bot_reason: Some(BotReason::NoUserAgent.as_str().into()),
            ..Agent::default()
        };
        Ok(Self { woothee: Parser::new(), tokens: Tokens::new()?, missing: Arc::new(missing) })
    }

    /// Whether a user agent counts as a program's by its shape alone.
    pub(crate) fn is_program_by_shape(&self, text: &str) -> bool {
        let found = self.woothee.parse(text).unwrap_or_default();
        verdict::by_shape(text, &self.tokens.read(text), WootheeVerdict::new(&found)).is_some()
    }

    /// Reads a user agent that has text.
    pub(crate) fn read(&self, text: &str) -> Agent {
        let found = self.woothee.parse(text).unwrap_or_default();
        let signs = self.tokens.read(text);
        let bot_reason = verdict::judge(text, &signs, WootheeVerdict::new(&found)).map(|verdict| verdict.text());
        let facts = facts::read(text, &signs, &found);
        let device = if bot_reason.is_some() { Some("crawler") } else { facts.device };
        Agent {
            device,
            browser: facts.browser,
            browser_version: facts.browser_version,
            os: facts.os,
            os_version: facts.os_version,
            app: signs.app,
            platform: signs.platform,
            sends_fetch_headers: facts::sends_fetch_headers(text, &signs, &found),
            bot_reason,
        }
    }
}

#[cfg(test)]
mod tests;
