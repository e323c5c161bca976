//! User agents: those of the visitors that benches let click, and `bench agents`, which
//! reads sets of known agents and says how many are told right, and what reading costs.

mod report;
mod sets;
mod shares;

use std::{hint::black_box, sync::LazyLock, time::Instant};

use enricher::probe::AgentProbe;

pub(crate) use self::report::{Report, text};
use self::{
    report::Costs,
    sets::{CRAWLERS, VISITORS},
    shares::Shares,
};
use crate::{context::BenchContext, machine::Machine};

/// One click in this many comes from an app's own browser. These agents are nearly as many
/// as the devices: a guess, since no public set counts them.
const APP_EVERY: u32 = 5;
/// The agents of apps' browsers.
const APP_AGENTS: u32 = 20_000;
/// The rounds of a measurement, of which the best counts.
const ROUNDS: usize = 9;
/// The rounds of a measurement that only shows that it works.
const QUICK_ROUNDS: usize = 2;

/// The agents of visitors, each with the number of visits up to it.
static PEOPLE: LazyLock<(u32, Vec<(u32, &'static str)>)> = LazyLock::new(|| {
    let mut total = 0;
    let agents = sets::visitors(VISITORS).map(|visitor| {
        total += visitor.count;
        (total, visitor.agent)
    });
    let agents = agents.collect();
    (total, agents)
});

static APPS: LazyLock<Vec<String>> = LazyLock::new(|| (0..APP_AGENTS).map(app_agent).collect());

/// Returns the user agent of a visitor, drawn by a random number: as often as real
/// visitors have it, and of apps one that hardly anybody else has.
pub(crate) fn agent(random: u32) -> &'static str {
    let random = random.wrapping_mul(0x9e37_79b9).rotate_left(15).wrapping_mul(0x85eb_ca6b);
    if random.is_multiple_of(APP_EVERY) {
        return &APPS[(random / APP_EVERY % APP_AGENTS) as usize];
    }
    let (total, agents) = &*PEOPLE;
    let drawn = random % total;
    let at = agents.partition_point(|(up_to, _)| *up_to <= drawn);
    agents[at].1
}

/// Returns the agent of an app's browser on a device that few others have.
fn app_agent(number: u32) -> String {
    let (minor, build) = (number % 7, number.wrapping_mul(2_654_435_761) % 100_000_000);
    let (ios, model) = (format!("26_{minor}"), 12 + number % 6);
    let android = 12 + number % 5;
    match number % 3 {
        0 => format!(
            "Mozilla/5.0 (iPhone; CPU iPhone OS {ios} like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148 \
             Instagram 4{:02}.0.0.{minor}.85 (iPhone{model},{}; iOS {ios}; en_US; en; scale=3.00; 1170x2532; {build}; IABMV/1)",
            number % 90,
            number % 5 + 1
        ),
        1 => format!(
            "Mozilla/5.0 (Linux; Android {android}; SM-S9{:02}B Build/AP3A.240905.015; wv) AppleWebKit/537.36 (KHTML, like Gecko) \
             Version/4.0 Chrome/15{minor}.0.{}.{} Mobile Safari/537.36 [FB_IAB/FB4A;FBAV/5{:02}.0.0.48.74;IABMV/1;FBBV/{build};]",
            number % 40,
            7000 + number % 900,
            number % 200,
            number % 90
        ),
        _ => format!(
            "Mozilla/5.0 (iPhone; CPU iPhone OS {ios} like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148 \
             musical_ly_4{minor}.1.0 BytedanceWebview/{build} NetType/WIFI Channel/App Store ByteLocale/en Region/US"
        ),
    }
}

/// The options of `bench agents`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {}

/// Reads the sets. Blocks, for a few seconds.
pub(crate) fn run(common: &BenchContext) -> anyhow::Result<Report> {
    let machine = Machine::look();
    let mut probe = AgentProbe::new()?;
    let shares = Shares::measure(&mut probe);
    let rounds = if common.quick { QUICK_ROUNDS } else { ROUNDS };
    let visitors: Vec<&str> = sets::visitors(VISITORS).map(|visitor| visitor.agent).collect();
    let apps: Vec<&str> = APPS.iter().take(4000).map(String::as_str).collect();
    let crawlers: Vec<&str> = sets::crawlers(CRAWLERS).map(|crawler| crawler.agent).collect();
    let clicks: Vec<&str> = (0..200_000).map(agent).collect();
    let costs = Costs {
        new_visitor_ns: best(rounds, &visitors, |agent| drop(black_box(probe.read_anew(agent)))),
        new_app_ns: best(rounds, &apps, |agent| drop(black_box(probe.read_anew(agent)))),
        new_crawler_ns: best(rounds, &crawlers, |agent| drop(black_box(probe.read_anew(agent)))),
        known_ns: best(rounds, &visitors, |agent| drop(black_box(probe.read(agent)))),
        click_ns: best(rounds, &clicks, |agent| drop(black_box(probe.read(agent)))),
    };
    Ok(Report::new(machine, shares, costs))
}

/// Returns the nanoseconds for each agent in the best of the rounds.
fn best(rounds: usize, agents: &[&str], mut read: impl FnMut(&str)) -> f64 {
    let round = |_| {
        let began = Instant::now();
        agents.iter().for_each(|agent| read(agent));
        began.elapsed().as_nanos() as f64 / agents.len().max(1) as f64
    };
    (0..=rounds).map(round).skip(1).fold(f64::INFINITY, f64::min)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn visitors_have_the_agents_of_people_as_often_as_people_have_them() {
        let mut probe = AgentProbe::new().unwrap();
        let mut drawn: HashMap<&str, u32> = HashMap::new();
        for number in 0..100_000 {
            *drawn.entry(agent(number)).or_default() += 1;
        }
        for agent in drawn.keys() {
            assert_eq!(probe.read(agent).bot_reason(), None, "{agent}");
        }
        let most = sets::visitors(VISITORS).next().unwrap();
        let share = f64::from(drawn[most.agent]) / 100_000.0;
        let expected = f64::from(most.count) / f64::from(PEOPLE.0) * 0.8;
        assert!((share - expected).abs() < 0.02, "{share} of {expected}");
        assert!(drawn.len() > 10_000, "{}", drawn.len());
    }

    #[test]
    fn the_goals_are_met() {
        let shares = Shares::measure(&mut AgentProbe::new().unwrap());
        for goal in shares.goals() {
            assert!(goal.is_met(), "{goal:?}");
        }
    }
}
