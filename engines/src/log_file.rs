//! A child's log: the child writes to the file itself, so that its last words
//! are there even if we are gone, and we keep the file from growing for ever.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::Error;

#[derive(Debug, Clone)]
pub(crate) struct LogFile {
    path: PathBuf,
    max_bytes: u64,
}

impl LogFile {
    pub(crate) fn new(path: PathBuf, max_bytes: u64) -> Self {
        Self { path, max_bytes }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens it for a child to append to.
    pub(crate) fn open(&self) -> Result<File, Error> {
        OpenOptions::new()
            .append(true)
            .create(true)
            .open(&self.path)
            .map_err(|source| Error::io("open", &self.path, source))
    }

    pub(crate) fn len(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |metadata| metadata.len())
    }

    /// Moves what is in it aside when it is too long. The child has it open to
    /// append, so it is copied and emptied in place, which may lose a line.
    pub(crate) fn trim(&self) {
        if self.len() <= self.max_bytes {
            return;
        }
        let old = self.path.with_extension("log.1");
        let moved =
            fs::copy(&self.path, &old).and_then(|_| OpenOptions::new().write(true).open(&self.path)?.set_len(0));
        if let Err(error) = moved {
            tracing::warn!(%error, log = %self.path.display(), "could not shorten a log");
        }
    }

    /// Its last lines after the byte `from`.
    pub(crate) fn tail(&self, from: u64) -> String {
        const LINES: usize = 20;
        const BYTES: u64 = 16 << 10;
        let mut bytes = Vec::new();
        let start = from.max(self.len().saturating_sub(BYTES));
        let read = File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(start))?;
            file.read_to_end(&mut bytes)
        });
        if read.is_err() || bytes.is_empty() {
            return "(nothing)".into();
        }
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_long_log_is_moved_aside_under_the_writer() {
        let dir = tempfile::tempdir().unwrap();
        let log = LogFile::new(dir.path().join("x.log"), 8);
        let mut writer = log.open().unwrap();
        writer.write_all(b"0123456789\n").unwrap();
        log.trim();
        writer.write_all(b"new\n").unwrap();
        assert_eq!(fs::read_to_string(log.path()).unwrap(), "new\n");
        assert_eq!(fs::read_to_string(dir.path().join("x.log.1")).unwrap(), "0123456789\n");
        assert_eq!(log.tail(0), "new");
    }
}
