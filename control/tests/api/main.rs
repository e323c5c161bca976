//! The API against a real Kafka and a real ClickHouse: what callers see, what is
//! in the topics by then, and what survives a change of leaders.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

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
mod refusals;
mod support;
mod workspaces;
