//! `clickhook endpoints`.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, ensure};
use clap::Subcommand;
use schemas::{EventId, EventName};
use serde_json::{Map, Value, json};

use super::{
    resource::{ListGetDelete, ResourceSpec, json_object, show},
    since::Since,
};
use crate::{
    api::{ApiArgs, Method},
    output::{self, Columns},
};

const FACTS: Columns<'static> = &[
    ("id", "/id"),
    ("url", "/url"),
    ("events", "/events"),
    ("filters", "/filters"),
    ("batch", "/batch"),
    ("format", "/format"),
    ("status", "/status"),
    ("rate_limit", "/rate_limit"),
    ("max_in_flight", "/max_in_flight"),
    ("previous_expires_at", "/previous_expires_at"),
    ("secret", "/secret"),
];
const ATTEMPTS: Columns<'static> = &[
    ("timestamp", "/timestamp"),
    ("outcome", "/outcome"),
    ("status", "/status"),
    ("attempt", "/attempt"),
    ("event", "/event"),
    ("event_id", "/event_id"),
    ("error", "/error"),
];
const REPLAY: Columns<'static> = &[
    ("id", "/id"),
    ("state", "/state"),
    ("state_reason", "/state_reason"),
    ("records", "/records"),
    ("read", "/read"),
    ("sent", "/sent"),
    ("created_at", "/created_at"),
];
/// The time between two looks at a replay that is waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(300);
const ENDPOINTS: ResourceSpec = ResourceSpec { path: "/v1/endpoints", facts: FACTS, columns: FACTS.split_at(7).0 };

