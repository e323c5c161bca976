//! The quotas of workspaces: how much of each kind a workspace may have, and how much it has. Collections and drafts
//! count incrementally, so that a creation is checked without a scan.

use std::ops::AddAssign;

use schemas::{Workspace, WorkspaceId, WorkspaceLimits};
use service::problem::{Problem, QuotaUse};

/// A thing of which a workspace may have a limited amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quota {
    Links,
    /// The bytes of all links together, each as its JSON.
    LinkBytes,
    Endpoints,
    Domains,
    Keys,
    Campaigns,
}

impl Quota {
    /// Returns the name of the limit in `limits` of a workspace.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Links => "links",
            Self::LinkBytes => "link_bytes",
            Self::Endpoints => "endpoints",
            Self::Domains => "domains",
            Self::Keys => "keys",
            Self::Campaigns => "campaigns",
        }
    }

    /// Returns the noun for the thing in sentences.
    const fn noun(self) -> &'static str {
        match self {
            Self::LinkBytes => "bytes of links",
            _ => self.name(),
        }
    }
}

/// The limits of workspaces for which an operator has set no others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DefaultQuotas {
    pub(crate) links: u64,
    pub(crate) link_bytes: u64,
    pub(crate) endpoints: u64,
    pub(crate) domains: u64,
    pub(crate) keys: u64,
    pub(crate) campaigns: u64,
    /// The average requests a second; 0 for no limit.
    pub(crate) requests_per_s: u32,
}

impl DefaultQuotas {
    /// Returns the most that a workspace with these limits may have.
    pub(crate) fn limit(&self, quota: Quota, limits: &WorkspaceLimits) -> u64 {
        let (own, default) = match quota {
            Quota::Links => (limits.links, self.links),
            Quota::LinkBytes => (limits.link_bytes, self.link_bytes),
            Quota::Endpoints => (limits.endpoints, self.endpoints),
            Quota::Domains => (limits.domains, self.domains),
            Quota::Keys => (limits.keys, self.keys),
            Quota::Campaigns => (limits.campaigns, self.campaigns),
        };
        own.unwrap_or(default)
    }

    /// Returns the average requests a second that all keys of the workspace may make; 0 for no limit.
    pub(crate) fn requests_per_s(&self, limits: &WorkspaceLimits) -> u32 {
        limits.requests_per_s.map_or(self.requests_per_s, |own| u32::try_from(own).unwrap_or(u32::MAX))
    }

    /// Checks that a workspace may have `added` more of something, of which it has `used`.
    ///
    /// # Errors
    /// When the limit would be exceeded.
    pub(crate) fn check(&self, quota: Quota, workspace: &Workspace, used: u64, added: u64) -> Result<(), Problem> {
        let limit = self.limit(quota, &workspace.limits);
        if added == 0 || used.saturating_add(added) <= limit {
            return Ok(());
        }
        let (name, noun) = (quota.name(), quota.noun());
        let more = if added == 1 { String::new() } else { format!(", and this needs {added} more") };
        let detail = format!(
            "The workspace `{}` has {used} {noun} and may have {limit}{more}: delete what is not needed, or ask an operator \
             to raise the limit `{name}` of the workspace",
            workspace.id
        );
        Err(Problem::quota(QuotaUse { name, limit, used }, detail))
    }
}

#[cfg(test)]
impl Default for DefaultQuotas {
    /// Quotas that no test reaches by accident.
    fn default() -> Self {
        let many = 1 << 40;
        Self {
            links: many,
            link_bytes: many,
            endpoints: many,
            domains: many,
            keys: many,
            campaigns: many,
            requests_per_s: 0,
        }
    }
}

/// The number of a workspace's entities of a kind, and the bytes of their records where they are limited. Either can be
/// negative in the difference that a draft makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) count: i64,
    pub(crate) bytes: i64,
}

impl Tally {
    /// Returns the tally of one entity whose record has so many bytes.
    pub(crate) fn one(bytes: usize) -> Self {
        Self { count: 1, bytes: i64::try_from(bytes).unwrap_or(i64::MAX) }
    }

    /// Returns the tally with the opposite signs.
    pub(crate) const fn negated(self) -> Self {
        Self { count: -self.count, bytes: -self.bytes }
    }

    /// Returns the number of entities.
    pub(crate) fn count(self) -> u64 {
        u64::try_from(self.count).unwrap_or_default()
    }

    /// Returns the bytes of the records.
    pub(crate) fn bytes(self) -> u64 {
        u64::try_from(self.bytes).unwrap_or_default()
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.count += other.count;
        self.bytes += other.bytes;
    }
}

/// The tallies of workspaces. A workspace that has nothing has no entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tallies(std::collections::HashMap<WorkspaceId, Tally>);

impl Tallies {
    /// Returns the tally of a workspace.
    pub(crate) fn of(&self, workspace: &WorkspaceId) -> Tally {
        self.0.get(workspace).copied().unwrap_or_default()
    }

    /// Adds a difference to the tally of a workspace.
    pub(crate) fn add(&mut self, workspace: &WorkspaceId, difference: Tally) {
        let tally = self.0.entry(workspace.clone()).or_default();
        *tally += difference;
        if *tally == Tally::default() {
            self.0.remove(workspace);
        }
    }
}

#[cfg(test)]
mod tests {
    use schemas::Timestamp;
    use service::problem::Kind;

    use super::*;

    #[test]
    fn the_limit_of_the_workspace_counts_before_that_of_the_installation() {
        let quotas = DefaultQuotas { links: 10, endpoints: 10, ..DefaultQuotas::default() };
        let limits = WorkspaceLimits { links: Some(2), ..WorkspaceLimits::default() };
        let (id, at) = (WorkspaceId::new("acme"), Timestamp::from_millis(0));
        let workspace = Workspace {
            id,
            name: "Acme".to_owned(),
            limits,
            deleted_at: None,
            created_at: at,
            updated_at: at,
            revision: 1,
        };
        assert!(quotas.check(Quota::Endpoints, &workspace, 9, 1).is_ok());
        assert!(quotas.check(Quota::Links, &workspace, 1, 1).is_ok());
        let refused = quotas.check(Quota::Links, &workspace, 2, 1).unwrap_err();
        assert_eq!(refused.kind, Kind::Quota(QuotaUse { name: "links", limit: 2, used: 2 }));
        assert!(refused.detail.contains("has 2 links and may have 2"), "{}", refused.detail);
        // A workspace above a limit that was lowered can still change and delete.
        assert!(quotas.check(Quota::Links, &workspace, 5, 0).is_ok());
    }
}
