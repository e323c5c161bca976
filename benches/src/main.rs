//! `make bench`: what clickhook costs on this machine, beside what the machine
//! can do at best, measured in the same run. docs/BENCHMARKS.md says how to read
//! what it prints.

mod agents;
mod api;
mod bare;
mod catalogue;
mod clickhouse;
mod connection;
mod context;
mod conversions;
mod cores;
mod enrich;
mod goal;
mod kafka;
mod links;
mod load;
mod machine;
mod null_hop;
mod outage;
mod pipeline;
mod process;
mod produce;
mod receiver;
mod recovery;
mod redirect;
mod requests;
mod role;
mod sick;
mod stats;
mod summary;
mod table;
mod tenants;
mod turn;
mod visitors;
mod warehouse;
mod webhooks;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Parser, Subcommand};
use serde::Serialize;
use service::Shutdown;

use crate::{
    context::{BenchContext, say},
    machine::Machine,
};

const EXAMPLES: &str = "\
Examples:
  bench                       everything but outages, recovery and conversions, one after the other
  bench redirect              a redirect beside nginx's and bare hyper's
  bench redirect --quick      the same, much shorter: shows that it works, measures little
  bench links --links 1000,100000
  bench api                   links made and imported a second
  bench enrich                an enricher alone with a backlog, beside the same loop without enriching
  bench conversions           enrichers that are killed under clicks and conversions
  bench agents                how many user agents are told right; takes a few seconds
  bench pipeline --rate 200   clicks through the whole pipeline, 200 a second
  bench stats --rows 1000000  the calls of the statistics and the watch, over ten thousand links
  bench warehouse             a backlog of clicks into rows, beside the same bytes inserted raw
  bench tenants               a tenant's calls and redirects beside four that take what they can
  bench webhooks              deliveries beside a bare client; sick endpoints, many endpoints, overload
  bench outage --rounds 1     redirects while Kafka is away, and what became of their clicks
  bench outage full-spool     the same until neither disk nor memory takes clicks
  bench recovery              how long killed processes need, with a short log and a long one
  bench --json > report.json  for programs

It starts engines of its own in a temporary folder and listens on the loopback
interface only. Ctrl-C stops everything. Close what else is busy on the machine first.";

/// Measures clickhook on this machine, beside the machine's limits.
#[derive(Debug, Parser)]
#[command(name = "bench", version, after_help = EXAMPLES)]
struct Args {
    #[command(subcommand)]
    bench: Option<Bench>,
    /// Everything much shorter: shows that it works, measures little.
    #[arg(long, global = true)]
    quick: bool,
    /// Print the report as JSON, for programs.
    #[arg(long, global = true)]
    json: bool,
    /// The binary to measure [default: `clickhook` beside this one]
    #[arg(long, value_name = "FILE", global = true)]
    clickhook: Option<PathBuf>,
}

/// A bench to run.
#[derive(Clone, Debug, Subcommand)]
enum Bench {
    /// A redirect with its recorded, acknowledged click, beside nginx and bare hyper
    Redirect(redirect::Args),
    /// Links by the million: how soon they are known, what they take, what a redirect costs then
    Links(links::Args),
    /// Links made through the API, one by one and imported, beside what Kafka takes
    Api(api::Args),
    /// Redirects while Kafka is frozen or killed, and whether every click is there once afterwards
    Outage(outage::Args),
    /// How long killed processes need until they go on, with a short log and a long one
    Recovery(recovery::Args),
    /// How many known user agents are told right, and what reading one costs
    Agents(agents::Args),
    /// An enricher alone that works off a backlog, beside the same loop without enriching
    Enrich(enrich::Args),
    /// Two enrichers that are killed under clicks and conversions, and whether each is told once
    Conversions(conversions::ConversionsArgs),
    /// Clicks through the whole pipeline to webhooks and rows, and `clickhook up` doing nothing
    Pipeline(pipeline::Args),
    /// The calls of the statistics and the watch: how long they take, and what they read
    Stats(stats::StatsBenchArgs),
    /// The warehouse alone that works off a backlog, beside the same bytes inserted raw
    Warehouse(warehouse::WarehouseArgs),
    /// A tenant's calls and redirects, alone and beside four others that take what they can
    Tenants(tenants::TenantsArgs),
    /// Webhooks alone beside a bare client: throughput, latency, many, sick and dead endpoints
    Webhooks(webhooks::Args),
}

