//! Links and domains in memory, as the topics `links` and `domains` have them.

pub(crate) mod domains;
pub(crate) mod links;
pub(crate) mod location;
pub(crate) mod row;
