//! The conversions and the revenue of a subject, each conversion in its current state.

use clickhouse::Row;
use schemars::JsonSchema;
use schemas::{LinkId, WorkspaceId};
use serde::{Deserialize, Serialize};

use crate::{
    Store, StoreError,
    stats::{
        bounds::bounded,
        period::{Slice, StatsPeriod},
        subject::{ClickSource, StatsSubject},
    },
};

/// The statuses of conversions that are worth nothing any more.
const TAKEN_BACK: &str = "('reversed', 'refunded', 'rejected', 'cancelled', 'canceled', 'declined', 'chargeback')";

/// The numbers of conversions. A conversion counts once, in its current status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConversionCounts {
    /// Conversions that stand: all but those that were taken back.
    pub total: u64,
    /// Conversions whose current status is `reversed`, `refunded`, `rejected`, `cancelled`,
    /// `declined` or `chargeback`.
    pub taken_back: u64,
}

/// The sums of the conversions that stand, in one currency and its minor unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Revenue {
    /// ISO 4217.
    pub currency: String,
    /// The sum of the conversions' worth.
    pub value: i64,
    /// The sum of the commissions.
    pub commission: i64,
}

/// The clicks on an ad, and the conversions that they led to.
#[derive(Clone, Debug, PartialEq, Eq, Row, Serialize, Deserialize, JsonSchema)]
pub struct AdStats {
    /// The name or id of the ad.
    pub ad_creative: String,
    /// Visits by people.
    pub clicks: u64,
    /// Conversions that stand.
    pub conversions: u64,
}

/// The answer to the question for conversions.
#[derive(Row, Deserialize)]
struct ConversionSums {
    total: u64,
    taken_back: u64,
    values: Vec<(String, i64)>,
    commissions: Vec<(String, i64)>,
}

/// The most ads that are counted of a link: those with the most clicks.
const MAX_ADS: u32 = 20;

/// Returns the end of a query over the conversions of a subject that were first reported in a
/// period, each in its current state. The ids come first, so that only these conversions are put
/// together.
pub(super) fn current(subject: &StatsSubject, period: StatsPeriod) -> String {
    let time = Slice::rows(period).condition();
    let narrowed = match subject {
        StatsSubject::Link(_) | StatsSubject::Campaign(_) => format!(" AND {}", subject.conversions()),
        _ => String::new(),
    };
    format!(
        "FROM conversions_current WHERE workspace = {{workspace:String}}{narrowed}{time} AND conversion_id IN \
         (SELECT conversion_id FROM conversions WHERE workspace = {{workspace:String}} AND {}{time})",
        subject.conversions()
    )
}

/// Returns the condition of conversions that stand.
pub(super) fn standing() -> String {
    format!("status NOT IN {TAKEN_BACK}")
}

impl Store {
    /// Returns the numbers of a subject's conversions, and their revenue by currency.
    ///
    /// # Errors
    /// When ClickHouse does not answer, or the question is beyond its bounds.
    pub async fn conversion_counts(
        &self,
        workspace: &WorkspaceId,
        subject: &StatsSubject,
        period: StatsPeriod,
    ) -> Result<(ConversionCounts, Vec<Revenue>), StoreError> {
        let stands = standing();
        let sql = format!(
            "SELECT countIf(stands) AS total, countIf(NOT stands) AS taken_back, \
             sumMapIf(map(currency, value), stands AND currency != '') AS values, \
             sumMapIf(map(commission_currency, commission), stands AND commission_currency != '') AS commissions FROM (\
             SELECT {stands} AS stands, toString(currency) AS currency, value, \
             toString(commission_currency) AS commission_currency, commission {})",
            current(subject, period)
        );
        let query = bounded(subject.bind(workspace, self.query(&sql)));
        let sums: ConversionSums = self.timed(query.fetch_one()).await?;
        let counts = ConversionCounts { total: sums.total, taken_back: sums.taken_back };
        Ok((counts, revenue(sums.values, &sums.commissions)))
    }

    /// Returns the clicks and conversions of a link by ad, most clicks first.
    ///
    /// # Errors
    /// When ClickHouse does not answer, or the question is beyond its bounds.
    pub async fn link_ads(
        &self,
        workspace: &WorkspaceId,
        link: LinkId,
        period: StatsPeriod,
    ) -> Result<Vec<AdStats>, StoreError> {
        let subject = StatsSubject::Link(link);
        let time = Slice::rows(period).condition();
        let sql = format!(
            "SELECT toString(ad) AS ad_creative, sum(clicked) AS clicks, sum(converted) AS conversions FROM (\
             SELECT toString(ad_creative) AS ad, countIf(NOT bot) AS clicked, toUInt64(0) AS converted FROM clicks \
             WHERE {}{time} AND ad_creative != '' GROUP BY ad \
             UNION ALL SELECT ad_creative AS ad, toUInt64(0) AS clicked, count() AS converted {} AND ad_creative != '' \
             AND {} GROUP BY ad) \
             GROUP BY ad ORDER BY clicks DESC, conversions DESC, ad LIMIT {MAX_ADS}",
            subject.condition(ClickSource::Rows),
            current(&subject, period),
            standing()
        );
        let query = bounded(subject.bind(workspace, self.query(&sql)));
        self.timed(query.fetch_all()).await
    }
}

/// Joins the sums of values and commissions by currency.
fn revenue(values: Vec<(String, i64)>, commissions: &[(String, i64)]) -> Vec<Revenue> {
    let mut revenue: Vec<Revenue> =
        values.into_iter().map(|(currency, value)| Revenue { currency, value, commission: 0 }).collect();
    for (currency, commission) in commissions {
        match revenue.iter_mut().find(|sums| sums.currency == *currency) {
            Some(sums) => sums.commission = *commission,
            None => revenue.push(Revenue { currency: currency.clone(), value: 0, commission: *commission }),
        }
    }
    revenue.sort_by(|one, other| one.currency.cmp(&other.currency));
    revenue
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commission_in_another_currency_stands_by_itself() {
        let sums = |currency: &str, value, commission| Revenue { currency: currency.to_owned(), value, commission };
        let values = vec![("USD".to_owned(), 5), ("EUR".to_owned(), 7)];
        let commissions = [("EUR".to_owned(), 1), ("GBP".to_owned(), 2)];
        assert_eq!(revenue(values, &commissions), [sums("EUR", 7, 1), sums("GBP", 0, 2), sums("USD", 5, 0)]);
    }
}
