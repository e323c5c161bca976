//! The errors of the engines, in words for the person who starts them.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use crate::Engine;

/// Why the engines could not be started or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nothing is installed where we looked.
    #[error("Kafka and ClickHouse are not installed: no .engines folder beside or above {}; run `make engines`, or set CLICKHOOK_ENGINES_DIR to where they are", list(.looked))]
    NotInstalled {
        /// Where the search began.
        looked: Vec<PathBuf>,
    },
    /// An installation lacks a file.
    #[error("the engines in {dir} are incomplete, {missing} is missing; run `make engines` again", dir = .dir.display(), missing = .missing.display())]
    Incomplete {
        /// The installation.
        dir: PathBuf,
        /// The missing file or folder.
        missing: PathBuf,
    },
    /// Another process holds the data directory.
    #[error("the data directory {dir} is in use by process {holder}; stop that one, or choose another with --data-dir", dir = .dir.display())]
    InUse {
        /// The data directory.
        dir: PathBuf,
        /// The holder's pid, as far as it could be read.
        holder: String,
    },
    /// A file or folder could not be read, written or made.
    #[error("could not {what} {path}: {source}", path = .path.display())]
    Io {
        /// The deed, to be read before the path.
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The data directory belongs to a Kafka of another size.
    #[error("the data directory {dir} has a Kafka of {found} brokers, not of {asked}; run it with that number, or choose another directory", dir = .dir.display())]
    Brokers {
        /// The data directory.
        dir: PathBuf,
        /// The number of brokers that it was made for.
        found: usize,
        /// The number of brokers that was asked for.
        asked: usize,
    },
    /// No broker answers.
    #[error("no broker of {brokers} answers: {source}")]
    NoBroker {
        /// The brokers that were asked.
        brokers: String,
        /// The last broker's error.
        source: std::io::Error,
    },
    /// Replicas do not catch up.
    #[error("after {} s replicas are still out of sync: {}", .within.as_secs(), partitions.join(", "))]
    OutOfSync {
        /// How long they were waited for.
        within: Duration,
        /// The partitions with a replica that is not in sync, as `topic[partition]`.
        partitions: Vec<String>,
    },
    /// No free loopback port was found.
    #[error("no free port on 127.0.0.1 between {from} and {to}; stop what listens there")]
    NoPort {
        /// First port tried.
        from: u16,
        /// Last port tried.
        to: u16,
    },
    /// A child's program could not be run.
    #[error("could not run {program} for {engine}: {source}; if it was removed, run `make engines`", program = .program.display())]
    Spawn {
        /// The child.
        engine: Engine,
        /// The program that was to be started.
        program: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A child ended before it answered.
    #[error(
        "{engine} ended ({status}) before it was ready; its last words in {log}:\n{tail}{}", hint(tail), log = .log.display()
    )]
    Ended {
        /// The child.
        engine: Engine,
        /// How it ended.
        status: ExitStatus,
        /// Its log.
        log: PathBuf,
        /// The end of its log.
        tail: String,
    },
    /// A child runs but does not answer.
    #[error("{engine} did not answer within {} s and was stopped; see {log}", .within.as_secs(), log = .log.display())]
    NotReady {
        /// The child.
        engine: Engine,
        /// How long we waited.
        within: Duration,
        /// Its log.
        log: PathBuf,
    },
    /// A child of a killed predecessor does not go away.
    #[error(
        "process {pid} ({engine}), left behind by an earlier run on this data directory, survived SIGKILL; see what it hangs on, then start again"
    )]
    Orphan {
        /// The child.
        engine: Engine,
        /// The process.
        pid: u32,
    },
    /// ClickHouse's library could not be loaded.
    #[error("could not load ClickHouse from {lib}: {source}; run `make engines` again", lib = .lib.display())]
    Library {
        /// The library.
        lib: PathBuf,
        /// The dynamic loader's words.
        source: libloading::Error,
    },
    /// The ClickHouse child was called with arguments that it does not know.
    #[error("{0}: this is started by clickhook itself, not by hand")]
    ChildArguments(String),
    /// The command of [`crate::exec`] could not be run.
    #[error("could not run {command}: {source}")]
    Command {
        /// The command's name.
        command: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The engines were told to stop while they were starting.
    #[error("stopped while the engines were starting")]
    Stopped,
}

impl Error {
    pub(crate) fn io(what: &'static str, path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Self::Io { what, path: path.as_ref().to_owned(), source }
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" or ")
}

/// Returns the remedy for last words that are known. Kafka says the first where a newer
/// one has written the folder: it reads no format but its own and older ones.
fn hint(tail: &str) -> &'static str {
    if tail.contains("UnsupportedVersionException") {
        "\nA newer Kafka has written this data folder, and this one cannot read it: run the clickhook that made it, or \
         start with another folder (`up --data-dir DIR`)"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_a_newer_kafka_is_told_from_other_faults() {
        assert!(
            hint("Caused by: UnsupportedVersionException: Can't read version 4 of BrokerEndpoint")
                .contains("--data-dir")
        );
        assert_eq!(hint("Address already in use"), "");
    }
}
