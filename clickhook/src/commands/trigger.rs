//! `clickhook trigger`: sends a sample of any event through the real path, signed.

use anyhow::{Context, bail};
use clap::Args;
use schemas::EventName;
use serde_json::{Value, json};

use crate::{
    api::{ApiArgs, Method},
    output,
};

/// The arguments of `clickhook trigger`.
#[derive(Debug, Args)]
#[command(after_help = r"Examples:
  clickhook trigger link.clicked
  clickhook trigger webhook.test --endpoint ep_01JC…")]
pub(crate) struct TriggerArgs {
    /// The event's name.
    event: EventName,
    /// Only to this endpoint (`ep_…`); to all that are active if none is given.
    #[arg(long, value_name = "ID")]
    endpoint: Option<String>,
    #[command(flatten)]
    api: ApiArgs,
}

/// Runs `clickhook trigger`.
pub(crate) fn run(args: TriggerArgs) -> anyhow::Result<()> {
    let api = args.api.client()?;
    let ids = match args.endpoint {
        Some(id) => vec![id],
        None => active(&api.list("/v1/endpoints")?).context("read the list of endpoints")?,
    };
    if ids.is_empty() {
        bail!("there is no active endpoint: create one with `clickhook endpoints create`");
    }
    let mut sent = Vec::new();
    for id in ids {
        let body = json!({"event": args.event});
        let answer: Value = api.call(Method::Post, &format!("/v1/endpoints/{id}/test"), Some(&body))?;
        sent.push(json!({"endpoint": id, "event": args.event, "id": answer["id"]}));
    }
    if args.api.json {
        output::json(&json!(sent));
    } else {
        output::table(&sent, &[("endpoint", "/endpoint"), ("event", "/event"), ("id", "/id")]);
    }
    Ok(())
}

fn active(endpoints: &[Value]) -> Option<Vec<String>> {
    endpoints
        .iter()
        .filter(|endpoint| endpoint["status"] == "active")
        .map(|endpoint| Some(endpoint["id"].as_str()?.to_owned()))
        .collect()
}
