//! The output of an audit: tables with the sources of their figures for people, JSON for
//! programs.

use bus::Bus;
use schemas::{Timestamp, Topic};
use serde_json::{Value, json};

use super::{
    AuditArgs,
    clicks::{ClickCounts, CountedClicks},
    deliveries::{CountedDeliveries, DeliveryCounts, Subscribers},
    rows::{CountedRows, RowBook},
};
use crate::output::{self, Columns};

/// The columns of the table of clicks.
const CLICKS: Columns<'_> = &[
    ("captured", "/captured"),
    ("recorded", "/recorded"),
    ("waiting", "/waiting"),
    ("dead", "/dead"),
    ("second copies", "/second_copies"),
    ("missing", "/missing"),
    ("doubled", "/doubled"),
];
/// The columns of the table of deliveries.
const DELIVERIES: Columns<'_> = &[
    ("endpoint", "/endpoint"),
    ("topic", "/topic"),
    ("captured", "/captured"),
    ("delivered", "/delivered"),
    ("waiting", "/waiting/total"),
    ("dead", "/dead"),
    ("skipped", "/skipped"),
    ("missing", "/missing"),
];
/// The columns of the table of rows.
const ROWS: Columns<'_> = &[
    ("topic", "/topic"),
    ("captured", "/captured"),
    ("stored", "/stored"),
    ("waiting", "/waiting"),
    ("dead", "/dead"),
    ("missing", "/missing"),
    ("doubled", "/doubled"),
];

/// The result of an audit.
pub(super) struct AuditReport {
    /// The moment of the cut.
    pub(super) at: Timestamp,
    pub(super) clicks_since: Timestamp,
    pub(super) clicks: CountedClicks,
    pub(super) deliveries_since: Timestamp,
    pub(super) deliveries: CountedDeliveries,
    pub(super) subscribers: Subscribers,
    pub(super) row_book: RowBook,
    pub(super) rows: Option<CountedRows>,
}

impl AuditReport {
    pub(super) fn is_balanced(&self) -> bool {
        let deliveries = self.deliveries.counts.values().all(|counts| counts.missing == 0);
        let unreadable = self.deliveries.unreadable.values().all(|counts| counts.missing == 0);
        let rows = self.rows.iter().flat_map(|rows| &rows.counts).all(|(_, counts)| counts.is_balanced());
        self.clicks.counts.is_balanced() && deliveries && unreadable && rows
    }

    /// Prints the report.
    pub(super) fn tell(&self, args: &AuditArgs, bus: &Bus) {
        let endpoints = self.endpoints(args);
        if args.json {
            return output::json(&self.json(args, &endpoints));
        }
        self.tell_clicks();
        self.tell_deliveries(&endpoints);
        self.tell_rows();
        if args.differences {
            self.tell_differences();
        }
        if self.is_balanced() {
            say!("balanced");
        } else if !args.differences {
            let only = args.endpoint.map(|id| format!(" --endpoint {id}")).unwrap_or_default();
            let since = self.deliveries_since.min(self.clicks_since);
            say!("NOT BALANCED. What is missing or doubled is listed by:");
            say!("  {}", bus.command(&format!("audit --since {since}{only} --differences")));
        } else {
            say!("NOT BALANCED");
        }
    }

    fn tell_clicks(&self) {
        let ClickCounts { not_counted, .. } = self.clicks.counts;
        say!("Clicks of visits since {}: clicks.raw and clicks", self.clicks_since);
        output::table(&[json!(self.clicks.counts)], CLICKS);
        say!(
            "captured: lines of clicks.raw up to its end, second copies included; {not_counted} visits that do not count"
        );
        say!(
            "are left out. recorded: clicks up to its end. waiting: not done by the offsets of group enricher at {}.",
            self.at
        );
        say!("");
    }

    fn tell_deliveries(&self, endpoints: &[Value]) {
        say!("Deliveries of events recorded since {}", self.deliveries_since);
        if endpoints.is_empty() {
            say!("none");
        } else {
            output::table(endpoints, DELIVERIES);
        }
        for (topic, unreadable) in &self.deliveries.unreadable {
            let (captured, dead) = (unreadable.captured, unreadable.dead);
            let (waiting, missing) = (unreadable.waiting, unreadable.missing);
            let topic = topic.suffix();
            say!("unreadable records of {topic}: {captured} = {dead} dead + {waiting} waiting + {missing} missing");
        }
        say!(
            "captured: events on clicks and events up to their ends that an endpoint asks for, by its events and filters,"
        );
        say!(
            "if these did not change within 10 s before or later; and those that a record names for it. delivered and"
        );
        say!(
            "skipped: attempts up to its end. dead: dead up to its end. waiting: not done by the offsets of the groups"
        );
        say!(
            "webhook.* at {}. missing: done, and no record says how; a delivery whose attempt was not logged",
            self.at
        );
        say!("(clickhook_webhook_unrecorded_attempts) is one of these.");
        say!("");
    }

