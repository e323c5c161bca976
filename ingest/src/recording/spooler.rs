//! The thread that keeps the spool: it puts on disk what Kafka does not
//! acknowledge in time, takes away what it has, and feeds it what lies on disk
//! alone: bundles of a former process, and those that did not fit the client's
//! queue. While this process lives, a bundle that the client has is never
//! produced a second time.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    io,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use tracing::{error, info, warn};

use crate::{
    metrics::IngestMetrics,
    recording::recorder::{Bundle, Number, Recorder},
    recording::spool::{Put, Spool, SpoolError, Spooled},
};

/// What goes into one commit at most.
const GROUP: usize = 256;
/// How long erasures wait for others: one that is lost costs a replay, which the
/// enricher drops.
const ERASE_AFTER: Duration = Duration::from_millis(200);
/// How often it is looked whether the disk's own can be fed.
const TICK: Duration = Duration::from_millis(50);
/// How many of the disk's own are on their way to Kafka at once.
const FEEDING: usize = 16;
/// How often a file that has failed is opened again at most, and how long what
/// cannot be fed rests.
const REOPEN_AFTER: Duration = Duration::from_secs(1);
/// How often an empty file is made anew at most.
const RENEW_AFTER: Duration = Duration::from_secs(60);

/// What the keeper is told.
pub(crate) enum Order {
    /// Put it on disk; `queued` if the Kafka client has it as well.
    Put { bundle: Arc<Bundle>, queued: bool },
    /// Kafka has it.
    Erase(Number),
    /// The client gave it up.
    Alone(Number),
    /// What became of feeding Kafka that key.
    Fed { key: u64, acked: bool },
    /// Do what was ordered before, and end.
    Stop,
}

/// The keeper's books.
pub(crate) struct Keeper {
    spool: Spool,
    max_bytes: u64,
    counts: IngestMetrics,
    recorder: Arc<Recorder>,
    orders: Sender<Order>,
    next: u64,
    /// How many bytes each key holds, and all of them.
    sizes: HashMap<u64, u64>,
    bytes: u64,
    /// The keys of this process's bundles.
    keys: HashMap<Number, u64>,
    /// What lies on disk alone, to be fed.
    alone: VecDeque<u64>,
    feeding: usize,
    /// Until when nothing is fed, after it failed.
    rests_until: Option<Instant>,
    erased: Vec<u64>,
    erased_since: Option<Instant>,
    taking: Taking,
    /// When the file was opened last after an error.
    reopened: Instant,
    /// When it was made anew last, and whether it has been written to since.
    renewed: Instant,
    used: bool,
}

/// Whether the spool takes bundles. Each change is told once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taking {
    Yes,
    /// It holds as much as it may.
    Full,
    /// The disk refuses.
    Broken,
}

