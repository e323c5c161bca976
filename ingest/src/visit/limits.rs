//! The limits of a visitor's request rate. Above the first limit, clicks are marked;
//! above the second, requests are refused. Visits to unknown slugs are recorded by
//! samples, so that nobody who tries out slugs floods Kafka; addresses that do so are
//! counted and logged. So are visits that are no clicks.

use std::{
    net::IpAddr,
    num::NonZeroU32,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use ipnet::IpNet;
use service::{
    buckets::{Buckets, Excess, Level},
    public_address::reserved,
};
use tracing::warn;

use crate::{config::Config, metrics::IngestMetrics, visit::forwarded::is_in};

/// The number of addresses that are told apart at a time, 512 KiB for each limit.
const ADDRESSES: usize = 1 << 16;
/// The shortest time between two log lines about addresses that try out slugs.
const LOG_EVERY: Duration = Duration::from_secs(60);
/// The shortest time between two log lines about proxies that are not believed.
const LOG_PROXIES_EVERY: Duration = Duration::from_secs(24 * 3600);
/// The bucket that all share whose requests are counted together.
const SHARED: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);

/// The bucket in which a request is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RateKey {
    /// That of the visitor's address.
    Visitor(IpAddr),
    /// One for all visitors whom their proxies do not name.
    Unattributed,
    /// That of an address which sends forwarding headers that are not believed. It may be
    /// a load balancer with all visitors behind it, so nobody is marked for its rate.
    UnknownProxy(IpAddr),
}

/// The request rate of an address, compared with the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VisitPace {
    Usual,
    /// Faster than a person clicks.
    Marked,
    /// Too fast. The address may ask again after `retry_after_s`.
    Refused {
        retry_after_s: u64,
    },
}

/// Whether a visit that is no click is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SampledVisit {
    Recorded,
    Skipped,
}

/// The limits of the process, which all cores share without locks.
pub(crate) struct VisitLimits {
    marked: Option<Buckets>,
    refused: Option<Buckets>,
    unknown: Option<Buckets>,
    orphans: Option<Buckets>,
    /// The visits to links that have expired, and previews.
    uncounted: Option<Buckets>,
    trusted: Vec<IpNet>,
    metrics: IngestMetrics,
    enumerations: LogPause,
    proxies: LogPause,
}

impl VisitLimits {
    pub(crate) fn new(config: &Config, metrics: IngestMetrics) -> Self {
        let buckets = |per_minute, addresses, excess| {
            NonZeroU32::new(per_minute).map(|rate| Buckets::new(rate, addresses, excess))
        };
        Self {
            marked: buckets(config.marked_per_min, ADDRESSES, Excess::Counted),
            refused: buckets(config.refused_per_min, ADDRESSES, Excess::Refused),
            unknown: buckets(config.unknown_per_min, ADDRESSES, Excess::Counted),
            orphans: buckets(config.orphans_per_min, 1, Excess::Refused),
            uncounted: buckets(config.orphans_per_min, 1, Excess::Refused),
            trusted: config.trusted_proxies.clone(),
            metrics,
            enumerations: LogPause::new(LOG_EVERY),
            proxies: LogPause::new(LOG_PROXIES_EVERY),
        }
    }

    /// Returns the address of the bucket. This machine and trusted proxies have none: they
    /// are health checks, benchmarks, and proxies that ask for themselves.
    fn bucket(&self, key: RateKey) -> Option<IpAddr> {
        match key {
            RateKey::Visitor(ip) | RateKey::UnknownProxy(ip) => {
                (!ip.is_loopback() && !is_in(ip, &self.trusted)).then_some(ip)
            }
            RateKey::Unattributed => Some(SHARED),
        }
    }

