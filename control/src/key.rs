//! Keys as callers write and see them. A key's secret is shown once, when it is
//! made; what is kept is its hash. Nobody gives, or takes into their hands, more
//! than they have.

use std::{collections::BTreeSet, time::Duration};

use rand::RngExt;
use schemars::JsonSchema;
use schemas::{Key, KeyId, Scope, Timestamp, WorkspaceId, keyring, workspace::PreviousSecret};
use serde::{Deserialize, Serialize};
use service::problem::{Kind, Problem};
use zeroize::Zeroizing;

use crate::{
    caller::Caller,
    check::{Checker, Patch},
    installation,
};

const NAME_CHARS: usize = 128;
/// 43 characters of 62 hold 256 bits.
const SECRET_CHARS: usize = 43;
const SECRET_PREFIX: &str = "chk_";
/// How much of a secret is shown for people to tell keys apart.
const HINT_CHARS: usize = 8;
/// How long the secret before still opens after a rotation, in seconds.
const OVERLAP_S: u32 = 24 * 3600;
const LONGEST_OVERLAP_S: u32 = 30 * 24 * 3600;

/// A key that someone wants.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewKey {
    /// What people call it.
    name: String,
    /// What it may do: no more than yours. `postback` only alone.
    scopes: Vec<Scope>,
    /// From when on it opens nothing; never, if left out.
    expires_at: Option<Timestamp>,
}

/// What someone wants changed of a key: a merge patch (RFC 7396).
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct KeyPatch {
    name: Patch<String>,
    scopes: Patch<Vec<Scope>>,
    expires_at: Patch<Timestamp>,
}

/// How a key's secret is to be replaced.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rotation {
    /// How many seconds the secret before still opens: 86400 unless told
    /// otherwise, 0 for not at all, at most 30 days.
    overlap_s: Option<u32>,
}

/// A key as callers see it: without the hash, and with its secret only in the
/// answer that shows a new one.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct KeyView<'a> {
    /// Its id.
    id: KeyId,
    /// The workspace that it opens.
    workspace: &'a WorkspaceId,
    /// What people call it.
    name: &'a str,
    /// What it may do.
    scopes: &'a [Scope],
    /// How its secret begins.
    hint: &'a str,
    /// After a rotation: until when the secret before still opens.
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_expires_at: Option<Timestamp>,
    /// From when on it opens nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
    /// When it was last used, to the minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_used_at: Option<Timestamp>,
    /// When it was created.
    created_at: Timestamp,
    /// When it was last changed.
    updated_at: Timestamp,
    /// Counts its versions from 1.
    revision: u64,
    /// What is shown to the API, and here once.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<&'a str>,
}

impl<'a> KeyView<'a> {
    pub(crate) fn new(key: &'a Key, last_used_at: Option<Timestamp>) -> Self {
        Self {
            id: key.id,
            workspace: &key.workspace,
            name: &key.name,
            scopes: &key.scopes,
            hint: &key.hint,
            previous_expires_at: key.previous.as_ref().map(|previous| previous.expires_at),
            expires_at: key.expires_at,
            last_used_at,
            created_at: key.created_at,
            updated_at: key.updated_at,
            revision: key.revision,
            secret: None,
        }
    }

    /// With the secret, for the one answer that shows it.
    pub(crate) const fn with_secret(mut self, secret: &'a str) -> Self {
        self.secret = Some(secret);
        self
    }
}

/// A fresh secret: wiped when dropped, and never printed.
pub(crate) fn mint_secret() -> Zeroizing<String> {
    let random = rand::rng().sample_iter(rand::distr::Alphanumeric).take(SECRET_CHARS).map(char::from);
    Zeroizing::new(SECRET_PREFIX.chars().chain(random).collect())
}

fn hint(secret: &str) -> String {
    secret.chars().take(HINT_CHARS).collect()
}

impl NewKey {
    /// The key that `secret` is to open, checked.
    pub(crate) fn check(self, caller: &Caller, secret: &str, at: Timestamp) -> Result<Key, Problem> {
        let key = Key {
            id: KeyId::mint(),
            workspace: caller.workspace.clone(),
            name: self.name,
            scopes: self.scopes,
            hash: keyring::hash(secret),
            hint: hint(secret),
            previous: None,
            expires_at: self.expires_at,
            created_at: at,
            updated_at: at,
            revision: 1,
        };
        let mut checker = Checker::default();
        check(&key, &mut checker);
        check_end(key.expires_at, at, &mut checker);
        let key = checker.finish(key)?;
        may_give(&key.scopes, caller)?;
        may_last(&key, caller)?;
        Ok(key)
    }
}

