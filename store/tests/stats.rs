//! The statistics against a real ClickHouse: known clicks, counted by ClickHouse and by hand.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod documentation;

use std::collections::{BTreeMap, HashSet};

use clickhouse::Client;
use schemas::{LinkId, Timestamp, WorkspaceId, watch::BurstCause};
use store::{Dimension, LinkClicks, StatsPeriod, StatsSubject, Store, StoreConfig};

/// The time at which the tests ask: 2026-02-10T12:07:00Z.
const NOW: i64 = 1_770_725_220_000;
const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// A click of one of the tests' links.
#[derive(Clone, Copy)]
struct CountedClick {
    workspace: &'static str,
    link: usize,
    at: i64,
    kind: &'static str,
    bot: bool,
    session: u8,
    source: &'static str,
}

/// The campaign, destination, host and tag of a link.
const LINKS: [(&str, &str, &str, &str); 3] = [
    ("winter", "https://acme.com/p/SKU-1?color=red", "go.acme.co", "social"),
    ("winter", "https://acme.com/p/SKU-10", "go.acme.co", "mail"),
    ("", "https://acme.com/shop?item=sku-1", "b.example", "social"),
];

fn link(nth: usize) -> LinkId {
    LinkId::from_bits(nth as u128 + 1)
}

/// Clicks of five weeks, closest together in the last hours, and the same in another workspace.
fn clicks() -> Vec<CountedClick> {
    let mut clicks = Vec::new();
    for nth in 0..400_i64 {
        let at = NOW - nth * nth * 19 * 1000 - 1;
        let click = CountedClick {
            workspace: "default",
            link: (nth % 3) as usize,
            at,
            kind: if nth % 7 == 0 { "scan" } else { "click" },
            bot: nth % 11 == 0,
            session: (nth % 13) as u8,
            source: ["instagram", "newsletter", "direct"][(nth * nth % 3) as usize],
        };
        clicks.push(click);
        if nth % 4 == 0 {
            clicks.push(CountedClick { workspace: "other", ..click });
        }
    }
    clicks
}

/// Moves clicks, so that the newest is of this moment.
fn shifted_to_now(clicks: Vec<CountedClick>) -> Vec<CountedClick> {
    let shift = Timestamp::now().as_millis() - NOW;
    clicks.into_iter().map(|click| CountedClick { at: click.at + shift, ..click }).collect()
}

async fn filled(clicks: &[CountedClick]) -> Store {
    let config = StoreConfig {
        url: testbed::clickhouse(),
        database: testbed::unique("t"),
        clicks_days: 0,
        deliveries_days: 0,
        ..StoreConfig::default()
    };
    let store = Store::new(config).unwrap();
    store.migrate().await.unwrap();
    let client = client(&store);
    let rows: Vec<String> = clicks
        .iter()
        .enumerate()
        .map(|(nth, click)| {
            let (campaign, destination, host, tag) = LINKS[click.link];
            format!(
                "('clk_{nth}', '{}', fromUnixTimestamp64Milli(toInt64({})), '{}', '{}', 'https://{host}/s{}', '{destination}', \
                 '{campaign}', ['{tag}'], {}, '{}', 'ses_{}', '{}', {nth})",
                click.kind,
                click.at,
                click.workspace,
                link(click.link),
                click.link,
                click.bot,
                if click.bot { "crawler:Googlebot" } else { "" },
                // A session is one of a UTC day.
                click.at / DAY * 100 + i64::from(click.session),
                click.source,
            )
        })
        .collect();
    // Two parts, of which one has roll-ups and the other has not.
    let (merged, fresh) = rows.split_at(rows.len() / 2);
    for rows in [merged, fresh] {
        let sql = format!(
            "INSERT INTO clicks (id, kind, timestamp, workspace, link_id, short_url, destination, campaign, tags, bot, \
             bot_reason, session_id, source, kafka_offset) SETTINGS async_insert = 0 VALUES {}",
            rows.join(", ")
        );
        client.query_raw(&sql).execute().await.unwrap();
        if rows == merged {
            client.query_raw("OPTIMIZE TABLE clicks FINAL").execute().await.unwrap();
        }
    }
    store
}

fn client(store: &Store) -> Client {
    Client::default().with_url(&store.config().url).with_database(&store.config().database)
}

