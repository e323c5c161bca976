//! The loads of `bench pipeline`.

use std::{path::PathBuf, time::Duration};

/// The loads of a run, and how long each of them takes.
pub(super) struct Plan {
    pub(super) rate: u32,
    pub(super) steady: Duration,
    pub(super) warm_up: Duration,
    pub(super) saturate: Duration,
    pub(super) connections: u16,
    pub(super) under_way: u32,
    pub(super) limit: Duration,
    /// The pause in which `up` comes to rest before it is watched.
    pub(super) settle: Duration,
    pub(super) idle: Duration,
    pub(super) binary: PathBuf,
}
