//! The addresses of names. Each name is asked for once at a time, however many deliveries
//! wait for the answer, and nobody waits for another name: endpoints whose name servers do
//! not answer hold up themselves alone. Answers are kept as long as they say, failures for
//! a few seconds. `/etc/hosts` and `/etc/resolv.conf` are read again when they change.

use std::{
    collections::HashMap,
    net::IpAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use hickory_resolver::{
    ResolverBuilder, TokioResolver,
    config::{LookupIpStrategy, ResolverConfig},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
};
use parking_lot::Mutex;
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant as Deadline, timeout, timeout_at},
};

use super::fault::{ExchangeFault, is_exhaustion};
use crate::webhook::metrics::NameMetrics;

/// The names that are remembered at most.
const MAX_NAMES: usize = 10_000;
/// The names that are asked for at the same time at most.
const MAX_QUESTIONS: usize = 2_000;
/// The longest time of a question, whoever still waits for it.
const QUESTION: Duration = Duration::from_secs(10);
/// The time for which addresses are kept: at least, so that a burst asks once, and at most,
/// so that a mistake in a zone does not stay.
const KEPT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));
/// The time for which it is kept that a name has no addresses.
const NOTHING_KEPT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// The time for which a failed question is not repeated.
const FAILURE_KEPT: Duration = Duration::from_secs(3);
/// The least time between two looks at the files that configure names.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The addresses of a name, or why there are none.
type ResolvedAddresses = Result<Arc<[IpAddr]>, ExchangeFault>;

/// The resolver of names. Cheap to clone.
#[derive(Clone)]
pub(super) struct NameResolver {
    inner: Arc<NamesInner>,
}

struct NamesInner {
    resolver: Mutex<SystemResolver>,
    known: Mutex<HashMap<String, KnownName>>,
    questions: Semaphore,
    metrics: NameMetrics,
}

enum KnownName {
    /// The question is on its way.
    Asked(watch::Receiver<Option<ResolvedAddresses>>),
    /// The answer holds until then.
    Answered { addresses: ResolvedAddresses, until: Instant },
}

/// A resolver, and the state of the files that it was configured by.
struct SystemResolver {
    resolver: TokioResolver,
    /// The times of the last changes of the files; of a fixed configuration there are none.
    changed: Option<[Option<SystemTime>; 2]>,
    looked: Instant,
}

impl NameResolver {
    /// Resolves as this machine does: by its hosts file, and by its name servers.
    pub(super) fn of_machine(metrics: NameMetrics) -> Self {
        let resolver =
            SystemResolver { resolver: machine_resolver(), changed: Some(files_changed()), looked: Instant::now() };
        Self::new(resolver, metrics)
    }

    /// Resolves with the name servers of a fixed configuration.
    #[cfg(test)]
    pub(super) fn configured(config: ResolverConfig) -> Self {
        let resolver = build(TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()))
            .expect("nothing in the configuration can fail");
        Self::new(SystemResolver { resolver, changed: None, looked: Instant::now() }, NameMetrics::default())
    }

    fn new(resolver: SystemResolver, metrics: NameMetrics) -> Self {
        let (resolver, questions) = (Mutex::new(resolver), Semaphore::new(MAX_QUESTIONS));
        Self { inner: Arc::new(NamesInner { resolver, known: Mutex::default(), questions, metrics }) }
    }

    /// Returns the addresses of `name`, which is waited for until `deadline`.
    pub(super) async fn resolve(&self, name: &str, deadline: Deadline) -> ResolvedAddresses {
        if let Ok(address) = name.parse() {
            return Ok(Arc::new([address]));
        }
        self.inner.look_for_changes();
        let mut answer = match self.known_or_asked(name) {
            KnownName::Answered { addresses, .. } => return addresses,
            KnownName::Asked(answer) => answer,
        };
        let answered = timeout_at(deadline, answer.wait_for(Option::is_some)).await;
        match answered.map(|answered| answered.ok().and_then(|answer| (*answer).clone())) {
            Ok(Some(addresses)) => addresses,
            Ok(None) => Err(ExchangeFault::Ours(format!("the lookup of {name} was abandoned"))),
            Err(_) => Err(ExchangeFault::Endpoint(format!("no name server answered in time for {name}"))),
        }
    }

    /// Returns the answer that is known, or the question that is on its way: it is begun
    /// where there is none.
    fn known_or_asked(&self, name: &str) -> KnownName {
        let now = Instant::now();
        let mut known = self.inner.known.lock();
        match known.get(name) {
            Some(KnownName::Answered { addresses, until }) if *until > now => {
                self.inner.metrics.count_lookup("cache");
                return KnownName::Answered { addresses: addresses.clone(), until: *until };
            }
            // A question whose task has ended without an answer is asked again.
            Some(KnownName::Asked(answer)) if answer.has_changed().is_ok() => {
                self.inner.metrics.count_lookup("joined");
                return KnownName::Asked(answer.clone());
            }
            _ => self.inner.metrics.count_lookup("asked"),
        }
        if known.len() >= MAX_NAMES {
            known.retain(|_, name| match name {
                KnownName::Asked(_) => true,
                KnownName::Answered { until, .. } => *until > now,
            });
            if known.len() >= MAX_NAMES {
                known.retain(|_, name| matches!(name, KnownName::Asked(_)));
            }
        }
        let (tell, answer) = watch::channel(None);
        known.insert(name.to_owned(), KnownName::Asked(answer.clone()));
        drop(known);
        let inner = Arc::clone(&self.inner);
        let name = name.to_owned();
        tokio::spawn(async move {
            let (addresses, kept) = inner.ask(&name).await;
            inner.metrics.count_question(match &addresses {
                Ok(_) => "found",
                Err(ExchangeFault::Endpoint(_)) => "failed",
                Err(ExchangeFault::Ours(_)) => "not_asked",
            });
            let answered = KnownName::Answered { addresses: addresses.clone(), until: Instant::now() + kept };
            inner.known.lock().insert(name, answered);
            tell.send_replace(Some(addresses));
        });
        KnownName::Asked(answer)
    }
}

