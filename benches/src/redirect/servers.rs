//! The servers of `bench redirect`, and the loads that they share.

/// The servers, in this order everywhere.
pub(super) const SERVERS: [&str; 3] = ["bare hyper", "nginx", "ingest"];
/// The requests a second of the gentle load.
pub(super) const GENTLE: u32 = 500;
/// The number of links that are followed.
pub(super) const LINKS: u64 = 1000;