fn belongs(click: &CountedClick, subject: &StatsSubject) -> bool {
    let (campaign, destination, host, tag) = LINKS[click.link];
    match subject {
        StatsSubject::Link(id) => *id == link(click.link),
        StatsSubject::Campaign(name) => name == campaign,
        // The test's numbers are at the end of the destination, or before its query.
        StatsSubject::Product(sku) => {
            let words: Vec<String> = destination.split(['/', '?', '=']).map(str::to_lowercase).collect();
            words.contains(&sku.to_lowercase())
        }
        StatsSubject::Tag(name) => name == tag,
        StatsSubject::Domain(name) => name == host,
        StatsSubject::Workspace => true,
    }
}

fn within(click: &CountedClick, since: Option<Timestamp>, until: Option<Timestamp>) -> bool {
    let at = Timestamp::from_millis(click.at);
    since.is_none_or(|since| since <= at) && until.is_none_or(|until| at < until)
}

fn count(clicks: &[&CountedClick], kind: &str) -> LinkClicks {
    let of_kind: Vec<_> = clicks.iter().filter(|click| click.kind == kind).collect();
    let human: Vec<_> = of_kind.iter().filter(|click| !click.bot).collect();
    let sessions: HashSet<_> = human.iter().map(|click| (click.at / DAY, click.session)).collect();
    LinkClicks { total: of_kind.len() as u64, human: human.len() as u64, unique: sessions.len() as u64 }
}

fn subjects() -> [StatsSubject; 7] {
    [
        StatsSubject::Link(link(0)),
        StatsSubject::Campaign("winter".to_owned()),
        StatsSubject::Product("SKU-1".to_owned()),
        StatsSubject::Tag("social".to_owned()),
        StatsSubject::Domain("go.acme.co".to_owned()),
        StatsSubject::Workspace,
        StatsSubject::Campaign("nothing".to_owned()),
    ]
}

#[tokio::test]
async fn every_subject_is_counted_in_every_period() {
    let clicks = clicks();
    let store = filled(&clicks).await;
    let asked_at = Timestamp::from_millis(NOW);
    let at = |ms: i64| Some(Timestamp::from_millis(NOW - ms));
    let periods = [
        (None, None),
        (at(HOUR), None),
        (at(DAY), None),
        (at(7 * DAY), None),
        (at(10 * DAY), at(3 * DAY + 17 * MINUTE)),
        (at(2 * MINUTE), at(MINUTE)),
        (None, at(2 * DAY)),
    ];
    for workspace in [WorkspaceId::default(), WorkspaceId::new("other"), WorkspaceId::new("third")] {
        for subject in subjects() {
            for (since, until) in periods {
                let period = StatsPeriod { since, until, asked_at };
                let counts = store.visit_counts(&workspace, &subject, period).await.unwrap();
                let covered = period.covered(&subject);
                let own = |click: &&CountedClick| click.workspace == workspace.as_str() && belongs(click, &subject);
                let of_period: Vec<&CountedClick> =
                    clicks.iter().filter(own).filter(|click| within(click, covered.since, covered.until)).collect();
                let expected = (count(&of_period, "click"), count(&of_period, "scan"));
                assert_eq!((counts.clicks, counts.scans), expected, "{workspace} {subject:?} {period:?}");
                let hour = StatsPeriod { since: at(HOUR), ..period }.covered(&subject);
                let last = clicks.iter().filter(own).filter(|click| within(click, hour.since, None) && !click.bot);
                let last = until.is_none().then_some(last.count() as u64);
                if let Some(per_hour) = counts.per_hour {
                    assert_eq!(per_hour.last, last, "{subject:?} {period:?}");
                }
            }
        }
    }
    let newest = clicks.iter().map(|click| click.at).max();
    let found = store.newest_click(&WorkspaceId::default()).await.unwrap();
    assert_eq!(found.map(Timestamp::as_millis), newest);
    assert_eq!(store.newest_click(&WorkspaceId::new("third")).await.unwrap(), None);
}

