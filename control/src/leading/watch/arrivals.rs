//! The arrival of clicks in ClickHouse, which tells the watch what to ask. Where no rows have come, there is nothing to
//! ask. Rows of the last minutes change few links. Rows that come late, as after an outage, can belong to any link, so all
//! links are looked through, a slice at a time.

use std::time::{Duration, Instant};

use schemas::Timestamp;
use store::LINK_SLICES;

/// The time after which all links are looked through again: rows that come while others are deleted are not noticed.
const SWEEP_EVERY: Duration = Duration::from_secs(600);
/// The longest pause after which the clicks of the last minutes are all that can be new.
const LONGEST_PAUSE: Duration = Duration::from_secs(200);

/// The rows that were there at the last look, and the slices of links that are still to be looked through.
#[derive(Debug)]
pub(super) struct ClickArrivals {
    rows: Option<u64>,
    /// The beginning of the recent time, and the rows from before it.
    older: Option<(Timestamp, u64)>,
    slices: Vec<u8>,
    swept_at: Instant,
    looked_at: Instant,
}

impl ClickArrivals {
    /// Begins with nothing known: all links are to be looked through.
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { rows: None, older: None, slices: all_slices(), swept_at: now, looked_at: now }
    }

    /// Returns whether rows have come or gone since the last look.
    pub(super) fn are_new(&self, rows: u64) -> bool {
        self.rows != Some(rows)
    }

    /// Returns the time since which clicks are to be counted for [`ClickArrivals::look`].
    pub(super) fn since(&self, recent: Timestamp) -> Timestamp {
        self.older.map_or(recent, |(before, _)| before.min(recent))
    }

    /// Takes note of the rows, and of the clicks in each five minutes, which begin at these seconds. Rows that have come
    /// since the last look and are older than the recent time are late, and all links are looked through then.
    pub(super) fn look(&mut self, rows: u64, by_time: &[(i64, u64)], recent: Timestamp) {
        let older_than = |since: Timestamp| {
            let newer: u64 =
                by_time.iter().filter(|(start, _)| *start >= since.as_secs()).map(|(_, clicks)| clicks).sum();
            rows.saturating_sub(newer)
        };
        let late = self.older.is_some_and(|(since, before)| older_than(since) > before);
        if late || self.looked_at.elapsed() > LONGEST_PAUSE || self.swept_at.elapsed() > SWEEP_EVERY {
            self.sweep();
        }
        self.older = Some((recent, older_than(recent)));
        self.looked_at = Instant::now();
    }

    /// Takes note that everything was told that the look has found.
    pub(super) const fn done(&mut self, rows: u64) {
        self.rows = Some(rows);
    }

    /// Has all links looked through.
    pub(super) fn sweep(&mut self) {
        self.slices = all_slices();
        self.swept_at = Instant::now();
    }

    /// Returns the next slice of links to look through.
    pub(super) fn next_slice(&self) -> Option<u8> {
        self.slices.last().copied()
    }

    /// Takes note that a slice was looked through.
    pub(super) fn slice_done(&mut self) {
        self.slices.pop();
    }
}

fn all_slices() -> Vec<u8> {
    (0..LINK_SLICES).rev().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn swept() -> ClickArrivals {
        let mut arrivals = ClickArrivals::new();
        let mut slices = 0;
        while arrivals.next_slice().is_some() {
            arrivals.slice_done();
            slices += 1;
        }
        assert_eq!(slices, LINK_SLICES);
        arrivals
    }

    #[test]
    fn recent_rows_need_no_sweep_and_late_rows_do() {
        let mut arrivals = swept();
        assert!(arrivals.are_new(0));
        arrivals.look(1000, &[(300, 10), (600, 5)], at(300));
        arrivals.done(1000);
        assert!(!arrivals.are_new(1000) && arrivals.next_slice().is_none());
        // Ten more in the recent time.
        arrivals.look(1010, &[(300, 12), (600, 13)], at(300));
        assert!(arrivals.next_slice().is_none());
        // The recent time moves on, and nothing is late for that.
        assert_eq!(arrivals.since(at(600)), at(300));
        arrivals.look(1020, &[(300, 12), (600, 20), (900, 3)], at(600));
        assert!(arrivals.next_slice().is_none());
        // One row has come that is older than the recent time.
        arrivals.look(1022, &[(600, 21), (900, 3)], at(600));
        assert_eq!(arrivals.next_slice(), Some(0));
    }

    #[test]
    fn deleted_rows_hide_no_late_ones_that_come_after_them() {
        let mut arrivals = swept();
        arrivals.look(1000, &[], at(300));
        arrivals.look(900, &[], at(300));
        assert!(arrivals.next_slice().is_none());
        arrivals.look(950, &[], at(300));
        assert!(arrivals.next_slice().is_some());
    }
}
