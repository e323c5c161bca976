//! The limit of open files. Sockets count as files, and shells give programs 1024 of them, of which a dispatcher may want
//! several thousand; the system lets a process raise that to its hard limit.

use anyhow::bail;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

/// The files that a process has open beside the connections of its webhooks: those of Kafka, ClickHouse and metrics.
const OTHERS: u64 = 96;

/// Raises the soft limit of open files to the hard limit, and checks that `connections` fit.
///
/// # Errors
/// When the connections to endpoints do not fit.
pub(crate) fn prepare(connections: usize) -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        match setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
            Ok(()) => info!(from = limit.current, to = limit.maximum, "limit of open files raised"),
            Err(error) => warn!(%error, limit = limit.current, "limit of open files not raised"),
        }
    }
    check(getrlimit(Resource::Nofile).current, connections as u64)
}

fn check(limit: Option<u64>, connections: u64) -> anyhow::Result<()> {
    let Some(limit) = limit.filter(|limit| connections.saturating_add(OTHERS) > *limit) else { return Ok(()) };
    let most = limit.saturating_sub(OTHERS);
    bail!(
        "webhook.max_connections = {connections}: must be at most {most}, since this process may have {limit} open files; \
         lower it, or raise the hard limit (`ulimit -Hn`, `LimitNOFILE=` of systemd)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_that_do_not_fit_are_refused_with_what_does() {
        assert!(check(None, 1_000_000).is_ok());
        assert!(check(Some(4_096), 4_000).is_ok());
        let error = check(Some(1_024), 4_000).unwrap_err().to_string();
        assert!(error.contains("webhook.max_connections = 4000") && error.contains("at most 928"), "{error}");
    }

    #[test]
    fn the_limit_is_raised_as_far_as_the_system_lets() {
        prepare(1).unwrap();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }
}
