//! `clickhook migrate`.

use anyhow::{Context, bail};
use bus::Bus;
use clap::Args;
use store::Store;

use crate::roles::RoleArgs;

/// The arguments of `clickhook migrate`.
#[derive(Debug, Args)]
pub(crate) struct MigrateArgs {
    #[command(flatten)]
    role: RoleArgs,
    /// Also set the settings of existing topics that differ from what clickhook relies
    /// on. Without it, existing topics are left as they are.
    #[arg(long)]
    alter_topics: bool,
}

/// Creates the topics and tables that are missing.
pub(crate) async fn run(args: &MigrateArgs) -> anyhow::Result<()> {
    let config = args.role.load()?;
    let bus = Bus::new(config.kafka.clone());
    check_permissions(&bus).await?;
    let topics = bus.migrate().await.context("create the topics")?;
    for name in &topics.created {
        say!("created topic {name}");
    }
    say!("{} topics stood already", topics.standing.len());
    if !topics.created.is_empty() {
        check_permissions(&bus).await?;
    }
    let offsets = bus.commit_missing_offsets().await.context("commit the first offsets of the groups")?;
    if offsets > 0 {
        say!("committed {offsets} first offsets that were missing");
    }
    if args.alter_topics {
        for altered in bus.alter_topics().await.context("set the topics' settings")? {
            say!("{altered}");
        }
    }
    Store::new(config.clickhouse.clone())?.migrate().await.context("create the tables")?;
    say!("the tables of database {} are up to date", config.clickhouse.database);
    Ok(())
}

/// Fails where Kafka does not let its user do what the roles do.
async fn check_permissions(bus: &Bus) -> anyhow::Result<()> {
    let missing = bus.missing_permissions().await?;
    if missing.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = missing.iter().map(|missing| format!("  {missing}")).collect();
    bail!(
        "Kafka's user lacks permissions, which the roles need. Give it these (docs/CLUSTERS.md has the rules by prefix) and \
         run this again:\n{}",
        lines.join("\n")
    )
}
