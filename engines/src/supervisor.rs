//! One child process: started, watched until it answers, started again when it
//! dies, stopped when it is no longer wanted.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::log_file::LogFile;
use crate::probe::Probe;
use crate::record::Record;
use crate::{Engine, Error};

/// Long, for a laptop that compiles beside it and a disk that is slow.
const READY_WITHIN: Duration = Duration::from_secs(90);
const PROBE_EVERY: Duration = Duration::from_millis(20);
const LOOK_AT_LOG_EVERY: Duration = Duration::from_secs(30);
const BACKOFF_FIRST: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// A child that lived this long died of something new: back off anew.
const SETTLED_AFTER: Duration = Duration::from_secs(60);

/// How a child is to be run. The same at each restart, ports included.
#[derive(Debug)]
pub(crate) struct Spec {
    pub(crate) engine: Engine,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    pub(crate) current_dir: PathBuf,
    /// The one of `args` that contains the data directory.
    pub(crate) marker: String,
    pub(crate) record: PathBuf,
    pub(crate) log: LogFile,
    pub(crate) probe: Probe,
    pub(crate) stop: Stop,
}

/// The polite way to ask a child to end, and how long it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    Terminate(Duration),
    CloseStdin(Duration),
}

/// A child that is kept running until [`Supervised::stop`], or until this is dropped.
#[derive(Debug)]
pub(crate) struct Supervised {
    /// 0 while it is down.
    pid: Arc<AtomicU32>,
    stop: watch::Sender<()>,
    task: JoinHandle<Spec>,
}

impl Supervised {
    /// Returns when the child answers.
    pub(crate) async fn start(spec: Spec) -> Result<Self, Error> {
        let running = Running::launch(&spec).await?;
        let pid = Arc::new(AtomicU32::new(running.pid));
        let (stop, stopped) = watch::channel(());
        let task = tokio::spawn(supervise(spec, running, pid.clone(), stopped));
        Ok(Self { pid, stop, task })
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        Some(self.pid.load(Ordering::Relaxed)).filter(|pid| *pid != 0)
    }

    /// Stops the child. Gives back how it was run, for another start.
    pub(crate) async fn stop(self) -> Option<Spec> {
        drop(self.stop);
        self.task.await.inspect_err(|error| tracing::error!(%error, "a supervisor panicked")).ok()
    }

    /// Kills the child with SIGKILL, and does not start it again.
    pub(crate) async fn kill(self) -> Option<Spec> {
        if let Some(pid) = self.pid().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
            // An error means that it is gone, which the wait sees too.
            let _ = kill_process(pid, Signal::KILL);
        }
        self.stop().await
    }
}

async fn supervise(spec: Spec, first: Running, pid: Arc<AtomicU32>, mut stopped: watch::Receiver<()>) -> Spec {
    let mut running = first;
    let mut backoff = BACKOFF_FIRST;
    let mut look_at_log = interval(LOOK_AT_LOG_EVERY);
    look_at_log.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let status = tokio::select! {
            status = running.child.wait() => status,
            _ = look_at_log.tick() => {
                spec.log.trim();
                continue;
            }
            // Nothing is ever sent: this is the sender being dropped.
            _ = stopped.changed() => {
                running.stop(&spec).await;
                pid.store(0, Ordering::Relaxed);
                remove_record(&spec);
                return spec;
            }
        };
        pid.store(0, Ordering::Relaxed);
        let log = spec.log.path().display();
        match status {
            Ok(status) => tracing::warn!(engine = %spec.engine, %status, %log, "a child died, starting it again"),
            Err(error) => tracing::warn!(engine = %spec.engine, %error, %log, "lost a child, starting it again"),
        }
        if running.since.elapsed() >= SETTLED_AFTER {
            backoff = BACKOFF_FIRST;
        }
        let again = async {
            loop {
                sleep(backoff).await;
                backoff = (backoff * 2).min(BACKOFF_MAX);
                match Running::launch(&spec).await {
                    Ok(running) => return running,
                    Err(error) => {
                        tracing::error!(engine = %spec.engine, %error, "could not start a child again, still trying");
                    }
                }
            }
        };
        running = tokio::select! {
            running = again => running,
            // Dropping the launch kills what it may have started.
            _ = stopped.changed() => {
                remove_record(&spec);
                return spec;
            }
        };
        pid.store(running.pid, Ordering::Relaxed);
    }
}

