//! Goals, and whether they were met.

use serde::Serialize;

use crate::table::table;

/// A number that is to stay below another.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Goal {
    what: String,
    at_most: f64,
    got: f64,
    unit: &'static str,
    met: bool,
}

impl Goal {
    /// `got` is to be at most `limit`.
    pub(crate) fn at_most(what: impl Into<String>, got: f64, limit: f64, unit: &'static str) -> Self {
        Self { what: what.into(), at_most: limit, got, unit, met: got <= limit }
    }
}

#[cfg(test)]
impl Goal {
    /// Whether the goal is met.
    pub(crate) const fn is_met(&self) -> bool {
        self.met
    }
}

/// Goals for people.
pub(crate) fn table_of(goals: &[Goal]) -> String {
    let rows = goals.iter().map(|goal| {
        vec![
            goal.what.clone(),
            format!("{:.2} {}", goal.got, goal.unit),
            format!("{} {}", goal.at_most, goal.unit),
            if goal.met { "yes" } else { "no" }.to_owned(),
        ]
    });
    table(&["", "got", "at most", "met"], rows)
}
