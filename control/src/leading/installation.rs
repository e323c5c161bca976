//! The records that every installation has from its first leader on: the workspace `default`, the key of the
//! configuration, which may do everything, and the time at which the watch begins. They are records like any other, so that
//! all readers of the topics know them.

use schemas::{
    Key, Scope, Workspace, WorkspaceId,
    fired::{FiredFact, FiredRecord, FiredSubject},
};
use service::problem::Problem;

use crate::{
    kinds::{key::INSTALLATION_KEY, workspace::new_workspace},
    state::{draft::Draft, entity::Expected},
};

/// Drafts the records that are missing, and a new version of the key if its secret has changed. `hash` is the hash of
/// `control.admin_key`.
pub(crate) fn ensure_defaults(draft: &mut Draft<'_>, hash: &str) -> Result<(), Problem> {
    let home = WorkspaceId::default();
    let at = draft.at();
    if draft.find::<Workspace>(&home).is_none() {
        draft.create(new_workspace(home.clone(), "Default".to_owned(), at))?;
    }
    // Before the first click: what happened before the watch is not told.
    if draft.fired(FiredSubject::Installation).is_empty() {
        let (subject, fact) = (FiredSubject::Installation, FiredFact::Watching(at));
        draft.fire(&home, FiredRecord { v: 1, subject, fact, event: None, at }, None)?;
    }
    if draft.find::<Key>(&INSTALLATION_KEY).is_some() {
        draft.update(&home, &INSTALLATION_KEY, &Expected::Anything, |old: &Key, at| {
            if old.hash == hash {
                return Ok(old.clone());
            }
            Ok(Key { hash: hash.to_owned(), updated_at: at, revision: old.revision + 1, ..old.clone() })
        })?;
        return Ok(());
    }
    draft.create(Key {
        id: INSTALLATION_KEY,
        workspace: home,
        name: "control.admin_key".to_owned(),
        scopes: vec![Scope::Operator, Scope::Admin],
        hash: hash.to_owned(),
        // People choose the secret: any part of it may give the rest away.
        hint: String::new(),
        origins: Vec::new(),
        previous: None,
        expires_at: None,
        created_at: at,
        updated_at: at,
        revision: 1,
    })?;
    Ok(())
}
