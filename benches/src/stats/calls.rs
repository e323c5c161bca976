//! The calls of `bench stats`: the questions that the API and the watch ask, of a link and a
//! campaign with many clicks, and of others.

use std::time::Duration;

use schemas::{Timestamp, WorkspaceId, campaign::MILESTONES, watch::BurstCause};
use serde::Serialize;
use store::{Dimension, StatsPeriod, StatsSubject, Store, StoreError};

use super::fill::{campaign, link};

/// The link with the most clicks, one with some, and one with few.
const HOT: u64 = 0;
const MID: u64 = 100;
const COLD: u64 = 5_000;
const HOUR: Duration = Duration::from_secs(3600);

/// The kind of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum CallGroup {
    Counts,
    Series,
    Top,
    Conversions,
    Watch,
}

/// The question of a call.
#[derive(Clone, Debug)]
enum CallQuestion {
    Counts(StatsSubject, Option<Duration>),
    Days(StatsSubject, u32),
    Top(StatsSubject, Dimension, Option<Duration>),
    Conversions(StatsSubject),
    NewestClick,
    LinksOver,
    LinksSlice,
    Campaigns,
    LastHour,
    Bursts,
    Rows,
}

/// A call that is measured.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) name: &'static str,
    pub(super) group: CallGroup,
    question: CallQuestion,
}

/// Returns all calls.
pub(super) fn all() -> Vec<Call> {
    let of_link = |number| StatsSubject::Link(link(number));
    let of_campaign = |number| StatsSubject::Campaign(campaign(number));
    let product = || StatsSubject::Product("SKU-0".to_owned());
    let month = Some(HOUR * 24 * 30);
    let call = |name, group, question| Call { name, group, question };
    let counts = |name, subject, window| call(name, CallGroup::Counts, CallQuestion::Counts(subject, window));
    let days = |name, subject, days| call(name, CallGroup::Series, CallQuestion::Days(subject, days));
    let top = |name, subject, dimension| call(name, CallGroup::Top, CallQuestion::Top(subject, dimension, month));
    let watch = |name, question| call(name, CallGroup::Watch, question);
    vec![
        counts("link, ever: hot", of_link(HOT), None),
        counts("link, ever: mid", of_link(MID), None),
        counts("link, ever: cold", of_link(COLD), None),
        counts("link, last hour: hot", of_link(HOT), Some(HOUR)),
        counts("link, last hour: mid", of_link(MID), Some(HOUR)),
        counts("link, 30 days: hot", of_link(HOT), month),
        counts("campaign, ever: hot", of_campaign(HOT), None),
        counts("campaign, ever: mid", of_campaign(MID), None),
        counts("product, 24 hours", product(), Some(HOUR * 24)),
        counts("workspace, 30 days", StatsSubject::Workspace, month),
        days("link, 30 days by day: hot", of_link(HOT), 30),
        days("link, 30 days by day: mid", of_link(MID), 30),
        days("campaign, 30 days by day: hot", of_campaign(HOT), 30),
        days("workspace, 30 days by day", StatsSubject::Workspace, 30),
        top("sources of a link: hot", of_link(HOT), Dimension::Sources),
        top("sources of a link: mid", of_link(MID), Dimension::Sources),
        top("cities of a link: hot", of_link(HOT), Dimension::Cities),
        top("referrers of a link: hot", of_link(HOT), Dimension::Referrers),
        top("sources of a campaign: hot", of_campaign(HOT), Dimension::Sources),
        top("sources of a campaign: mid", of_campaign(MID), Dimension::Sources),
        call("conversions of a link: hot", CallGroup::Conversions, CallQuestion::Conversions(of_link(HOT))),
        call("conversions of a campaign: hot", CallGroup::Conversions, CallQuestion::Conversions(of_campaign(HOT))),
        call("newest click", CallGroup::Counts, CallQuestion::NewestClick),
        watch("watch: has anything changed", CallQuestion::Rows),
        watch("watch: links over a milestone", CallQuestion::LinksOver),
        watch("watch: campaigns with new clicks", CallQuestion::Campaigns),
        watch("watch: an eighth of all links", CallQuestion::LinksSlice),
        watch("watch: links of the last hour", CallQuestion::LastHour),
        watch("watch: bursts", CallQuestion::Bursts),
    ]
}

impl Call {
    /// Makes the call once.
    pub(super) async fn make(&self, store: &Store) -> Result<(), StoreError> {
        let workspace = WorkspaceId::default();
        let now = Timestamp::now();
        let before = |time: Duration| Timestamp::from_millis(now.as_millis() - time.as_millis() as i64);
        let period = |window: Option<Duration>| StatsPeriod { since: window.map(before), until: None, asked_at: now };
        let five_minutes = |time: Duration| Timestamp::from_millis(before(time).as_millis() / 300_000 * 300_000);
        match &self.question {
            CallQuestion::Counts(subject, window) => {
                store.visit_counts(&workspace, subject, period(*window)).await?;
            }
            CallQuestion::Days(subject, days) => {
                let today = now.utc_day();
                let edges = (0..=i64::from(*days)).rev();
                let edges: Vec<_> = edges.map(|day| Timestamp::from_millis((today + 1 - day) * 86_400_000)).collect();
                store.visit_series(&workspace, subject, &edges).await?;
            }
            CallQuestion::Top(subject, dimension, window) => {
                store.top(&workspace, subject, *dimension, period(*window), 10).await?;
            }
            CallQuestion::Conversions(subject) => {
                store.conversion_counts(&workspace, subject, period(None)).await?;
            }
            CallQuestion::NewestClick => {
                store.newest_click(&workspace).await?;
            }
            CallQuestion::Rows => {
                store.click_rows().await?;
            }
            CallQuestion::LinksOver => {
                store.links_over(five_minutes(HOUR / 12), &MILESTONES).await?;
            }
            CallQuestion::Campaigns => {
                store.campaign_people(Some(five_minutes(HOUR / 12))).await?;
            }
            CallQuestion::LinksSlice => {
                store.links_above(0, MILESTONES[0]).await?;
            }
            CallQuestion::LastHour => {
                store.people_since(five_minutes(HOUR), 50).await?;
            }
            CallQuestion::Bursts => {
                let since = five_minutes(HOUR / 12);
                let busy = store.busy_links(since, 50).await?;
                let links: Vec<_> =
                    busy.iter().take(50).map(|link| (link.workspace.as_str(), link.link_id.as_str())).collect();
                store.bursts(BurstCause::Address, &links, since, 50).await?;
            }
        }
        Ok(())
    }
}
