//! A table's snapshot: what its topic said up to some offset, in a file of this
//! machine, from which a table starts sooner than from Kafka, and without it. It
//! is no truth: whatever is wrong with it, it is thrown away and read anew.
//!
//! The file is redb's, whose commits are atomic: after kill -9 it holds what was
//! committed last. It is checked whole when it is opened.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use redb::{
    Builder, Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, ReadableTableMetadata,
    TableDefinition,
};
use schemas::Timestamp;
use serde::{Deserialize, Serialize};

/// Key and value, as in the topic.
const ROWS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("rows");
/// One record, [`Meta`] as JSON.
const META: TableDefinition<'_, (), &[u8]> = TableDefinition::new("meta");
/// Of this file's layout. A file of another one is thrown away.
const VERSION: u8 = 1;
/// What redb keeps of the file in memory, in bytes.
const CACHE_BYTES: usize = 4 << 20;
/// How old a snapshot may be that is read on from its offset. Kafka keeps a
/// tombstone for a day (`delete.retention.ms`): after that, a key that went
/// meanwhile would never be told.
const MAX_AGE_MS: i64 = 12 * 3_600_000;

/// What a snapshot holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meta {
    v: u8,
    /// The id of the Kafka cluster.
    pub(crate) cluster: String,
    /// The topic's full name.
    pub(crate) topic: String,
    /// The offset that follows the last record in it.
    pub(crate) next: i64,
    /// Whether it has ever held all that the topic did.
    pub(crate) complete: bool,
    /// When it was last known to lack nothing.
    pub(crate) at: Timestamp,
}

impl Meta {
    /// Of a snapshot that holds nothing yet.
    pub(crate) fn new(cluster: &str, topic: &str, now: Timestamp) -> Self {
        Self { v: VERSION, cluster: cluster.to_owned(), topic: topic.to_owned(), next: 0, complete: false, at: now }
    }

    /// The offset to read on from, if what this holds is the beginning of `log`.
    pub(crate) fn fits(&self, log: &Log, now: Timestamp) -> Result<i64, Misfit> {
        if self.cluster != log.cluster {
            return Err(Misfit::Cluster);
        }
        if self.next > log.end {
            return Err(Misfit::Ahead { next: self.next, end: log.end });
        }
        if self.next < log.begin {
            return Err(Misfit::Behind { next: self.next, begin: log.begin });
        }
        if now.as_millis() - self.at.as_millis() > MAX_AGE_MS {
            return Err(Misfit::Old);
        }
        Ok(self.next)
    }
}

/// The log that a table follows, as Kafka tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Log {
    pub(crate) cluster: String,
    pub(crate) begin: i64,
    pub(crate) end: i64,
}

/// Why a snapshot is not of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Misfit {
    #[error("it is of another Kafka cluster")]
    Cluster,
    #[error("it reaches to offset {next}, the topic only to {end}: the topic was made anew")]
    Ahead { next: i64, end: i64 },
    #[error("it reaches to offset {next}, the topic begins at {begin}")]
    Behind { next: i64, begin: i64 },
    #[error("it is more than 12 hours old, and Kafka may have forgotten what went since")]
    Old,
    #[error("the topic has lost the offset that is read next")]
    Lost,
}

/// Why a snapshot cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    #[error("{} is in use: give each process a `data_dir` of its own", path.display())]
    InUse { path: PathBuf },
    #[error("{}: {source}. See that the folder can be written and the disk is not full", path.display())]
    Disk { path: PathBuf, source: Box<redb::Error> },
}

/// A change of a key: its value, or none when it is gone.
pub(crate) type Row = (Box<[u8]>, Option<Box<[u8]>>);

type Rows = redb::ReadOnlyTable<&'static [u8], &'static [u8]>;

/// An open snapshot.
pub(crate) struct Snapshot {
    database: Database,
    path: PathBuf,
    meta: Option<Meta>,
}

/// What was found where a snapshot is kept.
pub(crate) enum Found {
    /// A snapshot of the topic.
    Whole(Snapshot),
    /// None, or one that was thrown away because of that.
    Nothing(Snapshot, Option<String>),
}

/// Whether what was read is not what was written.
fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

