//! The metrics of webhook delivery.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};
use schemas::Outcome;
use service::Metrics;

/// The label of an attempt's outcome.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone)]
pub(super) struct WebhookMetrics {
    attempts: Family<OutcomeLabel, Counter>,
    /// Deliveries that found their lane full.
    pub spilled: Counter,
    /// Deliveries that were put off because this process or machine lacked something.
    pub postponed: Counter,
    /// Records and deliveries that were given up.
    pub dead: Counter,
    /// Attempts whose record was lost on its way to Kafka.
    pub unrecorded: Counter,
    /// Deliveries between the reading of their record and the end of their claim on it.
    pub outstanding: Gauge,
    /// The known endpoints.
    pub endpoints: Gauge,
    /// The duration of an exchange, in seconds.
    pub exchange: Histogram,
    /// The time from an event to its first delivery, in seconds.
    pub latency: Histogram,
}

/// Buckets from a millisecond to the longest timeout.
const EXCHANGE_S: [f64; 12] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 30.0];
/// Buckets that are closest around the promised latency: 40 ms at the median, 200 ms
/// at the worst.
const LATENCY_S: [f64; 13] = [0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.1, 0.2, 0.5, 1.0, 10.0, 60.0];

impl WebhookMetrics {
    pub(super) fn new(metrics: &Metrics) -> Self {
        Self {
            attempts: metrics.family_counter("clickhook_webhook_attempts", "Attempts by how they ended"),
            spilled: metrics.counter(
                "clickhook_webhook_spilled_deliveries",
                "Deliveries that found their lane full and wait on a delay topic",
            ),
            postponed: metrics.counter(
                "clickhook_webhook_postponed_deliveries",
                "Deliveries that were put off with their attempt unused, since sockets, name servers or memory were short",
            ),
            dead: metrics.counter("clickhook_webhook_dead_records", "Records and deliveries that were given up"),
            unrecorded: metrics
                .counter("clickhook_webhook_unrecorded_attempts", "Attempts whose record did not reach Kafka"),
            outstanding: metrics.gauge(
                "clickhook_webhook_outstanding_deliveries",
                "Deliveries between the reading of their record and its settling",
            ),
            endpoints: metrics.gauge("clickhook_webhook_known_endpoints", "Endpoints that are known"),
            exchange: metrics.histogram(
                "clickhook_webhook_exchange_seconds",
                "Time that an exchange with an endpoint takes",
                EXCHANGE_S,
            ),
            latency: metrics.histogram(
                "clickhook_webhook_latency_seconds",
                "Time from what happened to its first delivery",
                LATENCY_S,
            ),
        }
    }

    pub(super) fn count_attempt(&self, outcome: Outcome) {
        let outcome = match outcome {
            Outcome::Delivered => "delivered",
            Outcome::Retrying => "retrying",
            Outcome::Dead => "dead",
            Outcome::Skipped => "skipped",
        };
        self.attempts.get_or_create(&OutcomeLabel { outcome }).inc();
    }
}
