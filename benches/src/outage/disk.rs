//! The disk by itself, beside the redirector that puts clicks on it: a redirect
//! whose click only the disk can take is no faster than the disk.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// The bytes that are written and synced each time.
static BYTES: [u8; 8 << 10] = [0; 8 << 10];
/// How often: seldom enough to be in nobody's way.
const EVERY: Duration = Duration::from_millis(100);

/// A file that is synced again and again.
pub(super) struct Probe {
    stop: SyncSender<()>,
    thread: JoinHandle<io::Result<Duration>>,
}

impl Probe {
    /// Begins, with a file in `dir`.
    pub(super) fn start(dir: &Path) -> io::Result<Self> {
        let file = File::create(dir.join("probe"))?;
        let (stop, stopped) = sync_channel(1);
        let probe = move || {
            let mut slowest = Duration::ZERO;
            while stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                let began = Instant::now();
                file.write_all_at(&BYTES, 0)?;
                file.sync_data()?;
                slowest = slowest.max(began.elapsed());
            }
            Ok(slowest)
        };
        let thread = thread::Builder::new().name("disk".to_owned()).spawn(probe)?;
        Ok(Self { stop, thread })
    }

    /// Ends; says how long the slowest sync took. Blocks.
    pub(super) fn slowest(self) -> io::Result<Duration> {
        drop(self.stop);
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("it panicked")))
    }
}
