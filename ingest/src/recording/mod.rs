//! The recording of clicks: the bundle that is open, the bundles that Kafka has not
//! acknowledged, and the spool on disk.
//!
//! `bundle.rs` has a bundle and the messages about it; `unacked.rs` and `index.rs` are
//! the rules, without I/O; `recorder.rs`, `core.rs` and `spooler.rs` carry them out,
//! `spool.rs` is the file, and `simulation.rs` tests the rules.

pub(crate) mod bundle;
pub(crate) mod core;
mod index;
pub(crate) mod recorder;
#[cfg(test)]
mod simulation;
pub(crate) mod spool;
pub(crate) mod spooler;
mod unacked;
