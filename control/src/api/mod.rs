//! The handlers of the API. A handler reads the request into a type that cannot be wrong, asks the leader, and
//! answers; the rules are in `kinds/`, and `state/` decides about a change. `routes.rs` says which path has which
//! handler.

pub(crate) mod attempts;
pub(crate) mod audit;
pub(crate) mod auth;
pub(crate) mod bulk;
pub(crate) mod context;
pub(crate) mod conversions;
pub(crate) mod cors;
pub(crate) mod domains;
pub(crate) mod endpoints;
pub(crate) mod event_types;
pub(crate) mod export;
pub(crate) mod idempotency;
pub(crate) mod import;
pub(crate) mod import_slots;
pub(crate) mod keys;
pub(crate) mod links;
pub(crate) mod people;
pub(crate) mod qr;
pub(crate) mod replays;
pub(crate) mod request;
pub(crate) mod resource;
pub(crate) mod stats;
pub(crate) mod tags;
pub(crate) mod tls;
pub(crate) mod usage;
