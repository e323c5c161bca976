//! The two sinks of the pipeline: [`webhook`] sends events, signed, to the endpoints
//! that ask for them, and [`warehouse`] writes them to ClickHouse. Each reads the topics
//! in consumer groups of its own, so that an outage of one sink never holds up the
//! other.

mod rejoin;
pub mod warehouse;
pub mod webhook;
