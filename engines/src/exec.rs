//! Runs a command beside engines of its own: a test run has one Kafka and one
//! ClickHouse, and leaves neither behind.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use crate::{Engines, Error, Options, TEST_CLICKHOUSE_ENV, TEST_KAFKA_ENV};

/// The time in which the command must end after it was told to.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// Starts engines as `options` say, runs `command` with [`TEST_KAFKA_ENV`] and
/// [`TEST_CLICKHOUSE_ENV`] set, stops the engines, and returns the command's
/// exit code (128 and the signal's number if a signal ended it, as shells do).
/// SIGINT, SIGTERM and SIGHUP end the command first, then the engines.
///
/// # Errors
/// When the engines do not start, or the command cannot be run.
pub async fn exec(options: Options, command: &[OsString]) -> Result<i32, Error> {
    let listen = |kind| signal(kind).map_err(|source| Error::io("listen for", "signals", source));
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hangup = listen(SignalKind::hangup())?;
    // Ctrl-C reaches the command by itself, it is in our process group.
    let told_to_stop = async {
        tokio::select! {
            _ = interrupt.recv() => None,
            _ = terminate.recv() => Some(Signal::TERM),
            _ = hangup.recv() => Some(Signal::HUP),
        }
    };
    tokio::pin!(told_to_stop);

    let engines = tokio::select! {
        started = Engines::start(options) => started?,
        // Dropping the start kills what it may have started.
        _ = &mut told_to_stop => return Err(Error::Stopped),
    };
    let ended = match spawn(&engines, command) {
        Err(error) => Err(error),
        Ok((name, mut child)) => {
            let status = tokio::select! {
                status = child.wait() => status,
                signal = &mut told_to_stop => stop(&mut child, signal).await,
            };
            status.map(code_of).map_err(|source| Error::Command { command: name, source })
        }
    };
    engines.shutdown().await;
    ended
}

fn spawn(engines: &Engines, command: &[OsString]) -> Result<(String, Child), Error> {
    let name = command.first().map(|program| program.display().to_string()).unwrap_or_default();
    let mut parts = command.iter();
    let program = parts.next().cloned().unwrap_or_default();
    let child = Command::new(program)
        .args(parts)
        .env(TEST_KAFKA_ENV, engines.kafka_brokers())
        .env(TEST_CLICKHOUSE_ENV, engines.clickhouse_url())
        .kill_on_drop(true)
        .spawn();
    child.map(|child| (name.clone(), child)).map_err(|source| Error::Command { command: name, source })
}

async fn stop(child: &mut Child, signal: Option<Signal>) -> std::io::Result<ExitStatus> {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    if let (Some(signal), Some(pid)) = (signal, pid) {
        // An error means that it is gone, which the wait sees too.
        let _ = kill_process(pid, signal);
    }
    match timeout(STOP_WITHIN, child.wait()).await {
        Ok(status) => status,
        Err(_) => {
            child.kill().await?;
            child.wait().await
        }
    }
}

fn code_of(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1)
}