/// The report of one bench.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Report {
    Redirect(Box<redirect::Report>),
    Links(Box<links::Report>),
    Api(Box<api::Report>),
    Outage(Box<outage::OutageReport>),
    Recovery(Box<recovery::Report>),
    Agents(Box<agents::Report>),
    Enrich(Box<enrich::Report>),
    Conversions(Box<conversions::ConversionsReport>),
    Pipeline(Box<pipeline::Report>),
    Stats(Box<stats::StatsReport>),
    Tenants(Box<tenants::TenantsReport>),
    Warehouse(Box<warehouse::WarehouseReport>),
    Webhooks(Box<webhooks::Report>),
}

impl Report {
    fn text(&self) -> String {
        match self {
            Self::Redirect(report) => redirect::text(report),
            Self::Links(report) => links::text(report),
            Self::Api(report) => api::text(report),
            Self::Outage(report) => outage::text(report),
            Self::Recovery(report) => recovery::text(report),
            Self::Agents(report) => agents::text(report),
            Self::Enrich(report) => enrich::text(report),
            Self::Conversions(report) => conversions::text(report),
            Self::Pipeline(report) => pipeline::text(report),
            Self::Stats(report) => stats::text(report),
            Self::Tenants(report) => tenants::text(report),
            Self::Warehouse(report) => warehouse::text(report),
            Self::Webhooks(report) => webhooks::text(report),
        }
    }
}

impl Bench {
    /// Returns the benches that run by default: all but those that take long.
    fn all() -> Vec<Self> {
        let of = |name| Args::parse_from(["bench", name]).bench;
        ["redirect", "links", "api", "tenants", "agents", "enrich", "warehouse", "stats", "pipeline", "webhooks"]
            .into_iter()
            .filter_map(of)
            .collect()
    }

    async fn run(&self, common: &BenchContext, shutdown: &Shutdown) -> anyhow::Result<Report> {
        Ok(match self {
            Self::Redirect(args) => Report::Redirect(Box::new(redirect::run(args, common, shutdown).await?)),
            Self::Links(args) => Report::Links(Box::new(links::run(args, common, shutdown).await?)),
            Self::Api(args) => Report::Api(Box::new(api::run(args, common, shutdown).await?)),
            Self::Outage(args) => Report::Outage(Box::new(outage::run(args, common, shutdown).await?)),
            Self::Recovery(args) => Report::Recovery(Box::new(recovery::run(args, common, shutdown).await?)),
            Self::Agents(_) => Report::Agents(Box::new(agents::run(common)?)),
            Self::Enrich(args) => Report::Enrich(Box::new(enrich::run(args, common, shutdown).await?)),
            Self::Conversions(args) => Report::Conversions(Box::new(conversions::run(args, common, shutdown).await?)),
            Self::Pipeline(args) => Report::Pipeline(Box::new(pipeline::run(args, common, shutdown).await?)),
            Self::Stats(args) => Report::Stats(Box::new(stats::run(args, common, shutdown).await?)),
            Self::Tenants(args) => Report::Tenants(Box::new(tenants::run(args, common, shutdown).await?)),
            Self::Warehouse(args) => Report::Warehouse(Box::new(warehouse::run(args, common, shutdown).await?)),
            Self::Webhooks(args) => Report::Webhooks(Box::new(webhooks::run(args, common, shutdown).await?)),
        })
    }
}

fn main() -> ExitCode {
    let first = std::env::args_os().nth(1);
    let is = |subcommand: &str| first.as_ref().is_some_and(|first| first == subcommand);
    let outcome = if is(bare::SUBCOMMAND) {
        bare::serve()
    } else if is(webhooks::SUBCOMMAND) {
        webhooks::post()
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
    let common = BenchContext::new(args.quick, args.clickhook)?;
    // Clients outlive their Kafka by a moment and would complain.
    service::telemetry::init(service::telemetry::Format::Text, "warn,librdkafka=off");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let chosen = args.bench.map_or_else(Bench::all, |bench| vec![bench]);
    let reports = runtime.block_on(async {
        let shutdown = Shutdown::on_signals().context("listen for signals")?;
        let mut reports = Vec::new();
        for bench in chosen {
            warn_if_busy(&Machine::look());
            let report = bench.run(&common, &shutdown).await?;
            if !args.json {
                println!("{}", report.text());
            }
            reports.push(report);
        }
        anyhow::Ok(reports)
    });
    // A load that was interrupted is not waited for.
    runtime.shutdown_background();
    let reports = reports?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&reports).context("write the report")?);
    }
    Ok(())
}

fn warn_if_busy(machine: &Machine) {
    if machine.was_busy() {
        say(&format!(
            "this machine is busy (load average {:.2}): latencies and rates will be worse than it can do, and only ratios can be compared",
            machine.load_before
        ));
    }
}
