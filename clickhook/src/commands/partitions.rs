//! `clickhook partitions`: more partitions for all shared topics, while everything runs.

use anyhow::Context;
use bus::{Bus, PartitionFollower};
use clap::Subcommand;
use schemas::ids::SHARDS;

use crate::{config, roles::RoleArgs};

/// The subcommands of `clickhook partitions`.
#[derive(Debug, Subcommand)]
pub(crate) enum PartitionsCommand {
    /// Raise the number of partitions of all shared topics, while everything runs.
    #[command(after_help = r"Kafka takes no partition away again. Example:
  clickhook partitions widen --to 8")]
    Widen {
        /// The number of partitions that each shared topic then has.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(SHARDS)))]
        to: u16,
        #[command(flatten)]
        role: RoleArgs,
    },
}

/// Runs `clickhook partitions …`.
pub(crate) async fn run(command: PartitionsCommand) -> anyhow::Result<()> {
    let PartitionsCommand::Widen { to, role } = command;
    let bus = Bus::new(config::load(role.config.as_deref())?.kafka);
    let widened = bus.widen(to).await.context("widen the topics")?;
    for topic in &widened {
        say!("{}: {} partitions instead of {}", topic.name, topic.now, topic.before);
    }
    if widened.is_empty() {
        say!("every shared topic has {to} partitions already: nothing was changed");
        return Ok(());
    }
    let seconds = PartitionFollower::USED_WITHIN.as_secs();
    say!("Running processes read and use the new partitions within about {seconds} s: none needs a restart.");
    Ok(())
}
