//! How the redirector is set up: `[ingest]` in the configuration.

use std::{
    net::{Ipv4Addr, SocketAddr},
    num::{NonZero, NonZeroU32},
    path::PathBuf,
    thread,
    time::Duration,
};

use ipnet::IpNet;
use iso_currency::Currency;
use schemas::AppSchemes;
use serde::{Deserialize, Serialize};
use service::ConfigError;

use crate::money;

/// When a redirect is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// Once Kafka has acknowledged its click; 503 if it does not in time.
    Acked,
    /// Once Kafka has acknowledged its click, or it is on this machine's disk.
    #[default]
    Spooled,
    /// At once: clicks that are in memory alone are lost with the process.
    Async,
}

/// The answer to a click that neither Kafka, nor the disk, nor memory takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// 503 with `Retry-After`: every redirect is a recorded click.
    #[default]
    Refuse,
    /// The redirect; its click is lost, and counted as lost.
    Redirect,
}

/// The header that a visitor's address is read from, where a trusted proxy sends it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientAddress {
    /// `X-Forwarded-For`; the host is that of `X-Forwarded-Host`.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239), the host included.
    Forwarded,
    /// No header: the address of the connection.
    Peer,
}

/// The answer to a browser that asks ahead, before a person clicks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenPrefetched {
    /// 503: the browser asks again when the person clicks, and that is counted.
    #[default]
    Refuse,
    /// The redirect, without a click's id: a click that the browser answers from what it
    /// has fetched is not seen.
    Redirect,
}

/// The redirector's configuration. The defaults are what production starts from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where visitors come in.
    pub listen: SocketAddr,
    /// How many threads serve them, each with its own listener; 0 for one a core.
    pub threads: usize,
    /// Networks of proxies that are believed on whom a request is from, such as
    /// `10.0.0.0/8`.
    pub trusted_proxies: Vec<IpNet>,
    /// The header in which they say it: `x-forwarded-for`, `forwarded` or `peer`.
    pub client_address: ClientAddress,
    /// The answer to browsers that ask ahead: `refuse` or `redirect`.
    pub when_prefetched: WhenPrefetched,
    /// The name under which links with `append_click_id` add a click's id.
    pub click_id_param: String,
    /// Visits a minute above which an address's clicks are marked `rate_limited`; 0
    /// for never.
    pub marked_per_min: u32,
    /// Requests a minute above which an address is refused with 429; 0 for never.
    pub refused_per_min: u32,
    /// Unknown slugs a minute above which an address is said to try them out, and
    /// its visits to them are not recorded; 0 for never.
    pub unknown_per_min: u32,
    /// Visits to unknown slugs that are recorded a minute, and as many that are no clicks
    /// for another reason; 0 for none.
    pub orphans_per_min: u32,
    /// When a redirect is answered: `acked`, `spooled` or `async`.
    pub durability: Durability,
    /// `spooled`: how long a redirect waits for Kafka's acknowledgement before its
    /// click is put on disk.
    pub ack_budget_ms: u64,
    /// `acked`: how long a redirect waits for Kafka's acknowledgement before it is
    /// answered with 503.
    pub ack_timeout_ms: u64,
    /// Where the redirector keeps what must survive it; each process has its own.
    pub data_dir: PathBuf,
    /// How many bytes of clicks the spool takes. Beyond them redirects go on, and
    /// their clicks are in memory alone, up to 64 MiB.
    pub spool_max_bytes: u64,
    /// The answer to clicks that neither Kafka, nor the disk, nor memory takes:
    /// `refuse` or `redirect`.
    pub when_full: WhenFull,
    /// Connections that are served at once. For one more, the connection is closed that
    /// waits longest for its next request. At least one a thread.
    pub max_connections: usize,
    /// Connections of one network (a /24, of IPv6 a /48) that are served at once, trusted
    /// proxies aside; 0 for no limit.
    pub max_connections_per_network: usize,
    /// How long a connection may take to send a request's head, from its first byte on.
    pub header_timeout_ms: u64,
    /// How long a connection may wait for a request to begin.
    pub keep_alive_ms: u64,
    /// Where conversions are reported.
    pub intake_listen: SocketAddr,
    /// Connections there that are served at once; more wait to be accepted.
    pub intake_max_connections: usize,
    /// How often a key may report conversions in a second.
    pub intake_rate_per_s: NonZeroU32,
    /// Requests a second of all keys and postback tokens of a workspace.
    pub intake_workspace_rate_per_s: NonZeroU32,
    /// How long Kafka's acknowledgement of conversions is waited for before they
    /// are answered with 503.
    pub intake_ack_timeout_ms: u64,
    /// The currency of a postback's payout that names none: ISO 4217, upper case.
    pub postback_currency: String,
    /// How long readiness is red before the listeners close, for a load balancer
    /// to notice.
    pub drain_delay_ms: u64,
    /// How long connections may take to finish once the listeners are closed.
    pub drain_timeout_ms: u64,
    /// How long the process then waits until Kafka has what is in the spool.
    pub drain_spool_ms: u64,
    /// `links.app_schemes`: the API's and the redirector's, so that no link is taken
    /// that is not served.
    #[serde(skip)]
    pub app_schemes: AppSchemes,
    /// The host of `links.short_url_base`: once there is any domain, links without one
    /// answer on this host, on this machine and on IP addresses alone.
    #[serde(skip)]
    pub own_host: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8080)),
            threads: 0,
            trusted_proxies: Vec::new(),
            client_address: ClientAddress::XForwardedFor,
            when_prefetched: WhenPrefetched::Refuse,
            click_id_param: "ch_click_id".to_owned(),
            marked_per_min: 600,
            refused_per_min: 0,
            unknown_per_min: 60,
            orphans_per_min: 600,
            durability: Durability::Spooled,
            ack_budget_ms: 25,
            ack_timeout_ms: 5_000,
            data_dir: PathBuf::from("./data/ingest"),
            spool_max_bytes: 2 << 30,
            when_full: WhenFull::Refuse,
            max_connections: 20_000,
            max_connections_per_network: 5_000,
            header_timeout_ms: 30_000,
            keep_alive_ms: 75_000,
            intake_listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8082)),
            intake_max_connections: 1_000,
            // Not zero, as written.
            intake_rate_per_s: NonZeroU32::new(500).unwrap_or(NonZeroU32::MIN),
            intake_workspace_rate_per_s: NonZeroU32::new(2000).unwrap_or(NonZeroU32::MIN),
            intake_ack_timeout_ms: 5_000,
            postback_currency: "USD".to_owned(),
            drain_delay_ms: 0,
            drain_timeout_ms: 10_000,
            drain_spool_ms: 0,
            app_schemes: AppSchemes::default(),
            own_host: "localhost".to_owned(),
        }
    }
}