impl NamesInner {
    /// Asks for a name, and returns the answer with the time for which it holds.
    async fn ask(&self, name: &str) -> (ResolvedAddresses, Duration) {
        let Ok(_asking) = self.questions.try_acquire() else {
            let fault = ExchangeFault::Ours(format!("{MAX_QUESTIONS} lookups of names are on their way already"));
            return (Err(fault), Duration::ZERO);
        };
        let resolver = self.resolver.lock().resolver.clone();
        match timeout(QUESTION, resolver.lookup_ip(name)).await {
            Ok(Ok(found)) => {
                let addresses: Arc<[IpAddr]> = found.iter().collect();
                let kept = found.valid_until().saturating_duration_since(Instant::now());
                if addresses.is_empty() {
                    return (Err(no_address(name)), NOTHING_KEPT.0);
                }
                (Ok(addresses), kept.clamp(KEPT.0, KEPT.1))
            }
            Ok(Err(error)) => explain(name, &error),
            Err(_) => {
                (Err(ExchangeFault::Endpoint(format!("no name server answered in time for {name}"))), FAILURE_KEPT)
            }
        }
    }

    /// Reads the configuration again if it has changed since the last look.
    fn look_for_changes(&self) {
        let mut current = self.resolver.lock();
        let Some(changed) = current.changed else { return };
        if current.looked.elapsed() < LOOK_EVERY {
            return;
        }
        current.looked = Instant::now();
        let now = files_changed();
        if now != changed {
            current.changed = Some(now);
            current.resolver = machine_resolver();
            self.known.lock().retain(|_, name| matches!(name, KnownName::Asked(_)));
        }
    }
}

fn explain(name: &str, error: &NetError) -> (ResolvedAddresses, Duration) {
    let failed =
        |reason: String| Err(ExchangeFault::Endpoint(format!("the name {name} could not be resolved: {reason}")));
    match error {
        NetError::Dns(DnsError::NoRecordsFound(nothing)) => {
            let kept = nothing.negative_ttl.map_or(NOTHING_KEPT.0, |seconds| Duration::from_secs(seconds.into()));
            (Err(no_address(name)), kept.clamp(NOTHING_KEPT.0, NOTHING_KEPT.1))
        }
        NetError::Busy | NetError::NoConnections => {
            (Err(ExchangeFault::Ours(format!("no name server can be asked for {name}: {error}"))), Duration::ZERO)
        }
        NetError::Io(io) if is_exhaustion(io) => {
            (Err(ExchangeFault::Ours(format!("{name} was not looked up: {io}"))), Duration::ZERO)
        }
        NetError::Timeout => {
            (Err(ExchangeFault::Endpoint(format!("no name server answered in time for {name}"))), FAILURE_KEPT)
        }
        error => (failed(error.to_string()), FAILURE_KEPT),
    }
}

