//! What DNS says in TXT records: how a domain is proven. Asked of the machine's
//! own resolvers; tests answer for themselves, since DNS is not ours to run.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use hickory_resolver::{ResolverBuilder, TokioResolver, net::NetError, proto::rr::RData};
use tokio::time::timeout;

/// How long DNS may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The TXT records of a name; none where there are none.
type Texts = Result<Vec<String>, DnsError>;

/// A question that is under way.
type Asked = Pin<Box<dyn Future<Output = Texts> + Send>>;

/// DNS did not answer, so that nobody knows what there is.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct DnsError(String);

/// Asks DNS. Cheap to clone.
#[derive(Clone)]
pub struct Dns {
    ask: Arc<dyn Fn(String) -> Asked + Send + Sync>,
}

impl Dns {
    /// The machine's resolvers, as its configuration has them when they are asked.
    #[must_use]
    pub fn of_machine() -> Self {
        Self::answered_by(system)
    }

    /// Whatever `ask` answers for a name that ends in a dot.
    pub fn answered_by<F: Future<Output = Texts> + Send + 'static>(
        ask: impl Fn(String) -> F + Send + Sync + 'static,
    ) -> Self {
        Self { ask: Arc::new(move |name| Box::pin(ask(name))) }
    }

    /// The TXT records of a name.
    pub(crate) async fn texts(&self, name: &str) -> Texts {
        // With the dot at its end, no search list is tried.
        let asked = timeout(PATIENCE, (self.ask)(format!("{name}.")));
        asked.await.unwrap_or_else(|_| Err(DnsError(format!("no answer in {} s", PATIENCE.as_secs()))))
    }
}

async fn system(name: String) -> Texts {
    let failed = |error: NetError| DnsError(error.to_string());
    // Made anew each time: it is asked rarely, must not answer from a cache, and
    // the machine's configuration may have changed.
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