#[tokio::test]
async fn a_series_has_every_interval_and_a_top_list_the_most_visits_first() {
    let clicks = clicks();
    let store = filled(&clicks).await;
    let workspace = WorkspaceId::default();
    // Days of a time zone that is five and a half hours ahead, and UTC days.
    for offset in [11 * HOUR / 2, 0] {
        let first = NOW / DAY * DAY - offset - 20 * DAY;
        let edges: Vec<Timestamp> = (0..22).map(|day| Timestamp::from_millis(first + day * DAY)).collect();
        for subject in subjects() {
            let has_sessions = subject.has_sessions(&edges);
            assert_eq!(
                has_sessions,
                offset == 0
                    && !matches!(subject, StatsSubject::Product(_) | StatsSubject::Tag(_) | StatsSubject::Domain(_))
            );
            let series = store.visit_series(&workspace, &subject, &edges).await.unwrap();
            assert_eq!(series.len(), 21);
            for (point, ends) in series.iter().zip(edges.windows(2)) {
                let own = |click: &&CountedClick| click.workspace == "default" && belongs(click, &subject);
                let inside: Vec<&CountedClick> =
                    clicks.iter().filter(own).filter(|click| within(click, Some(ends[0]), Some(ends[1]))).collect();
                let unique =
                    |counted: LinkClicks| if has_sessions { counted } else { LinkClicks { unique: 0, ..counted } };
                assert_eq!(point.start, ends[0]);
                assert_eq!(point.clicks, unique(count(&inside, "click")), "{subject:?} {}", ends[0]);
                assert_eq!(point.scans, unique(count(&inside, "scan")), "{subject:?} {}", ends[0]);
            }
        }
    }
    let period = StatsPeriod {
        since: Some(Timestamp::from_millis(NOW - DAY)),
        ..StatsPeriod::ever(Timestamp::from_millis(NOW))
    };
    for (subject, period) in subjects()
        .into_iter()
        .flat_map(|subject| [(subject.clone(), period), (subject, StatsPeriod::ever(Timestamp::from_millis(NOW)))])
    {
        let mut expected: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        let own = |click: &&CountedClick| click.workspace == "default" && belongs(click, &subject);
        for click in clicks.iter().filter(own).filter(|click| within(click, period.since, None)) {
            let visits = expected.entry(click.source).or_default();
            visits.0 += 1;
            visits.1 += u64::from(!click.bot);
        }
        let mut expected: Vec<_> = expected.into_iter().collect();
        expected.sort_by_key(|(source, (total, human))| (u64::MAX - human, u64::MAX - total, *source));
        expected.truncate(2);
        let top = store.top(&workspace, &subject, Dimension::Sources, period, 2).await.unwrap();
        let found: Vec<_> = top.iter().map(|entry| (entry.value.as_str(), (entry.total, entry.human))).collect();
        assert_eq!(found, expected, "{subject:?} {period:?}");
    }
    // Every dimension can be asked for, of rows and of totals.
    for dimension in Dimension::ALL {
        for period in [period, StatsPeriod::ever(Timestamp::from_millis(NOW))] {
            store.top(&workspace, &StatsSubject::Workspace, *dimension, period, 10).await.unwrap();
        }
    }
    let links = store.top(
        &workspace,
        &StatsSubject::Workspace,
        Dimension::Links,
        StatsPeriod::ever(Timestamp::from_millis(NOW)),
        10,
    );
    assert_eq!(links.await.unwrap().len(), 3);
    let bots = store.top(&workspace, &StatsSubject::Workspace, Dimension::BotReasons, period, 10).await.unwrap();
    assert_eq!((bots.len(), bots[0].value.as_str(), bots[0].human), (1, "crawler", 0));
}

