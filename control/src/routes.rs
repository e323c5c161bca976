//! The API's routes: which path and method has which handler, which scope it takes, and which instance serves it.

use std::sync::Arc;

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    http::{HeaderValue, Method, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodRouter, delete, get, post, put},
};
use hyper::body::Body as _;
use schemas::{Campaign, Domain, Endpoint, Key, Link, Scope, Workspace};
use service::problem::{self, Kind, Problem};

use crate::{
    api::{
        attempts, audit, auth, bulk,
        context::Api,
        conversions, cors, domains, endpoints, event_types, export, idempotency, import, keys, links, people, qr,
        replays, request, resource,
        stats::{self, Asked, SubjectKind},
        tags, tls, usage,
    },
    kinds::resource::Resource,
    leading::{forward, leadership::ServingInstance},
    metrics::AnsweredLabels,
    openapi,
};

/// Routes with their paths, which a test compares with the API description.
#[derive(Default)]
struct Routes {
    router: Router<Arc<Api>>,
    paths: Vec<String>,
}

impl Routes {
    fn route(mut self, path: &str, methods: MethodRouter<Arc<Api>>) -> Self {
        self.paths.push(path.to_owned());
        self.router = self.router.route(path, methods);
        self
    }

    fn merge(mut self, other: Self) -> Self {
        self.paths.extend(other.paths);
        self.router = self.router.merge(other.router);
        self
    }

    /// Requires a key with the scope for the routes. No body is read before.
    fn requiring(mut self, scope: Scope) -> Self {
        self.router = self.router.route_layer(middleware::from_fn(idempotency::layer));
        self.router = self.router.route_layer(middleware::from_fn_with_state(scope, auth::require_scope));
        self
    }
}

/// Returns the routes for callers with a key.
fn keyed() -> Routes {
    let links = resource_with::<Link>(post(links::create).get(links::list).patch(bulk::update).delete(bulk::delete))
        .route("/v1/links/{id}/qr.svg", get(qr::svg))
        .route("/v1/links/{id}/qr.png", get(qr::png))
        .route("/v1/links/upsert", put(bulk::upsert))
        .route("/v1/links/delete", post(bulk::delete))
        .route("/v1/links/import", post(import::import))
        .route("/v1/links/export", get(export::export));
    let endpoints = resource::<Endpoint>()
        .route("/v1/endpoints/{id}/test", post(endpoints::test))
        .route("/v1/endpoints/{id}/rotate-secret", post(endpoints::rotate_secret))
        .route("/v1/endpoints/{id}/pause", post(endpoints::pause))
        .route("/v1/endpoints/{id}/resume", post(endpoints::resume))
        .route("/v1/endpoints/{id}/attempts", get(attempts::list))
        .route("/v1/endpoints/{id}/replay", post(replays::replay))
        .route("/v1/endpoints/{id}/recover", post(replays::recover))
        .route("/v1/endpoints/{id}/replays", get(replays::list))
        .route("/v1/endpoints/{id}/replays/{replay}", get(replays::read).delete(replays::delete));
    let keys = resource::<Key>().route("/v1/keys/{id}/rotate", post(keys::rotate));
    let domains = resource::<Domain>().route("/v1/domains/{id}/verify", post(domains::verify));
    let tags = Routes::default().route("/v1/tags", get(tags::list)).route("/v1/tags/rename", post(tags::rename));
    let audit = Routes::default().route("/v1/audit", get(audit::list));
    let people = Routes::default()
        .route("/v1/people", delete(people::erase_visitor))
        .route("/v1/people/{customer_id}", delete(people::erase_customer));
    Routes::default()
        .merge(links.requiring(Link::SCOPE))
        .merge(endpoints.requiring(Endpoint::SCOPE))
        .merge(tags.requiring(Link::SCOPE))
        .merge(resource::<Campaign>().requiring(Campaign::SCOPE))
        .merge(domains.requiring(Domain::SCOPE))
        .merge(keys.requiring(Key::SCOPE))
        .merge(resource::<Workspace>().requiring(Workspace::SCOPE))
        .merge(statistics().requiring(Scope::Stats))
        .merge(people.requiring(Scope::Admin))
        .merge(audit.requiring(Scope::Admin))
        // One of two scopes is enough, which the handler checks.
        .route("/v1/conversions", get(conversions::list))
        .route("/v1/event-types", get(event_types::list))
        .route("/v1/usage", get(usage::read))
}

