//! The common parts of all processes of clickhook: configuration, telemetry, a port for
//! health and metrics, the signal to stop, backoff, the vault that keeps secrets sealed
//! at rest, and the common parts of the APIs: problems, the reading of headers and of
//! JSON, and rate limits (`limit.rs` for known callers, `buckets.rs` for unknown ones).

pub mod admin;
mod authorities;
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
pub mod public_address;
pub mod secret;
pub mod serve;
mod service_links;
mod shutdown;
pub mod telemetry;
pub mod vault;

pub use authorities::authorities;
pub use backoff::Backoff;
pub use config::ConfigError;
pub use health::{Health, Part};
pub use metrics::Metrics;
pub use process::Process;
pub use shutdown::Shutdown;
