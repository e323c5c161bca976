//! `clickhook conversions import`: a file of conversions, sent in requests of many lines.
//! Rejected lines are told by their numbers in the file.

use std::{
    io::{self, BufRead, BufReader, Read},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use super::import::{bar, open};
use crate::{
    api::{ApiArgs, ApiClient},
    output::{self, Columns},
};

/// The lines of a request, and the bytes from which it is sent with fewer: below what the
/// intake takes.
const MAX_LINES: usize = 2_000;
const MAX_BYTES: usize = 512 << 10;
/// The rejected lines that are told.
const MAX_TOLD: usize = 1_000;

/// The arguments of `clickhook conversions import`.
#[derive(Debug, Args)]
pub(crate) struct ConversionsImportArgs {
    /// The file; `-` reads what is piped in.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The format; told by the file's name if none is given, else NDJSON.
    #[arg(long, value_enum)]
    format: Option<ImportFormat>,
    /// A text of your choice that makes the import safe to repeat, also for lines without
    /// `order_id`: import the same file under the same key.
    #[arg(long)]
    key: Option<String>,
    #[command(flatten)]
    api: ApiArgs,
}

/// The format of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ImportFormat {
    /// One JSON object a line.
    Ndjson,
    /// A header with names of fields, then a conversion a record.
    Csv,
}

const FACTS: Columns<'_> = &[("accepted", "/accepted"), ("rejected", "/rejected_total")];

/// Runs `clickhook conversions import`. The exit code is a failure if a line was rejected.
pub(crate) fn run(args: &ConversionsImportArgs) -> anyhow::Result<ExitCode> {
    let by_name = args.file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv"));
    let format = args.format.unwrap_or(if by_name { ImportFormat::Csv } else { ImportFormat::Ndjson });
    let (reader, bytes) = open(&args.file)?;
    let bar = bar(bytes);
    let client = args.api.client()?;
    let mut import = ConversionImport {
        client: &client,
        key: args.key.as_deref(),
        batch: LineBatch::default(),
        report: ConversionImportReport::default(),
    };
    let reader = bar.wrap_read(reader);
    let imported = match format {
        ImportFormat::Ndjson => import.ndjson(BufReader::new(reader)),
        ImportFormat::Csv => import.csv(reader),
    };
    bar.finish_and_clear();
    let report = import.report;
    imported.with_context(|| {
        format!("the import stopped: {} conversions are recorded. It can be repeated", report.accepted)
    })?;
    let rejected = report.rejected_total;
    if args.api.json {
        output::json(&report.json());
    } else {
        report.tell();
    }
    Ok(if rejected == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The outcome of an import.
#[derive(Debug, Default)]
struct ConversionImportReport {
    accepted: u64,
    rejected_total: u64,
    /// The first rejected lines: `{"line":n,"errors":[…]}`.
    rejected: Vec<Value>,
}

impl ConversionImportReport {
    fn reject(&mut self, line: u64, errors: &Value) {
        self.rejected_total += 1;
        if self.rejected.len() < MAX_TOLD {
            self.rejected.push(json!({"line": line, "errors": errors}));
        }
    }

    fn json(&self) -> Value {
        json!({"accepted": self.accepted, "rejected_total": self.rejected_total, "rejected": self.rejected})
    }

    fn tell(&self) {
        output::facts(&self.json(), FACTS);
        for rejected in &self.rejected {
            for error in rejected["errors"].as_array().into_iter().flatten() {
                let text = |key: &str| error[key].as_str().unwrap_or("?").to_owned();
                say!("  line {}: {}: {}", rejected["line"], text("field"), text("reason"));
            }
        }
        if self.rejected_total > self.rejected.len() as u64 {
            say!("  and more that were rejected");
        }
    }
}

/// The lines of the next request, and their numbers in the file.
#[derive(Debug, Default)]
struct LineBatch {
    lines: Vec<u64>,
    body: String,
}

struct ConversionImport<'a> {
    client: &'a ApiClient,
    key: Option<&'a str>,
    batch: LineBatch,
    report: ConversionImportReport,
}

impl ConversionImport<'_> {
    fn ndjson(&mut self, reader: impl BufRead) -> anyhow::Result<()> {
        for (number, line) in (1..).zip(reader.split(b'\n')) {
            let line = line.context("read the file")?;
            match std::str::from_utf8(&line) {
                Ok(line) if line.trim_start_matches('\u{feff}').trim().is_empty() => {}
                Ok(line) => self.add(number, line.trim())?,
                Err(_) => self.report.reject(number, &json!([{"field": "(line)", "reason": "is not UTF-8"}])),
            }
        }
        self.send()
    }

    fn csv(&mut self, reader: impl Read) -> anyhow::Result<()> {
        let mut reader = csv::ReaderBuilder::new().flexible(true).trim(csv::Trim::All).from_reader(reader);
        let header = reader.headers().context("the file has no header")?.clone();
        for name in &header {
            let name = name.trim_start_matches('\u{feff}');
            if !is_column(name) {
                bail!("no conversion has the field `{name}`: known are {}, metadata.<key>", COLUMNS.join(", "));
            }
        }
        let mut record = csv::StringRecord::new();
        loop {
            match reader.read_record(&mut record) {
                Ok(false) => return self.send(),
                Ok(true) => {
                    let line = record.position().map_or(0, csv::Position::line);
                    match conversion(&header, &record) {
                        Ok(conversion) => self.add(line, &conversion.to_string())?,
                        Err((field, reason)) => {
                            self.report.reject(line, &json!([{"field": field, "reason": reason}]));
                        }
                    }
                }
                Err(error) if matches!(error.kind(), csv::ErrorKind::Utf8 { .. }) => {
                    let line = error.position().map_or(0, csv::Position::line);
                    self.report.reject(line, &json!([{"field": "(line)", "reason": "is not UTF-8"}]));
                }
                Err(error) => return Err(io::Error::from(error)).context("read the file"),
            }
        }
    }

    fn add(&mut self, number: u64, line: &str) -> anyhow::Result<()> {
        if self.batch.lines.len() >= MAX_LINES || self.batch.body.len() + line.len() > MAX_BYTES {
            self.send()?;
        }
        self.batch.lines.push(number);
        self.batch.body.push_str(line);
        self.batch.body.push('\n');
        Ok(())
    }

    /// Sends the lines that were collected.
    fn send(&mut self) -> anyhow::Result<()> {
        let LineBatch { lines, body } = std::mem::take(&mut self.batch);
        let Some(first) = lines.first() else { return Ok(()) };
        // The same lines of the same file have the same key each time.
        let key = self.key.map(|key| format!("{key}/{first}"));
        let answer = self.client.lines("/v1/conversions", &body, key.as_deref())?;
        self.report.accepted += answer["accepted"].as_u64().unwrap_or_default();
        for rejected in answer["rejected"].as_array().into_iter().flatten() {
            let nth = rejected["line"].as_u64().and_then(|nth| usize::try_from(nth).ok()).unwrap_or_default();
            let number = nth.checked_sub(1).and_then(|index| lines.get(index)).copied().unwrap_or_default();
            self.report.reject(number, &rejected["errors"]);
        }
        Ok(())
    }
}

