//! Leading and standing by: the election of the one instance that writes, its term, its writing, and the forwarding of
//! requests to it.

pub(crate) mod election;
pub(crate) mod endpoint_health;
pub(crate) mod exhaustion;
pub(crate) mod forward;
mod installation;
pub(crate) mod leadership;
pub(crate) mod proofs;
pub(crate) mod renames;
mod replay_scan;
pub(crate) mod replaying;
pub(crate) mod resealing;
pub(crate) mod secret_expiry;
pub(crate) mod watch;
pub(crate) mod writer;
