//! The enricher: turns what the redirector saw into finished events. It reads
//! `clicks.raw`, adds what can be known (place, device, browser, source,
//! campaign, bot or not), reduces the address, and produces to `clicks`, all in
//! one Kafka transaction with its offsets: a crash repeats the work, never the
//! output.

mod address;
mod agent;
mod bundles;
mod config;
mod daykeys;
mod enrich;
mod geo;
mod query;
mod source;
mod worker;

pub use config::{Config, IpMode};
pub use geo::GeoError;
pub use worker::{Error, run};
