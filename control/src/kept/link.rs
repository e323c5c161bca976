//! Links as the control plane keeps them: where one answers and its external id
//! are its own, and every change is told as an event.

use schemas::{
    Domain, Envelope, Event, EventId, EventName, Link, LinkId, Timestamp, Topic, WorkspaceId, workspace::SlugCase,
};
use service::problem::{FieldError, Problem};

use crate::{
    draft::Draft,
    kept::{Difference, DomainClaim, Kept, serialise},
    link::{changes, short_url},
    slug,
};

/// What only one link may have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum LinkClaim {
    /// Where it answers: unique in the installation.
    Address(Option<String>, String),
    /// The customer's own id: unique in the workspace.
    External(WorkspaceId, String),
}

impl Kept for Link {
    type Id = LinkId;
    type Claim = LinkClaim;

    const NAME: &'static str = "link";
    const TOPIC: Topic = Topic::Links;

    fn id(&self) -> LinkId {
        self.id
    }

    fn workspace(&self) -> Option<&WorkspaceId> {
        Some(&self.workspace)
    }

    fn revision(&self) -> u64 {
        self.revision
    }

    fn claims(&self) -> Vec<LinkClaim> {
        let address = LinkClaim::Address(self.domain.clone(), self.slug.clone());
        let external = self.external_id.clone().map(|external| LinkClaim::External(self.workspace.clone(), external));
        std::iter::once(address).chain(external).collect()
    }

    fn taken(claim: &LinkClaim, owner: &LinkId) -> Problem {
        match claim {
            LinkClaim::Address(domain, slug) => {
                let host = domain.as_deref().map_or_else(String::new, |domain| format!(" on {domain}"));
                let reason = format!("`{slug}` is taken{host}: choose another, or leave it out to have one made up");
                Problem::conflict("slug", reason)
            }
            LinkClaim::External(_, external) => {
                let reason = format!("`{external}` is the external_id of {owner} already: change that link instead");
                Problem::conflict("external_id", reason)
            }
        }
    }

    /// Gives its slug the one spelling that it is kept under, and one that has
    /// none a slug that is free.
    fn settle(&mut self, old: Option<&Self>, draft: &Draft<'_>) -> Result<(), Problem> {
        let case = match old {
            // It stays where it is, whatever has become the default since.
            Some(Self { domain: None, .. }) => SlugCase::Sensitive,
            _ => {
                let (domain, case) = answers_on(draft, &self.workspace, self.domain.take())?;
                self.domain = domain;
                case
            }
        };
        self.slug = if self.slug.is_empty() {
            let is_free =
                |slug: &str| draft.owner::<Self>(&LinkClaim::Address(self.domain.clone(), slug.to_owned())).is_none();
            slug::make_up(case, draft.link_rules().slug_chars, is_free)
        } else {
            slug::canonical(&self.slug, case)
        };
        self.short_url = short_url(self, &draft.link_rules().short_url_base);
        // What was only spelt otherwise has not changed.
        if let Some(old) = old
            && self.revision != old.revision
        {
            let (revision, at) = (self.revision, self.updated_at);
            (self.revision, self.updated_at) = (old.revision, old.updated_at);
            if *self != *old {
                (self.revision, self.updated_at) = (revision, at);
            }
        }
        Ok(())
    }

    fn event(change: Difference<'_, Self>, at: Timestamp) -> Result<Option<Vec<u8>>, Problem> {
        let (name, link, revision, changes) = match change {
            Difference::Created(link) => (EventName::LinkCreated, link, link.revision, None),
            Difference::Updated(old, link) => (EventName::LinkUpdated, link, link.revision, Some(changes(old, link))),
            // The deletion is the version after the last.
            Difference::Deleted(link) => (EventName::LinkDeleted, link, link.revision + 1, None),
        };
        let workspace = link.workspace.as_str();
        let event = Event {
            id: EventId::of(workspace, name, &link.id.to_string(), &revision.to_string(), at),
            event: name,
            timestamp: at,
            link: Some(link.facts()),
            click: None,
            utm: None,
            attribution: None,
            changes,
            message: None,
        };
        let envelope = Envelope { v: 1, workspace: workspace.into(), ip_key: None, endpoint: None, event };
        serialise(&envelope).map(Some)
    }
}

/// Where a link of a workspace answers that asks for this domain and slug.
pub(crate) fn address(
    draft: &Draft<'_>,
    workspace: &WorkspaceId,
    domain: Option<&str>,
    slug: &str,
) -> Result<LinkClaim, Problem> {
    let (domain, case) = answers_on(draft, workspace, domain.map(ToOwned::to_owned))?;
    Ok(LinkClaim::Address(domain, slug::canonical(slug, case)))
}

/// Where a link answers that asks for `domain`, and what tells slugs apart there.
fn answers_on(
    draft: &Draft<'_>,
    workspace: &WorkspaceId,
    domain: Option<String>,
) -> Result<(Option<String>, SlugCase), Problem> {
    let claim = match &domain {
        Some(name) => DomainClaim::Name(name.clone()),
        None => DomainClaim::Default(workspace.clone()),
    };
    let found = draft.owner::<Domain>(&claim).and_then(|id| draft.find::<Domain>(&id));
    match (found.filter(|found| found.workspace == *workspace), domain) {
        (Some(found), _) => Ok((Some(found.name.clone()), found.slug_case)),
        (None, Some(name)) => {
            let reason = format!("`{name}` is no domain of this workspace: add it at /v1/domains first");
            Err(Problem::invalid(vec![FieldError::new("domain", reason)]))
        }
        // What no other domain claims is the first workspace's.
        (None, None) if *workspace == WorkspaceId::default() => Ok((None, SlugCase::Sensitive)),
        (None, None) => {
            let reason = "is needed: this workspace has no default domain";
            Err(Problem::invalid(vec![FieldError::new("domain", reason)]))
        }
    }
}
