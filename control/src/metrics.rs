//! The metrics of the control plane.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};
use service::Metrics;

/// The labels of an answered request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct AnsweredLabels {
    /// The class of the status: `2xx`.
    pub(crate) status: &'static str,
}

/// The labels of a forwarded request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ForwardedLabels {
    /// The process that served the request: `leader` or `intake`.
    pub(crate) to: &'static str,
    /// The outcome: `answered` or `failed`.
    pub(crate) outcome: &'static str,
}

/// The labels of an event that the watch has told.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct FiredLabels {
    /// The name of the event.
    pub(crate) event: &'static str,
}

/// The control plane's metrics. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ControlMetrics {
    pub(crate) requests: Family<AnsweredLabels, Counter>,
    pub(crate) forwarded: Family<ForwardedLabels, Counter>,
    pub(crate) writes: Counter,
    pub(crate) commits: Counter,
    pub(crate) commit_seconds: Histogram,
    pub(crate) leading: Gauge,
    pub(crate) links: Gauge,
    pub(crate) links_exhausted: Counter,
    pub(crate) fired: Family<FiredLabels, Counter>,
    pub(crate) watch_round_seconds: Histogram,
    pub(crate) watch_waiting: Gauge,
    pub(crate) endpoints: Gauge,
    pub(crate) outdated_secrets: Gauge,
    pub(crate) answers_kept_seconds: Gauge,
    pub(crate) connections: Gauge,
}

impl ControlMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            requests: metrics.family_counter("clickhook_control_requests", "API requests answered, by class of status"),
            forwarded: metrics
                .family_counter("clickhook_control_forwarded", "API requests handed on to whoever serves them"),
            writes: metrics.counter("clickhook_control_writes", "Changes that were asked for"),
            commits: metrics.counter("clickhook_control_commits", "Groups of changes that were committed"),
            commit_seconds: metrics.histogram(
                "clickhook_control_commit_seconds",
                "How long committing a group of changes took",
                [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0],
            ),
            leading: metrics.gauge("clickhook_control_leading", "1 while this instance leads, 0 while it stands by"),
            links: metrics.gauge("clickhook_control_links", "Links that exist"),
            links_exhausted: metrics.counter(
                "clickhook_control_links_exhausted",
                "Links that were marked because they had all the clicks that they may have",
            ),
            fired: metrics.family_counter(
                "clickhook_control_fired",
                "Milestones, alerts, ends and deadlines that the watch has told, by their events",
            ),
            watch_round_seconds: metrics.histogram(
                "clickhook_control_watch_round_seconds",
                "How long a round of the watch over links and campaigns took",
                [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0],
            ),
            watch_waiting: metrics.gauge(
                "clickhook_control_watch_waiting",
                "1 while the watch waits for ClickHouse or Kafka, as the leader sees it",
            ),
            endpoints: metrics.gauge("clickhook_control_endpoints", "Endpoints that exist"),
            outdated_secrets: metrics.gauge(
                "clickhook_control_outdated_secrets",
                "Endpoints whose secrets are sealed under another installation key than the first, as the leader sees them",
            ),
            answers_kept_seconds: metrics.gauge(
                "clickhook_control_answers_kept_seconds",
                "How long calls with an Idempotency-Key are recognised, as the leader keeps their answers",
            ),
            connections: metrics.gauge("clickhook_control_connections", "Connections to the API that are open"),
        }
    }
}
