//! The configuration of the API: the section `[control]`.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroU32,
};

use http::uri::Authority;
use schemas::AppSchemes;
use serde::{Deserialize, Serialize};
use service::ConfigError;

use crate::{rate::Rate, state::quotas::DefaultQuotas};

use crate::leading::watch::WatchConfig;

/// The API's configuration. The defaults are what production starts from.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The address that the API listens on.
    pub listen: SocketAddr,
    /// The `host:port` at which other instances reach this one; empty for `listen`.
    pub advertise: String,
    /// The URL of the intake of conversions (`ingest.intake_listen`); empty if there is none.
    pub intake_url: String,
    /// The value of `links.short_url_base`, which the redirector has too: the beginning of the short address of a link
    /// without a domain.
    #[serde(skip)]
    pub short_url_base: String,
    /// The length of generated slugs: 4 to 32 characters.
    pub slug_chars: u8,
    /// The secret of the key that may do everything; at least 32 characters.
    pub admin_key: String,
    /// The average requests a second that a key may make; 0 for no limit.
    pub rate_per_s: u32,
    /// The requests that a key may make at once after a pause.
    pub rate_burst: u32,
    /// The average requests a second that all keys of a workspace may make together, and four times as many at once; 0
    /// for no limit.
    pub quota_requests_per_s: u32,
    /// The most links of a workspace.
    pub quota_links: u64,
    /// The most bytes of all links of a workspace together, each as its JSON.
    pub quota_link_bytes: u64,
    /// The most endpoints of a workspace.
    pub quota_endpoints: u64,
    /// The most domains of a workspace.
    pub quota_domains: u64,
    /// The most keys of a workspace.
    pub quota_keys: u64,
    /// The most campaigns of a workspace.
    pub quota_campaigns: u64,
    /// The time after which a domain whose TXT record is gone is no longer verified.
    pub domain_grace_s: u64,
    /// The time of nothing but failures after which an endpoint is disabled.
    pub disable_failing_after_s: u64,
    /// The schemes of `links.app_schemes`, which the redirector has too, so that every accepted link is served.
    #[serde(skip)]
    pub app_schemes: AppSchemes,
    /// The value of `endpoints.allow_http`, which the dispatcher has too: whether endpoints may be plain HTTP.
    #[serde(skip)]
    pub allow_http: bool,
    /// The value of `endpoints.allow_private`, which the dispatcher has too: whether endpoints may be in private
    /// networks or on this machine.
    #[serde(skip)]
    pub allow_private: bool,
    /// The section `[watch]`: the limits at which the leader tells of progress and raises alerts.
    #[serde(skip)]
    pub watch: WatchConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8081)),
            advertise: String::new(),
            intake_url: String::new(),
            short_url_base: schemas::DEFAULT_SHORT_URL_BASE.to_owned(),
            slug_chars: 7,
            admin_key: String::new(),
            allow_http: false,
            allow_private: false,
            rate_per_s: 500,
            rate_burst: 2_000,
            quota_requests_per_s: 2_000,
            quota_links: 5_000_000,
            quota_link_bytes: 4 << 30,
            quota_endpoints: 200,
            quota_domains: 1_000,
            quota_keys: 1_000,
            quota_campaigns: 20_000,
            domain_grace_s: 259_200,
            disable_failing_after_s: 432_000,
            app_schemes: AppSchemes::default(),
            watch: WatchConfig::default(),
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("listen", &self.listen)
            .field("advertise", &self.advertise)
            .field("intake_url", &self.intake_url)
            .field("short_url_base", &self.short_url_base)
            .field("slug_chars", &self.slug_chars)
            .field("allow_http", &self.allow_http)
            .field("allow_private", &self.allow_private)
            .field("rate_per_s", &self.rate_per_s)
            .field("rate_burst", &self.rate_burst)
            .field("quotas", &self.quotas())
            .field("domain_grace_s", &self.domain_grace_s)
            .field("disable_failing_after_s", &self.disable_failing_after_s)
            .field("app_schemes", &self.app_schemes)
            .field("watch", &self.watch)
            .finish_non_exhaustive()
    }
}

/// The fewest characters of a secret that people choose and that cannot be guessed from its hash.
const MIN_KEY_CHARS: usize = 32;