/// The columns that a CSV file may have, besides `metadata.<key>`.
const COLUMNS: [&str; 11] = [
    "click_id",
    "name",
    "order_id",
    "product",
    "amount",
    "commission",
    "currency",
    "affiliate_id",
    "customer_id",
    "status",
    "timestamp",
];

fn is_column(name: &str) -> bool {
    COLUMNS.contains(&name) || name.strip_prefix("metadata.").is_some_and(|key| !key.is_empty())
}

/// Returns the conversion of a CSV record: empty cells are absent facts.
fn conversion(header: &csv::StringRecord, record: &csv::StringRecord) -> Result<Value, (String, String)> {
    if record.len() > header.len() {
        let reason = format!("has {} cells, the header has {}", record.len(), header.len());
        return Err(("(line)".to_owned(), reason));
    }
    let cells = header.iter().zip(record).map(|(name, cell)| (name.trim_start_matches('\u{feff}'), cell));
    let mut conversion = Map::new();
    let mut metadata = Map::new();
    let mut currency = None;
    for (name, cell) in cells.filter(|(_, cell)| !cell.is_empty()) {
        match name {
            "currency" => currency = Some(cell),
            "amount" | "commission" => {
                let minor: i64 = cell.parse().map_err(|_| {
                    let reason =
                        format!("`{cell}` is no whole number of the currency's minor unit, such as 4990 for 49.90");
                    (name.to_owned(), reason)
                })?;
                conversion.insert(name.to_owned(), json!({"value": minor}));
            }
            _ => match name.strip_prefix("metadata.") {
                Some(key) => drop(metadata.insert(key.to_owned(), cell.into())),
                None => drop(conversion.insert(name.to_owned(), cell.into())),
            },
        }
    }
    for name in ["amount", "commission"] {
        if let Some(amount) = conversion.get_mut(name) {
            let Some(currency) = currency else {
                return Err(("currency".to_owned(), format!("is missing, and there is {name}")));
            };
            amount["currency"] = currency.into();
        }
    }
    if !metadata.is_empty() {
        conversion.insert("metadata".to_owned(), metadata.into());
    }
    Ok(conversion.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<Result<Value, (String, String)>> {
        let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(text.as_bytes());
        let header = reader.headers().unwrap().clone();
        reader.records().map(|record| conversion(&header, &record.unwrap())).collect()
    }

    #[test]
    fn a_record_is_a_conversion() {
        let text = "\u{feff}click_id,name,amount,commission,currency,metadata.coupon,order_id\n\
                    clk_1,purchase,4990,499,EUR,\"A, B\",\nclk_2,signup\n";
        let expected = [
            json!({"click_id": "clk_1", "name": "purchase", "amount": {"value": 4990, "currency": "EUR"},
                "commission": {"value": 499, "currency": "EUR"}, "metadata": {"coupon": "A, B"}}),
            json!({"click_id": "clk_2", "name": "signup"}),
        ];
        assert_eq!(read(text).into_iter().map(Result::unwrap).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_cell_that_cannot_be_read_is_named() {
        for (text, field) in [
            ("name,amount,currency\na,49.90,EUR\n", "amount"),
            ("name,amount\na,4990\n", "currency"),
            ("name\na,b\n", "(line)"),
        ] {
            assert_eq!(read(text).remove(0).unwrap_err().0, field, "{text}");
        }
        assert!(is_column("metadata.x") && is_column("status"));
        assert!(!is_column("metadata.") && !is_column("value"));
    }
}
