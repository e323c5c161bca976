//! The watch: milestones, alerts, ends and deadlines become events, each once, whichever instance leads.

use bus::Bus;
use clickhouse::Client;
use control::{Config, WatchConfig};
use schemas::{Timestamp, Topic};
use serde_json::{Value, json};
use store::Store;
use testbed::{PATIENCE, eventually};
use tokio::time::timeout;

use crate::support::{Api, Instance, config, configured, store};

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// An installation whose clicks are inserted by the test.
struct Watched {
    bus: Bus,
    store: Store,
    client: Client,
    clicks: u64,
}

impl Watched {
    async fn new() -> Self {
        let database = testbed::unique("t");
        let store = store(&database);
        store.migrate().await.unwrap();
        let client = Client::default().with_url(testbed::clickhouse()).with_database(database);
        Self { bus: testbed::bus().await, store, client, clicks: 0 }
    }

    async fn start(&self) -> Instance {
        let watch = WatchConfig {
            link_milestones: vec![3, 5],
            viral_factor: 5,
            viral_min_clicks: 20,
            burst_address_clicks: 15,
            ..WatchConfig::default()
        };
        let instance = configured(&self.bus, self.store.clone(), Config { watch, ..config() }).await;
        timeout(PATIENCE, instance.health.ready()).await.unwrap();
        instance
    }

    /// Inserts so many clicks of a link by people, or by programs, which happened so long ago.
    async fn click(&mut self, link: &Value, count: u64, ago_ms: i64, bot: bool, address: &str) {
        let text = |field: &str| link[field].as_str().unwrap_or_default();
        let first = self.clicks;
        self.clicks += count;
        let address = if address.is_empty() { "toString(number)".to_owned() } else { format!("'{address}'") };
        let sql = format!(
            "INSERT INTO clicks (id, timestamp, workspace, link_id, campaign, bot, source, ip_key, kafka_offset) \
             SELECT concat('clk_', toString(number)), fromUnixTimestamp64Milli(toInt64({})), '{}', '{}', '{}', {bot}, \
             'instagram', {address}, number FROM numbers({first}, {count})",
            Timestamp::now().as_millis() - ago_ms,
            text("workspace"),
            text("id"),
            text("campaign"),
        );
        self.client.query_raw(&sql).execute().await.unwrap();
    }

    /// Waits until the watch has told so many facts by an event since the instance started.
    async fn until_fired(&self, instance: &Instance, event: &str, count: u64) {
        let line = format!("clickhook_control_fired_total{{event=\"{event}\"}} {count}");
        let told = eventually(&line, async || instance.metrics.text().lines().any(|found| found == line).then_some(()));
        if timeout(PATIENCE / 2, told).await.is_err() {
            let text = instance.metrics.text();
            let of_the_watch = text.lines().filter(|line| line.contains("_fired_") || line.contains("_watch_"));
            panic!("no {line} in\n{}", of_the_watch.collect::<Vec<_>>().join("\n"));
        }
    }

    /// Waits until the watch has made three rounds more.
    async fn until_seen(&self, instance: &Instance) {
        let rounds = || -> f64 {
            let text = instance.metrics.text();
            let line = text.lines().find(|line| line.starts_with("clickhook_control_watch_round_seconds_count"));
            line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_default()
        };
        let before = rounds();
        eventually("three rounds", async || (rounds() >= before + 3.0).then_some(())).await;
    }

    /// Returns the committed events of a name.
    async fn events(&self, names: &[&str]) -> Vec<Value> {
        let records = testbed::read(&self.bus, Topic::Events, |_| true).await;
        let events = records.iter().map(|record| serde_json::from_str::<Value>(&record.value).unwrap());
        events
            .map(|envelope| envelope["event"].clone())
            .filter(|event| names.iter().any(|name| event["event"] == *name))
            .collect()
    }
}

async fn create(api: Api, path: &str, body: Value) -> Value {
    let made = api.post(path, body).await;
    assert_eq!(made.status, 201, "{made:?}");
    made.body
}

fn link(slug: &str) -> Value {
    json!({"destination": "https://acme.com/", "slug": slug, "campaign": "winter"})
}

