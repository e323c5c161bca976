//! Where events leave the pipeline: [`webhook`] sends them, signed, to the
//! endpoints that asked for them, and [`warehouse`] writes them to ClickHouse.
//! Each reads the topics in consumer groups of its own, so that an outage of
//! one sink never holds up the other.

pub mod warehouse;
pub mod webhook;