/// The subcommands of `clickhook endpoints`.
#[derive(Debug, Subcommand)]
pub(crate) enum EndpointsCommand {
    /// Create an endpoint; its secret is shown this once.
    #[command(after_help = r"Examples:
  clickhook endpoints create --url http://127.0.0.1:9000/ --events link.clicked
  clickhook endpoints create --url https://example.com/hook --events 'link.*' --filter country=DE --filter country=AT
  clickhook endpoints create --url https://example.com/hook --events '*' --filter bot=true --filter bot=false
  clickhook endpoints create --url https://example.com/hook --batch-events 500 --batch-wait-ms 2000
  clickhook endpoints create --url https://hooks.slack.com/services/… --format slack --rate-limit 1 --batch-wait-ms 5000")]
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
        #[command(flatten)]
        delivery: DeliveryArgs,
        #[command(flatten)]
        secret: NewSecretArgs,
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
    /// Change where an endpoint's webhooks go, which events it gets, or how. What is not named
    /// stays.
    #[command(after_help = r"Examples:
  clickhook endpoints update ep_… --url https://example.com/new
  clickhook endpoints update ep_… --events 'link.*' --filter country=DE --no-filter device
  clickhook endpoints update ep_… --header-from Authorization=token.txt --no-header X-Team
  clickhook endpoints update ep_… --format cloudevents
  clickhook endpoints update ep_… --rate-limit 20 --max-in-flight none")]
    Update {
        /// Its id (`ep_…`).
        id: String,
        /// Where webhooks are sent to.
        #[arg(long)]
        url: Option<String>,
        /// Which events, instead of those before: a name, `link.*` or `*`; several with commas
        /// between.
        #[arg(long, value_delimiter = ',')]
        events: Vec<String>,
        /// Only events with this fact, as KEY=VALUE, instead of the key's values before. The
        /// same key again means or.
        #[arg(long = "filter", value_name = "KEY=VALUE", value_parser = pair)]
        filters: Vec<(String, String)>,
        /// Events whatever this fact is.
        #[arg(long, value_name = "KEY")]
        no_filter: Vec<String>,
        /// Send this header no longer.
        #[arg(long, value_name = "NAME")]
        no_header: Vec<String>,
        #[command(flatten)]
        delivery: DeliveryArgs,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Replace the signing secret of an endpoint; the new one is shown this once, and the one
    /// before goes on signing for a while.
    #[command(after_help = r"Examples:
  clickhook endpoints rotate-secret ep_…
  clickhook endpoints rotate-secret ep_… --overlap-s 3600 --secret-file new.secret
  clickhook endpoints rotate-secret ep_… --overlap-s 0          # the old one has leaked
  clickhook endpoints rotate-secret ep_… --secret-from our.secret")]
    RotateSecret {
        /// Its id (`ep_…`).
        id: String,
        /// The seconds for which the previous secret signs as well; a day by default.
        #[arg(long, value_name = "SECONDS")]
        overlap_s: Option<u32>,
        #[command(flatten)]
        secret: NewSecretArgs,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// List the attempts to deliver to an endpoint, the last first.
    #[command(after_help = r"Examples:
  clickhook endpoints attempts ep_… --outcome dead
  clickhook endpoints attempts ep_… --event-id evt_… --json")]
    Attempts {
        /// Its id (`ep_…`).
        id: String,
        /// Only attempts with this outcome.
        #[arg(long, value_parser = ["delivered", "retrying", "dead", "skipped"])]
        outcome: Option<String>,
        /// Only attempts of this type of events.
        #[arg(long)]
        event: Option<EventName>,
        /// Only attempts of this event (`evt_…`).
        #[arg(long)]
        event_id: Option<EventId>,
        /// The most attempts to list (1 to 200).
        #[arg(long, default_value_t = 50)]
        limit: u32,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Deliver events to an endpoint once more: those of a time, those with an outcome, or those
    /// with an id.
    #[command(after_help = r"Examples:
  clickhook endpoints replay ep_… --since 2h
  clickhook endpoints replay ep_… --since 2026-02-05T14:00:00Z --until 2026-02-05T15:00:00Z
  clickhook endpoints replay ep_… --since 7d --outcome dead
  clickhook endpoints replay ep_… --event-id evt_… --wait")]
    Replay {
        /// Its id (`ep_…`).
        id: String,
        /// The beginning of the time: before now, as in 90m, 24h or 7d, or a moment.
        #[arg(long, value_name = "TIME", required_unless_present = "event_ids")]
        since: Option<Since>,
        /// The end of the time; now by default.
        #[arg(long, value_name = "TIME")]
        until: Option<Since>,
        /// Only events whose last outcome is this one; several with commas between.
        #[arg(long = "outcome", value_delimiter = ',', value_parser = ["delivered", "dead", "skipped"])]
        outcomes: Vec<String>,
        /// The events with these ids (`evt_…`); several with commas between.
        #[arg(long = "event-id", id = "event_ids", value_delimiter = ',', conflicts_with_all = ["since", "until", "outcomes"])]
        event_ids: Vec<EventId>,
        /// Wait until all events are handed over.
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Deliver everything that failed or was skipped once more.
    #[command(after_help = r"Example:
  clickhook endpoints recover ep_… --since 24h --wait")]
    Recover {
        /// Its id (`ep_…`).
        id: String,
        /// The beginning of the time: before now, as in 90m, 24h or 7d, or a moment.
        #[arg(long, value_name = "TIME")]
        since: Since,
        /// Wait until all events are handed over.
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// List the replays of an endpoint, with how far they are.
    Replays {
        /// Its id (`ep_…`).
        id: String,
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

/// The headers, the format and the limits of an endpoint's webhooks.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DeliveryArgs {
    /// Send this header as well, as NAME=VALUE. Other users of this machine can see it here.
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = pair)]
    headers: Vec<(String, String)>,
    /// Send this header as well, with its value in a file, as NAME=FILE.
    #[arg(long, value_name = "NAME=FILE", value_parser = pair)]
    header_from: Vec<(String, String)>,
    /// The milliseconds within which a webhook must be answered (100 to 30000).
    #[arg(long, value_name = "MS")]
    timeout_ms: Option<u32>,
    /// The format of the webhooks.
    #[arg(long, value_parser = ["clickhook", "flat", "cloudevents", "slack"])]
    format: Option<String>,
    /// The most webhooks a second (1 to 10000), or `none`.
    #[arg(long, value_name = "N", value_parser = limit)]
    rate_limit: Option<Value>,
    /// The most webhooks that wait for an answer at once (1 to 1000), or `none`.
    #[arg(long, value_name = "N", value_parser = limit)]
    max_in_flight: Option<Value>,
}

impl DeliveryArgs {
    /// Adds what was given to the body of a request.
    fn add_to(self, body: &mut Value) -> anyhow::Result<()> {
        let from_file = |(name, path): (String, String)| {
            let text = fs::read_to_string(&path).with_context(|| format!("read the header {name} from {path}"))?;
            anyhow::Ok((name, text.trim_end_matches(['\r', '\n']).to_owned()))
        };
        let from_files = self.header_from.into_iter().map(from_file).collect::<anyhow::Result<Vec<_>>>()?;
        for (name, value) in self.headers.into_iter().chain(from_files) {
            body["headers"][name] = value.into();
        }
        let given = [
            ("timeout_ms", self.timeout_ms.map(Value::from)),
            ("format", self.format.map(Value::from)),
            ("rate_limit", self.rate_limit),
            ("max_in_flight", self.max_in_flight),
        ];
        for (name, value) in given {
            if let Some(value) = value {
                body[name] = value;
            }
        }
        Ok(())
    }
}

/// Returns filters with the values of each key in one list.
fn grouped(filters: Vec<(String, String)>) -> Map<String, Value> {
    let mut grouped = Map::new();
    for (key, value) in filters {
        if let Value::Array(values) = grouped.entry(key).or_insert_with(|| json!([])) {
            values.push(value.into());
        }
    }
    grouped
}

fn limit(text: &str) -> Result<Value, String> {
    match text {
        "none" => Ok(Value::Null),
        _ => text.parse::<u32>().map(Value::from).map_err(|_| format!("`{text}` is neither a number nor `none`")),
    }
}

/// The source of a new secret, and the place where it is kept.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct NewSecretArgs {
    /// Write the secret to this file (readable by its owner alone) instead of
    /// showing it.
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Use the secret in this file (`whsec_` and base64) instead of a new one.
    #[arg(long, value_name = "FILE", conflicts_with = "secret_file")]
    secret_from: Option<PathBuf>,
}

impl NewSecretArgs {
    /// Posts `body`, with the secret that was brought along, and keeps the secret of the answer.
    fn post(self, api: &ApiArgs, path: &str, mut body: Value) -> anyhow::Result<Value> {
        if let Some(path) = &self.secret_from {
            let text = fs::read_to_string(path).with_context(|| format!("read the secret from {}", path.display()))?;
            body["secret"] = text.trim().into();
        }
        // The file is opened first: the secret is shown only once.
        let file = self.secret_file.map(|path| open_secret(&path).map(|file| (path, file))).transpose()?;
        let mut endpoint: Value = api.client()?.call(Method::Post, path, Some(&body))?;
        if let Some((path, mut file)) = file {
            let secret = endpoint["secret"].take();
            let secret = secret.as_str().unwrap_or_default();
            if let Err(error) = file.set_len(0).and_then(|()| writeln!(file, "{secret}")) {
                eprintln!("The secret could not be written to {} ({error}). It is {secret}", path.display());
            }
        } else if self.secret_from.is_some() {
            // The caller knows it.
            endpoint["secret"].take();
        }
        Ok(endpoint)
    }
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
        EndpointsCommand::Create { url, events, filters, batch, delivery, secret, api } => {
            let mut body = json!({"url": url, "events": events, "filters": grouped(filters)});
            if let Some(limits) = batch.to_json() {
                body["batch"] = limits;
            }
            delivery.add_to(&mut body)?;
            let endpoint = secret.post(&api, "/v1/endpoints", body)?;
            (api, endpoint)
        }
        EndpointsCommand::Batch { id, batch, off, api } => {
            let limits = if off { Value::Null } else { batch.to_json().unwrap_or_else(|| json!({})) };
            (api.clone(), patch(&api, &id, &json!({"batch": limits}))?)
        }
        EndpointsCommand::Update { id, url, events, filters, no_filter, no_header, delivery, api } => {
            let mut changes = json_object([
                ("url", url.map(Value::from)),
                ("events", (!events.is_empty()).then(|| json!(events))),
                ("filters", (!filters.is_empty()).then(|| json!(grouped(filters)))),
            ]);
            delivery.add_to(&mut changes)?;
            for (field, names) in [("filters", no_filter), ("headers", no_header)] {
                for name in names {
                    changes[field][name] = Value::Null;
                }
            }
            ensure!(changes != json!({}), "name what is to be changed: see clickhook endpoints update --help");
            (api.clone(), patch(&api, &id, &changes)?)
        }
        EndpointsCommand::RotateSecret { id, overlap_s, secret, api } => {
            let body = overlap_s.map_or_else(|| json!({}), |overlap_s| json!({"overlap_s": overlap_s}));
            let endpoint = secret.post(&api, &format!("/v1/endpoints/{id}/rotate-secret"), body)?;
            (api, endpoint)
        }
        EndpointsCommand::Attempts { id, outcome, event, event_id, limit, api } => {
            let mut path = format!("/v1/endpoints/{id}/attempts?limit={limit}");
            let event = event.map(|event| event.to_string());
            let event_id = event_id.map(|id| id.to_string());
            for (name, value) in [("outcome", outcome), ("event", event), ("event_id", event_id)] {
                if let Some(value) = value {
                    path.push_str(&format!("&{name}={value}"));
                }
            }
            let page: Value = api.client()?.call(Method::Get, &path, None)?;
            if api.json {
                output::json(&page["data"]);
            } else {
                output::table(page["data"].as_array().map_or(&[], Vec::as_slice), ATTEMPTS);
            }
            return Ok(());
        }
        EndpointsCommand::Replay { id, since, until, outcomes, event_ids, wait, api } => {
            let body = json_object([
                ("since", since.map(|since| json!(since.moment()))),
                ("until", until.map(|until| json!(until.moment()))),
                ("outcomes", (!outcomes.is_empty()).then(|| json!(outcomes))),
                ("event_ids", (!event_ids.is_empty()).then(|| json!(event_ids))),
            ]);
            return replay(&api, &id, "replay", &body, wait);
        }
        EndpointsCommand::Recover { id, since, wait, api } => {
            return replay(&api, &id, "recover", &json!({"since": since.moment()}), wait);
        }
        EndpointsCommand::Replays { id, api } => {
            let replays = api.client()?.list(&format!("/v1/endpoints/{id}/replays"))?;
            if api.json {
                output::json(&json!(replays));
            } else {
                output::table(&replays, REPLAY);
            }
            return Ok(());
        }
        EndpointsCommand::Pause { id, api } => (api.clone(), act(&api, &id, "pause")?),
        EndpointsCommand::Resume { id, api } => (api.clone(), act(&api, &id, "resume")?),
        EndpointsCommand::Stored(command) => return command.run(&ENDPOINTS),
    };
    show(&api, &endpoint, FACTS);
    Ok(())
}

/// Begins a replay, and waits for its end if that is wanted.
fn replay(api: &ApiArgs, id: &str, action: &str, body: &Value, wait: bool) -> anyhow::Result<()> {
    let client = api.client()?;
    let mut replay: Value = client.call(Method::Post, &format!("/v1/endpoints/{id}/{action}"), Some(body))?;
    let path = format!("/v1/endpoints/{id}/replays/{}", replay["id"].as_str().unwrap_or_default());
    while wait && replay["state"] == "running" {
        thread::sleep(LOOK_AGAIN);
        replay = client.call(Method::Get, &path, None)?;
    }
    show(api, &replay, REPLAY);
    ensure!(replay["state"] != "failed", "the replay failed");
    Ok(())
}

fn act(api: &ApiArgs, id: &str, action: &str) -> anyhow::Result<Value> {
    api.client()?.call(Method::Post, &format!("/v1/endpoints/{id}/{action}"), None)
}

fn patch(api: &ApiArgs, id: &str, changes: &Value) -> anyhow::Result<Value> {
    api.client()?.call(Method::Patch, &format!("/v1/endpoints/{id}"), Some(changes))
}

/// Opens a file that only its owner can read. A secret that is in it stays until the new one is known.
fn open_secret(path: &Path) -> anyhow::Result<fs::File> {
    let open = || -> io::Result<fs::File> {
        let file = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        // A file that existed before may be readable by others.
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        Ok(file)
    };
    open().with_context(|| format!("write the secret to {}", path.display()))
}
