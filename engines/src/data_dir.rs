//! The data directory: one process at a time, and where things are in it.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::Error;

/// A data directory that belongs to this process until this is dropped. The
/// kernel frees the lock of a process that dies, however it dies.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    log_max_bytes: u64,
    _lock: File,
}

impl DataDir {
    pub(crate) fn lock(path: &Path, log_max_bytes: u64) -> Result<Self, Error> {
        fs::create_dir_all(path).map_err(|source| Error::io("create the data directory", path, source))?;
        // The children's arguments contain it, and whether an orphan is ours is
        // decided by that: so one spelling.
        let path = path.canonicalize().map_err(|source| Error::io("resolve", path, source))?;
        let lock_path = path.join("lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(|source| Error::io("open", &lock_path, source))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut holder = String::new();
            // Only for the message: the holder may be writing it just now.
            let _ = lock.read_to_string(&mut holder);
            let holder = if holder.trim().is_empty() { "unknown".into() } else { holder.trim().into() };
            return Err(Error::InUse { dir: path, holder });
        }
        lock.set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .map_err(|source| Error::io("write", &lock_path, source))?;
        let dir = Self { path, log_max_bytes, _lock: lock };
        for folder in [dir.run(), dir.logs()] {
            fs::create_dir_all(&folder).map_err(|source| Error::io("create", &folder, source))?;
        }
        Ok(dir)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn run(&self) -> PathBuf {
        self.path.join("run")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    pub(crate) fn ports_file(&self) -> PathBuf {
        self.path.join("ports.json")
    }

    pub(crate) fn log_max_bytes(&self) -> u64 {
        self.log_max_bytes
    }
}

/// Writes a small file so that a reader sees the old or the new one, never half.
pub(crate) fn write_atomically(path: &Path, contents: &str) -> Result<(), Error> {
    let temporary = path.with_extension("new");
    fs::write(&temporary, contents)
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(|source| Error::io("write", path, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_and_told_who_the_first_is() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::lock(dir.path(), 1).unwrap();
        let refused = DataDir::lock(dir.path(), 1).unwrap_err().to_string();
        assert!(refused.contains(&format!("in use by process {}", std::process::id())), "{refused}");
        drop(first);
        DataDir::lock(dir.path(), 1).unwrap();
    }
}
