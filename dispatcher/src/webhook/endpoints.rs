//! The endpoints, followed from their topic and indexed for matching: by workspace, then
//! by event, then by a fact that they filter by. So the cost of an event grows with the endpoints that it matches,
//! not with those that exist.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bus::Change;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, USER_AGENT},
};
use parking_lot::{Mutex, RwLock};
use schemas::{
    Endpoint, EndpointId, EndpointStatus, Event, EventName, Filters, RetrySchedule, Timestamp, WebhookFormat,
    endpoint::HeaderText,
};
use service::vault::Vault;
use tracing::error;

use super::{
    delivery::InFlight,
    exchange::RequestTarget,
    formats,
    health::{HealthSign, HealthTracker, Learned},
    lane::{Lane, LanePool, LaneSettings},
    signers::Signers,
    subscribers::SubscriberIndex,
};

/// The reason for a skipped delivery whose endpoint does not exist, or no longer.
pub(super) const NO_SUCH_ENDPOINT: &str = "there is no such endpoint";

/// An endpoint, prepared for sending.
pub(super) struct Recipient {
    pub id: EndpointId,
    pub workspace: String,
    pub status: EndpointStatus,
    /// The time limit of one exchange.
    pub timeout: Duration,
    pub retry_schedule: RetrySchedule,
    /// The format of deliveries that have none yet.
    pub format: WebhookFormat,
    pub filters: Filters,
    events: Vec<EventName>,
    /// The constant part of its requests, or the reason why none can be made.
    pub route: Result<Route, String>,
    /// Its lane, the same through all versions of the endpoint.
    pub lane: Arc<Lane<InFlight>>,
    /// Whether the leader has marked the endpoint as failing.
    marked_failing: bool,
    /// The time at which a caller enabled the endpoint again.
    enabled_at: Option<Timestamp>,
    /// Its health as this process sees it, the same until it is enabled again.
    health: Arc<Mutex<HealthTracker>>,
}

impl Recipient {
    /// Returns what happens to the endpoint's deliveries now.
    pub(super) fn readiness(&self) -> Readiness {
        match self.status {
            EndpointStatus::Active if self.health.lock().is_gone() => {
                Readiness::Gone("the endpoint answered 410: it wants no more webhooks")
            }
            EndpointStatus::Active => Readiness::Ready,
            EndpointStatus::Paused => Readiness::Paused,
            EndpointStatus::Disabled => Readiness::Gone("the endpoint is disabled"),
        }
    }
}

impl Recipient {
    /// Learns how an exchange with the endpoint ended.
    pub(super) fn learn(&self, sign: HealthSign, at: Timestamp) -> Learned {
        self.health.lock().learn(self.id, sign, at, self.marked_failing)
    }
}

/// The treatment of an endpoint's deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    /// They are made.
    Ready,
    /// They are held until the endpoint is resumed.
    Paused,
    /// They are skipped, for this reason.
    Gone(&'static str),
}

/// The part that all requests to an endpoint share.
pub(super) struct Route {
    pub target: RequestTarget,
    pub headers: HeaderMap,
    pub signers: Signers,
}

/// All endpoints.
pub(super) struct Endpoints {
    vault: Arc<Vault>,
    /// The settings of every lane, which endpoints do not have of their own.
    lane_settings: LaneSettings,
    /// The memory and the pace that all lanes share.
    pub pool: Arc<LanePool>,
    index: RwLock<Index>,
}

#[derive(Default)]
struct Index {
    by_id: HashMap<EndpointId, Arc<Recipient>>,
    by_event: HashMap<String, HashMap<EventName, SubscriberIndex>>,
}

impl Endpoints {
    /// Makes an empty table. All lanes share `pool`.
    pub(super) fn new(vault: Arc<Vault>, lane_settings: LaneSettings, pool: LanePool) -> Self {
        Self { vault, lane_settings, pool: Arc::new(pool), index: RwLock::default() }
    }

    /// Applies a change of the endpoints' topic.
    pub(super) fn apply(&self, change: Change<'_>) {
        let (key, value) = match change {
            Change::Put { key, value } => (key, Some(value)),
            Change::Delete { key } => (key, None),
            Change::Coming { .. } | Change::CaughtUp => return,
        };
        let Some(id) = str::from_utf8(key).ok().and_then(|key| key.parse().ok()) else {
            error!(key = %String::from_utf8_lossy(key), "record on the endpoints topic has no endpoint id as its key: ignored");
            return;
        };
        match value.map(serde_json::from_slice::<Endpoint>) {
            None => self.index.write().remove(id),
            Some(Ok(endpoint)) => self.insert(&endpoint),
            // The last version is closer to what is meant than no endpoint.
            Some(Err(error)) => {
                error!(endpoint = %id, %error, "endpoint record unreadable: its last version stays in use");
            }
        }
    }

