//! The files with facts of addresses. They are opened whole, and again when they were
//! replaced: a thread looks every ten seconds. A file that cannot be used leaves the
//! one before it in force, with one warning; a missing one leaves facts out.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use arc_swap::ArcSwap;
use schemas::Timestamp;
use tracing::{info, warn};

use super::{
    data::AddressData,
    geo::GeoDatabase,
    networks::{NetworkRanges, RangesError},
};
use crate::config::Config;

/// How often the thread looks whether a file was replaced.
const CHECK_EVERY: Duration = Duration::from_secs(10);
/// The largest file that is opened.
const MAX_BYTES: u64 = 1 << 30;

/// The state of a file by which a new one is told: modification time, inode, size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: (i64, i64),
    inode: u64,
    bytes: u64,
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Self { modified: (metadata.mtime(), metadata.mtime_nsec()), inode: metadata.ino(), bytes: metadata.len() })
    }
}

/// The file as it was at the last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sight {
    Never,
    Missing,
    There(Stamp),
}

/// The facts that a file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contents {
    Places,
    Asns,
    Networks,
}

enum Opened {
    Places(Arc<GeoDatabase>),
    Asns(Arc<GeoDatabase>),
    Networks(Arc<NetworkRanges>),
}

impl Opened {
    fn built_at(&self) -> Timestamp {
        let seconds = match self {
            Self::Places(database) | Self::Asns(database) => database.built_at(),
            Self::Networks(ranges) => ranges.built_at(),
        };
        Timestamp::from_millis(i64::try_from(seconds.saturating_mul(1000)).unwrap_or(i64::MAX))
    }
}

/// The reason why a file is not used.
#[derive(Debug, thiserror::Error)]
enum FileError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it has more than 1 GiB")]
    TooLarge,
    #[error("it was written to while it was read")]
    Torn,
    #[error("{0}")]
    Geo(#[from] maxminddb::MaxMindDbError),
    #[error("{0}")]
    Ranges(#[from] RangesError),
}

struct WatchedFile {
    path: PathBuf,
    contents: Contents,
    sight: Sight,
    opened: Option<Opened>,
}

impl WatchedFile {
    fn new(path: &Path, contents: Contents) -> Self {
        Self { path: path.to_owned(), contents, sight: Sight::Never, opened: None }
    }

    /// Opens the file if it is another one than at the last look. Returns whether there
    /// are new contents.
    fn look(&mut self) -> bool {
        let sight = Stamp::of(&self.path).map_or(Sight::Missing, Sight::There);
        if sight == self.sight {
            return false;
        }
        let path = self.path.display();
        let in_force = self.opened.is_some();
        let Sight::There(stamp) = sight else {
            warn!(%path, in_force, "address database missing: facts are left out, or the one before stays in force");
            self.sight = sight;
            return false;
        };
        match self.open(stamp) {
            Ok(opened) => {
                info!(%path, built_at = %opened.built_at(), "address database opened");
                self.sight = sight;
                self.opened = Some(opened);
                true
            }
            // The next look finds it whole.
            Err(FileError::Torn) => false,
            Err(error) => {
                warn!(%path, %error, in_force, "address database not usable: replace it by renaming a whole file over it");
                self.sight = sight;
                false
            }
        }
    }

    fn open(&self, stamp: Stamp) -> Result<Opened, FileError> {
        if stamp.bytes > MAX_BYTES {
            return Err(FileError::TooLarge);
        }
        let bytes = fs::read(&self.path)?;
        if Stamp::of(&self.path)? != stamp {
            return Err(FileError::Torn);
        }
        Ok(match self.contents {
            Contents::Networks => Opened::Networks(Arc::new(NetworkRanges::read(&bytes)?)),
            Contents::Places | Contents::Asns => {
                let database = GeoDatabase::read(bytes)?;
                // A start takes what it finds: this reads all of the database.
                if self.opened.is_some() {
                    database.verify()?;
                }
                let database = Arc::new(database);
                if self.contents == Contents::Asns { Opened::Asns(database) } else { Opened::Places(database) }
            }
        })
    }
}

/// The files of a configuration.
struct WatchedFiles(Vec<WatchedFile>);

impl WatchedFiles {
    fn new(config: &Config) -> Self {
        let places = config.geo_city.iter().chain(&config.geo_country);
        let asns = config.geo_asn.iter().map(|path| WatchedFile::new(path, Contents::Asns));
        let places = places.map(|path| WatchedFile::new(path, Contents::Places));
        let networks = config.networks.iter().map(|path| WatchedFile::new(path, Contents::Networks));
        Self(places.chain(asns).chain(networks).collect())
    }

    /// Looks at every file. Returns whether one of them has new contents.
    fn look(&mut self) -> bool {
        // All of them, and not only up to the first.
        self.0.iter_mut().map(WatchedFile::look).fold(false, |any, changed| any | changed)
    }

    fn data(&self) -> AddressData {
        let mut data = AddressData::default();
        for file in &self.0 {
            match &file.opened {
                Some(Opened::Places(database)) => data.places.push(Arc::clone(database)),
                Some(Opened::Asns(database)) => data.asns.push(Arc::clone(database)),
                Some(Opened::Networks(ranges)) => data.networks = Some(Arc::clone(ranges)),
                None => {}
            }
        }
        data
    }
}

/// The facts of addresses as the files have them now. Dropping it ends its thread.
pub(crate) struct AddressFiles {
    current: Arc<ArcSwap<AddressData>>,
    _thread: mpsc::Sender<()>,
}

impl AddressFiles {
    /// Opens the files, and starts the thread that looks for new ones.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(crate) fn open(config: &Config) -> io::Result<Self> {
        let mut files = WatchedFiles::new(config);
        files.look();
        let current = Arc::new(ArcSwap::from_pointee(files.data()));
        let (sender, ended) = mpsc::channel::<()>();
        let swapped = Arc::clone(&current);
        thread::Builder::new().name("address-data".to_owned()).spawn(move || {
            while ended.recv_timeout(CHECK_EVERY) == Err(mpsc::RecvTimeoutError::Timeout) {
                if files.look() {
                    swapped.store(Arc::new(files.data()));
                }
            }
        })?;
        Ok(Self { current, _thread: sender })
    }

    /// Returns the facts that are in force.
    pub(crate) fn current(&self) -> Arc<AddressData> {
        self.current.load_full()
    }
}

