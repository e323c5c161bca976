//! The metrics of the warehouse.

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

/// The label of a table.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct TableLabel {
    pub(super) table: &'static str,
}

/// The label of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct TopicLabel {
    pub(super) topic: &'static str,
}

/// The metrics of the warehouse.
#[derive(Clone)]
pub(super) struct WarehouseMetrics {
    pub(super) rows: Family<TableLabel, Counter>,
    pub(super) dead: Counter,
    pub(super) outages: Counter,
    pub(super) seconds: Histogram,
    pub(super) lag: Family<TopicLabel, Gauge>,
}

impl WarehouseMetrics {
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
