//! A table's snapshot: the topic's rows up to some offset, in a file on this
//! machine. A table starts faster from it than from Kafka, and without Kafka. The
//! topic remains the truth: a snapshot with any fault is discarded and read again.
//!
//! The file is redb's, whose commits are atomic: after kill -9 it holds the last
//! commit. Its integrity is checked when it is opened.

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

/// Keys and values, as in the topic.
const ROWS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("rows");
/// One record, [`SnapshotMeta`] as JSON.
const META: TableDefinition<'_, (), &[u8]> = TableDefinition::new("meta");
/// The version of the file's layout. A file of another version is discarded.
const VERSION: u8 = 1;
/// The size of redb's cache in bytes.
const CACHE_BYTES: usize = 4 << 20;
/// The greatest age, in milliseconds, of a snapshot whose topic is read on from
/// its offset. Kafka keeps a tombstone for a day (`delete.retention.ms`); an older
/// snapshot could hold a deleted key whose tombstone is gone.
const MAX_AGE_MS: i64 = 12 * 3_600_000;

/// The description of a snapshot, stored in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotMeta {
    v: u8,
    /// The id of the Kafka cluster.
    pub(crate) cluster: String,
    /// The topic's full name.
    pub(crate) topic: String,
    /// The offset that follows the last record in it.
    pub(crate) next: i64,
    /// Whether the snapshot has ever held all that the topic did.
    pub(crate) complete: bool,
    /// When it was last known to be up to date.
    pub(crate) at: Timestamp,
}

impl SnapshotMeta {
    /// The description of an empty snapshot.
    pub(crate) fn new(cluster: &str, topic: &str, now: Timestamp) -> Self {
        Self { v: VERSION, cluster: cluster.to_owned(), topic: topic.to_owned(), next: 0, complete: false, at: now }
    }

    /// Returns the offset to read on from, if the snapshot is a prefix of `log`.
    pub(crate) fn fits(&self, log: &LogRange, now: Timestamp) -> Result<i64, Misfit> {
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

/// The range of offsets in a topic's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogRange {
    pub(crate) cluster: String,
    pub(crate) begin: i64,
    pub(crate) end: i64,
}

/// Why a snapshot does not fit a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Misfit {
    #[error("it is of another Kafka cluster")]
    Cluster,
    #[error("it reaches to offset {next}, the topic only to {end}: the topic was deleted and created again")]
    Ahead { next: i64, end: i64 },
    #[error("it reaches to offset {next}, the topic begins at {begin}")]
    Behind { next: i64, begin: i64 },
    #[error("it is more than 12 hours old, and tombstones since then may be gone")]
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

/// A key with its value; `None` where the key was deleted.
pub(crate) type SnapshotRow = (Box<[u8]>, Option<Box<[u8]>>);

type SnapshotRows = redb::ReadOnlyTable<&'static [u8], &'static [u8]>;

/// An open snapshot.
pub(crate) struct Snapshot {
    database: Database,
    path: PathBuf,
    meta: Option<SnapshotMeta>,
}

/// The result of opening a snapshot.
pub(crate) enum OpenedSnapshot {
    /// A snapshot of the topic.
    Whole(Snapshot),
    /// An empty snapshot, and why the file that was there was discarded, if one was.
    Empty(Snapshot, Option<String>),
}

/// Whether the file's content is damaged, rather than the disk unavailable.
fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

impl Snapshot {
    /// Opens the snapshot of `topic` in `path`. A damaged snapshot, or the snapshot
    /// of another topic, is replaced by an empty one.
    pub(crate) fn open(path: &Path, topic: &str) -> Result<OpenedSnapshot, SnapshotError> {
        let disk = |source: redb::Error| SnapshotError::Disk { path: path.to_owned(), source: Box::new(source) };
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(|error| disk(error.into()))?;
        }
        let why = match Self::try_open(path) {
            Ok(snapshot) => match &snapshot.meta {
                Some(meta) if meta.v == VERSION && meta.topic == topic => return Ok(OpenedSnapshot::Whole(snapshot)),
                Some(meta) => format!("it is of layout {} and topic {}", meta.v, meta.topic),
                None => return Ok(OpenedSnapshot::Empty(snapshot, None)),
            },
            Err(redb::Error::DatabaseAlreadyOpen) => return Err(SnapshotError::InUse { path: path.to_owned() }),
            // The file may be intact once the disk works again.
            Err(redb::Error::Io(error)) if !is_damage(&error) => return Err(disk(error.into())),
            Err(error) => error.to_string(),
        };
        remove(path).map_err(|error| disk(error.into()))?;
        let fresh = Self::try_open(path).map_err(disk)?;
        Ok(OpenedSnapshot::Empty(fresh, Some(why)))
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

