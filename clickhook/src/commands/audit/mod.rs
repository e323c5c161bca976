//! `clickhook audit`: captured = delivered + waiting + dead + skipped, for each topic and
//! endpoint; the same of lines and clicks, and of records and rows.
//!
//! Everything is counted from Kafka's logs up to one cut (`cut.rs`). Three books say what
//! has become of what: `clicks.rs`, `deliveries.rs` and `rows.rs`. They hold one slice of
//! all ids at a time (`places.rs`), so that memory is bounded; more slices read the logs
//! more often.

mod clicks;
mod cut;
mod deliveries;
mod places;
mod report;
mod rows;

use std::process::ExitCode;

use anyhow::Context;
use bus::{Bus, Change, Record};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use schemas::{
    Attempt, ClickId, ConsumerGroup, Dead, DeadOrigin, Delivery, Endpoint, EndpointId, Envelope, Event, EventName,
    Timestamp, Topic,
};
use serde::Deserialize;
use store::Store;
use tokio::task::block_in_place;

use self::{
    clicks::{ClickBook, CountedClicks},
    cut::{LogCut, LogStart, place},
    deliveries::{CountedDeliveries, DeliveryBook, RecordedFate, Subscribers},
    places::{IdSlice, RecordPlace},
    report::AuditReport,
    rows::RowBook,
};
use crate::{commands::since::Since, config, roles::RoleArgs};

/// The facts that a book holds in memory at most, about 100 bytes each.
const MAX_NOTED: usize = 8_000_000;

/// The arguments of `clickhook audit`.
#[derive(Debug, Args)]
#[command(after_help = r"The exit code is 0 if everything balances, and 1 if not.

Everything may run meanwhile. The committed offsets of the groups are read first, at the
moment that the output names, and the topics are read to their ends after it. Of each table
the output says from which records its figures are.

Examples:
  clickhook audit
  clickhook audit --since 7d --json
  clickhook audit --endpoint ep_01JC… --differences")]
pub(crate) struct AuditArgs {
    /// The time from which on events are counted: before now, as in 90m, 24h or 7d, or a
    /// moment such as 2026-02-05T14:00:00Z. What Kafka has deleted is left out.
    #[arg(long, default_value = "24h", value_name = "TIME")]
    since: Since,
    /// Show the deliveries of one endpoint alone.
    #[arg(long, value_name = "ID")]
    endpoint: Option<EndpointId>,
    /// List what is missing or doubled: its id and the place of its record.
    #[arg(long)]
    differences: bool,
    /// Leave ClickHouse out.
    #[arg(long)]
    without_rows: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    role: RoleArgs,
}

