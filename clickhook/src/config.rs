//! The whole configuration: a section for what is shared and one for each role.
//! `config.default.toml` says in words what every value means; a test keeps it
//! equal to the defaults in the code.

use std::{collections::BTreeSet, net::SocketAddr, path::Path, time::Duration};

use bus::BusConfig;
use schemas::{AppSchemes, DEFAULT_SHORT_URL_BASE, Topic};
use serde::{Deserialize, Serialize};
use service::{ConfigError, telemetry};
use store::StoreConfig;
use url::Url;

use crate::{keys, variables};

/// How long a consumer's thread may be busy between two polls: the time after which Kafka
/// gives its partitions away, without two calls to Kafka that belong to the work.
const BETWEEN_POLLS: Duration = bus::MAX_POLL_INTERVAL.saturating_sub(Duration::from_secs(20));

/// Everything that can be configured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) kafka: BusConfig,
    pub(crate) clickhouse: StoreConfig,
    pub(crate) links: LinksConfig,
    pub(crate) endpoints: EndpointsConfig,
    pub(crate) ingest: ingest::Config,
    pub(crate) control: control::Config,
    pub(crate) watch: control::WatchConfig,
    pub(crate) enricher: enricher::Config,
    pub(crate) webhook: dispatcher::webhook::Config,
    pub(crate) warehouse: dispatcher::warehouse::Config,
    pub(crate) metrics: MetricsConfig,
    pub(crate) log: LogConfig,
}

/// The section `[links]`: settings on which the API and the redirector must agree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LinksConfig {
    /// Schemes besides http and https that links may lead to, such as `myapp`.
    pub(crate) app_schemes: AppSchemes,
    /// The beginning of the short address of a link without a domain.
    pub(crate) short_url_base: String,
}

impl Default for LinksConfig {
    fn default() -> Self {
        Self { app_schemes: AppSchemes::default(), short_url_base: DEFAULT_SHORT_URL_BASE.to_owned() }
    }
}

impl LinksConfig {
    /// Returns the host of `short_url_base`.
    ///
    /// # Errors
    /// When the value is not allowed.
    fn own_host(&self) -> Result<String, ConfigError> {
        let base = Url::parse(&self.short_url_base).ok().filter(|url| {
            matches!(url.scheme(), "http" | "https")
                && url.query().is_none()
                && url.fragment().is_none()
                && !self.short_url_base.ends_with('/')
        });
        base.and_then(|base| base.host_str().map(str::to_owned)).ok_or_else(|| {
            let allowed = "an http or https address without a final slash, such as https://go.example.com";
            ConfigError::value("links.short_url_base", &self.short_url_base, allowed)
        })
    }
}

/// The section `[endpoints]`: settings on which the API and the dispatcher must agree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct EndpointsConfig {
    /// Whether endpoints may be plain HTTP.
    pub(crate) allow_http: bool,
    /// Whether endpoints may be in private networks or on this machine.
    pub(crate) allow_private: bool,
}

/// The section `[metrics]`: the address of health and metrics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct MetricsConfig {
    /// The address at which `/healthz`, `/readyz` and `/metrics` are served.
    pub(crate) listen: SocketAddr,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 9464)) }
    }
}

/// The section `[log]`: the format and the choice of log lines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LogConfig {
    /// `text` or `json`.
    pub(crate) format: LogFormat,
    /// The lines that are logged, as in `info` or `info,bus=debug`; `RUST_LOG`
    /// overrides it. Each command has a default of its own: `up` logs less than a role.
    pub(crate) filter: Option<String>,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LogFormat {
    Text,
    Json,
}

impl From<LogFormat> for telemetry::Format {
    fn from(format: LogFormat) -> Self {
        match format {
            LogFormat::Text => Self::Text,
            LogFormat::Json => Self::Json,
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: None }
    }
}

/// Reads the configuration from the file, if one is given, and the environment, and
/// checks it.
pub(crate) fn load(file: Option<&Path>) -> Result<Config, ConfigError> {
    let mut variables = variables::all()?;
    let admin_key = variables.remove(keys::ADMIN_KEY);
    let properties = variables::take_kafka_properties(&mut variables);
    let mut config = read(file, variables)?;
    if let Some(key) = admin_key {
        config.control.admin_key = key;
    }
    config.kafka.properties.extend(properties);
    // Commands in errors name the file so that they work in any folder.
    config.kafka.file = file.map(|file| std::path::absolute(file).unwrap_or_else(|_| file.to_owned()));
    config.share();
    config.validate()?;
    Ok(config)
}

fn read(file: Option<&Path>, env: impl IntoIterator<Item = (String, String)>) -> Result<Config, ConfigError> {
    service::config::load(&Config::default(), file, env).map_err(name_new_place)
}

