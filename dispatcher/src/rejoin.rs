//! Rejoining: a thread works with one consumer after the other, for as long as the
//! errors that end them are transient. So a leader change or a lost session costs a
//! pause, and never the other work of the process.

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

use bus::BusError;
use service::{Backoff, Part, Shutdown};
use tokio::runtime::Handle;
use tracing::warn;

/// The shortest and the longest pause before a group is rejoined.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// The time after which a consumer counts as having worked, so that the next pause is
/// short again.
const STEADY: Duration = Duration::from_secs(60);

/// An error that may pass without anyone's help.
pub(crate) trait MaybeTransient: Display {
    fn is_transient(&self) -> bool;
}

impl MaybeTransient for BusError {
    fn is_transient(&self) -> bool {
        Self::is_transient(self)
    }
}

/// Calls `work` again with a pause whenever it ends with a transient error. `part` is
/// not ready from such an error on; `work` makes it ready again. Blocks until `work`
/// succeeds, fails for good, or fails after `stop`. The offsets of unfinished work are
/// not committed, so nothing is lost either way.
pub(crate) fn rejoining<E: MaybeTransient>(
    group: &str,
    part: &Part,
    stop: &Shutdown,
    runtime: &Handle,
    mut work: impl FnMut() -> Result<(), E>,
) -> Result<(), E> {
    let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
    loop {
        let started = Instant::now();
        let Err(error) = work() else { return Ok(()) };
        part.not_ready(&error.to_string());
        if !error.is_transient() {
            return Err(error);
        }
        if stop.is_triggered() {
            warn!(group, %error, "stopped while Kafka was away: the next start resumes from the committed offsets");
            return Ok(());
        }
        if started.elapsed() >= STEADY {
            backoff.reset();
        }
        let delay = backoff.next();
        warn!(group, %error, delay_ms = delay.as_millis() as u64, "consumer failed: it rejoins its group");
        runtime.block_on(async {
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = stop.wait() => {}
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use service::Health;
    use tokio::task::spawn_blocking;

    use super::*;

    #[derive(Debug, PartialEq, Eq, thiserror::Error)]
    enum TestError {
        #[error("a leader change")]
        Passing,
        #[error("an offset is gone")]
        Permanent,
    }

    impl MaybeTransient for TestError {
        fn is_transient(&self) -> bool {
            *self == Self::Passing
        }
    }

    #[tokio::test]
    async fn a_transient_error_is_followed_by_another_try() {
        let health = Health::default();
        let part = health.part("group");
        let runtime = Handle::current();
        let mut tries = 0;
        let work = move || {
            rejoining("group", &part, &Shutdown::new(), &runtime, || {
                tries += 1;
                if tries == 2 {
                    return Ok(());
                }
                part.ready();
                Err(TestError::Passing)
            })
        };
        assert_eq!(spawn_blocking(work).await.unwrap(), Ok(()));
        assert_eq!(health.waiting()["group"], "a leader change", "only the work says that it is ready again");
    }

    #[tokio::test]
    async fn a_permanent_error_ends_it() {
        let health = Health::default();
        let part = health.part("group");
        let runtime = Handle::current();
        let work = move || rejoining("group", &part, &Shutdown::new(), &runtime, || Err(TestError::Permanent));
        assert_eq!(spawn_blocking(work).await.unwrap(), Err(TestError::Permanent));
    }

    #[tokio::test]
    async fn told_to_stop_it_does_not_try_again() {
        let health = Health::default();
        let part = health.part("group");
        let runtime = Handle::current();
        let stop = Shutdown::new();
        let work = move || {
            rejoining("group", &part, &stop, &runtime, || {
                stop.trigger();
                Err(TestError::Passing)
            })
        };
        assert_eq!(spawn_blocking(work).await.unwrap(), Ok(()));
    }
}
