//! The subjects of the statistics, and the conditions that select their rows.

use clickhouse::query::Query;
use schemas::{LinkId, WorkspaceId};

use crate::roll_ups::RollUp;

/// The clicks that are counted together, all of one workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StatsSubject {
    /// The clicks of a link.
    Link(LinkId),
    /// The clicks of the links of a campaign, by the campaign's name.
    Campaign(String),
    /// The clicks to destinations that name a product, by the product's number (SKU). The
    /// number stands between other characters than letters and digits, in any case.
    Product(String),
    /// The clicks of links with a tag.
    Tag(String),
    /// The clicks of links on a domain.
    Domain(String),
    /// All clicks of the workspace.
    Workspace,
}

/// The source that a slice of a question is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClickSource {
    /// A roll-up.
    RollUp(RollUp),
    /// The rows of the table.
    Rows,
}

impl ClickSource {
    /// Returns the end of a query that reads from this source.
    pub(super) const fn settings(self) -> &'static str {
        match self {
            Self::RollUp(roll_up) => roll_up.settings(),
            Self::Rows => "",
        }
    }
}

impl StatsSubject {
    /// Returns the roll-up that counts the subject's clicks in quarters of an hour.
    pub(super) const fn quarters(&self) -> Option<RollUp> {
        match self {
            Self::Link(_) => Some(RollUp::LinkQuarters),
            Self::Campaign(_) | Self::Workspace => Some(RollUp::CampaignQuarters),
            Self::Product(_) => Some(RollUp::DestinationQuarters),
            Self::Tag(_) | Self::Domain(_) => None,
        }
    }

    /// Returns the roll-up with the subject's sessions of a UTC day, and its state.
    pub(super) const fn days(&self) -> Option<(RollUp, &'static str)> {
        match self {
            Self::Link(_) => Some((RollUp::LinkDays, "uniqCombinedIf(14)(session_id, NOT bot)")),
            Self::Campaign(_) | Self::Workspace => {
                Some((RollUp::CampaignDays, "uniqCombinedIf(12)(session_id, NOT bot)"))
            }
            Self::Product(_) | Self::Tag(_) | Self::Domain(_) => None,
        }
    }

    /// Returns the condition of the subject's rows in the source.
    pub(super) fn condition(&self, source: ClickSource) -> String {
        let own = self.own_condition();
        let mine = match (self, source) {
            (Self::Workspace, _) => return "workspace = {workspace:String}".to_owned(),
            (Self::Product(_), ClickSource::RollUp(RollUp::DestinationQuarters)) => {
                format!("destination IN ({})", self.members("destination"))
            }
            // The key of the rows begins with the link, so its links narrow what is read.
            (Self::Campaign(_) | Self::Product(_) | Self::Tag(_) | Self::Domain(_), ClickSource::Rows) => {
                format!("link_id IN ({}) AND {own}", self.members("link_id"))
            }
            _ => own.to_owned(),
        };
        format!("workspace = {{workspace:String}} AND {mine}")
    }

    /// Returns the condition that tells the subject's rows from others of the workspace.
    const fn own_condition(&self) -> &'static str {
        match self {
            Self::Link(_) => "link_id = {subject:String}",
            Self::Campaign(_) => "campaign = {subject:String}",
            Self::Product(_) => "match(destination, {subject:String})",
            Self::Tag(_) => "has(tags, {subject:String})",
            Self::Domain(_) => "domain(short_url) = {subject:String}",
            Self::Workspace => "1",
        }
    }

    /// Returns the query of the links or destinations that have ever belonged to the subject.
    fn members(&self, column: &str) -> String {
        format!(
            "SELECT {column} FROM clicks WHERE workspace = {{workspace:String}} AND {} GROUP BY {column}{}",
            self.own_condition(),
            RollUp::Totals.settings()
        )
    }

    /// Returns the condition of the subject's rows of `conversions`.
    pub(super) const fn conversions(&self) -> &'static str {
        match self {
            Self::Link(_) => "link_id = {subject:String}",
            Self::Campaign(_) => "campaign = {subject:String}",
            Self::Product(_) => "(match(product, {subject:String}) OR match(destination, {subject:String}))",
            Self::Tag(_) => "has(tags, {subject:String})",
            Self::Domain(_) => "domain(short_url) = {subject:String}",
            Self::Workspace => "1",
        }
    }

    /// Sets the parameters that the conditions name.
    pub(super) fn bind(&self, workspace: &WorkspaceId, query: Query) -> Query {
        let query = query.param("workspace", workspace.as_str());
        match self {
            Self::Link(id) => query.param("subject", id.to_string()),
            Self::Product(sku) => query.param("subject", product_pattern(sku)),
            Self::Campaign(text) | Self::Tag(text) | Self::Domain(text) => query.param("subject", text.as_str()),
            Self::Workspace => query,
        }
    }
}

/// Returns the regular expression (RE2) that finds a product's number as a word of its own.
fn product_pattern(sku: &str) -> String {
    let mut pattern = String::from("(?i)(^|[^0-9A-Za-z])");
    for character in sku.chars() {
        if character.is_ascii() && !character.is_ascii_alphanumeric() {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern.push_str("($|[^0-9A-Za-z])");
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_products_number_is_taken_literally() {
        assert_eq!(product_pattern("A-1.b"), r"(?i)(^|[^0-9A-Za-z])A\-1\.b($|[^0-9A-Za-z])");
        assert_eq!(product_pattern(r"\"), r"(?i)(^|[^0-9A-Za-z])\\($|[^0-9A-Za-z])");
    }
}
