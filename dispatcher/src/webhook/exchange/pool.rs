//! The connections that are kept for further requests: an HTTP/1 connection while nothing
//! is on its way over it, an HTTP/2 connection for all that can share it.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{connection::EndpointConnection, target::EndpointOrigin};

/// Kept connections.
pub(super) struct ConnectionPool {
    origins: Mutex<HashMap<Arc<EndpointOrigin>, Vec<PooledConnection>>>,
    keep_alive: Duration,
    /// The number of connections that are kept for one origin.
    per_origin: usize,
}

struct PooledConnection {
    connection: EndpointConnection,
    since: Instant,
}

impl ConnectionPool {
    pub(super) fn new(keep_alive: Duration, per_origin: usize) -> Self {
        Self { origins: Mutex::default(), keep_alive, per_origin }
    }

    /// Returns a kept connection to `origin`, the one that was used last.
    pub(super) fn take(&self, origin: &EndpointOrigin) -> Option<EndpointConnection> {
        let now = Instant::now();
        let mut origins = self.origins.lock();
        let kept = origins.get_mut(origin)?;
        while let Some(last) = kept.pop() {
            let usable = !last.connection.is_closed() && now.duration_since(last.since) < self.keep_alive;
            if !usable {
                continue;
            }
            if let Some(shared) = last.connection.share() {
                kept.push(PooledConnection { since: now, ..last });
                return Some(shared);
            }
            return Some(last.connection);
        }
        origins.remove(origin);
        None
    }

    /// Keeps a connection, unless it is closed or enough are kept.
    pub(super) fn put(&self, origin: &Arc<EndpointOrigin>, connection: EndpointConnection) {
        if connection.is_closed() || self.keep_alive.is_zero() {
            return;
        }
        let mut origins = self.origins.lock();
        let kept = origins.entry(Arc::clone(origin)).or_default();
        if connection.is_shared() {
            // One connection carries all requests. Of several that were made at the same
            // time, the first one stays.
            kept.retain(|kept| kept.connection.is_shared() && !kept.connection.is_closed());
            if !kept.is_empty() {
                return;
            }
        } else if kept.len() >= self.per_origin {
            return;
        }
        kept.push(PooledConnection { connection, since: Instant::now() });
    }

    /// Keeps the connections to `origin` no longer.
    pub(super) fn forget(&self, origin: &EndpointOrigin) {
        self.origins.lock().remove(origin);
    }

    /// Closes the connections that were kept for long enough.
    pub(super) fn sweep(&self) {
        let now = Instant::now();
        self.origins.lock().retain(|_, kept| {
            kept.retain(|kept| !kept.connection.is_closed() && now.duration_since(kept.since) < self.keep_alive);
            !kept.is_empty()
        });
    }

    /// Closes all kept connections, since sockets are short.
    pub(super) fn clear(&self) {
        self.origins.lock().clear();
    }
}