fn no_address(name: &str) -> ExchangeFault {
    ExchangeFault::Endpoint(format!("the name {name} has no address"))
}

fn machine_resolver() -> TokioResolver {
    let configured = TokioResolver::builder_tokio().and_then(build);
    configured.unwrap_or_else(|error| {
        tracing::warn!(%error, "name servers not configured: only names of the hosts file are resolved");
        let nobody = ResolverConfig::from_parts(None, Vec::new(), Vec::new());
        build(TokioResolver::builder_with_config(nobody, TokioRuntimeProvider::default()))
            .expect("a resolver without name servers has nothing that could fail")
    })
}

fn build(mut builder: ResolverBuilder<TokioRuntimeProvider>) -> Result<TokioResolver, NetError> {
    let options = builder.options_mut();
    options.ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
    // Answers are kept here, where failures are as well.
    options.cache_size = 0;
    options.timeout = options.timeout.min(Duration::from_secs(3));
    options.attempts = options.attempts.min(2);
    options.max_active_requests = MAX_QUESTIONS;
    builder.build()
}

/// Returns when the files that configure names changed last.
fn files_changed() -> [Option<SystemTime>; 2] {
    ["/etc/hosts", "/etc/resolv.conf"].map(|path| Path::new(path).metadata().and_then(|file| file.modified()).ok())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::{super::name_server::NameServer, *};

    const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));

    fn soon() -> Deadline {
        Deadline::now() + Duration::from_secs(20)
    }

    #[tokio::test]
    async fn a_name_is_asked_for_once_however_many_wait() {
        let server = NameServer::start(|question| Some(question.answer(&[ADDRESS]))).await;
        let names = server.names();
        let waiting: Vec<_> = (0..50)
            .map(|_| {
                let names = names.clone();
                tokio::spawn(async move { names.resolve("acme.example.", soon()).await })
            })
            .collect();
        for waiting in waiting {
            assert_eq!(*waiting.await.unwrap().unwrap(), [ADDRESS]);
        }
        // One question for each family.
        assert_eq!(server.questions(), 2);
        names.resolve("acme.example.", soon()).await.unwrap();
        assert_eq!(server.questions(), 2, "the answer is kept");
    }

    #[tokio::test]
    async fn a_name_that_is_not_answered_holds_up_no_other() {
        let server = NameServer::start(|question| {
            let silent = question.name().starts_with("silent");
            (!silent).then(|| question.answer(&[ADDRESS]))
        })
        .await;
        let names = server.names();
        let silent: Vec<_> = (0..200)
            .map(|n| {
                let names = names.clone();
                let name = format!("silent{n}.example.");
                tokio::spawn(async move { names.resolve(&name, Deadline::now() + Duration::from_millis(300)).await })
            })
            .collect();
        assert!(names.resolve("acme.example.", soon()).await.is_ok());
        for silent in silent {
            let fault = silent.await.unwrap().unwrap_err();
            assert!(
                matches!(&fault, ExchangeFault::Endpoint(reason) if reason.contains("no name server answered in time")),
                "{fault:?}"
            );
        }
    }

    #[tokio::test]
    async fn that_a_name_has_no_address_is_kept() {
        let server = NameServer::start(|question| Some(question.answer(&[]))).await;
        let names = server.names();
        for _ in 0..3 {
            let fault = names.resolve("nobody.example.", soon()).await.unwrap_err();
            assert_eq!(fault, ExchangeFault::Endpoint("the name nobody.example. has no address".to_owned()));
        }
        assert_eq!(server.questions(), 2);
    }

    #[tokio::test]
    async fn this_machine_knows_itself() {
        let names = NameResolver::of_machine(NameMetrics::default());
        let addresses = names.resolve("localhost", soon()).await.unwrap();
        assert!(addresses.contains(&Ipv4Addr::LOCALHOST.into()), "{addresses:?}");
        assert_eq!(*names.resolve("192.0.2.7", soon()).await.unwrap(), [IpAddr::from([192, 0, 2, 7])]);
        assert_eq!(*names.resolve("2001:db8::7", soon()).await.unwrap(), ["2001:db8::7".parse::<IpAddr>().unwrap()]);
    }

    #[tokio::test]
    async fn without_a_name_server_it_is_our_fault() {
        let nobody = ResolverConfig::from_parts(None, Vec::new(), Vec::new());
        let names = NameResolver::configured(nobody);
        let fault = names.resolve("acme.example.", soon()).await.unwrap_err();
        assert!(matches!(fault, ExchangeFault::Ours(_)), "{fault:?}");
    }
}