    fn insert(&self, endpoint: &Endpoint) {
        let route = self.route(endpoint);
        if let Err(reason) = &route {
            error!(endpoint = %endpoint.id, reason, "endpoint unusable: its deliveries fail and are retried until it is corrected");
        }
        let settings = self.lane_settings.of(endpoint, formats::added_bytes(endpoint.format));
        let mut index = self.index.write();
        let known = index.by_id.get(&endpoint.id);
        let lane = match known {
            Some(recipient) => {
                recipient.lane.reshape(settings);
                Arc::clone(&recipient.lane)
            }
            None => Arc::new(Lane::new(settings, Arc::clone(&self.pool), endpoint.workspace.as_str())),
        };
        let health = known
            .filter(|recipient| recipient.enabled_at == endpoint.enabled_at)
            .map_or_else(Arc::default, |recipient| Arc::clone(&recipient.health));
        index.insert(Arc::new(Recipient {
            id: endpoint.id,
            workspace: endpoint.workspace.as_str().to_owned(),
            status: endpoint.status,
            timeout: Duration::from_millis(u64::from(endpoint.timeout_ms.max(1))),
            retry_schedule: endpoint.retry_schedule,
            format: endpoint.format,
            filters: endpoint.filters.clone(),
            events: EventName::ALL
                .iter()
                .copied()
                .filter(|name| endpoint.events.iter().any(|subscription| subscription.covers(*name)))
                .collect(),
            route,
            lane,
            marked_failing: endpoint.failing_since.is_some(),
            enabled_at: endpoint.enabled_at,
            health,
        }));
    }

    fn route(&self, endpoint: &Endpoint) -> Result<Route, String> {
        let signers = Signers::of(endpoint, &self.vault, Timestamp::now())?;
        Ok(Route { target: RequestTarget::parse(&endpoint.url)?, headers: headers(endpoint, &self.vault)?, signers })
    }

    /// Returns the endpoint with this id.
    pub(super) fn get(&self, id: EndpointId) -> Option<Arc<Recipient>> {
        self.index.read().by_id.get(&id).cloned()
    }

    /// Returns the endpoints of `workspace` that ask for `event`, paused ones
    /// included.
    pub(super) fn matching(&self, workspace: &str, event: &Event<'_>) -> Vec<Arc<Recipient>> {
        let index = self.index.read();
        let subscribers = index.by_event.get(workspace).and_then(|events| events.get(&event.event));
        subscribers.map_or_else(Vec::new, |subscribers| subscribers.matching(event))
    }

    /// Calls `visit` with every endpoint.
    pub(super) fn for_each(&self, visit: impl FnMut(&Arc<Recipient>)) {
        self.index.read().by_id.values().for_each(visit);
    }

    /// Returns the number of endpoints.
    pub(super) fn len(&self) -> usize {
        self.index.read().by_id.len()
    }
}

fn headers(endpoint: &Endpoint, vault: &Vault) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, text) in &endpoint.headers {
        let value = match text {
            HeaderText::Clear(value) => HeaderValue::try_from(value),
            HeaderText::Sealed(sealed) => {
                let opened = vault.open(&Endpoint::header_context(endpoint.id, name), sealed);
                let opened = opened.map_err(|error| format!("its header `{name}` cannot be opened: {error}"))?;
                HeaderValue::from_bytes(&opened)
            }
        };
        let (Ok(name), Ok(mut value)) = (HeaderName::try_from(name), value) else {
            return Err(format!("its header `{name}` is not a valid HTTP header"));
        };
        // It may be a credential: nothing prints it, and HTTP/2 does not index it.
        value.set_sensitive(true);
        // These headers decide where a request begins and ends: a customer may not
        // set them.
        if [HOST, CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION].contains(&name) {
            return Err(format!("its header `{name}` is reserved"));
        }
        headers.insert(name, value);
    }
    // Our own headers come last and replace a customer's.
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("clickhook/", env!("CARGO_PKG_VERSION"))));
    Ok(headers)
}

