//! The lines of an import. Each line is an upsert; a line that is rejected is reported, and the others are imported all the
//! same.

use schemars::JsonSchema;
use schemas::WorkspaceId;
use serde::Serialize;
use service::problem::{FieldError, Problem, RejectedLine};

use crate::{
    kinds::link::{
        fields::LinkPatch,
        ndjson::{LineText, NdjsonLine},
        upsert::{Upserted, upsert},
    },
    state::{draft::Draft, entity::Expected},
};

/// The most bytes of a line.
pub(crate) const LINE_BYTES: usize = 64 << 10;
/// The most rejected lines that a report lists.
const MAX_LISTED: usize = 1000;

/// A parsed line, or the reason why it cannot be parsed.
pub(crate) struct ParsedLine {
    number: u64,
    given: Result<LinkPatch, Problem>,
}

/// Parses a line.
pub(crate) fn parse(line: &NdjsonLine) -> ParsedLine {
    let given = match &line.text {
        LineText::Whole(bytes) => {
            // The slower parser says where and why a line cannot be parsed, and that a list is no link.
            let is_list = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
            let parsed = if is_list { None } else { serde_json::from_slice(bytes).ok() };
            let told = |_| service::json::read(bytes).map_err(|unread| Problem::invalid(vec![unread.in_line()]));
            parsed.ok_or(()).or_else(told)
        }
        LineText::TooLong => {
            Err(Problem::invalid(vec![FieldError::new("(line)", format!("is longer than {LINE_BYTES} bytes"))]))
        }
    };
    ParsedLine { number: line.number, given }
}

/// Drafts the lines, one after the other.
pub(crate) fn draft_lines(lines: Vec<ParsedLine>, draft: &mut Draft<'_>, workspace: &WorkspaceId) -> ImportReport {
    let mut report = ImportReport::default();
    for line in lines {
        match line.given.and_then(|given| upsert(draft, workspace, given, &Expected::Anything)) {
            Ok(Upserted::Created(_)) => report.created += 1,
            Ok(Upserted::Updated(_)) => report.updated += 1,
            Ok(Upserted::Unchanged(_)) => report.unchanged += 1,
            Err(problem) => report.reject(line.number, problem),
        }
    }
    report
}

/// The report of an import.
#[derive(Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "Report")]
pub(crate) struct ImportReport {
    created: u64,
    updated: u64,
    unchanged: u64,
    /// The number of rejected lines.
    rejected_total: u64,
    /// The first rejected lines.
    rejected: Vec<RejectedLine>,
    /// Whether more lines were rejected than are listed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    more: bool,
}

impl ImportReport {
    fn reject(&mut self, line: u64, problem: Problem) {
        let Problem { detail, mut errors, .. } = problem;
        if errors.is_empty() {
            errors.push(FieldError::new("(line)", detail));
        }
        self.rejected_total += 1;
        self.list(RejectedLine { line, errors });
    }

    fn list(&mut self, rejected: RejectedLine) {
        if self.rejected.len() < MAX_LISTED {
            self.rejected.push(rejected);
        } else {
            self.more = true;
        }
    }

    /// Adds the report of later lines.
    pub(crate) fn add(&mut self, later: Self) {
        self.created += later.created;
        self.updated += later.updated;
        self.unchanged += later.unchanged;
        self.rejected_total += later.rejected_total;
        later.rejected.into_iter().for_each(|rejected| self.list(rejected));
        self.more |= later.more;
    }

    /// Returns the number of lines.
    pub(crate) const fn lines(&self) -> u64 {
        self.created + self.updated + self.unchanged + self.rejected_total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_cut_off_is_told_by_its_own_number_alone() {
        let text = LineText::Whole(r#"{"slug":"k3","destination":"https://a.example/""#.into());
        let line = parse(&NdjsonLine { number: 2, text });
        let error = line.given.unwrap_err().errors.remove(0);
        assert_eq!((line.number, error.field.as_str()), (2, "(line)"));
        assert!(error.reason.contains("at column 47") && !error.reason.contains("line 1"), "{}", error.reason);
    }

    #[test]
    fn a_list_is_no_link() {
        let line = |text: &'static str| NdjsonLine { number: 1, text: LineText::Whole(text.into()) };
        let refused = parse(&line(r#"["https://a.example/"]"#)).given.unwrap_err();
        assert_eq!(refused.errors[0].field, "(body)");
        assert!(parse(&line(r#" {"destination":"https://a.example/"}"#)).given.is_ok());
    }

    #[test]
    fn a_report_tells_so_many_and_counts_all() {
        let mut report = ImportReport::default();
        for chunk in 0..3 {
            let mut part = ImportReport { created: 1, ..ImportReport::default() };
            (0..600).for_each(|line| part.reject(chunk * 600 + line, Problem::unavailable("no")));
            report.add(part);
        }
        assert_eq!(
            (report.lines(), report.rejected_total, report.rejected.len(), report.more),
            (1803, 1800, MAX_LISTED, true)
        );
        assert_eq!(report.rejected.last().map(|rejected| rejected.line), Some(999));
    }
}