    /// Counts a request; returns the rate of its visitor.
    pub(crate) fn pace(&self, key: RateKey) -> VisitPace {
        if let RateKey::UnknownProxy(ip) = key {
            self.notice_proxy(ip);
        }
        if self.marked.is_none() && self.refused.is_none() {
            return VisitPace::Usual;
        }
        let Some(ip) = self.bucket(key) else { return VisitPace::Usual };
        let now = Instant::now();
        if let Some(refused) = &self.refused
            && refused.take(ip, now) != Level::Within
        {
            self.metrics.too_many.inc();
            return VisitPace::Refused { retry_after_s: refused.interval().as_millis().div_ceil(1000).max(1) as u64 };
        }
        let may_be_many = matches!(key, RateKey::UnknownProxy(_));
        match &self.marked {
            Some(marked) if !may_be_many && marked.take(ip, now) != Level::Within => {
                self.metrics.marked.inc();
                VisitPace::Marked
            }
            _ => VisitPace::Usual,
        }
    }

    /// Counts a visit to an unknown slug; says whether it is recorded.
    pub(crate) fn orphan(&self, key: RateKey) -> SampledVisit {
        self.metrics.orphans.inc();
        // Who tries out slugs takes nothing from the bucket of all visitors.
        if self.unknown_slug(key) == Level::Within && has_room(self.orphans.as_ref()) {
            self.metrics.orphans_recorded.inc();
            SampledVisit::Recorded
        } else {
            SampledVisit::Skipped
        }
    }

    /// Counts a request for an unknown slug.
    pub(crate) fn unknown_slug(&self, key: RateKey) -> Level {
        let Some((unknown, ip)) = self.unknown.as_ref().zip(self.bucket(key)) else { return Level::Within };
        let tries = unknown.take(ip, Instant::now());
        if tries == Level::Crossed {
            self.metrics.enumerations.inc();
            if self.enumerations.is_over() {
                let network = reduced(ip);
                warn!(%network, "an address tries out slugs: clickhook_ingest_enumerations counts such addresses");
            }
        }
        tries
    }

    /// Says whether a visit is recorded that is no click.
    pub(crate) fn uncounted(&self) -> SampledVisit {
        if has_room(self.uncounted.as_ref()) { SampledVisit::Recorded } else { SampledVisit::Skipped }
    }

    fn notice_proxy(&self, ip: IpAddr) {
        self.metrics.untrusted_forwarded.inc();
        if self.proxies.is_over() {
            let peer = if reserved(ip).is_some() { ip.to_string() } else { reduced(ip).to_string() };
            warn!(
                peer,
                "forwarding headers come from an address that is not believed: if it is your load balancer, add it to \
                 ingest.trusted_proxies, and name its header in ingest.client_address. Until then all visitors behind it \
                 count as one address"
            );
        }
    }
}

fn has_room(shared: Option<&Buckets>) -> bool {
    shared.is_some_and(|shared| shared.take(SHARED, Instant::now()) == Level::Within)
}

/// A pause between log lines of a kind.
struct LogPause {
    every: Duration,
    epoch: Instant,
    /// The time of the last line, in milliseconds since `epoch`; 0 for never.
    last: AtomicU64,
}

impl LogPause {
    fn new(every: Duration) -> Self {
        Self { every, epoch: Instant::now(), last: AtomicU64::new(0) }
    }

