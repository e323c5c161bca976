//! The audit log of a draft: who changed what. The changes that one author makes in one step are noted here and become
//! events of the same transaction: one for each kind of things and action, with the ids of all, so that an import or a
//! bulk change costs a record for each of its transactions and not one more for each link (ADR 36).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use schemas::{
    Envelope, Event, EventId, Key, Scope, Timestamp, Topic, WorkspaceId,
    audit::{ActorKind, AuditAction, AuditActor, AuditFacts, AuditedKind},
};
use serde_json::value::RawValue;
use service::problem::Problem;

use crate::state::draft::{DraftRecord, serialise};

/// The most ids of an event; of more changes there are several events.
const IDS: usize = 1000;
/// The fields that every change changes.
const VERSION_FIELDS: [&str; 2] = ["updated_at", "revision"];

/// The author of changes.
#[derive(Clone, Debug)]
pub(crate) enum Author {
    /// The leader, by its own rules.
    Leader,
    /// The caller who shows a key.
    Caller {
        key: Arc<Key>,
        /// The workspace that the call acts in.
        workspace: WorkspaceId,
        /// The `X-Request-Id` of the call.
        request_id: Option<Arc<str>>,
    },
}

impl Author {
    /// Returns the author as the log of a workspace names them. Another workspace's key is nobody's there, unless it is
    /// an operator's, of which only the id is told.
    fn actor(&self, workspace: &WorkspaceId) -> AuditActor<'_> {
        match self {
            Self::Caller { key, .. } if key.workspace == *workspace => {
                AuditActor { kind: ActorKind::Key, id: Some(key.id), name: Some((&*key.name).into()) }
            }
            Self::Caller { key, .. } if key.may(Scope::Operator) => {
                AuditActor { kind: ActorKind::Operator, id: Some(key.id), name: None }
            }
            Self::Caller { .. } | Self::Leader => AuditActor { kind: ActorKind::System, id: None, name: None },
        }
    }

    /// Returns the id of the call, for the log of a workspace that knows the author.
    fn request_id(&self, actor: &AuditActor<'_>) -> Option<&str> {
        match self {
            Self::Caller { request_id, .. } if actor.kind != ActorKind::System => request_id.as_deref(),
            Self::Caller { .. } | Self::Leader => None,
        }
    }

    /// Returns the workspace whose log has the changes of what belongs to no workspace.
    fn workspace(&self) -> WorkspaceId {
        match self {
            Self::Caller { workspace, .. } => workspace.clone(),
            Self::Leader => WorkspaceId::default(),
        }
    }
}

/// A change to be noted.
#[derive(Debug)]
pub(crate) struct AuditedChange {
    /// The workspace of the thing; nothing if it belongs to none.
    pub(crate) workspace: Option<WorkspaceId>,
    pub(crate) kind: AuditedKind,
    pub(crate) action: AuditAction,
    pub(crate) id: String,
    /// The text that tells this change of the thing from others, such as its revision.
    pub(crate) occurrence: String,
    /// The names of the changed fields.
    pub(crate) fields: Vec<String>,
}

/// Changes of one kind of things, in one way.
#[derive(Debug, Default)]
struct ChangeGroup {
    /// The ids, with their occurrences.
    changed: Vec<(String, String)>,
    fields: BTreeSet<String>,
}

/// The noted changes of a step.
#[derive(Debug, Default)]
pub(crate) struct AuditTrail {
    groups: BTreeMap<(Option<WorkspaceId>, AuditedKind, AuditAction), ChangeGroup>,
}

impl AuditTrail {
    /// Notes a change.
    pub(crate) fn note(&mut self, change: AuditedChange) {
        let AuditedChange { workspace, kind, action, id, occurrence, fields } = change;
        let group = self.groups.entry((workspace, kind, action)).or_default();
        group.changed.push((id, occurrence));
        group.fields.extend(fields);
    }

    /// Returns the records that tell of the noted changes.
    ///
    /// # Errors
    /// When a record cannot be written.
    pub(crate) fn records(&self, author: &Author, at: Timestamp) -> Result<Vec<DraftRecord>, Problem> {
        let mut records = Vec::new();
        for ((workspace, kind, action), group) in &self.groups {
            let workspace = workspace.clone().unwrap_or_else(|| author.workspace());
            let actor = author.actor(&workspace);
            for changed in group.changed.chunks(IDS) {
                let facts = AuditFacts {
                    request_id: author.request_id(&actor).map(Into::into),
                    actor: actor.clone(),
                    resource: *kind,
                    ids: changed.iter().map(|(id, _)| id.as_str().into()).collect(),
                    fields: group.fields.iter().map(|field| field.as_str().into()).collect(),
                };
                let subject: Vec<&str> = facts.ids.iter().map(AsRef::as_ref).collect();
                let occurrence: Vec<&str> = changed.iter().map(|(_, occurrence)| occurrence.as_str()).collect();
                let name = action.event();
                let id = EventId::of(workspace.as_str(), name, &subject.join(" "), &occurrence.join(" "), at);
                // The log of a workspace is in one partition, in its order.
                let key = workspace.to_string();
                let event = Event { audit: Some(facts), ..Event::bare(id, name, at) };
                let envelope =
                    Envelope { v: 1, workspace: workspace.as_str().into(), ip_key: None, endpoint: None, event };
                records.push(DraftRecord { topic: Topic::Events, key, value: Some(serialise(&envelope)?) });
            }
        }
        Ok(records)
    }
}

