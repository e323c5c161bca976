//! The leader of the control plane and its address: the one record on `leader`. A new
//! leader writes the record in its term's first transaction, so that a committed
//! record always names a leader that had taken over.

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
