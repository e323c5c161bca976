//! The conversion of a record: into a row of the table that it belongs to, into nothing,
//! or into the reason of a dead letter.

use schemas::{Attempt, Envelope, Event, EventName, Timestamp, Topic};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use store::{
    Table,
    rows::{self, Source},
};

/// Appends the row of a record of `topic` to `block` and returns the row's table and time,
/// or none where no table counts the record (a test). The error says why the record cannot
/// be a row; nothing is appended then.
pub(super) fn row(
    topic: Topic,
    value: Option<&[u8]>,
    source: Source<'_>,
    block: &mut Vec<u8>,
) -> Result<Option<(Table, Timestamp)>, String> {
    let value = value.ok_or("the record is empty")?;
    match topic {
        Topic::Clicks => {
            let at = rows::click(value, source, block).map_err(|error| error.to_string())?;
            Ok(at.map(|at| (Table::Clicks, at)))
        }
        Topic::Events => {
            let envelope: Envelope<'_, &RawValue> = serde_json::from_slice(value).map_err(unreadable)?;
            known(envelope.v)?;
            if envelope.endpoint.is_some() {
                return Ok(None);
            }
            let body = envelope.event.get();
            let event: Event<'_> = serde_json::from_str(body).map_err(unreadable)?;
            let table = if event.event == EventName::LinkConverted { Table::Conversions } else { Table::LinkEvents };
            let written = match table {
                Table::Conversions => rows::conversion(&envelope.workspace, &event, source, block),
                _ => rows::link_event(&envelope.workspace, &event, body, source, block),
            };
            written.map_err(|error| error.to_string())?;
            Ok(Some((table, event.timestamp)))
        }
        Topic::Attempts => {
            let attempt: Attempt = owned(value)?;
            known(attempt.v)?;
            rows::delivery(&attempt, source, block).map_err(|error| error.to_string())?;
            Ok(Some((Table::Deliveries, attempt.at)))
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

fn known(version: u8) -> Result<(), String> {
    if version == 1 { Ok(()) } else { Err(format!("the record's format is version {version}, only 1 is known")) }
}

#[cfg(test)]
mod tests {
    use schemas::{EndpointId, EventName, sample};

    use super::*;

    const SOURCE: Source<'_> = Source { topic: "t", partition: 0, offset: 0 };

    fn envelope(name: EventName, endpoint: Option<EndpointId>) -> Vec<u8> {
        let event = sample::event(name, Timestamp::from_millis(5));
        serde_json::to_vec(&Envelope { v: 1, workspace: "default".into(), ip_key: None, endpoint, event }).unwrap()
    }

    fn of(topic: Topic, value: &[u8]) -> (Result<Option<(Table, Timestamp)>, String>, usize) {
        let mut block = Vec::new();
        (row(topic, Some(value), SOURCE, &mut block), block.len())
    }

    #[test]
    fn an_event_is_a_row_of_the_table_of_its_kind() {
        for (topic, name, table) in [
            (Topic::Clicks, EventName::LinkClicked, Table::Clicks),
            (Topic::Events, EventName::LinkUpdated, Table::LinkEvents),
            (Topic::Events, EventName::LinkConverted, Table::Conversions),
        ] {
            let (row, length) = of(topic, &envelope(name, None));
            assert_eq!(row, Ok(Some((table, Timestamp::from_millis(5)))));
            assert!(length > 100);
        }
    }

    #[test]
    fn a_test_is_counted_by_no_table() {
        let endpoint = Some(EndpointId::from_bits(1));
        for (topic, name) in [
            (Topic::Clicks, EventName::LinkClicked),
            (Topic::Events, EventName::LinkClicked),
            (Topic::Events, EventName::LinkConverted),
        ] {
            assert_eq!(of(topic, &envelope(name, endpoint)), (Ok(None), 0));
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
            let (outcome, length) = of(topic, &value);
            assert!(outcome.as_ref().is_err_and(|error| error.contains(why)), "{outcome:?}");
            assert_eq!(length, 0);
        }
        assert!(row(Topic::Clicks, None, SOURCE, &mut Vec::new()).is_err());
    }
}
