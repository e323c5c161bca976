//! The book of deliveries: each event with each endpoint that it is for has exactly one
//! fate. Pure: records are noted as they are read, and counted at the end.
//!
//! What an event is for follows from the endpoints' present subscriptions where those are
//! older than the event, and from the records that name an endpoint in any case.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use bus::Partition;
use schemas::{Endpoint, EndpointId, Envelope, Event, EventId, EventName, Filters, Outcome, Timestamp, Topic};
use serde::Serialize;

use super::places::{IdSlice, RecordPlace, RecordProgress};

/// The time that dispatchers have to learn of a change of an endpoint: events of that time
/// count only where a record names the endpoint.
const LEARNED_AFTER: Duration = Duration::from_secs(10);

/// The fate of a delivery as records tell it. Of several records the greatest fate counts:
/// a delivery that was made is delivered, whatever else was written of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RecordedFate {
    /// It waits on a delay topic for its next attempt.
    Delayed,
    /// It waits on a delay topic because its endpoint is paused.
    Held,
    Skipped,
    Dead,
    Delivered,
}

impl RecordedFate {
    /// Returns the fate that follows from an attempt, if the attempt decides it. A failed
    /// attempt decides nothing: another record says where the delivery waits, or that it
    /// is dead.
    pub(super) const fn of_attempt(outcome: Outcome) -> Option<Self> {
        match outcome {
            Outcome::Delivered => Some(Self::Delivered),
            Outcome::Skipped => Some(Self::Skipped),
            Outcome::Retrying | Outcome::Dead => None,
        }
    }
}

/// The deliveries of one endpoint that follow from one topic, by their fate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct DeliveryCounts {
    pub(super) captured: u64,
    pub(super) delivered: u64,
    pub(super) waiting: WaitingCounts,
    pub(super) dead: u64,
    pub(super) skipped: u64,
    /// Deliveries whose event is done by the committed offsets, and of which no record says
    /// what has become of them.
    pub(super) missing: u64,
}

/// The deliveries that wait, by the place where they do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct WaitingCounts {
    /// The event is not read yet, or its first attempt is under way.
    pub(super) unread: u64,
    /// A record on a delay topic waits for its time.
    pub(super) delayed: u64,
    /// A record on a delay topic waits for its paused endpoint.
    pub(super) held: u64,
}

impl WaitingCounts {
    pub(super) const fn total(self) -> u64 {
        self.unread + self.delayed + self.held
    }
}

impl DeliveryCounts {
    pub(super) fn add(&mut self, other: &Self) {
        self.captured += other.captured;
        self.delivered += other.delivered;
        self.waiting.unread += other.waiting.unread;
        self.waiting.delayed += other.waiting.delayed;
        self.waiting.held += other.waiting.held;
        self.dead += other.dead;
        self.skipped += other.skipped;
        self.missing += other.missing;
    }

    fn count(&mut self, fate: Option<RecordedFate>, progress: RecordProgress) {
        self.captured += 1;
        let counter = match (fate, progress) {
            (Some(RecordedFate::Delivered), _) => &mut self.delivered,
            (Some(RecordedFate::Dead), _) => &mut self.dead,
            (Some(RecordedFate::Skipped), _) => &mut self.skipped,
            (Some(RecordedFate::Held), _) => &mut self.waiting.held,
            (Some(RecordedFate::Delayed), _) => &mut self.waiting.delayed,
            (None, RecordProgress::Open) => &mut self.waiting.unread,
            (None, RecordProgress::Done) => &mut self.missing,
        };
        *counter += 1;
    }
}

/// The records of a topic of events that cannot be read, so that they are for no endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct UnreadableCounts {
    pub(super) captured: u64,
    pub(super) waiting: u64,
    pub(super) dead: u64,
    pub(super) missing: u64,
}

/// A delivery that nobody knows the fate of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct MissingDelivery {
    pub(super) endpoint: EndpointId,
    pub(super) event: EventId,
    /// The record of the event.
    pub(super) place: RecordPlace,
}

/// The endpoints with what they ask for, indexed as the dispatcher's are.
#[derive(Default)]
pub(super) struct Subscribers {
    known: HashMap<EndpointId, Timestamp>,
    by_event: HashMap<String, HashMap<EventName, Vec<Subscriber>>>,
}