impl Config {
    /// Checks what a type cannot.
    ///
    /// # Errors
    /// When a value is not allowed; the error names it.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let within = |key: &str, value: u64, allowed: std::ops::RangeInclusive<u64>| {
            if allowed.contains(&value) {
                return Ok(());
            }
            let allowed = format!("allowed is {} to {}", allowed.start(), allowed.end());
            Err(ConfigError::value(&format!("ingest.{key}"), value, allowed))
        };
        within("threads", self.threads as u64, 0..=1024)?;
        let param = &self.click_id_param;
        let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        if param.is_empty() || param.len() > 64 || !param.bytes().all(unreserved) {
            let allowed = "1 to 64 letters, digits and -._~";
            return Err(ConfigError::value("ingest.click_id_param", param, allowed));
        }
        for (key, rate) in [
            ("marked_per_min", self.marked_per_min),
            ("refused_per_min", self.refused_per_min),
            ("unknown_per_min", self.unknown_per_min),
            ("orphans_per_min", self.orphans_per_min),
        ] {
            within(key, u64::from(rate), 0..=1_000_000)?;
        }
        within("ack_budget_ms", self.ack_budget_ms, 1..=60_000)?;
        within("ack_timeout_ms", self.ack_timeout_ms, 1..=60_000)?;
        within("spool_max_bytes", self.spool_max_bytes, 1 << 20..=1 << 50)?;
        within("max_connections", self.max_connections as u64, self.cores() as u64..=1_000_000)?;
        within("max_connections_per_network", self.max_connections_per_network as u64, 0..=1_000_000)?;
        within("header_timeout_ms", self.header_timeout_ms, 100..=600_000)?;
        within("keep_alive_ms", self.keep_alive_ms, 100..=3_600_000)?;
        within("intake_max_connections", self.intake_max_connections as u64, 1..=100_000)?;
        within("intake_ack_timeout_ms", self.intake_ack_timeout_ms, 1..=60_000)?;
        self.postback_currency()?;
        within("drain_delay_ms", self.drain_delay_ms, 0..=600_000)?;
        within("drain_timeout_ms", self.drain_timeout_ms, 0..=600_000)?;
        within("drain_spool_ms", self.drain_spool_ms, 0..=3_600_000)
    }

    pub(crate) fn postback_currency(&self) -> Result<Currency, ConfigError> {
        money::currency(&self.postback_currency)
            .map_err(|reason| ConfigError::value("ingest.postback_currency", &self.postback_currency, reason))
    }

    pub(crate) fn cores(&self) -> usize {
        if self.threads > 0 { self.threads } else { thread::available_parallelism().map_or(1, NonZero::get) }
    }

    /// How long a bundle may wait for its acknowledgement.
    pub(crate) const fn budget(&self) -> Duration {
        Duration::from_millis(match self.durability {
            Durability::Spooled => self.ack_budget_ms,
            Durability::Acked | Durability::Async => self.ack_timeout_ms,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_what_is_not_is_named() {
        Config::default().validate().unwrap();
        let error = Config { ack_timeout_ms: 0, ..Config::default() }.validate().unwrap_err().to_string();
        assert_eq!(error, "ingest.ack_timeout_ms = 0: allowed is 1 to 60000");
        for param in ["", "a b", "a=b", "a&b", "\u{e9}"] {
            let error = Config { click_id_param: param.to_owned(), ..Config::default() }.validate().unwrap_err();
            assert!(error.to_string().starts_with("ingest.click_id_param = "), "{error}");
        }
        let error = Config { postback_currency: "dollar".to_owned(), ..Config::default() }.validate().unwrap_err();
        assert!(error.to_string().starts_with("ingest.postback_currency = dollar: "), "{error}");
    }

    #[test]
    fn networks_are_read_as_cidr() {
        let config: Config = toml::from_str("trusted_proxies = [\"10.0.0.0/8\", \"fd00::/8\"]").unwrap();
        assert_eq!(config.trusted_proxies.len(), 2);
        assert!(toml::from_str::<Config>("trusted_proxies = [\"10.0.0.0/40\"]").is_err());
    }
}
