//! The command line: the commands, and the part of the program that each one runs.

use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};

use crate::{
    commands::{
        audit, audit_log, campaigns, check_config, conversions, dead, domains, endpoints, engines, keys, links, listen,
        migrate, offsets, partitions, spool, stats, trigger, verify, workspaces,
    },
    roles::{self, Half, PipelineRole, RoleArgs},
    up,
};

/// Short links whose every click is recorded, enriched and delivered.
#[derive(Debug, Parser)]
#[command(name = "clickhook", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = r"Try it on this machine:
  clickhook up
  clickhook links create --slug sale --to https://example.com/

Then follow http://localhost:8080/sale and ask `clickhook stats sale`.")]
struct Cli {
    #[command(subcommand)]
    command: TopCommand,
}

/// The commands of `clickhook`.
#[derive(Debug, Subcommand)]
enum TopCommand {
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
    Migrate(migrate::MigrateArgs),
    /// Check the configuration and print it, secrets left out.
    #[command(after_help = r"Example:
  clickhook check-config --config clickhook.toml")]
    CheckConfig(RoleArgs),
    /// Create, list, change and delete links.
    #[command(subcommand)]
    Links(links::LinksCommand),
    /// Create, list, change and delete the endpoints that webhooks are sent to.
    #[command(subcommand)]
    Endpoints(endpoints::EndpointsCommand),
    /// Create, list and delete campaigns: links that are counted together.
    #[command(subcommand)]
    Campaigns(campaigns::CampaignsCommand),
    /// Create, verify, list and delete the domains that links answer on.
    #[command(subcommand)]
    Domains(domains::DomainsCommand),
    /// Create, rotate, list and delete keys to the API.
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Create, list and delete workspaces.
    #[command(subcommand)]
    Workspaces(workspaces::WorkspacesCommand),
    /// Report, import and list conversions: what clicks led to.
    #[command(subcommand)]
    Conversions(conversions::ConversionsCommand),
    /// Receive webhooks on this machine, verify and print them.
    Listen(listen::ListenArgs),
    /// Send a sample event to endpoints, through the real path.
    Trigger(trigger::TriggerArgs),
    /// Verify a webhook that was saved to files.
    Verify(verify::VerifyArgs),
    /// Ask how often a link was followed.
    Stats(stats::StatsArgs),
    /// Check that everything that was captured is delivered, waiting, dead or skipped.
    Audit(audit::AuditArgs),
    /// List who changed what: links, keys, domains and the rest.
    AuditLog(audit_log::AuditLogArgs),
    /// List and show dead letters, and decide on bundles that may be second copies.
    #[command(subcommand)]
    Dead(dead::DeadCommand),
    /// Choose where a consumer group reads on, where only a person can decide.
    #[command(subcommand)]
    Offsets(offsets::OffsetsCommand),
    /// Give all shared topics more partitions, while everything runs.
    #[command(subcommand)]
    Partitions(partitions::PartitionsCommand),
    /// Hand Kafka the clicks on the disk of a redirector that will not come back.
    #[command(subcommand)]
    Spool(spool::SpoolSubcommand),
    /// Run a command beside a Kafka and a ClickHouse of its own.
    #[command(subcommand)]
    Engines(engines::EnginesCommand),
}

/// The arguments of `clickhook dispatcher`.
#[derive(Debug, Args)]
#[command(after_help = r"Example:
  clickhook dispatcher --only webhook --config clickhook.toml")]
struct DispatcherArgs {
    #[command(flatten)]
    role: RoleArgs,
    /// Run only one of its halves.
    #[arg(long, value_enum)]
    only: Option<Half>,
}

/// Runs the command of the command line. Most commands only fail or succeed; five
/// choose their exit code themselves.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    let Cli { command } = Cli::parse();
    let outcome = match command {
        TopCommand::Up(args) => runtime()?.block_on(up::run(args)),
        TopCommand::Ingest(args) => run_roles(&args, vec![PipelineRole::Ingest]),
        TopCommand::Control(args) => run_roles(&args, vec![PipelineRole::Control]),
        TopCommand::Enricher(args) => run_roles(&args, vec![PipelineRole::Enricher]),
        TopCommand::Dispatcher(DispatcherArgs { role, only }) => {
            let halves = only.map_or_else(|| vec![Half::Webhook, Half::Warehouse], |half| vec![half]);
            run_roles(&role, halves.into_iter().map(PipelineRole::Dispatcher).collect())
        }
        TopCommand::Migrate(args) => runtime()?.block_on(migrate::run(&args)),
        TopCommand::CheckConfig(args) => check_config::run(&args),
        TopCommand::Links(command) => return links::run(command),
        TopCommand::Endpoints(command) => endpoints::run(command),
        TopCommand::Campaigns(command) => campaigns::run(command),
        TopCommand::Domains(command) => domains::run(command),
        TopCommand::Keys(command) => keys::run(command),
        TopCommand::Workspaces(command) => workspaces::run(command),
        TopCommand::Conversions(command) => return conversions::run(command),
        TopCommand::Listen(args) => runtime()?.block_on(listen::run(args)),
        TopCommand::Trigger(args) => trigger::run(args),
        TopCommand::Verify(args) => return verify::run(args),
        TopCommand::Stats(args) => stats::run(&args),
        TopCommand::Audit(args) => return runtime()?.block_on(audit::run(&args)),
        TopCommand::AuditLog(args) => audit_log::run(&args),
        TopCommand::Dead(command) => runtime()?.block_on(dead::run(command)),
        TopCommand::Offsets(command) => offsets::run(command),
        TopCommand::Partitions(command) => runtime()?.block_on(partitions::run(command)),
        TopCommand::Spool(command) => runtime()?.block_on(spool::run(command)),
        TopCommand::Engines(command) => return runtime()?.block_on(engines::run(command)),
    };
    outcome.map(|()| ExitCode::SUCCESS)
}

fn run_roles(args: &RoleArgs, roles: Vec<PipelineRole>) -> anyhow::Result<()> {
    let config = args.load()?;
    runtime()?.block_on(roles::run_alone(roles, config))
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

    #[test]
    fn the_commands_that_errors_name_exist() {
        for command in [
            "clickhook migrate",
            "clickhook migrate --alter-topics --config /etc/clickhook.toml",
            "clickhook partitions widen --to 6 --config /etc/clickhook.toml",
            "clickhook offsets set --group webhook.clicks --topic clicks.raw --to earliest --config /etc/clickhook.toml",
        ] {
            let parsed = Cli::try_parse_from(command.split(' '));
            assert!(parsed.is_ok(), "{command}: {}", parsed.err().map(|error| error.to_string()).unwrap_or_default());
        }
    }
}
