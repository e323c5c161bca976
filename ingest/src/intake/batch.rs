//! The body of a report: one conversion, or a line each. What is wrong with a
//! line is told by its number and keeps no other from being taken.

use schemas::{RawConversion, Timestamp, WorkspaceId, conversion::Reported};
use serde::de::IgnoredAny;
use service::{
    json,
    problem::{Kind, Problem, RejectedLine},
};

use super::conversion::{Repeat, record};

/// The largest body that is read.
pub(crate) const BODY_BYTES: usize = 1 << 20;
/// The most conversions of one request.
pub(crate) const LINES: usize = 5_000;

/// The shape of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReportShape {
    /// One JSON object.
    One,
    /// NDJSON: one JSON object a line.
    Lines,
}

impl ReportShape {
    /// Tells the shape of a body. A body is NDJSON if its content type says so, or if
    /// it has several lines of which the first is complete: an object may be spread
    /// over many lines, too.
    pub(crate) fn of(content_type: Option<&str>, body: &[u8]) -> Self {
        let media = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        let says_so = ["application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"]
            .iter()
            .any(|known| media.eq_ignore_ascii_case(known));
        let mut first_two = lines(body).take(2);
        match (first_two.next(), first_two.next()) {
            _ if says_so => Self::Lines,
            (Some((_, first)), Some(_)) if serde_json::from_slice::<IgnoredAny>(first).is_ok() => Self::Lines,
            _ => Self::One,
        }
    }
}

/// Returns a text without the byte order mark that some programs begin UTF-8 with
/// (RFC 8259, section 8.1, lets a reader ignore the mark).
pub(crate) fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

/// Returns the lines of a body that are not blank, each with its number from 1. Where
/// files were joined, any line may begin with a byte order mark.
fn lines(body: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    body.split(|byte| *byte == b'\n')
        .enumerate()
        .map(|(index, line)| (index + 1, without_mark(line).trim_ascii()))
        .filter(|(_, line)| !line.is_empty())
}

/// Lines that were read.
#[derive(Debug)]
pub(crate) struct ReportBatch {
    pub(crate) taken: Vec<RawConversion>,
    pub(crate) rejected: Vec<RejectedLine>,
}

impl ReportBatch {
    /// Reads the lines of a body that a key of `workspace` sent at `now`, along
    /// with an `Idempotency-Key` or without.
    ///
    /// # Errors
    /// When there is no line, or there are too many.
    pub(crate) fn read(
        body: &[u8],
        workspace: &WorkspaceId,
        key: Option<&str>,
        now: Timestamp,
    ) -> Result<Self, Problem> {
        match lines(body).take(LINES + 1).count() {
            0 => return Err(Problem::new(Kind::Malformed, "The body is empty: send a conversion, or one a line")),
            count if count > LINES => {
                let detail = format!("A body may have at most {LINES} lines: send the rest in another request");
                return Err(Problem::new(Kind::TooLarge, detail));
            }
            _ => {}
        }
        let mut batch = Self { taken: Vec::new(), rejected: Vec::new() };
        for (number, line) in lines(body) {
            let repeat = key.map_or(Repeat::Unknown, |key| Repeat::Line(key, number));
            let read = json::read::<Reported>(line).map_err(|unread| vec![unread.in_line()]);
            match read.and_then(|reported| record(reported, workspace, repeat, now)) {
                Ok(conversion) => batch.taken.push(conversion),
                Err(errors) => batch.rejected.push(RejectedLine { line: number as u64, errors }),
            }
        }
        Ok(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"click_id":"clk_01KH0FTEXX7000000000000000","name":"signup"}"#;

    fn read(body: &str, key: Option<&str>) -> Result<ReportBatch, Problem> {
        ReportBatch::read(body.as_bytes(), &WorkspaceId::default(), key, Timestamp::now())
    }

    #[test]
    fn several_lines_are_told_from_one_object_over_several() {
        let pretty = "{\n  \"name\": \"signup\"\n}\n";
        for (content_type, body, expected) in [
            (None, LINE.to_owned(), ReportShape::One),
            (None, format!("{LINE}\n"), ReportShape::One),
            (None, format!("\n{LINE}\r\n\n"), ReportShape::One),
            (None, format!("{LINE}\n{LINE}\n"), ReportShape::Lines),
            (Some("application/json"), format!("{LINE}\nnonsense"), ReportShape::Lines),
            (Some("application/json"), pretty.to_owned(), ReportShape::One),
            (Some("application/x-ndjson"), LINE.to_owned(), ReportShape::Lines),
            (Some("Application/X-NDJSON; charset=utf-8"), pretty.to_owned(), ReportShape::Lines),
            (Some("text/plain"), String::new(), ReportShape::One),
        ] {
            assert_eq!(ReportShape::of(content_type, body.as_bytes()), expected, "{content_type:?} {body:?}");
        }
    }

    #[test]
    fn a_wrong_line_is_told_by_its_number() {
        let body = format!("{LINE}\r\n\nnonsense\n{{\"name\":\"a\"}}\n{LINE}\n{}", LINE.replace("signup", "a/b"));
        let batch = read(&body, Some("k")).unwrap();
        let keys: Vec<_> = batch.taken.iter().map(|taken| taken.same_as.as_str()).collect();
        assert_eq!(keys, ["line/1/k", "line/5/k"]);
        let rejected: Vec<_> = batch.rejected.iter().map(|line| (line.line, line.errors[0].field.as_str())).collect();
        assert_eq!(rejected, [(3, "(line)"), (4, "click_id"), (6, "name")]);
        assert!(batch.rejected[0].errors[0].reason.contains("column"), "{batch:?}");
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_a_line() {
        let body = format!("\u{feff}{LINE}\r\n{LINE}\n\u{feff}{LINE}\n\u{feff}\n");
        assert_eq!(ReportShape::of(None, body.as_bytes()), ReportShape::Lines);
        let batch = read(&body, None).unwrap();
        assert_eq!((batch.taken.len(), batch.rejected.len()), (3, 0), "{batch:?}");
    }

    #[test]
    fn there_is_a_limit_and_it_is_said() {
        assert_eq!(read(" \n\n", None).unwrap_err().kind, Kind::Malformed);
        assert_eq!(read(&"{}\n".repeat(LINES), None).unwrap().rejected.len(), LINES);
        let problem = read(&"{}\n".repeat(LINES + 1), None).unwrap_err();
        assert_eq!(problem.kind, Kind::TooLarge);
        assert!(problem.detail.contains("5000"), "{}", problem.detail);
    }
}
