//! Kafka, for the rest of the project: the only crate that imports `rdkafka`.
//!
//! What it offers is small on purpose: a [`Producer`] whose acknowledgements are
//! callbacks, a [`Consumer`] that one thread owns and polls, [`Turns`] of
//! transactions, a [`Ledger`] of what is done, a [`Table`] that follows a
//! compacted topic and may keep a snapshot of it, [`KeyUses`] that all who are
//! called write down, and [`migrate`](Bus::migrate).
//! The settings that make them lose nothing are decided in `config.rs` and nowhere
//! else.

mod admin;
mod config;
mod consumer;
mod error;
mod history;
mod key_uses;
mod ledger;
mod open_transactions;
mod polled_producer;
mod producer;
mod record;
mod table;
mod transaction_pair;

pub use admin::{Edge, Migrated, Which};
pub use config::{Bus, BusConfig};
pub use consumer::{Assigned, Assignments, Commit, Consumer, GroupMetadata, Isolation, Membership, Revoked};
pub use error::BusError;
pub use key_uses::KeyUses;
pub use ledger::{Ledger, Ticket};
pub use producer::{Acked, Producer, Transaction};
pub use record::{Outgoing, Partition, Record};
pub use table::{Change, Known, Table};
pub use transaction_pair::{Turned, Turns};
