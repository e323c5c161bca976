//! A caller of the API: the key that a request shows, and the workspace that it acts in.

use std::sync::Arc;

use schemas::{Key, Scope, WorkspaceId};
use service::problem::{Kind, Problem};

use crate::{rate::RatedCaller, state::audit::Author};

/// A caller whose key is valid.
#[derive(Clone)]
pub(crate) struct Caller {
    /// The workspace that the request acts in.
    pub(crate) workspace: WorkspaceId,
    /// The caller's key, which says what the caller may do.
    pub(crate) key: Arc<Key>,
    /// The rates that the request was counted under.
    pub(crate) rated: RatedCaller,
    /// Whether the request shows the secret that the key had before it was rotated.
    pub(crate) by_previous: bool,
    /// The `X-Request-Id` of the request, if it can be written down.
    pub(crate) request_id: Option<Arc<str>>,
}

impl Caller {
    /// Returns the caller as the author of changes.
    pub(crate) fn author(&self) -> Author {
        Author::Caller {
            key: Arc::clone(&self.key),
            workspace: self.workspace.clone(),
            request_id: self.request_id.clone(),
        }
    }
}

/// Returns the problem of a caller whose key lacks the scope.
pub(crate) fn missing_scope(scope: Scope) -> Problem {
    Problem::new(Kind::Forbidden, format!("This takes a key with the scope `{}`, which yours has not", scope.as_str()))
}
