//! The things that every role of a process is handed.

use crate::{Health, Metrics, Shutdown};

/// The process that a role runs in: where the role counts, where the role says
/// whether it is ready, and by what it is told to stop. Cheap to clone; the clones
/// are of one process.
#[derive(Clone, Debug, Default)]
pub struct Process {
    /// The metrics of the process.
    pub metrics: Metrics,
    /// The readiness of the process.
    pub health: Health,
    /// The signal to drain and stop.
    pub shutdown: Shutdown,
}

impl Process {
    /// Returns the same process with another signal to stop, for a role that stops
    /// earlier or later than the others.
    #[must_use]
    pub fn stopped_by(&self, shutdown: &Shutdown) -> Self {
        Self { shutdown: shutdown.clone(), ..self.clone() }
    }
}
