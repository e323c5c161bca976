//! The thread that keeps the spool. It puts on disk the bundles that Kafka does not
//! acknowledge in time, erases those that Kafka has, and produces those that are on disk
//! alone: bundles of a former process, and those that did not fit into the Kafka client.
//! While this process lives, a bundle that the client has is never produced a second
//! time.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use bus::BusError;
use tracing::{debug, error, info, warn};

use crate::{
    metrics::IngestMetrics,
    recording::{
        bundle::{BundleCopy, ClosedBundle, Handed, ReplayAnswer, SpoolCommand},
        index::{Admission, SpoolIndex, SpoolLevel, SpoolLimits},
        recorder::Recorder,
        spool::{Spool, SpoolError, SpoolPut, SpoolRead, Spooled, encoded_bytes},
    },
};

/// The most commands that one commit carries out.
const BATCH: usize = 256;
/// How long erasures wait for others: one that is lost costs a replay, which the
/// enricher drops.
const ERASE_AFTER: Duration = Duration::from_millis(200);
/// The interval at which it is checked whether bundles can be produced from disk.
const TICK: Duration = Duration::from_millis(50);
/// The pause before a file that has failed is opened again.
const REOPEN_AFTER: Duration = Duration::from_secs(1);
/// The shortest time between two log lines about replays that fail.
const LOG_EVERY: Duration = Duration::from_secs(60);
/// The bytes of bundles that are on their way from disk to Kafka at once; each partition
/// has a share.
const REPLAY_BYTES: u64 = 8 << 20;
/// The interval at which acknowledged offsets are noted in the file: how long before its
/// kill a process's last acknowledgement may be forgotten.
const NOTE_EVERY: Duration = Duration::from_secs(10);
/// The pause before an empty file is replaced again.
const RENEW_AFTER: Duration = Duration::from_secs(60);

/// The keeper of the spool.
pub(crate) struct Spooler {
    spool: Spool,
    index: SpoolIndex,
    max_bytes: u64,
    metrics: IngestMetrics,
    recorder: Arc<Recorder>,
    /// The sender of the commands to this spooler itself.
    commands: Sender<SpoolCommand>,
    erased: Vec<u64>,
    erased_since: Option<Instant>,
    acceptance: Acceptance,
    /// When a failed replay was logged last.
    failure_logged: Option<Instant>,
    /// The time until which nothing is read from disk, after a read failed.
    paused_until: Option<Instant>,
    /// When the file was opened last after an error.
    reopened: Instant,
    /// When the file was replaced last; none before the first time.
    renewed: Option<Instant>,
    /// Whether the file has held a bundle since.
    used: bool,
    /// The acknowledged offsets that the file has.
    noted: BTreeMap<u16, i64>,
    /// When they are compared with those that the recorder knows.
    note_at: Instant,
}

/// Whether the spool takes bundles. Each change is logged once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Acceptance {
    Accepting,
    /// The spool holds as much as it may.
    Full,
    /// The disk refuses.
    Broken,
}

/// A bundle that is being put on disk.
struct NewEntry {
    key: u64,
    bundle: Arc<ClosedBundle>,
    after: Option<i64>,
}

