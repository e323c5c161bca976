//! The API's routes. Each handler reads the request into a type that cannot be
//! wrong, asks the leader, and answers; what is decided is decided in `link.rs`,
//! `endpoint.rs` and `draft.rs`.

mod endpoints;
mod events;
mod links;
pub(crate) mod request;
mod resource;
mod stats;

use std::sync::Arc;

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    http::{HeaderValue, Method, Uri, header},
    middleware::{self, Next},
    response::Response,
    routing::{MethodRouter, get, post},
};
use bus::Producer;
use schemas::{Endpoint, Link};
use service::vault::Vault;
use store::Store;

use self::resource::Resource;
use crate::{
    auth::{self, AdminKey},
    endpoint::Allowed,
    forward::{self, Forwarder},
    leadership::Leadership,
    link::LinkRules,
    metrics::{Answered, Counts},
    problem::{Kind, Problem},
    writer::Leader,
};

/// What handlers work with.
pub(crate) struct Api {
    pub(crate) leadership: Arc<Leadership>,
    pub(crate) forwarder: Forwarder,
    pub(crate) producer: Producer,
    pub(crate) vault: Arc<Vault>,
    pub(crate) store: Store,
    pub(crate) rules: Arc<Rules>,
    pub(crate) key: AdminKey,
    pub(crate) counts: Counts,
}

/// What the installation allows.
pub(crate) struct Rules {
    /// Where endpoints may be.
    pub(crate) endpoints: Allowed,
    /// What links are held to.
    pub(crate) links: Arc<LinkRules>,
}

impl Api {
    fn leader(&self) -> Result<Arc<Leader>, Problem> {
        self.leadership.leader().ok_or_else(|| {
            Problem::unavailable("This instance does not lead (yet): try again in a moment, or ask another instance")
        })
    }
}

/// All routes.
pub(crate) fn routes(api: Arc<Api>) -> Router {
    let keyed = Router::new()
        .merge(resource::<Link>(post(links::create)))
        .merge(resource::<Endpoint>(post(endpoints::create)))
        .route("/v1/endpoints/{id}/test", post(endpoints::test))
        .route("/v1/stats/links/{id}", get(stats::link))
        .route("/v1/event-types", get(events::list))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&api), auth::require));
    keyed
        .route("/healthz", get(|| async { "ok\n" }))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(middleware::from_fn_with_state(Arc::clone(&api), forward::elsewhere))
        .layer(middleware::from_fn_with_state(Arc::clone(&api), count))
        .layer(DefaultBodyLimit::max(request::BODY_BYTES))
        .with_state(api)
}

/// The routes that every kind has.
fn resource<T: Resource>(create: MethodRouter<Arc<Api>>) -> Router<Arc<Api>> {
    let one = get(resource::read::<T>).patch(resource::update::<T>).delete(resource::delete::<T>);
    Router::new().route(T::PATH, create.get(resource::list::<T>)).route(&format!("{}/{{id}}", T::PATH), one)
}

async fn no_route(uri: Uri) -> Problem {
    let path: String = uri.path().chars().take(200).collect();
    Problem::new(Kind::NotFound, format!("There is no {path}"))
}

async fn no_method(method: Method, uri: Uri) -> Problem {
    let path: String = uri.path().chars().take(200).collect();
    Problem::new(Kind::MethodNotAllowed, format!("{path} does not know {method}: the Allow header says what it does"))
}

async fn count(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let status = match response.status().as_u16() {
        0..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        _ => "5xx",
    };
    api.counts.requests.get_or_create(&Answered { status }).inc();
    // What the API tells is the caller's alone.
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
