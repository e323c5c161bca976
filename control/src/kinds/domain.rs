//! Domains, and their proof: a TXT record says the text that only the domain's owner was told.
//!
//! A name belongs to one workspace, a workspace has one default domain, and a domain with links cannot be deleted.

use bus::KeyUses;
use rand::RngExt;
use schemars::JsonSchema;
use schemas::{
    AppSchemes, Domain, DomainId, Link, Scope, Timestamp, Topic, WorkspaceId,
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
        draft::{Draft, EntityKind},
        entity::{Entity, workspace_entity},
    },
};

const URL_BYTES: usize = 8192;
/// The most bytes of a page in HTML.
const PAGE_BYTES: usize = 64 << 10;
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
    /// Whether links that name no domain answer on this one. It then replaces the earlier default domain.
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
    /// The host name: unique in the installation.
    Name(String),
    /// Being the default domain of the workspace.
    Default(WorkspaceId),
}

impl Entity for Domain {
    workspace_entity!(DomainId, "domain", Topic::Domains);

    type UniqueKey = DomainKey;

    fn unique_keys(&self) -> Vec<DomainKey> {
        let default = self.is_default.then(|| DomainKey::Default(self.workspace.clone()));
        std::iter::once(DomainKey::Name(self.name.clone())).chain(default).collect()
    }

    /// Does not name the owner, which may be in another workspace.
    fn conflict(key: &DomainKey, _: &DomainId) -> Problem {
        match key {
            DomainKey::Name(name) => {
                let reason = format!("`{name}` is a domain of this installation already: choose another");
                Problem::conflict("name", reason)
            }
            DomainKey::Default(_) => {
                Problem::conflict("is_default", "The workspace has a default domain already".to_owned())
            }
        }
    }

    /// The earlier default domain makes way for the new one.
    fn release_key(&self, key: &DomainKey, at: Timestamp) -> Option<Self> {
        match key {
            DomainKey::Name(_) => None,
            DomainKey::Default(_) => {
                Some(Self { is_default: false, updated_at: at, revision: self.revision + 1, ..self.clone() })
            }
        }
    }
}

impl EntityKind for Domain {
    fn check_deletable(&self, draft: &Draft<'_>) -> Result<(), Problem> {
        // Links of other workspaces cannot be on the domain.
        if draft.any(&self.workspace, |link: &Link| link.domain.as_ref() == Some(&self.name)) {
            let detail = format!("There are links on {}: delete them first", self.name);
            return Err(Problem::new(Kind::Conflict, detail));
        }
        Ok(())
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

/// Returns `domain` as proven.
pub(crate) fn proven(domain: &Domain, at: Timestamp) -> Domain {
    if domain.verified_at.is_some() {
        return domain.clone();
    }
    Domain { verified_at: Some(at), updated_at: at, revision: domain.revision + 1, ..domain.clone() }
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
