//! The callers of the intake: their keys, as the topic `keys` has them, how often each
//! may call, and the record on `key_uses` of its last call.

use std::{
    collections::HashSet,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::http::HeaderMap;
use bus::{Change, KeyUses, Producer};
use parking_lot::RwLock;
use schemas::{Key, KeyId, Keyring, Scope, Timestamp, Workspace, WorkspaceId};
use service::{
    headers,
    limit::Limiter,
    problem::{Kind, Problem},
};
use tracing::error;

/// The header with the workspace that an operator acts in, if that is not the key's own.
const WORKSPACE: &str = "x-clickhook-workspace";

/// The keys, and their uses.
pub(crate) struct Callers {
    keys: RwLock<Keyring>,
    /// The workspaces, which operators may name.
    workspaces: RwLock<HashSet<WorkspaceId>>,
    /// Whether all keys are there.
    complete: AtomicBool,
    /// The rates of keys, and those of workspaces, whose admins make keys.
    limiter: Limiter<KeyId>,
    workspace_limiter: Limiter<WorkspaceId>,
    uses: KeyUses,
    producer: Producer,
}

impl Callers {
    /// Returns callers of whom each key, and all keys of a workspace, may call so often a second.
    pub(crate) fn new(producer: Producer, per_key: NonZeroU32, per_workspace: NonZeroU32) -> Self {
        Self {
            keys: RwLock::default(),
            workspaces: RwLock::default(),
            complete: AtomicBool::new(false),
            limiter: Limiter::new(per_key, per_key),
            workspace_limiter: Limiter::new(per_workspace, per_workspace),
            uses: KeyUses::default(),
            producer,
        }
    }

    /// Returns the number of keys.
    pub(crate) fn len(&self) -> usize {
        self.keys.read().len()
    }

    /// Applies a change of the topic `keys`.
    pub(crate) fn apply(&self, change: Change<'_>) {
        let (key, value) = match change {
            Change::Put { key, value } => (key, Some(value)),
            Change::Delete { key } => (key, None),
            Change::Coming { .. } => return,
            Change::CaughtUp => {
                self.complete.store(true, Ordering::Release);
                return;
            }
        };
        match value.map(serde_json::from_slice::<Key>) {
            Some(Ok(key)) => self.keys.write().put(key),
            // A key that cannot be read opens nothing: nor what it was before.
            unread => {
                if let Some(Err(reason)) = unread {
                    let key = String::from_utf8_lossy(key);
                    error!(%key, %reason, "a key cannot be used: make another, and delete this one");
                }
                let Some(id) = str::from_utf8(key).ok().and_then(|key| key.parse().ok()) else { return };
                self.keys.write().delete(id);
                self.uses.forget(id);
            }
        }
    }

    /// Applies a change of the topic `workspaces`.
    pub(crate) fn apply_workspace(&self, change: Change<'_>) {
        let (key, is_there) = match change {
            // The record of a deleted workspace stays, so that its id is not given again.
            Change::Put { key, value } => {
                let read = serde_json::from_slice::<Workspace>(value);
                (key, read.is_ok_and(|workspace| workspace.deleted_at.is_none()))
            }
            Change::Delete { key } => (key, false),
            Change::Coming { .. } | Change::CaughtUp => return,
        };
        // No other key is ever written.
        let Some(id) = str::from_utf8(key).ok().and_then(|key| key.parse::<WorkspaceId>().ok()) else { return };
        let mut workspaces = self.workspaces.write();
        if is_there {
            workspaces.insert(id)
        } else {
            workspaces.remove(&id)
        };
    }

    /// Returns the workspace for which the key in the headers (RFC 6750) may report
    /// conversions: its own, or the one that an operator names.
    pub(crate) fn bearer(&self, headers: &HeaderMap, now: Timestamp) -> Result<WorkspaceId, Problem> {
        let unknown = || Problem::new(Kind::Unauthorized, "This API key is not known here");
        let secret = headers::bearer(headers)?;
        let key = self.find(secret, now)?.ok_or_else(unknown)?;
        if !key.may(Scope::Conversions) {
            let detail = format!("The key {} lacks the scope `conversions`", key.id);
            return Err(Problem::new(Kind::Forbidden, detail));
        }
        let key = self.admit(key, now)?;
        let Some(named) = headers.get(WORKSPACE) else { return Ok(key.workspace.clone()) };
        let named = named.to_str().unwrap_or_default();
        if named == key.workspace.as_str() {
            return Ok(key.workspace.clone());
        }
        if !key.may(Scope::Operator) {
            let detail = "X-Clickhook-Workspace names another workspace: that takes a key with the scope `operator`";
            return Err(Problem::new(Kind::Forbidden, detail));
        }
        let known = named.parse().ok().filter(|named| self.workspaces.read().contains(named));
        known.ok_or_else(|| {
            let named: String = named.chars().take(64).collect();
            Problem::new(Kind::NotFound, format!("There is no workspace `{named}`, which X-Clickhook-Workspace names"))
        })
    }

    /// Returns the key whose secret is the token of a postback address.
    pub(crate) fn token(&self, token: &str, now: Timestamp) -> Result<Arc<Key>, Problem> {
        // One answer for all of them, so that nothing is told of a key that can do more.
        let key = self.find(token, now)?.filter(|key| key.scopes == [Scope::Postback]);
        self.admit(key.ok_or_else(|| Problem::new(Kind::NotFound, "There is no such postback address"))?, now)
    }

    fn find(&self, secret: &str, now: Timestamp) -> Result<Option<Arc<Key>>, Problem> {
        let found = self.keys.read().find(secret, now);
        if found.is_none() && !self.complete.load(Ordering::Acquire) {
            return Err(Problem::unavailable("Not all keys are known here yet: try again in a moment"));
        }
        Ok(found)
    }

    fn admit(&self, key: Arc<Key>, now: Timestamp) -> Result<Arc<Key>, Problem> {
        if let Err(wait) = self.limiter.check(&key.id) {
            return Err(Problem::limited(
                format!(
                    "The key {} calls too often: wait, or send several conversions in one request, a line each",
                    key.id
                ),
                wait,
            ));
        }
        if let Err(wait) = self.workspace_limiter.check(&key.workspace) {
            let detail = "The keys of this workspace together call too often: wait, or send several conversions in one \
                          request, a line each";
            return Err(Problem::limited(detail.to_owned(), wait));
        }
        self.uses.used(key.id, now, &self.producer);
        Ok(key)
    }
}
