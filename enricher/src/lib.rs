//! The enricher: turns what the redirector saw into finished events. It reads
//! `clicks.raw`, adds what can be known (place, device, browser, source,
//! campaign, bot or not), reduces the address, and produces to `clicks`, all in
//! one Kafka transaction with its offsets: a crash repeats the work, never the
//! output.

mod clicks;
mod config;
mod member;

pub use clicks::geo::GeoError;
pub use config::{Config, IpMode};
pub use member::{Error, run};
