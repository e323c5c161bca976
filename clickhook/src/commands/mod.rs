//! The commands that are not roles.

pub(crate) mod endpoints;
pub(crate) mod links;
pub(crate) mod offsets;
pub(crate) mod stats;
pub(crate) mod trigger;

use std::path::Path;

use anyhow::Context;
use bus::Bus;
use store::Store;

use crate::config::{self, Config};

/// Creates the topics and tables that are missing.
pub(crate) async fn migrate(config: &Config) -> anyhow::Result<()> {
    let topics = Bus::new(config.kafka.clone()).migrate().await.context("create the topics")?;
    for name in &topics.created {
        println!("created topic {name}");
    }
    println!("{} topics stood already", topics.standing.len());
    Store::new(config.clickhouse.clone())?.migrate().await.context("create the tables")?;
    println!("the tables of database {} are up to date", config.clickhouse.database);
    Ok(())
}

/// Checks the configuration and prints what results, secrets left out.
pub(crate) fn check_config(file: Option<&Path>) -> anyhow::Result<()> {
    let mut config = config::load(file)?;
    for secret in [&mut config.control.admin_key, &mut config.clickhouse.password] {
        if !secret.is_empty() {
            "(set)".clone_into(secret);
        }
    }
    print!("{}", toml::to_string_pretty(&config)?);
    Ok(())
}