/// Returns the routes of the statistics: three for each kind of subject.
fn statistics() -> Routes {
    SubjectKind::ALL.into_iter().fold(Routes::default(), |routes, kind| {
        let path = kind.path();
        routes
            .route(path, get(move |asked: Asked, query| stats::summary(kind, asked, query)))
            .route(&format!("{path}/series"), get(move |asked: Asked, query| stats::series(kind, asked, query)))
            .route(&format!("{path}/top/{{dimension}}"), get(move |asked: Asked, query| stats::top(kind, asked, query)))
    })
}

/// Returns the routes for everyone.
fn open() -> Routes {
    Routes::default()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/openapi.json", get(openapi::serve))
        .route(tls::PATH, get(tls::ask))
}

/// Returns all routes.
pub(crate) fn routes(api: Arc<Api>) -> Router {
    let keyed = keyed().router.route_layer(middleware::from_fn_with_state(Arc::clone(&api), auth::require_key));
    keyed
        .merge(open().router)
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(middleware::from_fn_with_state(Arc::clone(&api), serve_or_forward))
        .layer(middleware::from_fn_with_state(Arc::clone(&api), count))
        .layer(DefaultBodyLimit::max(request::BODY_BYTES))
        .with_state(api)
}

/// Serves a request here, or forwards it to the process that serves it.
async fn serve_or_forward(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    if let Some(response) = cors::preflight(&request) {
        return response;
    }
    // A body that is too large is refused before it is on its way to another instance.
    if request.uri().path() != idempotency::IMPORT && request.body().size_hint().lower() > request::BODY_BYTES as u64 {
        return request::body_too_large().into_response();
    }
    let path = request.uri().path();
    if forward::is_intake(request.method(), path) {
        return api.forwarder.to_intake(request).await.unwrap_or_else(IntoResponse::into_response);
    }
    if !path.starts_with("/v1/") {
        return next.run(request).await;
    }
    match api.leadership.serving_instance() {
        ServingInstance::This => next.run(request).await,
        ServingInstance::Other(leader) => {
            api.forwarder.to_leader(request, &leader).await.unwrap_or_else(IntoResponse::into_response)
        }
        ServingInstance::Unknown => forward::no_leader().into_response(),
    }
}

/// Returns the routes that every kind has.
fn resource<T: Resource>() -> Routes {
    resource_with::<T>(post(resource::create::<T>).get(resource::list::<T>))
}

/// Returns the routes that every kind has, with other methods on the collection.
fn resource_with<T: Resource>(collection: MethodRouter<Arc<Api>>) -> Routes {
    let one = get(resource::read::<T>).patch(resource::update::<T>).delete(resource::delete::<T>);
    Routes::default().route(T::PATH, collection).route(&format!("{}/{{id}}", T::PATH), one)
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
    let mut response = refusal(next.run(request).await);
    let status = match response.status().as_u16() {
        0..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        _ => "5xx",
    };
    api.metrics.requests.get_or_create(&AnsweredLabels { status }).inc();
    // Answers are for the caller alone.
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Turns a refusal by the framework, which has words of its own, into a problem like any other.
fn refusal(response: Response) -> Response {
    let status = response.status();
    let kind = Kind::ALL.into_iter().find(|kind| kind.status() == status);
    let typed = response.headers().get(header::CONTENT_TYPE).is_some_and(|value| value == problem::MEDIA_TYPE);
    match kind {
        Some(Kind::Unavailable) if !typed => {
            Problem::unavailable("A process behind this one does not answer: try again in a moment").into_response()
        }
        Some(kind) if !typed => {
            let detail = "The request cannot be taken as it is: is its path percent-encoded UTF-8, and its query too?";
            Problem::new(kind, detail).into_response()
        }
        _ => response,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_route_is_described_and_every_description_has_a_route() {
        let routes: BTreeSet<String> = keyed().paths.into_iter().chain(open().paths).collect();
        let document = openapi::document();
        let described: BTreeSet<String> = document["paths"].as_object().unwrap().keys().cloned().collect();
        let undescribed: Vec<&String> = routes.difference(&described).collect();
        assert!(undescribed.is_empty(), "describe in openapi/paths.rs: {undescribed:?}");
        let unrouted: Vec<&String> =
            described.difference(&routes).filter(|path| !forward::is_intake(&Method::POST, path)).collect();
        assert!(unrouted.is_empty(), "described, but without a route: {unrouted:?}");
    }
}
