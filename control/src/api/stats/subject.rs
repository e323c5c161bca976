//! The subject of statistics, as the path names it.

use schemas::{Campaign, CampaignId, Link, LinkId, WorkspaceId};
use service::problem::{FieldError, Problem};
use store::StatsSubject;

use crate::state::{
    State,
    entity::{not_found, parse_id},
};

/// The most characters of a subject that is named by a text.
const MAX_CHARS: usize = 256;

/// The kind of a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SubjectKind {
    Link,
    Campaign,
    Product,
    Tag,
    Domain,
    Workspace,
}

impl SubjectKind {
    /// Every kind.
    pub(crate) const ALL: [Self; 6] =
        [Self::Link, Self::Campaign, Self::Product, Self::Tag, Self::Domain, Self::Workspace];

    /// Returns the path of the summary; the other answers are below it.
    pub(crate) const fn path(self) -> &'static str {
        match self {
            Self::Link => "/v1/stats/links/{id}",
            Self::Campaign => "/v1/stats/campaigns/{campaign}",
            Self::Product => "/v1/stats/products/{sku}",
            Self::Tag => "/v1/stats/tags/{tag}",
            Self::Domain => "/v1/stats/domains/{domain}",
            Self::Workspace => "/v1/stats/workspace",
        }
    }

    /// Returns the noun for the kind.
    pub(crate) const fn noun(self) -> &'static str {
        match self {
            Self::Link => "link",
            Self::Campaign => "campaign",
            Self::Product => "product",
            Self::Tag => "tag",
            Self::Domain => "domain",
            Self::Workspace => "workspace",
        }
    }

    /// Returns the subject that the text names. A link must exist, and a campaign that is named by
    /// its id; other subjects without clicks have empty answers.
    pub(super) fn find(self, state: &State, workspace: &WorkspaceId, text: &str) -> Result<StatsSubject, Problem> {
        if self != Self::Workspace && (text.is_empty() || text.chars().count() > MAX_CHARS) {
            let reason = format!("must have 1 to {MAX_CHARS} characters");
            return Err(Problem::invalid(vec![FieldError::new(self.noun(), reason)]));
        }
        Ok(match self {
            Self::Link => {
                let id: LinkId = parse_id::<Link>(text)?;
                state.get::<Link>(workspace, &id).ok_or_else(|| not_found::<Link>(text))?;
                StatsSubject::Link(id)
            }
            Self::Campaign => match text.parse::<CampaignId>() {
                Ok(id) => {
                    let campaign = state.get::<Campaign>(workspace, &id).ok_or_else(|| not_found::<Campaign>(text))?;
                    StatsSubject::Campaign(campaign.name.clone())
                }
                Err(_) => StatsSubject::Campaign(text.to_owned()),
            },
            Self::Product => StatsSubject::Product(text.to_owned()),
            Self::Tag => StatsSubject::Tag(text.to_owned()),
            Self::Domain => StatsSubject::Domain(text.to_lowercase()),
            Self::Workspace => StatsSubject::Workspace,
        })
    }
}
