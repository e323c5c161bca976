//! API keys. A key's secret is shown once, when it is made; only its hash is kept. No caller can create, or take over, a
//! key that may do more than the caller's own.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bus::KeyUses;
use rand::RngExt;
use schemars::JsonSchema;
use schemas::{
    Key, KeyId, Scope, Timestamp, Topic, WorkspaceId,
    audit::{AuditAction, AuditedKind},
    keyring,
    workspace::PreviousSecret,
};
use serde::{Deserialize, Serialize};
use service::problem::{Kind, Problem};
use url::Url;
use zeroize::Zeroizing;

use crate::{
    caller::Caller,
    check::{Checker, Patch},
    kinds::resource::{CreateContext, Created, Resource},
    rules::ApiRules,
    state::{
        State,
        collection::EntityCollection,
        draft::EntityKind,
        entity::{Entity, workspace_entity},
        quotas::Quota,
    },
};

/// The id of the installation's own key, whose secret is in the configuration.
pub(crate) const INSTALLATION_KEY: KeyId = KeyId::from_bits(0);
const NAME_CHARS: usize = 128;
const MAX_ORIGINS: usize = 20;
/// 43 characters of 62 hold 256 bits.
const SECRET_CHARS: usize = 43;
const SECRET_PREFIX: &str = "chk_";
/// The characters of a secret that are shown, for people to tell keys apart.
const HINT_CHARS: usize = 8;
/// The default time for which the previous secret is valid after a rotation, in seconds.
const OVERLAP_S: u32 = 24 * 3600;
/// The longest time for which the previous secret can be valid, in seconds.
const MAX_OVERLAP_S: u32 = 30 * 24 * 3600;

/// A key to be created.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewKey {
    /// The name for people.
    name: String,
    /// The scopes of the key, each of which your own key must have. `postback` can only stand alone.
    scopes: Vec<Scope>,
    /// The moment from which the key is invalid; without one, it never expires.
    expires_at: Option<Timestamp>,
    /// The origins whose pages may use the key in a browser (CORS), such as `https://app.example.com`; at most 20.
    #[serde(default)]
    origins: Vec<String>,
}

/// The changes of a key: a merge patch (RFC 7396).
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct KeyPatch {
    name: Patch<String>,
    scopes: Patch<Vec<Scope>>,
    expires_at: Patch<Timestamp>,
    origins: Patch<Vec<String>>,
}

/// The way in which a key's secret is to be replaced.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rotation {
    /// The seconds for which the previous secret stays valid: 86400 by default, 0 for not at all, at most 30 days.
    overlap_s: Option<u32>,
}

/// A key as callers see it: without the hash, and with its secret only in the answer that shows a new one.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct KeyView<'a> {
    /// The id of the key.
    id: KeyId,
    /// The workspace that the key gives access to.
    workspace: &'a WorkspaceId,
    /// The name for people.
    name: &'a str,
    /// The scopes of the key.
    scopes: &'a [Scope],
    /// The first characters of the secret.
    hint: &'a str,
    /// The origins whose pages may use the key in a browser.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    origins: &'a [String],
    /// After a rotation: the moment until which the previous secret is valid.
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_expires_at: Option<Timestamp>,
    /// The moment from which the key is invalid.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
    /// The moment of the last use, to the minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_used_at: Option<Timestamp>,
    /// The moment of creation.
    created_at: Timestamp,
    /// The moment of the last change.
    updated_at: Timestamp,
    /// The number of the version, from 1.
    revision: u64,
    /// The secret that authenticates requests, which is shown only once.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<&'a str>,
}

impl<'a> KeyView<'a> {
    fn new(key: &'a Key, last_used_at: Option<Timestamp>, secret: Option<&'a str>) -> Self {
        Self {
            id: key.id,
            workspace: &key.workspace,
            name: &key.name,
            scopes: &key.scopes,
            hint: &key.hint,
            origins: &key.origins,
            previous_expires_at: key.previous.as_ref().map(|previous| previous.expires_at),
            expires_at: key.expires_at,
            last_used_at,
            created_at: key.created_at,
            updated_at: key.updated_at,
            revision: key.revision,
            secret,
        }
    }
}

/// Generates a secret, which is wiped from memory when it is dropped.
pub(crate) fn mint_secret() -> Zeroizing<String> {
    let random = rand::rng().sample_iter(rand::distr::Alphanumeric).take(SECRET_CHARS).map(char::from);
    Zeroizing::new(SECRET_PREFIX.chars().chain(random).collect())
}

/// Returns the characters of a secret that are shown.
fn hint(secret: &str) -> String {
    secret.chars().take(HINT_CHARS).collect()
}

/// The unique key of an API key: the SHA-256 of a secret, in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SecretHash(String);

impl Entity for Key {
    workspace_entity!(KeyId, "key", Topic::Keys);

    type UniqueKey = SecretHash;

    const DEPENDENT_TOPICS: &'static [Topic] = &[Topic::KeyUses];

    fn unique_keys(&self) -> Vec<SecretHash> {
        let previous = self.previous.as_ref().map(|previous| previous.hash.clone());
        std::iter::once(self.hash.clone()).chain(previous).map(SecretHash).collect()
    }

