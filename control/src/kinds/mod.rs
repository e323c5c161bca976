//! The kinds of entities: for each, the fields that callers write, the rules that they are checked against, the unique
//! keys, and the view that callers get. A new kind is a file here, and a line in `state/mod.rs`, `routes.rs` and
//! `openapi/paths.rs` each; reading, listing, creating, changing and deleting follow from [`Resource`].
//!
//! [`Resource`]: resource::Resource

pub(crate) mod campaign;
pub(crate) mod domain;
pub(crate) mod endpoint;
pub(crate) mod key;
pub(crate) mod link;
pub(crate) mod replay;
pub(crate) mod resource;
pub(crate) mod workspace;
