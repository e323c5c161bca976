//! `[warehouse]` in the configuration.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use service::ConfigError;

/// The settings of the warehouse's blocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The most rows of an insert, which holds those of all partitions of a process.
    pub max_rows: usize,
    /// The most bytes of an insert, roughly. While one is under way, the rows of the next
    /// are collected.
    pub max_bytes: usize,
    /// The longest time that a row waits for others before it is inserted.
    pub max_wait_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_rows: 50_000, max_bytes: 32 << 20, max_wait_ms: 1000 }
    }
}

impl Config {
    /// Checks every value.
    ///
    /// # Errors
    /// Names the first key whose value is not allowed.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if !(1..=1_000_000).contains(&self.max_rows) {
            return Err(ConfigError::value("warehouse.max_rows", self.max_rows, "1 to 1000000"));
        }
        if !(1 << 16..=1 << 30).contains(&self.max_bytes) {
            return Err(ConfigError::value("warehouse.max_bytes", self.max_bytes, "65536 to 1073741824"));
        }
        if !(10..=60_000).contains(&self.max_wait_ms) {
            return Err(ConfigError::value("warehouse.max_wait_ms", self.max_wait_ms, "10 to 60000"));
        }
        Ok(())
    }

    /// Reports whether blocks with so many rows and bytes should take no more records.
    pub(super) const fn is_full(&self, (rows, bytes): (usize, usize)) -> bool {
        rows >= self.max_rows || bytes >= self.max_bytes
    }

    pub(super) const fn max_wait(&self) -> Duration {
        Duration::from_millis(self.max_wait_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_allowed_is_named() {
        assert!(Config::default().validate().is_ok());
        let error = Config { max_rows: 0, ..Config::default() }.validate().unwrap_err().to_string();
        assert_eq!(error, "warehouse.max_rows = 0: 1 to 1000000");
    }
}
