//! The report of `bench agents`.

use serde::Serialize;

use super::shares::Shares;
use crate::{
    goal::{self, Goal},
    machine::Machine,
    table::table,
};

/// The nanoseconds that it takes to read a user agent.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Costs {
    /// An agent of a visitor that was not read before.
    pub(crate) new_visitor_ns: f64,
    /// The same of apps' browsers.
    pub(crate) new_app_ns: f64,
    /// The same of crawlers.
    pub(crate) new_crawler_ns: f64,
    /// An agent that was read before.
    pub(crate) known_ns: f64,
    /// One of a click, as often new as clicks' agents are.
    pub(crate) click_ns: f64,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: Machine,
    shares: Shares,
    costs: Costs,
    goals: Vec<Goal>,
}

impl Report {
    pub(crate) fn new(machine: Machine, shares: Shares, costs: Costs) -> Self {
        let mut goals = shares.goals();
        goals.push(Goal::at_most("a new agent of a visitor", costs.new_visitor_ns / 1000.0, 3.5, "µs"));
        goals.push(Goal::at_most("a known agent", costs.known_ns / 1000.0, 0.1, "µs"));
        Self { machine, shares, costs, goals }
    }
}

/// The report as tables.
pub(crate) fn text(report: &Report) -> String {
    let Report { machine, shares, costs, goals } = report;
    let percent = |name: &str, share: f64| vec![name.to_owned(), format!("{share:.2}")];
    let right = [
        percent("visits of people that count as programs'", shares.people_called_programs),
        percent("known crawlers that count as programs", shares.crawlers),
        percent("  of these, known since 2025", shares.young_crawlers),
        percent("  the same by shape, without any name", shares.young_crawlers_by_shape),
        percent("visits whose kind of device is right", shares.device),
        percent("visits whose browser is right", shares.browser),
        percent("visits whose system is right", shares.system),
        percent("common browsers of uap-core's tests that are right", shares.uap_browser),
        percent("  their systems", shares.uap_system),
    ];
    let cost = |name: &str, ns: f64| vec![name.to_owned(), format!("{ns:.0}")];
    let costs = [
        cost("a new agent of a visitor", costs.new_visitor_ns),
        cost("a new agent of an app's browser", costs.new_app_ns),
        cost("a new agent of a crawler", costs.new_crawler_ns),
        cost("a known agent", costs.known_ns),
        cost("the agent of a click", costs.click_ns),
    ];
    format!(
        "\n{}\n  user agents\n\nHow they are told\n{}\n\nWhat reading costs\n{}\n\nGoals\n{}\n",
        machine.title(),
        table(&["", "%"], right),
        table(&["", "ns"], costs),
        goal::table_of(goals),
    )
}
