//! The enricher turns raw clicks into events. It reads `clicks.raw`, adds place,
//! device, browser, source, campaign and whether a program clicked, reduces the
//! address, and produces to `clicks`, in one Kafka transaction with its offsets: a
//! crash repeats the work, never the output.
//!
//! `member.rs` is the loop of a group's member, `clicks/` the work on a record,
//! and `role.rs` puts the two together.

mod clicks;
mod config;
mod dead;
mod member;
#[doc(hidden)]
pub mod probe;
mod role;

pub use clicks::address_data::address_databases;
pub use config::{Config, Datacentre, IpMode};
pub use role::{Error, run};
