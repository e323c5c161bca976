//! The configuration of the watch: the section `[watch]`.

use serde::{Deserialize, Serialize};
use service::ConfigError;

use super::rules::{BurstRule, ViralRule};

/// The limits at which progress is told and alerts are raised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WatchConfig {
    /// The numbers of people's clicks at which each link tells its progress, in ascending order; none for never.
    pub link_milestones: Vec<u64>,
    /// The clicks of the last hour, as a multiple of the link's average hour, above which a link is viral.
    pub viral_factor: u64,
    /// The fewest clicks by people in the last hour of a viral link; 0 for no such alerts.
    pub viral_min_clicks: u64,
    /// The clicks of a link from one address in five minutes that are suspicious; 0 for no such alerts.
    pub burst_address_clicks: u64,
    /// The clicks of a link from one network in five minutes that are suspicious; 0 for no such alerts.
    pub burst_network_clicks: u64,
    /// The clicks of a link with one user agent in five minutes that are suspicious; 0 for no such alerts.
    pub burst_agent_clicks: u64,
    /// The percentage of a link's clicks in five minutes that one network or user agent must have to be suspicious.
    pub burst_percent: u64,
}

impl Default for WatchConfig {
    fn default() -> Self {
        Self {
            link_milestones: schemas::campaign::MILESTONES.to_vec(),
            viral_factor: 5,
            viral_min_clicks: 100,
            burst_address_clicks: 100,
            burst_network_clicks: 1000,
            burst_agent_clicks: 1000,
            burst_percent: 90,
        }
    }
}

/// The most milestones that links have.
const MAX_MILESTONES: usize = 50;
/// The largest number of a limit.
const MAX_NUMBER: u64 = 1_000_000_000_000;

impl WatchConfig {
    /// Checks the values.
    ///
    /// # Errors
    /// When a value is not allowed; the error names it.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let milestones = &self.link_milestones;
        let ascend = milestones.windows(2).all(|pair| pair[0] < pair[1]);
        let in_range = milestones.iter().all(|milestone| (1..=MAX_NUMBER).contains(milestone));
        if !ascend || !in_range || milestones.len() > MAX_MILESTONES {
            let allowed = format!("at most {MAX_MILESTONES} numbers from 1 to {MAX_NUMBER}, in ascending order");
            return Err(ConfigError::value("watch.link_milestones", format!("{milestones:?}"), allowed));
        }
        if !(2..=1000).contains(&self.viral_factor) {
            return Err(ConfigError::value("watch.viral_factor", self.viral_factor, "2 to 1000"));
        }
        if !(1..=100).contains(&self.burst_percent) {
            return Err(ConfigError::value("watch.burst_percent", self.burst_percent, "1 to 100"));
        }
        for (key, value) in [
            ("viral_min_clicks", self.viral_min_clicks),
            ("burst_address_clicks", self.burst_address_clicks),
            ("burst_network_clicks", self.burst_network_clicks),
            ("burst_agent_clicks", self.burst_agent_clicks),
        ] {
            // A limit of a few clicks would raise an alert about every link.
            if value != 0 && !(10..=MAX_NUMBER).contains(&value) {
                let allowed = format!("10 to {MAX_NUMBER}, or 0 for no such alerts");
                return Err(ConfigError::value(&format!("watch.{key}"), value, allowed));
            }
        }
        Ok(())
    }

    /// Returns the rule for viral links, if there is one.
    pub(super) fn viral(&self) -> Option<ViralRule> {
        (self.viral_min_clicks > 0)
            .then_some(ViralRule { factor: self.viral_factor, min_clicks: self.viral_min_clicks })
    }

    /// Returns the rule for bursts with this cause, if there is one.
    pub(super) fn burst(&self, cause: schemas::watch::BurstCause) -> Option<BurstRule> {
        use schemas::watch::BurstCause;
        let (min_clicks, min_percent) = match cause {
            // Few other clicks come from one address, whatever their share.
            BurstCause::Address => (self.burst_address_clicks, 0),
            BurstCause::Network => (self.burst_network_clicks, self.burst_percent),
            BurstCause::Agent => (self.burst_agent_clicks, self.burst_percent),
        };
        (min_clicks > 0).then_some(BurstRule { min_clicks, min_percent })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_not_allowed_is_named() {
        WatchConfig::default().validate().unwrap();
        let refused = |change: fn(&mut WatchConfig)| {
            let mut config = WatchConfig::default();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        assert!(refused(|config| config.link_milestones = vec![5, 5]).starts_with("watch.link_milestones = [5, 5]"));
        assert!(refused(|config| config.viral_factor = 1).starts_with("watch.viral_factor = 1"));
        assert!(refused(|config| config.burst_percent = 0).starts_with("watch.burst_percent = 0"));
        assert!(refused(|config| config.burst_address_clicks = 9).starts_with("watch.burst_address_clicks = 9"));
        let off = WatchConfig {
            link_milestones: Vec::new(),
            viral_min_clicks: 0,
            burst_address_clicks: 0,
            ..WatchConfig::default()
        };
        off.validate().unwrap();
        assert!(off.viral().is_none() && off.burst(schemas::watch::BurstCause::Address).is_none());
    }
}
