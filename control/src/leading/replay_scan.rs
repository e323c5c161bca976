//! The search for the events of a replay: it reads the topics `clicks` and `events`, and where events are named, also
//! dead letters, which Kafka keeps for longer. It blocks, and knows nothing of who asks.

use std::{
    collections::{HashSet, VecDeque},
    ops::Range,
    time::Duration,
};

use bus::{Bus, BusError, LogReader, Partition};
use schemas::{
    Dead, DeliveredEvent, Delivery, Endpoint, Envelope, Event, EventId, Replay, Timestamp, Topic,
    replay::{ReplayChoice, ReplayPosition},
};
use serde_json::value::RawValue;

/// The most records that one step reads.
const RECORDS: i64 = 50_000;
/// The most events that one step finds.
const EVENTS: usize = 500;
/// The bytes of bodies at which a step ends.
const BYTES: usize = 1 << 20;
/// The time by which an event can be recorded before its own time: clocks differ, and conversions have times that
/// their reporters give them.
const EARLIEST: Duration = Duration::from_secs(24 * 3600);

/// The events that are looked for.
pub(super) enum WantedEvents {
    /// Those that the endpoint asks for.
    Subscribed,
    /// Those with these ids. An id that was found is removed.
    Ids(HashSet<EventId>),
}

/// A search under way.
pub(super) struct ReplayScan {
    reader: LogReader,
    wanted: WantedEvents,
    /// The ranges that are left to be read, the current one first.
    ranges: VecDeque<(Partition, Range<i64>)>,
    /// The number of records of all ranges, read ones included.
    records: u64,
    read: u64,
}

/// The result of a step.
pub(super) struct FoundEvents {
    pub(super) deliveries: Vec<Delivery>,
    /// The place at which the next step begins; none at the end.
    pub(super) position: Option<ReplayPosition>,
    pub(super) records: u64,
    pub(super) read: u64,
}

impl ReplayScan {
    /// Plans the search of a replay, from the place at which it was interrupted.
    ///
    /// # Errors
    /// When Kafka does not answer.
    pub(super) fn plan(bus: &Bus, replay: &Replay, wanted: WantedEvents) -> Result<Self, BusError> {
        let reader = bus.log_reader("replay")?;
        let (topics, since): (&[Topic], Timestamp) = match (&wanted, &replay.choice) {
            (WantedEvents::Ids(ids), _) => (&[Topic::Clicks, Topic::Events, Topic::Dead], earliest(ids)),
            (WantedEvents::Subscribed, ReplayChoice::Time { since, .. } | ReplayChoice::Outcome { since, .. }) => {
                (&[Topic::Clicks, Topic::Events], *since)
            }
            (WantedEvents::Subscribed, ReplayChoice::Events { .. }) => (&[], Timestamp::from_millis(0)),
        };
        let mut scan = Self { reader, wanted, ranges: VecDeque::new(), records: 0, read: 0 };
        let mut is_read = replay.position.is_some();
        for topic in topics {
            for index in 0..i32::from(bus.partitions(*topic)) {
                let partition = Partition { topic: *topic, index };
                let log = scan.reader.range(partition)?;
                let mut range = scan.reader.offset_at(partition, since)?.max(log.start)..log.end;
                if let (WantedEvents::Subscribed, ReplayChoice::Time { until, .. }) = (&scan.wanted, &replay.choice) {
                    range.end = scan.reader.offset_at(partition, *until)?.min(log.end);
                }
                let records = u64::try_from(range.end - range.start).unwrap_or(0);
                scan.records += records;
                if let Some(position) = &replay.position
                    && position.topic == topic.suffix()
                    && position.partition == index
                {
                    is_read = false;
                    scan.read += u64::try_from(position.offset - range.start).unwrap_or(0).min(records);
                    range.start = range.start.max(position.offset);
                } else if is_read {
                    scan.read += records;
                }
                if !is_read && !range.is_empty() {
                    scan.ranges.push_back((partition, range));
                }
            }
        }
        Ok(scan)
    }

