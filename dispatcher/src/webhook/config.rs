//! `[webhook]` in the configuration.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use service::ConfigError;

/// How webhooks are delivered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Whether endpoints may have private, loopback and other addresses that are
    /// not on the public internet.
    pub allow_private: bool,
    /// Whether endpoints may be reached without TLS.
    pub allow_http: bool,
    /// How many exchanges with one endpoint may be under way at once.
    pub max_in_flight: usize,
    /// How many deliveries may wait in one endpoint's lane, however slow it is; a
    /// quick one may have as many waiting as it works off in 5 s. What comes
    /// beyond goes to the delay topic.
    pub lane_queue: usize,
    /// How many deliveries may wait in all lanes together. Above it, every lane
    /// that is busy sends what comes to the delay topic.
    pub max_queued: usize,
    /// How many attempts a delivery has before it is given up.
    pub max_attempts: u32,
    /// How long after a failed attempt the next one follows.
    pub retry_delay_ms: u64,
    /// How long an idle connection is kept. Many servers close theirs after 5 s,
    /// and a request that crosses with that is lost: stay below.
    pub keep_alive_ms: u64,
    /// How long deliveries that are under way may take when told to stop.
    pub drain_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            allow_private: false,
            allow_http: false,
            max_in_flight: 32,
            lane_queue: 512,
            max_queued: 20_000,
            max_attempts: 6,
            retry_delay_ms: 60_000,
            keep_alive_ms: 4_000,
            drain_ms: 5_000,
        }
    }
}

impl Config {
    /// Checks what types cannot.
    ///
    /// # Errors
    /// Names the key, its value and what is allowed.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let within = |key: &str, value: u64, min: u64, max: u64| {
            let allowed = format!("must be from {min} to {max}");
            (min..=max).contains(&value).then_some(()).ok_or_else(|| ConfigError::value(key, value, allowed))
        };
        within("webhook.max_in_flight", self.max_in_flight as u64, 1, 1000)?;
        within("webhook.lane_queue", self.lane_queue as u64, 1, 100_000)?;
        within("webhook.max_queued", self.max_queued as u64, 1, 1_000_000)?;
        within("webhook.max_attempts", u64::from(self.max_attempts), 1, 100)?;
        within("webhook.retry_delay_ms", self.retry_delay_ms, 10, 86_400_000)?;
        within("webhook.keep_alive_ms", self.keep_alive_ms, 0, 3_600_000)?;
        within("webhook.drain_ms", self.drain_ms, 0, 600_000)
    }

    pub(super) const fn retry_delay(&self) -> Duration {
        Duration::from_millis(self.retry_delay_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_out_of_range_is_named_with_what_is_allowed() {
        assert!(Config::default().validate().is_ok());
        let error = Config { max_attempts: 0, ..Config::default() }.validate().unwrap_err().to_string();
        assert_eq!(error, "webhook.max_attempts = 0: must be from 1 to 100");
    }
}
