//! `[webhook]` in the configuration.

use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use service::ConfigError;

use super::retry::RetryTiming;

/// The settings of webhook delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Exchanges with one endpoint that may be in flight at once.
    pub max_in_flight: usize,
    /// The memory of the deliveries that wait in all lanes together. A fair part of it is
    /// each endpoint's and each workspace's. Further deliveries to slow endpoints go to
    /// the delay topics; where endpoints are not slow, reading is paused.
    pub max_waiting_bytes: usize,
    /// The number that every delay before a retry is divided by. For tests: 1 keeps the
    /// promised schedule.
    pub retry_speedup: u32,
    /// The time for which an idle connection is kept. Many servers close idle
    /// connections after 5 s, and a request that is sent at that moment is lost: stay
    /// below.
    pub keep_alive_ms: u64,
    /// Exchanges with all endpoints together that may be in flight at once. Further ones
    /// wait, and are then put off without using an attempt.
    pub max_exchanges: usize,
    /// Connections to all endpoints together, those that are kept included.
    pub max_connections: usize,
    /// A file of certificates in PEM: authorities that are trusted besides the public ones.
    pub ca_file: Option<PathBuf>,
    /// The proxy through which all webhooks go, as in `http://proxy.internal:3128`.
    pub proxy: Option<ProxyAddress>,
    /// Networks that endpoints may be in although they are not on the public internet.
    pub allow_nets: Vec<IpNet>,
    /// Networks that endpoints may not be in, whatever else allows them.
    pub deny_nets: Vec<IpNet>,
    /// The time that deliveries in flight have to finish when the process stops.
    pub drain_ms: u64,
    /// The value of `endpoints.allow_private`, which the API has too: whether endpoints
    /// may have private, loopback and other addresses that are not on the public internet.
    #[serde(skip)]
    pub allow_private: bool,
    /// The value of `endpoints.allow_http`, which the API has too: whether endpoints may
    /// be reached without TLS.
    #[serde(skip)]
    pub allow_http: bool,
}

/// The address of an egress proxy: `http://`, a host and a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProxyAddress {
    host: String,
    port: u16,
}

impl TryFrom<String> for ProxyAddress {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let wrong = "must be http://, a host and a port, as in http://proxy.internal:3128";
        let url = url::Url::parse(&text).map_err(|_| wrong)?;
        let is_bare = url.scheme() == "http"
            && url.username().is_empty()
            && url.password().is_none()
            && url.path() == "/"
            && url.query().is_none();
        let Some((host, port)) = url.host_str().zip(url.port_or_known_default()).filter(|_| is_bare) else {
            return Err(wrong);
        };
        Ok(Self { host: host.trim_start_matches('[').trim_end_matches(']').to_owned(), port })
    }
}

impl From<ProxyAddress> for String {
    fn from(ProxyAddress { host, port }: ProxyAddress) -> Self {
        if host.contains(':') { format!("http://[{host}]:{port}") } else { format!("http://{host}:{port}") }
    }
}

impl ProxyAddress {
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) const fn port(&self) -> u16 {
        self.port
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            allow_private: false,
            allow_http: false,
            max_in_flight: 32,
            max_waiting_bytes: 64 << 20,
            retry_speedup: 1,
            keep_alive_ms: 4_000,
            max_exchanges: 10_000,
            max_connections: 4_000,
            ca_file: None,
            proxy: None,
            allow_nets: Vec::new(),
            deny_nets: Vec::new(),
            drain_ms: 5_000,
        }
    }
}

impl Config {
    /// Checks every value.
    ///
    /// # Errors
    /// Names the key, its value and what is allowed.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let within = |key: &str, value: u64, min: u64, max: u64| {
            let allowed = format!("must be from {min} to {max}");
            (min..=max).contains(&value).then_some(()).ok_or_else(|| ConfigError::value(key, value, allowed))
        };
        within("webhook.max_in_flight", self.max_in_flight as u64, 1, 1000)?;
        within("webhook.max_waiting_bytes", self.max_waiting_bytes as u64, 1 << 20, 1 << 36)?;
        within("webhook.retry_speedup", u64::from(self.retry_speedup), 1, 1_000_000)?;
        within("webhook.keep_alive_ms", self.keep_alive_ms, 0, 3_600_000)?;
        within("webhook.max_exchanges", self.max_exchanges as u64, 1, 1_000_000)?;
        within("webhook.max_connections", self.max_connections as u64, 1, 1_000_000)?;
        within("webhook.drain_ms", self.drain_ms, 0, 600_000)
    }

    pub(super) const fn retry_timing(&self) -> RetryTiming {
        RetryTiming { speedup: self.retry_speedup }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_a_host_and_a_port() {
        let parsed = |text: &str| ProxyAddress::try_from(text.to_owned()).map(String::from);
        assert_eq!(parsed("http://proxy.internal:3128").unwrap(), "http://proxy.internal:3128");
        assert_eq!(parsed("http://proxy.internal").unwrap(), "http://proxy.internal:80");
        assert_eq!(parsed("http://[::1]:3128/").unwrap(), "http://[::1]:3128");
        for wrong in
            ["proxy:3128", "https://proxy:3128", "http://me:hush@proxy:3128", "http://proxy/a", "socks5://proxy"]
        {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_value_out_of_range_is_named_with_what_is_allowed() {
        assert!(Config::default().validate().is_ok());
        let error = Config { retry_speedup: 0, ..Config::default() }.validate().unwrap_err().to_string();
        assert_eq!(error, "webhook.retry_speedup = 0: must be from 1 to 1000000");
    }
}