#[tokio::test]
async fn milestones_and_goals_are_told_once_whoever_leads() {
    let mut watched = Watched::new().await;
    let instance = watched.start().await;
    let api = instance.api();
    let campaign = json!({"name": "winter", "milestones": [2, 4], "goal": {"clicks": 4}, "conversion_milestones": [1]});
    let campaign = create(api, "/v1/campaigns", campaign).await;
    let link = create(api, "/v1/links", link("sale")).await;
    // Two people and a program now, and a person whose click comes 40 days late.
    watched.click(&link, 2, 0, false, "").await;
    watched.click(&link, 1, 0, true, "").await;
    watched.until_fired(&instance, "campaign.milestone", 1).await;
    watched.until_seen(&instance).await;
    assert_eq!(watched.events(&["link.milestone"]).await, [] as [Value; 0]);
    watched.click(&link, 1, 40 * DAY, false, "").await;
    watched.until_fired(&instance, "link.milestone", 1).await;
    // A milestone that is behind when it is added is not told, and one that is ahead is.
    let path = format!("/v1/campaigns/{}", campaign["id"].as_str().unwrap());
    let patched = api.patch(&path, json!({"milestones": [1, 2, 4, 6]})).await;
    assert_eq!(patched.status, 200, "{patched:?}");
    watched.click(&link, 2, 1000, false, "").await;
    watched.until_fired(&instance, "link.milestone", 2).await;
    watched.until_fired(&instance, "campaign.completed", 1).await;
    watched.until_fired(&instance, "campaign.milestone", 2).await;
    let sql = format!(
        "INSERT INTO conversions (id, conversion_id, timestamp, workspace, link_id, campaign, status, attributed) \
         VALUES ('evt_1', 'cnv_1', now64(3), 'default', '{}', 'winter', 'approved', true)",
        link["id"].as_str().unwrap()
    );
    watched.client.query_raw(&sql).execute().await.unwrap();
    watched.until_fired(&instance, "campaign.milestone", 3).await;
    instance.stop().await;

    // Another leader tells only what is new; and the past where it is asked for.
    let instance = watched.start().await;
    let api = instance.api();
    watched.until_seen(&instance).await;
    watched.click(&link, 1, 0, false, "").await;
    watched.until_fired(&instance, "campaign.milestone", 1).await;
    let told = api.patch(&path, json!({"milestones": [1, 2, 3, 4, 6], "past_milestones": "tell"})).await;
    assert_eq!(told.status, 200, "{told:?}");
    watched.click(&link, 1, 0, false, "").await;
    watched.until_fired(&instance, "campaign.milestone", 2).await;
    watched.until_seen(&instance).await;

    let events = watched.events(&["link.milestone", "campaign.milestone", "campaign.completed"]).await;
    let told = |name: &str| -> Vec<(String, u64)> {
        let events = events.iter().filter(|event| event["event"] == name);
        let milestones = events.map(|event| event["milestone"].clone());
        let mut told: Vec<_> = milestones
            .map(|milestone| {
                (milestone["metric"].as_str().unwrap().to_owned(), milestone["threshold"].as_u64().unwrap())
            })
            .collect();
        told.sort();
        told
    };
    let clicks = |thresholds: &[u64]| -> Vec<(String, u64)> {
        thresholds.iter().map(|threshold| ("clicks".to_owned(), *threshold)).collect()
    };
    assert_eq!(told("link.milestone"), clicks(&[3, 5]));
    let mut of_campaign = clicks(&[2, 3, 4, 6]);
    of_campaign.push(("conversions".to_owned(), 1));
    assert_eq!(told("campaign.milestone"), of_campaign, "{events:#?}");
    let first = events.iter().find(|event| event["event"] == "link.milestone").unwrap();
    let milestone = json!({
        "metric": "clicks", "threshold": 3, "value": 3, "top_source": "instagram", "conversions": 0, "conversion_rate": 0,
    });
    assert_eq!((&first["milestone"], &first["link"]["slug"]), (&milestone, &json!("sale")), "{first}");
    let completed: Vec<&Value> = events.iter().filter(|event| event["event"] == "campaign.completed").collect();
    assert_eq!(completed.len(), 1, "{completed:?}");
    assert_eq!(completed[0]["campaign"]["name"], "winter");
    assert_eq!(completed[0]["completion"]["reason"], "goal");
    instance.stop().await;
}

