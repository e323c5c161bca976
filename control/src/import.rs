//! What becomes of the lines of an import: each is a link as it should be, and
//! is created, changed or left as it is; one that is refused is reported and
//! keeps nothing else back.

use schemars::JsonSchema;
use schemas::WorkspaceId;
use serde::Serialize;
use service::problem::{FieldError, Problem, RejectedLine};

use crate::{
    draft::Draft,
    link::LinkPatch,
    ndjson::{Line, Text},
    upsert::{Upserted, upsert},
};

/// The most bytes that a line has.
pub(crate) const LINE_BYTES: usize = 64 << 10;
/// How many rejected lines are told one by one.
const TOLD: usize = 1000;

/// A line that was read.
pub(crate) struct Read {
    number: u64,
    given: Result<LinkPatch, Problem>,
}

/// Reads a line.
pub(crate) fn read(line: &Line) -> Read {
    let given = match &line.text {
        Text::Whole(bytes) => {
            // Only one that cannot be read is read again to find out where and why.
            serde_json::from_slice(bytes).or_else(|_| service::json::parse(bytes))
        }
        Text::TooLong => {
            Err(Problem::invalid(vec![FieldError::new("(line)", format!("is longer than {LINE_BYTES} bytes"))]))
        }
    };
    Read { number: line.number, given }
}

/// Drafts lines, one after the other.
pub(crate) fn draft(lines: Vec<Read>, draft: &mut Draft<'_>, workspace: &WorkspaceId) -> Report {
    let mut report = Report::default();
    for line in lines {
        match line.given.and_then(|given| upsert(draft, workspace, given, None)) {
            Ok(Upserted::Created(_)) => report.created += 1,
            Ok(Upserted::Updated(_)) => report.updated += 1,
            Ok(Upserted::Unchanged(_)) => report.unchanged += 1,
            Err(problem) => report.reject(line.number, problem),
        }
    }
    report
}

/// What became of an import.
#[derive(Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Report {
    created: u64,
    updated: u64,
    unchanged: u64,
    /// How many lines were rejected.
    rejected_total: u64,
    /// The first of them.
    rejected: Vec<RejectedLine>,
    /// Whether there are others.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    more: bool,
}

impl Report {
    fn reject(&mut self, line: u64, problem: Problem) {
        let Problem { detail, mut errors, .. } = problem;
        if errors.is_empty() {
            errors.push(FieldError::new("(line)", detail));
        }
        self.rejected_total += 1;
        self.tell(RejectedLine { line, errors });
    }

    fn tell(&mut self, rejected: RejectedLine) {
        if self.rejected.len() < TOLD {
            self.rejected.push(rejected);
        } else {
            self.more = true;
        }
    }

    /// Adds what became of the lines that follow.
    pub(crate) fn add(&mut self, later: Self) {
        self.created += later.created;
        self.updated += later.updated;
        self.unchanged += later.unchanged;
        self.rejected_total += later.rejected_total;
        later.rejected.into_iter().for_each(|rejected| self.tell(rejected));
        self.more |= later.more;
    }

    /// How many lines there were.
    pub(crate) const fn lines(&self) -> u64 {
        self.created + self.updated + self.unchanged + self.rejected_total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_tells_so_many_and_counts_all() {
        let mut report = Report::default();
        for chunk in 0..3 {
            let mut part = Report { created: 1, ..Report::default() };
            (0..600).for_each(|line| part.reject(chunk * 600 + line, Problem::unavailable("no")));
            report.add(part);
        }
        assert_eq!(
            (report.lines(), report.rejected_total, report.rejected.len(), report.more),
            (1803, 1800, TOLD, true)
        );
        assert_eq!(report.rejected.last().map(|rejected| rejected.line), Some(999));
    }
}
