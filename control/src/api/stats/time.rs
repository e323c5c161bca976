//! The period of a question, as the query names it: a window that ends now, or a range in any time
//! zone. And the intervals of a series, on the calendar of the time zone.

use jiff::{SignedDuration, Span, ToSpan, Zoned, civil, tz::TimeZone};
use schemars::JsonSchema;
use schemas::Timestamp;
use serde::{Deserialize, Serialize};
use service::problem::{FieldError, Problem};
use store::StatsPeriod;

/// The longest window: ten years.
const MAX_SECONDS: i64 = 10 * 366 * 86_400;
/// The most intervals of a series.
const MAX_INTERVALS: usize = 1000;
/// Roll-ups count in quarters of an hour.
const QUARTER_S: i64 = 900;

/// The part of a query that names a period.
#[derive(Clone, Debug, Default)]
pub(super) struct TimeQuery<'a> {
    pub(super) window: Option<&'a str>,
    pub(super) since: Option<&'a str>,
    pub(super) until: Option<&'a str>,
    pub(super) timezone: Option<&'a str>,
}

/// The time that an answer covers.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "StatsPeriod")]
pub(crate) struct PeriodView {
    /// The first moment; absent where the answer covers all clicks since the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) since: Option<Timestamp>,
    /// The moment before which the period ends.
    pub(super) until: Timestamp,
}

impl From<StatsPeriod> for PeriodView {
    fn from(period: StatsPeriod) -> Self {
        Self { since: period.since, until: period.until.unwrap_or(period.asked_at) }
    }
}

/// The length of the intervals of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) enum Interval {
    /// A quarter of an hour.
    #[serde(rename = "15m")]
    Quarter,
    /// An hour.
    #[serde(rename = "hour")]
    Hour,
    /// A day of the time zone.
    #[serde(rename = "day")]
    Day,
    /// A week of the time zone, from Monday.
    #[serde(rename = "week")]
    Week,
    /// A month of the time zone.
    #[serde(rename = "month")]
    Month,
}

impl TimeQuery<'_> {
    /// Returns the time zone; UTC if none is named.
    pub(super) fn zone(&self) -> Result<TimeZone, Problem> {
        let name = self.timezone.unwrap_or("UTC");
        TimeZone::get(name).map_err(|_| {
            let reason = format!("`{}` is no time zone: give a name such as Europe/Berlin", head(name));
            Problem::invalid(vec![FieldError::new("timezone", reason)])
        })
    }

    /// Returns the period. Without a window and a range, it is `default` long, or all time.
    pub(super) fn period(&self, default: Option<&str>, asked_at: Timestamp) -> Result<StatsPeriod, Problem> {
        let zone = self.zone()?;
        let mut errors = Vec::new();
        if self.window.is_some() && (self.since.is_some() || self.until.is_some()) {
            errors.push(FieldError::new("window", "cannot stand beside `since` and `until`"));
        }
        let mut moment = |field: &str, text: Option<&str>| {
            let parsed = text.map(|text| parse_moment(text, &zone));
            parsed.transpose().unwrap_or_else(|reason| {
                errors.push(FieldError::new(field, reason));
                None
            })
        };
        let mut since = moment("since", self.since);
        let until = moment("until", self.until);
        let default = default.filter(|_| since.is_none());
        match self.window.or(default).map(parse_window).transpose() {
            Ok(Some(seconds)) => {
                let end = until.unwrap_or(asked_at);
                since = Some(Timestamp::from_millis(end.as_millis() - seconds * 1000));
            }
            Ok(None) => {}
            Err(reason) => errors.push(FieldError::new("window", reason)),
        }
        if let Some((since, until)) = since.zip(until.or(Some(asked_at)))
            && since >= until
        {
            errors.push(FieldError::new("since", "must be before `until`, and before now"));
        }
        if errors.is_empty() { Ok(StatsPeriod { since, until, asked_at }) } else { Err(Problem::invalid(errors)) }
    }
}

fn head(text: &str) -> String {
    text.chars().take(64).collect()
}

/// Reads a window such as `1h`, `24h` or `7d`, in seconds.
fn parse_window(text: &str) -> Result<i64, String> {
    let wrong = || format!("`{}` is no window: give a number and m, h, d or w, such as 1h, 24h or 7d", head(text));
    let unit = text.chars().next_back().ok_or_else(wrong)?;
    let number: i64 = text[..text.len() - unit.len_utf8()].parse().map_err(|_| wrong())?;
    let seconds = match unit {
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        'w' => 7 * 86_400,
        _ => return Err(wrong()),
    };
    let total = number.checked_mul(seconds).filter(|total| (1..=MAX_SECONDS).contains(total));
    total.ok_or_else(|| "must be longer than nothing and at most ten years".to_owned())
}

