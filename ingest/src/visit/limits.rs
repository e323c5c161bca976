//! The limits of a visitor's request rate. Above the first limit, clicks are marked;
//! above the second, requests are refused. Visits to unknown slugs are recorded by
//! samples, so that nobody who tries out slugs floods Kafka; addresses that do so are
//! counted and logged.

use std::{
    net::IpAddr,
    num::NonZeroU32,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use ipnet::IpNet;
use service::buckets::{Buckets, Excess, Level};
use tracing::warn;

use crate::{config::Config, metrics::IngestMetrics, visit::forwarded::is_in};

/// The number of addresses that are told apart at a time, 512 KiB for each limit.
const ADDRESSES: usize = 1 << 16;
/// The shortest time between two log lines about addresses that try out slugs.
const LOG_EVERY: Duration = Duration::from_secs(60);

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

/// Whether a visit to an unknown slug is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OrphanVisit {
    Recorded,
    Skipped,
}

/// The limits of the process, which all cores share without locks.
pub(crate) struct VisitLimits {
    marked: Option<Buckets>,
    refused: Option<Buckets>,
    unknown: Option<Buckets>,
    orphans: Option<Buckets>,
    trusted: Vec<IpNet>,
    metrics: IngestMetrics,
    epoch: Instant,
    /// The time of the last log line, in milliseconds since `epoch`; 0 for never.
    logged: AtomicU64,
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
            trusted: config.trusted_proxies.clone(),
            metrics,
            epoch: Instant::now(),
            logged: AtomicU64::new(0),
        }
    }

    /// Whether an address is a visitor's. This machine and trusted proxies are none: they
    /// are health checks, benchmarks, and proxies that do not name their client.
    fn is_visitor(&self, ip: IpAddr) -> bool {
        !ip.is_loopback() && !is_in(ip, &self.trusted)
    }

    /// Counts a request of a visitor's addresses; returns their rate.
    pub(crate) fn pace(&self, rate_limit_keys: &[IpAddr]) -> VisitPace {
        if self.marked.is_none() && self.refused.is_none() {
            return VisitPace::Usual;
        }
        let now = Instant::now();
        let mut pace = VisitPace::Usual;
        for ip in rate_limit_keys.iter().filter(|ip| self.is_visitor(**ip)) {
            if let Some(refused) = &self.refused
                && refused.take(*ip, now) != Level::Within
            {
                self.metrics.too_many.inc();
                return VisitPace::Refused {
                    retry_after_s: refused.interval().as_millis().div_ceil(1000).max(1) as u64,
                };
            }
            if self.marked.as_ref().is_some_and(|marked| marked.take(*ip, now) != Level::Within) {
                pace = VisitPace::Marked;
            }
        }
        if pace == VisitPace::Marked {
            self.metrics.marked.inc();
        }
        pace
    }

    /// Counts a visit to an unknown slug; says whether it is recorded.
    pub(crate) fn orphan(&self, rate_limit_keys: &[IpAddr]) -> OrphanVisit {
        self.metrics.orphans.inc();
        let now = Instant::now();
        let mut within = true;
        for ip in rate_limit_keys.iter().filter(|ip| self.is_visitor(**ip)) {
            let tries = self.unknown.as_ref().map_or(Level::Within, |unknown| unknown.take(*ip, now));
            within &= tries == Level::Within;
            if tries == Level::Crossed {
                self.metrics.enumerations.inc();
                self.log(*ip, now);
            }
        }
        // All visitors share one bucket, and who tries out slugs takes nothing from it.
        let shared = IpAddr::from([0; 4]);
        let room = || self.orphans.as_ref().is_some_and(|orphans| orphans.take(shared, now) == Level::Within);
        if within && room() {
            self.metrics.orphans_recorded.inc();
            OrphanVisit::Recorded
        } else {
            OrphanVisit::Skipped
        }
    }

    fn log(&self, ip: IpAddr, now: Instant) {
        let since = now.saturating_duration_since(self.epoch).as_millis() as u64 + 1;
        let last = self.logged.load(Ordering::Relaxed);
        let due = last == 0 || since - last.min(since) >= LOG_EVERY.as_millis() as u64;
        if due && self.logged.compare_exchange(last, since, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            let network = reduced(ip);
            warn!(%network, "an address tries out slugs: clickhook_ingest_enumerations counts such addresses");
        }
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

    #[test]
    fn above_one_line_clicks_are_marked_and_above_another_refused() {
        let limits = limits(&Config { marked_per_min: 5, refused_per_min: 10, ..Config::default() });
        let paces: Vec<VisitPace> = (0..12).map(|_| limits.pace(&[ip("192.0.2.1")])).collect();
        assert_eq!(paces[..5], [VisitPace::Usual; 5]);
        assert_eq!(paces[5..10], [VisitPace::Marked; 5]);
        assert_eq!(paces[10..], [VisitPace::Refused { retry_after_s: 6 }; 2]);
        assert_eq!(limits.pace(&[ip("192.0.2.2")]), VisitPace::Usual);
        assert_eq!((limits.metrics.marked.get(), limits.metrics.too_many.get()), (5, 2));
    }

    #[test]
    fn nobody_is_limited_where_no_line_is_drawn_and_proxies_never_are() {
        let off = limits(&Config { marked_per_min: 0, refused_per_min: 0, ..Config::default() });
        let proxies = vec!["10.0.0.0/8".parse().unwrap()];
        let on = limits(&Config { marked_per_min: 1, trusted_proxies: proxies, ..Config::default() });
        for _ in 0..100 {
            assert_eq!(off.pace(&[ip("192.0.2.1")]), VisitPace::Usual);
            for address in ["127.0.0.1", "::1", "10.1.2.3"] {
                assert_eq!(on.pace(&[ip(address)]), VisitPace::Usual);
            }
        }
    }

    #[test]
    fn a_made_up_address_beside_the_right_one_is_no_way_around() {
        let proxies = vec!["10.0.0.0/8".parse().unwrap()];
        let limits = limits(&Config { marked_per_min: 5, trusted_proxies: proxies, ..Config::default() });
        let paces: Vec<VisitPace> =
            (0..10).map(|n| limits.pace(&[ip("192.0.2.1"), IpAddr::from([10, 66, 66, n])])).collect();
        assert_eq!((&paces[..5], &paces[5..]), (&[VisitPace::Usual; 5][..], &[VisitPace::Marked; 5][..]));
        assert_eq!(limits.metrics.marked.get(), 5);
    }

    #[test]
    fn who_tries_out_slugs_is_counted_once_and_writes_little() {
        let limits = limits(&Config { unknown_per_min: 10, orphans_per_min: 25, ..Config::default() });
        for _ in 0..1000 {
            limits.orphan(&[ip("192.0.2.1")]);
        }
        let metrics = &limits.metrics;
        assert_eq!((metrics.orphans.get(), metrics.orphans_recorded.get(), metrics.enumerations.get()), (1000, 10, 1));
        for n in 0..100_u8 {
            limits.orphan(&[IpAddr::from([198, 51, 100, n])]);
        }
        assert_eq!((metrics.orphans_recorded.get(), metrics.enumerations.get()), (25, 1));
    }

    #[test]
    fn logs_have_no_full_address() {
        assert_eq!(reduced(ip("192.0.2.77")).to_string(), "192.0.2.0/24");
        assert_eq!(reduced(ip("2001:db8:1:2::77")).to_string(), "2001:db8:1::/48");
    }
}
