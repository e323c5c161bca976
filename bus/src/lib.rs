//! Kafka, for the rest of the project: the only crate that imports `rdkafka`.
//!
//! It offers little on purpose: a [`Producer`] that reports acknowledgements to
//! callbacks, a [`Consumer`] that one thread owns and polls, a [`TransactionPair`]
//! that commits while it goes on filling, a [`Ledger`] of finished work, a
//! [`Table`] that follows a compacted topic and may keep a snapshot of it, the
//! [`KeyUses`] of API keys, and [`migrate`](Bus::migrate) and [`widen`](Bus::widen) for
//! topics. Every client setting that guards against loss is in `config.rs`.

mod admin;
mod client;
mod client_errors;
mod committed_reader;
mod config;
mod consumer;
mod done_ranges;
mod error;
mod first_offsets;
mod group_offsets;
mod internal_topics;
mod key_uses;
mod ledger;
mod log_reader;
mod offsets;
mod open_transactions;
mod partition_counts;
mod partition_follower;
mod permissions;
mod poll_loop;
mod polled_producer;
mod producer;
mod record;
mod renewed_client;
mod stopped;
mod table;
mod topic_settings;
mod transaction_pair;

pub use admin::{MigratedTopics, WidenedTopic};
pub use committed_reader::CommittedReader;
pub use config::{Bus, BusConfig, MAX_POLL_INTERVAL};
pub use consumer::{Assigned, Assignments, Commit, Consumer, GroupMetadata, Isolation, Membership, Revoked};
pub use done_ranges::DoneRanges;
pub use error::BusError;
pub use group_offsets::GroupProgress;
pub use key_uses::KeyUses;
pub use ledger::{Ledger, LedgerProgress, OffsetTicket};
pub use log_reader::LogReader;
pub use offsets::{LogEnd, OffsetScope};
pub use open_transactions::LogEnds;
pub use partition_follower::PartitionFollower;
pub use permissions::MissingPermission;
pub use poll_loop::PollWork;
pub use producer::{Acked, Producer, Transaction};
pub use record::{Outgoing, Partition, Record};
pub use table::{Change, Table, TableProgress};
pub use topic_settings::wanted as topic_settings;
pub use transaction_pair::{CommitStart, TransactionPair};
