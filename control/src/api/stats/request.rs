//! A request for statistics: its subject, its slot, and its question to ClickHouse.

use axum::extract::RawPathParams;
use schemas::Timestamp;
use service::problem::{FieldError, Problem};
use store::{StatsSubject, StoreError};
use tracing::warn;

use crate::{
    api::{
        context::Api,
        stats::{slots::StatsSlot, subject::SubjectKind},
    },
    caller::Caller,
};

/// A request whose subject is known, and that has a slot.
pub(super) struct StatsRequest<'a> {
    pub(super) api: &'a Api,
    pub(super) caller: &'a Caller,
    pub(super) subject: StatsSubject,
    _slot: StatsSlot<'a>,
}

impl<'a> StatsRequest<'a> {
    /// Finds the subject, and takes a slot.
    pub(super) fn begin(
        api: &'a Api,
        caller: &'a Caller,
        kind: SubjectKind,
        parameters: &RawPathParams,
    ) -> Result<Self, Problem> {
        let leader = api.leader()?;
        let subject = leader.read(|state| kind.find(state, &caller.workspace, first(parameters)))?;
        let slot = api.stats_slots.take(&caller.workspace)?;
        Ok(Self { api, caller, subject, _slot: slot })
    }

    /// Returns the time of the newest click that is counted, as it was within the last second.
    pub(super) async fn newest_click(&self) -> Result<Option<Timestamp>, StoreError> {
        let workspace = &self.caller.workspace;
        if let Some(newest) = self.api.stats_slots.newest(workspace) {
            return Ok(newest);
        }
        let newest = self.api.store.newest_click(workspace).await?;
        self.api.stats_slots.set_newest(workspace, newest);
        Ok(newest)
    }
}

/// Returns the first parameter of a path; the path of the workspace has none.
fn first(parameters: &RawPathParams) -> &str {
    parameters.iter().next().map_or("", |(_, value)| value)
}

/// Returns the problem of a question that ClickHouse did not answer.
pub(super) fn unanswered(error: &StoreError) -> Problem {
    if error.is_beyond_bounds() {
        let reason = "makes this answer too large: choose a shorter period";
        return Problem::invalid(vec![FieldError::new("window", reason)]);
    }
    warn!(%error, "reading statistics from ClickHouse failed");
    Problem::unavailable("The statistics cannot be read: ClickHouse does not answer")
}