impl Snapshot {
    /// Opens the snapshot of `topic` that is kept in `path`. One that is damaged
    /// or of something else is replaced by an empty one.
    pub(crate) fn open(path: &Path, topic: &str) -> Result<Found, SnapshotError> {
        let disk = |source: redb::Error| SnapshotError::Disk { path: path.to_owned(), source: Box::new(source) };
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(|error| disk(error.into()))?;
        }
        let why = match Self::try_open(path) {
            Ok(snapshot) => match &snapshot.meta {
                Some(meta) if meta.v == VERSION && meta.topic == topic => return Ok(Found::Whole(snapshot)),
                Some(meta) => format!("it is of layout {} and topic {}", meta.v, meta.topic),
                None => return Ok(Found::Nothing(snapshot, None)),
            },
            Err(redb::Error::DatabaseAlreadyOpen) => return Err(SnapshotError::InUse { path: path.to_owned() }),
            // A disk that refuses now may have it whole later.
            Err(redb::Error::Io(error)) if !is_damage(&error) => return Err(disk(error.into())),
            Err(error) => error.to_string(),
        };
        remove(path).map_err(|error| disk(error.into()))?;
        let fresh = Self::try_open(path).map_err(disk)?;
        Ok(Found::Nothing(fresh, Some(why)))
    }

    fn try_open(path: &Path) -> Result<Self, redb::Error> {
        let opened = Builder::new().set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true).create(path);
        let database = opened.map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => redb::Error::DatabaseAlreadyOpen,
            other => other.into(),
        })?;
        let mut snapshot = Self { database, path: path.to_owned(), meta: None };
        snapshot.meta = snapshot.read_meta()?;
        Ok(snapshot)
    }

    fn read_meta(&self) -> Result<Option<Meta>, redb::Error> {
        let read = self.database.begin_read()?;
        let meta = match read.open_table(META) {
            Ok(meta) => meta,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let Some(found) = meta.get(())? else { return Ok(None) };
        serde_json::from_slice(found.value())
            .map(Some)
            .map_err(|error| redb::Error::Corrupted(format!("what the snapshot says of itself: {error}")))
    }

    /// What it holds; none if it is empty.
    pub(crate) const fn meta(&self) -> Option<&Meta> {
        self.meta.as_ref()
    }

    /// How many rows it has.
    pub(crate) fn rows(&self) -> Result<u64, SnapshotError> {
        self.read(|rows| Ok(rows.len()?))
    }

    /// Tells `look` of every row, in the order of their keys.
    pub(crate) fn each(&self, mut look: impl FnMut(&[u8], &[u8])) -> Result<(), SnapshotError> {
        self.read(|rows| {
            for row in rows.iter()? {
                let (key, value) = row?;
                look(key.value(), value.value());
            }
            Ok(())
        })
    }

    /// What `look` finds in its rows; the default where it never had any.
    fn read<T: Default>(&self, look: impl FnOnce(&Rows) -> Result<T, redb::Error>) -> Result<T, SnapshotError> {
        let read = || -> Result<_, redb::Error> {
            match self.database.begin_read()?.open_table(ROWS) {
                Ok(rows) => look(&rows),
                Err(redb::TableError::TableDoesNotExist(_)) => Ok(T::default()),
                Err(error) => Err(error.into()),
            }
        };
        read().map_err(|error| self.failed(error))
    }

    /// Takes in changes, the later of a key over the earlier, and what the
    /// snapshot then is, in one commit.
    pub(crate) fn write(&mut self, rows: &[Row], meta: Meta) -> Result<(), SnapshotError> {
        let write = || -> Result<(), redb::Error> {
            let mut transaction = self.database.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            // A start after kill -9 must not walk through millions of links first.
            transaction.set_quick_repair(true);
            {
                let mut table = transaction.open_table(ROWS)?;
                for (key, value) in rows {
                    match value {
                        Some(value) => drop(table.insert(&**key, &**value)?),
                        None => drop(table.remove(&**key)?),
                    }
                }
                let json = serde_json::to_vec(&meta).map_err(io::Error::other)?;
                transaction.open_table(META)?.insert((), json.as_slice())?;
            }
            Ok(transaction.commit()?)
        };
        write().map_err(|error| self.failed(error))?;
        self.meta = Some(meta);
        Ok(())
    }

    /// Its keys, to be marked where the topic still speaks of them. What is marked
    /// is committed nowhere: killed meanwhile, the snapshot is what it was.
    pub(crate) fn marks(&self) -> Result<Marks, SnapshotError> {
        let begin = || -> Result<_, redb::Error> { Ok(self.database.begin_write()?) };
        Ok(Marks { transaction: begin().map_err(|error| self.failed(error))?, path: self.path.clone() })
    }

    /// Throws it away and begins an empty one.
    pub(crate) fn renew(self) -> Result<Self, SnapshotError> {
        let Self { database, path, .. } = self;
        drop(database);
        let disk = |source: redb::Error| SnapshotError::Disk { path: path.clone(), source: Box::new(source) };
        remove(&path).map_err(|error| disk(error.into()))?;
        Self::try_open(&path).map_err(disk)
    }

    fn failed(&self, source: impl Into<redb::Error>) -> SnapshotError {
        SnapshotError::Disk { path: self.path.clone(), source: Box::new(source.into()) }
    }
}

