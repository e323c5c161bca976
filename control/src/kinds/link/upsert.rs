//! Upserts: a link is created if it does not exist, and changed if it does. It is found by its `external_id`, else by its
//! address. As in a patch, null removes a field and an absent field stays as it is, so that a list from a system
//! without tags leaves the tags alone.

use std::sync::Arc;

use schemas::{Link, WorkspaceId};
use service::problem::Problem;

use crate::{
    kinds::link::{address::address_key, fields::LinkPatch},
    state::{draft::Draft, entity::Expected, links::LinkKey},
};

/// The outcome of an upsert.
#[derive(Debug)]
pub(crate) enum Upserted {
    Created(Arc<Link>),
    Updated(Arc<Link>),
    /// The link had these fields already: nothing is written.
    Unchanged(Arc<Link>),
}

/// Drafts an upsert.
///
/// # Errors
/// When a field is wrong, or the link has another revision than the caller expects.
pub(crate) fn upsert(
    draft: &mut Draft<'_>,
    workspace: &WorkspaceId,
    given: LinkPatch,
    expected: &Expected,
) -> Result<Upserted, Problem> {
    if let Some(error) = given.oversized() {
        return Err(Problem::invalid(vec![error]));
    }
    let rules = draft.link_rules();
    let Some(old) = find(draft, workspace, &given)? else {
        expected.check::<Link>(None)?;
        let new = given.into_new(workspace, rules, draft.at())?;
        return draft.create(new).map(Upserted::Created);
    };
    let new =
        draft.update::<Link>(workspace, &old.id, expected, |old, at| given.keeping_slug().apply(old, rules, at))?;
    Ok(if new.revision == old.revision { Upserted::Unchanged(new) } else { Upserted::Updated(new) })
}

fn find(draft: &Draft<'_>, workspace: &WorkspaceId, given: &LinkPatch) -> Result<Option<Arc<Link>>, Problem> {
    if let Some(external) = given.external_id() {
        let key = LinkKey::External(workspace.clone(), external.to_owned());
        if let Some(owner) = draft.owner::<Link>(&key) {
            return Ok(draft.find::<Link>(&owner));
        }
    }
    let Some(slug) = given.slug() else { return Ok(None) };
    let key = address_key(draft, workspace, given.domain(), slug)?;
    let found = draft.owner::<Link>(&key).and_then(|owner| draft.find::<Link>(&owner));
    // A link with another external id is another link; creating this one then reports the conflict.
    let is_same = |link: &Arc<Link>| {
        link.workspace == *workspace && (given.external_id().is_none() || link.external_id.is_none())
    };
    Ok(found.filter(is_same))
}

#[cfg(test)]
mod tests {
    use schemas::Timestamp;
    use serde_json::{Value, json};
    use service::problem::Kind;

    use super::*;
    use crate::{rules::DraftRules, state::installed};

    /// Upserts one link after the other, and returns the outcomes and the number of records.
    fn all(given: &[Value]) -> (Vec<String>, usize) {
        let (state, rules) = (installed(), DraftRules::default());
        let mut draft = Draft::new(&state, &rules, Timestamp::from_millis(1));
        let outcomes = given.iter().map(|given| {
            let given: LinkPatch = serde_json::from_value(given.clone()).unwrap();
            match upsert(&mut draft, &WorkspaceId::default(), given, &Expected::Anything) {
                Ok(Upserted::Created(link)) => format!("created {}", link.slug),
                Ok(Upserted::Updated(link)) => format!("updated {} {}", link.slug, link.revision),
                Ok(Upserted::Unchanged(link)) => format!("unchanged {}", link.slug),
                Err(problem) if problem.kind == Kind::Conflict => format!("taken {}", problem.errors[0].field),
                Err(problem) => format!("wrong {}", problem.errors[0].field),
            }
        });
        let outcomes = outcomes.collect();
        (outcomes, draft.finish().records.len())
    }

    #[test]
    fn a_link_is_found_by_what_the_customer_calls_it_else_by_where_it_answers() {
        let to = "https://a.example/";
        let (outcomes, records) = all(&[
            json!({"external_id": "1", "slug": "a", "destination": to}),
            json!({"external_id": "1", "slug": "a", "destination": to}),
            json!({"external_id": "1", "slug": null, "destination": to, "tags": ["x"]}),
            json!({"external_id": "1", "slug": "b"}),
            json!({"slug": "b", "destination": to, "tags": ["x"]}),
            json!({"slug": "b", "tags": null}),
            json!({"slug": "c", "destination": to}),
            json!({"slug": "c", "external_id": "3"}),
            json!({"slug": "c", "external_id": "4", "destination": to}),
            json!({"external_id": "1", "slug": "c"}),
            json!({"external_id": "5"}),
            json!({"external_id": "1", "domain": "go.acme.co"}),
            json!({"external_id": "1", "slug": "q"}),
        ]);
        let expected = [
            "created a",
            "unchanged a",
            "updated a 2",
            "updated b 3",
            "unchanged b",
            "updated b 4",
            "created c",
            "updated c 2",
            "taken slug",
            "taken slug",
            "wrong destination",
            "wrong domain",
            "wrong slug",
        ];
        assert_eq!(outcomes, expected);
        // A link and its event each.
        assert_eq!(records, 2 * 6);
    }
}
