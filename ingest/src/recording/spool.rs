//! The file of the spool: bundles that Kafka has not acknowledged in time, until it
//! has. It is a redb file, whose commits are durable and atomic: after kill -9 it holds
//! the commits that returned and nothing else; a torn last write is not there.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use redb::{
    Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, StorageError, TableDefinition, TableError,
    backends::FileBackend,
};
use tracing::error;
use uuid::Uuid;

use crate::recording::index::LeftBundle;

/// The bundles in the order in which they were spooled, encoded as [`Spooled`].
const BUNDLES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("bundles");
/// The last offset of each partition of `clicks.raw` that Kafka has acknowledged, as it
/// was noted last.
const ACKNOWLEDGED: TableDefinition<'_, u16, i64> = TableDefinition::new("acknowledged");
/// The bytes before the lines: id, partition, clicks.
const HEADER_BYTES: usize = 16 + 4 + 4;
/// The bit of the partition that says that an offset, [`Spooled::after`], follows the
/// header. Files of releases that knew no such offset never have it: no partition is
/// negative.
const HAS_AFTER: u32 = 1 << 31;
/// The beginning of the name of a file that could not be read.
const DAMAGED: &str = "spool.damaged-";
/// The beginning of the name of a file with a bundle that could not be decoded.
const ASIDE: &str = "spool.aside-";
/// How long such files are kept: as long as `clicks.raw` keeps clicks.
const KEPT_ASIDE: Duration = Duration::from_secs(72 * 3600);
/// The size of redb's cache; the spool is written and read once.
const CACHE_BYTES: usize = 4 << 20;

/// Why the spool cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// Another process has the spool open.
    #[error(
        "the spool {} is in use by another process: give each redirector an `ingest.data_dir` of its own",
        path.display()
    )]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The disk refuses.
    #[error("the spool {}: {source}. See that `ingest.data_dir` can be written and the disk is not full", path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// The error of the disk.
        source: Box<redb::Error>,
    },
}

/// A bundle as it is spooled: Kafka gets the same, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spooled {
    pub(crate) id: Uuid,
    pub(crate) partition: i32,
    pub(crate) clicks: u32,
    /// The last offset that Kafka had acknowledged on the partition when the bundle was
    /// closed: a copy that Kafka has already stands behind it.
    pub(crate) after: Option<i64>,
    pub(crate) lines: Vec<u8>,
}

impl Spooled {
    /// Reads the partition of an encoded bundle alone.
    fn partition(bytes: &[u8]) -> Option<i32> {
        let (partition, _) = Self::partition_field(bytes)?;
        Some(partition)
    }

    /// Reads the partition, and whether an offset follows the header.
    fn partition_field(bytes: &[u8]) -> Option<(i32, bool)> {
        let field = u32::from_be_bytes(bytes.get(16..20)?.try_into().ok()?);
        let partition = i32::try_from(field & !HAS_AFTER).ok()?;
        Some((partition, field & HAS_AFTER != 0))
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (header, rest) = bytes.split_at_checked(HEADER_BYTES)?;
        let (partition, has_after) = Self::partition_field(header)?;
        let (after, lines) = if has_after {
            let (after, lines) = rest.split_first_chunk()?;
            // A former release took the client's sign for no offset, which is negative, for one.
            (Some(i64::from_be_bytes(*after)).filter(|after| *after >= 0), lines)
        } else {
            (None, rest)
        };
        Some(Self {
            id: Uuid::from_slice(&header[..16]).ok()?,
            partition,
            clicks: u32::from_be_bytes(header[20..].try_into().ok()?),
            after,
            lines: lines.to_vec(),
        })
    }
}

/// The result of reading a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SpoolRead {
    Bundle(Spooled),
    /// The bytes under the key are no bundle.
    Undecodable(Vec<u8>),
    /// The file does not have the key.
    Missing,
}

