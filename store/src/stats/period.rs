//! The time that a question is about, cut into slices. Whole quarters of an hour and whole UTC
//! days are read from roll-ups; what is left at the two ends is read from the rows of a link, or
//! from the clicks by time, which are kept in five minutes.

use schemas::Timestamp;

use crate::{
    roll_ups::RollUp,
    stats::subject::{ClickSource, StatsSubject},
};

const FIVE_MINUTES: i64 = 300_000;
const QUARTER: i64 = 900_000;
const HOUR: i64 = 3_600_000;
pub(super) const DAY: i64 = 86_400_000;

/// The longest time of a link that is read from its rows.
const ROWS_AT_MOST: i64 = 26 * HOUR;

/// The time for which clicks are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatsPeriod {
    /// The first moment; absent for all clicks since the first.
    pub since: Option<Timestamp>,
    /// The moment after the last; absent for all clicks that are there.
    pub until: Option<Timestamp>,
    /// The moment at which the question is asked.
    pub asked_at: Timestamp,
}

/// A part of a period, in milliseconds since the epoch, with the source that tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slice {
    pub(super) source: ClickSource,
    pub(super) since: Option<i64>,
    pub(super) until: Option<i64>,
}

const fn floor(at: i64, unit: i64) -> i64 {
    at.div_euclid(unit) * unit
}

const fn ceil(at: i64, unit: i64) -> i64 {
    floor(at + unit - 1, unit)
}

impl StatsPeriod {
    /// The time since the first click.
    #[must_use]
    pub const fn ever(asked_at: Timestamp) -> Self {
        Self { since: None, until: None, asked_at }
    }

    /// Returns the period that the answer for a subject covers. The ends of a link's, a tag's and
    /// a domain's period are exact to the millisecond, those of others to five minutes.
    #[must_use]
    pub fn covered(self, subject: &StatsSubject) -> Self {
        if matches!(subject, StatsSubject::Link(_) | StatsSubject::Tag(_) | StatsSubject::Domain(_)) {
            return self;
        }
        let since = self.since.map(|at| Timestamp::from_millis(floor(at.as_millis(), FIVE_MINUTES)));
        let until = self.until.map(|at| Timestamp::from_millis(ceil(at.as_millis(), FIVE_MINUTES)));
        Self { since, until, ..self }
    }

    /// Returns the period of the same length that ends where this one begins.
    #[must_use]
    pub fn previous(self) -> Option<Self> {
        let since = self.since?;
        let length = self.until.unwrap_or(self.asked_at).as_millis() - since.as_millis();
        Some(Self { since: Some(Timestamp::from_millis(since.as_millis() - length)), until: Some(since), ..self })
    }

    /// Returns the hours of the period; nothing if it has no beginning.
    #[must_use]
    pub fn hours(self) -> Option<f64> {
        let length = self.until.unwrap_or(self.asked_at).since(self.since?);
        Some(length.as_secs_f64() / 3600.0)
    }

    fn ends(self) -> (Option<i64>, Option<i64>) {
        (self.since.map(Timestamp::as_millis), self.until.map(Timestamp::as_millis))
    }

    /// Returns the slices from which the subject's clicks are counted. They do not overlap, and
    /// together they are the period that [`StatsPeriod::covered`] returns.
    pub(super) fn count_slices(self, subject: &StatsSubject) -> Vec<Slice> {
        let (since, until) = self.covered(subject).ends();
        let rows = Slice { source: ClickSource::Rows, since, until };
        let Some(quarters) = subject.quarters() else {
            let ever = Slice { source: ClickSource::RollUp(RollUp::Totals), since, until };
            return vec![if since.is_none() && until.is_none() { ever } else { rows }];
        };
        if self.is_read_from_rows(subject) {
            return vec![rows];
        }
        let edges = match subject {
            StatsSubject::Link(_) => ClickSource::Rows,
            _ => ClickSource::RollUp(RollUp::ByTime),
        };
        cut(since, until, QUARTER, ClickSource::RollUp(quarters), edges)
    }

    /// Returns the slices from which the subject's sessions are counted: a session is one of a UTC
    /// day, so that the sums of days are exact.
    pub(super) fn session_slices(self, subject: &StatsSubject) -> Vec<Slice> {
        let (since, until) = self.covered(subject).ends();
        match subject.days() {
            Some((days, _)) if !self.is_read_from_rows(subject) => {
                cut(since, until, DAY, ClickSource::RollUp(days), ClickSource::Rows)
            }
            _ => vec![Slice { source: ClickSource::Rows, since, until }],
        }
    }

    /// Tells whether clicks and sessions are read together, from the rows of a short time.
    fn is_read_from_rows(self, subject: &StatsSubject) -> bool {
        let (since, until) = self.ends();
        let length = since.map(|since| until.unwrap_or(self.asked_at.as_millis()) - since);
        matches!(subject, StatsSubject::Link(_)) && length.is_some_and(|length| length <= ROWS_AT_MOST)
    }
}

/// Returns the slices of all time before a moment: whole quarters of an hour, and rows behind them.
pub(super) fn slices_until(at: Timestamp, whole: ClickSource) -> Vec<Slice> {
    cut(None, Some(at.as_millis()), QUARTER, whole, ClickSource::Rows)
}