/// Runs `clickhook audit`. The exit code is a failure if something does not balance.
pub(crate) async fn run(args: &AuditArgs) -> anyhow::Result<ExitCode> {
    let config = config::load(args.role.config.as_deref())?;
    let bus = Bus::new(config.kafka);
    let asked = args.since.moment();
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::with_template("{spinner} {pos} records read, {per_sec}").context("make a bar")?);
    let mut report = block_in_place(|| count(&bus, asked, args.endpoint, bar.clone()))?;
    bar.finish_and_clear();
    if !args.without_rows {
        let store = Store::new(config.clickhouse)?;
        let (rows, since) = (std::mem::take(&mut report.row_book), report.deliveries_since);
        let rows = rows.compare(&store, since, |topic| bus.topics().name(topic)).await;
        report.rows = Some(rows.context("count rows (or leave them out with --without-rows)")?);
    }
    report.tell(args, &bus);
    Ok(if report.is_balanced() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Counts all that Kafka knows of. Blocks.
fn count(bus: &Bus, asked: Timestamp, only: Option<EndpointId>, bar: ProgressBar) -> anyhow::Result<AuditReport> {
    bus.refresh_partitions()?;
    let cut = LogCut::take(bus, bar)?;
    let clicks_since = cut.kept_since(&[Topic::ClicksRaw, Topic::Clicks])?.max(Some(asked)).unwrap_or(asked);
    let kept = cut.kept_since(&[Topic::Clicks, Topic::Events, Topic::Attempts])?;
    let deliveries_since = kept.max(Some(asked)).unwrap_or(asked);
    // After the cut: an endpoint that is known is asked for what it wants by then.
    let subscribers = Subscribers::new(endpoints(bus)?);
    let clicks = in_slices(|slice| count_clicks(&cut, slice, clicks_since), CountedClicks::add)?;
    let mut row_book = RowBook::default();
    let deliveries = in_slices(
        |slice| {
            let rows = if slice.is_first() { Some(&mut row_book) } else { None };
            count_deliveries(&cut, slice, deliveries_since, &subscribers, only, rows)
        },
        CountedDeliveries::add,
    )?;
    let at = cut.at;
    Ok(AuditReport { at, clicks_since, clicks, deliveries_since, deliveries, subscribers, row_book, rows: None })
}

/// Adds up the slices of all ids, as many as memory asks for. A slice that does not fit
/// into memory is none.
fn in_slices<C: Default>(
    mut count: impl FnMut(IdSlice) -> anyhow::Result<Option<C>>,
    add: impl Fn(&mut C, C),
) -> anyhow::Result<C> {
    let mut slices = 1;
    loop {
        let mut sum = C::default();
        let mut fits = true;
        for slice in IdSlice::all(slices) {
            let Some(counted) = count(slice)? else {
                fits = false;
                break;
            };
            add(&mut sum, counted);
        }
        if fits {
            return Ok(sum);
        }
        slices *= 2;
    }
}

fn endpoints(bus: &Bus) -> anyhow::Result<Vec<Endpoint>> {
    let mut known = std::collections::BTreeMap::new();
    let reader = bus.committed_reader("audit")?;
    let apply = |_, change: Change<'_>| match change {
        Change::Put { key, value } => {
            if let Ok(endpoint) = serde_json::from_slice::<Endpoint>(value) {
                known.insert(key.to_vec(), endpoint);
            }
        }
        Change::Delete { key } => drop(known.remove(key)),
        Change::Coming { .. } | Change::CaughtUp => {}
    };
    reader.read(&[Topic::Endpoints], || false, apply).context("read the endpoints")?;
    Ok(known.into_values().collect())
}

fn count_clicks(cut: &LogCut, slice: IdSlice, since: Timestamp) -> anyhow::Result<Option<CountedClicks>> {
    let mut book = ClickBook::new(slice, since);
    let from = LogStart::Before(since);
    let read_dead = cut.read(&[Topic::Dead], from, |record| {
        if let Some(dead) = read::<Dead>(record)
            && cut.topic(&dead.origin.topic) == Some(Topic::ClicksRaw)
        {
            book.dead(&dead.origin);
        }
        book.noted() <= MAX_NOTED
    })?;
    let read_clicks = read_dead
        && cut.read(&[Topic::Clicks], from, |record| {
            if let Some(click) = str::from_utf8(record.key()).ok().and_then(|key| key.parse::<ClickId>().ok()) {
                book.recorded(click);
            }
            book.noted() <= MAX_NOTED
        })?;
    let read_lines = read_clicks
        && cut.read(&[Topic::ClicksRaw], from, |record| {
            let place = place(record);
            book.bundle(place, record.value().unwrap_or_default(), cut.progress(place));
            book.noted() <= MAX_NOTED
        })?;
    Ok(read_lines.then(|| book.finish()))
}

