//! The whole configuration: a section for what is shared and one for each role.
//! `config.default.toml` says in words what every value means; a test keeps it
//! equal to the defaults in the code.

use std::{net::SocketAddr, path::Path};

use bus::BusConfig;
use schemas::AppSchemes;
use serde::{Deserialize, Serialize};
use service::{ConfigError, telemetry};
use store::StoreConfig;

/// Everything that can be configured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) kafka: BusConfig,
    pub(crate) clickhouse: StoreConfig,
    pub(crate) links: LinksConfig,
    pub(crate) ingest: ingest::Config,
    pub(crate) control: control::Config,
    pub(crate) enricher: enricher::Config,
    pub(crate) webhook: dispatcher::webhook::Config,
    pub(crate) warehouse: dispatcher::warehouse::Config,
    pub(crate) metrics: MetricsConfig,
    pub(crate) log: LogConfig,
}

/// `[links]`: what the API and the redirector must agree on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LinksConfig {
    /// Schemes besides http and https that links may lead to, such as `myapp`.
    pub(crate) app_schemes: AppSchemes,
}

/// `[metrics]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct MetricsConfig {
    /// Where `/healthz`, `/readyz` and `/metrics` are served.
    pub(crate) listen: SocketAddr,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 9464)) }
    }
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LogConfig {
    /// `text` or `json`.
    pub(crate) format: LogFormat,
    /// Which lines, as in `info` or `info,bus=debug`; `RUST_LOG` overrides it.
    pub(crate) filter: String,
}

/// How log lines look.
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
        Self { format: LogFormat::Text, filter: "info".to_owned() }
    }
}

/// The configuration by the file, if one is given, and the environment, checked.
pub(crate) fn load(file: Option<&Path>) -> Result<Config, ConfigError> {
    let mut config: Config = service::config::load(&Config::default(), file, std::env::vars())?;
    if let Ok(key) = std::env::var(crate::keys::ADMIN_KEY) {
        config.control.admin_key = key;
    }
    config.ingest.app_schemes = config.links.app_schemes.clone();
    config.control.app_schemes = config.links.app_schemes.clone();
    config.validate()?;
    Ok(config)
}

impl Config {
    fn validate(&self) -> Result<(), ConfigError> {
        if !(1..=schemas::ids::SHARDS).contains(&self.kafka.partitions) {
            let allowed = format!("1 to {}, the number of shards", schemas::ids::SHARDS);
            return Err(ConfigError::value("kafka.partitions", self.kafka.partitions, allowed));
        }
        if self.kafka.brokers.split(',').any(|broker| !broker.trim().contains(':')) {
            return Err(ConfigError::value(
                "kafka.brokers",
                &self.kafka.brokers,
                "host:port, several with commas between",
            ));
        }
        self.clickhouse.validate()?;
        self.ingest.validate()?;
        self.control.validate()?;
        self.enricher.validate()?;
        self.webhook.validate()?;
        self.warehouse.validate()
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
}
