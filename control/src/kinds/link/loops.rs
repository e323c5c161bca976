//! Links that would lead to themselves. A visitor of such a link is redirected in a circle until the browser gives up, and
//! each round is a click and its webhooks.

use schemas::{Domain, Link, WorkspaceId, workspace::SlugCase};
use service::problem::{FieldError, Problem};
use url::Url;

use crate::{
    kinds::{domain::DomainKey, link::slug},
    state::{draft::Draft, links::LinkKey},
};

/// The most short links that are followed, one behind the other.
const HOPS: usize = 5;

/// The short address that another address is.
#[derive(Debug, PartialEq, Eq)]
struct ShortAddress {
    workspace: WorkspaceId,
    /// None for a link without a domain.
    domain: Option<String>,
    slug: String,
}

/// Checks that a link, whose domain and slug are set, does not lead to itself over other short links.
///
/// # Errors
/// When the link's `destination` or `expired_url` leads back.
pub(super) fn check(link: &Link, draft: &Draft<'_>) -> Result<(), Problem> {
    for (field, url) in [("destination", Some(&link.destination)), ("expired_url", link.expired_url.as_ref())] {
        if url.is_some_and(|url| leads_back(url, link, draft, HOPS)) {
            let reason =
                "leads back to this link, so that visitors would be redirected in a circle: give another address";
            return Err(Problem::invalid(vec![FieldError::new(field, reason)]));
        }
    }
    Ok(())
}

fn leads_back(url: &str, link: &Link, draft: &Draft<'_>, hops: usize) -> bool {
    let Some(address) = short_address(url, draft).filter(|_| hops > 0) else { return false };
    let has_slug = address.slug == link.slug || link.former_slugs.contains(&address.slug);
    if has_slug && address.workspace == link.workspace && address.domain == link.domain {
        return true;
    }
    let key = LinkKey::Address(address.workspace, address.domain, address.slug);
    let found = draft.owner::<Link>(&key).and_then(|id| draft.find::<Link>(&id));
    found.filter(|found| found.id != link.id).is_some_and(|found| {
        let urls = [Some(&found.destination), found.expired_url.as_ref()];
        urls.into_iter().flatten().any(|url| leads_back(url, link, draft, hops - 1))
    })
}

/// Returns the short address that a URL is, if its host is a domain or that of the installation.
fn short_address(url: &str, draft: &Draft<'_>) -> Option<ShortAddress> {
    // Most hosts are others': they cost no parsing.
    let host = host_of(url)?;
    let domain = draft.owner::<Domain>(&DomainKey::Name(host.clone())).and_then(|id| draft.find::<Domain>(&id));
    let is_own = || host_of(&draft.link_rules().short_url_base).is_some_and(|own| own == host);
    let (workspace, domain, case) = match domain {
        Some(domain) => (domain.workspace.clone(), Some(domain.name.clone()), domain.slug_case),
        None if is_own() => (WorkspaceId::default(), None, SlugCase::Sensitive),
        None => return None,
    };
    let url = Url::parse(url).ok()?;
    let path = url.path().strip_prefix('/')?;
    let path = path.strip_prefix("q/").or_else(|| path.strip_prefix("Q/")).unwrap_or(path);
    let path = path.strip_suffix('/').unwrap_or(path);
    let decoded = percent_encoding::percent_decode_str(path).decode_utf8().ok()?;
    let slug = slug::canonical(&decoded, case);
    (!slug.is_empty()).then_some(ShortAddress { workspace, domain, slug })
}

/// Returns the host of a web address, without its port and in lower case.
fn host_of(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("https") && !scheme.eq_ignore_ascii_case("http") {
        return None;
    }
    let authority = rest.split(['/', '?', '#', '\\']).next()?;
    let host = authority.rsplit('@').next()?;
    let host = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    (!host.is_empty()).then(|| host.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use schemas::Timestamp;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        kinds::link::{LinkPatch, upsert::upsert},
        rules::DraftRules,
        state::{entity::Expected, installed},
    };

    /// Upserts one link after the other in the workspace `default`, which has the domain go.acme.co; returns the fields
    /// that are refused.
    fn refused(given: &[Value]) -> Vec<String> {
        let (state, rules) = (installed(), DraftRules::default());
        let mut draft = Draft::new(&state, &rules, Timestamp::from_millis(1));
        let mut refused = Vec::new();
        for given in given {
            let given: LinkPatch = serde_json::from_value(given.clone()).unwrap();
            if let Err(problem) = upsert(&mut draft, &WorkspaceId::default(), given, &Expected::Anything) {
                refused.extend(problem.errors.into_iter().map(|error| error.field));
            }
        }
        refused
    }

    #[test]
    fn a_link_does_not_lead_to_itself() {
        for destination in [
            "https://go.acme.co/a",
            "http://GO.acme.co.:8080/a?x#y",
            "https://go.acme.co/q/%61",
            "https://go.acme.co/a/",
            "https://u:p@go.acme.co/a",
        ] {
            let link = json!({"domain": "go.acme.co", "slug": "a", "destination": destination});
            assert_eq!(refused(&[link]), ["destination"], "{destination}");
        }
        let base = json!({"slug": "a", "destination": "http://localhost:8080/a"});
        assert_eq!(refused(&[base]), ["destination"]);
        for destination in [
            "https://go.acme.co/b",
            "https://go.acme.co/",
            "https://go.acme.co",
            "https://go.acme.co.evil.example/a",
            "https://a.example/a",
        ] {
            let link = json!({"domain": "go.acme.co", "slug": "a", "destination": destination});
            assert_eq!(refused(&[link]), Vec::<String>::new(), "{destination}");
        }
        let expired = json!({"domain": "go.acme.co", "slug": "a", "destination": "https://a.example/", "expired_url": "https://go.acme.co/a"});
        assert_eq!(refused(&[expired]), ["expired_url"]);
    }

    #[test]
    fn nor_over_other_links() {
        let link =
            |slug: &str, destination: &str| json!({"domain": "go.acme.co", "slug": slug, "destination": destination});
        let to = |slug: &str| format!("https://go.acme.co/{slug}");
        let chain = [link("a", &to("b")), link("b", &to("c")), link("c", "https://a.example/")];
        assert_eq!(refused(&chain), Vec::<String>::new());
        let ring = [link("a", &to("b")), link("b", &to("c")), link("c", &to("a"))];
        assert_eq!(refused(&ring), ["destination"]);
    }
}
