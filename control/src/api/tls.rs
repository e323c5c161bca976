//! `GET /v1/tls/ask?domain=…`: whether a host is served here, for proxies that get certificates on demand, such as Caddy
//! (`on_demand_tls { ask … }`). It takes no key, since these proxies send none, and tells nothing that a visit does not.

use std::sync::Arc;

use axum::extract::{Query, State, rejection::QueryRejection};
use schemars::JsonSchema;
use serde::Deserialize;
use service::problem::{Kind, Problem};

use crate::{
    api::{context::Api, request::read_query},
    kinds::domain::DomainKey,
    state::collection::EntityCollection,
};

/// The path of the question.
pub(crate) const PATH: &str = "/v1/tls/ask";

/// The query of the question.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct HostQuery {
    /// The host name for which a certificate is wanted.
    domain: String,
}

/// Answers 200 for the host of a proven domain and for the installation's own host, and 404 for others.
pub(crate) async fn ask(
    State(api): State<Arc<Api>>,
    query: Result<Query<HostQuery>, QueryRejection>,
) -> Result<&'static str, Problem> {
    let query = read_query(query)?;
    let host = query.domain.strip_suffix('.').unwrap_or(&query.domain).to_ascii_lowercase();
    let is_domain = api.leader()?.read(|state| state.domains.owner(&DomainKey::Name(host.clone())).is_some());
    if is_domain || api.rules.links.own_host().is_some_and(|own| own == host) {
        return Ok("served\n");
    }
    Err(Problem::new(Kind::NotFound, "No domain with this name is proven here"))
}
