//! Domains, and their proof: a TXT record says the text that only the domain's owner was told.
//!
//! A name that is not proven claims nothing: several workspaces may list it, each with a text of its own. One workspace has
//! the name once it is proven, and loses it to another only when its own TXT record is gone. A workspace has one default
//! domain, which is a proven one, and a domain with links cannot be deleted.

use std::time::Duration;

use bus::KeyUses;
use rand::RngExt;
use schemars::JsonSchema;
use schemas::{
    AppSchemes, Domain, DomainId, DomainProof, Envelope, Event, EventId, EventName, Scope, Timestamp, Topic,
    WorkspaceId,
    audit::{AuditAction, AuditedKind},
    workspace::{SlugCase, TrailingSlash},
};
use serde::Deserialize;
use service::problem::{FieldError, Kind, Problem};

use crate::{
    caller::Caller,
    check::{Checker, Patch},
    kinds::resource::{CreateContext, Created, Resource},
    rules::ApiRules,
    state::{
        draft::{Draft, EntityChange, EntityKind, serialise},
        entity::{Entity, workspace_entity},
        links::LinkLabel,
        quotas::Quota,
    },
};

const URL_BYTES: usize = 8192;
/// The most bytes of a page in HTML.
const PAGE_BYTES: usize = 64 << 10;
/// The time after which a domain is deleted that nobody has proven.
const PENDING: Duration = Duration::from_secs(30 * 24 * 3600);
/// The random characters of a proof, of 62 each: too many to guess.
const TOKEN_CHARS: usize = 32;
/// The most TXT records that a refusal quotes, since anybody can write anything there.
const QUOTED_TEXTS: usize = 5;
/// The most characters that a refusal quotes of a TXT record.
const QUOTED_CHARS: usize = 100;

/// A domain to be created.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewDomain {
    /// The host name: ASCII, lower case, without port.
    name: String,
    /// Whether case tells slugs apart. It cannot be changed later.
    #[serde(default)]
    slug_case: SlugCase,
    /// Whether links that name no domain answer on this one, once it is proven. It then replaces the earlier default
    /// domain.
    #[serde(default)]
    is_default: bool,
    /// The address to which `/` redirects.
    root_url: Option<String>,
    /// The address to which paths without a link redirect.
    fallback_url: Option<String>,
    /// The address to which expired links redirect that have no `expired_url` of their own.
    expired_url: Option<String>,
    /// The page in HTML that is shown at paths without a link, with 404; not beside `fallback_url`.
    #[schemars(length(min = 1, max = PAGE_BYTES))]
    fallback_html: Option<String>,
    /// The page in HTML that is shown at expired links, with 410; not beside `expired_url`.
    #[schemars(length(min = 1, max = PAGE_BYTES))]
    expired_html: Option<String>,
    /// Whether a slash behind a slug is ignored.
    #[serde(default)]
    trailing_slash: TrailingSlash,
}

/// The changes of a domain: a merge patch (RFC 7396). The name and the case of slugs cannot be changed, since the
/// addresses that people share would no longer work.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct DomainPatch {
    is_default: Patch<bool>,
    root_url: Patch<String>,
    fallback_url: Patch<String>,
    expired_url: Patch<String>,
    #[schemars(length(min = 1, max = PAGE_BYTES))]
    fallback_html: Patch<String>,
    #[schemars(length(min = 1, max = PAGE_BYTES))]
    expired_html: Patch<String>,
    trailing_slash: Patch<TrailingSlash>,
}

/// The way in which a domain is to be proven.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Verification {
    /// Whether an operator vouches for the domain, so that DNS is not asked.
    #[serde(default)]
    pub(crate) vouch: bool,
}

/// A key that only one domain may have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum DomainKey {
    /// The host name in the workspace, proven or not.
    Listed(WorkspaceId, String),
    /// The proven host name: unique in the installation.
    Name(String),
    /// Being the default domain of the workspace, and proven.
    Default(WorkspaceId),
}

impl Entity for Domain {
    workspace_entity!(DomainId, "domain", Topic::Domains);

    type UniqueKey = DomainKey;

