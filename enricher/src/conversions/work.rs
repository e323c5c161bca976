//! The state of the work on conversions.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    io,
    time::{Duration, Instant},
};

use bus::{Bus, Ledger, Partition};
use schemas::{Timestamp, Topic, conversion::OrderState};
use service::Part;
use store::Store;

use super::{
    held::HeldReport,
    late::{LateClicks, LateConversion},
    lookup::{ClickLookup, LookupCounts},
    metrics::ConversionMetrics,
    state_reader::StateReader,
    states::States,
};
use crate::config::CustomerClick;

/// The settings of the work on conversions.
#[derive(Clone, Copy)]
pub(crate) struct ConversionRules {
    /// How long a report waits for its click.
    pub(crate) hold: Duration,
    /// How old a click may be.
    pub(crate) window: Duration,
    /// The click of a customer that counts.
    pub(crate) customer_click: CustomerClick,
}

/// The work that waits for the answer to the open question.
pub(super) enum AskedReports {
    /// Reports, decided in this order.
    Reports(Vec<HeldReport>),
    /// Conversions that were told without their click.
    Late(Vec<LateConversion>),
}

/// The work on conversions.
pub(crate) struct ConversionWork {
    pub(super) bus: Bus,
    pub(super) rules: ConversionRules,
    pub(super) counts: ConversionMetrics,
    pub(super) states: States,
    pub(super) reader: StateReader,
    pub(super) lookup: ClickLookup,
    pub(super) ledger: Ledger,
    /// Of each assigned partition, the offset that was added to a transaction last, or from
    /// which it is read.
    pub(super) committed: HashMap<Partition, i64>,
    /// Topics that are paused because too much is held of them.
    pub(super) full: BTreeSet<Topic>,
    /// Whether partitions are paused until the states have been read.
    pub(super) is_preparing: bool,
    /// Reports whose click is to be looked for.
    pub(super) queued: VecDeque<HeldReport>,
    /// The work for which ClickHouse is asked.
    pub(super) asked: Option<AskedReports>,
    /// Reports that wait for their next lookup, by its time and a running number.
    pub(super) waiting: BTreeMap<(Instant, u64), HeldReport>,
    pub(super) running_number: u64,
    pub(super) late: LateClicks,
    /// When late clicks were asked for last.
    pub(super) late_asked: Option<Instant>,
    /// The number of partitions of `conversions.raw` when it was looked at last, and when
    /// this process saw it change.
    pub(super) partitions: u16,
    pub(super) widened: Option<Instant>,
}

impl ConversionWork {
    pub(crate) fn new(
        bus: Bus,
        store: Store,
        rules: ConversionRules,
        counts: ConversionMetrics,
        clickhouse: Part,
    ) -> io::Result<Self> {
        let lookups = LookupCounts { questions: counts.lookups.clone(), clicks: counts.lookup_clicks.clone() };
        Ok(Self {
            rules,
            states: States::default(),
            reader: StateReader::start(bus.clone())?,
            lookup: ClickLookup::start(store, lookups, clickhouse)?,
            counts,
            partitions: bus.partitions(Topic::ConversionsRaw),
            bus,
            ledger: Ledger::default(),
            committed: HashMap::new(),
            full: BTreeSet::new(),
            is_preparing: false,
            queued: VecDeque::new(),
            asked: None,
            waiting: BTreeMap::new(),
            running_number: 0,
            late: LateClicks::new(Timestamp::now()),
            late_asked: None,
            widened: None,
        })
    }

    /// Notes what the state of an order says of its click.
    pub(super) fn note_late(&mut self, key: &str, now: Timestamp) {
        self.late.note(key, self.states.order(key).and_then(OrderState::missing_click), now);
    }
}
