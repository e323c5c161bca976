//! What every process of clickhook has: configuration, telemetry, a port for
//! health and metrics, a way to be told to stop, backoff, and the vault that
//! keeps secrets sealed at rest.

pub mod admin;
mod backoff;
pub mod config;
mod health;
mod metrics;
pub mod secret;
mod shutdown;
pub mod telemetry;
pub mod vault;

pub use backoff::Backoff;
pub use config::ConfigError;
pub use health::{Health, Part};
pub use metrics::Metrics;
pub use shutdown::Shutdown;
