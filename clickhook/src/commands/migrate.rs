//! `clickhook migrate`.

use anyhow::Context;
use bus::Bus;
use store::Store;

use crate::roles::RoleArgs;

/// Creates the topics and tables that are missing.
pub(crate) async fn run(args: &RoleArgs) -> anyhow::Result<()> {
    let config = args.load()?;
    let topics = Bus::new(config.kafka.clone()).migrate().await.context("create the topics")?;
    for name in &topics.created {
        say!("created topic {name}");
    }
    say!("{} topics stood already", topics.standing.len());
    Store::new(config.clickhouse.clone())?.migrate().await.context("create the tables")?;
    say!("the tables of database {} are up to date", config.clickhouse.database);
    Ok(())
}
