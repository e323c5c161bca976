//! The signal to stop: one flag that every part of a process watches.

use std::sync::Arc;

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tracing::info;

/// The signal to drain and stop, shared by all its clones.
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
    /// Returns a signal that has not been triggered.
    #[must_use]
    pub fn new() -> Self {
        Self { flag: Arc::new(watch::channel(false).0) }
    }

    /// Returns a signal that SIGINT, SIGTERM and SIGHUP (a closed terminal) trigger. Must
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

    /// Triggers the signal.
    pub fn trigger(&self) {
        self.flag.send_replace(true);
    }

    /// Returns whether the signal was triggered.
    #[must_use]
    pub fn is_triggered(&self) -> bool {
        *self.flag.borrow()
    }

    /// Waits until the signal is triggered.
    pub async fn wait(&self) {
        // The sender lives in self, so the channel cannot close.
        let _ = self.flag.subscribe().wait_for(|triggered| *triggered).await;
    }
}
