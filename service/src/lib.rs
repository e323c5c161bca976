//! What every process of clickhook has: configuration, telemetry, a port for
//! health and metrics, a way to be told to stop, backoff, the vault that keeps
//! secrets sealed at rest, and what those share that answer callers: problems,
//! the reading of headers and of JSON, and limits on how often one calls (`limit.rs` for callers
//! that are known, `buckets.rs` for strangers).

pub mod admin;
mod backoff;
pub mod buckets;
pub mod config;
pub mod headers;
mod health;
pub mod json;
pub mod limit;
mod metrics;
pub mod problem;
mod process;
pub mod secret;
pub mod serve;
mod shutdown;
pub mod telemetry;
pub mod vault;

pub use backoff::Backoff;
pub use config::ConfigError;
pub use health::{Health, Part};
pub use metrics::Metrics;
pub use process::Process;
pub use shutdown::Shutdown;
