//! Replays: events that an endpoint is to get once more. `leading/replaying.rs` carries them out.

use schemars::JsonSchema;
use schemas::{
    Endpoint, EndpointId, EndpointStatus, EventId, Outcome, Replay, ReplayId, Timestamp, Topic,
    audit::{AuditAction, AuditedKind},
    replay::{ReplayChoice, ReplayState},
};
use serde::{Deserialize, Serialize};
use service::problem::Problem;

use crate::{
    check::Checker,
    state::{
        draft::EntityKind,
        entity::{Entity, workspace_entity},
    },
};

/// The most ids that one replay names.
const EVENT_IDS: usize = 1_000;

/// The events to be delivered once more: those of a time, those of a time with an outcome, or those with an id.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Replay")]
pub(crate) struct NewReplay {
    /// The beginning of the time. Without `outcomes`, an event belongs to the time in which it was recorded; with them,
    /// to that in which it was attempted or skipped.
    since: Option<Timestamp>,
    /// The end of the time; now by default.
    until: Option<Timestamp>,
    /// Only events whose last outcome for this endpoint is one of these: `delivered`, `dead` or `skipped`.
    #[schemars(length(min = 1, max = 3))]
    outcomes: Option<Vec<Outcome>>,
    /// The ids of the events, in place of a time.
    #[schemars(length(min = 1, max = EVENT_IDS))]
    event_ids: Option<Vec<EventId>>,
}

/// The time since which all that failed or was skipped is to be delivered.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recovery {
    /// The beginning of the time.
    since: Timestamp,
}

impl From<Recovery> for NewReplay {
    fn from(Recovery { since }: Recovery) -> Self {
        let outcomes = Some(vec![Outcome::Dead, Outcome::Skipped]);
        Self { since: Some(since), until: None, outcomes, event_ids: None }
    }
}

/// The unique key of a replay that is running: its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RunningReplay(EndpointId);

impl Entity for Replay {
    workspace_entity!(ReplayId, "replay", Topic::Replays);

    type UniqueKey = RunningReplay;

    fn unique_keys(&self) -> Vec<RunningReplay> {
        if self.state == ReplayState::Running { vec![RunningReplay(self.endpoint)] } else { Vec::new() }
    }

    fn conflict(_: &RunningReplay, owner: &ReplayId) -> Problem {
        let detail = format!("The replay {owner} of this endpoint is running: wait until it is done, or delete it");
        Problem::conflict("id", detail)
    }
}

impl EntityKind for Replay {
    const AUDITED: AuditedKind = AuditedKind::Replay;

    /// Callers do not change replays: an update is progress.
    fn audit_action(_: &Self, _: &Self) -> Option<AuditAction> {
        None
    }
}

impl NewReplay {
    /// Returns the replay of events to `endpoint`, checked.
    pub(crate) fn check(self, endpoint: &Endpoint, at: Timestamp) -> Result<Replay, Problem> {
        if endpoint.status == EndpointStatus::Disabled {
            let detail = "The endpoint is disabled, so nothing is sent to it: resume it first".to_owned();
            return Err(Problem::conflict("status", detail));
        }
        let mut checker = Checker::default();
        let choice = self.choice(&mut checker, at);
        checker.finish(Replay {
            id: ReplayId::mint(),
            workspace: endpoint.workspace.clone(),
            endpoint: endpoint.id,
            choice,
            state: ReplayState::Running,
            state_reason: None,
            position: None,
            records: 0,
            read: 0,
            sent: 0,
            created_at: at,
            updated_at: at,
            revision: 1,
        })
    }

    fn choice(self, checker: &mut Checker, at: Timestamp) -> ReplayChoice {
        let Self { since, until, outcomes, event_ids } = self;
        if let Some(event_ids) = event_ids {
            if event_ids.is_empty() || event_ids.len() > EVENT_IDS {
                checker.wrong("event_ids", format!("has {}, must have 1 to {EVENT_IDS}", event_ids.len()));
            }
            for (field, is_given) in
                [("since", since.is_some()), ("until", until.is_some()), ("outcomes", outcomes.is_some())]
            {
                if is_given {
                    checker.wrong(field, "cannot stand beside `event_ids`: give either of them");
                }
            }
            return ReplayChoice::Events { event_ids };
        }
        let until = until.unwrap_or(at);
        let since = since.unwrap_or_else(|| {
            checker.wrong("since", "is missing: give the beginning of the time, or `event_ids`");
            until
        });
        if since > until {
            checker.wrong("until", format!("is before `since`: must be later than {since}"));
        }
        let Some(mut outcomes) = outcomes else { return ReplayChoice::Time { since, until } };
        if outcomes.is_empty() {
            checker.wrong("outcomes", "is empty and would let nothing pass: give an outcome, or leave it out");
        }
        if outcomes.contains(&Outcome::Retrying) {
            checker.wrong("outcomes", "has `retrying`, and those events are delivered without a replay");
        }
        outcomes.sort_unstable_by_key(|outcome| outcome.as_str());
        outcomes.dedup();
        ReplayChoice::Outcome { since, until, outcomes }
    }
}

/// A replay as callers see it.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ReplayProgress")]
pub(crate) struct ReplayView<'a> {
    /// The id of the replay.
    id: ReplayId,
    /// The endpoint that gets the events.
    endpoint: EndpointId,
    /// The state of the replay. What was handed over is delivered like any event, so `done` does not mean delivered.
    state: ReplayState,
    /// The reason why the replay failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    state_reason: Option<&'a str>,
    /// The beginning of the time.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
    /// The end of the time.
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
    /// The outcomes that were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    outcomes: Option<&'a [Outcome]>,
    /// The ids that were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    event_ids: Option<&'a [EventId]>,
    /// The number of records that are to be read; 0 before reading begins.
    records: u64,
    /// The number of records that were read.
    read: u64,
    /// The number of events that were handed over for delivery.
    sent: u64,
    /// The moment of creation.
    created_at: Timestamp,
    /// The moment of the last step.
    updated_at: Timestamp,
}

impl<'a> From<&'a Replay> for ReplayView<'a> {
    fn from(replay: &'a Replay) -> Self {
        let (since, until, outcomes, event_ids) = match &replay.choice {
            ReplayChoice::Time { since, until } => (Some(*since), Some(*until), None, None),
            ReplayChoice::Outcome { since, until, outcomes } => {
                (Some(*since), Some(*until), Some(outcomes.as_slice()), None)
            }
            ReplayChoice::Events { event_ids } => (None, None, None, Some(event_ids.as_slice())),
        };
        Self {
            id: replay.id,
            endpoint: replay.endpoint,
            state: replay.state,
            state_reason: replay.state_reason.as_deref(),
            since,
            until,
            outcomes,
            event_ids,
            records: replay.records,
            read: replay.read,
            sent: replay.sent,
            created_at: replay.created_at,
            updated_at: replay.updated_at,
        }
    }
}
