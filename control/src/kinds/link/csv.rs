//! Links as CSV (RFC 4180): the records of an import, each turned into the JSON of a line of NDJSON, and the rows of an
//! export, which an import takes again. Tags stand in one cell with `|` between them, metadata in columns `metadata.<key>`
//! or as JSON in one column.

use std::collections::BTreeSet;

use csv_core::{ReadRecordResult, Reader};
use schemas::Link;
use serde_json::{Map, Value};
use service::problem::{FieldError, Problem};

use crate::kinds::link::ndjson::{LineText, NdjsonLine};

/// The columns of texts that an import takes.
const TEXTS: [&str; 13] = [
    "destination",
    "domain",
    "slug",
    "campaign",
    "segment",
    "starts_at",
    "expires_at",
    "expired_url",
    "referrer_policy",
    "external_id",
    "max_clicks_of",
    "tags",
    "metadata",
];
/// The columns of numbers that an import takes.
const NUMBERS: [&str; 2] = ["status_code", "max_clicks"];
/// The columns of truths that an import takes.
const TRUTHS: [&str; 4] = ["disabled", "archived", "append_click_id", "passthrough"];
/// The columns of an export that an import leaves aside, since nobody but clickhook sets them.
const READ_ONLY: [&str; 7] =
    ["id", "short_url", "former_slugs", "exhausted_at", "created_at", "updated_at", "revision"];
const METADATA: &str = "metadata.";
/// The most columns of a file.
const MAX_COLUMNS: usize = 200;

/// The first characters of a cell that a spreadsheet would take for a formula.
const FORMULA: [char; 6] = ['=', '+', '-', '@', '\t', '\r'];

/// A reader of records from a stream of bytes that arrives in pieces of any size. At most one record is buffered, of
/// bounded length.
pub(crate) struct CsvRecords {
    core: Reader,
    /// The cells of the record, one behind the other.
    cells: Vec<u8>,
    cells_len: usize,
    ends: Vec<usize>,
    ends_len: usize,
    columns: Option<Vec<String>>,
    /// The number of line ends that were read.
    line_ends: u64,
    /// The line on which the record began; nothing between two records.
    line: Option<u64>,
    fits: RecordFit,
}

/// Whether the record that is being read fits the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RecordFit {
    Fits,
    TooLong,
}

impl CsvRecords {
    /// Reads records of at most `max_bytes`.
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self {
            core: Reader::new(),
            cells: vec![0; max_bytes],
            cells_len: 0,
            ends: vec![0; MAX_COLUMNS],
            ends_len: 0,
            columns: None,
            line_ends: 0,
            line: None,
            fits: RecordFit::Fits,
        }
    }

    /// Takes a piece of the stream, and adds the records that end in it to `out`, as lines of NDJSON.
    ///
    /// # Errors
    /// When the head names a column that links do not have.
    pub(crate) fn push(&mut self, mut piece: &[u8], out: &mut Vec<NdjsonLine>) -> Result<(), Problem> {
        while !piece.is_empty() {
            let read = self.read(piece, out)?;
            piece = &piece[read..];
        }
        Ok(())
    }

    /// Ends the stream, whose last record can be without a line end.
    ///
    /// # Errors
    /// When the head names a column that links do not have.
    pub(crate) fn finish(mut self, out: &mut Vec<NdjsonLine>) -> Result<(), Problem> {
        // The first call ends the record, the second tells that there is no other.
        for _ in 0..2 {
            self.read(&[], out)?;
        }
        Ok(())
    }

    /// Reads on, up to the end of a record, and returns the number of bytes that were read.
    fn read(&mut self, piece: &[u8], out: &mut Vec<NdjsonLine>) -> Result<usize, Problem> {
        let cells = &mut self.cells[self.cells_len..];
        let ends = &mut self.ends[self.ends_len..];
        let (result, read, cells_read, ends_read) = self.core.read_record(piece, cells, ends);
        self.cells_len += cells_read;
        self.ends_len += ends_read;
        self.count_lines(&piece[..read]);
        match result {
            ReadRecordResult::InputEmpty | ReadRecordResult::End => {}
            ReadRecordResult::OutputFull | ReadRecordResult::OutputEndsFull => {
                self.fits = RecordFit::TooLong;
                self.cells_len = 0;
                self.ends_len = 0;
            }
            ReadRecordResult::Record => {
                self.end_record(out)?;
                self.cells_len = 0;
                self.ends_len = 0;
                self.fits = RecordFit::Fits;
                self.line = None;
            }
        }
        Ok(read)
    }

    /// Notes the line on which the record begins. Blank lines before it are no records.
    fn count_lines(&mut self, read: &[u8]) {
        let blank = read.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        let before = if self.line.is_none() { blank } else { 0 };
        let line_ends = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.line_ends += line_ends(&read[..before]);
        if before < read.len() {
            self.line.get_or_insert(self.line_ends + 1);
        }
        self.line_ends += line_ends(&read[before..]);
    }

    fn end_record(&mut self, out: &mut Vec<NdjsonLine>) -> Result<(), Problem> {
        let mut cells = Vec::with_capacity(self.ends_len);
        // Of a record that is too long, the ends lie behind the cells that were kept.
        if self.fits == RecordFit::Fits {
            let mut from = 0;
            for end in &self.ends[..self.ends_len] {
                cells.push(String::from_utf8_lossy(&self.cells[from..*end]));
                from = *end;
            }
        }
        let Some(columns) = &self.columns else {
            let names = cells.iter().enumerate().map(|(at, cell)| {
                let cell = if at == 0 { cell.trim_start_matches('\u{feff}') } else { cell };
                cell.trim().to_owned()
            });
            self.columns = Some(checked_columns(names.collect(), self.fits)?);
            return Ok(());
        };
        let number = self.line.unwrap_or(1);
        let is_blank = cells.iter().all(|cell| cell.trim().is_empty());
        if self.fits == RecordFit::TooLong {
            out.push(NdjsonLine { number, text: LineText::TooLong });
        } else if !is_blank {
            let json = object(columns, &cells).to_string();
            out.push(NdjsonLine { number, text: LineText::Whole(json.into()) });
        }
        Ok(())
    }
}

