//! Who leads the control plane, and where others reach it: the one record on
//! `leader`. A new leader writes it in its term's first transaction, so that
//! whoever reads it committed reads of a leader that had taken over by then.

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// The record's key: there is one leader.
pub const KEY: &str = "control";

/// The leader of the control plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    /// Version of the format: 1.
    pub v: u8,
    /// Where other instances reach its API: `host:port`.
    pub address: String,
    /// When its term began.
    pub since: Timestamp,
}