    fn unique_keys(&self) -> Vec<DomainKey> {
        let listed = DomainKey::Listed(self.workspace.clone(), self.name.clone());
        let name = self.verified_at.map(|_| DomainKey::Name(self.name.clone()));
        let is_default = self.verified_at.is_some() && self.is_default;
        let default = is_default.then(|| DomainKey::Default(self.workspace.clone()));
        std::iter::once(listed).chain(name).chain(default).collect()
    }

    fn conflict(key: &DomainKey, owner: &DomainId) -> Problem {
        match key {
            DomainKey::Listed(_, name) => {
                let reason =
                    format!("`{name}` is the domain {owner} of this workspace already: change or verify that one");
                Problem::conflict("name", reason)
            }
            DomainKey::Name(name) => is_proven_elsewhere(name),
            DomainKey::Default(_) => {
                Problem::conflict("is_default", "The workspace has a default domain already".to_owned())
            }
        }
    }

    /// Redirectors must still know the host of a domain that served, so that no link of another workspace answers there.
    fn retired(&self, at: Timestamp) -> Option<Self> {
        let served = self.verified_at.or(self.lapsed_at).is_some();
        let retire = |new: &mut Self| {
            new.verified_at = None;
            new.is_default = false;
            new.deleted_at = Some(at);
        };
        served.then(|| changed(self, retire, at))
    }

    fn is_retired(&self) -> bool {
        self.deleted_at.is_some()
    }

    /// The earlier default domain makes way for the new one, and the earlier owner of a name for the new one, which
    /// [`check_takeover`] has allowed.
    fn release_key(&self, key: &DomainKey, at: Timestamp) -> Option<Self> {
        match key {
            DomainKey::Listed(..) => None,
            DomainKey::Name(_) => Some(lapsed(self, at)),
            DomainKey::Default(_) => {
                Some(Self { is_default: false, updated_at: at, revision: self.revision + 1, ..self.clone() })
            }
        }
    }
}

impl EntityKind for Domain {
    const QUOTA: Option<Quota> = Some(Quota::Domains);
    const AUDITED: AuditedKind = AuditedKind::Domain;

    fn audit_action(old: &Self, new: &Self) -> Option<AuditAction> {
        Some(match (old.verified_at, new.verified_at) {
            (None, Some(_)) => AuditAction::Verified,
            (Some(_), None) => AuditAction::Lapsed,
            _ => AuditAction::Updated,
        })
    }

    fn check_deletable(&self, draft: &Draft<'_>) -> Result<(), Problem> {
        // Links of other workspaces are not on this domain, whose name they may list, too.
        if draft.has_labelled(&self.workspace, &LinkLabel::Domain(self.name.clone())) {
            let detail = format!("There are links on {}: delete them first", self.name);
            return Err(Problem::new(Kind::Conflict, detail));
        }
        Ok(())
    }

    /// Tells that a proof is missing, or was lost, and of no other changes.
    fn event(change: EntityChange<'_, Self>, at: Timestamp) -> Result<Option<Vec<u8>>, Problem> {
        let EntityChange::Updated { old, new } = change else { return Ok(None) };
        let (name, id) = (&new.name, new.id);
        let (event, message) = if old.verified_at.is_some() && new.verified_at.is_none() {
            let message = format!("The domain {name} ({id}) has lost its proof and serves nothing any more.");
            (EventName::DomainLapsed, message)
        } else if old.proof_missing_since.is_none() && new.proof_missing_since.is_some() {
            let message = format!(
                "The TXT record at {} that proves the domain {name} ({id}) is gone. Unless it says `{}` again, the domain \
                 will serve nothing any more after some days.",
                proof_name(new),
                new.verification
            );
            (EventName::DomainProofMissing, message)
        } else {
            return Ok(None);
        };
        let workspace = new.workspace.as_str();
        let id = EventId::of(workspace, event, &id.to_string(), &new.revision.to_string(), at);
        let event = Event { message: Some(message.into()), ..Event::bare(id, event, at) };
        serialise(&Envelope { v: 1, workspace: workspace.into(), ip_key: None, endpoint: None, event }).map(Some)
    }
}

impl Resource for Domain {
    const PATH: &'static str = "/v1/domains";
    const SCOPE: Scope = Scope::Admin;

    type New = NewDomain;
    type Patch = DomainPatch;
    type View<'a> = &'a Self;

