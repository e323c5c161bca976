//! The sets of user agents that are measured on, in `benches/fixtures/agents/`. None of
//! them is a list that the enricher looks names up in; its `README.md` says where each
//! comes from, and under which licence.

/// Visitors of real sites in 2026 whose platform agrees with their user agent.
pub(super) const VISITORS: &str = include_str!("../../fixtures/agents/visitors-2026.tsv");
/// The same of 2024, with browser and system as uap-core names them.
pub(super) const OLDER_VISITORS: &str = include_str!("../../fixtures/agents/visitors-2024.tsv");
/// The common browsers of uap-core's own tests.
pub(super) const UAP_CORE: &str = include_str!("../../fixtures/agents/uap-core.tsv");
/// Known crawlers, with the date on which each became known.
pub(super) const CRAWLERS: &str = include_str!("../../fixtures/agents/crawlers.tsv");

/// A user agent of visitors.
#[derive(Clone, Copy, Debug)]
pub(super) struct SampleVisitor {
    /// The number of visits with it.
    pub(super) count: u32,
    /// The kind of device: `desktop`, `mobile` or `tablet`.
    pub(super) device: &'static str,
    pub(super) agent: &'static str,
}

/// A user agent whose browser and system are known.
#[derive(Clone, Copy, Debug)]
pub(super) struct LabelledAgent {
    pub(super) count: u32,
    pub(super) browser: &'static str,
    pub(super) system: &'static str,
    pub(super) agent: &'static str,
}

/// A user agent of a crawler.
#[derive(Clone, Copy, Debug)]
pub(super) struct SampleCrawler {
    /// The year in which it became known, where that is known.
    pub(super) year: Option<u16>,
    pub(super) agent: &'static str,
}

/// Reads visitors: count, device, agent, and between them what other sets have.
pub(super) fn visitors(set: &'static str) -> impl Iterator<Item = SampleVisitor> {
    set.lines().filter_map(|line| {
        let mut fields = line.split('\t');
        let count = fields.next()?.parse().ok()?;
        Some(SampleVisitor { count, device: fields.next()?, agent: fields.next_back()? })
    })
}

/// Reads visitors with their browser and system.
pub(super) fn named_visitors() -> impl Iterator<Item = LabelledAgent> {
    OLDER_VISITORS.lines().filter_map(|line| {
        let mut fields = line.split('\t');
        let count = fields.next()?.parse().ok()?;
        let (_, browser, system) = (fields.next()?, fields.next()?, fields.next()?);
        Some(LabelledAgent { count, browser, system, agent: fields.next()? })
    })
}

/// Reads browsers of uap-core's tests.
pub(super) fn uap_core() -> impl Iterator<Item = LabelledAgent> {
    UAP_CORE.lines().filter_map(|line| {
        let mut fields = line.split('\t');
        Some(LabelledAgent { count: 1, browser: fields.next()?, system: fields.next()?, agent: fields.next()? })
    })
}

/// Reads crawlers.
pub(super) fn crawlers(set: &'static str) -> impl Iterator<Item = SampleCrawler> {
    set.lines().filter_map(|line| {
        let (date, agent) = line.split_once('\t')?;
        Some(SampleCrawler { year: date.get(..4).and_then(|year| year.parse().ok()), agent })
    })
}