impl Spooler {
    /// Makes the spooler of `spool`, with the bundles that a former process left there.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn new(
        spool: Spool,
        max_bytes: u64,
        metrics: IngestMetrics,
        recorder: Arc<Recorder>,
        commands: Sender<SpoolCommand>,
    ) -> Result<Self, SpoolError> {
        let left = spool.left()?;
        if !left.is_empty() {
            info!(bundles = left.len(), "spool holds bundles of a former process: they are replayed");
        }
        let noted = spool.acknowledged()?;
        recorder.know_acknowledged(&noted);
        let partitions = u64::from(recorder.partitions().max(1));
        let limits = SpoolLimits { max_bytes, replay_bytes: REPLAY_BYTES / partitions };
        metrics.spool_max_bytes.set(i64::try_from(max_bytes).unwrap_or(i64::MAX));
        let mut spooler = Self {
            index: SpoolIndex::new(limits, &left),
            spool,
            max_bytes,
            metrics,
            recorder,
            commands,
            erased: Vec::new(),
            erased_since: None,
            acceptance: Acceptance::Accepting,
            failure_logged: None,
            paused_until: None,
            reopened: Instant::now(),
            renewed: None,
            used: !left.is_empty(),
            noted,
            note_at: Instant::now() + NOTE_EVERY,
        };
        spooler.show();
        Ok(spooler)
    }

    /// Starts the thread.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub(crate) fn start(mut self, commands: Receiver<SpoolCommand>) -> io::Result<thread::JoinHandle<()>> {
        thread::Builder::new().name("spool".to_owned()).spawn(move || self.run(&commands))
    }

    fn run(&mut self, commands: &Receiver<SpoolCommand>) {
        let mut stop = false;
        while !stop {
            let has_timer = self.index.has_replays() || self.erased_since.is_some() || self.used;
            let first = match commands.recv_timeout(if has_timer { TICK } else { NOTE_EVERY }) {
                Ok(command) => Some(command),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let batch: Vec<SpoolCommand> = first.into_iter().chain(commands.try_iter().take(BATCH - 1)).collect();
            stop = self.apply_batch(batch);
            if stop || self.note_at <= Instant::now() {
                self.note_acknowledged();
            }
            if !stop {
                self.replay();
            }
            self.show();
        }
    }

    /// Carries out commands in one commit; says whether one of them was to end.
    fn apply_batch(&mut self, batch: Vec<SpoolCommand>) -> bool {
        let mut stop = false;
        let mut puts = Vec::new();
        for command in batch {
            match command {
                SpoolCommand::Put { bundle, after } => {
                    // A bundle that is gone is in Kafka.
                    let Some(bundle) = bundle.upgrade() else { continue };
                    puts.extend(self.admit(bundle, after));
                }
                SpoolCommand::Erase(number) => {
                    if let Some(key) = self.index.erase(number) {
                        self.erase(key);
                    }
                }
                SpoolCommand::Replay { bundle, handed } => self.index.replay(bundle, handed),
                SpoolCommand::Replayed { key, answer: ReplayAnswer::Acked } => {
                    self.metrics.replayed_bundles.inc();
                    self.index.replayed(key);
                    self.erase(key);
                }
                SpoolCommand::Replayed { key, answer } => self.not_replayed(key, &answer, Handed::Once),
                SpoolCommand::Stop => stop = true,
            }
        }
        let due = self.erased_since.is_some_and(|since| since.elapsed() >= ERASE_AFTER);
        if !puts.is_empty() || due || stop {
            self.commit(puts);
        }
        self.renew();
        stop
    }

    /// Notes the acknowledged offsets, so that the bundles of the next process say behind
    /// which offset their first copies are, also before its first acknowledgement.
    fn note_acknowledged(&mut self) {
        self.note_at = Instant::now() + NOTE_EVERY;
        let acknowledged = self.recorder.acknowledged();
        if acknowledged == self.noted {
            return;
        }
        match self.spool.note_acknowledged(&acknowledged) {
            Ok(()) => self.noted = acknowledged,
            Err(error) => {
                debug!(%error, "acknowledged offsets not noted: older ones are known to the next process");
                self.reopen();
            }
        }
    }

    fn admit(&mut self, bundle: Arc<ClosedBundle>, after: Option<i64>) -> Option<NewEntry> {
        let bytes = encoded_bytes(&bundle.lines, after);
        match self.index.admit(bundle.number, bundle.partition, bytes) {
            Admission::Key(key) => Some(NewEntry { key, bundle, after }),
            Admission::Full => {
                self.set_acceptance(Acceptance::Full, "it is full");
                self.recorder.not_stored(bundle.number);
                None
            }
        }
    }

    fn commit(&mut self, entries: Vec<NewEntry>) {
        // Kafka may have some by now: their erasure has been carried out above.
        let written: Vec<SpoolPut<'_>> = entries
            .iter()
            .map(|NewEntry { key, bundle, after }| SpoolPut {
                key: *key,
                id: bundle.id,
                partition: bundle.partition,
                clicks: bundle.clicks,
                after: *after,
                lines: &bundle.lines,
            })
            .collect();
        match self.spool.write(&written, &self.erased) {
            Ok(()) => {
                self.erased.clear();
                self.erased_since = None;
                self.used |= !entries.is_empty();
                if self.acceptance == Acceptance::Broken {
                    self.set_acceptance(Acceptance::Accepting, "the disk accepts writes again");
                }
                for NewEntry { bundle, .. } in entries {
                    self.metrics.spooled_clicks.inc_by(u64::from(bundle.clicks));
                    self.recorder.stored(bundle.number);
                }
            }
            Err(error) => {
                self.set_acceptance(Acceptance::Broken, &error.to_string());
                for NewEntry { bundle, .. } in entries {
                    self.index.withdraw(bundle.number);
                    self.recorder.not_stored(bundle.number);
                }
                self.reopen();
            }
        }
    }

    /// Opens the file again: redb refuses all work on a file that has failed.
    fn reopen(&mut self) {
        if self.reopened.elapsed() >= REOPEN_AFTER {
            self.reopened = Instant::now();
            let _ = self.spool.reopen();
        }
    }

    /// Replaces an empty file: erased bundles, with full addresses, are still readable in
    /// its free pages. And a disk that is full may not take the erasures.
    fn renew(&mut self) {
        let broken = self.acceptance == Acceptance::Broken;
        let pause = if broken { REOPEN_AFTER } else { RENEW_AFTER };
        let paused = self.renewed.is_some_and(|renewed| renewed.elapsed() < pause);
        if !self.used || self.index.len() > 0 || paused {
            return;
        }
        self.renewed = Some(Instant::now());
        match self.spool.renew() {
            Ok(()) => {
                self.used = false;
                self.noted.clear();
                self.note_at = Instant::now();
                self.erased.clear();
                self.erased_since = None;
                if broken {
                    self.set_acceptance(Acceptance::Accepting, "its file was replaced");
                }
            }
            Err(error) => {
                error!(%error, "empty spool file cannot be replaced: erased clicks stay readable in it");
            }
        }
    }

    fn set_acceptance(&mut self, acceptance: Acceptance, reason: &str) {
        if std::mem::replace(&mut self.acceptance, acceptance) == acceptance {
            return;
        }
        if acceptance == Acceptance::Accepting {
            warn!(reason, "spool accepts clicks again");
        } else {
            error!(reason, bytes = self.index.bytes(), "spool accepts no clicks: they are in memory alone");
        }
    }

    fn erase(&mut self, key: u64) {
        self.erased.push(key);
        self.erased_since.get_or_insert_with(Instant::now);
    }

    /// Produces bundles that are on disk alone, to partitions that answer.
    fn replay(&mut self) {
        let now = Instant::now();
        if self.paused_until.is_some_and(|until| until > now) {
            return;
        }
        let recorder = Arc::clone(&self.recorder);
        while let Some((key, handed)) = self.index.next_replay(now, |partition| recorder.is_late(partition)) {
            let read = self.spool.get(key).and_then(|read| match read {
                SpoolRead::Bundle(bundle) => Ok(Some(bundle)),
                SpoolRead::Undecodable(bytes) => self.set_aside(key, &bytes).map(|()| None),
                SpoolRead::Missing => Ok(None),
            });
            let bundle = match read {
                Ok(Some(bundle)) => bundle,
                Ok(None) => {
                    self.index.forget(key);
                    continue;
                }
                Err(error) => {
                    error!(%error, key, "spooled bundle cannot be read: retried");
                    self.index.not_replayed(key, Handed::Never, now);
                    self.reopen();
                    self.paused_until = Some(now + REOPEN_AFTER);
                    return;
                }
            };
            let copy = match handed {
                Handed::Never => BundleCopy::First,
                Handed::Once => BundleCopy::Again { after: bundle.after },
            };
            let commands = self.commands.clone();
            let acked = move |acked: bus::Acked| {
                let answer = acked.map_or_else(|error| failed_replay(&error), |_| ReplayAnswer::Acked);
                drop(commands.send(SpoolCommand::Replayed { key, answer }));
            };
            let Spooled { id, partition, clicks, lines, .. } = &bundle;
            if let Err(error) = self.recorder.produce(*id, *partition, *clicks, lines, copy, acked) {
                self.not_replayed(key, &failed_replay(&error), Handed::Never);
            }
        }
    }

    /// Keeps bytes that are no bundle in a file of their own, so that they hold up neither
    /// the others nor the replacement of the spool's file.
    fn set_aside(&mut self, key: u64, bytes: &[u8]) -> Result<(), SpoolError> {
        let aside = self.spool.set_aside(key, bytes)?;
        error!(key, bytes = bytes.len(), aside = %aside.display(), "spooled bundle cannot be decoded: it is set aside");
        self.metrics.set_aside_bundles.inc();
        self.erase(key);
        Ok(())
    }

    fn not_replayed(&mut self, key: u64, answer: &ReplayAnswer, handed: Handed) {
        let now = Instant::now();
        let due = self.failure_logged.is_none_or(|logged| now.duration_since(logged) >= LOG_EVERY);
        match answer {
            ReplayAnswer::TooLarge { error } => {
                self.index.refused(key, handed, now);
                if due {
                    let refused = self.index.refused_len();
                    error!(%error, key, refused, "Kafka refuses spooled bundles for their size: they stay on disk and are retried every minute; raise max.message.bytes of clicks.raw");
                }
            }
            ReplayAnswer::GivenUp { error } => {
                self.index.not_replayed(key, handed, now);
                if due {
                    warn!(%error, key, "spooled bundle not acknowledged: retried after the others of its partition");
                }
            }
            ReplayAnswer::Acked => return,
        }
        if due {
            self.failure_logged = Some(now);
        }
    }

    fn show(&mut self) {
        if self.acceptance == Acceptance::Full && !self.index.is_full() {
            self.set_acceptance(Acceptance::Accepting, "there is room again");
        }
        if let Some(level) = self.index.new_level() {
            self.show_level(level);
        }
        self.metrics.spool_bytes.set(i64::try_from(self.index.bytes()).unwrap_or(i64::MAX));
        self.metrics.spool_bundles.set(i64::try_from(self.index.len()).unwrap_or(i64::MAX));
        self.metrics.spool_refused_bundles.set(i64::try_from(self.index.refused_len()).unwrap_or(i64::MAX));
        self.metrics.spool_full.set(i64::from(self.acceptance != Acceptance::Accepting));
    }

    /// Says that the spool is fuller, or emptier, than before. That it is full is said
    /// where it refuses a bundle.
    fn show_level(&self, level: SpoolLevel) {
        let percent = level.percent();
        let before = self.metrics.spool_level_percent.set(i64::from(percent));
        let (bytes, max_bytes) = (self.index.bytes(), self.max_bytes);
        match level {
            SpoolLevel::Half | SpoolLevel::High if i64::from(percent) > before => {
                warn!(percent, bytes, max_bytes, "spool fills up: bring Kafka back before it is full");
            }
            SpoolLevel::Low => info!(bytes, max_bytes, "spool is less than half full again"),
            SpoolLevel::Half | SpoolLevel::High | SpoolLevel::Full => {}
        }
    }
}

