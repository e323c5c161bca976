//! Domains as callers write them, and how one is proven: a TXT record says the
//! text that only its owner was told.

use rand::RngExt;
use schemars::JsonSchema;
use schemas::{AppSchemes, Domain, DomainId, Timestamp, WorkspaceId, workspace::SlugCase};
use serde::Deserialize;
use service::problem::{FieldError, Problem};

use crate::{
    check::{Checker, Patch},
    link::check_domain,
};

const URL_BYTES: usize = 8192;
/// More random characters of 62 than anybody guesses.
const TOKEN_CHARS: usize = 32;
/// How much of what DNS says is told: anybody can write anything there.
const TOLD_TEXTS: usize = 5;
const TOLD_CHARS: usize = 100;

/// A domain that someone wants.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewDomain {
    /// The host name: ASCII, lower case, without port.
    name: String,
    /// Whether case tells slugs apart. Fixed from then on.
    #[serde(default)]
    slug_case: SlugCase,
    /// Whether links that name no domain answer on it; it takes the place of the
    /// default domain before.
    #[serde(default)]
    is_default: bool,
    /// Where `/` leads.
    root_url: Option<String>,
    /// Where addresses lead that no link has.
    fallback_url: Option<String>,
    /// Where expired links lead that have no address of their own for that.
    expired_url: Option<String>,
}

/// What someone wants changed of a domain: a merge patch (RFC 7396). Its name and
/// the case of its slugs stay: the addresses that people share would be others.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct DomainPatch {
    is_default: Patch<bool>,
    root_url: Patch<String>,
    fallback_url: Patch<String>,
    expired_url: Patch<String>,
}

/// How a domain is to be proven.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Verification {
    /// Whether an operator vouches for it, and DNS is not asked.
    #[serde(default)]
    pub(crate) vouch: bool,
}

impl NewDomain {
    /// The domain, checked, with the text that is to prove it.
    pub(crate) fn check(self, workspace: &WorkspaceId, schemes: &AppSchemes, at: Timestamp) -> Result<Domain, Problem> {
        let domain = Domain {
            id: DomainId::mint(),
            workspace: workspace.clone(),
            name: self.name,
            is_default: self.is_default,
            slug_case: self.slug_case,
            root_url: self.root_url,
            fallback_url: self.fallback_url,
            expired_url: self.expired_url,
            verification: mint_token(),
            verified_at: None,
            created_at: at,
            updated_at: at,
            revision: 1,
        };
        let mut checker = Checker::default();
        check_domain("name", &domain.name, &mut checker);
        check(&domain, schemes, &mut checker);
        checker.finish(domain)
    }
}

impl DomainPatch {
    /// `domain` with the patch applied, checked; its revision is the next one.
    pub(crate) fn apply(self, domain: &Domain, schemes: &AppSchemes, at: Timestamp) -> Result<Domain, Problem> {
        let mut new = domain.clone();
        self.is_default.apply_or(&mut new.is_default, false);
        self.root_url.apply(&mut new.root_url);
        self.fallback_url.apply(&mut new.fallback_url);
        self.expired_url.apply(&mut new.expired_url);
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
}

fn mint_token() -> String {
    let random = rand::rng().sample_iter(rand::distr::Alphanumeric).take(TOKEN_CHARS).map(char::from);
    "clickhook-".chars().chain(random).collect()
}

/// Where the text is looked for that proves a domain.
pub(crate) fn proof_at(domain: &Domain) -> String {
    format!("_clickhook.{}", domain.name)
}

/// Whether what DNS says proves the domain.
pub(crate) fn prove(domain: &Domain, found: &[String]) -> Result<(), Problem> {
    if found.iter().any(|text| text.trim() == domain.verification) {
        return Ok(());
    }
    let told = |text: &String| format!("`{}`", text.chars().take(TOLD_CHARS).collect::<String>());
    let told: Vec<String> = found.iter().take(TOLD_TEXTS).map(told).collect();
    let found = if told.is_empty() { "no TXT record".to_owned() } else { told.join(", ") };
    let reason =
        format!("found {found} at {}, wanted a TXT record that says `{}`", proof_at(domain), domain.verification);
    Err(Problem::invalid(vec![FieldError::new("verification", reason)]))
}

/// `domain`, proven.
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
        ] {
            assert_eq!(new(body.clone()).unwrap_err().errors[0].field, field, "{body}");
        }
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