struct Subscriber {
    id: EndpointId,
    filters: Filters,
    /// The time from which on its subscription decides.
    since: Timestamp,
}

impl Subscribers {
    pub(super) fn new(endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        let mut subscribers = Self::default();
        for endpoint in endpoints {
            let subscribed_at = endpoint.subscribed_at.unwrap_or(endpoint.updated_at);
            let since = subscribed_at.plus(LEARNED_AFTER);
            subscribers.known.insert(endpoint.id, since);
            let events = subscribers.by_event.entry(endpoint.workspace.as_str().to_owned()).or_default();
            for name in EventName::ALL.iter().copied() {
                if endpoint.events.iter().any(|subscription| subscription.covers(name)) {
                    let subscriber = Subscriber { id: endpoint.id, filters: endpoint.filters.clone(), since };
                    events.entry(name).or_default().push(subscriber);
                }
            }
        }
        subscribers
    }

    /// Returns the time from which on the endpoint's subscription decides, if it exists.
    pub(super) fn since(&self, endpoint: EndpointId) -> Option<Timestamp> {
        self.known.get(&endpoint).copied()
    }

    /// Calls `visit` with each endpoint that an event recorded at `at` is certainly for.
    fn visit(&self, envelope: &Envelope<'_, Event<'_>>, at: Timestamp, mut visit: impl FnMut(EndpointId)) {
        if let Some(named) = envelope.endpoint {
            return visit(named);
        }
        let events = self.by_event.get(&*envelope.workspace);
        let subscribers = events.and_then(|events| events.get(&envelope.event.event));
        for subscriber in subscribers.into_iter().flatten() {
            if at >= subscriber.since && subscriber.filters.pass(&envelope.event) {
                visit(subscriber.id);
            }
        }
    }
}

/// The facts that are known of one event.
#[derive(Default)]
struct EventTrace {
    counted: bool,
    fates: Vec<(EndpointId, RecordedFate)>,
}

/// The deliveries of the events of one slice. Fates are noted first, and events then.
pub(super) struct DeliveryBook<'a> {
    slice: IdSlice,
    subscribers: &'a Subscribers,
    /// The only endpoint whose missing deliveries are listed.
    only: Option<EndpointId>,
    events: HashMap<EventId, EventTrace>,
    /// The places of records on `clicks` and `events` that are dead letters themselves.
    dead: HashSet<RecordPlace>,
    noted: usize,
    counted: CountedDeliveries,
}

/// The result of an audit of deliveries.
#[derive(Default)]
pub(super) struct CountedDeliveries {
    pub(super) counts: BTreeMap<(EndpointId, Topic), DeliveryCounts>,
    pub(super) unreadable: BTreeMap<Topic, UnreadableCounts>,
    /// Missing deliveries, the first [`LISTED`](Self::LISTED) of them.
    pub(super) missing: Vec<MissingDelivery>,
}

impl CountedDeliveries {
    /// The number of missing deliveries that are listed.
    pub(super) const LISTED: usize = 1000;

    pub(super) fn add(&mut self, other: Self) {
        for (key, counts) in other.counts {
            self.counts.entry(key).or_default().add(&counts);
        }
        // Only the first slice has what has no id.
        self.unreadable.extend(other.unreadable);
        self.missing.extend(other.missing);
        self.missing.truncate(Self::LISTED);
    }
}

impl<'a> DeliveryBook<'a> {
    pub(super) fn new(slice: IdSlice, subscribers: &'a Subscribers, only: Option<EndpointId>) -> Self {
        let counted = CountedDeliveries::default();
        Self { slice, subscribers, only, events: HashMap::new(), dead: HashSet::new(), noted: 0, counted }
    }

    /// Returns the number of facts that are held in memory.
    pub(super) const fn noted(&self) -> usize {
        self.noted
    }

    /// Notes what a record says of a delivery.
    pub(super) fn fate(&mut self, event: EventId, endpoint: EndpointId, fate: RecordedFate) {
        if !self.slice.contains(event.bits()) {
            return;
        }
        let fates = &mut self.events.entry(event).or_default().fates;
        match fates.iter_mut().find(|(known, _)| *known == endpoint) {
            Some((_, known)) => *known = fate.max(*known),
            None => {
                fates.push((endpoint, fate));
                self.noted += 1;
            }
        }
    }

