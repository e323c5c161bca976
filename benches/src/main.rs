//! `make bench`: clicks at a steady rate through the whole pipeline on this
//! machine, then as many as it takes, and beside them, in the same run, the
//! limits of the machine. docs/BENCHMARKS.md says how to read what it prints.

mod connection;
mod idle;
mod limits;
mod load;
mod machine;
mod phase;
mod pipeline;
mod process;
mod receiver;
mod report;
mod scenario;
mod summary;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use clap::Parser;
use service::Shutdown;

/// Measures the whole pipeline on this machine, beside the machine's limits.
#[derive(Debug, Parser)]
#[command(name = "bench", version)]
#[command(
    after_help = "It starts a Kafka and a ClickHouse of its own in a temporary folder and listens on the loopback\ninterface only. Ctrl-C stops everything. Close what else is busy on the machine first."
)]
struct Args {
    /// Clicks a second of the steady load; they come at random moments.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    rate: u32,
    /// Seconds of the steady load [default: 30]
    #[arg(long, value_name = "S")]
    seconds: Option<u64>,
    /// Seconds of load before anything is measured [default: 10]
    #[arg(long, value_name = "S")]
    warm_up: Option<u64>,
    /// Seconds of each load that brings the machine to its limit [default: 10]
    #[arg(long, value_name = "S")]
    saturate: Option<u64>,
    /// Visitors of those loads: each has a connection and follows the link again
    /// as soon as it was answered.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    connections: u16,
    /// Clicks that may be without their webhook in the sustained load.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    under_way: u32,
    /// Seconds of each of the machine's limits [default: 5]
    #[arg(long, value_name = "S")]
    limit_seconds: Option<u64>,
    /// Seconds for which `clickhook up` is watched doing nothing; 0 leaves it out [default: 20]
    #[arg(long, value_name = "S")]
    idle: Option<u64>,
    /// Everything much shorter: shows that it works, measures little.
    #[arg(long)]
    quick: bool,
    /// Print the report as JSON, for programs.
    #[arg(long)]
    json: bool,
    /// The binary to measure [default: `clickhook` beside this one]
    #[arg(long, value_name = "FILE")]
    clickhook: Option<PathBuf>,
}

/// What is to be measured.
pub(crate) struct Plan {
    pub(crate) rate: u32,
    pub(crate) steady: Duration,
    pub(crate) warm_up: Duration,
    pub(crate) saturate: Duration,
    pub(crate) connections: u16,
    pub(crate) under_way: u32,
    pub(crate) limit: Duration,
    /// How long `up` may come to rest before it is watched, and for how long.
    pub(crate) settle: Duration,
    pub(crate) idle: Duration,
    pub(crate) binary: PathBuf,
}

impl Args {
    fn plan(self) -> anyhow::Result<Plan> {
        let quick = self.quick;
        let seconds = |given: Option<u64>, full: u64, short: u64| {
            Duration::from_secs(given.unwrap_or(if quick { short } else { full }))
        };
        let binary = match self.clickhook {
            Some(binary) => binary,
            None => std::env::current_exe().context("find the running program")?.with_file_name("clickhook"),
        };
        if !binary.is_file() {
            bail!("there is no {}: build it with `make build`, or name it with --clickhook", binary.display());
        }
        Ok(Plan {
            rate: self.rate,
            steady: seconds(self.seconds, 30, 5),
            warm_up: seconds(self.warm_up, 10, 2),
            saturate: seconds(self.saturate, 10, 3),
            connections: self.connections,
            under_way: self.under_way,
            limit: seconds(self.limit_seconds, 5, 2),
            settle: seconds(None, 15, 4),
            idle: seconds(self.idle, 20, 5),
            // Children run in folders of their own.
            binary: std::path::absolute(&binary).with_context(|| format!("resolve {}", binary.display()))?,
        })
    }
}

fn main() -> ExitCode {
    let outcome = if std::env::args_os().nth(1).is_some_and(|first| first == limits::BARE_SUBCOMMAND) {
        limits::serve_bare()
    } else {
        run(Args::parse())
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> anyhow::Result<()> {
    let json = args.json;
    let plan = args.plan()?;
    service::telemetry::init(service::telemetry::Format::Text, "warn");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let report = runtime.block_on(async {
        let shutdown = Shutdown::on_signals().context("listen for signals")?;
        scenario::run(&plan, &shutdown).await
    });
    // A load that was interrupted is not waited for.
    runtime.shutdown_background();
    let report = report?;
    if json {
        println!("{}", serde_json::to_string_pretty(&report).context("write the report")?);
    } else {
        println!("{}", report::text(&report));
    }
    Ok(())
}