fn count_deliveries(
    cut: &LogCut,
    slice: IdSlice,
    since: Timestamp,
    subscribers: &Subscribers,
    only: Option<EndpointId>,
    mut rows: Option<&mut RowBook>,
) -> anyhow::Result<Option<CountedDeliveries>> {
    let mut book = DeliveryBook::new(slice, subscribers, only);
    let (events_from, traces_from) = (LogStart::At(since), LogStart::Before(since));
    if let Some(rows) = rows.as_deref_mut() {
        *rows = RowBook::default();
        for partition in cut.partitions(&[Topic::Clicks, Topic::Events, Topic::Attempts]) {
            let from = if partition.topic == Topic::Attempts { traces_from } else { events_from };
            rows.partition(partition, cut.start(partition, from)?, cut.stored_below(partition));
        }
    }
    let read_attempts = cut.read(&[Topic::Attempts], traces_from, |record| {
        if let Some(rows) = rows.as_deref_mut() {
            rows.record(place(record));
        }
        if let Some(attempt) = read::<Attempt>(record) {
            for event in &attempt.events {
                let (outcome, _) = attempt.end_of(event);
                RecordedFate::of_attempt(outcome)
                    .into_iter()
                    .for_each(|fate| book.fate(event.id, attempt.endpoint, fate));
            }
        }
        book.noted() <= MAX_NOTED
    })?;
    let read_delays = read_attempts
        && cut.read(ConsumerGroup::WebhookDelay.topics(), LogStart::Undone, |record| {
            if let Some(delivery) = read::<Delivery>(record)
                && cut.progress(place(record)) == places::RecordProgress::Open
            {
                let fate = if delivery.held_since.is_some() { RecordedFate::Held } else { RecordedFate::Delayed };
                delivery.events.iter().for_each(|event| book.fate(event.id, delivery.endpoint, fate));
            }
            book.noted() <= MAX_NOTED
        })?;
    let read_dead = read_delays
        && cut.read(&[Topic::Dead], traces_from, |record| {
            let Some(dead) = read::<Dead>(record) else { return true };
            match dead.delivery_ids() {
                Some((event, endpoint)) => book.fate(event, endpoint, RecordedFate::Dead),
                None => {
                    if let Some(place) = origin(cut, &dead.origin) {
                        book.dead_record(place);
                        if let Some(rows) = rows.as_deref_mut() {
                            rows.dead(place);
                        }
                    }
                }
            }
            book.noted() <= MAX_NOTED
        })?;
    let read_events = read_dead
        && cut.read(&[Topic::Clicks, Topic::Events], events_from, |record| {
            let (place, at) = (place(record), record.timestamp().unwrap_or(cut.at));
            match read::<Envelope<'_, Event<'_>>>(record) {
                Some(envelope) => {
                    if let Some(rows) = rows.as_deref_mut()
                        && envelope.endpoint.is_none()
                    {
                        rows.record(place);
                        if envelope.event.event == EventName::PersonErased {
                            rows.erasure();
                        }
                    }
                    book.event(&envelope, at, place, cut.progress(place));
                }
                None => {
                    if let Some(rows) = rows.as_deref_mut() {
                        rows.record(place);
                    }
                    book.unreadable(place, cut.progress(place));
                }
            }
            book.noted() <= MAX_NOTED
        })?;
    Ok(read_events.then(|| book.finish()))
}

/// Returns the content of a record, if it can be read.
fn read<'r, T: Deserialize<'r>>(record: &'r Record<'_>) -> Option<T> {
    serde_json::from_slice(record.value().unwrap_or_default()).ok()
}

/// Returns the place of the record that a dead letter is of.
fn origin(cut: &LogCut, origin: &DeadOrigin) -> Option<RecordPlace> {
    let partition = bus::Partition { topic: cut.topic(&origin.topic)?, index: origin.partition };
    Some(RecordPlace { partition, offset: origin.offset })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_into_memory_is_counted_in_more_slices() {
        let mut asked = 0;
        let sum = in_slices(
            |slice| {
                asked += 1;
                let ids: Vec<u128> = (0..8).filter(|id| slice.contains(*id)).collect();
                Ok((ids.len() <= 2).then_some(ids.len()))
            },
            |sum: &mut usize, slice| *sum += slice,
        );
        assert_eq!(sum.unwrap(), 8);
        assert_eq!(asked, 1 + 1 + 4);
    }
}
