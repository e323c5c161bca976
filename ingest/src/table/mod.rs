//! Links and domains in memory, as the topics `links` and `domains` have them.

pub(crate) mod domains;
pub(crate) mod links;
pub(crate) mod location;
mod reference;
pub(crate) mod row;