    /// Whether the pause is over; another one begins then.
    fn is_over(&self) -> bool {
        let since = self.epoch.elapsed().as_millis() as u64 + 1;
        let last = self.last.load(Ordering::Relaxed);
        let due = last == 0 || since - last.min(since) >= self.every.as_millis() as u64;
        due && self.last.compare_exchange(last, since, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// Reduces an address to the network that logs may name: its /24 or /48.
fn reduced(ip: IpAddr) -> IpNet {
    let bits = if ip.is_ipv4() { 24 } else { 48 };
    IpNet::new(ip, bits).map_or_else(|_| ip.into(), |network| network.trunc())
}

#[cfg(test)]
mod tests {
    use service::Metrics;

    use super::*;

    fn limits(config: &Config) -> VisitLimits {
        VisitLimits::new(config, IngestMetrics::new(&Metrics::default()))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn visitor(text: &str) -> RateKey {
        RateKey::Visitor(ip(text))
    }

    #[test]
    fn above_one_line_clicks_are_marked_and_above_another_refused() {
        let limits = limits(&Config { marked_per_min: 5, refused_per_min: 10, ..Config::default() });
        let paces: Vec<VisitPace> = (0..12).map(|_| limits.pace(visitor("192.0.2.1"))).collect();
        assert_eq!(paces[..5], [VisitPace::Usual; 5]);
        assert_eq!(paces[5..10], [VisitPace::Marked; 5]);
        assert_eq!(paces[10..], [VisitPace::Refused { retry_after_s: 6 }; 2]);
        assert_eq!(limits.pace(visitor("192.0.2.2")), VisitPace::Usual);
        assert_eq!((limits.metrics.marked.get(), limits.metrics.too_many.get()), (5, 2));
    }

    #[test]
    fn nobody_is_limited_where_no_line_is_drawn_and_proxies_never_are() {
        let off = limits(&Config { marked_per_min: 0, refused_per_min: 0, ..Config::default() });
        let proxies = vec!["10.0.0.0/8".parse().unwrap()];
        let on = limits(&Config { marked_per_min: 1, trusted_proxies: proxies, ..Config::default() });
        for _ in 0..100 {
            assert_eq!(off.pace(visitor("192.0.2.1")), VisitPace::Usual);
            for address in ["127.0.0.1", "::1", "10.1.2.3"] {
                assert_eq!(on.pace(visitor(address)), VisitPace::Usual);
            }
        }
    }

    #[test]
    fn visitors_whom_no_proxy_names_share_a_bucket() {
        let limits = limits(&Config { marked_per_min: 5, ..Config::default() });
        let paces: Vec<VisitPace> = (0..10).map(|_| limits.pace(RateKey::Unattributed)).collect();
        assert_eq!((&paces[..5], &paces[5..]), (&[VisitPace::Usual; 5][..], &[VisitPace::Marked; 5][..]));
    }

    #[test]
    fn a_balancer_that_is_not_trusted_is_noticed_and_its_visitors_are_not_marked() {
        let limits = limits(&Config { marked_per_min: 5, refused_per_min: 50, ..Config::default() });
        let balancer = RateKey::UnknownProxy(ip("192.0.2.1"));
        for _ in 0..50 {
            assert_eq!(limits.pace(balancer), VisitPace::Usual);
        }
        assert!(matches!(limits.pace(balancer), VisitPace::Refused { .. }), "it is refused where that is asked for");
        assert_eq!((limits.metrics.untrusted_forwarded.get(), limits.metrics.marked.get()), (51, 0));
        assert!(!limits.proxies.is_over(), "one warning a day");
    }

    #[test]
    fn visits_that_are_no_clicks_are_samples() {
        let limits = limits(&Config { orphans_per_min: 25, ..Config::default() });
        let recorded = (0..100).filter(|_| limits.uncounted() == SampledVisit::Recorded).count();
        assert_eq!(recorded, 25);
        assert_eq!(limits.orphan(visitor("192.0.2.1")), SampledVisit::Recorded, "each kind has its own");
    }

    #[test]
    fn who_tries_out_slugs_is_counted_once_and_writes_little() {
        let limits = limits(&Config { unknown_per_min: 10, orphans_per_min: 25, ..Config::default() });
        for _ in 0..1000 {
            limits.orphan(visitor("192.0.2.1"));
        }
        let metrics = &limits.metrics;
        assert_eq!((metrics.orphans.get(), metrics.orphans_recorded.get(), metrics.enumerations.get()), (1000, 10, 1));
        for n in 0..100_u8 {
            limits.orphan(RateKey::Visitor(IpAddr::from([198, 51, 100, n])));
        }
        assert_eq!((metrics.orphans_recorded.get(), metrics.enumerations.get()), (25, 1));
    }

    #[test]
    fn logs_have_no_full_address() {
        assert_eq!(reduced(ip("192.0.2.77")).to_string(), "192.0.2.0/24");
        assert_eq!(reduced(ip("2001:db8:1:2::77")).to_string(), "2001:db8:1::/48");
    }
}