/// Returns each file of the configuration with the time at which it was built, or the
/// reason why it is not used.
#[must_use]
pub fn address_databases(config: &Config) -> Vec<(PathBuf, Result<Timestamp, String>)> {
    let built = |file: WatchedFile| {
        let stamp = Stamp::of(&file.path).map_err(FileError::from);
        let opened = stamp.and_then(|stamp| file.open(stamp));
        (file.path, opened.map(|opened| opened.built_at()).map_err(|error| error.to_string()))
    };
    WatchedFiles::new(config).0.into_iter().map(built).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::sample::ranges_file, *};

    #[test]
    fn files_are_picked_up_replaced_and_kept_when_the_new_one_is_broken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ranges.bin");
        let put = |bytes: &[u8]| {
            let new = folder.path().join("new");
            fs::write(&new, bytes).unwrap();
            fs::rename(&new, &path).unwrap();
        };
        let config = Config { networks: Some(path.clone()), ..Config::default() };
        let mut files = WatchedFiles::new(&config);
        let built_at = |files: &WatchedFiles| files.data().networks.map(|ranges| ranges.built_at());
        assert!(!files.look());
        assert_eq!((files.0[0].sight, built_at(&files)), (Sight::Missing, None));
        assert!(address_databases(&config)[0].1.is_err());

        put(&ranges_file());
        assert!(files.look());
        assert_eq!(built_at(&files), Some(1_791_200_061));
        assert!(!files.look(), "an unchanged file is not opened again");
        assert_eq!(address_databases(&config)[0].1, Ok(Timestamp::from_millis(1_791_200_061_000)));

        put(b"broken");
        assert!(!files.look());
        assert!(!files.look(), "a broken file is told once");
        assert_eq!(built_at(&files), Some(1_791_200_061));

        let mut newer = ranges_file();
        newer[10..18].copy_from_slice(&1_800_000_000_u64.to_le_bytes());
        put(&newer);
        assert!(files.look());
        assert_eq!(built_at(&files), Some(1_800_000_000));

        fs::remove_file(&path).unwrap();
        assert!(!files.look());
        assert_eq!(built_at(&files), Some(1_800_000_000));
    }

    #[test]
    fn a_database_that_is_none_is_told_and_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("city.mmdb");
        fs::write(&path, "no database").unwrap();
        let config = Config { geo_city: vec![path], ..Config::default() };
        let files = AddressFiles::open(&config).unwrap();
        assert!(files.current().places.is_empty());
    }
}