impl Index {
    fn insert(&mut self, recipient: Arc<Recipient>) {
        self.remove(recipient.id);
        for event in &recipient.events {
            let events = self.by_event.entry(recipient.workspace.clone()).or_default();
            events.entry(*event).or_default().insert(&recipient);
        }
        self.by_id.insert(recipient.id, recipient);
    }

    fn remove(&mut self, id: EndpointId) {
        let Some(old) = self.by_id.remove(&id) else { return };
        let Some(events) = self.by_event.get_mut(&old.workspace) else { return };
        for event in &old.events {
            if let Some(subscribers) = events.get_mut(event) {
                subscribers.remove(&old);
            }
        }
        events.retain(|_, subscribers| !subscribers.is_empty());
        if events.is_empty() {
            self.by_event.remove(&old.workspace);
        }
    }
}

#[cfg(test)]
mod tests {
    use schemas::{WorkspaceId, sample};

    use super::{super::retry::RetryTiming, *};

    const AT: Timestamp = Timestamp::from_millis(1_770_301_425_120);

    const LANE: LaneSettings = LaneSettings {
        max_in_flight: 1,
        timing: RetryTiming { speedup: 1 },
        min_interval: Duration::ZERO,
        batch: None,
        format_bytes: 0,
    };

    fn endpoints() -> Endpoints {
        Endpoints::new(vault(), LANE, LanePool::new(1))
    }

    fn vault() -> Arc<Vault> {
        Arc::new(Vault::from_hex(&"ab".repeat(32)).unwrap())
    }

    fn endpoint(id: u128, workspace: &str, events: &str, filters: &str) -> Endpoint {
        let id = EndpointId::from_bits(id);
        Endpoint {
            id,
            workspace: WorkspaceId::new(workspace),
            url: "https://acme.com/hook".to_owned(),
            events: serde_json::from_str(events).unwrap(),
            filters: serde_json::from_str(filters).unwrap(),
            timeout_ms: 5000,
            retry_schedule: RetrySchedule::default(),
            batch: None,
            format: WebhookFormat::default(),
            rate_limit: None,
            max_in_flight: None,
            headers: [
                ("x-team".to_owned(), HeaderText::Clear("growth".to_owned())),
                ("user-agent".to_owned(), HeaderText::Clear("mine".to_owned())),
                (
                    "authorization".to_owned(),
                    HeaderText::Sealed(vault().seal(&Endpoint::header_context(id, "authorization"), b"Bearer a")),
                ),
            ]
            .into(),
            status: EndpointStatus::Active,
            status_reason: None,
            failing_since: None,
            enabled_at: None,
            subscribed_at: None,
            secret: vault().seal(&id.to_string(), service::secret::mint().expose().as_bytes()),
            retiring_secrets: Vec::new(),
            created_at: AT,
            updated_at: AT,
            revision: 1,
        }
    }

    fn put(endpoints: &Endpoints, endpoint: &Endpoint) {
        let key = endpoint.id.to_string();
        let value = serde_json::to_vec(endpoint).unwrap();
        endpoints.apply(Change::Put { key: key.as_bytes(), value: &value });
    }

