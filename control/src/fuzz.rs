//! A link's way through the API without I/O, for fuzzing and tests; not part of the crate's API.

#![allow(missing_docs, clippy::missing_errors_doc, reason = "for tests alone")]

use std::sync::Arc;

use schemas::{AppSchemes, DEFAULT_SHORT_URL_BASE, Link, Timestamp, WorkspaceId};
use service::{json::parse, problem::Problem};

use crate::{
    config::Config,
    kinds::{
        link::{LinkPatch, NewLink},
        workspace::new_workspace,
    },
    rules::{DraftRules, LinkRules},
    state::{State, draft::Draft, entity::Expected},
};

/// Returns the link after the body that creates it and the bodies that change it; nothing if any of them is refused.
#[must_use]
pub fn link(create: &[u8], changes: &[&[u8]], schemes: AppSchemes) -> Option<Link> {
    drafted(create, changes, schemes).ok()
}

fn drafted(create: &[u8], changes: &[&[u8]], schemes: AppSchemes) -> Result<Link, Problem> {
    let links = LinkRules { short_url_base: DEFAULT_SHORT_URL_BASE.into(), schemes, slug_chars: 7 };
    let rules = DraftRules { links: Arc::new(links), quotas: Config::default().quotas() };
    let workspace = WorkspaceId::default();
    let at = Timestamp::from_millis(1_770_301_425_120);
    let state = State::default();
    let mut draft = Draft::new(&state, &rules, at);
    draft.create(new_workspace(workspace.clone(), "Default".to_owned(), at))?;
    let mut link = draft.create(parse::<NewLink>(create)?.check(&workspace, &rules.links, at)?)?;
    for change in changes {
        let patch: LinkPatch = parse(change)?;
        link = draft
            .update::<Link>(&workspace, &link.id, &Expected::Anything, |old, at| patch.apply(old, &rules.links, at))?;
    }
    Ok((*link).clone())
}
