//! Conversions that were told without their click, and when the click is looked for
//! again: a redirector that was cut off hands its clicks over when it is back.
//!
//! Nothing is asked when a click comes in. The click is looked for after 5 minutes, after
//! four times as long, and so on for 90 days: nine times in all, a hundred clicks a
//! question. So a click that is late by some time is told at the latest when four times
//! that time has passed. The times follow from the state of the order, which every member
//! has, so that no report is kept anywhere for this; a member that was started since then
//! asks once more, for nobody may have asked while it was down.

use std::{
    collections::{BTreeSet, HashMap},
    iter,
    sync::Arc,
    time::Duration,
};

use schemas::{ClickId, ConversionId, Timestamp, conversion::MissingClick};

/// How long after a conversion was told its click is looked for first.
const FIRST: Duration = Duration::from_secs(300);
/// How many times as late each next lookup is.
const GROWTH: u32 = 4;
/// How long after a conversion was told its click is looked for last.
const LAST: Duration = Duration::from_secs(90 * 86_400);
/// How long after the start of the process the clicks of older conversions are looked for.
const AFTER_START: Duration = Duration::from_secs(60);
/// How long a lookup waits that a rebalance has cancelled.
const RETRY: Duration = Duration::from_secs(60);

/// A conversion whose click is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LateConversion {
    /// The key of the order's state.
    pub(super) key: Arc<str>,
    pub(super) conversion: ConversionId,
    pub(super) click: ClickId,
}

/// The next lookup of every conversion that was told without its click, whichever member
/// decides on it.
pub(super) struct LateClicks {
    /// When the process was started.
    started: Timestamp,
    next: HashMap<Arc<str>, Timestamp>,
    due: BTreeSet<(Timestamp, Arc<str>)>,
}

impl LateClicks {
    pub(super) fn new(started: Timestamp) -> Self {
        Self { started, next: HashMap::new(), due: BTreeSet::new() }
    }

    /// Notes what the state of an order says of its click.
    pub(super) fn note(&mut self, key: &str, missing: Option<MissingClick>, now: Timestamp) {
        let Some(missing) = missing else { return self.forget(key) };
        let Some(at) = next_lookup(missing.since, self.started, now) else { return };
        if self.next.get(key).is_none_or(|next| at < *next) {
            self.forget(key);
            self.set(&Arc::from(key), at);
        }
    }

    /// Notes that the click of an order was looked for, or is looked for by another member.
    pub(super) fn put_back(&mut self, key: &Arc<str>, missing: MissingClick, now: Timestamp) {
        self.forget(key);
        if let Some(at) = next_lookup(missing.since, self.started, now) {
            self.set(key, at);
        }
    }

    /// Notes that a lookup was cancelled.
    pub(super) fn retry(&mut self, key: &Arc<str>, now: Timestamp) {
        self.forget(key);
        self.set(key, now.plus(RETRY));
    }

    /// Returns an order whose click is to be looked for now. The caller puts it back.
    pub(super) fn take_due(&mut self, now: Timestamp) -> Option<Arc<str>> {
        self.due.first().filter(|(at, _)| *at <= now)?;
        let (_, key) = self.due.pop_first()?;
        self.next.remove(&key);
        Some(key)
    }

    /// Returns the number of conversions.
    pub(super) fn len(&self) -> usize {
        self.next.len()
    }

    fn set(&mut self, key: &Arc<str>, at: Timestamp) {
        self.next.insert(Arc::clone(key), at);
        self.due.insert((at, Arc::clone(key)));
    }

    fn forget(&mut self, key: &str) {
        if let Some((key, at)) = self.next.remove_entry(key) {
            self.due.remove(&(at, key));
        }
    }
}

/// Returns when the click of a conversion that was told at `since` is looked for next
/// after `now`, if it is.
fn next_lookup(since: Timestamp, started: Timestamp, now: Timestamp) -> Option<Timestamp> {
    let steps = iter::successors(Some(FIRST), |step| Some(*step * GROWTH)).take_while(|step| *step < LAST);
    let steps = steps.chain([LAST]).map(|step| since.plus(step));
    let after_start = started.plus(AFTER_START);
    let may_be_missed = since.plus(FIRST) < after_start && started < since.plus(LAST);
    steps.chain(may_be_missed.then_some(after_start)).filter(|at| *at > now).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn missing(since: Timestamp) -> MissingClick {
        MissingClick { click: ClickId::new(since, 0, 0), shard: 0, since }
    }

    #[test]
    fn a_click_is_looked_for_nine_times_in_ninety_days() {
        let told = at(1000);
        let lookups: Vec<u64> = iter::successors(Some(told), |now| next_lookup(told, at(0), *now))
            .skip(1)
            .map(|lookup| lookup.since(told).as_secs())
            .collect();
        assert_eq!(lookups, [300, 1200, 4800, 19_200, 76_800, 307_200, 1_228_800, 4_915_200, 7_776_000]);
    }

    #[test]
    fn a_started_process_looks_once_for_what_may_have_been_missed() {
        let (told, started) = (at(0), at(5000));
        assert_eq!(next_lookup(told, started, started), Some(at(5060)));
        assert_eq!(next_lookup(told, started, at(5060)), Some(at(19_200)));
        assert_eq!(
            next_lookup(told, told.plus(89 * DAY), told.plus(89 * DAY)),
            Some(told.plus(89 * DAY + AFTER_START))
        );
        let over = told.plus(90 * DAY);
        assert_eq!(next_lookup(told, over, over), None);
    }

    #[test]
    fn an_order_has_one_next_lookup_until_its_click_is_found() {
        let mut late = LateClicks::new(at(0));
        late.note("a", Some(missing(at(10))), at(10));
        late.note("a", Some(missing(at(10))), at(20));
        late.note("b", Some(missing(at(20))), at(20));
        assert_eq!((late.len(), late.take_due(at(309))), (2, None));
        let key = late.take_due(at(310)).unwrap();
        assert_eq!((&*key, late.take_due(at(310)), late.len()), ("a", None, 1));
        late.put_back(&key, missing(at(10)), at(310));
        late.note("b", None, at(311));
        assert_eq!((late.take_due(at(1209)), late.len()), (None, 1));
        assert_eq!(late.take_due(at(1210)).as_deref(), Some("a"));
        late.retry(&key, at(1210));
        assert_eq!((late.take_due(at(1269)), late.take_due(at(1270)).as_deref()), (None, Some("a")));
    }
}
