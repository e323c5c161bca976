//! `clickhook endpoints`.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::resource::{ListGetDelete, ResourceSpec, show};
use crate::{
    api::{ApiArgs, Method},
    output::Columns,
};

const FACTS: Columns<'static> = &[
    ("id", "/id"),
    ("url", "/url"),
    ("events", "/events"),
    ("filters", "/filters"),
    ("batch", "/batch"),
    ("status", "/status"),
    ("secret", "/secret"),
];
const ENDPOINTS: ResourceSpec = ResourceSpec { path: "/v1/endpoints", facts: FACTS, columns: FACTS.split_at(6).0 };

/// The subcommands of `clickhook endpoints`.
#[derive(Debug, Subcommand)]
pub(crate) enum EndpointsCommand {
    /// Create an endpoint; its secret is shown this once.
    #[command(after_help = r"Examples:
  clickhook endpoints create --url http://127.0.0.1:9000/ --events link.clicked
  clickhook endpoints create --url https://example.com/hook --events 'link.*' --filter country=DE --filter country=AT
  clickhook endpoints create --url https://example.com/hook --events '*' --filter bot=true --filter bot=false
  clickhook endpoints create --url https://example.com/hook --batch-events 500 --batch-wait-ms 2000")]
    Create {
        /// Where webhooks are sent to.
        #[arg(long)]
        url: String,
        /// Which events: a name, `link.*` or `*`; several with commas between.
        #[arg(long, value_delimiter = ',', default_value = "link.clicked,qr.scanned")]
        events: Vec<String>,
        /// Only events with this fact, as KEY=VALUE. The same key again means or,
        /// another key means and.
        #[arg(long = "filter", value_name = "KEY=VALUE", value_parser = pair)]
        filters: Vec<(String, String)>,
        #[command(flatten)]
        batch: BatchArgs,
        /// Write the secret to this file (readable by its owner alone) instead of
        /// showing it.
        #[arg(long, value_name = "FILE")]
        secret_file: Option<PathBuf>,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Send the events of an endpoint in batches, change the limits of its batches, or send each
    /// event alone again.
    #[command(after_help = r"Examples:
  clickhook endpoints batch ep_… --batch-events 500 --batch-wait-ms 2000
  clickhook endpoints batch ep_… --off")]
    Batch {
        /// Its id (`ep_…`).
        id: String,
        #[command(flatten)]
        batch: BatchArgs,
        /// Send each event alone.
        #[arg(long, conflicts_with_all = ["max_events", "max_wait_ms", "max_bytes"])]
        off: bool,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Stop deliveries to an endpoint: they wait, for 14 days at most, until it is resumed.
    #[command(after_help = r"Example:
  clickhook endpoints pause ep_…")]
    Pause {
        /// Its id (`ep_…`).
        id: String,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Deliver to a paused endpoint again.
    #[command(after_help = r"Example:
  clickhook endpoints resume ep_…")]
    Resume {
        /// Its id (`ep_…`).
        id: String,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Lists, shows and deletes.
    #[command(flatten)]
    Stored(ListGetDelete),
}

/// The limits at which a batch is cut, whichever is reached first.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct BatchArgs {
    /// Send batches of at most this many events (2 to 1000).
    #[arg(id = "max_events", long = "batch-events", value_name = "N")]
    max_events: Option<u32>,
    /// Let an event wait for others at most this many milliseconds (0 to 10000).
    #[arg(id = "max_wait_ms", long = "batch-wait-ms", value_name = "MS")]
    max_wait_ms: Option<u32>,
    /// Send batches of at most this many bytes (1000 to 1000000).
    #[arg(id = "max_bytes", long = "batch-bytes", value_name = "BYTES")]
    max_bytes: Option<u32>,
}

impl BatchArgs {
    /// Returns the limits that were given, or none.
    fn to_json(self) -> Option<Value> {
        let given = [("max_events", self.max_events), ("max_wait_ms", self.max_wait_ms), ("max_bytes", self.max_bytes)];
        let limits: Map<String, Value> =
            given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.into()))).collect();
        (!limits.is_empty()).then_some(limits.into())
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| format!("`{text}` is not KEY=VALUE"))
}

/// Runs `clickhook endpoints …`.
pub(crate) fn run(command: EndpointsCommand) -> anyhow::Result<()> {
    let (api, endpoint): (ApiArgs, Value) = match command {
        EndpointsCommand::Create { url, events, filters, batch, secret_file, api } => {
            let mut grouped = Map::new();
            for (key, value) in filters {
                if let Value::Array(values) = grouped.entry(key).or_insert_with(|| json!([])) {
                    values.push(value.into());
                }
            }
            let mut body = json!({"url": url, "events": events, "filters": grouped});
            if let Some(limits) = batch.to_json() {
                body["batch"] = limits;
            }
            // The file is opened first: the secret is shown only once, when the endpoint is created.
            let file = secret_file.map(|path| open_secret(&path).map(|file| (path, file))).transpose()?;
            let mut endpoint: Value = api.client()?.call(Method::Post, "/v1/endpoints", Some(&body))?;
            if let Some((path, mut file)) = file {
                let secret = endpoint["secret"].take();
                let secret = secret.as_str().unwrap_or_default();
                if let Err(error) = writeln!(file, "{secret}") {
                    eprintln!("The secret could not be written to {} ({error}). It is {secret}", path.display());
                }
            }
            (api, endpoint)
        }
        EndpointsCommand::Batch { id, batch, off, api } => {
            let limits = if off { Value::Null } else { batch.to_json().unwrap_or_else(|| json!({})) };
            (api.clone(), patch(&api, &id, &json!({"batch": limits}))?)
        }
        EndpointsCommand::Pause { id, api } => (api.clone(), status(&api, &id, "paused")?),
        EndpointsCommand::Resume { id, api } => (api.clone(), status(&api, &id, "active")?),
        EndpointsCommand::Stored(command) => return command.run(&ENDPOINTS),
    };
    show(&api, &endpoint, FACTS);
    Ok(())
}

fn status(api: &ApiArgs, id: &str, status: &str) -> anyhow::Result<Value> {
    patch(api, id, &json!({"status": status}))
}

fn patch(api: &ApiArgs, id: &str, changes: &Value) -> anyhow::Result<Value> {
    api.client()?.call(Method::Patch, &format!("/v1/endpoints/{id}"), Some(changes))
}

/// Opens a file that only its owner can read.
fn open_secret(path: &Path) -> anyhow::Result<fs::File> {
    let open = || -> io::Result<fs::File> {
        let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        // A file that existed before may be readable by others.
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        Ok(file)
    };
    open().with_context(|| format!("write the secret to {}", path.display()))
}
