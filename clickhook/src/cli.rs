//! The command line: what there is to type, and which piece of the program it
//! runs.

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use service::telemetry;

use crate::{
    commands::{
        self, campaigns, conversions, dead, domains, endpoints, keys, links, offsets, stats, trigger, workspaces,
    },
    config::{self, Config},
    listen, roles, up, verify,
};

/// Short links whose every click is recorded, enriched and delivered.
#[derive(Debug, Parser)]
#[command(name = "clickhook", version, propagate_version = true, arg_required_else_help = true)]
#[command(
    after_help = "Try it on this machine:\n  clickhook up\n  clickhook links create --slug sale --to https://example.com/\n\nThen follow http://localhost:8080/sale and ask `clickhook stats sale`."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything on this machine, Kafka and ClickHouse included.
    Up(up::UpArgs),
    /// Run the redirector.
    Ingest(RoleArgs),
    /// Run the API for links and endpoints.
    Control(RoleArgs),
    /// Run the enricher.
    Enricher(RoleArgs),
    /// Run the dispatcher: webhooks and the warehouse.
    Dispatcher(DispatcherArgs),
    /// Create the topics and tables that are missing.
    Migrate(RoleArgs),
    /// Check the configuration and print it, secrets left out.
    CheckConfig(RoleArgs),
    /// Create, list, change and delete links.
    #[command(subcommand)]
    Links(links::Command),
    /// Create, list, change and delete the endpoints that webhooks are sent to.
    #[command(subcommand)]
    Endpoints(endpoints::Command),
    /// Create, list and delete campaigns: links that are counted together.
    #[command(subcommand)]
    Campaigns(campaigns::Command),
    /// Create, verify, list and delete the domains that links answer on.
    #[command(subcommand)]
    Domains(domains::Command),
    /// Create, rotate, list and delete keys to the API.
    #[command(subcommand)]
    Keys(keys::Command),
    /// Create, list and delete workspaces.
    #[command(subcommand)]
    Workspaces(workspaces::Command),
    /// Report what a click led to.
    #[command(subcommand)]
    Conversions(conversions::Command),
    /// Receive webhooks on this machine, verify and print them.
    Listen(listen::Args),
    /// Send a sample event to endpoints, through the real path.
    Trigger(trigger::TriggerArgs),
    /// Verify a webhook that was saved to files.
    Verify(verify::Args),
    /// Ask how often a link was followed.
    Stats(stats::StatsArgs),
    /// List and show dead letters, and decide on bundles that may be second copies.
    #[command(subcommand)]
    Dead(dead::Command),
    /// Choose where a consumer group reads on, where only a person can decide.
    #[command(subcommand)]
    Offsets(offsets::Command),
    /// Run a command beside a Kafka and a ClickHouse of its own.
    #[command(subcommand)]
    Engines(EnginesCommand),
}

/// How a role is told its configuration.
#[derive(Clone, Debug, Args)]
pub(crate) struct RoleArgs {
    /// The configuration: TOML over the defaults that `clickhook check-config`
    /// prints. Variables `CLICKHOOK_<SECTION>_<KEY>` override it.
    #[arg(long, value_name = "FILE", env = "CLICKHOOK_CONFIG")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct DispatcherArgs {
    #[command(flatten)]
    role: RoleArgs,
    /// Run only one of its halves.
    #[arg(long, value_enum)]
    only: Option<roles::Half>,
}

#[derive(Debug, Subcommand)]
enum EnginesCommand {
    /// Start both, run a command with `CLICKHOOK_TEST_KAFKA` and
    /// `CLICKHOOK_TEST_CLICKHOUSE` set, stop both, and exit as the command did.
    Exec {
        /// Where the engines keep their data; a temporary folder if none.
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
        /// Brokers of the Kafka; several are a cluster that keeps three replicas.
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=9))]
        brokers: u16,
        /// The command.
        #[arg(required = true, trailing_var_arg = true)]
        command: Vec<OsString>,
    },
}

impl RoleArgs {
    fn load(&self) -> anyhow::Result<Config> {
        let config = config::load(self.config.as_deref())?;
        telemetry::init(config.log.format.into(), &config.log.filter);
        Ok(config)
    }
}

/// Runs what was typed.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    let Cli { command } = Cli::parse();
    match command {
        Command::Up(args) => runtime()?.block_on(up::run(args)).map(|()| ExitCode::SUCCESS),
        Command::Ingest(args) => role(&args, roles::Role::Ingest),
        Command::Control(args) => role(&args, roles::Role::Control),
        Command::Enricher(args) => role(&args, roles::Role::Enricher),
        Command::Dispatcher(args) => {
            let halves =
                args.only.map_or_else(|| vec![roles::Half::Webhook, roles::Half::Warehouse], |half| vec![half]);
            run_roles(&args.role, halves.into_iter().map(roles::Role::Dispatcher).collect())
        }
        Command::Migrate(args) => {
            let config = args.load()?;
            runtime()?.block_on(commands::migrate(&config)).map(|()| ExitCode::SUCCESS)
        }
        Command::CheckConfig(args) => commands::check_config(args.config.as_deref()).map(|()| ExitCode::SUCCESS),
        Command::Links(command) => links::run(command),
        Command::Endpoints(command) => endpoints::run(command).map(|()| ExitCode::SUCCESS),
        Command::Campaigns(command) => campaigns::run(command).map(|()| ExitCode::SUCCESS),
        Command::Domains(command) => domains::run(command).map(|()| ExitCode::SUCCESS),
        Command::Keys(command) => keys::run(command).map(|()| ExitCode::SUCCESS),
        Command::Workspaces(command) => workspaces::run(command).map(|()| ExitCode::SUCCESS),
        Command::Conversions(command) => conversions::run(command).map(|()| ExitCode::SUCCESS),
        Command::Listen(args) => runtime()?.block_on(listen::run(args)).map(|()| ExitCode::SUCCESS),
        Command::Trigger(args) => trigger::run(args).map(|()| ExitCode::SUCCESS),
        Command::Verify(args) => verify::run(args),
        Command::Stats(args) => stats::run(args).map(|()| ExitCode::SUCCESS),
        Command::Dead(command) => runtime()?.block_on(dead::run(command)).map(|()| ExitCode::SUCCESS),
        Command::Offsets(command) => offsets::run(command).map(|()| ExitCode::SUCCESS),
        Command::Engines(EnginesCommand::Exec { data_dir, brokers, command }) => exec(data_dir, brokers, &command),
    }
}

fn role(args: &RoleArgs, role: roles::Role) -> anyhow::Result<ExitCode> {
    run_roles(args, vec![role])
}

fn run_roles(args: &RoleArgs, roles: Vec<roles::Role>) -> anyhow::Result<ExitCode> {
    let config = args.load()?;
    runtime()?.block_on(roles::run_alone(roles, config)).map(|()| ExitCode::SUCCESS)
}

fn exec(data_dir: Option<PathBuf>, brokers: u16, command: &[OsString]) -> anyhow::Result<ExitCode> {
    telemetry::init(telemetry::Format::Text, "warn");
    let temporary =
        tempfile::Builder::new().prefix("clickhook-engines-").tempdir().context("make a temporary folder")?;
    let data_dir = data_dir.unwrap_or_else(|| temporary.path().to_owned());
    let options = engines::Options { brokers, ..engines::Options::new(data_dir) };
    let code = runtime()?.block_on(engines::exec(options, command))?;
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