    fn create(new: NewDomain, context: &CreateContext<'_>) -> Result<Created<Self>, Problem> {
        new.check(&context.caller.workspace, &context.rules.links.schemes, context.at).map(Created::from)
    }

    fn patched(&self, patch: DomainPatch, _: &Caller, rules: &ApiRules, at: Timestamp) -> Result<Self, Problem> {
        patch.apply(self, &rules.links.schemes, at)
    }

    fn view<'a>(&'a self, _: &KeyUses, _: Option<&'a str>) -> &'a Self {
        self
    }
}

impl NewDomain {
    /// Returns the domain, checked, with the text that is to prove it.
    fn check(self, workspace: &WorkspaceId, schemes: &AppSchemes, at: Timestamp) -> Result<Domain, Problem> {
        let domain = Domain {
            id: DomainId::mint(),
            workspace: workspace.clone(),
            name: self.name,
            is_default: self.is_default,
            slug_case: self.slug_case,
            trailing_slash: self.trailing_slash,
            root_url: self.root_url,
            fallback_url: self.fallback_url,
            expired_url: self.expired_url,
            fallback_html: self.fallback_html,
            expired_html: self.expired_html,
            verification: mint_token(),
            verified_at: None,
            proof: None,
            proof_missing_since: None,
            lapsed_at: None,
            deleted_at: None,
            created_at: at,
            updated_at: at,
            revision: 1,
        };
        let mut checker = Checker::default();
        checker.host_name("name", &domain.name);
        check(&domain, schemes, &mut checker);
        checker.finish(domain)
    }
}

impl DomainPatch {
    /// Returns `domain` with the patch applied, checked.
    fn apply(self, domain: &Domain, schemes: &AppSchemes, at: Timestamp) -> Result<Domain, Problem> {
        let mut new = domain.clone();
        self.is_default.apply_or(&mut new.is_default, false);
        self.root_url.apply(&mut new.root_url);
        self.fallback_url.apply(&mut new.fallback_url);
        self.expired_url.apply(&mut new.expired_url);
        self.fallback_html.apply(&mut new.fallback_html);
        self.expired_html.apply(&mut new.expired_html);
        self.trailing_slash.apply_or(&mut new.trailing_slash, TrailingSlash::Refused);
        let mut checker = Checker::default();
        check(&new, schemes, &mut checker);
        if new != *domain {
            new.updated_at = at;
            new.revision += 1;
        }
        checker.finish(new)
    }
}

fn check(domain: &Domain, schemes: &AppSchemes, checker: &mut Checker) {
    for (field, url) in
        [("root_url", &domain.root_url), ("fallback_url", &domain.fallback_url), ("expired_url", &domain.expired_url)]
    {
        if let Some(url) = url {
            checker.destination(field, url, URL_BYTES, schemes);
        }
    }
    for (field, page, beside, url) in [
        ("fallback_html", &domain.fallback_html, "fallback_url", &domain.fallback_url),
        ("expired_html", &domain.expired_html, "expired_url", &domain.expired_url),
    ] {
        let Some(page) = page else { continue };
        if page.is_empty() || page.len() > PAGE_BYTES {
            checker
                .wrong(field, format!("has {} bytes, must have 1 to {PAGE_BYTES}; null removes the page", page.len()));
        }
        if url.is_some() {
            checker.wrong(field, format!("cannot stand beside `{beside}`: remove one of them with null"));
        }
    }
}

fn mint_token() -> String {
    let random = rand::rng().sample_iter(rand::distr::Alphanumeric).take(TOKEN_CHARS).map(char::from);
    "clickhook-".chars().chain(random).collect()
}

/// Returns the name of the TXT record that proves a domain.
pub(crate) fn proof_name(domain: &Domain) -> String {
    format!("_clickhook.{}", domain.name)
}

/// Checks whether the TXT records that were found prove the domain.
pub(crate) fn prove(domain: &Domain, found: &[String]) -> Result<(), Problem> {
    if found.iter().any(|text| text.trim() == domain.verification) {
        return Ok(());
    }
    let quote = |text: &String| format!("`{}`", text.chars().take(QUOTED_CHARS).collect::<String>());
    let quoted: Vec<String> = found.iter().take(QUOTED_TEXTS).map(quote).collect();
    let found = if quoted.is_empty() { "no TXT record".to_owned() } else { quoted.join(", ") };
    let reason =
        format!("found {found} at {}, wanted a TXT record that says `{}`", proof_name(domain), domain.verification);
    Err(Problem::invalid(vec![FieldError::new("verification", reason)]))
}

