//! The lookup of TXT records, which prove domains, by the machine's own resolvers. Tests answer lookups themselves.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use hickory_resolver::{ResolverBuilder, TokioResolver, net::NetError, proto::rr::RData};
use tokio::time::timeout;

/// The longest time of a lookup.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// The TXT records of a name, of which there can be none.
type TxtRecords = Result<Vec<String>, DnsError>;

/// A running lookup.
type Lookup = Pin<Box<dyn Future<Output = TxtRecords> + Send>>;

/// The failure of a lookup, which leaves unknown whether there are records.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct DnsError(String);

/// A client of DNS. Cheap to clone.
#[derive(Clone)]
pub struct Dns {
    ask: Arc<dyn Fn(String) -> Lookup + Send + Sync>,
}

impl Dns {
    /// Looks up with the machine's resolvers, according to its configuration at that moment.
    #[must_use]
    pub fn of_machine() -> Self {
        Self::answered_by(system)
    }

    /// Looks up with `ask`, which gets a name that ends in a dot.
    pub fn answered_by<F: Future<Output = TxtRecords> + Send + 'static>(
        ask: impl Fn(String) -> F + Send + Sync + 'static,
    ) -> Self {
        Self { ask: Arc::new(move |name| Box::pin(ask(name))) }
    }

    /// Looks up the TXT records of a name.
    pub(crate) async fn texts(&self, name: &str) -> TxtRecords {
        // With the dot at its end, no search list is tried.
        let asked = timeout(LOOKUP_TIMEOUT, (self.ask)(format!("{name}.")));
        asked.await.unwrap_or_else(|_| Err(DnsError(format!("no answer in {} s", LOOKUP_TIMEOUT.as_secs()))))
    }
}

async fn system(name: String) -> TxtRecords {
    let failed = |error: NetError| DnsError(error.to_string());
    // The resolver is made for each lookup, since lookups are rare, must not be answered from a cache, and the machine's
    // configuration may have changed.
    let resolver = TokioResolver::builder_tokio().and_then(ResolverBuilder::build).map_err(failed)?;
    match resolver.txt_lookup(name).await {
        Ok(found) => Ok(found
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                RData::TXT(text) => Some(text.to_string()),
                _ => None,
            })
            .collect()),
        Err(error) if error.is_no_records_found() || error.is_nx_domain() => Ok(Vec::new()),
        Err(error) => Err(failed(error)),
    }
}
