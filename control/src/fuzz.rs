//! A link's way through the API without I/O, for fuzzing and tests; not part of the crate's API.

#![allow(missing_docs, clippy::missing_errors_doc, reason = "for tests alone")]

use schemas::{AppSchemes, Link, Timestamp, WorkspaceId};
use service::{json::parse, problem::Problem};

use crate::{
    kinds::{
        link::{LinkPatch, NewLink},
        workspace::new_workspace,
    },
    rules::LinkRules,
    state::{State, draft::Draft},
};

/// Returns the link after the body that creates it and the bodies that change it; nothing if any of them is refused.
#[must_use]
pub fn link(create: &[u8], changes: &[&[u8]], schemes: AppSchemes) -> Option<Link> {
    drafted(create, changes, schemes).ok()
}

fn drafted(create: &[u8], changes: &[&[u8]], schemes: AppSchemes) -> Result<Link, Problem> {
    let rules = LinkRules { short_url_base: "http://localhost:8080".into(), schemes, slug_chars: 7 };
    let workspace = WorkspaceId::default();
    let at = Timestamp::from_millis(1_770_301_425_120);
    let state = State::default();
    let mut draft = Draft::new(&state, &rules, at);
    draft.create(new_workspace(workspace.clone(), "Default".to_owned(), at))?;
    let mut link = draft.create(parse::<NewLink>(create)?.check(&workspace, &rules, at)?)?;
    for change in changes {
        let patch: LinkPatch = parse(change)?;
        link = draft.update::<Link>(&workspace, &link.id, None, |old, at| patch.apply(old, &rules, at))?;
    }
    Ok((*link).clone())
}
