//! Logs: readable lines in a terminal, JSON for programs. `error` means that a
//! person must act, `warn` that something is degraded but handled, `info` is a
//! fact of a process's life, `debug` is for developing.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging to standard error; `RUST_LOG` overrides `filter`. Later calls
/// do nothing.
pub fn init(format: Format, filter: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(filter));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    // Fails when a logger is set already, as in tests.
    let _ = match format {
        Format::Text => builder.with_target(false).with_ansi(stderr().is_terminal()).try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
}
