//! The metrics of the intake of conversions.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};
use service::{Metrics, problem::Kind};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabel {
    source: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct IntakeRefusalLabel {
    reason: &'static str,
}

/// The intake's metrics. Cheap to clone.
#[derive(Clone)]
pub(crate) struct IntakeMetrics {
    pub(crate) reported: Counter,
    pub(crate) called_back: Counter,
    /// The refused lines of reports whose other lines were taken.
    pub(crate) lines_refused: Counter,
    pub(crate) ack_seconds: Histogram,
    pub(crate) connections: Gauge,
    pub(crate) keys: Gauge,
    refused: Family<IntakeRefusalLabel, Counter>,
}

impl IntakeMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let conversions = metrics.family_counter::<SourceLabel>(
            "clickhook_ingest_conversions",
            "Conversions that were answered with 202, by how they came in",
        );
        let conversions = |source| conversions.get_or_create_owned(&SourceLabel { source });
        let refused = metrics.family_counter::<IntakeRefusalLabel>(
            "clickhook_ingest_conversions_refused",
            "Reports of conversions that were not answered with 202, and lines left out of those that were, by why",
        );
        Self {
            reported: conversions("api"),
            called_back: conversions("postback"),
            lines_refused: refused.get_or_create_owned(&IntakeRefusalLabel { reason: "line" }),
            ack_seconds: metrics.histogram(
                "clickhook_ingest_conversion_ack_seconds",
                "From handing the conversions of a request to Kafka to their acknowledgement",
                [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0],
            ),
            connections: metrics
                .gauge("clickhook_ingest_intake_connections", "Connections to the intake of conversions that are open"),
            keys: metrics.gauge("clickhook_ingest_keys", "Keys that callers may have"),
            refused,
        }
    }

    /// Counts a report that is refused.
    pub(crate) fn refused(&self, kind: Kind) {
        let reason = match kind {
            Kind::Malformed => "malformed",
            Kind::Unauthorized => "unauthorized",
            Kind::Forbidden | Kind::Quota(_) => "forbidden",
            Kind::NotFound => "not_found",
            Kind::MethodNotAllowed => "method_not_allowed",
            Kind::TooLarge => "too_large",
            Kind::Invalid => "invalid",
            Kind::Limited { .. } => "limited",
            Kind::Conflict | Kind::Changed | Kind::Unavailable => "unavailable",
        };
        self.refused.get_or_create_owned(&IntakeRefusalLabel { reason }).inc();
    }
}