/// The keys of a snapshot that a topic, read anew, has not spoken of yet.
pub(crate) struct Marks {
    transaction: redb::WriteTransaction,
    path: PathBuf,
}

impl Marks {
    /// The topic speaks of that key.
    pub(crate) fn mark(&self, key: &[u8]) -> Result<(), SnapshotError> {
        let mark = || -> Result<(), redb::Error> {
            self.transaction.open_table(ROWS)?.remove(key)?;
            Ok(())
        };
        mark().map_err(|error| self.failed(error))
    }

    /// Tells `gone` of the keys that it does not.
    pub(crate) fn sweep(self, mut gone: impl FnMut(&[u8])) -> Result<(), SnapshotError> {
        let mut sweep = || -> Result<(), redb::Error> {
            let rows = self.transaction.open_table(ROWS)?;
            for row in rows.iter()? {
                gone(row?.0.value());
            }
            Ok(())
        };
        let swept = sweep().map_err(|error| self.failed(error));
        // Fails only where the disk does, and then the file is thrown away as well.
        let _ = self.transaction.abort();
        swept
    }

    fn failed(&self, source: redb::Error) -> SnapshotError {
        SnapshotError::Disk { path: self.path.clone(), source: Box::new(source) }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicBool, Ordering},
        thread,
    };

    use super::*;

    const TOPIC: &str = "clickhook.links";

    fn meta(next: i64) -> Meta {
        Meta { next, complete: true, ..Meta::new("c", TOPIC, Timestamp::from_millis(0)) }
    }

    fn log(end: i64) -> Log {
        Log { cluster: "c".to_owned(), begin: 0, end }
    }

    #[test]
    fn a_snapshot_is_read_on_from_only_where_the_log_goes_on() {
        let now = Timestamp::from_millis(MAX_AGE_MS);
        assert_eq!(meta(7).fits(&log(7), now), Ok(7));
        assert_eq!(meta(7).fits(&log(9), now), Ok(7));
        assert_eq!(meta(7).fits(&log(6), now), Err(Misfit::Ahead { next: 7, end: 6 }));
        assert_eq!(meta(7).fits(&Log { begin: 8, ..log(9) }, now), Err(Misfit::Behind { next: 7, begin: 8 }));
        assert_eq!(meta(7).fits(&Log { cluster: "d".to_owned(), ..log(9) }, now), Err(Misfit::Cluster));
        assert_eq!(meta(7).fits(&log(9), Timestamp::from_millis(MAX_AGE_MS + 1)), Err(Misfit::Old));
    }

    fn put(key: u32, value: &str) -> Row {
        (key.to_be_bytes().as_slice().into(), Some(value.as_bytes().into()))
    }

    fn rows(snapshot: &Snapshot) -> Vec<(u32, String)> {
        let mut rows = Vec::new();
        let row = |key: &[u8], value: &[u8]| {
            rows.push((u32::from_be_bytes(key.try_into().unwrap()), String::from_utf8(value.to_vec()).unwrap()));
        };
        snapshot.each(row).unwrap();
        rows
    }

    fn whole(path: &Path) -> Option<Snapshot> {
        match Snapshot::open(path, TOPIC).unwrap() {
            Found::Whole(snapshot) => Some(snapshot),
            Found::Nothing(..) => None,
        }
    }

    fn empty(path: &Path) -> Snapshot {
        let Found::Nothing(snapshot, None) = Snapshot::open(path, TOPIC).unwrap() else { panic!("it is new") };
        snapshot
    }

    #[test]
    fn what_was_written_is_there_and_what_no_topic_speaks_of_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/links.redb");
        let mut snapshot = empty(&path);
        snapshot.write(&[put(1, "a"), put(2, "b"), put(1, "c"), put(3, "d")], meta(4)).unwrap();
        snapshot.write(&[(3_u32.to_be_bytes().as_slice().into(), None), put(4, "e")], meta(6)).unwrap();
        assert!(matches!(Snapshot::open(&path, TOPIC), Err(SnapshotError::InUse { .. })));
        drop(snapshot);
        let snapshot = whole(&path).unwrap();
        let held = vec![(1, "c".to_owned()), (2, "b".to_owned()), (4, "e".to_owned())];
        assert_eq!((snapshot.meta(), rows(&snapshot)), (Some(&meta(6)), held.clone()));

        // Marks are nowhere but in memory.
        let marks = snapshot.marks().unwrap();
        marks.mark(&1_u32.to_be_bytes()).unwrap();
        drop(marks);
        assert_eq!(rows(&snapshot), held);
        let marks = snapshot.marks().unwrap();
        for key in [4_u32, 9, 1] {
            marks.mark(&key.to_be_bytes()).unwrap();
        }
        let mut gone = Vec::new();
        marks.sweep(|key| gone.push(key.to_vec())).unwrap();
        assert_eq!(gone, [2_u32.to_be_bytes().to_vec()]);
        let snapshot = snapshot.renew().unwrap();
        assert_eq!((snapshot.meta(), rows(&snapshot)), (None, Vec::new()));
    }

    #[test]
    fn another_topics_snapshot_is_thrown_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("links.redb");
        empty(&path).write(&[put(1, "a")], meta(1)).unwrap();
        let Found::Nothing(snapshot, Some(why)) = Snapshot::open(&path, "other.links").unwrap() else { panic!() };
        assert!(why.contains(TOPIC), "{why}");
        assert!(rows(&snapshot).is_empty());
    }

    #[test]
    fn a_damaged_file_is_thrown_away() {
        let dir = tempfile::tempdir().unwrap();
        for damage in ["cut", "empty", "nonsense", "garbled head", "garbled row"] {
            let path = dir.path().join(damage);
            let mut snapshot = empty(&path);
            for part in 0..20 {
                let rows: Vec<Row> = (0..100).map(|row| put(part * 100 + row, &"x".repeat(500))).collect();
                snapshot.write(&rows, meta(i64::from(part))).unwrap();
            }
            drop(snapshot);
            let mut bytes = fs::read(&path).unwrap();
            match damage {
                "cut" => bytes.truncate(bytes.len() / 2),
                "empty" => bytes.clear(),
                "nonsense" => bytes = b"this is no snapshot".to_vec(),
                "garbled head" => bytes[100..4000].fill(0xA5),
                _ => {
                    // One letter of some row that is not of a page long freed.
                    let rows: Vec<usize> = bytes
                        .windows(500)
                        .enumerate()
                        .filter(|(_, window)| window.iter().all(|byte| *byte == b'x'))
                        .map(|(at, _)| at)
                        .collect();
                    rows.into_iter().for_each(|at| bytes[at + 250] = b'y');
                }
            }
            fs::write(&path, bytes).unwrap();
            let Found::Nothing(mut snapshot, _) = Snapshot::open(&path, TOPIC).unwrap() else { panic!("{damage}") };
            snapshot.write(&[put(1, "a")], meta(1)).unwrap();
            drop(snapshot);
            assert_eq!(rows(&whole(&path).unwrap()).len(), 1, "{damage}");
        }
    }

    /// A copy of a file that is being written is worse than what kill -9 leaves,
    /// and much like what a torn last write does.
    #[test]
    fn torn_at_any_moment_it_is_what_a_commit_made_it_or_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("links.redb");
        let mut snapshot = empty(&path);
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut next = 0_u32;
                while !stop.load(Ordering::Relaxed) {
                    let rows: Vec<Row> = (next..next + 50).map(|key| put(key % 1000, &key.to_string())).collect();
                    next += 50;
                    snapshot.write(&rows, meta(i64::from(next))).unwrap();
                }
            });
            let mut usable = 0;
            for round in 0..40 {
                let copy = dir.path().join(format!("copy-{round}"));
                fs::copy(&path, &copy).unwrap();
                let Some(copied) = whole(&copy) else { continue };
                usable += 1;
                let next = u32::try_from(copied.meta().unwrap().next).unwrap();
                let expected: Vec<(u32, String)> =
                    (0..1000.min(next)).map(|key| (key, (next - 1 - (next - 1 - key) % 1000).to_string())).collect();
                assert_eq!(rows(&copied), expected);
            }
            stop.store(true, Ordering::Relaxed);
            assert!(usable > 0, "no copy could be used");
        });
    }
}