/// The evidence for a domain: an operator's word, or TXT records.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Evidence<'a> {
    pub(crate) proof: DomainProof,
    /// The TXT records at the name of the proof.
    pub(crate) found: &'a [String],
}

/// Checks whether the domain may have its name, which another workspace may have proven before.
///
/// # Errors
/// When the proof of the other workspace stands.
pub(crate) fn check_takeover(draft: &Draft<'_>, domain: &Domain, evidence: Evidence<'_>) -> Result<(), Problem> {
    let owner = draft.owner::<Domain>(&DomainKey::Name(domain.name.clone()));
    let Some(owner) = owner.filter(|owner| *owner != domain.id).and_then(|owner| draft.find::<Domain>(&owner)) else {
        return Ok(());
    };
    let record_stands = evidence.found.iter().any(|text| text.trim() == owner.verification);
    // The word of an operator is as good as that of another, and better than none of the records.
    let word_stands = owner.proof != Some(DomainProof::Dns) && evidence.proof != DomainProof::Vouched;
    if record_stands || word_stands { Err(is_proven_elsewhere(&domain.name)) } else { Ok(()) }
}

/// Does not name the workspace, which is another one.
fn is_proven_elsewhere(name: &str) -> Problem {
    let reason = format!(
        "`{name}` was proven by another workspace, whose TXT record at _clickhook.{name} is still there, or for which an \
         operator vouches: remove that record, or ask an operator"
    );
    Problem::conflict("name", reason)
}

/// Returns the next version of a domain with these changes; the same version where they change nothing.
fn changed(domain: &Domain, changes: impl FnOnce(&mut Domain), at: Timestamp) -> Domain {
    let mut new = domain.clone();
    changes(&mut new);
    if new != *domain {
        new.updated_at = at;
        new.revision += 1;
    }
    new
}

/// Returns `domain` as proven.
pub(crate) fn proven(domain: &Domain, proof: DomainProof, at: Timestamp) -> Domain {
    let prove = |new: &mut Domain| {
        new.verified_at.get_or_insert(at);
        new.proof = Some(proof);
        new.proof_missing_since = None;
        new.lapsed_at = None;
    };
    changed(domain, prove, at)
}

/// Returns `domain` without its proof.
fn lapsed(domain: &Domain, at: Timestamp) -> Domain {
    let lapse = |new: &mut Domain| {
        new.verified_at = None;
        new.proof = None;
        new.proof_missing_since = None;
        new.lapsed_at = Some(at);
    };
    changed(domain, lapse, at)
}

/// Returns a proven domain after its TXT records were looked at again. A domain that an operator vouches for needs none.
pub(crate) fn looked_at_again(domain: &Domain, found: &[String], grace: Duration, at: Timestamp) -> Domain {
    if domain.verified_at.is_none() || domain.proof == Some(DomainProof::Vouched) {
        return domain.clone();
    }
    if prove(domain, found).is_ok() {
        return proven(domain, DomainProof::Dns, at);
    }
    // An earlier version did not note the kind of proof: it may have been an operator's word.
    if domain.proof.is_none() {
        return domain.clone();
    }
    let since = domain.proof_missing_since.unwrap_or(at);
    if at >= since.plus(grace) {
        return lapsed(domain, at);
    }
    changed(domain, |new| new.proof_missing_since = Some(since), at)
}