/// Reads a moment: RFC 3339, or a date or a local time in the time zone.
fn parse_moment(text: &str, zone: &TimeZone) -> Result<Timestamp, String> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at);
    }
    let local = text.parse::<civil::DateTime>().or_else(|_| text.parse::<civil::Date>().map(civil::DateTime::from));
    let zoned = local.and_then(|local| local.to_zoned(zone.clone())).map_err(|_| {
        let text = head(text);
        format!("`{text}` is no moment: give 2026-02-05T14:00:00Z, or a date such as 2026-02-05 in the time zone")
    })?;
    Ok(Timestamp::from_millis(zoned.timestamp().as_millisecond()))
}

impl Interval {
    /// Returns the interval that suits a period, if none is named.
    pub(super) fn suiting(period: StatsPeriod) -> Self {
        match period.hours() {
            Some(hours) if hours <= 6.0 => Self::Quarter,
            Some(hours) if hours <= 72.0 => Self::Hour,
            Some(hours) if hours <= 93.0 * 24.0 => Self::Day,
            Some(hours) if hours <= 731.0 * 24.0 => Self::Week,
            _ => Self::Month,
        }
    }

    /// Returns the beginning of the interval that the moment is in.
    fn floor(self, at: &Zoned) -> Result<Zoned, jiff::Error> {
        let hour = || at.with().minute(0).second(0).subsec_nanosecond(0).build();
        match self {
            Self::Quarter => at.with().minute(at.minute() / 15 * 15).second(0).subsec_nanosecond(0).build(),
            Self::Hour => hour(),
            Self::Day => at.start_of_day(),
            Self::Week => {
                let days = i64::from(at.weekday().to_monday_zero_offset());
                at.checked_sub(days.days())?.start_of_day()
            }
            Self::Month => at.first_of_month()?.start_of_day(),
        }
    }

    /// Returns the beginning of the interval that comes `count` after the one that begins at `start`.
    fn step(self, start: &Zoned, count: i64) -> Result<Zoned, jiff::Error> {
        let span: Span = match self {
            Self::Quarter => return start.checked_add(SignedDuration::from_mins(15 * count)),
            Self::Hour => return start.checked_add(SignedDuration::from_hours(count)),
            Self::Day => count.days(),
            Self::Week => count.weeks(),
            Self::Month => count.months(),
        };
        start.checked_add(span)?.start_of_day()
    }

    /// Returns the beginnings of the intervals that cover a period, and the end of the last.
    pub(super) fn edges(self, period: StatsPeriod, zone: &TimeZone) -> Result<Vec<Timestamp>, Problem> {
        let end = period.until.unwrap_or(period.asked_at);
        let start = period.since.unwrap_or(end);
        self.intervals(start, end, zone).unwrap_or_else(|error| Err(unrepresentable(&error)))
    }

    /// Returns as many edges, which end where `edges` begin.
    pub(super) fn edges_before(self, edges: &[Timestamp], zone: &TimeZone) -> Result<Vec<Timestamp>, Problem> {
        let Some(first) = edges.first() else { return Ok(Vec::new()) };
        let before = || -> Result<Vec<Timestamp>, jiff::Error> {
            let first = zoned(*first, zone)?;
            let count = i64::try_from(edges.len() - 1).unwrap_or(i64::MAX);
            (-count..=0).map(|step| self.step(&first, step).map(|edge| timestamp(&edge))).collect()
        };
        before().map_err(|error| unrepresentable(&error))
    }

    fn intervals(
        self,
        start: Timestamp,
        end: Timestamp,
        zone: &TimeZone,
    ) -> Result<Result<Vec<Timestamp>, Problem>, jiff::Error> {
        let first = self.floor(&zoned(start, zone)?)?;
        let mut edges = vec![timestamp(&first)];
        while edges.last().is_some_and(|last| *last < end) {
            if edges.len() > MAX_INTERVALS {
                let reason =
                    format!("makes more than {MAX_INTERVALS} intervals: choose a longer one, or a shorter period");
                return Ok(Err(Problem::invalid(vec![FieldError::new("interval", reason)])));
            }
            let count = i64::try_from(edges.len()).unwrap_or(i64::MAX);
            edges.push(timestamp(&self.step(&first, count)?));
        }
        Ok(Ok(edges))
    }
}

fn unrepresentable(error: &jiff::Error) -> Problem {
    Problem::invalid(vec![FieldError::new("since", format!("is outside of the calendar: {error}"))])
}

fn zoned(at: Timestamp, zone: &TimeZone) -> Result<Zoned, jiff::Error> {
    Ok(jiff::Timestamp::from_millisecond(at.as_millis())?.to_zoned(zone.clone()))
}

