//! What the command line does alike with everything that the API keeps by id.

use clap::Subcommand;
use serde_json::Value;

use super::{list, remove, show};
use crate::{
    api::{ApiArgs, Method},
    output::Columns,
};

/// What is kept, where the API has it, and what is printed of it.
pub(crate) struct Things {
    pub(crate) path: &'static str,
    /// Of one.
    pub(crate) facts: Columns<'static>,
    /// Of many.
    pub(crate) columns: Columns<'static>,
}

/// What can be done with each of them.
#[derive(Debug, Subcommand)]
pub(crate) enum Common {
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

impl Common {
    pub(crate) fn run(self, things: &Things) -> anyhow::Result<()> {
        match self {
            Self::Ls { api } => list(&api, things.path, things.columns),
            Self::Get { id, api } => {
                let thing: Value = api.client()?.call(Method::Get, &format!("{}/{id}", things.path), None)?;
                show(&api, &thing, things.facts);
                Ok(())
            }
            Self::Rm { id, api } => remove(&api, things.path, &id),
        }
    }
}

impl Things {
    /// Makes one and prints it.
    pub(crate) fn create(&self, api: &ApiArgs, body: &Value) -> anyhow::Result<()> {
        self.post(api, self.path, body)
    }

    /// Does something with one and prints what it is then.
    pub(crate) fn act(&self, api: &ApiArgs, id: &str, action: &str, body: &Value) -> anyhow::Result<()> {
        self.post(api, &format!("{}/{id}/{action}", self.path), body)
    }

    fn post(&self, api: &ApiArgs, path: &str, body: &Value) -> anyhow::Result<()> {
        let thing: Value = api.client()?.call(Method::Post, path, Some(body))?;
        show(api, &thing, self.facts);
        Ok(())
    }
}

/// An object of what was given.
pub(crate) fn given<const N: usize>(fields: [(&str, Option<Value>); N]) -> Value {
    fields
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}
