//! `clickhook engines`.

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::Subcommand;
use service::telemetry;

/// The subcommands of `clickhook engines`.
#[derive(Debug, Subcommand)]
pub(crate) enum EnginesCommand {
    /// Start both, run a command with `CLICKHOOK_TEST_KAFKA` and
    /// `CLICKHOOK_TEST_CLICKHOUSE` set, stop both, and exit as the command did.
    #[command(after_help = r"Example:
  clickhook engines exec -- cargo test --workspace
  clickhook engines exec --brokers 3 -- cargo test --workspace")]
    Exec {
        /// The folder in which the engines keep their data; a temporary one if none is given.
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
        /// The number of Kafka's brokers; several are a cluster that keeps three replicas.
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=9))]
        brokers: u16,
        /// The command with its arguments.
        #[arg(required = true, trailing_var_arg = true)]
        command: Vec<OsString>,
    },
}

/// The heap of a broker that a test run shares: each test has topics of its own, which
/// makes thousands of partitions.
const EXEC_HEAP_MB: u16 = 768;

/// Runs `clickhook engines …`.
pub(crate) async fn run(command: EnginesCommand) -> anyhow::Result<ExitCode> {
    let EnginesCommand::Exec { data_dir, brokers, command } = command;
    telemetry::init(telemetry::Format::Text, "warn");
    let temporary =
        tempfile::Builder::new().prefix("clickhook-engines-").tempdir().context("make a temporary folder")?;
    let data_dir = data_dir.unwrap_or_else(|| temporary.path().to_owned());
    let options = engines::Options { brokers, kafka_heap_mb: Some(EXEC_HEAP_MB), ..engines::Options::new(data_dir) };
    let code = engines::exec(options, &command).await?;
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}
