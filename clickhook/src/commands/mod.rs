//! The commands that are not roles.

pub(crate) mod campaigns;
pub(crate) mod conversions;
pub(crate) mod dead;
pub(crate) mod domains;
pub(crate) mod endpoints;
pub(crate) mod import;
pub(crate) mod keys;
pub(crate) mod links;
pub(crate) mod offsets;
pub(crate) mod stats;
pub(crate) mod things;
pub(crate) mod trigger;
pub(crate) mod workspaces;

use std::path::Path;

use anyhow::Context;
use bus::Bus;
use serde_json::{Value, json};
use store::Store;

use crate::{
    api::{ApiArgs, Method},
    config::{self, Config},
    output::{self, Columns},
};

/// Prints everything that is listed at `path`.
fn list(api: &ApiArgs, path: &str, columns: Columns<'_>) -> anyhow::Result<()> {
    let things = api.client()?.list(path)?;
    if api.json {
        output::json(&json!(things));
    } else {
        output::table(&things, columns);
    }
    Ok(())
}

/// Prints one thing.
fn show(api: &ApiArgs, thing: &Value, columns: Columns<'_>) {
    if api.json {
        output::json(thing);
    } else {
        output::facts(thing, columns);
    }
}

/// Deletes what is at `path`, and says so.
fn remove(api: &ApiArgs, path: &str, id: &str) -> anyhow::Result<()> {
    let _: Value = api.client()?.call(Method::Delete, &format!("{path}/{id}"), None)?;
    if !api.json {
        say!("deleted {id}");
    }
    Ok(())
}

/// Creates the topics and tables that are missing.
pub(crate) async fn migrate(config: &Config) -> anyhow::Result<()> {
    let topics = Bus::new(config.kafka.clone()).migrate().await.context("create the topics")?;
    for name in &topics.created {
        say!("created topic {name}");
    }
    say!("{} topics stood already", topics.standing.len());
    Store::new(config.clickhouse.clone())?.migrate().await.context("create the tables")?;
    say!("the tables of database {} are up to date", config.clickhouse.database);
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
    for (key, value) in &mut config.kafka.properties {
        if ["password", "secret", "key", "pem", "token", "jaas", "certificate"].iter().any(|word| key.contains(word)) {
            "(set)".clone_into(value);
        }
    }
    say!("{}", toml::to_string_pretty(&config)?.trim_end());
    Ok(())
}
