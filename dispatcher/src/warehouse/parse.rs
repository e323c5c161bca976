//! The conversion of a record: into a row of its topic's table, into nothing, or into
//! the reason of a dead letter.

use schemas::{Attempt, Envelope, Event, Timestamp, Topic};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use store::{
    Table,
    rows::{self, Source},
};

/// Returns the table of a topic's rows; none for a topic that the warehouse does not
/// read.
pub(super) const fn table(topic: Topic) -> Option<Table> {
    match topic {
        Topic::Clicks => Some(Table::Clicks),
        Topic::Events => Some(Table::LinkEvents),
        Topic::Attempts => Some(Table::Deliveries),
        _ => None,
    }
}

/// Appends the row of a record to `block` and returns the row's time, or none where no
/// table counts the record (a test). The error says why the record cannot be a row;
/// nothing is appended then.
pub(super) fn row(
    table: Table,
    value: Option<&[u8]>,
    source: Source<'_>,
    block: &mut Vec<u8>,
) -> Result<Option<Timestamp>, String> {
    let value = value.ok_or("the record is empty")?;
    match table {
        Table::Clicks => {
            let envelope: Envelope<'_, Event<'_>> = serde_json::from_slice(value).map_err(unreadable)?;
            known(envelope.v)?;
            if envelope.endpoint.is_some() {
                return Ok(None);
            }
            rows::click(&envelope, source, block).map_err(|error| error.to_string())?;
            Ok(Some(envelope.event.click.as_ref().map_or(envelope.event.timestamp, |click| click.timestamp)))
        }
        Table::LinkEvents => {
            let envelope: Envelope<'_, &RawValue> = serde_json::from_slice(value).map_err(unreadable)?;
            known(envelope.v)?;
            if envelope.endpoint.is_some() {
                return Ok(None);
            }
            let body = envelope.event.get();
            let event: Event<'_> = serde_json::from_str(body).map_err(unreadable)?;
            rows::link_event(&envelope.workspace, &event, body, source, block).map_err(|error| error.to_string())?;
            Ok(Some(event.timestamp))
        }
        Table::Deliveries => {
            let attempt: Attempt = owned(value)?;
            known(attempt.v)?;
            rows::delivery(&attempt, source, block).map_err(|error| error.to_string())?;
            Ok(Some(attempt.at))
        }
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

    fn of(table: Table, value: &[u8]) -> (Result<Option<Timestamp>, String>, usize) {
        let mut block = Vec::new();
        (row(table, Some(value), SOURCE, &mut block), block.len())
    }

    #[test]
    fn a_click_is_a_row_of_clicks_and_the_rest_of_link_events() {
        let (at, length) = of(Table::Clicks, &envelope(EventName::LinkClicked, None));
        assert_eq!(at, Ok(Some(Timestamp::from_millis(5))));
        assert!(length > 100);
        let (at, length) = of(Table::LinkEvents, &envelope(EventName::LinkUpdated, None));
        assert_eq!(at, Ok(Some(Timestamp::from_millis(5))));
        assert!(length > 100);
    }

    #[test]
    fn a_test_is_counted_by_no_table() {
        let endpoint = Some(EndpointId::from_bits(1));
        assert_eq!(of(Table::Clicks, &envelope(EventName::LinkClicked, endpoint)), (Ok(None), 0));
        assert_eq!(of(Table::LinkEvents, &envelope(EventName::LinkClicked, endpoint)), (Ok(None), 0));
    }

    #[test]
    fn a_record_that_is_no_row_says_why_and_leaves_nothing() {
        for (table, value, why) in [
            (Table::Clicks, envelope(EventName::LinkCreated, None), "not a click"),
            (Table::Clicks, b"{".to_vec(), "cannot be read"),
            (Table::Deliveries, b"{}".to_vec(), "missing field"),
            (Table::LinkEvents, br#"{"v":9,"workspace":"w","event":{}}"#.to_vec(), "version 9"),
        ] {
            let (outcome, length) = of(table, &value);
            assert!(outcome.as_ref().is_err_and(|error| error.contains(why)), "{outcome:?}");
            assert_eq!(length, 0);
        }
        assert!(row(Table::Clicks, None, SOURCE, &mut Vec::new()).is_err());
    }
}
