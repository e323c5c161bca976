//! The shares of known agents that are told right.

use enricher::probe::{AgentProbe, ReadAgent};
use serde::Serialize;

use super::sets::{self, CRAWLERS, LabelledAgent, OLDER_VISITORS, VISITORS};
use crate::goal::Goal;

/// The first year whose crawlers are younger than the names that the enricher knows.
const YOUNG: u16 = 2025;

/// Shares, in percent.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Shares {
    /// Visits of people that count as programs'.
    pub(super) people_called_programs: f64,
    /// Crawlers that count as programs.
    pub(super) crawlers: f64,
    /// Crawlers that became known since 2025.
    pub(super) young_crawlers: f64,
    /// The same without any name: by shape alone.
    pub(super) young_crawlers_by_shape: f64,
    /// Visits whose kind of device is told right.
    pub(super) device: f64,
    /// Visits of 2024 whose browser and system are told as uap-core tells them.
    pub(super) browser: f64,
    pub(super) system: f64,
    /// Common browsers of uap-core's own tests, each counted once. Its tests are of odd
    /// agents, so this is no goal.
    pub(super) uap_browser: f64,
    pub(super) uap_system: f64,
    /// Visits whose version of the system is told although every device says the same.
    pub(super) frozen_versions: f64,
}

impl Shares {
    /// Reads all sets.
    pub(crate) fn measure(probe: &mut AgentProbe) -> Self {
        let mut people = VisitShare::default();
        let mut device = VisitShare::default();
        let mut frozen = VisitShare::default();
        for visitor in sets::visitors(VISITORS).chain(sets::visitors(OLDER_VISITORS)) {
            let read = probe.read(visitor.agent);
            people.count(visitor.count, read.bot_reason().is_some());
            device.count(visitor.count, read.device() == Some(visitor.device));
            frozen.count(visitor.count, tells_frozen_version(visitor.agent, &read));
        }
        let (mut all, mut young, mut by_shape) = (VisitShare::default(), VisitShare::default(), VisitShare::default());
        for crawler in sets::crawlers(CRAWLERS) {
            let is_program = probe.read(crawler.agent).bot_reason().is_some();
            all.count(1, is_program);
            if crawler.year.is_some_and(|year| year >= YOUNG) {
                young.count(1, is_program);
                by_shape.count(1, probe.is_program_by_shape(crawler.agent));
            }
        }
        let (browser, system) = named(probe, sets::named_visitors());
        let (uap_browser, uap_system) = named(probe, sets::uap_core());
        Self {
            people_called_programs: people.percent(),
            crawlers: all.percent(),
            young_crawlers: young.percent(),
            young_crawlers_by_shape: by_shape.percent(),
            device: device.percent(),
            browser,
            system,
            uap_browser,
            uap_system,
            frozen_versions: frozen.percent(),
        }
    }

    /// The goals.
    pub(crate) fn goals(&self) -> Vec<Goal> {
        let wrong = |what: &str, right: f64, at_most: f64| Goal::at_most(what, 100.0 - right, at_most, "%");
        vec![
            Goal::at_most("people that count as programs", self.people_called_programs, 0.3, "%"),
            wrong("crawlers that count as people", self.crawlers, 1.0),
            wrong("crawlers since 2025 that count as people", self.young_crawlers, 5.0),
            wrong("the same, by shape alone", self.young_crawlers_by_shape, 5.0),
            wrong("visits whose device is wrong", self.device, 3.0),
            wrong("visits whose browser is wrong", self.browser, 7.0),
            wrong("visits whose system is wrong", self.system, 5.0),
            Goal::at_most("visits with a frozen version of a system", self.frozen_versions, 0.0, "%"),
        ]
    }
}

/// A share of a number of visits.
#[derive(Default)]
struct VisitShare {
    of: u32,
    hits: u32,
}

impl VisitShare {
    fn count(&mut self, visits: u32, hit: bool) {
        self.of += visits;
        self.hits += if hit { visits } else { 0 };
    }

    fn percent(&self) -> f64 {
        100.0 * f64::from(self.hits) / f64::from(self.of.max(1))
    }
}

/// The shares of browsers and systems that are told as uap-core tells them. Programs are
/// left out, and agents of which uap-core knows neither.
fn named(probe: &mut AgentProbe, agents: impl Iterator<Item = LabelledAgent>) -> (f64, f64) {
    let (mut browsers, mut systems) = (VisitShare::default(), VisitShare::default());
    for agent in agents {
        let read = probe.read(agent.agent);
        if read.bot_reason().is_some() {
            continue;
        }
        let browser = browser_of_uap(agent.browser);
        browsers.count(agent.count, read.browser() == Some(browser) || is_app(&read, agent.browser));
        if agent.system != "Other" {
            systems.count(agent.count, read.os() == Some(system_of_uap(agent.system)));
        }
    }
    (browsers.percent(), systems.percent())
}

/// uap-core has apps among browsers.
fn is_app(read: &ReadAgent, browser: &str) -> bool {
    read.app().is_some_and(|app| app.eq_ignore_ascii_case(browser))
}

/// Returns our name of a browser of uap-core's.
fn browser_of_uap(name: &'static str) -> &'static str {
    match name {
        "Chrome Mobile" | "Chrome Mobile iOS" => "Chrome",
        "Chrome Mobile WebView" | "Mobile Safari UI/WKWebView" => "Webview",
        "Mobile Safari" => "Safari",
        "Firefox Mobile" | "Firefox iOS" => "Firefox",
        "Edge Mobile" => "Edge",
        "Opera Mobile" => "Opera",
        "Samsung Internet" => "SamsungBrowser",
        "IE" | "IE Mobile" => "Internet Explorer",
        "Android" => "Android Browser",
        "DuckDuckGo Mobile" => "DuckDuckGo",
        "Amazon Silk" => "Silk",
        "MiuiBrowser" => "Mi Browser",
        "QQ Browser Mobile" => "QQ Browser",
        "Google" => "Google Search App",
        other => other,
    }
}

/// Returns our name of a system of uap-core's.
fn system_of_uap(name: &'static str) -> &'static str {
    match name {
        "Mac OS X" => "macOS",
        "Chrome OS" => "ChromeOS",
        "Ubuntu" => "Linux",
        "Symbian OS" => "Symbian",
        "Web0S" => "webOS",
        other => other,
    }
}

fn tells_frozen_version(agent: &str, read: &ReadAgent) -> bool {
    let version = read.os_version();
    agent.contains("Android 10; K)") && version.is_some()
        || matches!((read.os(), version), (Some("macOS"), Some("10.15" | "10.15.7")) | (Some("Windows"), Some("10")))
        || read.os() == Some("iOS") && agent.contains("Version/26") && version.is_some_and(|it| it.starts_with("18"))
}