/// Returns the bytes that a bundle takes in the file.
pub(crate) const fn encoded_bytes(lines: &[u8], after: Option<i64>) -> u64 {
    let after = if after.is_some() { size_of::<i64>() } else { 0 };
    (HEADER_BYTES + after + lines.len()) as u64
}

/// A bundle that is to be written.
pub(crate) struct SpoolPut<'a> {
    pub(crate) key: u64,
    pub(crate) id: Uuid,
    pub(crate) partition: i32,
    pub(crate) clicks: u32,
    pub(crate) after: Option<i64>,
    pub(crate) lines: &'a [u8],
}

impl SpoolPut<'_> {
    fn encode(&self) -> Vec<u8> {
        let partition = self.partition.unsigned_abs() | if self.after.is_some() { HAS_AFTER } else { 0 };
        let after = self.after.map(i64::to_be_bytes);
        let after = after.as_ref().map_or([].as_slice(), |after| after.as_slice());
        let header = [self.id.as_bytes().as_slice(), &partition.to_be_bytes(), &self.clicks.to_be_bytes()].concat();
        [&header, after, self.lines].concat()
    }
}

/// The open spool of this process.
pub(crate) struct Spool {
    /// None where the file could not be opened again after an error.
    database: Option<Database>,
    path: PathBuf,
}

impl Spool {
    /// Opens the spool in `dir`. A file that cannot be read is set aside, so that
    /// redirects go on; the log says so.
    ///
    /// # Errors
    /// When another process has it open, or the disk refuses.
    pub(crate) fn open(dir: &Path) -> Result<Self, SpoolError> {
        let path = dir.join("spool.redb");
        let disk = |source: redb::Error| SpoolError::Disk { path: path.clone(), source: Box::new(source) };
        fs::create_dir_all(dir).map_err(|error| disk(error.into()))?;
        forget_set_aside(dir);
        // The check tells a file that something else has written to from one that was
        // left in the middle of a commit.
        let open = || create(&path, true);
        let database = match open() {
            Ok(database) => database,
            Err(DatabaseError::DatabaseAlreadyOpen) => return Err(SpoolError::InUse { path }),
            Err(damaged) if is_damage(&damaged) => {
                let aside = dir.join(format!("{DAMAGED}{}.redb", Uuid::now_v7()));
                error!(error = %damaged, aside = %aside.display(), "spool cannot be read: it is set aside");
                fs::rename(&path, &aside).map_err(|error| disk(error.into()))?;
                open().map_err(|error| disk(error.into()))?
            }
            Err(error) => return Err(disk(error.into())),
        };
        let spool = Self { database: Some(database), path };
        spool.write(&[], &[])?;
        Ok(spool)
    }

    /// Opens the file again after an error, with the bundles that it held.
    ///
    /// # Errors
    /// When the disk still refuses; the file can be opened again later.
    pub(crate) fn reopen(&mut self) -> Result<(), SpoolError> {
        // Dropping the database releases its lock.
        self.database = None;
        let opened = create(&self.path, false);
        self.database = Some(opened.map_err(|error| self.disk(error))?);
        Ok(())
    }

    /// Replaces the file with an empty one.
    ///
    /// # Errors
    /// When the disk refuses; the file can be opened again later.
    pub(crate) fn renew(&mut self) -> Result<(), SpoolError> {
        self.database = None;
        fs::remove_file(&self.path).map_err(|error| self.disk(redb::Error::from(error)))?;
        self.reopen()?;
        self.write(&[], &[])
    }

    fn database(&self) -> Result<&Database, redb::Error> {
        self.database.as_ref().ok_or_else(|| io::Error::other("it is closed since it failed").into())
    }

    fn disk(&self, source: impl Into<redb::Error>) -> SpoolError {
        SpoolError::Disk { path: self.path.clone(), source: Box::new(source.into()) }
    }