    /// Notes a dead letter of a record that could not be read.
    pub(super) fn dead_record(&mut self, place: RecordPlace) {
        self.dead.insert(place);
    }

    /// Counts a record of events that cannot be read.
    pub(super) fn unreadable(&mut self, place: RecordPlace, progress: RecordProgress) {
        if !self.slice.is_first() {
            return;
        }
        let counts = self.counted.unreadable.entry(place.partition.topic).or_default();
        counts.captured += 1;
        match progress {
            _ if self.dead.contains(&place) => counts.dead += 1,
            RecordProgress::Open => counts.waiting += 1,
            RecordProgress::Done => counts.missing += 1,
        }
    }

    /// Counts the deliveries of an event that was recorded at `at`. An event that was
    /// recorded twice is counted once.
    pub(super) fn event(
        &mut self,
        envelope: &Envelope<'_, Event<'_>>,
        at: Timestamp,
        place: RecordPlace,
        progress: RecordProgress,
    ) {
        let event = envelope.event.id;
        if !self.slice.contains(event.bits()) {
            return;
        }
        let Self { events, counted, noted, subscribers, only, .. } = self;
        let trace = events.entry(event).or_insert_with(|| {
            *noted += 1;
            EventTrace::default()
        });
        if std::mem::replace(&mut trace.counted, true) {
            return;
        }
        let Partition { topic, .. } = place.partition;
        let fates = &trace.fates;
        let fate = |endpoint| fates.iter().find(|(known, _)| *known == endpoint).map(|(_, fate)| *fate);
        subscribers.visit(envelope, at, |endpoint| {
            if fate(endpoint).is_some() {
                return;
            }
            counted.counts.entry((endpoint, topic)).or_default().count(None, progress);
            let is_listed = only.is_none_or(|only| only == endpoint);
            if progress == RecordProgress::Done && is_listed && counted.missing.len() < CountedDeliveries::LISTED {
                counted.missing.push(MissingDelivery { endpoint, event, place });
            }
        });
        for (endpoint, fate) in fates {
            counted.counts.entry((*endpoint, topic)).or_default().count(Some(*fate), progress);
        }
    }

    pub(super) fn finish(self) -> CountedDeliveries {
        self.counted
    }
}

#[cfg(test)]
mod tests {
    use schemas::{WorkspaceId, sample};
    use serde_json::json;

    use super::*;

    const AT: Timestamp = Timestamp::from_millis(1_770_301_425_120);
    const ENDPOINT: EndpointId = EndpointId::from_bits(1);
    const PLACE: RecordPlace = RecordPlace { partition: Partition { topic: Topic::Clicks, index: 2 }, offset: 17 };

    fn endpoint(bits: u128, filters: &str) -> Endpoint {
        let sealed = json!({"key": "", "nonce": "", "sealed": ""});
        serde_json::from_value(json!({
            "id": EndpointId::from_bits(bits), "workspace": WorkspaceId::default(), "url": "https://a.example/",
            "events": ["link.*"], "filters": serde_json::from_str::<serde_json::Value>(filters).unwrap(),
            "timeout_ms": 5000, "status": "active", "secret": sealed, "created_at": AT, "updated_at": AT,
            "subscribed_at": AT, "revision": 1,
        }))
        .unwrap()
    }

    fn click(id: u128) -> Envelope<'static, Event<'static>> {
        let event = Event { id: EventId::from_bits(id), ..sample::event(EventName::LinkClicked, AT) };
        Envelope { v: 1, workspace: "default".into(), ip_key: None, endpoint: None, event }
    }

    fn later() -> Timestamp {
        AT.plus(LEARNED_AFTER)
    }

