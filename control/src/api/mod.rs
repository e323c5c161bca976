//! The handlers of the API. A handler reads the request into a type that cannot be wrong, asks the leader, and
//! answers; the rules are in `kinds/`, and `state/` decides about a change. `routes.rs` says which path has which
//! handler.

pub(crate) mod auth;
pub(crate) mod bulk;
pub(crate) mod campaigns;
pub(crate) mod context;
pub(crate) mod domains;
pub(crate) mod endpoints;
pub(crate) mod events;
pub(crate) mod import;
pub(crate) mod import_slots;
pub(crate) mod keys;
pub(crate) mod links;
pub(crate) mod once;
pub(crate) mod qr;
pub(crate) mod request;
pub(crate) mod resource;
pub(crate) mod stats;
pub(crate) mod workspaces;
