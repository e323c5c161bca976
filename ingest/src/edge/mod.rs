//! The redirector's edge: a listener, a thread and the connections of each core.

pub(crate) mod connection;
pub(crate) mod networks;
pub(crate) mod serve;
mod slots;
