//! The recording of clicks: the bundle that is open, the bundles that Kafka has
//! not acknowledged, and the spool on disk.

pub(crate) mod core;
pub(crate) mod recorder;
pub(crate) mod spool;
pub(crate) mod spooler;
pub(crate) mod unacked;
