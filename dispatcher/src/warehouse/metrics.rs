//! What the warehouse counts.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
};
use service::Metrics;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfTable {
    pub(super) table: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfTopic {
    pub(super) topic: &'static str,
}

#[derive(Clone)]
pub(super) struct Counts {
    pub(super) rows: Family<OfTable, Counter>,
    pub(super) dead: Counter,
    pub(super) outages: Counter,
    pub(super) seconds: Histogram,
    pub(super) lag: Family<OfTopic, Gauge>,
}

impl Counts {
    pub(super) fn new(metrics: &Metrics) -> Self {
        Self {
            rows: metrics.family_counter("clickhook_warehouse_rows", "Rows inserted into ClickHouse"),
            dead: metrics.counter("clickhook_warehouse_dead", "Records that made no row and went to `dead`"),
            outages: metrics
                .counter("clickhook_warehouse_outages", "Times that ClickHouse or Kafka had to be waited for"),
            seconds: metrics.histogram(
                "clickhook_warehouse_insert_seconds",
                "How long a round of inserts took, one block a partition",
                exponential_buckets(0.002, 2.0, 14),
            ),
            lag: metrics.family_gauge("clickhook_warehouse_lag_records", "Records that are not yet in ClickHouse"),
        }
    }
}
