//! `clickhook migrate`.

use anyhow::Context;
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
    let topics = bus.migrate().await.context("create the topics")?;
    for name in &topics.created {
        say!("created topic {name}");
    }
    say!("{} topics stood already", topics.standing.len());
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
