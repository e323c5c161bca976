//! The table of links by itself, for benchmarks: no network, no Kafka.
//! Not part of the crate's API.

use schemas::Link;

use crate::{
    Config,
    table::domains::{CATCH_ALL, Domains},
    table::links::{Links, LinksWriter},
};

/// A table of links, as a redirector keeps it.
pub struct LinkTable(LinksWriter);

/// A core's handle on the table. Cheap to clone.
#[derive(Clone)]
pub struct LinkTableReader(Links);

impl Default for LinkTable {
    fn default() -> Self {
        Self(LinksWriter::new(Domains::default(), (&Config::default()).into()))
    }
}

impl LinkTable {
    /// Adds or replaces a link.
    ///
    /// # Errors
    /// When the link cannot be served.
    pub fn put(&mut self, link: &Link) -> Result<(), String> {
        self.0.put(link).map_err(|error| error.to_string())
    }

    /// Returns a handle for reading.
    #[must_use]
    pub fn reader(&self) -> LinkTableReader {
        LinkTableReader(self.0.links())
    }
}

impl LinkTableReader {
    /// Looks a link without a domain up, as a redirect does; returns the length of its location.
    #[must_use]
    pub fn location_bytes(&self, slug: &str) -> Option<usize> {
        self.0.view().find(CATCH_ALL, slug).map(|row| row.location().len())
    }
}