impl KeyPatch {
    /// `key` with the patch applied, checked; its revision is the next one.
    pub(crate) fn apply(self, key: &Key, caller: &Caller, at: Timestamp) -> Result<Key, Problem> {
        let mut checker = Checker::default();
        let mut new = key.clone();
        self.name.apply_required(&mut new.name, "name", &mut checker);
        self.scopes.apply_required(&mut new.scopes, "scopes", &mut checker);
        self.expires_at.apply(&mut new.expires_at);
        check(&new, &mut checker);
        if new.expires_at != key.expires_at {
            check_end(new.expires_at, at, &mut checker);
        }
        if new != *key {
            new.updated_at = at;
            new.revision += 1;
        }
        let new = checker.finish(new)?;
        may_give(&new.scopes, caller)?;
        if new.expires_at != key.expires_at {
            may_last(&new, caller)?;
        }
        Ok(new)
    }
}

impl Rotation {
    /// `key` as `secret` opens it, and for a while the secret before.
    pub(crate) fn apply(self, key: &Key, secret: &str, at: Timestamp) -> Result<Key, Problem> {
        let overlap = self.overlap_s.unwrap_or(OVERLAP_S);
        let mut checker = Checker::default();
        if overlap > LONGEST_OVERLAP_S {
            checker.wrong("overlap_s", format!("is {overlap}, must be 0 to {LONGEST_OVERLAP_S}"));
        }
        let until = at.plus(Duration::from_secs(overlap.into()));
        let previous = (overlap > 0).then(|| PreviousSecret { hash: key.hash.clone(), expires_at: until });
        checker.finish(Key {
            hash: keyring::hash(secret),
            hint: hint(secret),
            previous,
            updated_at: at,
            revision: key.revision + 1,
            ..key.clone()
        })
    }
}

fn check(key: &Key, checker: &mut Checker) {
    checker.text("name", &key.name, NAME_CHARS);
    if key.scopes.is_empty() {
        checker.wrong("scopes", "is empty: name at least one, such as [\"links\"]");
    }
    let mut seen = BTreeSet::new();
    for (index, scope) in key.scopes.iter().enumerate() {
        if !seen.insert(scope) {
            checker.wrong(format!("scopes[{index}]"), format!("`{}` stands there twice", scope.as_str()));
        }
    }
    if key.scopes.contains(&Scope::Postback) && seen.len() > 1 {
        checker.wrong("scopes", "has `postback` beside others: a postback token can do nothing else");
    }
}

fn check_end(end: Option<Timestamp>, at: Timestamp, checker: &mut Checker) {
    if end.is_some_and(|end| end <= at) {
        checker.wrong("expires_at", "is over already: give a later moment, or leave it out for none");
    }
}

/// Whether a caller may give, or take over, a key with these scopes.
fn may_give(scopes: &[Scope], caller: &Caller) -> Result<(), Problem> {
    if caller.by_previous {
        // Whoever has stolen it must not be able to stay.
        let detail = "This secret was rotated: it changes no keys any more. Use the new one";
        return Err(Problem::new(Kind::Forbidden, detail));
    }
    // A postback token is weaker than any key that reports conversions.
    let weaker = |scope| if scope == Scope::Postback { Scope::Conversions } else { scope };
    match scopes.iter().find(|scope| !caller.key.may(weaker(**scope))) {
        None => Ok(()),
        Some(scope) => {
            let detail = format!("Your key has not the scope `{}`: it cannot give or change it", scope.as_str());
            Err(Problem::new(Kind::Forbidden, detail))
        }
    }
}

/// Whether a caller may give, or see the secret of, a key that lasts as long.
pub(crate) fn may_last(key: &Key, caller: &Caller) -> Result<(), Problem> {
    match caller.key.expires_at {
        Some(end) if key.expires_at.is_none_or(|theirs| theirs > end) => {
            let detail = format!("Your key ends at {end}: it cannot give one that lasts longer. Set `expires_at`");
            Err(Problem::new(Kind::Forbidden, detail))
        }
        _ => Ok(()),
    }
}

/// Whether a caller may change, rotate or delete the key.
pub(crate) fn guard(key: &Key, caller: &Caller) -> Result<(), Problem> {
    if key.id == installation::KEY {
        let detail = "This is the installation's own key: `control.admin_key` in the configuration changes it";
        return Err(Problem::new(Kind::Conflict, detail));
    }
    may_give(&key.scopes, caller)
}