    fn read_meta(&self) -> Result<Option<SnapshotMeta>, redb::Error> {
        let read = self.database.begin_read()?;
        let meta = match read.open_table(META) {
            Ok(meta) => meta,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let Some(found) = meta.get(())? else { return Ok(None) };
        serde_json::from_slice(found.value())
            .map(Some)
            .map_err(|error| redb::Error::Corrupted(format!("the snapshot's description: {error}")))
    }

    /// The snapshot's description; `None` if it is empty.
    pub(crate) const fn meta(&self) -> Option<&SnapshotMeta> {
        self.meta.as_ref()
    }

    /// Returns the number of rows.
    pub(crate) fn rows(&self) -> Result<u64, SnapshotError> {
        self.read(|rows| Ok(rows.len()?))
    }

    /// Calls `visit` with every row, in the order of their keys.
    pub(crate) fn each(&self, mut visit: impl FnMut(&[u8], &[u8])) -> Result<(), SnapshotError> {
        self.read(|rows| {
            for row in rows.iter()? {
                let (key, value) = row?;
                visit(key.value(), value.value());
            }
            Ok(())
        })
    }

    /// Runs `query` on the rows; returns the default where no row was ever written.
    fn read<T: Default>(
        &self,
        query: impl FnOnce(&SnapshotRows) -> Result<T, redb::Error>,
    ) -> Result<T, SnapshotError> {
        let read = || -> Result<_, redb::Error> {
            match self.database.begin_read()?.open_table(ROWS) {
                Ok(rows) => query(&rows),
                Err(redb::TableError::TableDoesNotExist(_)) => Ok(T::default()),
                Err(error) => Err(error.into()),
            }
        };
        read().map_err(|error| self.failed(error))
    }

    /// Writes changes (a later change of a key wins) and the new description in
    /// one commit.
    pub(crate) fn write(&mut self, rows: &[SnapshotRow], meta: SnapshotMeta) -> Result<(), SnapshotError> {
        let write = || -> Result<(), redb::Error> {
            let mut transaction = self.database.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            // A start after kill -9 must not scan millions of links first.
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

    /// Returns the snapshot's keys, to be marked where the topic still has them.
    /// Marks are never committed: a kill meanwhile leaves the snapshot unchanged.
    pub(crate) fn marks(&self) -> Result<Marks, SnapshotError> {
        let begin = || -> Result<_, redb::Error> { Ok(self.database.begin_write()?) };
        Ok(Marks { transaction: begin().map_err(|error| self.failed(error))?, path: self.path.clone() })
    }

    /// Deletes the file and opens an empty snapshot.
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

/// The keys of a replaced snapshot that the topic has not been seen to hold yet.
pub(crate) struct Marks {
    transaction: redb::WriteTransaction,
    path: PathBuf,
}

impl Marks {
    /// Marks a key that the topic has a record of.
    pub(crate) fn mark(&self, key: &[u8]) -> Result<(), SnapshotError> {
        let mark = || -> Result<(), redb::Error> {
            self.transaction.open_table(ROWS)?.remove(key)?;
            Ok(())
        };
        mark().map_err(|error| self.failed(error))
    }

    /// Calls `visit` with every key that was not marked.
    pub(crate) fn unmarked(self, mut visit: impl FnMut(&[u8])) -> Result<(), SnapshotError> {
        let mut each = || -> Result<(), redb::Error> {
            let rows = self.transaction.open_table(ROWS)?;
            for row in rows.iter()? {
                visit(row?.0.value());
            }
            Ok(())
        };
        let visited = each().map_err(|error| self.failed(error));
        // Fails only where the disk does, and then the file is discarded as well.
        let _ = self.transaction.abort();
        visited
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

    fn meta(next: i64) -> SnapshotMeta {
        SnapshotMeta { next, complete: true, ..SnapshotMeta::new("c", TOPIC, Timestamp::from_millis(0)) }
    }

    fn log(end: i64) -> LogRange {
        LogRange { cluster: "c".to_owned(), begin: 0, end }
    }

    #[test]
    fn a_snapshot_is_read_on_from_only_where_the_log_goes_on() {
        let now = Timestamp::from_millis(MAX_AGE_MS);
        assert_eq!(meta(7).fits(&log(7), now), Ok(7));
        assert_eq!(meta(7).fits(&log(9), now), Ok(7));
        assert_eq!(meta(7).fits(&log(6), now), Err(Misfit::Ahead { next: 7, end: 6 }));
        assert_eq!(meta(7).fits(&LogRange { begin: 8, ..log(9) }, now), Err(Misfit::Behind { next: 7, begin: 8 }));
        assert_eq!(meta(7).fits(&LogRange { cluster: "d".to_owned(), ..log(9) }, now), Err(Misfit::Cluster));
        assert_eq!(meta(7).fits(&log(9), Timestamp::from_millis(MAX_AGE_MS + 1)), Err(Misfit::Old));
    }

    fn put(key: u32, value: &str) -> SnapshotRow {
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
            OpenedSnapshot::Whole(snapshot) => Some(snapshot),
            OpenedSnapshot::Empty(..) => None,
        }
    }

    fn empty(path: &Path) -> Snapshot {
        let OpenedSnapshot::Empty(snapshot, None) = Snapshot::open(path, TOPIC).unwrap() else { panic!("it is new") };
        snapshot
    }

    #[test]
    fn written_rows_are_there_and_unmarked_keys_are_visited() {
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
        marks.unmarked(|key| gone.push(key.to_vec())).unwrap();
        assert_eq!(gone, [2_u32.to_be_bytes().to_vec()]);
        let snapshot = snapshot.renew().unwrap();
        assert_eq!((snapshot.meta(), rows(&snapshot)), (None, Vec::new()));
    }

    #[test]
    fn another_topics_snapshot_is_discarded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("links.redb");
        empty(&path).write(&[put(1, "a")], meta(1)).unwrap();
        let OpenedSnapshot::Empty(snapshot, Some(why)) = Snapshot::open(&path, "other.links").unwrap() else {
            panic!()
        };
        assert!(why.contains(TOPIC), "{why}");
        assert!(rows(&snapshot).is_empty());
    }

    #[test]
    fn a_damaged_file_is_discarded() {
        let dir = tempfile::tempdir().unwrap();
        for damage in ["cut", "empty", "nonsense", "garbled head", "garbled row"] {
            let path = dir.path().join(damage);
            let mut snapshot = empty(&path);
            for part in 0..20 {
                let rows: Vec<SnapshotRow> = (0..100).map(|row| put(part * 100 + row, &"x".repeat(500))).collect();
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
            let OpenedSnapshot::Empty(mut snapshot, _) = Snapshot::open(&path, TOPIC).unwrap() else {
                panic!("{damage}")
            };
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
                    let rows: Vec<SnapshotRow> =
                        (next..next + 50).map(|key| put(key % 1000, &key.to_string())).collect();
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