impl Config {
    /// Checks the values. The admin key can be missing, since other roles do not need it.
    ///
    /// # Errors
    /// When a value is not allowed; the error names it, but for the key.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if !(4..=32).contains(&self.slug_chars) {
            return Err(ConfigError::value("control.slug_chars", self.slug_chars, "4 to 32"));
        }
        if !self.advertise.is_empty() && address(&self.advertise).is_none() {
            let allowed = "host:port at which other control instances reach this one, such as control-0.control:8081";
            return Err(ConfigError::value("control.advertise", &self.advertise, allowed));
        }
        if !self.intake_url.is_empty() && self.intake().is_none() {
            let allowed =
                "an http address without a path, such as http://ingest:8082, or empty where no conversions are taken";
            return Err(ConfigError::value("control.intake_url", &self.intake_url, allowed));
        }
        if self.rate_burst == 0 {
            return Err(ConfigError::value("control.rate_burst", 0, "at least 1; rate_per_s = 0 takes the limit away"));
        }
        if !self.admin_key.is_empty() && self.admin_key.len() < MIN_KEY_CHARS {
            let allowed = format!("at least {MIN_KEY_CHARS} characters, such as the output of `openssl rand -hex 32`");
            return Err(ConfigError::value("control.admin_key", "(not shown)", allowed));
        }
        Ok(())
    }

    /// Returns the request rate of each key; nothing where there is no limit.
    pub(crate) fn key_rate(&self) -> Option<Rate> {
        Some(Rate { per_s: NonZeroU32::new(self.rate_per_s)?, burst: NonZeroU32::new(self.rate_burst)? })
    }

    /// Returns the limits of workspaces for which an operator has set no others.
    pub(crate) const fn quotas(&self) -> DefaultQuotas {
        DefaultQuotas {
            links: self.quota_links,
            link_bytes: self.quota_link_bytes,
            endpoints: self.quota_endpoints,
            domains: self.quota_domains,
            keys: self.quota_keys,
            campaigns: self.quota_campaigns,
            requests_per_s: self.quota_requests_per_s,
        }
    }

    /// Checks the values as [`Config::validate`] does, for a process that serves the API.
    pub(crate) fn validate_for_serving(&self) -> Result<(), ConfigError> {
        self.validate()?;
        if self.admin_key.is_empty() {
            let allowed = "required: set it to a long random text, such as the output of `openssl rand -hex 32`";
            return Err(ConfigError::value("control.admin_key", "(none)", allowed));
        }
        if self.advertise.is_empty() && self.listen.ip().is_unspecified() {
            let allowed = format!(
                "required where control.listen is {}: host:port at which other control instances reach this one, \
                 such as control-0.control:8081",
                self.listen
            );
            return Err(ConfigError::value("control.advertise", "(none)", allowed));
        }
        Ok(())
    }

    /// Returns the address at which others reach an instance that listens on `bound`.
    pub(crate) fn own_address(&self, bound: SocketAddr) -> Result<Authority, ConfigError> {
        let text = if self.advertise.is_empty() { bound.to_string() } else { self.advertise.clone() };
        address(&text).ok_or_else(|| ConfigError::value("control.advertise", &text, "host:port"))
    }

    /// Returns the address of the intake of conversions.
    pub(crate) fn intake(&self) -> Option<Authority> {
        address(self.intake_url.strip_prefix("http://")?)
    }
}

/// Parses `host:port` and nothing else.
pub(crate) fn address(text: &str) -> Option<Authority> {
    let authority: Authority = text.parse().ok()?;
    let port = authority.port_u16().is_some_and(|port| port != 0);
    (port && !authority.host().is_empty() && !text.contains('@')).then_some(authority)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_but_do_not_serve() {
        Config::default().validate().unwrap();
        let error = Config::default().validate_for_serving().unwrap_err().to_string();
        assert!(error.contains("control.admin_key"), "{error}");
    }

    #[test]
    fn a_key_is_never_shown() {
        let config = Config { admin_key: "short-secret-of-31-characters..".to_owned(), ..Config::default() };
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains("at least 32") && !error.contains("short-secret"), "{error}");
        assert!(!format!("{config:?}").contains("short-secret"));
    }

    #[test]
    fn slugs_are_neither_guessed_nor_endless() {
        for (chars, ok) in [(3, false), (4, true), (32, true), (33, false)] {
            let config = Config { slug_chars: chars, ..Config::default() };
            assert_eq!(config.validate().is_ok(), ok, "{chars}");
        }
    }

    #[test]
    fn an_instance_is_reached_at_an_address_with_a_port() {
        let with = |listen: &str, advertise: &str, intake: &str| Config {
            listen: listen.parse().unwrap(),
            advertise: advertise.to_owned(),
            intake_url: intake.to_owned(),
            admin_key: "0123456789abcdef".repeat(2),
            ..Config::default()
        };
        for (listen, advertise, intake, wrong) in [
            ("127.0.0.1:0", "", "", ""),
            ("0.0.0.0:8081", "control-0.control:8081", "http://ingest:8082", ""),
            ("[::]:8081", "[fd00::1]:8081", "http://[::1]:8082", ""),
            ("0.0.0.0:8081", "", "", "control.advertise"),
            ("127.0.0.1:0", "control-0", "", "control.advertise"),
            ("127.0.0.1:0", "a:b@c:80", "", "control.advertise"),
            ("127.0.0.1:0", "http://c:80", "", "control.advertise"),
            ("127.0.0.1:0", ":80", "", "control.advertise"),
            ("127.0.0.1:0", "c:0", "", "control.advertise"),
            ("127.0.0.1:0", "", "ingest:8082", "control.intake_url"),
            ("127.0.0.1:0", "", "https://ingest:8082", "control.intake_url"),
            ("127.0.0.1:0", "", "http://ingest:8082/", "control.intake_url"),
        ] {
            let told = with(listen, advertise, intake).validate_for_serving().err().map(|error| error.to_string());
            assert_eq!(told.is_some(), !wrong.is_empty(), "{listen} {advertise} {intake}: {told:?}");
            assert!(told.unwrap_or_default().contains(wrong));
        }
    }
}
