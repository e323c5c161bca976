//! Where ClickHouse is, and the handle through which everything reaches it.

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc, time::Duration};

use clickhouse::{Client, query::Query};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use service::ConfigError;

use crate::{StoreError, Table, http_client, layout::TypedColumn};

/// Where ClickHouse is and how long it keeps what: `[clickhouse]` in the
/// configuration.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// Its HTTP interface.
    pub url: String,
    /// A file with the certificates of private authorities, in PEM, for `https`.
    pub ca_file: Option<PathBuf>,
    /// The cluster of ClickHouse in which the tables are replicated; empty for one server.
    pub cluster: String,
    /// The database that holds the tables; made by the migrations.
    pub database: String,
    /// The user, who may create and alter tables, insert, select, delete rows of `clicks`
    /// and `conversions`, and read `system.processes`.
    pub user: String,
    /// The user's password.
    pub password: String,
    /// How long a question may take.
    pub query_timeout_ms: u64,
    /// How long an insert may take before it is looked for. Well below Kafka's
    /// `max.poll.interval.ms` (5 min), which runs meanwhile.
    pub insert_timeout_ms: u64,
    /// How many days clicks, conversions, link events and the audit log are kept; 0 for ever.
    pub clicks_days: u32,
    /// How many days the log of delivery attempts is kept; 0 for ever.
    pub deliveries_days: u32,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            url: "http://127.0.0.1:8123".to_owned(),
            ca_file: None,
            cluster: String::new(),
            database: "clickhook".to_owned(),
            user: "default".to_owned(),
            password: String::new(),
            query_timeout_ms: 10_000,
            insert_timeout_ms: 30_000,
            clicks_days: 730,
            deliveries_days: 90,
        }
    }
}

impl fmt::Debug for StoreConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreConfig")
            .field("url", &self.url)
            .field("database", &self.database)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

impl StoreConfig {
    /// Checks every value.
    ///
    /// # Errors
    /// Names the first key whose value is not allowed.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let allowed =
            "an address such as http://127.0.0.1:8123 or https://clickhouse.example:8443, without user and password";
        match url::Url::parse(&self.url) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() && url.username().is_empty() => {}
            Ok(url) if !url.username().is_empty() || url.password().is_some() => {
                // The value may hold a password: it is not repeated.
                return Err(ConfigError::value("clickhouse.url", "…", allowed));
            }
            _ => return Err(ConfigError::value("clickhouse.url", &self.url, allowed)),
        }
        let name = self.database.as_bytes();
        let word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        if name.is_empty() || name.len() > 64 || name[0].is_ascii_digit() || !name.iter().all(word) {
            let allowed = "1 to 64 of a-z, A-Z, 0-9 and _, not beginning with a digit";
            return Err(ConfigError::value("clickhouse.database", &self.database, allowed));
        }
        let in_cluster = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        if self.cluster.len() > 64 || !self.cluster.bytes().all(in_cluster) {
            let allowed = "the name of a cluster in ClickHouse's remote_servers: up to 64 of a-z, A-Z, 0-9, _, - and .";
            return Err(ConfigError::value("clickhouse.cluster", &self.cluster, allowed));
        }
        for (key, value) in [("query_timeout_ms", self.query_timeout_ms), ("insert_timeout_ms", self.insert_timeout_ms)]
        {
            if !(100..=120_000).contains(&value) {
                return Err(ConfigError::value(&format!("clickhouse.{key}"), value, "100 to 120000"));
            }
        }
        Ok(())
    }
}

/// A handle on the installation's ClickHouse. Cheap to clone; nothing is
/// connected until it is asked for something.
#[derive(Clone)]
pub struct Store {
    client: Client,
    config: Arc<StoreConfig>,
    layouts: Layouts,
}

/// The columns of tables, as they were found; a failed insert has them looked at again.
pub(crate) type Layouts = Arc<Mutex<BTreeMap<Table, Arc<[TypedColumn]>>>>;

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.config.fmt(f)
    }
}

impl Store {
    /// The ClickHouse of `config`.
    ///
    /// # Errors
    /// When a value is not allowed.
    pub fn new(config: StoreConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        let mut client = http_client::client(config.ca_file.as_deref())?.with_url(&config.url).with_user(&config.user);
        if !config.password.is_empty() {
            client = client.with_password(&config.password);
        }
        Ok(Self { client, config: Arc::new(config), layouts: Layouts::default() })
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &StoreConfig {
        &self.config
    }

    /// Asks ClickHouse whether it is there.
    ///
    /// # Errors
    /// When it does not answer in time, or refuses the user.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.timed(self.anywhere().query("SELECT 1").execute()).await
    }

    pub(crate) fn layouts(&self) -> &Layouts {
        &self.layouts
    }

    /// The client outside of any database.
    pub(crate) fn anywhere(&self) -> Client {
        self.client.clone()
    }

    /// The client inside the database.
    pub(crate) fn inside(&self) -> Client {
        self.client.clone().with_database(&self.config.database)
    }

    /// Returns a question or statement inside the database. ClickHouse ends a question
    /// whose time limit is over, or whose asker is gone: by default it would go on reading
    /// for nobody.
    pub(crate) fn query(&self, sql: &str) -> Query {
        let limit = Duration::from_millis(self.config.query_timeout_ms);
        let query = self.inside().query(sql).with_setting("cancel_http_readonly_queries_on_client_close", "1");
        limited(query, limit)
    }

    pub(crate) async fn timed<T>(
        &self,
        call: impl Future<Output = clickhouse::error::Result<T>>,
    ) -> Result<T, StoreError> {
        self.within(Duration::from_millis(self.config.query_timeout_ms), call).await
    }

    pub(crate) async fn within<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = clickhouse::error::Result<T>>,
    ) -> Result<T, StoreError> {
        match tokio::time::timeout(limit, call).await {
            Ok(outcome) => outcome.map_err(|error| StoreError::new(&self.config.url, error)),
            Err(_) => Err(StoreError::Silent { url: self.config.url.clone(), limit }),
        }
    }
}

/// Gives ClickHouse a time limit for a query.
pub(crate) fn limited(query: Query, limit: Duration) -> Query {
    query.with_setting("max_execution_time", limit.as_secs_f64().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_allowed_is_named_and_no_password_repeated() {
        let bad = |change: fn(&mut StoreConfig)| {
            let mut config = StoreConfig::default();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        assert!(bad(|c| c.database = "a-b".to_owned()).starts_with("clickhouse.database = a-b"));
        assert!(bad(|c| c.url = "127.0.0.1:8123".to_owned()).starts_with("clickhouse.url = 127"));
        assert!(!bad(|c| c.url = "http://me:hush@here:1".to_owned()).contains("hush"));
        assert!(bad(|c| c.insert_timeout_ms = 1).starts_with("clickhouse.insert_timeout_ms = 1"));
        assert!(StoreConfig::default().validate().is_ok());
        let config = StoreConfig { password: "hush".to_owned(), ..StoreConfig::default() };
        assert!(!format!("{config:?}").contains("hush"));
    }
}