/// Cuts a time into whole units and what is left before and behind them.
fn cut(since: Option<i64>, until: Option<i64>, unit: i64, whole: ClickSource, edge: ClickSource) -> Vec<Slice> {
    let (first, last) = (since.map(|at| ceil(at, unit)), until.map(|at| floor(at, unit)));
    if let (Some(first), Some(last)) = (first, last)
        && first >= last
    {
        return vec![Slice { source: edge, since, until }];
    }
    let mut slices = vec![Slice { source: whole, since: first, until: last }];
    if since != first {
        slices.push(Slice { source: edge, since, until: first });
    }
    if until != last {
        slices.push(Slice { source: edge, since: last, until });
    }
    slices
}

impl Slice {
    /// Returns the rows of a whole period.
    pub(super) fn rows(period: StatsPeriod) -> Self {
        let (since, until) = period.ends();
        Self { source: ClickSource::Rows, since, until }
    }

    /// Returns the condition of the slice's rows, which begins with `AND`, in the expression of the
    /// source.
    pub(super) fn condition(&self) -> String {
        let bound = |at: i64| match self.source {
            ClickSource::Rows | ClickSource::RollUp(RollUp::Totals) => {
                ("timestamp", format!("fromUnixTimestamp64Milli(toInt64({at}))"))
            }
            ClickSource::RollUp(RollUp::ByTime) => {
                ("toStartOfFiveMinutes(timestamp)", format!("toDateTime({}, 'UTC')", at / 1000))
            }
            ClickSource::RollUp(RollUp::LinkDays | RollUp::CampaignDays) => {
                ("toDate(timestamp)", format!("toDate({})", at / DAY))
            }
            ClickSource::RollUp(_) => {
                ("toStartOfFifteenMinutes(timestamp)", format!("toDateTime({}, 'UTC')", at / 1000))
            }
        };
        let mut condition = String::new();
        for (operator, at) in [(">=", self.since), ("<", self.until)] {
            if let Some((expression, value)) = at.map(bound) {
                condition.push_str(&format!(" AND {expression} {operator} {value}"));
            }
        }
        condition
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use schemas::LinkId;

    use super::*;

    fn period(since: Option<i64>, until: Option<i64>) -> StatsPeriod {
        let at = |millis: Option<i64>| millis.map(Timestamp::from_millis);
        StatsPeriod { since: at(since), until: at(until), asked_at: Timestamp::from_millis(100 * DAY) }
    }

    fn subjects() -> [StatsSubject; 6] {
        [
            StatsSubject::Link(LinkId::from_bits(1)),
            StatsSubject::Campaign("c".to_owned()),
            StatsSubject::Product("p".to_owned()),
            StatsSubject::Tag("t".to_owned()),
            StatsSubject::Domain("d".to_owned()),
            StatsSubject::Workspace,
        ]
    }

    #[test]
    fn whole_quarters_are_read_from_a_roll_up_and_the_rest_by_time() {
        let campaign = StatsSubject::Campaign("c".to_owned());
        let slices = period(Some(QUARTER - 400_000), Some(5 * QUARTER)).count_slices(&campaign);
        let slice = |source, since, until| Slice { source, since: Some(since), until: Some(until) };
        let quarters = ClickSource::RollUp(RollUp::CampaignQuarters);
        let by_time = ClickSource::RollUp(RollUp::ByTime);
        assert_eq!(
            slices,
            [slice(quarters, QUARTER, 5 * QUARTER), slice(by_time, QUARTER - 2 * FIVE_MINUTES, QUARTER)]
        );
        assert_eq!(period(None, None).count_slices(&campaign), [Slice { source: quarters, since: None, until: None }]);
    }

    #[test]
    fn the_hour_of_a_link_is_read_from_its_rows() {
        let link = StatsSubject::Link(LinkId::from_bits(1));
        let hour = period(Some(100 * DAY - HOUR), None);
        assert_eq!(hour.count_slices(&link), hour.session_slices(&link));
        assert_eq!(hour.count_slices(&link)[0].source, ClickSource::Rows);
        let week = period(Some(93 * DAY + 1), None);
        assert_eq!(week.session_slices(&link).len(), 2);
    }

    #[test]
    fn the_previous_period_ends_where_the_period_begins() {
        let before = period(Some(98 * DAY), None).previous().unwrap();
        assert_eq!(before, period(Some(96 * DAY), Some(98 * DAY)));
        assert_eq!(period(None, None).previous(), None);
    }

    proptest! {
        #[test]
        fn slices_are_the_period_once(since in 0_i64..90 * DAY, length in 1_i64..9 * DAY, open: bool, begun: bool) {
            let until = (!open).then_some(since + length);
            let asked = period(begun.then_some(since), until);
            for subject in subjects() {
                let (first, last) = asked.covered(&subject).ends();
                for slices in [asked.count_slices(&subject), asked.session_slices(&subject)] {
                    let mut slices: Vec<_> = slices
                        .iter()
                        .map(|slice| (slice.since.unwrap_or(i64::MIN), slice.until.unwrap_or(i64::MAX)))
                        .collect();
                    slices.sort_unstable();
                    prop_assert!(slices.iter().all(|(since, until)| since < until), "{slices:?}");
                    prop_assert_eq!(slices[0].0, first.unwrap_or(i64::MIN));
                    prop_assert_eq!(slices[slices.len() - 1].1, last.unwrap_or(i64::MAX));
                    prop_assert!(slices.windows(2).all(|pair| pair[0].1 == pair[1].0), "{slices:?}");
                }
            }
        }
    }
}
