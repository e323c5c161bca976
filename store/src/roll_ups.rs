//! The roll-ups of `clicks`: aggregate projections, which ClickHouse keeps inside the parts of
//! the table, so that they always agree with the rows (`migrations/0007_roll_ups.sql`).
//!
//! A query is answered from a roll-up only if its conditions and groups are the roll-up's own
//! expressions, such as `toStartOfFifteenMinutes(timestamp)`, and it names the roll-up. Fresh
//! parts have no roll-ups until their first merge; their rows are read instead.

/// A roll-up of `clicks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RollUp {
    /// Clicks of a link in quarters of an hour.
    LinkQuarters,
    /// Clicks of a campaign in quarters of an hour.
    CampaignQuarters,
    /// Clicks to a destination in quarters of an hour.
    DestinationQuarters,
    /// Clicks of a link ever, with its campaign, destination, address and tags at that time.
    Totals,
    /// Clicks of all links in five minutes, by time.
    ByTime,
    /// People's sessions of a link on a UTC day.
    LinkDays,
    /// People's sessions of a campaign on a UTC day.
    CampaignDays,
}

impl RollUp {
    /// Returns the end of a query that names this roll-up.
    pub(crate) const fn settings(self) -> &'static str {
        match self {
            Self::LinkQuarters => " SETTINGS preferred_optimize_projection_name = 'link_quarters'",
            Self::CampaignQuarters => " SETTINGS preferred_optimize_projection_name = 'campaign_quarters'",
            Self::DestinationQuarters => " SETTINGS preferred_optimize_projection_name = 'destination_quarters'",
            Self::Totals => " SETTINGS preferred_optimize_projection_name = 'totals'",
            Self::ByTime => " SETTINGS preferred_optimize_projection_name = 'by_time'",
            Self::LinkDays => " SETTINGS preferred_optimize_projection_name = 'link_days'",
            Self::CampaignDays => " SETTINGS preferred_optimize_projection_name = 'campaign_days'",
        }
    }
}
