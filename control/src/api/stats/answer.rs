//! Rows of statistics as JSON, NDJSON or CSV.

use axum::{
    Json,
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use service::problem::Problem;

/// The format of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RowFormat {
    /// One JSON object.
    Json,
    /// A JSON object for each row, in a line of its own.
    Ndjson,
    /// Comma-separated values with a head (RFC 4180).
    Csv,
}

impl RowFormat {
    /// Returns the format that the query names, else the one that the header `Accept` names.
    pub(super) fn wanted(named: Option<Self>, headers: &HeaderMap) -> Self {
        let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
        named.unwrap_or_else(|| match accept {
            accept if accept.contains("text/csv") => Self::Csv,
            accept if accept.contains("ndjson") => Self::Ndjson,
            _ => Self::Json,
        })
    }
}

/// A row that can be written in a line of CSV.
pub(super) trait CsvRow: Serialize {
    /// The names of the columns.
    const COLUMNS: &'static [&'static str];

    /// Returns the cells, in the order of the columns.
    fn cells(&self) -> Vec<String>;
}

/// Answers with the whole answer as JSON, or with its rows alone in another format.
pub(super) fn write<T: Serialize, R: CsvRow>(format: RowFormat, whole: &T, rows: &[R]) -> Result<Response, Problem> {
    let unwritable =
        |error: &dyn std::fmt::Display| Problem::unavailable(format!("The answer cannot be written: {error}"));
    match format {
        RowFormat::Json => Ok(Json(whole).into_response()),
        RowFormat::Ndjson => {
            let mut lines = Vec::new();
            for row in rows {
                serde_json::to_writer(&mut lines, row).map_err(|error| unwritable(&error))?;
                lines.push(b'\n');
            }
            Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], lines).into_response())
        }
        RowFormat::Csv => {
            let mut table = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
            table.write_record(R::COLUMNS).map_err(|error| unwritable(&error))?;
            for row in rows {
                table.write_record(row.cells().iter().map(|cell| safe(cell))).map_err(|error| unwritable(&error))?;
            }
            let text = table.into_inner().map_err(|error| unwritable(&error))?;
            Ok(([(header::CONTENT_TYPE, "text/csv; charset=utf-8")], text).into_response())
        }
    }
}

/// Returns a cell that no spreadsheet takes for a formula.
fn safe(cell: &str) -> String {
    if cell.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{cell}") } else { cell.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_no_formula() {
        assert_eq!((safe("=1+1"), safe("a=b"), safe("-5")), ("'=1+1".to_owned(), "a=b".to_owned(), "'-5".to_owned()));
    }

    #[test]
    fn a_format_is_named_or_accepted() {
        let accepting = |accept: &'static str| HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]);
        assert_eq!(RowFormat::wanted(None, &accepting("text/csv, */*")), RowFormat::Csv);
        assert_eq!(RowFormat::wanted(None, &accepting("application/x-ndjson")), RowFormat::Ndjson);
        assert_eq!(RowFormat::wanted(Some(RowFormat::Json), &accepting("text/csv")), RowFormat::Json);
        assert_eq!(RowFormat::wanted(None, &HeaderMap::new()), RowFormat::Json);
    }
}
