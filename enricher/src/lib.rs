//! The enricher turns raw clicks into events. It reads `clicks.raw`, adds place,
//! device, browser, source, campaign and whether a program clicked, reduces the
//! address, and produces to `clicks`, in one Kafka transaction with its offsets: a
//! crash repeats the work, never the output.
//!
//! Beside it, with a group of its own, it joins reported conversions with their clicks:
//! from `conversions.raw` to `events`.
//!
//! `member.rs` is the loop of a group's member, `clicks/` and `conversions/` are the work
//! on a record, and `role.rs` puts them together.

mod answers;
mod clicks;
mod config;
mod conversions;
mod dead;
#[doc(hidden)]
pub mod fuzz;
mod member;
#[doc(hidden)]
pub mod probe;
mod role;

pub use clicks::address_data::address_databases;
pub use config::{Config, CustomerClick, Datacentre, IpMode};
pub use role::{Error, run};
