//! Which processes are ours. A child is written down when it starts; after a
//! `kill -9` of its parent the next start finds it and ends it. A process
//! counts as ours only if its pid, its start time, its program and the data
//! directory in its arguments are all as written: pids are used again, and
//! nothing else must ever be ended.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use crate::data_dir::write_atomically;
use crate::{Engine, Error};

/// A child process, as its parent saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) engine: Engine,
    pub(crate) pid: u32,
    /// Clock ticks from the boot to its start, field 22 of /proc/PID/stat.
    started_ticks: u64,
    program: PathBuf,
    /// The argument that contains the data directory.
    argument: String,
}

impl Record {
    /// Looks at a child that was just started; `None` if it is already gone.
    pub(crate) fn of_child(engine: Engine, pid: u32, argument: &str) -> Option<Self> {
        Some(Self {
            engine,
            pid,
            started_ticks: started_ticks(pid)?,
            program: program(pid)?,
            argument: argument.into(),
        })
    }

    pub(crate) fn save(&self, path: &Path) -> Result<(), Error> {
        write_atomically(path, &serde_json::json!(self).to_string())
    }

    /// Whether the process that has this pid now is the one written down.
    fn is_alive(&self) -> bool {
        started_ticks(self.pid) == Some(self.started_ticks)
            && program(self.pid).as_ref() == Some(&self.program)
            && arguments(self.pid).contains(&self.argument)
    }
}

fn started_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may itself contain spaces and parentheses; the
    // fields after it start with the third.
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(22 - 3)?.parse().ok()
}

fn program(pid: u32) -> Option<PathBuf> {
    let path = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    // A rebuild replaced the file under the running process.
    Some(path.to_string_lossy().strip_suffix(" (deleted)").map(PathBuf::from).unwrap_or(path))
}

fn arguments(pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes.split(|byte| *byte == 0).map(|argument| String::from_utf8_lossy(argument).into_owned()).collect()
}

/// Ends the children that an earlier run on this data directory left behind.
/// The caller holds the directory's lock, so nobody supervises them any more.
pub(crate) async fn end_orphans(run: &Path) -> Result<(), Error> {
    let entries = fs::read_dir(run).map_err(|source| Error::io("read", run, source))?;
    for path in
        entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|it| it == "json"))
    {
        let record = fs::read(&path).ok().and_then(|json| serde_json::from_slice::<Record>(&json).ok());
        if let Some(record) = record {
            end(&record).await?;
        }
        fs::remove_file(&path).map_err(|source| Error::io("remove", &path, source))?;
    }
    Ok(())
}

async fn end(record: &Record) -> Result<(), Error> {
    // First the handle, then the look: the handle cannot come to mean another
    // process between the look and the signal.
    let handle = i32::try_from(record.pid)
        .ok()
        .and_then(Pid::from_raw)
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    let Some(handle) = handle.filter(|_| record.is_alive()) else { return Ok(()) };
    tracing::warn!(engine = %record.engine, pid = record.pid, "ending a child that a killed run left behind");

    // ClickHouse sees its standard input close and ends by itself, tidily.
    let unasked = if record.engine == Engine::ClickHouse { Duration::from_secs(5) } else { Duration::ZERO };
    let steps =
        [(None, unasked), (Some(Signal::TERM), Duration::from_secs(15)), (Some(Signal::KILL), Duration::from_secs(10))];
    for (signal, patience) in steps {
        if let Some(signal) = signal {
            // An error means that it is gone, which the wait below sees too.
            let _ = pidfd_send_signal(&handle, signal);
        }
        if has_ended(record, patience).await {
            return Ok(());
        }
    }
    Err(Error::Orphan { engine: record.engine, pid: record.pid })
}

/// Also true of a process that nobody waited for yet: it has no program any more.
async fn has_ended(record: &Record, within: Duration) -> bool {
    let deadline = Instant::now() + within;
    while record.is_alive() {
        if Instant::now() >= deadline {
            return false;
        }
        sleep(Duration::from_millis(20)).await;
    }
    true
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn sleeper() -> Child {
        let child = Command::new("sleep").arg("1000.25").spawn().unwrap();
        // The kernel shows a new program's arguments a moment after it runs.
        while !arguments(child.id()).contains(&"1000.25".into()) {
            std::thread::yield_now();
        }
        child
    }

    fn record_of(child: &Child) -> Record {
        Record::of_child(Engine::Kafka, child.id(), "1000.25").unwrap()
    }

    #[tokio::test]
    async fn the_recorded_process_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = sleeper();
        record_of(&child).save(&dir.path().join("kafka.json")).unwrap();
        end_orphans(dir.path()).await.unwrap();
        assert!(!child.wait().unwrap().success());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_process_that_differs_in_anything_is_left_alone() {
        let mut child = sleeper();
        let record = record_of(&child);
        let others = [
            Record { started_ticks: record.started_ticks + 1, ..record.clone() },
            Record { program: "/bin/other".into(), ..record.clone() },
            Record { argument: "/other/data".into(), ..record.clone() },
            Record { pid: std::process::id(), ..record.clone() },
        ];
        for other in others {
            let dir = tempfile::tempdir().unwrap();
            other.save(&dir.path().join("kafka.json")).unwrap();
            end_orphans(dir.path()).await.unwrap();
            assert_eq!(child.try_wait().unwrap(), None, "{other:?}");
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