/// Checks the names of the columns.
fn checked_columns(columns: Vec<String>, fits: RecordFit) -> Result<Vec<String>, Problem> {
    let wrong = |reason: String| Err(Problem::invalid(vec![FieldError::new("(head)", reason)]));
    if fits == RecordFit::TooLong {
        return wrong(format!("has more than {MAX_COLUMNS} columns, or is too long"));
    }
    let is_known = |name: &str| {
        TEXTS.contains(&name)
            || NUMBERS.contains(&name)
            || TRUTHS.contains(&name)
            || READ_ONLY.contains(&name)
            || name.strip_prefix(METADATA).is_some_and(|key| !key.is_empty())
    };
    if let Some(unknown) = columns.iter().find(|name| !is_known(name)) {
        let unknown: String = unknown.chars().take(64).collect();
        let known = [TEXTS.as_slice(), &NUMBERS, &TRUTHS].concat().join(", ");
        return wrong(format!(
            "names `{unknown}`: the first line must have names of columns, of {known} and metadata.<key>"
        ));
    }
    let distinct: BTreeSet<&String> = columns.iter().collect();
    if distinct.len() < columns.len() {
        return wrong("names a column twice".to_owned());
    }
    Ok(columns)
}

/// Returns the link of a record. An empty cell is an absent field.
fn object(columns: &[String], cells: &[std::borrow::Cow<'_, str>]) -> Value {
    let mut link = Map::new();
    let mut metadata = Map::new();
    for (name, cell) in columns.iter().zip(cells) {
        let cell = unguarded(cell);
        if cell.is_empty() || READ_ONLY.contains(&name.as_str()) {
            continue;
        }
        if let Some(key) = name.strip_prefix(METADATA) {
            metadata.insert(key.to_owned(), cell.into());
        } else {
            link.insert(name.clone(), value(name, cell));
        }
    }
    if !metadata.is_empty() {
        let whole = link.entry("metadata").or_insert_with(|| Map::new().into());
        if let Value::Object(whole) = whole {
            whole.extend(metadata);
        }
    }
    // A record with more cells than the head has columns is refused by the field that no link has.
    if let Some(more) = cells.get(columns.len()).filter(|cell| !cell.is_empty()) {
        link.insert(format!("(column {})", columns.len() + 1), Value::from(more.as_ref()));
    }
    Value::Object(link)
}

/// Returns the JSON of a cell. A cell that is no number or truth stays a text, and is refused with its field.
fn value(name: &str, cell: &str) -> Value {
    if name == "tags" {
        return cell.split('|').map(str::trim).filter(|tag| !tag.is_empty()).collect();
    }
    if name == "metadata" {
        return serde_json::from_str(cell).unwrap_or_else(|_| cell.into());
    }
    let trimmed = cell.trim();
    let number = NUMBERS.contains(&name).then(|| trimmed.parse::<u64>().ok()).flatten();
    let truth = TRUTHS.contains(&name).then(|| trimmed.to_ascii_lowercase().parse::<bool>().ok()).flatten();
    match (number, truth) {
        (Some(number), _) => number.into(),
        (None, Some(truth)) => truth.into(),
        (None, None) => cell.into(),
    }
}

/// Returns a cell that no spreadsheet takes for a formula.
fn guarded(cell: String) -> String {
    if cell.starts_with(FORMULA) { format!("'{cell}") } else { cell }
}

/// Returns a cell without the mark that keeps spreadsheets from taking it for a formula.
fn unguarded(cell: &str) -> &str {
    cell.strip_prefix('\'').filter(|rest| rest.starts_with(FORMULA)).unwrap_or(cell)
}

/// The columns of an export.
pub(crate) const EXPORTED: [&str; 26] = [
    "id",
    "external_id",
    "short_url",
    "domain",
    "slug",
    "former_slugs",
    "destination",
    "campaign",
    "segment",
    "tags",
    "status_code",
    "starts_at",
    "expires_at",
    "expired_url",
    "max_clicks",
    "max_clicks_of",
    "exhausted_at",
    "disabled",
    "archived",
    "append_click_id",
    "passthrough",
    "referrer_policy",
    "metadata",
    "created_at",
    "updated_at",
    "revision",
];

/// Returns the cells of a link in an export. Its metadata is one cell of JSON, since each link has keys of its own.
pub(crate) fn exported(link: &Link) -> Result<Vec<String>, serde_json::Error> {
    let Value::Object(fields) = serde_json::to_value(link)? else { return Ok(Vec::new()) };
    let cell = |name: &&str| match fields.get(*name) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => guarded(text.clone()),
        Some(Value::Array(texts)) => guarded(texts.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("|")),
        Some(other) => other.to_string(),
    };
    Ok(EXPORTED.iter().map(cell).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(pieces: &[&[u8]]) -> Result<Vec<(u64, Option<Value>)>, Problem> {
        let (mut records, mut out) = (CsvRecords::new(200), Vec::new());
        for piece in pieces {
            records.push(piece, &mut out)?;
        }
        records.finish(&mut out)?;
        let json = |text| match text {
            LineText::Whole(bytes) => Some(serde_json::from_slice(&bytes).unwrap()),
            LineText::TooLong => None,
        };
        Ok(out.into_iter().map(|line| (line.number, json(line.text))).collect())
    }

    #[test]
    fn a_record_is_a_link_with_the_fields_of_its_cells() {
        let text = "\u{feff}slug,destination,tags,max_clicks,disabled,metadata.color,id\r\n\
            sale,https://a.example/,a | b,5,TRUE,red,lnk_1\r\n\
            \r\n\
            \"two\nlines\",\"say \"\"hi\"\"\",,x,,,\n\
            '=1,,,,,,";
        let found = read(&[text.as_bytes()]).unwrap();
        let first = json!({"slug": "sale", "destination": "https://a.example/", "tags": ["a", "b"], "max_clicks": 5,
            "disabled": true, "metadata": {"color": "red"}});
        let second = json!({"slug": "two\nlines", "destination": "say \"hi\"", "max_clicks": "x"});
        assert_eq!(found, [(2, Some(first)), (4, Some(second)), (6, Some(json!({"slug": "=1"})))]);
    }

    #[test]
    fn a_head_that_is_none_is_refused() {
        for head in ["destination,colour", "slug,slug", "https://a.example/,sale", "metadata.", ""] {
            let refused = read(&[format!("{head}\nx,y\n").as_bytes()]);
            let named = refused.map_err(|problem| problem.errors[0].field.clone());
            assert!(named == Err("(head)".to_owned()) || head.is_empty(), "{head}: {named:?}");
        }
        let more = read(&[b"slug\na,b\n"]).unwrap();
        assert_eq!(more, [(2, Some(json!({"slug": "a", "(column 2)": "b"})))]);
    }

    #[test]
    fn a_long_record_is_skipped_and_the_next_is_not() {
        let text = format!("slug,destination\na,{}\nb,c\n", "x".repeat(500));
        assert_eq!(read(&[text.as_bytes()]).unwrap(), [(2, None), (3, Some(json!({"slug": "b", "destination": "c"})))]);
    }

    #[test]
    fn an_export_is_imported_again() {
        let link = Link {
            tags: vec!["a".to_owned(), "b".to_owned()],
            campaign: Some("=cmd()".to_owned()),
            max_clicks: Some(7),
            ..schemas::sample::plain_link(schemas::LinkId::from_bits(1), "sale", "https://a.example/")
        };
        let cells = exported(&link).unwrap();
        assert_eq!(cells.len(), EXPORTED.len());
        assert!(cells.contains(&"'=cmd()".to_owned()));
        let columns: Vec<String> = EXPORTED.iter().map(|name| (*name).to_owned()).collect();
        let cells: Vec<_> = cells.into_iter().map(std::borrow::Cow::Owned).collect();
        let again = object(&columns, &cells);
        assert_eq!(
            again,
            json!({"slug": "sale", "destination": "https://a.example/", "campaign": "=cmd()", "tags": ["a", "b"],
                "status_code": 302, "max_clicks": 7, "passthrough": true})
        );
    }

    proptest! {
        #[test]
        fn how_a_stream_is_cut_changes_nothing(text in "[ab,\"\r\n]{0,60}", size in 1_usize..9) {
            let text = format!("slug,destination\n{text}");
            let pieces: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
            prop_assert_eq!(read(&pieces).unwrap(), read(&[text.as_bytes()]).unwrap());
        }
    }
}
