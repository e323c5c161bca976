//! The two programs that this crate runs as children.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A program that runs as a child of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// Apache Kafka.
    Kafka,
    /// ClickHouse.
    ClickHouse,
}

impl fmt::Display for Engine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Kafka => "kafka",
            Self::ClickHouse => "clickhouse",
        })
    }
}