/// Replaces the error about a setting that has moved to another section by one that names
/// its new place.
fn name_new_place(error: ConfigError) -> ConfigError {
    let ConfigError::Key { key, reason } = &error else { return error };
    for section in ["control", "webhook"] {
        for setting in ["allow_http", "allow_private"] {
            let is_in_section = key.split('.').next() == Some(section);
            if is_in_section && reason.starts_with(&format!("unknown field `{setting}`")) {
                return ConfigError::Key {
                    key: format!("{section}.{setting}"),
                    reason: format!(
                        "this setting is now endpoints.{setting} (CLICKHOOK_ENDPOINTS_{}), one for the API and the \
                         dispatcher: set it there",
                        setting.to_uppercase()
                    ),
                };
            }
        }
    }
    if key.split('.').next() == Some("control") && reason.starts_with("unknown field `short_url_base`") {
        return ConfigError::Key {
            key: "control.short_url_base".to_owned(),
            reason:
                "this setting is now links.short_url_base (CLICKHOOK_LINKS_SHORT_URL_BASE), one for the API and the \
                     redirector: set it there"
                    .to_owned(),
        };
    }
    error
}

impl Config {
    /// Copies the settings on which several roles must agree into the roles' sections.
    pub(crate) fn share(&mut self) {
        self.ingest.app_schemes = self.links.app_schemes.clone();
        self.control.app_schemes = self.links.app_schemes.clone();
        self.control.watch = self.watch.clone();
        self.control.short_url_base.clone_from(&self.links.short_url_base);
        self.ingest.own_host = self.links.own_host().unwrap_or_default();
        self.control.allow_http = self.endpoints.allow_http;
        // Where some private networks are allowed, the dispatcher decides, which sees every address.
        self.control.allow_private = self.endpoints.allow_private || !self.webhook.allow_nets.is_empty();
        self.webhook.allow_http = self.endpoints.allow_http;
        self.webhook.allow_private = self.endpoints.allow_private;
    }

    fn validate(&self) -> Result<(), ConfigError> {
        if !(1..=schemas::ids::SHARDS).contains(&self.kafka.partitions) {
            let allowed = format!("1 to {}, the number of shards", schemas::ids::SHARDS);
            return Err(ConfigError::value("kafka.partitions", self.kafka.partitions, allowed));
        }
        let known: BTreeSet<&str> = Topic::ALL
            .into_iter()
            .flat_map(|topic| bus::topic_settings(topic, self.kafka.replication))
            .map(|(setting, _)| setting)
            .collect();
        if let Some(unknown) = self.kafka.unset_topic_settings.iter().find(|name| !known.contains(name.as_str())) {
            let allowed = format!("settings that clickhook gives its topics: {}", Vec::from_iter(known).join(", "));
            return Err(ConfigError::value("kafka.unset_topic_settings", unknown, allowed));
        }
        if self.kafka.brokers.split(',').any(|broker| !broker.trim().contains(':')) {
            return Err(ConfigError::value(
                "kafka.brokers",
                &self.kafka.brokers,
                "host:port, several with commas between",
            ));
        }
        self.links.own_host()?;
        self.clickhouse.validate()?;
        self.ingest.validate()?;
        self.control.validate()?;
        self.watch.validate()?;
        self.enricher.validate()?;
        self.webhook.validate()?;
        self.warehouse.validate()?;
        self.validate_sums()
    }