/// Tells whether a replay failed for its size, which no retry changes.
fn failed_replay(error: &BusError) -> ReplayAnswer {
    let text = error.to_string();
    if error.is_too_large() { ReplayAnswer::TooLarge { error: text } } else { ReplayAnswer::GivenUp { error: text } }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, sync::mpsc};

    use bus::{Bus, BusConfig};
    use service::{Health, Metrics};
    use uuid::Uuid;

    use super::*;
    use crate::Config;

    /// Waits for the spooler's thread.
    fn until(what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !holds() {
            assert!(Instant::now() < deadline, "gave up waiting: {what}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn put(key: u64) -> SpoolPut<'static> {
        let id = Uuid::from_u128(u128::from(key));
        SpoolPut { key, id, partition: 0, clicks: 1, after: None, lines: b"203.0.113.42\n" }
    }

    /// A spooler that runs on the bundles in `dir`.
    struct RunningSpooler {
        metrics: IngestMetrics,
        commands: Sender<SpoolCommand>,
        thread: thread::JoinHandle<()>,
    }

    impl RunningSpooler {
        fn start(dir: &Path) -> Self {
            // The client takes records and never sends them: no broker listens there.
            let bus = Bus::new(BusConfig { brokers: "127.0.0.1:1".to_owned(), ..BusConfig::default() });
            let metrics = IngestMetrics::new(&Metrics::default());
            let readiness = Health::default().part("clicks");
            let (sender, commands) = mpsc::channel();
            let (recorder, _messages) =
                Recorder::new(&bus, &Config::default(), metrics.clone(), Some(sender.clone()), readiness, 1).unwrap();
            let spool = Spool::open(dir).unwrap();
            let spooler = Spooler::new(spool, 1 << 20, metrics.clone(), recorder, sender.clone()).unwrap();
            Self { metrics, commands: sender, thread: spooler.start(commands).unwrap() }
        }

        fn replayed(&self, key: u64, answer: ReplayAnswer) {
            self.commands.send(SpoolCommand::Replayed { key, answer }).unwrap();
        }

        fn stop(self) {
            self.commands.send(SpoolCommand::Stop).unwrap();
            self.thread.join().unwrap();
        }
    }

    #[test]
    fn a_file_whose_bundles_were_replayed_tells_nothing_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spool.redb");
        let tells = || fs::read(&path).is_ok_and(|held| held.windows(12).any(|bytes| bytes == b"203.0.113.42"));
        Spool::open(dir.path()).unwrap().write(&[put(0)], &[]).unwrap();
        assert!(tells());
        let spooler = RunningSpooler::start(dir.path());
        spooler.replayed(0, ReplayAnswer::Acked);
        until("the file is replaced", || !tells());
        spooler.stop();
    }

    #[test]
    fn a_bundle_that_is_none_or_that_kafka_refuses_holds_back_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let left = Spool::open(dir.path()).unwrap();
        left.write(&[put(1), put(2)], &[]).unwrap();
        left.write_raw(0, b"no bundle");
        drop(left);

        let spooler = RunningSpooler::start(dir.path());
        let metrics = spooler.metrics.clone();
        until("the one that is no bundle is set aside", || metrics.set_aside_bundles.get() == 1);
        spooler.replayed(1, ReplayAnswer::TooLarge { error: "too large".to_owned() });
        spooler.replayed(2, ReplayAnswer::Acked);
        until("the other is replayed", || metrics.replayed_bundles.get() == 1);
        until("the refused one is shown", || metrics.spool_refused_bundles.get() == 1);
        spooler.stop();

        let keys: Vec<u64> = Spool::open(dir.path()).unwrap().left().unwrap().iter().map(|left| left.key).collect();
        assert_eq!(keys, [1], "the refused bundle is kept for the next process");
        let names = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
        let aside: Vec<_> = names.filter(|path| path.extension().is_some_and(|end| end == "bundle")).collect();
        assert_eq!(aside.len(), 1);
        assert_eq!(fs::read(&aside[0]).unwrap(), b"no bundle");
    }
}
