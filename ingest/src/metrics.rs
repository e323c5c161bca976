//! The metrics of the redirector.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};
use service::Metrics;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClassLabel {
    class: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabel {
    reason: &'static str,
}

/// The redirector's metrics. Cheap to clone.
#[derive(Clone)]
pub(crate) struct IngestMetrics {
    pub(crate) clicks: Counter,
    pub(crate) scans: Counter,
    pub(crate) heads: Counter,
    pub(crate) prefetches: Counter,
    pub(crate) prefetches_refused: Counter,
    pub(crate) expired: Counter,
    pub(crate) orphans: Counter,
    pub(crate) orphans_recorded: Counter,
    pub(crate) enumerations: Counter,
    pub(crate) marked: Counter,
    pub(crate) untrusted_forwarded: Counter,
    pub(crate) too_many: Counter,
    pub(crate) unrecorded: Counter,
    pub(crate) bundles: Counter,
    pub(crate) bundle_clicks: Histogram,
    pub(crate) ack_seconds: Histogram,
    pub(crate) late: Gauge,
    pub(crate) spooled_clicks: Counter,
    pub(crate) shed_clicks: Counter,
    pub(crate) refused_clicks: Counter,
    pub(crate) lost_clicks: Counter,
    pub(crate) memory_bytes: Gauge,
    pub(crate) replayed_bundles: Counter,
    pub(crate) spool_bundles: Gauge,
    pub(crate) spool_bytes: Gauge,
    pub(crate) spool_max_bytes: Gauge,
    pub(crate) spool_level_percent: Gauge,
    pub(crate) spool_full: Gauge,
    pub(crate) spool_refused_bundles: Gauge,
    pub(crate) set_aside_bundles: Counter,
    pub(crate) links: Gauge,
    pub(crate) links_from_snapshot: Gauge,
    pub(crate) links_snapshot: Gauge,
    pub(crate) links_refused: Counter,
    pub(crate) domains: Gauge,
    pub(crate) connections: Gauge,
    pub(crate) evicted_connections: Counter,
    pub(crate) refused_connections: Counter,
    refused: Family<RefusalLabel, Counter>,
}

impl IngestMetrics {
    /// Returns whether the disk has bundles that Kafka may take.
    pub(crate) fn spool_has_replays(&self) -> bool {
        self.spool_bundles.get() > self.spool_refused_bundles.get()
    }

    pub(crate) fn new(metrics: &Metrics) -> Self {
        let redirects = metrics.family_counter::<ClassLabel>(
            "clickhook_ingest_redirects",
            "Redirects that were answered, by what they count as",
        );
        let redirects = |class| redirects.get_or_create_owned(&ClassLabel { class });
        Self {
            clicks: redirects("click"),
            scans: redirects("qr"),
            heads: redirects("head"),
            prefetches: redirects("prefetch"),
            prefetches_refused: metrics.counter(
                "clickhook_ingest_prefetches_refused",
                "Prefetches answered with 503: the browser asks again when a person clicks",
            ),
            expired: metrics.counter("clickhook_ingest_expired", "Visits to links that have expired"),
            orphans: metrics.counter("clickhook_ingest_orphans", "Visits to addresses that no link has"),
            orphans_recorded: metrics.counter("clickhook_ingest_orphans_recorded", "Those that were written down"),
            enumerations: metrics.counter(
                "clickhook_ingest_enumerations",
                "How often an address began to ask for more unknown slugs a minute than `ingest.unknown_per_min`",
            ),
            marked: metrics.counter("clickhook_ingest_marked", "Visits from addresses above `ingest.marked_per_min`"),
            untrusted_forwarded: metrics.counter(
                "clickhook_ingest_untrusted_forwarded",
                "Requests with a forwarding header that is not believed, as behind a balancer that is missing in \
                 `ingest.trusted_proxies`",
            ),
            too_many: metrics.counter(
                "clickhook_ingest_too_many",
                "Requests refused with 429, from addresses above `ingest.refused_per_min`",
            ),
            unrecorded: metrics.counter(
                "clickhook_ingest_unrecorded",
                "Requests answered with 503 because Kafka did not acknowledge their click in time",
            ),
            bundles: metrics.counter("clickhook_ingest_bundles", "Bundles of clicks handed to Kafka"),
            bundle_clicks: metrics.histogram(
                "clickhook_ingest_bundle_clicks",
                "Clicks in a bundle",
                [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0],
            ),
            ack_seconds: metrics.histogram(
                "clickhook_ingest_ack_seconds",
                "From handing a bundle to Kafka to its acknowledgement",
                [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0],
            ),
            late: metrics
                .gauge("clickhook_ingest_kafka_late", "1 while Kafka acknowledges later than a redirect may wait"),
            spooled_clicks: metrics.counter("clickhook_ingest_spooled_clicks", "Clicks put on disk"),
            shed_clicks: metrics.counter(
                "clickhook_ingest_shed_clicks",
                "Clicks that neither Kafka nor the disk took while their visitors waited",
            ),
            refused_clicks: metrics.counter(
                "clickhook_ingest_refused_clicks",
                "Clicks answered with 503 because neither Kafka, nor the disk, nor memory took them",
            ),
            lost_clicks: metrics.counter(
                "clickhook_ingest_lost_clicks",
                "Clicks that were redirected although neither Kafka, nor the disk, nor memory took them",
            ),
            memory_bytes: metrics
                .gauge("clickhook_ingest_memory_bytes", "Bytes of clicks that neither Kafka nor the disk has yet"),
            replayed_bundles: metrics
                .counter("clickhook_ingest_replayed_bundles", "Bundles that only the disk had, and Kafka has now"),
            spool_bundles: metrics.gauge("clickhook_ingest_spool_bundles", "Bundles on disk"),
            spool_bytes: metrics.gauge("clickhook_ingest_spool_bytes", "Their bytes"),
            spool_max_bytes: metrics
                .gauge("clickhook_ingest_spool_max_bytes", "The bytes of bundles that the disk takes"),
            spool_level_percent: metrics.gauge(
                "clickhook_ingest_spool_level_percent",
                "The highest of 50, 80 and 100 percent of its size that the spool has reached; 0 below",
            ),
            spool_refused_bundles: metrics.gauge(
                "clickhook_ingest_spool_refused_bundles",
                "Bundles on disk that Kafka refuses for their size",
            ),
            set_aside_bundles: metrics.counter(
                "clickhook_ingest_set_aside_bundles",
                "Bundles of the spool that could not be decoded and are in files of their own",
            ),
            spool_full: metrics.gauge("clickhook_ingest_spool_full", "1 while the disk takes no clicks"),
            links: metrics.gauge("clickhook_ingest_links", "Links that can be looked up"),
            links_from_snapshot: metrics.gauge(
                "clickhook_ingest_links_from_snapshot",
                "1 while links are known from the snapshot alone, for Kafka has not been read to its end since the start",
            ),
            links_snapshot: metrics.gauge(
                "clickhook_ingest_links_snapshot",
                "1 once all links are in a snapshot on disk, so that the next start does without Kafka",
            ),
            links_refused: metrics
                .counter("clickhook_ingest_links_refused", "Records of links that could not be read or served"),
            domains: metrics.gauge("clickhook_ingest_domains", "Domains that are verified"),
            connections: metrics.gauge("clickhook_ingest_connections", "Connections that are open"),
            evicted_connections: metrics.counter(
                "clickhook_ingest_evicted_connections",
                "Idle connections that were closed to make room for others",
            ),
            refused_connections: metrics.counter(
                "clickhook_ingest_refused_connections",
                "Connections that were closed at once, from networks above `ingest.max_connections_per_network`",
            ),
            refused: metrics
                .family_counter("clickhook_ingest_refused", "Requests whose heads could not be taken, by why"),
        }
    }

    /// Counts a request whose head cannot be answered.
    pub(crate) fn refused(&self, reason: &'static str) {
        self.refused.get_or_create_owned(&RefusalLabel { reason }).inc();
    }
}
