//! The facts of an address: its place, who announces it, and whether its network is of
//! a special kind.

mod data;
mod files;
mod geo;
mod networks;
#[cfg(test)]
mod sample;

pub(crate) use data::AddressData;
pub(crate) use files::AddressFiles;
pub use files::address_databases;
pub(crate) use networks::NetworkKind;
