//! What every installation has from its first leader on: the workspace
//! `default`, and the key of the configuration, which opens everything. Both are
//! records like any other, so that whoever follows the topics knows them too.

use schemas::{Key, KeyId, Scope, Workspace, WorkspaceId};
use service::problem::Problem;

use crate::{draft::Draft, workspace::new_workspace};

/// The id of the installation's own key.
pub(crate) const KEY: KeyId = KeyId::from_bits(0);

/// Drafts what is missing, and the key anew where its secret is another now.
/// `hash` is that of `control.admin_key`.
pub(crate) fn furnish(draft: &mut Draft<'_>, hash: &str) -> Result<(), Problem> {
    let (home, at) = (WorkspaceId::default(), draft.at());
    if draft.find::<Workspace>(&home).is_none() {
        draft.create(new_workspace(home.clone(), "Default".to_owned(), at))?;
    }
    if draft.find::<Key>(&KEY).is_some() {
        draft.update(&home, &KEY, None, |old: &Key, at| {
            let revision = old.revision + u64::from(old.hash != hash);
            let updated_at = if old.hash == hash { old.updated_at } else { at };
            Ok(Key { hash: hash.to_owned(), updated_at, revision, ..old.clone() })
        })?;
    } else {
        draft.create(Key {
            id: KEY,
            workspace: home,
            name: "control.admin_key".to_owned(),
            scopes: vec![Scope::Operator, Scope::Admin],
            hash: hash.to_owned(),
            // People choose it: any part of it may give the rest away.
            hint: String::new(),
            previous: None,
            expires_at: None,
            created_at: at,
            updated_at: at,
            revision: 1,
        })?;
    }
    Ok(())
}