#[tokio::test]
async fn conversions_are_counted_by_subject_and_period() {
    let store = filled(&[]).await;
    let rows: Vec<String> = [
        ("default", 0, "approved", NOW - HOUR, "shoes"),
        ("default", 1, "approved", NOW - 2 * DAY, "sku-1"),
        ("default", 1, "refunded", NOW - 3 * DAY, ""),
        ("default", 2, "pending", NOW - MINUTE, ""),
        ("other", 0, "approved", NOW - HOUR, "shoes"),
    ]
    .iter()
    .enumerate()
    .map(|(nth, (workspace, of, status, at, product))| {
        let (campaign, destination, host, tag) = LINKS[*of];
        format!(
            "('evt_{nth}', 'cnv_{nth}', fromUnixTimestamp64Milli(toInt64({at})), '{workspace}', '{}', '{status}', '{product}', \
             100, 'EUR', 10, 'EUR', true, 'https://{host}/s', '{destination}', '{campaign}', ['{tag}'], 'instagram')",
            link(*of)
        )
    })
    .collect();
    let sql = format!(
        "INSERT INTO conversions (id, conversion_id, timestamp, workspace, link_id, status, product, value, currency, commission, \
         commission_currency, attributed, short_url, destination, campaign, tags, source) SETTINGS async_insert = 0 VALUES {}",
        rows.join(", ")
    );
    client(&store).query_raw(&sql).execute().await.unwrap();
    let workspace = WorkspaceId::default();
    let asked_at = Timestamp::from_millis(NOW);
    let ever = StatsPeriod::ever(asked_at);
    let day = StatsPeriod { since: Some(Timestamp::from_millis(NOW - DAY)), ..ever };
    let [first, campaign, product, tag, domain, whole, nothing] = subjects();
    for (subject, period, total, taken_back) in [
        (&first, ever, 1, 0),
        (&campaign, ever, 2, 1),
        (&campaign, day, 1, 0),
        // Of the destinations, and of the product that the shop reported.
        (&product, ever, 3, 0),
        (&tag, ever, 2, 0),
        (&domain, ever, 2, 1),
        (&whole, ever, 3, 1),
        (&whole, day, 2, 0),
        (&nothing, ever, 0, 0),
    ] {
        let (counts, revenue) = store.conversion_counts(&workspace, subject, period).await.unwrap();
        assert_eq!((counts.total, counts.taken_back), (total, taken_back), "{subject:?} {period:?}");
        let sums: Vec<(i64, i64)> = revenue.iter().map(|sums| (sums.value, sums.commission)).collect();
        let count = i64::try_from(total).unwrap();
        assert_eq!(sums, if total > 0 { vec![(100 * count, 10 * count)] } else { vec![] }, "{subject:?}");
    }
    let edges =
        [NOW - 2 * DAY - HOUR, NOW - DAY, NOW].map(|at| Timestamp::from_millis(at / (15 * MINUTE) * 15 * MINUTE));
    let series = store.visit_series(&workspace, &whole, &edges).await.unwrap();
    assert_eq!(series.iter().map(|point| point.conversions).collect::<Vec<_>>(), [1, 1]);
}

/// Returns the clicks by people that satisfy a condition, by the link's number.
fn people(clicks: &[CountedClick], is: impl Fn(&CountedClick) -> bool) -> BTreeMap<(&'static str, String), u64> {
    let mut counted = BTreeMap::new();
    for click in clicks.iter().filter(|click| !click.bot && is(click)) {
        *counted.entry((click.workspace, link(click.link).to_string())).or_default() += 1;
    }
    counted
}