/// Returns the names of the fields in which two versions of a record differ.
///
/// # Errors
/// When a version is no JSON object.
pub(crate) fn changed_fields(old: &[u8], new: &[u8]) -> Result<Vec<String>, Problem> {
    let (old, new) = (fields(old)?, fields(new)?);
    let value = |of: &BTreeMap<&str, &RawValue>, name: &str| of.get(name).map(|value| value.get().to_owned());
    let names: BTreeSet<&str> = old.keys().chain(new.keys()).copied().collect();
    let differing = names.into_iter().filter(|name| value(&old, name) != value(&new, name));
    // Keys are kept as hashes of their secrets.
    let told = |name: &str| if name == "hash" { "secret".to_owned() } else { name.to_owned() };
    Ok(differing.filter(|name| !VERSION_FIELDS.contains(name)).map(told).collect())
}

fn fields(record: &[u8]) -> Result<BTreeMap<&str, &RawValue>, Problem> {
    serde_json::from_slice(record)
        .map_err(|error| Problem::unavailable(format!("The record cannot be compared: {error}")))
}

#[cfg(test)]
mod tests {
    use schemas::KeyId;
    use serde_json::{Value, json};

    use super::*;

    fn key(workspace: &str, scopes: &[Scope]) -> Arc<Key> {
        let at = Timestamp::from_millis(0);
        Arc::new(Key {
            id: KeyId::from_bits(7),
            workspace: WorkspaceId::new(workspace),
            name: "deploy".to_owned(),
            scopes: scopes.to_vec(),
            hash: "never shown".to_owned(),
            hint: String::new(),
            origins: Vec::new(),
            previous: None,
            expires_at: None,
            created_at: at,
            updated_at: at,
            revision: 1,
        })
    }

    fn change(workspace: Option<&str>, nth: usize) -> AuditedChange {
        AuditedChange {
            workspace: workspace.map(WorkspaceId::new),
            kind: AuditedKind::Link,
            action: AuditAction::Updated,
            id: format!("lnk_{nth}"),
            occurrence: "2".to_owned(),
            fields: vec![["slug", "tags"][nth % 2].to_owned()],
        }
    }

    fn events(changes: impl IntoIterator<Item = AuditedChange>, author: &Author) -> Vec<Value> {
        let mut trail = AuditTrail::default();
        changes.into_iter().for_each(|change| trail.note(change));
        let records = trail.records(author, Timestamp::from_millis(5)).unwrap();
        records.iter().map(|record| serde_json::from_slice(record.value.as_ref().unwrap()).unwrap()).collect()
    }

    fn caller(home: &str, acts_in: &str, scopes: &[Scope]) -> Author {
        let workspace = WorkspaceId::new(acts_in);
        Author::Caller { key: key(home, scopes), workspace, request_id: Some("r1".into()) }
    }

    #[test]
    fn the_changes_of_a_step_are_one_event_with_all_ids() {
        let author = caller("acme", "acme", &[Scope::Links]);
        let told = events((0..2).map(|nth| change(Some("acme"), nth)), &author);
        assert_eq!(told.len(), 1);
        assert_eq!((&told[0]["workspace"], &told[0]["event"]["event"]), (&json!("acme"), &json!("audit.updated")));
        let facts = json!({
            "actor": {"type": "key", "id": KeyId::from_bits(7), "name": "deploy"}, "resource": "link",
            "ids": ["lnk_0", "lnk_1"], "fields": ["slug", "tags"], "request_id": "r1",
        });
        assert_eq!(told[0]["event"]["audit"], facts);
        let many = events((0..IDS + 1).map(|nth| change(Some("acme"), nth)), &author);
        let ids = many.iter().map(|event| event["event"]["audit"]["ids"].as_array().unwrap().len());
        assert_eq!(ids.collect::<Vec<usize>>(), [IDS, 1]);
        assert_ne!(many[0]["event"]["id"], many[1]["event"]["id"]);
        assert!(!many[0].to_string().contains("never shown"));
    }

    #[test]
    fn the_log_of_a_workspace_names_its_own_keys_and_the_ids_of_operators() {
        let actor = |author: &Author| events([change(Some("acme"), 0)], author)[0]["event"]["audit"].clone();
        let operator = actor(&caller("default", "acme", &[Scope::Operator]));
        assert_eq!(operator["actor"], json!({"type": "operator", "id": KeyId::from_bits(7)}));
        assert_eq!(operator["request_id"], "r1");
        for author in [Author::Leader, caller("other", "other", &[Scope::Admin])] {
            let told = actor(&author);
            assert_eq!((&told["actor"], told.get("request_id")), (&json!({"type": "system"}), None));
        }
        // A workspace belongs to no workspace: its changes are in the log of where the operator is.
        let told = events([change(None, 0)], &caller("ops", "ops", &[Scope::Operator]));
        assert_eq!(
            (&told[0]["workspace"], &told[0]["event"]["audit"]["actor"]["name"]),
            (&json!("ops"), &json!("deploy"))
        );
    }

    #[test]
    fn the_names_of_changed_fields_are_told_and_no_values() {
        let old = br#"{"id":"a","hash":"x","tags":["a"],"slug":"s","updated_at":1,"revision":1}"#;
        let new = br#"{"id":"a","hash":"y","tags":["b"],"slug":"s","origins":["o"],"updated_at":2,"revision":2}"#;
        assert_eq!(changed_fields(old, new).unwrap(), ["secret", "origins", "tags"]);
        assert_eq!(changed_fields(old, old).unwrap(), Vec::<String>::new());
    }
}
