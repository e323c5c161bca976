//! How a process is told to stop: one flag that everything watches.

use std::sync::Arc;

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tracing::info;

/// Tells whoever holds a clone that it is time to drain and stop.
#[derive(Clone, Debug)]
pub struct Shutdown {
    flag: Arc<watch::Sender<bool>>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    /// One that has not been triggered.
    #[must_use]
    pub fn new() -> Self {
        Self { flag: Arc::new(watch::channel(false).0) }
    }

    /// One that SIGINT, SIGTERM and a terminal that is closed (SIGHUP) trigger. Must
    /// be called inside a runtime.
    ///
    /// # Errors
    /// When the process cannot listen for signals.
    pub fn on_signals() -> std::io::Result<Self> {
        let shutdown = Self::new();
        let triggered = shutdown.clone();
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let mut hangup = signal(SignalKind::hangup())?;
        tokio::spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            info!("asked to stop: draining");
            triggered.trigger();
        });
        Ok(shutdown)
    }

    /// Tells everyone to stop.
    pub fn trigger(&self) {
        self.flag.send_replace(true);
    }

    /// Whether it was triggered.
    #[must_use]
    pub fn is_triggered(&self) -> bool {
        *self.flag.borrow()
    }

    /// Waits until it is triggered.
    pub async fn wait(&self) {
        // The sender lives in self, so the channel cannot close.
        let _ = self.flag.subscribe().wait_for(|triggered| *triggered).await;
    }
}