    /// Adds and erases bundles in one commit, which is on disk when this returns.
    ///
    /// # Errors
    /// When the disk refuses; nothing is changed then.
    pub(crate) fn write(&self, puts: &[SpoolPut<'_>], erased: &[u64]) -> Result<(), SpoolError> {
        let write = || -> Result<(), redb::Error> {
            let mut transaction = self.database()?.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            {
                let mut table = transaction.open_table(BUNDLES)?;
                for put in puts {
                    table.insert(put.key, put.encode().as_slice())?;
                }
                for key in erased {
                    table.remove(key)?;
                }
            }
            Ok(transaction.commit()?)
        };
        write().map_err(|error| self.disk(error))
    }

    /// Notes the last acknowledged offsets of partitions, for the next process.
    ///
    /// # Errors
    /// When the disk refuses; nothing is changed then.
    pub(crate) fn note_acknowledged(&self, offsets: &BTreeMap<u16, i64>) -> Result<(), SpoolError> {
        let write = || -> Result<(), redb::Error> {
            let mut transaction = self.database()?.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            {
                let mut table = transaction.open_table(ACKNOWLEDGED)?;
                for (partition, offset) in offsets {
                    table.insert(partition, offset)?;
                }
            }
            Ok(transaction.commit()?)
        };
        write().map_err(|error| self.disk(error))
    }

    /// Returns the offsets that were noted. A file that was replaced since has none.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn acknowledged(&self) -> Result<BTreeMap<u16, i64>, SpoolError> {
        let read = || -> Result<BTreeMap<u16, i64>, redb::Error> {
            let table = match self.database()?.begin_read()?.open_table(ACKNOWLEDGED) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(BTreeMap::new()),
                opened => opened?,
            };
            let mut offsets = BTreeMap::new();
            for entry in table.iter()? {
                let (partition, offset) = entry?;
                offsets.insert(partition.value(), offset.value());
            }
            Ok(offsets)
        };
        read().map_err(|error| self.disk(error))
    }

    /// Lists the bundles, oldest first.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn left(&self) -> Result<Vec<LeftBundle>, SpoolError> {
        let read = || -> Result<Vec<LeftBundle>, redb::Error> {
            let table = self.database()?.begin_read()?.open_table(BUNDLES)?;
            let mut left = Vec::new();
            for entry in table.iter()? {
                let (key, value) = entry?;
                let bytes = value.value().len() as u64;
                left.push(LeftBundle { key: key.value(), bytes, partition: Spooled::partition(value.value()) });
            }
            Ok(left)
        };
        read().map_err(|error| self.disk(error))
    }

    /// Reads a bundle.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn get(&self, key: u64) -> Result<SpoolRead, SpoolError> {
        let read = || -> Result<SpoolRead, redb::Error> {
            let table = self.database()?.begin_read()?.open_table(BUNDLES)?;
            let Some(value) = table.get(key)? else { return Ok(SpoolRead::Missing) };
            let bytes = value.value();
            let bundle = Spooled::decode(bytes).map(SpoolRead::Bundle);
            Ok(bundle.unwrap_or_else(|| SpoolRead::Undecodable(bytes.to_vec())))
        };
        read().map_err(|error| self.disk(error))
    }

    /// Writes bytes that are no bundle to a file of their own, which is on disk when this
    /// returns; returns its path. The key is not erased.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn set_aside(&self, key: u64, bytes: &[u8]) -> Result<PathBuf, SpoolError> {
        let path = self.path.with_file_name(format!("{ASIDE}{key}-{}.bundle", Uuid::now_v7()));
        let write = || -> io::Result<()> {
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write().map_err(|error| self.disk(redb::Error::from(error)))?;
        Ok(path)
    }
}

#[cfg(test)]
impl Spool {
    /// Writes bytes under a key, whatever they are.
    pub(crate) fn write_raw(&self, key: u64, bytes: &[u8]) {
        let transaction = self.database().unwrap().begin_write().unwrap();
        transaction.open_table(BUNDLES).unwrap().insert(key, bytes).unwrap();
        transaction.commit().unwrap();
    }
}

