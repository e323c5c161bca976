//! `clickhook links import`: a file of links, one a line, sent as it is read.

use std::{
    fs::File,
    io::{self, IsTerminal, Read},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::{
    api::ApiArgs,
    output::{self, Columns},
};

/// The format of a file of links.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LinkFormat {
    #[default]
    Ndjson,
    Csv,
}

impl LinkFormat {
    /// Returns the name of the format in the API.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ndjson => "ndjson",
            Self::Csv => "csv",
        }
    }

    const fn media_type(self) -> &'static str {
        match self {
            Self::Ndjson => "application/x-ndjson",
            Self::Csv => "text/csv",
        }
    }
}

/// The arguments of `clickhook links import`.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// NDJSON: a link a line, as `POST /v1/links` takes it; or CSV, whose first line names the
    /// fields. `-` reads what is piped in.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The format; that of the file's name if none is given.
    #[arg(long, value_enum)]
    format: Option<LinkFormat>,
    /// Tell endpoints and tables nothing of it: no `link.created`, no `link.updated`.
    #[arg(long)]
    no_events: bool,
    #[command(flatten)]
    api: ApiArgs,
}

const FACTS: Columns<'_> =
    &[("created", "/created"), ("updated", "/updated"), ("unchanged", "/unchanged"), ("rejected", "/rejected_total")];
/// The interval at which the progress bar is redrawn while no data moves.
const TICK: Duration = Duration::from_millis(100);

/// Runs `clickhook links import`. The exit code is a failure if a line was rejected.
pub(crate) fn run(args: &ImportArgs) -> anyhow::Result<ExitCode> {
    let (reader, bytes) = open(&args.file)?;
    let by_name = args.file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv"));
    let format = args.format.unwrap_or(if by_name { LinkFormat::Csv } else { LinkFormat::Ndjson });
    let client = args.api.client()?;
    let bar = bar(bytes);
    let path = if args.no_events { "/v1/links/import?events=false" } else { "/v1/links/import" };
    let report: anyhow::Result<Value> = client.stream(path, format.media_type(), &mut bar.wrap_read(reader));
    bar.finish_and_clear();
    let report = report?;
    if args.api.json {
        output::json(&report);
    } else {
        tell(&report);
    }
    Ok(if report["rejected_total"] == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Opens a file, or standard input, and tells its length where it has one.
pub(super) fn open(file: &Path) -> anyhow::Result<(Box<dyn Read>, Option<u64>)> {
    if file == Path::new("-") {
        return Ok((Box::new(io::stdin().lock()), None));
    }
    let opened = File::open(file).with_context(|| format!("open {}", file.display()))?;
    let metadata = opened.metadata().with_context(|| format!("read {}", file.display()))?;
    // A named pipe has no length.
    Ok((Box::new(opened), metadata.is_file().then_some(metadata.len())))
}

/// Returns a progress bar, hidden where standard error is no terminal.
pub(super) fn bar(bytes: Option<u64>) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match bytes {
        Some(bytes) => (ProgressBar::new(bytes), "{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left"),
        None => (ProgressBar::no_length(), "{spinner} {bytes}, {bytes_per_sec}"),
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(TICK);
    bar
}

fn tell(report: &Value) {
    output::facts(report, FACTS);
    for rejected in report["rejected"].as_array().into_iter().flatten() {
        for error in rejected["errors"].as_array().into_iter().flatten() {
            let text = |key: &str| error[key].as_str().unwrap_or("?").to_owned();
            say!("  line {}: {}: {}", rejected["line"], text("field"), text("reason"));
        }
    }
    if report["more"] == true {
        say!("  and more that were rejected");
    }
}
