//! The commands that are not roles, one a file. `resource` is shared by the commands on
//! resources of the API.

pub(crate) mod audit;
pub(crate) mod audit_log;
pub(crate) mod campaigns;
pub(crate) mod check_config;
pub(crate) mod conversions;
pub(crate) mod conversions_import;
pub(crate) mod dead;
pub(crate) mod domains;
pub(crate) mod endpoints;
pub(crate) mod engines;
pub(crate) mod import;
pub(crate) mod keys;
pub(crate) mod links;
pub(crate) mod listen;
pub(crate) mod migrate;
pub(crate) mod offsets;
pub(crate) mod partitions;
pub(crate) mod resource;
pub(crate) mod since;
pub(crate) mod spool;
pub(crate) mod stats;
pub(crate) mod trigger;
pub(crate) mod verify;
pub(crate) mod workspaces;
