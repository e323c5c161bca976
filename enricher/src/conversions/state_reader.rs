//! The thread that reads the topic `conversions`, so that the member's thread polls on.
//! After each assignment it reads past the open transactions of earlier owners; in
//! between it follows what other members commit.

use std::{
    io,
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender},
    thread,
    time::Duration,
};

use bus::{Bus, BusError, LogReader, Partition};
use schemas::Topic;
use tracing::warn;

use crate::answers::next_open;

/// The name of the clients.
const ROLE: &str = "conversions";
/// How often the topic is looked at, and how long a failed request waits.
const EVERY: Duration = Duration::from_millis(500);
/// The number of records that may wait for the member's thread.
const AHEAD: usize = 4096;

/// A committed record, or the end of the reading that an assignment asked for.
pub(super) enum StateRecord {
    /// A record of the topic; without a value it is a tombstone.
    Change { key: String, value: Option<Vec<u8>> },
    /// All that was committed before request number `generation` was sent.
    Prepared { generation: u64 },
}

/// The handle of the thread, which ends when the handle is dropped.
pub(super) struct StateReader {
    requests: Sender<u64>,
    records: Receiver<StateRecord>,
    generation: u64,
}

impl StateReader {
    pub(super) fn start(bus: Bus) -> io::Result<Self> {
        let (requests, received) = mpsc::channel();
        let (sender, records) = mpsc::sync_channel(AHEAD);
        thread::Builder::new().name("conversion-states".to_owned()).spawn(move || {
            let mut follower = StateFollower { bus, reader: None, next: 0, sender, is_closed: false };
            follower.follow(&received);
        })?;
        Ok(Self { requests, records, generation: 0 })
    }

    /// Cancels all open requests.
    pub(super) const fn cancel(&mut self) {
        self.generation += 1;
    }

    /// Asks for all that is committed now.
    pub(super) fn prepare(&self) -> Result<(), BusError> {
        self.requests.send(self.generation).map_err(|_| BusError::Gone { what: "read the states of conversions" })
    }

    /// Returns the next record, or end of a request that is open, if one is there.
    pub(super) fn next(&self) -> Result<Option<StateRecord>, BusError> {
        let is_open = |record: &StateRecord| match record {
            StateRecord::Prepared { generation } => *generation == self.generation,
            StateRecord::Change { .. } => true,
        };
        next_open(&self.records, is_open, "read the states of conversions")
    }
}

struct StateFollower {
    bus: Bus,
    reader: Option<LogReader>,
    /// The offset behind the last record that was read.
    next: i64,
    sender: SyncSender<StateRecord>,
    is_closed: bool,
}

impl StateFollower {
    fn follow(&mut self, requests: &Receiver<u64>) {
        while !self.is_closed {
            match requests.recv_timeout(EVERY) {
                Ok(generation) => self.prepare(generation),
                Err(RecvTimeoutError::Timeout) => {
                    // Nobody waits for it: the next round reads on.
                    let _ = self.read();
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn prepare(&mut self, generation: u64) {
        while !self.is_closed {
            // An earlier owner may still be committing with the offsets from which we read.
            let waited = self.bus.wait_for_open_transactions(ROLE, &[Topic::Conversions]);
            match waited.and_then(|()| self.read()) {
                Ok(()) => {
                    self.is_closed |= self.sender.send(StateRecord::Prepared { generation }).is_err();
                    return;
                }
                Err(error) => {
                    warn!(%error, "reading the states of conversions failed: retrying");
                    self.reader = None;
                    thread::sleep(EVERY);
                }
            }
        }
    }

    /// Reads to the end of the topic.
    fn read(&mut self) -> Result<(), BusError> {
        let partition = Partition { topic: Topic::Conversions, index: 0 };
        let reader = self.reader.take().map_or_else(|| self.bus.log_reader(ROLE), Ok)?;
        let range = reader.range(partition)?;
        // An end before the last record means that the topic was created again.
        let begin = if self.next > range.end { range.start } else { self.next.max(range.start) };
        reader.read(
            partition,
            begin..range.end,
            || false,
            |record| {
                let key = String::from_utf8_lossy(record.key()).into_owned();
                let change = StateRecord::Change { key, value: record.value().map(<[u8]>::to_vec) };
                self.is_closed |= self.sender.send(change).is_err();
                self.next = record.offset() + 1;
                !self.is_closed
            },
        )?;
        self.reader = Some(reader);
        Ok(())
    }
}
