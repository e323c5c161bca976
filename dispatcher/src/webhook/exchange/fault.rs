//! The reasons why an exchange has no answer, by whose fault it is.

use std::io;

use rustix::io::Errno;

/// The reason why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ExchangeFault {
    /// The endpoint, its name or the way to it failed: the delivery has used an attempt.
    #[error("{0}")]
    Endpoint(String),
    /// This process or machine failed: the endpoint was not asked, and the delivery keeps
    /// its attempt.
    #[error("{0}")]
    Ours(String),
}

/// Tells whether an error of the system says that this machine or process has run out of
/// something, whatever the other side is.
pub(super) fn is_exhaustion(error: &io::Error) -> bool {
    let Some(errno) = Errno::from_io_error(error) else { return error.kind() == io::ErrorKind::OutOfMemory };
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM].contains(&errno)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_machine_lacks_is_not_the_endpoints_fault() {
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM] {
            assert!(is_exhaustion(&errno.into()), "{errno}");
        }
        for errno in [Errno::CONNREFUSED, Errno::HOSTUNREACH, Errno::NETUNREACH, Errno::CONNRESET, Errno::TIMEDOUT] {
            assert!(!is_exhaustion(&errno.into()), "{errno}");
        }
        assert!(!is_exhaustion(&io::Error::other("broken")));
    }
}