    fn tell_rows(&self) {
        let Some(CountedRows { counts, .. }) = &self.rows else { return };
        say!("Rows of records since {}", self.deliveries_since);
        let rows: Vec<Value> =
            counts.iter().map(|(topic, counts)| with(json!(counts), "topic", topic.suffix())).collect();
        output::table(&rows, ROWS);
        say!(
            "captured: records up to the ends of their topics, tests left out. stored: records with a row in ClickHouse."
        );
        say!("waiting: not done by the offsets of group warehouse at {}.", self.at);
        if counts.iter().any(|(_, counts)| counts.missing > 0 && counts.erasures > 0) {
            say!("Persons were erased in this time: their rows are missing rightly, and are no difference here.");
        }
        say!("");
    }

    fn tell_differences(&self) {
        for difference in &self.clicks.differences {
            let click = difference.click.map_or_else(|| "an unreadable line".to_owned(), |click| click.to_string());
            let (place, line) = (difference.place, difference.line);
            match difference.records {
                0 => say!("missing: {click}, line {line} of {place}, is neither on clicks nor on dead"),
                records => say!("doubled: {click}, line {line} of {place}, is {records} times on clicks"),
            }
        }
        for missing in &self.deliveries.missing {
            say!("missing: {} for {}, of {}", missing.event, missing.endpoint, missing.place);
        }
        for rows in self.rows.iter().flat_map(|rows| &rows.differences) {
            let (start, end) = rows.offsets;
            say!(
                "missing: of {} records of {} from {start} to before {end}, {} have rows and {} are dead. Those with rows:",
                rows.records,
                rows.partition,
                rows.stored,
                rows.dead
            );
            say!("  {}", rows.query);
        }
    }

    /// Returns the counts of each endpoint and topic.
    fn endpoints(&self, args: &AuditArgs) -> Vec<Value> {
        let shown = |endpoint| args.endpoint.is_none_or(|only| only == endpoint);
        let rows = self.deliveries.counts.iter().filter(|((endpoint, _), _)| shown(*endpoint));
        rows.map(|((endpoint, topic), counts)| {
            let row = with(with(delivery_json(counts), "endpoint", endpoint), "topic", topic.suffix());
            with(row, "subscription_decides_since", self.subscribers.since(*endpoint))
        })
        .collect()
    }

    fn json(&self, args: &AuditArgs, endpoints: &[Value]) -> Value {
        let mut total = DeliveryCounts::default();
        for ((endpoint, _), counts) in &self.deliveries.counts {
            if args.endpoint.is_none_or(|only| only == *endpoint) {
                total.add(counts);
            }
        }
        let unreadable: serde_json::Map<String, Value> = self
            .deliveries
            .unreadable
            .iter()
            .map(|(topic, counts)| (topic.suffix().to_owned(), json!(counts)))
            .collect();
        let rows = self.rows.as_ref().map(|rows| {
            let topics =
                rows.counts.iter().map(|(topic, counts): &(Topic, _)| with(json!(counts), "topic", topic.suffix()));
            topics.collect::<Vec<Value>>()
        });
        let mut report = json!({
            "balanced": self.is_balanced(),
            "offsets_at": self.at,
            "clicks": with(json!(self.clicks.counts), "since", self.clicks_since),
            "deliveries": {
                "since": self.deliveries_since,
                "total": delivery_json(&total),
                "endpoints": endpoints,
                "unreadable": unreadable,
            },
            "rows": rows,
        });
        if args.differences {
            report["differences"] = json!({
                "clicks": self.clicks.differences,
                "deliveries": self.deliveries.missing,
                "rows": self.rows.as_ref().map(|rows| &rows.differences),
            });
        }
        report
    }
}

fn delivery_json(counts: &DeliveryCounts) -> Value {
    let mut row = json!(counts);
    row["waiting"]["total"] = json!(counts.waiting.total());
    row
}

fn with(mut object: Value, key: &str, value: impl serde::Serialize) -> Value {
    object[key] = json!(value);
    object
}
