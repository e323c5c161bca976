//! Links. The address of a link and its external id are unique, and every change produces an event.

mod address;
pub(crate) mod csv;
mod fields;
pub(crate) mod import;
mod loops;
pub(crate) mod ndjson;
pub(crate) mod qr;
pub(crate) mod search;
mod slug;
#[cfg(test)]
mod tests;
pub(crate) mod upsert;

use bus::KeyUses;
use schemas::{
    Envelope, Event, EventId, EventName, Link, LinkId, Scope, Timestamp, Topic, audit::AuditedKind,
    fired::FiredSubject, workspace::SlugCase,
};
use service::problem::Problem;

pub(crate) use crate::kinds::link::fields::{LinkPatch, NewLink, check_tag, with_campaign, with_tag_renamed};
use crate::{
    caller::Caller,
    kinds::{
        link::address::{resolve_domain, short_url},
        resource::{CreateContext, Created, Resource},
    },
    rules::ApiRules,
    state::{
        draft::{Draft, EntityChange, EntityKind, serialise},
        entity::{Entity, workspace_entity},
        links::LinkKey,
        quotas::Quota,
    },
};

impl Entity for Link {
    workspace_entity!(LinkId, "link", Topic::Links);

    type UniqueKey = LinkKey;

    fn fired_subject(&self) -> Option<FiredSubject> {
        Some(FiredSubject::Link(self.id))
    }

    fn unique_keys(&self) -> Vec<LinkKey> {
        let slugs = std::iter::once(&self.slug).chain(&self.former_slugs);
        let address = |slug: &String| LinkKey::Address(self.workspace.clone(), self.domain.clone(), slug.clone());
        let external = self.external_id.clone().map(|external| LinkKey::External(self.workspace.clone(), external));
        slugs.map(address).chain(external).collect()
    }

    fn conflict(key: &LinkKey, owner: &LinkId) -> Problem {
        match key {
            LinkKey::Address(_, domain, slug) => {
                let host = domain.as_deref().map_or_else(String::new, |domain| format!(" on {domain}"));
                let reason = format!("`{slug}` is taken{host}: choose another, or leave it out to have one made up");
                Problem::conflict("slug", reason)
            }
            LinkKey::External(_, external) => {
                let reason = format!("`{external}` is the external_id of {owner} already: change that link instead");
                Problem::conflict("external_id", reason)
            }
        }
    }
}

impl EntityKind for Link {
    const QUOTA: Option<Quota> = Some(Quota::Links);
    const BYTES_QUOTA: Option<Quota> = Some(Quota::LinkBytes);
    const AUDITED: AuditedKind = AuditedKind::Link;

    /// Sets the domain, the canonical spelling of the slug and the short URL; generates a slug where there is none.
    fn normalise(&mut self, old: Option<&Self>, draft: &Draft<'_>) -> Result<(), Problem> {
        let case = match old {
            // The link stays on its host, even if the workspace has a default domain since.
            Some(Self { domain: None, .. }) => SlugCase::Sensitive,
            _ => {
                let (domain, case) = resolve_domain(draft, &self.workspace, self.domain.take())?;
                self.domain = domain;
                case
            }
        };
        self.slug = if self.slug.is_empty() {
            let is_free = |slug: &str| {
                let key = LinkKey::Address(self.workspace.clone(), self.domain.clone(), slug.to_owned());
                draft.owner::<Self>(&key).is_none()
            };
            slug::generate(case, draft.link_rules().slug_chars, is_free)
        } else {
            slug::canonical(&self.slug, case)
        };
        // The slug may be an earlier one again, or another spelling of the same.
        self.former_slugs.retain(|slug| *slug != self.slug);
        self.short_url = short_url(self, &draft.link_rules().short_url_base);
        let leads_as_before = |old: &Self| {
            old.destination == self.destination && old.expired_url == self.expired_url && old.slug == self.slug
        };
        if !old.is_some_and(leads_as_before) {
            loops::check(self, draft)?;
        }
        // Another spelling of the same slug is no change.
        if let Some(old) = old
            && self.revision != old.revision
        {
            let unchanged = Self { revision: old.revision, updated_at: old.updated_at, ..self.clone() };
            if unchanged == *old {
                *self = unchanged;
            }
        }
        Ok(())
    }

    fn event(change: EntityChange<'_, Self>, at: Timestamp) -> Result<Option<Vec<u8>>, Problem> {
        let (name, link, revision, changes) = match change {
            EntityChange::Created(link) => (EventName::LinkCreated, link, link.revision, None),
            EntityChange::Updated { old, new } => {
                (EventName::LinkUpdated, new, new.revision, Some(fields::changes(old, new)))
            }
            // The deletion counts as the version after the last.
            EntityChange::Deleted(link) => (EventName::LinkDeleted, link, link.revision + 1, None),
        };
        let workspace = link.workspace.as_str();
        let id = EventId::of(workspace, name, &link.id.to_string(), &revision.to_string(), at);
        let event = Event { link: Some(link.facts()), changes, ..Event::bare(id, name, at) };
        let envelope = Envelope { v: 1, workspace: workspace.into(), ip_key: None, endpoint: None, event };
        serialise(&envelope).map(Some)
    }
}

impl Resource for Link {
    const PATH: &'static str = "/v1/links";
    const SCOPE: Scope = Scope::Links;

    type New = NewLink;
    type Patch = LinkPatch;
    type View<'a> = &'a Self;

    fn create(new: NewLink, context: &CreateContext<'_>) -> Result<Created<Self>, Problem> {
        new.check(&context.caller.workspace, &context.rules.links, context.at).map(Created::from)
    }

    fn patched(&self, patch: LinkPatch, _: &Caller, rules: &ApiRules, at: Timestamp) -> Result<Self, Problem> {
        patch.apply(self, &rules.links, at)
    }

    fn view<'a>(&'a self, _: &KeyUses, _: Option<&'a str>) -> &'a Self {
        self
    }
}