    /// Happens only for the installation's own secret, since all others are random.
    fn conflict(_: &SecretHash, owner: &KeyId) -> Problem {
        Problem::conflict("secret", format!("The secret is that of the key {owner} already: choose another"))
    }
}

impl EntityKind for Key {
    const QUOTA: Option<Quota> = Some(Quota::Keys);
    const AUDITED: AuditedKind = AuditedKind::Key;

    fn audit_action(old: &Self, new: &Self) -> Option<AuditAction> {
        Some(if old.hash == new.hash { AuditAction::Updated } else { AuditAction::Rotated })
    }
}

impl Resource for Key {
    const PATH: &'static str = "/v1/keys";
    const SCOPE: Scope = Scope::Admin;

    type New = NewKey;
    type Patch = KeyPatch;
    type View<'a> = KeyView<'a>;

    fn create(new: NewKey, context: &CreateContext<'_>) -> Result<Created<Self>, Problem> {
        let secret = mint_secret();
        let entity = new.check(context.caller, &secret, context.at)?;
        Ok(Created { entity, secret: Some(secret) })
    }

    fn check_access(&self, caller: &Caller) -> Result<(), Problem> {
        if self.id == INSTALLATION_KEY {
            let detail = "This is the installation's own key: `control.admin_key` in the configuration changes it";
            return Err(Problem::new(Kind::Conflict, detail));
        }
        may_give(&self.scopes, caller)
    }

    fn patched(&self, patch: KeyPatch, caller: &Caller, _: &ApiRules, at: Timestamp) -> Result<Self, Problem> {
        patch.apply(self, caller, at)
    }

    fn view<'a>(&'a self, uses: &KeyUses, secret: Option<&'a str>) -> KeyView<'a> {
        KeyView::new(self, uses.last(self.id), secret)
    }
}

/// Returns the key that the secret is valid for at the moment `at`. The secret is hashed before it is looked up, so the
/// time that a look-up takes tells nothing about other secrets.
pub(crate) fn find_by_secret(state: &State, secret: &str, at: Timestamp) -> Option<Arc<Key>> {
    let hash = keyring::hash(secret);
    let id = state.keys.owner(&SecretHash(hash.clone()))?;
    state.keys.get(&id).filter(|key| key.opens(&hash, at))
}

impl NewKey {
    /// Returns the key with this secret, checked.
    fn check(self, caller: &Caller, secret: &str, at: Timestamp) -> Result<Key, Problem> {
        let key = Key {
            id: KeyId::mint(),
            workspace: caller.workspace.clone(),
            name: self.name,
            scopes: self.scopes,
            hash: keyring::hash(secret),
            hint: hint(secret),
            origins: self.origins,
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
    /// Returns `key` with the patch applied, checked.
    fn apply(self, key: &Key, caller: &Caller, at: Timestamp) -> Result<Key, Problem> {
        let mut checker = Checker::default();
        let mut new = key.clone();
        self.name.apply_required(&mut new.name, "name", &mut checker);
        self.scopes.apply_required(&mut new.scopes, "scopes", &mut checker);
        self.expires_at.apply(&mut new.expires_at);
        self.origins.apply_or(&mut new.origins, Vec::new());
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
        // A key that gets more scopes gives them for as long as it is valid.
        let grows = new.scopes.iter().any(|scope| !key.may(*scope));
        if grows || new.expires_at != key.expires_at {
            may_last(&new, caller)?;
        }
        Ok(new)
    }
}

impl Rotation {
    /// Returns `key` with the new secret; the previous one stays valid for a while.
    pub(crate) fn apply(self, key: &Key, secret: &str, at: Timestamp) -> Result<Key, Problem> {
        let overlap = self.overlap_s.unwrap_or(OVERLAP_S);
        let mut checker = Checker::default();
        if overlap > MAX_OVERLAP_S {
            checker.wrong("overlap_s", format!("is {overlap}, must be 0 to {MAX_OVERLAP_S}"));
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
    if key.origins.len() > MAX_ORIGINS {
        checker.wrong("origins", format!("has {}, at most {MAX_ORIGINS} are allowed", key.origins.len()));
    }
    for (index, origin) in key.origins.iter().enumerate() {
        let url = Url::parse(origin).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        if url.is_none_or(|url| url.origin().ascii_serialization() != *origin) {
            let reason = "must be a scheme and a host, with a port if it is not the usual one: https://app.example.com";
            checker.wrong(format!("origins[{index}]"), reason);
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

/// Checks whether a caller may create, or take over, a key with these scopes.
fn may_give(scopes: &[Scope], caller: &Caller) -> Result<(), Problem> {
    if caller.by_previous {
        // A thief of the previous secret must not be able to keep access.
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

/// Checks whether a caller may create, or see the secret of, a key that is valid for as long.
pub(crate) fn may_last(key: &Key, caller: &Caller) -> Result<(), Problem> {
    match caller.key.expires_at {
        Some(end) if key.expires_at.is_none_or(|theirs| theirs > end) => {
            let detail = format!("Your key ends at {end}: it cannot give one that lasts longer. Set `expires_at`");
            Err(Problem::new(Kind::Forbidden, detail))
        }
        _ => Ok(()),
    }
}
