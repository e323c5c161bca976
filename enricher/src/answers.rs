//! Answers of a thread that works for a member: those to requests that were cancelled
//! meanwhile are skipped.

use std::{
    sync::mpsc::{Receiver, TryRecvError},
    thread,
    time::{Duration, Instant},
};

use bus::BusError;

/// How often it is looked for an answer that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Waits for an answer as `next` returns it, until `deadline`.
///
/// # Errors
/// Those of `next`.
pub(crate) fn before<T>(
    deadline: Instant,
    next: impl Fn() -> Result<Option<T>, BusError>,
) -> Result<Option<T>, BusError> {
    loop {
        if let Some(answer) = next()? {
            return Ok(Some(answer));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// Returns the next answer that `is_open`, if one is there. `what` names the thread's work.
///
/// # Errors
/// When the thread has ended.
pub(crate) fn next_open<T>(
    answers: &Receiver<T>,
    is_open: impl Fn(&T) -> bool,
    what: &'static str,
) -> Result<Option<T>, BusError> {
    loop {
        match answers.try_recv() {
            Ok(answer) if is_open(&answer) => return Ok(Some(answer)),
            Ok(_) => {}
            Err(TryRecvError::Empty) => return Ok(None),
            Err(TryRecvError::Disconnected) => return Err(BusError::Gone { what }),
        }
    }
}
