//! `DELETE /v1/people/{customer_id}` and `DELETE /v1/people?session_id=…`: a person is
//! forgotten. The rows in ClickHouse are deleted and counted again, the clicks that the
//! join remembers of a customer get a tombstone, and an event is the receipt.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use schemas::{
    ClickId, Envelope, Event, EventId, EventName, Timestamp, Topic,
    audit::{AuditAction, AuditedKind},
    conversion::customer_key,
};
use serde::{Deserialize, Serialize};
use service::problem::{FieldError, Problem};
use store::{Person, PersonRows};
use tracing::warn;

use crate::{
    api::{context::Api, request::read_query},
    caller::Caller,
    state::{
        audit::AuditedChange,
        draft::{Draft, serialise},
    },
};

/// The longest id of a customer or session.
const MAX_CHARS: usize = 255;

/// The query that names a person whom no customer's id names.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PersonQuery {
    /// A session (`ses_…`): one address and user agent on one day.
    session_id: Option<String>,
    /// A click (`clk_…`).
    click_id: Option<String>,
}

/// The numbers of rows of the tables that tell of persons.
#[derive(Serialize, JsonSchema)]
pub(crate) struct RowCounts {
    /// Rows of `clicks`.
    clicks: u64,
    /// Rows of `conversions`.
    conversions: u64,
}

/// The result of an erasure.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Erasure {
    /// The rows that were deleted.
    erased: RowCounts,
    /// The rows that a count found afterwards: 0.
    remaining: RowCounts,
    /// The id of the event `person.erased`, which is the receipt.
    receipt: EventId,
}

impl From<PersonRows> for RowCounts {
    fn from(rows: PersonRows) -> Self {
        Self { clicks: rows.clicks, conversions: rows.conversions }
    }
}

/// Erases a customer.
pub(crate) async fn erase_customer(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(customer): Path<String>,
) -> Result<Response, Problem> {
    checked("customer_id", &customer)?;
    erase(&api, &caller, Person::Customer(&customer)).await
}

/// Erases a session or a click.
pub(crate) async fn erase_visitor(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<PersonQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let query = read_query(query)?;
    let person = match (&query.session_id, &query.click_id) {
        (Some(session), None) => {
            checked("session_id", session)?;
            Person::Session(session)
        }
        (None, Some(click)) => {
            let parsed = click.parse::<ClickId>();
            parsed.map_err(|error| Problem::invalid(vec![FieldError::new("click_id", error.to_string())]))?;
            Person::Click(click)
        }
        _ => {
            let reason = "name one: `session_id` or `click_id`, or a customer in the path";
            return Err(Problem::invalid(vec![FieldError::new("session_id", reason)]));
        }
    };
    erase(&api, &caller, person).await
}

fn checked(field: &str, text: &str) -> Result<(), Problem> {
    if text.is_empty() || text.chars().count() > MAX_CHARS || text.chars().any(char::is_control) {
        let reason = format!("must have 1 to {MAX_CHARS} characters, none of them a control character");
        return Err(Problem::invalid(vec![FieldError::new(field, reason)]));
    }
    Ok(())
}

async fn erase(api: &Api, caller: &Caller, person: Person<'_>) -> Result<Response, Problem> {
    let leader = api.leader()?;
    let rows = api.store.erase(&caller.workspace, person).await.map_err(|error| {
        warn!(%error, "deleting a person's rows in ClickHouse failed");
        Problem::unavailable(
            "Rows of the person may be left: ClickHouse does not answer or refuses. Send the request again",
        )
    })?;
    let at = Timestamp::now();
    // A hash: the receipt must not name the person whom it says to be forgotten.
    let (key, customer) = match person {
        Person::Customer(id) => (customer_key(&caller.workspace, id), true),
        Person::Session(id) | Person::Click(id) => (customer_key(&caller.workspace, id), false),
    };
    let workspace = caller.workspace.as_str();
    let hash = key.rsplit('/').next().unwrap_or_default().to_owned();
    let id = EventId::of(workspace, EventName::PersonErased, &hash, &at.to_string(), at);
    let event = Event {
        message: Some(
            format!(
                "A person was erased: {} clicks and {} conversions were deleted. The hash of the person's id is {hash}.",
                rows.erased.clicks, rows.erased.conversions
            )
            .into(),
        ),
        ..Event::bare(id, EventName::PersonErased, at)
    };
    let receipt = event.id;
    let value = serialise(&Envelope { v: 1, workspace: workspace.into(), ip_key: None, endpoint: None, event })?;
    let audited = caller.workspace.clone();
    let change = move |draft: &mut Draft<'_>| {
        if customer {
            draft.produce_tombstone(Topic::Conversions, &key);
        }
        draft.produce(Topic::Events, &hash, value);
        draft.note(AuditedChange {
            workspace: Some(audited),
            kind: AuditedKind::Person,
            action: AuditAction::Erased,
            id: receipt.to_string(),
            occurrence: String::new(),
            fields: Vec::new(),
        });
        Ok(())
    };
    leader.write(caller.author(), change).await?;
    let erasure = Erasure { erased: rows.erased.into(), remaining: rows.remaining.into(), receipt };
    Ok((StatusCode::OK, axum::Json(erasure)).into_response())
}