    fn matched(endpoints: &Endpoints, workspace: &str, name: EventName) -> Vec<u128> {
        let mut ids: Vec<u128> = endpoints
            .matching(workspace, &sample::event(name, AT))
            .iter()
            .map(|recipient| recipient.id.bits())
            .collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn an_event_finds_those_who_ask_for_it() {
        let endpoints = endpoints();
        put(&endpoints, &endpoint(1, "default", r#"["link.clicked"]"#, "{}"));
        put(&endpoints, &endpoint(2, "default", r#"["link.*"]"#, r#"{"country":["US"]}"#));
        put(&endpoints, &endpoint(3, "default", r#"["*","link.clicked"]"#, r#"{"country":["DE"]}"#));
        put(&endpoints, &endpoint(4, "other", r#"["*"]"#, "{}"));
        assert_eq!(matched(&endpoints, "default", EventName::LinkClicked), [1, 2]);
        assert_eq!(matched(&endpoints, "default", EventName::QrScanned), [] as [u128; 0]);
        assert_eq!(matched(&endpoints, "other", EventName::QrScanned), [4]);
        assert_eq!(matched(&endpoints, "nobody", EventName::LinkClicked), [] as [u128; 0]);
    }

    #[test]
    fn an_endpoint_is_found_by_any_of_its_values_and_once() {
        let endpoints = endpoints();
        let event = sample::event(EventName::LinkClicked, AT);
        let link = event.link.as_ref().unwrap();
        let (id, tags) = (link.id, serde_json::to_string(&link.tags).unwrap());
        assert!(link.tags.len() > 1, "{tags}");
        put(&endpoints, &endpoint(1, "default", r#"["*"]"#, &format!(r#"{{"tags":{tags}}}"#)));
        put(
            &endpoints,
            &endpoint(2, "default", r#"["*"]"#, &format!(r#"{{"link_id":["{id}","{id}"],"country":"US"}}"#)),
        );
        put(&endpoints, &endpoint(3, "default", r#"["*"]"#, &format!(r#"{{"link_id":"{id}","country":"DE"}}"#)));
        put(&endpoints, &endpoint(4, "default", r#"["*"]"#, r#"{"bot":[true,false]}"#));
        put(&endpoints, &endpoint(5, "default", r#"["*"]"#, r#"{"campaign":["another"]}"#));
        assert_eq!(matched(&endpoints, "default", EventName::LinkClicked), [1, 2, 4]);
        for id in 1..=5 {
            let key = EndpointId::from_bits(id).to_string();
            endpoints.apply(Change::Delete { key: key.as_bytes() });
        }
        assert!(endpoints.index.read().by_event.is_empty());
    }

    #[test]
    fn a_change_replaces_and_a_tombstone_removes() {
        let endpoints = endpoints();
        put(&endpoints, &endpoint(1, "default", r#"["*"]"#, "{}"));
        let lane = Arc::clone(&endpoints.get(EndpointId::from_bits(1)).unwrap().lane);
        put(&endpoints, &endpoint(1, "default", r#"["link.created"]"#, "{}"));
        assert!(Arc::ptr_eq(&lane, &endpoints.get(EndpointId::from_bits(1)).unwrap().lane));
        assert_eq!(matched(&endpoints, "default", EventName::LinkClicked), [] as [u128; 0]);
        assert_eq!(matched(&endpoints, "default", EventName::LinkCreated), [1]);
        let key = EndpointId::from_bits(1).to_string();
        endpoints.apply(Change::Put { key: key.as_bytes(), value: b"not JSON" });
        assert_eq!(endpoints.len(), 1);
        endpoints.apply(Change::Delete { key: key.as_bytes() });
        assert_eq!(endpoints.len(), 0);
        assert!(endpoints.index.read().by_event.is_empty());
    }

    #[test]
    fn an_endpoint_that_is_gone_gets_nothing_until_it_is_enabled() {
        let endpoints = endpoints();
        let mut version = endpoint(1, "default", r#"["*"]"#, "{}");
        put(&endpoints, &version);
        let recipient = || endpoints.get(EndpointId::from_bits(1)).unwrap();
        recipient().learn(HealthSign::Gone, AT);
        version.revision = 2;
        put(&endpoints, &version);
        assert!(matches!(recipient().readiness(), Readiness::Gone(reason) if reason.contains("410")));
        version.enabled_at = Some(AT);
        put(&endpoints, &version);
        assert_eq!(recipient().readiness(), Readiness::Ready);
    }

    #[test]
    fn a_request_carries_the_customers_headers_and_ours_win() {
        let endpoints = endpoints();
        put(&endpoints, &endpoint(1, "default", r#"["*"]"#, "{}"));
        let recipient = endpoints.get(EndpointId::from_bits(1)).unwrap();
        let headers = &recipient.route.as_ref().unwrap().headers;
        assert_eq!(headers["x-team"], "growth");
        assert_eq!(headers["authorization"], "Bearer a");
        assert!(headers[USER_AGENT].to_str().unwrap().starts_with("clickhook/"));
    }

    #[test]
    fn an_endpoint_that_cannot_be_sent_to_says_why() {
        let endpoints = endpoints();
        let mut moved = endpoint(1, "default", r#"["*"]"#, "{}");
        moved.secret = endpoint(2, "default", r#"["*"]"#, "{}").secret;
        put(&endpoints, &moved);
        let recipient = endpoints.get(EndpointId::from_bits(1)).unwrap();
        assert!(recipient.route.as_ref().is_err_and(|reason| reason.contains("secret")));
    }
}
