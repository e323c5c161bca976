//! The address of a link: the domain that it answers on, the slug as that domain spells it, and the short URL.

use schemas::{Domain, Link, WorkspaceId, workspace::SlugCase};
use service::problem::{FieldError, Problem};

use crate::{
    kinds::{domain::DomainKey, link::slug},
    state::{draft::Draft, links::LinkKey},
};

/// Returns the unique key of the address at which a link of the workspace answers that asks for this domain and slug.
pub(crate) fn address_key(
    draft: &Draft<'_>,
    workspace: &WorkspaceId,
    domain: Option<&str>,
    slug: &str,
) -> Result<LinkKey, Problem> {
    let (domain, case) = resolve_domain(draft, workspace, domain.map(ToOwned::to_owned))?;
    Ok(LinkKey::Address(workspace.clone(), domain, slug::canonical(slug, case)))
}

/// Returns the domain on which a link answers that asks for `domain`, and whether case tells slugs apart there.
pub(crate) fn resolve_domain(
    draft: &Draft<'_>,
    workspace: &WorkspaceId,
    domain: Option<String>,
) -> Result<(Option<String>, SlugCase), Problem> {
    let key = match &domain {
        Some(name) => DomainKey::Listed(workspace.clone(), name.clone()),
        None => DomainKey::Default(workspace.clone()),
    };
    let found = draft.owner::<Domain>(&key).and_then(|id| draft.find::<Domain>(&id));
    match (found, domain) {
        (Some(found), _) => Ok((Some(found.name.clone()), found.slug_case)),
        (None, Some(name)) => {
            let reason = format!("`{name}` is no domain of this workspace: add it at /v1/domains first");
            Err(Problem::invalid(vec![FieldError::new("domain", reason)]))
        }
        // The hosts that are no domain belong to the first workspace.
        (None, None) if *workspace == WorkspaceId::default() => Ok((None, SlugCase::Sensitive)),
        (None, None) => {
            let reason = "is needed: this workspace has no proven default domain";
            Err(Problem::invalid(vec![FieldError::new("domain", reason)]))
        }
    }
}

/// Returns the address that people share.
pub(crate) fn short_url(link: &Link, base: &str) -> String {
    let slug = slug::in_address(&link.slug);
    match &link.domain {
        Some(domain) => format!("https://{domain}/{slug}"),
        None => format!("{base}/{slug}"),
    }
}
