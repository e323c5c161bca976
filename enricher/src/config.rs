//! The configuration of the enricher: `[enricher]`.

use std::{collections::BTreeMap, num::NonZero, path::PathBuf, thread};

use serde::{Deserialize, Serialize};
use service::ConfigError;

use crate::clicks::query::refused_alias;

/// The part of a visitor's address that is delivered and stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IpMode {
    /// The whole address.
    Full,
    /// The address's network: /24 for IPv4, /48 for IPv6.
    Truncated,
    /// A hash under the day's key.
    Hashed,
}

/// The meaning of a visit from a network of data centres.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Datacentre {
    /// The fact `network` tells of it, and the visit counts as a person's.
    Fact,
    /// The visit counts as a program's.
    Bot,
}

/// The click of a customer to which a conversion without a click belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CustomerClick {
    /// The first click that a conversion of the customer named.
    First,
    /// The last click.
    Last,
}

/// The section `[enricher]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The part of an address that is delivered and stored.
    pub ip_mode: IpMode,
    /// Databases of cities in the MaxMind DB format, in the order of lookup. The
    /// default is the databases that `make engines` installs.
    pub geo_city: Vec<PathBuf>,
    /// Databases of countries, used where no database of cities has the address.
    pub geo_country: Vec<PathBuf>,
    /// Databases of who announces an address, in the MaxMind DB format.
    pub geo_asn: Vec<PathBuf>,
    /// The ranges of special networks, `ranges.bin` of the Python package `iporigin`. The default is
    /// the file that `make engines` installs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub networks: Option<PathBuf>,
    /// The meaning of a visit from a network of data centres.
    pub datacentre: Datacentre,
    /// Names of one's own for parameters of a visit: the alias, and the parameter that
    /// it stands for, such as `src = "utm_source"`.
    pub parameters: BTreeMap<String, String>,
    /// How long a conversion waits for its click, in seconds. It is then delivered
    /// without a click.
    pub conversion_hold_s: u64,
    /// How many days may lie between a click and its conversion.
    pub conversion_window_days: u64,
    /// The click that a conversion belongs to which names only its customer.
    pub attribution: CustomerClick,
    /// How long a transaction collects records before it is committed, in
    /// milliseconds. Webhooks do not wait for it; ClickHouse rows do.
    pub window_ms: u64,
    /// The number of clicks above which a transaction is committed early.
    pub max_clicks: usize,
    /// Threads that enrich clicks while there are many; with 0, the thread that reads
    /// them enriches all. The default is the number of cores less one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<usize>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ip_mode: IpMode::Truncated,
            geo_city: Vec::new(),
            geo_country: Vec::new(),
            geo_asn: Vec::new(),
            networks: None,
            datacentre: Datacentre::Fact,
            parameters: BTreeMap::new(),
            conversion_hold_s: 600,
            conversion_window_days: 90,
            attribution: CustomerClick::Last,
            window_ms: 40,
            max_clicks: 10_000,
            workers: None,
        }
    }
}

/// The largest number of worker threads.
const MAX_WORKERS: usize = 64;

impl Config {
    /// Returns the number of threads that enrich clicks.
    pub(crate) fn workers(&self) -> usize {
        let spare_cores = || thread::available_parallelism().map_or(0, NonZero::get).saturating_sub(1);
        self.workers.unwrap_or_else(spare_cores).min(MAX_WORKERS)
    }

    /// Checks the ranges of the values.
    ///
    /// # Errors
    /// Names the key, its value and the allowed range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if !(1..=1000).contains(&self.window_ms) {
            return Err(ConfigError::value("enricher.window_ms", self.window_ms, "1 to 1000"));
        }
        if !(1..=1_000_000).contains(&self.max_clicks) {
            return Err(ConfigError::value("enricher.max_clicks", self.max_clicks, "1 to 1000000"));
        }
        if let Some(workers) = self.workers.filter(|workers| *workers > MAX_WORKERS) {
            return Err(ConfigError::value("enricher.workers", workers, "0 to 64"));
        }
        if !(1..=86_400).contains(&self.conversion_hold_s) {
            return Err(ConfigError::value("enricher.conversion_hold_s", self.conversion_hold_s, "1 to 86400"));
        }
        if !(1..=3650).contains(&self.conversion_window_days) {
            let days = self.conversion_window_days;
            return Err(ConfigError::value("enricher.conversion_window_days", days, "1 to 3650"));
        }
        for (alias, name) in &self.parameters {
            if let Some(allowed) = refused_alias(alias, name) {
                return Err(ConfigError::value("enricher.parameters", format!("{alias} = {name:?}"), allowed));
            }
        }
        Ok(())
    }
}