impl Keeper {
    /// The keeper of `spool`, with whatever a former process left there.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn new(
        spool: Spool,
        max_bytes: u64,
        counts: IngestMetrics,
        recorder: Arc<Recorder>,
        orders: Sender<Order>,
    ) -> Result<Self, SpoolError> {
        let left = spool.keys()?;
        if !left.is_empty() {
            info!(bundles = left.len(), "the spool holds bundles of a former process: they are produced again");
        }
        let keeper = Self {
            next: left.last().map_or(0, |(key, _)| key + 1),
            bytes: left.iter().map(|(_, bytes)| bytes).sum(),
            alone: left.iter().map(|(key, _)| *key).collect(),
            sizes: left.into_iter().collect(),
            spool,
            max_bytes,
            counts,
            recorder,
            orders,
            keys: HashMap::new(),
            feeding: 0,
            rests_until: None,
            erased: Vec::new(),
            erased_since: None,
            taking: Taking::Yes,
            reopened: Instant::now(),
            renewed: Instant::now(),
            used: false,
        };
        keeper.show();
        Ok(keeper)
    }

    /// Starts the thread.
    ///
    /// # Errors
    /// When the system has none to give.
    pub(crate) fn start(mut self, orders: Receiver<Order>) -> io::Result<thread::JoinHandle<()>> {
        thread::Builder::new().name("spool".to_owned()).spawn(move || self.run(&orders))
    }

    fn run(&mut self, orders: &Receiver<Order>) {
        let mut stop = false;
        while !stop {
            let waiting = !self.alone.is_empty() || self.erased_since.is_some() || self.used;
            let first = if waiting {
                match orders.recv_timeout(TICK) {
                    Ok(order) => Some(order),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            } else {
                let Ok(order) = orders.recv() else { return };
                Some(order)
            };
            let group: Vec<Order> = first.into_iter().chain(orders.try_iter().take(GROUP - 1)).collect();
            stop = self.group(group);
            if !stop {
                self.feed();
            }
            self.show();
        }
    }

    /// Carries out orders in one commit; says whether it was told to end.
    fn group(&mut self, group: Vec<Order>) -> bool {
        let mut stop = false;
        let done: HashSet<Number> = group
            .iter()
            .filter_map(|order| if let Order::Erase(number) = order { Some(*number) } else { None })
            .collect();
        let mut puts: Vec<(u64, Arc<Bundle>, bool)> = Vec::new();
        for order in group {
            if let Order::Put { bundle, .. } = &order {
                self.recorder.taken(bundle);
            }
            match order {
                // Kafka has it by now, and who waited was told.
                Order::Put { bundle, .. } if done.contains(&bundle.number) => {}
                Order::Put { bundle, queued } => {
                    let bytes = bundle.lines.len() as u64;
                    if self.bytes + bytes > self.room() {
                        self.take(Taking::Full, "it is full");
                        self.recorder.kept(&bundle, false);
                        continue;
                    }
                    if self.taking == Taking::Full {
                        self.take(Taking::Yes, "there is room again");
                    }
                    let key = self.next;
                    self.next += 1;
                    self.bytes += bytes;
                    self.sizes.insert(key, bytes);
                    self.keys.insert(bundle.number, key);
                    puts.push((key, bundle, queued));
                }
                Order::Erase(number) => {
                    if let Some(key) = self.keys.remove(&number) {
                        self.erase(key);
                    }
                }
                Order::Alone(number) => self.alone.extend(self.keys.remove(&number)),
                Order::Fed { key, acked } => {
                    self.feeding -= 1;
                    if acked {
                        self.counts.replayed_bundles.inc();
                        self.erase(key);
                    } else {
                        // Behind the others: it may be the only one that cannot be fed.
                        self.alone.push_back(key);
                        self.rest();
                    }
                }
                Order::Stop => stop = true,
            }
        }
        let due = self.erased_since.is_some_and(|since| since.elapsed() >= ERASE_AFTER);
        if !puts.is_empty() || due || stop {
            self.commit(puts);
        }
        self.renew();
        stop
    }

    /// How many bytes it may hold. Once full, some must go before others come, or
    /// it would be said with every bundle that it is full, or no longer.
    const fn room(&self) -> u64 {
        match self.taking {
            Taking::Full => self.max_bytes / 10 * 9,
            Taking::Yes | Taking::Broken => self.max_bytes,
        }
    }

    fn commit(&mut self, puts: Vec<(u64, Arc<Bundle>, bool)>) {
        let written: Vec<Put<'_>> = puts
            .iter()
            .map(|(key, bundle, _)| Put {
                key: *key,
                id: bundle.id,
                partition: bundle.partition,
                clicks: bundle.clicks,
                lines: &bundle.lines,
            })
            .collect();
        match self.spool.write(&written, &self.erased) {
            Ok(()) => {
                self.erased.clear();
                self.erased_since = None;
                self.used |= !puts.is_empty();
                if self.taking == Taking::Broken {
                    self.take(Taking::Yes, "the disk takes them again");
                }
                for (key, bundle, queued) in puts {
                    self.counts.spooled_clicks.inc_by(u64::from(bundle.clicks));
                    if !queued {
                        self.keys.remove(&bundle.number);
                        self.alone.push_back(key);
                    }
                    self.recorder.kept(&bundle, true);
                }
            }
            Err(error) => {
                self.take(Taking::Broken, &error.to_string());
                for (key, bundle, _) in puts {
                    self.keys.remove(&bundle.number);
                    self.bytes -= self.sizes.remove(&key).unwrap_or_default();
                    self.recorder.kept(&bundle, false);
                }
                self.reopen();
            }
        }
    }

    /// redb does nothing more with a file that has failed it.
    fn reopen(&mut self) {
        if self.reopened.elapsed() >= REOPEN_AFTER {
            self.reopened = Instant::now();
            let _ = self.spool.reopen();
        }
    }

    /// Makes an empty file anew: what was taken away stands in its free pages, full
    /// addresses among it.
    fn renew(&mut self) {
        let empty = self.sizes.is_empty() && self.erased.is_empty();
        if !self.used || !empty || self.renewed.elapsed() < RENEW_AFTER {
            return;
        }
        (self.renewed, self.used) = (Instant::now(), false);
        if let Err(error) = self.spool.renew() {
            error!(%error, "the empty spool cannot be made anew");
        }
    }

    fn rest(&mut self) {
        self.rests_until = Some(Instant::now() + REOPEN_AFTER);
    }

    fn take(&mut self, taking: Taking, why: &str) {
        if std::mem::replace(&mut self.taking, taking) == taking {
            return;
        }
        if taking == Taking::Yes {
            warn!(why, "the spool takes clicks again");
        } else {
            error!(
                why,
                max_bytes = self.max_bytes,
                "the spool takes no clicks: they are lost if this process ends before Kafka is back"
            );
        }
    }

    fn erase(&mut self, key: u64) {
        self.bytes -= self.sizes.remove(&key).unwrap_or_default();
        self.erased.push(key);
        self.erased_since.get_or_insert_with(Instant::now);
    }

    /// Produces what lies on disk alone, some at a time, once Kafka answers.
    fn feed(&mut self) {
        if self.rests_until.is_some_and(|until| until > Instant::now()) {
            return;
        }
        while self.feeding < FEEDING && !self.recorder.is_late() {
            let Some(key) = self.alone.pop_front() else { return };
            let bundle = match self.spool.get(key) {
                Ok(Some(bundle)) => bundle,
                Ok(None) => continue,
                Err(error) => {
                    error!(%error, "a spooled bundle cannot be read: it is tried again");
                    self.alone.push_back(key);
                    self.reopen();
                    self.rest();
                    return;
                }
            };
            let orders = self.orders.clone();
            let fed = move |acked: bus::Acked| drop(orders.send(Order::Fed { key, acked: acked.is_ok() }));
            let Spooled { id, partition, clicks, lines } = &bundle;
            if let Err(error) = self.recorder.produce(*id, *partition, *clicks, lines, fed) {
                self.alone.push_front(key);
                self.recorder.failed(&error);
                return;
            }
            self.feeding += 1;
        }
    }

    fn show(&self) {
        self.counts.spool_bytes.set(i64::try_from(self.bytes).unwrap_or(i64::MAX));
        self.counts.spool_bundles.set(i64::try_from(self.sizes.len()).unwrap_or(i64::MAX));
        self.counts.spool_full.set(i64::from(self.taking != Taking::Yes));
    }
}