/// The next start has nothing to look for. If it stays, it finds nobody.
fn remove_record(spec: &Spec) {
    let _ = std::fs::remove_file(&spec.record);
}

#[derive(Debug)]
struct Running {
    child: Child,
    pid: u32,
    /// Its closing tells ClickHouse to end, also when we are killed.
    stdin: Option<ChildStdin>,
    since: Instant,
}

impl Running {
    /// Starts the child and waits until it answers.
    async fn launch(spec: &Spec) -> Result<Self, Error> {
        spec.log.trim();
        let log_from = spec.log.len();
        let started = Instant::now();
        let mut running = Self::spawn(spec)?;
        loop {
            if let Ok(Some(status)) = running.child.try_wait() {
                return Err(Error::Ended {
                    engine: spec.engine,
                    status,
                    log: spec.log.path().into(),
                    tail: spec.log.tail(log_from),
                });
            }
            if spec.probe.is_ready().await {
                break;
            }
            if started.elapsed() > READY_WITHIN {
                running.stop(spec).await;
                return Err(Error::NotReady { engine: spec.engine, within: READY_WITHIN, log: spec.log.path().into() });
            }
            sleep(PROBE_EVERY).await;
        }
        let ready_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(engine = %spec.engine, pid = running.pid, ready_ms, "started");
        Ok(running)
    }

    fn spawn(spec: &Spec) -> Result<Self, Error> {
        let spawn_error = |source| Error::Spawn { engine: spec.engine, program: spec.program.clone(), source };
        let log = spec.log.open()?;
        let mut child = Command::new(&spec.program)
            .args(&spec.args)
            .current_dir(&spec.current_dir)
            .stdin(if matches!(spec.stop, Stop::CloseStdin(_)) { Stdio::piped() } else { Stdio::null() })
            .stdout(log.try_clone().map_err(spawn_error)?)
            .stderr(log)
            // Ctrl-C in a terminal goes to our group; they must outlive our drain.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(spawn_error)?;
        let stdin = child.stdin.take();
        let pid = child.id().unwrap_or(0);
        if let Some(record) = Record::of_child(spec.engine, pid, &spec.marker) {
            record.save(&spec.record)?;
        }
        Ok(Self { child, pid, stdin, since: Instant::now() })
    }

    /// Asks politely, then less so, and returns when it is gone.
    async fn stop(mut self, spec: &Spec) {
        let started = Instant::now();
        let patience = match spec.stop {
            Stop::CloseStdin(patience) => patience,
            Stop::Terminate(patience) => {
                self.terminate();
                patience
            }
        };
        drop(self.stdin.take());
        if !self.ended_within(patience).await {
            tracing::warn!(engine = %spec.engine, pid = self.pid, ?patience, "a child does not stop, killing it");
            if self.child.kill().await.is_err() {
                tracing::warn!(engine = %spec.engine, pid = self.pid, "could not kill a child");
            }
        }
        let stopped_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(engine = %spec.engine, pid = self.pid, stopped_ms, "stopped");
    }

    fn terminate(&self) {
        // `id` is None once it was waited for, so this cannot hit another process.
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw) {
            // An error means that it is gone, which the wait sees too.
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    async fn ended_within(&mut self, patience: Duration) -> bool {
        let waited: Result<std::io::Result<ExitStatus>, _> = timeout(patience, self.child.wait()).await;
        waited.is_ok()
    }
}