#[tokio::test]
async fn the_watch_sees_what_has_changed() {
    let clicks = clicks();
    let store = filled(&clicks).await;
    assert_eq!(store.click_rows().await.unwrap(), clicks.len() as u64);
    let bucket = 5 * MINUTE;
    let since = Timestamp::from_millis(NOW / bucket * bucket - 11 * bucket);
    let is_recent = |click: &CountedClick| click.at >= since.as_millis();
    let by_time = store.clicks_by_time(since).await.unwrap();
    let recent: u64 = by_time.iter().map(|(_, clicks)| clicks).sum();
    assert_eq!(recent, clicks.iter().filter(|click| is_recent(click)).count() as u64);
    assert!(by_time.iter().all(|(start, _)| start % 300 == 0 && *start >= since.as_secs()), "{by_time:?}");

    let counted = |links: Vec<store::LinkPeople>| -> Vec<(String, String, u64)> {
        let links = links.into_iter().map(|link| (link.workspace, link.link_id, link.people));
        let mut links: Vec<_> = links.collect();
        links.sort();
        links
    };
    let expected = |people: &BTreeMap<(&'static str, String), u64>, at_least: u64| -> Vec<(String, String, u64)> {
        let people = people.iter().filter(|(_, people)| **people >= at_least);
        people.map(|((workspace, link), people)| ((*workspace).to_owned(), link.clone(), *people)).collect()
    };
    let (ever, lately) = (people(&clicks, |_| true), people(&clicks, is_recent));
    let mut slices = Vec::new();
    for slice in 0..store::LINK_SLICES {
        slices.extend(store.links_above(slice, 100).await.unwrap());
    }
    assert_eq!(counted(slices), expected(&ever, 100));
    assert_eq!(counted(store.people_since(since, 2).await.unwrap()), expected(&lately, 2));

    // A link is over a threshold if its recent clicks have taken it there.
    let (key, total) = ever.iter().next().map(|(key, total)| (key.clone(), *total)).unwrap();
    let taken = lately[&key];
    let before = total - taken;
    for (threshold, is_over) in [(total + 1, false), (total, true), (before + 1, true), (before, false)] {
        let over = store.links_over(since, &[threshold]).await.unwrap();
        let found = over.iter().find(|link| (link.workspace.as_str(), &link.link_id) == (key.0, &key.1));
        assert_eq!(
            found.map(|link| link.people),
            is_over.then_some(total),
            "{threshold} of {total}, {taken} of them new"
        );
    }

    for (since, is) in [(None, None), (Some(since), Some(since.as_millis()))] {
        let campaigns = store.campaign_people(since).await.unwrap();
        let ours = campaigns.iter().find(|counted| counted.workspace == "default").unwrap();
        let winter = |click: &&CountedClick| click.workspace == "default" && click.link < 2 && !click.bot;
        assert!(is.is_none_or(|is| clicks.iter().filter(winter).any(|click| click.at >= is)));
        assert_eq!((ours.campaign.as_str(), ours.people), ("winter", clicks.iter().filter(winter).count() as u64));
    }
    let nothing = Timestamp::from_millis(NOW + HOUR);
    assert_eq!(store.campaign_people(Some(nothing)).await.unwrap(), []);
    assert_eq!(store.links_over(nothing, &[1]).await.unwrap(), []);

    let histories = store.link_histories(&[(key.0, &key.1)]).await.unwrap();
    let first = clicks.iter().filter(|click| click.workspace == key.0 && link(click.link).to_string() == key.1);
    let first = first.map(|click| click.at).min();
    assert_eq!((histories[0].people, Some(histories[0].first_ms)), (total, first));

    let busy = store.busy_links(since, 1).await.unwrap();
    assert!(!busy.is_empty() && busy.windows(2).all(|pair| pair[0].clicks >= pair[1].clicks));
    for busy in &busy {
        let is = |click: &&CountedClick| {
            click.workspace == busy.workspace
                && link(click.link).to_string() == busy.link_id
                && click.at / bucket * bucket == busy.bucket * 1000
        };
        assert_eq!(busy.clicks, clicks.iter().filter(is).count() as u64);
    }

    // To the millisecond, of a link and of a campaign.
    let workspace = WorkspaceId::default();
    for subject in subjects().iter().filter(|of| matches!(of, StatsSubject::Link(_) | StatsSubject::Campaign(_))) {
        let own = |click: &&CountedClick| click.workspace == "default" && belongs(click, subject) && !click.bot;
        for at in [NOW + 1, NOW - HOUR, NOW - 3 * DAY - 17 * MINUTE - 1, NOW - 100 * DAY]
            .into_iter()
            .chain(clicks.iter().filter(own).take(3).flat_map(|click| [click.at, click.at + 1]))
        {
            let before = store.people_before(&workspace, subject, Timestamp::from_millis(at)).await.unwrap();
            let expected = clicks.iter().filter(own).filter(|click| click.at < at).count() as u64;
            assert_eq!(before, expected, "{subject:?} {at}");
        }
    }
}

#[tokio::test]
async fn bursts_are_told_by_their_cause() {
    let store = filled(&[]).await;
    let (first, second) = (link(0).to_string(), link(1).to_string());
    // Of the first link 30 clicks in five minutes: 20 of one address, 25 of one network, 10 with one agent.
    let sql = format!(
        "INSERT INTO clicks (id, timestamp, workspace, link_id, ip_key, organisation, user_agent, kafka_offset) \
         SELECT toString(number), fromUnixTimestamp64Milli(toInt64({NOW} + number)), 'default', \
         if(number < 30, '{first}', '{second}'), if(number < 20, 'k', toString(number)), \
         if(number < 25, 'Example Net', ''), if(number < 10, 'agent', toString(number)), number FROM numbers(40)"
    );
    client(&store).query_raw(&sql).execute().await.unwrap();
    let since = Timestamp::from_millis(NOW / (5 * MINUTE) * 5 * MINUTE);
    let links = [("default", first.as_str()), ("default", second.as_str())];
    for (cause, at_least, expected) in [
        (BurstCause::Address, 20, Some((20, ""))),
        (BurstCause::Address, 21, None),
        (BurstCause::Network, 5, Some((25, "Example Net"))),
        (BurstCause::Agent, 2, Some((10, "agent"))),
    ] {
        let bursts = store.bursts(cause, &links, since, at_least).await.unwrap();
        let found: Vec<_> = bursts.iter().map(|burst| (burst.clicks, burst.who.as_str())).collect();
        assert_eq!(found, expected.into_iter().collect::<Vec<_>>(), "{cause:?}");
        assert!(bursts.iter().all(|burst| burst.link_id == first && burst.bucket == since.as_secs()));
    }
}