    fn count(subscribers: &Subscribers, fill: impl FnOnce(&mut DeliveryBook<'_>)) -> CountedDeliveries {
        let mut book = DeliveryBook::new(IdSlice::ALL, subscribers, None);
        fill(&mut book);
        book.finish()
    }

    #[test]
    fn each_delivery_has_the_strongest_fate_that_a_record_tells() {
        let subscribers = Subscribers::new([endpoint(1, "{}")]);
        let counted = count(&subscribers, |book| {
            use RecordedFate::{Dead, Delayed, Delivered, Held, Skipped};
            let fates: [&[RecordedFate]; 7] = [
                &[Delayed, Delivered, Delayed],
                &[Dead, Delivered],
                &[Delayed, Dead],
                &[Skipped],
                &[Delayed],
                &[Held],
                &[],
            ];
            for (id, fates) in (1..).zip(fates) {
                for fate in fates {
                    book.fate(EventId::from_bits(id), ENDPOINT, *fate);
                }
                book.event(&click(id), later(), PLACE, RecordProgress::Done);
                book.event(&click(id), later(), PLACE, RecordProgress::Done);
            }
            book.event(&click(8), later(), PLACE, RecordProgress::Open);
        });
        let expected = DeliveryCounts {
            captured: 8,
            delivered: 2,
            waiting: WaitingCounts { unread: 1, delayed: 1, held: 1 },
            dead: 1,
            skipped: 1,
            missing: 1,
        };
        assert_eq!(counted.counts, BTreeMap::from([((ENDPOINT, Topic::Clicks), expected)]));
        let missing = MissingDelivery { endpoint: ENDPOINT, event: EventId::from_bits(7), place: PLACE };
        assert_eq!(counted.missing, [missing]);
    }

    #[test]
    fn an_event_is_for_those_who_asked_for_it_before() {
        let subscribers = Subscribers::new([endpoint(1, "{}"), endpoint(2, r#"{"country":"DE"}"#)]);
        let captured = |at, fates: &[u128], named| {
            let counted = count(&subscribers, |book| {
                for endpoint in fates {
                    book.fate(EventId::from_bits(1), EndpointId::from_bits(*endpoint), RecordedFate::Delivered);
                }
                let endpoint = named;
                book.event(&Envelope { endpoint, ..click(1) }, at, PLACE, RecordProgress::Done);
            });
            counted.counts.into_keys().map(|(endpoint, _)| endpoint.bits()).collect::<Vec<_>>()
        };
        assert_eq!(captured(later(), &[], None), [1]);
        assert_eq!(captured(AT, &[], None), [], "before that, only records count");
        assert_eq!(captured(AT, &[2], None), [2]);
        assert_eq!(captured(later(), &[1, 3], None), [1, 3], "an endpoint that is deleted");
        assert_eq!(captured(AT, &[], Some(EndpointId::from_bits(2))), [2], "a test is for one endpoint");
    }

    #[test]
    fn a_record_that_cannot_be_read_is_a_dead_letter() {
        let subscribers = Subscribers::default();
        let mut sum = CountedDeliveries::default();
        for slice in IdSlice::halves() {
            let mut book = DeliveryBook::new(slice, &subscribers, None);
            book.dead_record(PLACE);
            for (offset, progress) in
                [(17, RecordProgress::Done), (18, RecordProgress::Open), (19, RecordProgress::Done)]
            {
                book.unreadable(RecordPlace { offset, ..PLACE }, progress);
            }
            sum.add(book.finish());
        }
        let expected = UnreadableCounts { captured: 3, waiting: 1, dead: 1, missing: 1 };
        assert_eq!(sum.unreadable, BTreeMap::from([(Topic::Clicks, expected)]));
    }

    #[test]
    fn slices_add_up() {
        let subscribers = Subscribers::new([endpoint(1, "{}")]);
        let mut sum = CountedDeliveries::default();
        for slice in IdSlice::halves() {
            let mut book = DeliveryBook::new(slice, &subscribers, None);
            for id in 0..10 {
                book.fate(EventId::from_bits(id), ENDPOINT, RecordedFate::Delivered);
                book.event(&click(id), later(), PLACE, RecordProgress::Done);
            }
            assert_eq!(book.noted(), 5, "a half of the fates");
            sum.add(book.finish());
        }
        let counts = sum.counts[&(ENDPOINT, Topic::Clicks)];
        assert_eq!((counts.captured, counts.delivered), (10, 10));
    }
}