#[tokio::test]
async fn alerts_deadlines_and_ends_are_told_once() {
    let mut watched = Watched::new().await;
    let instance = watched.start().await;
    let api = instance.api();
    let [viral, bursting, quiet] = ["viral", "bursting", "quiet"].map(link);
    let viral = create(api, "/v1/links", viral).await;
    let bursting = create(api, "/v1/links", bursting).await;
    let quiet = create(api, "/v1/links", quiet).await;
    watched.until_seen(&instance).await;
    let soon = Timestamp::now().plus(std::time::Duration::from_secs(2));
    let mut expiring = link("expiring");
    expiring["expires_at"] = json!(soon);
    let expiring = create(api, "/v1/links", expiring).await;
    create(api, "/v1/campaigns", json!({"name": "winter", "ends_at": soon, "milestones": []})).await;
    // A hundred hours with a click an hour at most, and now 30 in an hour.
    watched.click(&viral, 1, 100 * HOUR, false, "").await;
    watched.click(&viral, 30, 0, false, "").await;
    watched.click(&bursting, 15, 0, true, "one address").await;
    // Many clicks of many addresses and no history.
    watched.click(&quiet, 60, 0, false, "").await;
    for event in ["link.viral", "link.suspicious", "link.expired", "campaign.completed"] {
        watched.until_fired(&instance, event, 1).await;
    }
    watched.click(&viral, 30, 0, false, "").await;
    watched.click(&bursting, 15, 0, true, "one address").await;
    instance.stop().await;
    let instance = watched.start().await;
    watched.until_seen(&instance).await;
    let names = ["link.viral", "link.suspicious", "link.expired", "campaign.completed"];
    let events = watched.events(&names).await;
    let told: Vec<&str> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert!(names.iter().all(|name| told.iter().filter(|told| *told == name).count() == 1), "{events:#?}");
    let of = |name: &str| events.iter().find(|event| event["event"] == name).unwrap();
    assert_eq!((&of("link.viral")["link"]["id"], &of("link.viral")["viral"]["clicks"]), (&viral["id"], &json!(30)));
    let burst = &of("link.suspicious")["suspicious"];
    assert_eq!((&burst["cause"], &burst["clicks"], burst.get("user_agent")), (&json!("address"), &json!(15), None));
    assert_eq!(of("link.suspicious")["link"]["id"], bursting["id"]);
    let expired = of("link.expired");
    assert_eq!((&expired["link"]["id"], &expired["timestamp"]), (&expiring["id"], &json!(soon)));
    let completed = of("campaign.completed");
    assert_eq!((&completed["completion"]["reason"], &completed["timestamp"]), (&json!("ended"), &json!(soon)));
    assert!(!watched.events(&["link.deleted"]).await.iter().any(|event| event["link"]["id"] == quiet["id"]));
    instance.stop().await;
}

#[tokio::test]
async fn the_watch_waits_for_clickhouse_and_says_so() {
    let bus = testbed::bus().await;
    let instance = configured(&bus, store("nothing"), config()).await;
    timeout(PATIENCE, instance.health.ready()).await.unwrap();
    eventually("the watch says that it waits", async || {
        instance.metrics.text().lines().any(|line| line == "clickhook_control_watch_waiting 1").then_some(())
    })
    .await;
    let api = instance.api();
    let soon = Timestamp::now().plus(std::time::Duration::from_secs(1));
    let expiring = json!({"destination": "https://acme.com/", "slug": "s", "expires_at": soon});
    create(api, "/v1/links", expiring).await;
    let line = "clickhook_control_fired_total{event=\"link.expired\"} 1";
    eventually(line, async || instance.metrics.text().lines().any(|found| found == line).then_some(())).await;
    instance.stop().await;
}