/// Returns the moment on a quarter of an hour: local mean times of the nineteenth century are on none.
fn timestamp(zoned: &Zoned) -> Timestamp {
    Timestamp::from_millis(zoned.timestamp().as_second().div_euclid(QUARTER_S) * QUARTER_S * 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn edges(interval: Interval, since: &str, until: &str, zone: &str) -> Vec<String> {
        let period = StatsPeriod { since: Some(at(since)), until: Some(at(until)), asked_at: at(until) };
        let edges = interval.edges(period, &TimeZone::get(zone).unwrap()).unwrap();
        edges.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_window_ends_now_and_a_range_is_of_the_time_zone() {
        let now = at("2026-07-10T12:00:00Z");
        let query = TimeQuery { window: Some("36h"), ..TimeQuery::default() };
        let period = query.period(None, now).unwrap();
        assert_eq!((period.since, period.until), (Some(at("2026-07-09T00:00:00Z")), None));
        let query = TimeQuery {
            since: Some("2026-07-01"),
            until: Some("2026-07-02T06:30"),
            timezone: Some("Asia/Kolkata"),
            ..TimeQuery::default()
        };
        let period = query.period(Some("7d"), now).unwrap();
        assert_eq!(period.since, Some(at("2026-06-30T18:30:00Z")));
        assert_eq!(period.until, Some(at("2026-07-02T01:00:00Z")));
        assert_eq!(TimeQuery::default().period(None, now).unwrap(), StatsPeriod::ever(now));
        for (query, field) in [
            (TimeQuery { window: Some("1y"), ..TimeQuery::default() }, "window"),
            (TimeQuery { window: Some("0h"), ..TimeQuery::default() }, "window"),
            (TimeQuery { window: Some("9999999999d"), ..TimeQuery::default() }, "window"),
            (TimeQuery { window: Some("\u{e9}"), ..TimeQuery::default() }, "window"),
            (TimeQuery { window: Some("1h"), since: Some("2026-07-01"), ..TimeQuery::default() }, "window"),
            (TimeQuery { since: Some("yesterday"), ..TimeQuery::default() }, "since"),
            (TimeQuery { since: Some("2027-01-01"), ..TimeQuery::default() }, "since"),
            (TimeQuery { timezone: Some("Mars/Base"), ..TimeQuery::default() }, "timezone"),
        ] {
            let problem = query.period(None, now).unwrap_err();
            assert_eq!(problem.errors[0].field, field, "{query:?}");
        }
    }

    #[test]
    fn days_are_those_of_the_time_zone_also_when_clocks_change() {
        assert_eq!(
            edges(Interval::Day, "2026-03-28T12:00:00Z", "2026-03-30T00:00:00Z", "Europe/Berlin"),
            [
                "2026-03-27T23:00:00.000Z",
                "2026-03-28T23:00:00.000Z",
                "2026-03-29T22:00:00.000Z",
                "2026-03-30T22:00:00.000Z"
            ]
        );
        assert_eq!(
            edges(Interval::Hour, "2026-07-01T10:20:00Z", "2026-07-01T11:30:00Z", "Asia/Kolkata"),
            ["2026-07-01T09:30:00.000Z", "2026-07-01T10:30:00.000Z", "2026-07-01T11:30:00.000Z"]
        );
        assert_eq!(
            edges(Interval::Week, "2026-07-01T10:20:00Z", "2026-07-06T00:00:00Z", "UTC"),
            ["2026-06-29T00:00:00.000Z", "2026-07-06T00:00:00.000Z"]
        );
        assert_eq!(
            edges(Interval::Month, "2026-01-31T10:20:00Z", "2026-03-01T00:00:01Z", "UTC"),
            [
                "2026-01-01T00:00:00.000Z",
                "2026-02-01T00:00:00.000Z",
                "2026-03-01T00:00:00.000Z",
                "2026-04-01T00:00:00.000Z"
            ]
        );
    }

    #[test]
    fn the_intervals_before_are_as_many() {
        let zone = TimeZone::get("UTC").unwrap();
        let before = Interval::Month.edges_before(&[at("2026-03-01T00:00:00Z"), at("2026-04-01T00:00:00Z")], &zone);
        assert_eq!(before.unwrap(), [at("2026-02-01T00:00:00Z"), at("2026-03-01T00:00:00Z")]);
        let long =
            StatsPeriod { since: Some(at("2020-01-01T00:00:00Z")), until: None, asked_at: at("2026-01-01T00:00:00Z") };
        assert!(Interval::Hour.edges(long, &zone).is_err());
        assert_eq!(Interval::suiting(long), Interval::Month);
    }
}
