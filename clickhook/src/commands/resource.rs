//! The operations that are the same for every kind of resource of the API: list, show,
//! delete, create and act.

use clap::Subcommand;
use serde_json::{Value, json};

use crate::{
    api::{ApiArgs, Method},
    output::{self, Columns},
};

/// A kind of resource: its path in the API, and the fields that are printed.
pub(crate) struct ResourceSpec {
    /// The path below which the API serves it, such as `/v1/keys`.
    pub(crate) path: &'static str,
    /// The fields that are printed of one resource.
    pub(crate) facts: Columns<'static>,
    /// The fields that are printed in a list.
    pub(crate) columns: Columns<'static>,
}

/// The subcommands that every kind of resource has.
#[derive(Debug, Subcommand)]
pub(crate) enum ListGetDelete {
    /// List all.
    Ls {
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Show one.
    Get {
        /// Its id.
        id: String,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Delete one.
    Rm {
        /// Its id.
        id: String,
        #[command(flatten)]
        api: ApiArgs,
    },
}

impl ListGetDelete {
    /// Runs the subcommand for the kind of resource `spec`.
    pub(crate) fn run(self, spec: &ResourceSpec) -> anyhow::Result<()> {
        match self {
            Self::Ls { api } => list(&api, spec.path, spec.columns),
            Self::Get { id, api } => {
                let resource: Value = api.client()?.call(Method::Get, &format!("{}/{id}", spec.path), None)?;
                show(&api, &resource, spec.facts);
                Ok(())
            }
            Self::Rm { id, api } => remove(&api, spec.path, &id),
        }
    }
}

impl ResourceSpec {
    /// Creates a resource and prints it.
    pub(crate) fn create(&self, api: &ApiArgs, body: &Value) -> anyhow::Result<()> {
        self.post(api, self.path, body)
    }

    /// Posts an action on one resource and prints the resource as it is afterwards.
    pub(crate) fn act(&self, api: &ApiArgs, id: &str, action: &str, body: &Value) -> anyhow::Result<()> {
        self.post(api, &format!("{}/{id}/{action}", self.path), body)
    }

    fn post(&self, api: &ApiArgs, path: &str, body: &Value) -> anyhow::Result<()> {
        let resource: Value = api.client()?.call(Method::Post, path, Some(body))?;
        show(api, &resource, self.facts);
        Ok(())
    }
}

/// Prints every resource that the API lists at `path`.
pub(crate) fn list(api: &ApiArgs, path: &str, columns: Columns<'_>) -> anyhow::Result<()> {
    let resources = api.client()?.list(path)?;
    if api.json {
        output::json(&json!(resources));
    } else {
        output::table(&resources, columns);
    }
    Ok(())
}

/// Prints one resource.
pub(crate) fn show(api: &ApiArgs, resource: &Value, columns: Columns<'_>) {
    if api.json {
        output::json(resource);
    } else {
        output::facts(resource, columns);
    }
}

/// Deletes the resource `id` at `path`, and says so.
fn remove(api: &ApiArgs, path: &str, id: &str) -> anyhow::Result<()> {
    let _: Value = api.client()?.call(Method::Delete, &format!("{path}/{id}"), None)?;
    if !api.json {
        say!("deleted {id}");
    }
    Ok(())
}

/// Returns a JSON object of the fields that have a value.
pub(crate) fn json_object<const N: usize>(fields: [(&str, Option<Value>); N]) -> Value {
    fields
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}
