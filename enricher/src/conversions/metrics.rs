//! The metrics of the work on conversions.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};
use service::Metrics;

/// The metrics of the work on conversions.
pub(crate) struct ConversionMetrics {
    outcomes: Family<OutcomeLabels, Counter>,
    pub(super) repeats: Counter,
    pub(super) dead: Counter,
    pub(super) waiting: Gauge,
    pub(super) awaited: Gauge,
    pub(super) lookups: Counter,
    pub(super) lookup_clicks: Counter,
    pub(super) report_seconds: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

/// The outcome of a report, as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CountedOutcome {
    /// The report waits for its click.
    Waiting,
    /// The report was told without its click.
    Unattributed,
    /// The report was told with its click.
    Attributed,
    /// The click of a conversion that was told without it was found.
    Late,
}

impl ConversionMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            outcomes: metrics
                .family_counter("clickhook_enricher_conversions", "Reports of conversions, by their outcome"),
            repeats: metrics.counter("clickhook_enricher_conversions_repeats", "Repeated reports that were dropped"),
            dead: metrics.counter("clickhook_enricher_conversions_dead", "Reports that could not be used"),
            waiting: metrics.gauge("clickhook_enricher_conversions_waiting", "Reports that wait for their click"),
            awaited: metrics.gauge(
                "clickhook_enricher_conversions_awaited",
                "Conversions that were told without their click and are told again if it shows up",
            ),
            lookups: metrics.counter("clickhook_enricher_conversions_lookups", "Questions to ClickHouse for clicks"),
            lookup_clicks: metrics
                .counter("clickhook_enricher_conversions_lookup_clicks", "Clicks that ClickHouse was asked for"),
            report_seconds: metrics.histogram(
                "clickhook_enricher_conversions_report_seconds",
                "Time from the report of a conversion to its event, where its click is known at once",
                [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 5.0, 60.0, 600.0],
            ),
        }
    }

    pub(super) fn count(&self, outcome: CountedOutcome) {
        let outcome = match outcome {
            CountedOutcome::Waiting => "waiting",
            CountedOutcome::Unattributed => "unattributed",
            CountedOutcome::Attributed => "attributed",
            CountedOutcome::Late => "late",
        };
        self.outcomes.get_or_create(&OutcomeLabels { outcome }).inc();
    }
}
