//! The choices that all benches share, and progress for people.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, bail};

/// The choices that all benches share.
pub(crate) struct BenchContext {
    /// Whether everything is much shorter.
    pub(crate) quick: bool,
    /// The binary under measurement, as an absolute path.
    pub(crate) binary: PathBuf,
}

impl BenchContext {
    pub(crate) fn new(quick: bool, clickhook: Option<PathBuf>) -> anyhow::Result<Self> {
        let binary = match clickhook {
            Some(binary) => binary,
            None => std::env::current_exe().context("find the running program")?.with_file_name("clickhook"),
        };
        if !binary.is_file() {
            bail!("there is no {}: build it with `make build`, or name it with --clickhook", binary.display());
        }
        // Children run in folders of their own.
        let binary = std::path::absolute(&binary).with_context(|| format!("resolve {}", binary.display()))?;
        Ok(Self { quick, binary })
    }

    /// Returns a duration: the given one, else the full or the short one.
    pub(crate) fn seconds(&self, given: Option<u64>, full: u64, short: u64) -> Duration {
        Duration::from_secs(given.unwrap_or(if self.quick { short } else { full }))
    }
}

/// Prints progress to standard error; the report alone goes to standard output.
pub(crate) fn say(what: &str) {
    eprintln!("bench: {what}");
}
