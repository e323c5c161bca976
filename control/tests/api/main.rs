//! The API with a real Kafka and a real ClickHouse: the answers that callers get, the records that are in the topics by
//! then, and the state that survives a change of leaders.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod audit;
mod campaigns;
mod description;
mod domains;
mod endpoints;
mod hostile;
mod idempotency;
mod import;
mod keys;
mod leading;
mod limits;
mod links;
mod quotas;
mod refusals;
mod replays;
mod stats;
mod support;
mod watch;
mod workspaces;