    /// Checks the limits of different sections against each other. A consumer that does
    /// not poll for too long loses its partitions to another member.
    fn validate_sums(&self) -> Result<(), ConfigError> {
        let most = u64::try_from(BETWEEN_POLLS.as_millis()).unwrap_or(u64::MAX);
        let (insert, query) = (self.clickhouse.insert_timeout_ms, self.clickhouse.query_timeout_ms);
        // A block that is settled: running queries end, the rows are looked for,
        // inserted, and looked for again.
        let block = 2 * insert + 4 * query;
        if block > most {
            let allowed = format!(
                "with clickhouse.query_timeout_ms = {query} a block takes up to {block} ms (two inserts and four queries), \
                 and at most {most} ms may pass before its consumer polls Kafka again: lower one of the two"
            );
            return Err(ConfigError::value("clickhouse.insert_timeout_ms", insert, allowed));
        }
        let drain = self.webhook.drain_ms;
        if drain > most {
            let allowed = format!(
                "at most {most}: consumers do not poll Kafka while deliveries drain, and would lose their partitions before \
                 they commit"
            );
            return Err(ConfigError::value("webhook.drain_ms", drain, allowed));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_defaults_are_the_defaults() {
        let documented: Config = toml::from_str(include_str!("../config.default.toml")).unwrap();
        assert_eq!(documented, Config::default());
        let keys = |table: &toml::Table| -> Vec<String> {
            table
                .iter()
                .flat_map(|(section, keys)| {
                    keys.as_table().unwrap().keys().map(move |key| format!("{section}.{key}")).collect::<Vec<_>>()
                })
                .collect()
        };
        let written = keys(&include_str!("../config.default.toml").parse().unwrap());
        for key in keys(&toml::Table::try_from(Config::default()).unwrap()) {
            assert!(written.contains(&key), "config.default.toml says nothing of {key}");
        }
    }

    #[test]
    fn what_endpoints_may_be_is_one_setting_for_both_roles() {
        let mut config = read(None, [("CLICKHOOK_ENDPOINTS_ALLOW_HTTP".to_owned(), "true".to_owned())]).unwrap();
        config.share();
        assert!(config.control.allow_http);
        assert!(config.webhook.allow_http);
        assert!(!config.control.allow_private);
        assert!(!config.webhook.allow_private);
    }

    #[test]
    fn a_setting_that_has_moved_is_refused_with_its_new_place() {
        for section in ["control", "webhook"] {
            for setting in ["allow_http", "allow_private"] {
                let old = format!("{section}.{setting}: ");
                let now = format!("endpoints.{setting} (CLICKHOOK_ENDPOINTS_{})", setting.to_uppercase());
                let variable = format!("CLICKHOOK_{section}_{setting}").to_uppercase();
                let by_variable = read(None, [(variable, "true".to_owned())]).unwrap_err().to_string();
                let file = tempfile::NamedTempFile::new().unwrap();
                std::fs::write(file.path(), format!("[{section}]\n{setting} = true\n")).unwrap();
                let by_file = read(Some(file.path()), []).unwrap_err().to_string();
                for error in [by_variable, by_file] {
                    assert!(error.starts_with(&old), "{error}");
                    assert!(error.contains(&now), "{error}");
                }
            }
        }
    }

    #[test]
    fn the_beginning_of_short_addresses_is_one_setting_for_both_roles() {
        let variable = |name: &str, value: &str| read(None, [(name.to_owned(), value.to_owned())]);
        let mut config = variable("CLICKHOOK_LINKS_SHORT_URL_BASE", "https://go.example.com:8443/s").unwrap();
        config.share();
        config.validate().unwrap();
        assert_eq!(config.control.short_url_base, "https://go.example.com:8443/s");
        assert_eq!(config.ingest.own_host, "go.example.com");
        for wrong in ["", "go.example.com", "https://go.example.com/", "ftp://a", "https://a/?b", "http://"] {
            let config = variable("CLICKHOOK_LINKS_SHORT_URL_BASE", wrong).unwrap();
            let error = config.validate().unwrap_err().to_string();
            assert!(error.starts_with("links.short_url_base"), "{wrong}: {error}");
        }
        let moved = variable("CLICKHOOK_CONTROL_SHORT_URL_BASE", "https://a.example").unwrap_err().to_string();
        assert!(moved.contains("links.short_url_base (CLICKHOOK_LINKS_SHORT_URL_BASE)"), "{moved}");
    }

    #[test]
    fn limits_that_do_not_fit_each_other_are_refused_with_the_keys() {
        let refused = |variables: &[(&str, &str)]| {
            let variables = variables.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            read(None, variables).unwrap().validate().err().map(|error| error.to_string())
        };
        assert_eq!(refused(&[]), None);
        let insert = ("CLICKHOOK_CLICKHOUSE_INSERT_TIMEOUT_MS", "120000");
        assert_eq!(refused(&[insert]), None);
        let both = refused(&[insert, ("CLICKHOOK_CLICKHOUSE_QUERY_TIMEOUT_MS", "10001")]).unwrap();
        assert!(
            both.starts_with("clickhouse.insert_timeout_ms = 120000: with clickhouse.query_timeout_ms = 10001 "),
            "{both}"
        );
        assert!(both.contains("280004 ms") && both.contains("at most 280000 ms"), "{both}");
        let drain = refused(&[("CLICKHOOK_WEBHOOK_DRAIN_MS", "280001")]).unwrap();
        assert!(drain.starts_with("webhook.drain_ms = 280001: at most 280000"), "{drain}");
    }

    #[test]
    fn only_settings_of_topics_can_be_left_to_kafka() {
        let with = |names: &str| {
            let variable = ("CLICKHOOK_KAFKA_UNSET_TOPIC_SETTINGS".to_owned(), names.to_owned());
            read(None, [variable]).unwrap().validate().map_err(|error| error.to_string())
        };
        assert_eq!(with(r#"["segment.ms"]"#), Ok(()));
        let error = with(r#"["segment.mb"]"#).unwrap_err();
        assert!(
            error.starts_with("kafka.unset_topic_settings = segment.mb: ") && error.contains("segment.ms"),
            "{error}"
        );
    }

    #[test]
    fn a_filter_that_is_set_is_told_from_none() {
        assert_eq!(Config::default().log.filter, None);
        let variable = ("CLICKHOOK_LOG_FILTER".to_owned(), "info".to_owned());
        let config = read(None, [variable]).unwrap();
        assert_eq!(config.log.filter.as_deref(), Some("info"));
    }
}
