//! Links in drafts: unique keys, spellings, events, versions and pages.

use std::sync::Arc;

use schemas::{Link, LinkId, Timestamp, Topic, WorkspaceId};
use serde_json::{Value, json};
use service::problem::{Kind, Problem};

use crate::{
    kinds::link::{LinkPatch, NewLink},
    rules::{DraftRules, LinkRules},
    state::{
        State,
        collection::EntityCollection,
        draft::{Draft, DraftRecord},
        entity::{Expected, VersionTag},
        installed,
        links::LinkKey,
    },
};

const AT: Timestamp = Timestamp::from_millis(1_770_301_425_120);

fn workspace() -> WorkspaceId {
    WorkspaceId::default()
}

fn new(body: Value) -> Link {
    serde_json::from_value::<NewLink>(body).unwrap().check(&workspace(), &LinkRules::default(), AT).unwrap()
}

fn patch(draft: &mut Draft<'_>, id: LinkId, body: Value) -> Result<Arc<Link>, Problem> {
    let patch: LinkPatch = serde_json::from_value(body).unwrap();
    let rules = draft.link_rules();
    draft.update(&workspace(), &id, &Expected::Anything, |link: &Link, at| patch.apply(link, rules, at))
}

/// Drafts a change and applies it, as if it had been committed.
fn commit<T>(state: &mut State, change: impl FnOnce(&mut Draft<'_>) -> T) -> (T, Vec<DraftRecord>) {
    let rules = DraftRules::default();
    let mut draft = Draft::new(state, &rules, AT);
    let outcome = change(&mut draft);
    let mut drafted = draft.finish();
    let records = std::mem::take(&mut drafted.records);
    state.apply(drafted.changes);
    (outcome, records)
}

fn any(_: &Link) -> Result<(), Problem> {
    Ok(())
}

fn sale() -> Value {
    json!({"destination": "https://a.example/", "slug": "sale", "external_id": "x1"})
}

#[test]
fn a_slug_and_an_external_id_have_one_owner_also_within_a_draft() {
    let mut state = installed();
    let ((), records) = commit(&mut state, |draft| {
        draft.create(new(sale())).unwrap();
        let taken = draft.create(new(sale())).unwrap_err();
        assert_eq!((taken.kind, taken.errors[0].field.as_str()), (Kind::Conflict, "slug"));
        let other = json!({"destination": "https://a.example/", "external_id": "x1"});
        let taken = draft.create(new(other)).unwrap_err();
        assert_eq!((taken.kind, taken.errors[0].field.as_str()), (Kind::Conflict, "external_id"));
        let elsewhere = json!({"destination": "https://a.example/", "slug": "sale", "domain": "go.acme.co"});
        assert_eq!(draft.create(new(elsewhere)).unwrap().short_url, "https://go.acme.co/sale");
    });
    assert_eq!((records.len(), state.links.len()), (4, 2));
    let (taken, records) = commit(&mut state, |draft| draft.create(new(sale())));
    assert_eq!((taken.unwrap_err().kind, records.len()), (Kind::Conflict, 0));
}

#[test]
fn what_is_given_up_can_be_taken_in_the_same_draft() {
    let mut state = installed();
    let (first, _) = commit(&mut state, |draft| draft.create(new(sale())).unwrap());
    let (second, _) = commit(&mut state, |draft| {
        patch(draft, first.id, json!({"slug": "old", "external_id": null})).unwrap();
        let second = draft.create(new(sale())).unwrap();
        patch(draft, first.id, json!({"slug": "sale"})).unwrap_err();
        second
    });
    let at = |state: &State, slug: &str| state.links.owner(&LinkKey::Address(workspace(), None, slug.to_owned()));
    assert_eq!(at(&state, "sale"), Some(second.id));
    assert_eq!(at(&state, "old"), Some(first.id));
    let ((), _) = commit(&mut state, |draft| draft.delete(&workspace(), &second.id, &Expected::Anything, any).unwrap());
    assert_eq!(at(&state, "sale"), None);
    assert_eq!(state.links.owner(&LinkKey::External(workspace(), "x1".to_owned())), None);
}

#[test]
fn a_slug_is_kept_under_one_spelling() {
    let mut state = installed();
    let composed = json!({"destination": "https://a.example/", "slug": "caf\u{e9}"});
    let decomposed = json!({"destination": "https://a.example/", "slug": "cafe\u{301}"});
    let (link, _) = commit(&mut state, |draft| draft.create(new(decomposed.clone())).unwrap());
    assert_eq!((link.slug.as_str(), link.short_url.as_str()), ("caf\u{e9}", "http://localhost:8080/caf%C3%A9"));
    let (taken, _) = commit(&mut state, |draft| draft.create(new(composed)).unwrap_err());
    assert_eq!(taken.kind, Kind::Conflict);
    let (same, records) = commit(&mut state, |draft| patch(draft, link.id, json!({"slug": "cafe\u{301}"})).unwrap());
    assert_eq!((same, records), (link, vec![]));
}

#[test]
fn every_change_of_a_link_is_an_event_of_its_own() {
    let mut state = installed();
    let (link, created) = commit(&mut state, |draft| draft.create(new(sale())).unwrap());
    let (_, updated) = commit(&mut state, |draft| patch(draft, link.id, json!({"campaign": "w"})).unwrap());
    let (_, nothing) = commit(&mut state, |draft| patch(draft, link.id, json!({"campaign": "w"})).unwrap());
    let (_, deleted) =
        commit(&mut state, |draft| draft.delete(&workspace(), &link.id, &Expected::Anything, any).unwrap());
    assert_eq!(nothing, []);
    assert_eq!((deleted[0].topic, &deleted[0].value), (Topic::Links, &None));
    let mut ids = Vec::new();
    for (records, name) in [(created, "link.created"), (updated, "link.updated"), (deleted, "link.deleted")] {
        assert_eq!((records[1].topic, records[1].key.as_str()), (Topic::Events, link.id.to_string().as_str()));
        let event: Value = serde_json::from_slice(records[1].value.as_ref().unwrap()).unwrap();
        assert_eq!(event["event"]["event"], name);
        assert_eq!(event["event"]["changes"].is_object(), name == "link.updated");
        ids.push(event["event"]["id"].clone());
    }
    ids.dedup();
    assert_eq!(ids.len(), 3);
    assert_eq!(state, installed());
}

#[test]
fn nothing_is_seen_across_workspaces_or_over_a_newer_version() {
    let mut state = installed();
    let (link, _) = commit(&mut state, |draft| draft.create(new(sale())).unwrap());
    let other = WorkspaceId::new("other");
    assert!(state.get::<Link>(&other, &link.id).is_none());
    let (refused, _) = commit(&mut state, |draft| draft.delete(&other, &link.id, &Expected::Anything, any));
    assert_eq!(refused.unwrap_err().kind, Kind::NotFound);
    let (refused, _) = commit(&mut state, |draft| {
        draft.delete(&workspace(), &link.id, &Expected::OneOf(VersionTag::parse("7").into_iter().collect()), any)
    });
    assert_eq!(refused.unwrap_err().kind, Kind::Changed);
    assert_eq!(state.page::<Link>(&other, None, 10).0.len(), 0);
}

#[test]
fn pages_are_newest_first_and_complete() {
    let mut state = installed();
    let (ids, _) = commit(&mut state, |draft| {
        let body = json!({"destination": "https://a.example/"});
        (0..5).map(|_| draft.create(new(body.clone())).unwrap().id).collect::<Vec<_>>()
    });
    let mut seen = Vec::new();
    let mut before = None;
    loop {
        let (page, more) = state.page::<Link>(&workspace(), before.as_ref(), 2);
        seen.extend(page.iter().map(|link| link.id));
        before = seen.last().copied();
        if !more {
            break;
        }
    }
    assert!(seen.is_sorted_by(|a, b| a > b));
    assert_eq!(seen.len(), ids.len());
}
