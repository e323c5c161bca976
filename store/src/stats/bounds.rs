//! The bounds of each question: its time, memory and rows in ClickHouse. A question whose caller
//! has gone away ends.

use clickhouse::query::Query;

/// The settings of a question of the statistics.
const BOUNDS: [(&str, &str); 6] = [
    ("max_execution_time", "5"),
    ("max_memory_usage", "400000000"),
    ("max_rows_to_read", "500000000"),
    ("max_result_rows", "10000"),
    ("max_threads", "4"),
    ("cancel_http_readonly_queries_on_client_close", "1"),
];

/// Bounds a question.
pub(super) fn bounded(query: Query) -> Query {
    BOUNDS.iter().fold(query, |query, (name, value)| query.with_setting(*name, *value))
}
