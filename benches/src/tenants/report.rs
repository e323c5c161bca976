//! The report of `bench tenants`.

use std::fmt::Write;

use serde::Serialize;

use crate::{
    goal::{self, Goal},
    machine::Machine,
    summary::Latency,
    table::table,
    visitors::Visits,
};

/// The factor by which the slowest hundredth may become slower beside the others.
const SLOWER: f64 = 1.5;
/// The memory that a role may gain: that of the links of the quota, of the domains and of the
/// connections, amply.
const GAINED_MB: f64 = 400.0;

/// The answers of one kind in a phase.
#[derive(Debug, Serialize)]
pub(crate) struct AnswersSeen {
    answered: usize,
    /// Other answers than wanted.
    refused: u64,
    /// Requests that had no answer when the phase ended, those included that were not sent in time.
    unanswered: u64,
    latency: Latency,
}

impl AnswersSeen {
    pub(crate) fn of(visits: Visits) -> Self {
        Self {
            answered: visits.latencies.len(),
            refused: visits.refused,
            unanswered: visits.broken,
            latency: Latency::of(visits.latencies),
        }
    }
}

/// A phase: the tenant's calls, and the redirects.
#[derive(Debug, Serialize)]
pub(crate) struct TenantPhase {
    pub(crate) calls: AnswersSeen,
    pub(crate) redirects: AnswersSeen,
}

/// The memory of a role before the others begin, and its peak.
#[derive(Debug, Serialize)]
pub(crate) struct RoleMemory {
    pub(crate) role: &'static str,
    pub(crate) before_bytes: u64,
    pub(crate) peak_bytes: u64,
}

impl RoleMemory {
    fn gained_mb(&self) -> f64 {
        self.peak_bytes.saturating_sub(self.before_bytes) as f64 / 1e6
    }
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct TenantsReport {
    machine: Machine,
    seconds: u64,
    alone: TenantPhase,
    beside: TenantPhase,
    memory: [RoleMemory; 2],
    goals: Vec<Goal>,
}

impl TenantsReport {
    pub(crate) fn new(
        machine: Machine,
        seconds: u64,
        [alone, beside]: [TenantPhase; 2],
        memory: [RoleMemory; 2],
    ) -> Self {
        let slower = |kind: &str, alone: &AnswersSeen, beside: &AnswersSeen| {
            let factor = beside.latency.p99_ms / alone.latency.p99_ms.max(f64::EPSILON);
            Goal::at_most(format!("p99 of {kind} beside the others"), factor, SLOWER, "times that alone")
        };
        let mut goals = vec![
            slower("API calls", &alone.calls, &beside.calls),
            slower("redirects", &alone.redirects, &beside.redirects),
            Goal::at_most(
                "refused to the tenant or to visitors",
                (beside.calls.refused + beside.redirects.refused) as f64,
                0.0,
                "requests",
            ),
        ];
        goals.extend(memory.iter().map(|memory| {
            Goal::at_most(format!("memory that {} gained", memory.role), memory.gained_mb(), GAINED_MB, "MB")
        }));
        Self { machine, seconds, alone, beside, memory, goals }
    }
}

/// The report as tables.
pub(crate) fn text(report: &TenantsReport) -> String {
    let TenantsReport { machine, seconds, alone, beside, goals, .. } = report;
    let mut out = String::new();
    let mut section = |title: &str, body: &str| {
        // Writing to a string cannot fail.
        let _ = write!(out, "\n{title}\n{body}\n");
    };
    let row = |phase: &str, kind: &str, seen: &AnswersSeen| {
        vec![
            phase.to_owned(),
            kind.to_owned(),
            seen.answered.to_string(),
            seen.refused.to_string(),
            seen.unanswered.to_string(),
            format!("{:.1}", seen.latency.p50_ms),
            format!("{:.1}", seen.latency.p99_ms),
            format!("{:.1}", seen.latency.max_ms),
        ]
    };
    let rows = [
        row("alone", "API calls", &alone.calls),
        row("beside the four", "API calls", &beside.calls),
        row("alone", "redirects", &alone.redirects),
        row("beside the four", "redirects", &beside.redirects),
    ];
    section(&machine.title(), &format!("  a tenant and visitors, alone and beside four others, {seconds} s each"));
    section(
        "What they saw",
        &table(&["", "", "answered", "refused", "unanswered", "p50 ms", "p99 ms", "max ms"], rows),
    );
    section("Goals", &goal::table_of(goals));
    if machine.was_busy() {
        section("This machine was not idle:", "  compare the ratios, not the numbers.");
    }
    out
}