    /// Reads on until there are enough events for one transaction.
    ///
    /// # Errors
    /// When Kafka does not answer.
    pub(super) fn next(&mut self, endpoint: &Endpoint) -> Result<FoundEvents, BusError> {
        let mut deliveries = Vec::new();
        let (mut left, mut bytes) = (RECORDS, 0);
        while left > 0 && deliveries.len() < EVENTS && bytes < BYTES {
            let Some((partition, range)) = self.ranges.front_mut() else { break };
            let end = range.end.min(range.start + left);
            let mut next = end;
            self.reader.read(
                *partition,
                range.start..end,
                || false,
                |record| {
                    let value = record.value().unwrap_or_default();
                    let traceparent = record.header("traceparent").and_then(|text| str::from_utf8(text).ok());
                    if let Some(delivery) = found(partition.topic, value, traceparent, endpoint, &mut self.wanted) {
                        bytes += delivery.events.iter().map(|event| event.body.len()).sum::<usize>();
                        deliveries.push(delivery);
                    }
                    let has_room = deliveries.len() < EVENTS && bytes < BYTES;
                    if !has_room {
                        next = record.offset() + 1;
                    }
                    has_room
                },
            )?;
            left -= next - range.start;
            self.read += u64::try_from(next - range.start).unwrap_or(0);
            range.start = next;
            if range.is_empty() {
                self.ranges.pop_front();
            }
            if matches!(&self.wanted, WantedEvents::Ids(ids) if ids.is_empty()) {
                self.ranges.clear();
                self.read = self.records;
            }
        }
        let position = self.ranges.front().map(|(partition, range)| ReplayPosition {
            topic: partition.topic.suffix().to_owned(),
            partition: partition.index,
            offset: range.start,
        });
        Ok(FoundEvents { deliveries, position, records: self.records, read: self.read })
    }
}

/// Returns the earliest time at which one of the events can have been recorded.
fn earliest(ids: &HashSet<EventId>) -> Timestamp {
    let first = ids.iter().map(|id| i64::try_from(id.bits() >> 80).unwrap_or(0)).min().unwrap_or(0);
    let before = i64::try_from(EARLIEST.as_millis()).unwrap_or(0);
    Timestamp::from_millis((first - before).max(0))
}

/// Returns the delivery of a record's event, if it is wanted.
fn found(
    topic: Topic,
    value: &[u8],
    traceparent: Option<&str>,
    endpoint: &Endpoint,
    wanted: &mut WantedEvents,
) -> Option<Delivery> {
    if topic == Topic::Dead {
        let WantedEvents::Ids(ids) = wanted else { return None };
        let delivery = serde_json::from_slice::<Dead>(value).ok()?.delivery?;
        let is_wanted = delivery.endpoint == endpoint.id && ids.remove(&delivery.events.first()?.id);
        return is_wanted.then(|| fresh(endpoint, delivery.events));
    }
    let envelope: Envelope<'_, &RawValue> = serde_json::from_slice(value).ok()?;
    if envelope.workspace != endpoint.workspace.as_str() {
        return None;
    }
    let event: Event<'_> = serde_json::from_str(envelope.event.get()).ok()?;
    let is_wanted = match wanted {
        // Samples are for no time.
        WantedEvents::Subscribed => {
            let is_subscribed = || endpoint.events.iter().any(|subscription| subscription.covers(event.event));
            envelope.endpoint.is_none() && is_subscribed() && endpoint.filters.pass(&event)
        }
        WantedEvents::Ids(ids) => envelope.endpoint.is_none_or(|named| named == endpoint.id) && ids.remove(&event.id),
    };
    is_wanted.then(|| {
        let body = envelope.event.get().to_owned();
        let traceparent = traceparent.map(ToOwned::to_owned);
        fresh(endpoint, vec![DeliveredEvent { id: event.id, name: event.event, body, traceparent }])
    })
}

/// Returns a delivery of which no attempt was made.
fn fresh(endpoint: &Endpoint, events: Vec<DeliveredEvent>) -> Delivery {
    Delivery {
        v: 2,
        endpoint: endpoint.id,
        workspace: endpoint.workspace.clone(),
        attempt: 1,
        due: Timestamp::now(),
        held_since: None,
        packing: None,
        format: None,
        events,
    }
}
