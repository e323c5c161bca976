//! The conversion of a record: into rows of the table that it belongs to, into nothing,
//! or into the reason of a dead letter.

use schemas::{Attempt, Envelope, Event, EventName, Topic, audit::AuditAction};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use store::{
    Table,
    rows::{self, NoRow, Source},
};

use super::block::RecordRows;

/// Adds the rows of a record of `topic` to `record`: none where no table counts the record (a
/// test). The error says why the record cannot be rows.
pub(super) fn rows(
    topic: Topic,
    value: Option<&[u8]>,
    source: Source<'_>,
    record: &mut RecordRows<'_>,
) -> Result<(), String> {
    let value = value.ok_or("the record is empty")?;
    match topic {
        Topic::Clicks => record.add(Table::Clicks, |block| rows::click(value, source, block)).map_err(no_row),
        Topic::Events => {
            let envelope: Envelope<'_, &RawValue> = serde_json::from_slice(value).map_err(unreadable)?;
            known(envelope.v)?;
            if envelope.endpoint.is_some() {
                return Ok(());
            }
            let body = envelope.event.get();
            let event: Event<'_> = serde_json::from_str(body).map_err(unreadable)?;
            let table = match (event.event, AuditAction::of(event.event)) {
                (EventName::LinkConverted, _) => Table::Conversions,
                (_, Some(_)) => Table::Audit,
                _ => Table::LinkEvents,
            };
            let write = |block: &mut Vec<u8>| match table {
                Table::Conversions => rows::conversion(&envelope.workspace, &event, source, block),
                Table::Audit => rows::audit(&envelope.workspace, &event, source, block),
                _ => rows::link_event(&envelope.workspace, &event, body, source, block),
            };
            record.add(table, |block| write(block).map(|()| Some(event.timestamp))).map_err(no_row)
        }
        Topic::Attempts => {
            let attempt: Attempt = owned(value)?;
            attempt.events.iter().try_for_each(|event| {
                let write =
                    |block: &mut Vec<u8>| rows::delivery(&attempt, event, source, block).map(|()| Some(attempt.at));
                record.add(Table::Deliveries, write).map_err(no_row)
            })
        }
        _ => Err("no table has rows of this topic".to_owned()),
    }
}

fn owned<T: DeserializeOwned>(value: &[u8]) -> Result<T, String> {
    serde_json::from_slice(value).map_err(unreadable)
}

#[allow(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn unreadable(error: serde_json::Error) -> String {
    format!("the record cannot be read: {error}")
}

#[allow(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn no_row(error: NoRow) -> String {
    error.to_string()
}

fn known(version: u8) -> Result<(), String> {
    if version == 1 { Ok(()) } else { Err(format!("the record's format is version {version}, only 1 is known")) }
}

#[cfg(test)]
mod tests {
    use schemas::{AttemptId, AttemptedEvent, BatchId, EndpointId, EventId, Outcome, Timestamp, WorkspaceId, sample};

    use super::{super::block::OpenBlock, *};

    const SOURCE: Source<'_> = Source { topic: "t", partition: 0, offset: 0 };

    fn envelope(name: EventName, endpoint: Option<EndpointId>) -> Vec<u8> {
        let event = sample::event(name, Timestamp::from_millis(5));
        serde_json::to_vec(&Envelope { v: 1, workspace: "default".into(), ip_key: None, endpoint, event }).unwrap()
    }

    /// Returns the tables and times of a record's rows, or the reason why there are none, and
    /// the bytes of the rows.
    fn of(topic: Topic, value: Option<&[u8]>) -> (Result<Vec<(Table, Timestamp)>, String>, usize) {
        let mut block = OpenBlock::default();
        let pushed = block.push(0, |record| rows(topic, value, SOURCE, record));
        let bytes = block.bytes();
        block.pass(0);
        let rows = block.close().unwrap().rows;
        (pushed.map(|()| rows.iter().map(|row| (row.table, row.at)).collect()), bytes)
    }

    #[test]
    fn an_event_is_a_row_of_the_table_of_its_kind() {
        for (topic, name, table) in [
            (Topic::Clicks, EventName::LinkClicked, Table::Clicks),
            (Topic::Events, EventName::LinkUpdated, Table::LinkEvents),
            (Topic::Events, EventName::LinkConverted, Table::Conversions),
            (Topic::Events, EventName::AuditRotated, Table::Audit),
        ] {
            let (rows, length) = of(topic, Some(&envelope(name, None)));
            assert_eq!(rows, Ok(vec![(table, Timestamp::from_millis(5))]));
            assert!(length > 100);
        }
    }

    #[test]
    fn an_attempt_is_a_row_for_each_of_its_events() {
        let event =
            |bits| AttemptedEvent { id: EventId::from_bits(bits), event: EventName::LinkClicked, outcome: None };
        let at = Timestamp::from_millis(5);
        let attempt = Attempt {
            v: 2,
            id: AttemptId::mint(),
            endpoint: EndpointId::from_bits(1),
            workspace: WorkspaceId::default(),
            batch: Some(BatchId::from_bits(1)),
            events: (0..3).map(event).collect(),
            attempt: 1,
            at,
            duration_ms: 1,
            outcome: Outcome::Delivered,
            status: Some(200),
            error: None,
            response: None,
        };
        let (rows, _) = of(Topic::Attempts, Some(&serde_json::to_vec(&attempt).unwrap()));
        assert_eq!(rows, Ok(vec![(Table::Deliveries, at); 3]));
    }

    #[test]
    fn a_test_is_counted_by_no_table() {
        let endpoint = Some(EndpointId::from_bits(1));
        for (topic, name) in [
            (Topic::Clicks, EventName::LinkClicked),
            (Topic::Events, EventName::LinkClicked),
            (Topic::Events, EventName::LinkConverted),
        ] {
            assert_eq!(of(topic, Some(&envelope(name, endpoint))), (Ok(vec![]), 0));
        }
    }

    #[test]
    fn a_record_that_is_no_row_says_why_and_leaves_nothing() {
        for (topic, value, why) in [
            (Topic::Clicks, envelope(EventName::LinkCreated, None), "not a click"),
            (Topic::Clicks, b"{".to_vec(), "cannot be read"),
            (Topic::Attempts, b"{}".to_vec(), "missing field"),
            (Topic::Events, br#"{"v":9,"workspace":"w","event":{}}"#.to_vec(), "version 9"),
            (Topic::Links, b"{}".to_vec(), "no table"),
        ] {
            let (outcome, length) = of(topic, Some(&value));
            assert!(outcome.as_ref().is_err_and(|error| error.contains(why)), "{outcome:?}");
            assert_eq!(length, 0);
        }
        assert!(of(Topic::Clicks, None).0.is_err());
    }
}