/// Opens the file or makes it, for its owner alone: it holds full addresses.
fn create(path: &Path, check: bool) -> Result<Database, DatabaseError> {
    let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    let backend = FileBackend::new(file)?;
    Database::builder().set_cache_size(CACHE_BYTES).set_check_integrity_on_open(check).create_with_backend(backend)
}

/// Removes files that were set aside so long ago that Kafka, too, would have deleted
/// their addresses. A failure does not keep the redirector from starting.
fn forget_set_aside(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let is_old = || entry.metadata().ok()?.modified().ok()?.elapsed().ok().map(|age| age > KEPT_ASIDE);
        let name = entry.file_name();
        let is_aside = [DAMAGED, ASIDE].iter().any(|prefix| name.to_string_lossy().starts_with(prefix));
        if is_aside && is_old() == Some(true) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Whether a file holds something else than a spool, or a part of one.
fn is_damage(error: &DatabaseError) -> bool {
    match error {
        DatabaseError::Storage(StorageError::Corrupted(_)) | DatabaseError::UpgradeRequired(_) => true,
        DatabaseError::Storage(StorageError::Io(error)) => {
            matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn bundle(spool: &Spool, key: u64) -> Spooled {
        match spool.get(key).unwrap() {
            SpoolRead::Bundle(bundle) => bundle,
            other => panic!("{other:?}"),
        }
    }

    fn put(key: u64, lines: &[u8]) -> SpoolPut<'_> {
        SpoolPut { key, id: Uuid::from_u128(u128::from(key)), partition: 3, clicks: 1, after: None, lines }
    }

    #[test]
    fn what_was_written_is_there_after_a_restart_and_what_was_erased_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        spool.write(&[put(1, b"a\n"), put(2, b"b\n"), put(3, b"c\n")], &[]).unwrap();
        spool.write(&[put(4, b"d\n")], &[2]).unwrap();
        drop(spool);
        let spool = Spool::open(dir.path()).unwrap();
        let keys: Vec<u64> = spool.left().unwrap().into_iter().map(|left| left.key).collect();
        assert_eq!(keys, [1, 3, 4]);
        let third = Spooled { id: Uuid::from_u128(3), partition: 3, clicks: 1, after: None, lines: b"c\n".to_vec() };
        assert_eq!(bundle(&spool, 3), third);
        assert_eq!(spool.get(2).unwrap(), SpoolRead::Missing);
    }

    #[test]
    fn an_offset_is_kept_and_an_entry_of_a_former_release_has_none() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        for after in [0, 7, i64::MAX] {
            spool.write(&[SpoolPut { after: Some(after), ..put(1, b"a\n") }], &[]).unwrap();
            let read = bundle(&spool, 1);
            assert_eq!(read.after, Some(after));
            assert_eq!(read.partition, 3);
            assert_eq!(read.lines, b"a\n");
            assert_eq!(spool.left().unwrap()[0].partition, Some(3));
        }
        spool.write(&[SpoolPut { after: Some(-1001), ..put(1, b"a\n") }], &[]).unwrap();
        assert_eq!(bundle(&spool, 1).after, None, "no offset is negative");
        let former =
            [Uuid::from_u128(9).as_bytes().as_slice(), &3_i32.to_be_bytes(), &2_u32.to_be_bytes(), b"b\n"].concat();
        let read = Spooled::decode(&former).unwrap();
        assert_eq!(read.after, None);
        assert_eq!(read.partition, 3);
        assert_eq!(read.clicks, 2);
        assert_eq!(read.lines, b"b\n");
    }

    #[test]
    fn a_spool_that_is_opened_again_holds_what_it_held() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(dir.path()).unwrap();
        spool.write(&[put(1, b"a\n")], &[]).unwrap();
        spool.reopen().unwrap();
        spool.write(&[put(2, b"b\n")], &[]).unwrap();
        assert_eq!(spool.left().unwrap().len(), 2);
    }

    #[test]
    fn a_file_is_its_owners_alone_and_an_empty_one_tells_nothing_of_what_it_held() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spool.redb");
        let mut spool = Spool::open(dir.path()).unwrap();
        spool.write(&[put(1, b"203.0.113.42")], &[]).unwrap();
        spool.write(&[], &[1]).unwrap();
        spool.renew().unwrap();
        let held = fs::read(&path).unwrap();
        assert!(!held.windows(12).any(|bytes| bytes == b"203.0.113.42"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        spool.write(&[put(2, b"b\n")], &[]).unwrap();
        drop(spool);
        assert_eq!(Spool::open(dir.path()).unwrap().left().unwrap().len(), 1);
    }

    #[test]
    fn a_file_that_was_set_aside_is_kept_for_as_long_as_kafka_keeps_clicks() {
        let dir = tempfile::tempdir().unwrap();
        let aside = |name: &str, hours: u64| {
            let path = dir.path().join(name);
            let file = fs::File::create(&path).unwrap();
            file.set_modified(std::time::SystemTime::now() - Duration::from_secs(hours * 3600)).unwrap();
            path
        };
        for prefix in [DAMAGED, ASIDE] {
            let old = aside(&format!("{prefix}old"), 73);
            let young = aside(&format!("{prefix}young"), 71);
            drop(Spool::open(dir.path()).unwrap());
            assert!(!old.exists() && young.exists(), "{prefix}");
        }
    }

    #[test]
    fn acknowledged_offsets_are_known_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        assert_eq!(spool.acknowledged().unwrap(), BTreeMap::new());
        spool.note_acknowledged(&BTreeMap::from([(0, 7), (3, 9)])).unwrap();
        spool.note_acknowledged(&BTreeMap::from([(0, 8)])).unwrap();
        drop(spool);
        let mut spool = Spool::open(dir.path()).unwrap();
        assert_eq!(spool.acknowledged().unwrap(), BTreeMap::from([(0, 8), (3, 9)]));
        spool.renew().unwrap();
        assert_eq!(spool.acknowledged().unwrap(), BTreeMap::new());
    }

    #[test]
    fn bytes_that_are_no_bundle_are_kept_beside_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(dir.path()).unwrap();
        spool.write(&[put(1, b"a\n")], &[]).unwrap();
        spool.write_raw(2, b"too short");
        let read = spool.get(2).unwrap();
        assert_eq!(read, SpoolRead::Undecodable(b"too short".to_vec()));
        let aside = spool.set_aside(2, b"too short").unwrap();
        spool.write(&[], &[1, 2]).unwrap();
        spool.renew().unwrap();
        assert_eq!(fs::read(&aside).unwrap(), b"too short");
        assert_eq!(fs::metadata(&aside).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_second_process_is_told_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let _first = Spool::open(dir.path()).unwrap();
        let error = Spool::open(dir.path()).err().unwrap().to_string();
        assert!(error.contains("ingest.data_dir"), "{error}");
    }

    #[test]
    fn a_torn_or_garbled_file_does_not_keep_redirects_from_starting() {
        for damage in ["cut", "garbled", "empty", "nonsense"] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("spool.redb");
            let spool = Spool::open(dir.path()).unwrap();
            for key in 0..50 {
                spool.write(&[put(key, &[b'x'; 10_000])], &[]).unwrap();
            }
            drop(spool);
            let len = fs::metadata(&path).unwrap().len();
            let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
            match damage {
                "cut" => file.set_len(len / 2).unwrap(),
                "empty" => file.set_len(0).unwrap(),
                "garbled" => {
                    let mut bytes = fs::read(&path).unwrap();
                    bytes[100..4000].fill(0xA5);
                    fs::write(&path, bytes).unwrap();
                }
                _ => (&file).write_all(b"this is no spool at all").unwrap(),
            }
            drop(file);
            let spool = Spool::open(dir.path()).unwrap_or_else(|error| panic!("{damage}: {error}"));
            spool.write(&[put(100, b"new\n")], &[]).unwrap();
            assert_eq!(bundle(&spool, 100).lines, b"new\n", "{damage}");
        }
    }
}
