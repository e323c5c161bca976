//! The work on `clicks.raw`: bundles of raw clicks become events.

pub(crate) mod address;
pub(crate) mod agent;
pub(crate) mod bundles;
pub(crate) mod day_keys;
pub(crate) mod enrich;
pub(crate) mod geo;
pub(crate) mod query;
pub(crate) mod source;