/// Tells whether a domain has been unproven for so long that it is deleted, unless it has links.
pub(crate) fn is_abandoned(domain: &Domain, at: Timestamp) -> bool {
    let since = domain.lapsed_at.unwrap_or(domain.created_at);
    domain.verified_at.is_none() && at >= since.plus(PENDING)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn new(body: Value) -> Result<Domain, Problem> {
        let new: NewDomain = serde_json::from_value(body).unwrap();
        let schemes = AppSchemes::try_from(vec!["myapp".to_owned()]).unwrap();
        new.check(&WorkspaceId::default(), &schemes, Timestamp::from_millis(0))
    }

    #[test]
    fn what_is_not_allowed_is_named() {
        for (body, field) in [
            (json!({"name": "Go.acme.co"}), "name"),
            (json!({"name": "go.acme.co:80"}), "name"),
            (json!({"name": "b\u{fc}cher.example"}), "name"),
            (json!({"name": "10.0.0.1"}), "name"),
            (json!({"name": ""}), "name"),
            (json!({"name": "*.acme.co"}), "name"),
            (json!({"name": "a'b.co"}), "name"),
            (json!({"name": "{x}.co"}), "name"),
            (json!({"name": "a\"b.co"}), "name"),
            (json!({"name": format!("{}.acme.co", vec!["a".repeat(60); 4].join("."))}), "name"),
            (json!({"name": "go.acme.co", "root_url": "javascript:alert(1)"}), "root_url"),
            (json!({"name": "go.acme.co", "fallback_url": "//a"}), "fallback_url"),
            (json!({"name": "go.acme.co", "expired_url": "otherapp://a"}), "expired_url"),
            (json!({"name": "go.acme.co", "fallback_html": ""}), "fallback_html"),
            (json!({"name": "go.acme.co", "expired_html": "a".repeat((64 << 10) + 1)}), "expired_html"),
            (
                json!({"name": "go.acme.co", "fallback_html": "<p>None</p>", "fallback_url": "https://a.example/"}),
                "fallback_html",
            ),
        ] {
            assert_eq!(new(body.clone()).unwrap_err().errors[0].field, field, "{body}");
        }
        new(json!({"name": "go.acme.co", "fallback_html": "a".repeat(64 << 10), "trailing_slash": "ignored"})).unwrap();
        new(json!({"name": "go.acme.co", "root_url": "https://acme.co/", "expired_url": "myapp://over"})).unwrap();
    }

    #[test]
    fn a_proof_that_is_missing_lapses_after_some_days() {
        let day = Duration::from_secs(24 * 3600);
        let at = |days: u32| Timestamp::from_millis(0).plus(day * days);
        let domain = new(json!({"name": "go.acme.co"})).unwrap();
        let there = vec![domain.verification.clone()];
        let again = |domain: &Domain, found: &[String], days| looked_at_again(domain, found, 3 * day, at(days));
        let unproven = again(&domain, &there, 1);
        assert_eq!(unproven, domain, "nobody has asked for the proof");
        let domain = proven(&domain, DomainProof::Dns, at(1));
        assert_eq!(again(&domain, &there, 2), domain);
        let missing = again(&domain, &[], 2);
        assert_eq!((missing.proof_missing_since, missing.revision), (Some(at(2)), 3));
        assert_eq!(again(&missing, &[], 4), missing);
        let back = again(&missing, &there, 4);
        assert_eq!((back.proof_missing_since, back.verified_at), (None, Some(at(1))));
        let gone = again(&missing, &[], 5);
        assert_eq!((gone.verified_at, gone.lapsed_at, gone.proof), (None, Some(at(5)), None));
        assert!(!is_abandoned(&gone, at(34)) && is_abandoned(&gone, at(35)));
        let vouched = proven(&domain, DomainProof::Vouched, at(1));
        assert_eq!(again(&vouched, &[], 9), vouched);
        let unknown = Domain { proof: None, ..domain };
        assert_eq!(again(&unknown, &[], 9), unknown);
        assert_eq!(again(&unknown, &there, 9).proof, Some(DomainProof::Dns));
    }

    #[test]
    fn a_domain_is_proven_by_its_own_text_alone() {
        let domain = new(json!({"name": "go.acme.co"})).unwrap();
        let other = new(json!({"name": "go.acme.co"})).unwrap().verification;
        prove(&domain, &[other.clone(), domain.verification.clone()]).unwrap();
        for (found, told) in [(vec![], "no TXT record"), (vec![other.clone()], other.as_str())] {
            let reason = prove(&domain, &found).unwrap_err().errors.remove(0).reason;
            assert!(reason.contains(told) && reason.contains(&domain.verification), "{reason}");
            assert!(reason.contains("_clickhook.go.acme.co"), "{reason}");
        }
        let long = prove(&domain, &vec!["\u{fc}".repeat(5000); 50]).unwrap_err().errors.remove(0).reason;
        assert!(long.chars().count() < 1000);
    }
}
