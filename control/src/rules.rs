//! The installation's rules: the settings of the configuration that decide which links and endpoints are accepted.

use std::sync::Arc;

use schemas::AppSchemes;
use service::vault::Vault;
use url::Url;

use crate::state::quotas::DefaultQuotas;

/// The rules that the API holds its callers to.
#[derive(Clone, Debug)]
pub(crate) struct ApiRules {
    /// The rules for endpoints.
    pub(crate) endpoints: EndpointRules,
    /// The vault that seals secrets.
    pub(crate) vault: Arc<Vault>,
    /// The rules for links.
    pub(crate) links: Arc<LinkRules>,
    /// The quotas of workspaces.
    pub(crate) quotas: DefaultQuotas,
}

/// The rules that a draft holds changes to.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(Default))]
pub(crate) struct DraftRules {
    /// The rules for links.
    pub(crate) links: Arc<LinkRules>,
    /// The quotas of workspaces.
    pub(crate) quotas: DefaultQuotas,
}

/// The addresses that an endpoint may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EndpointRules {
    /// Whether plain HTTP is allowed.
    pub(crate) allow_http: bool,
    /// Whether private networks and this machine are allowed.
    pub(crate) allow_private: bool,
}

/// The rules for links, and the settings that their addresses are made from.
#[derive(Clone, Debug)]
pub(crate) struct LinkRules {
    /// The beginning of the short address of a link without a domain.
    pub(crate) short_url_base: Box<str>,
    /// The schemes that a destination may have besides http and https.
    pub(crate) schemes: AppSchemes,
    /// The length of a generated slug, in characters.
    pub(crate) slug_chars: usize,
}

impl LinkRules {
    /// Returns the host on which links without a domain answer.
    pub(crate) fn own_host(&self) -> Option<String> {
        Url::parse(&self.short_url_base).ok()?.host_str().map(ToOwned::to_owned)
    }
}

#[cfg(test)]
impl Default for LinkRules {
    /// The rules of an installation that was not configured.
    fn default() -> Self {
        Self { short_url_base: schemas::DEFAULT_SHORT_URL_BASE.into(), schemes: AppSchemes::default(), slug_chars: 7 }
    }
}
