//! `clickhook audit-log`.

use clap::Args;
use schemas::{KeyId, Timestamp};
use serde_json::{Value, json};
use url::form_urlencoded;

use super::since::Since;
use crate::{
    api::{ApiArgs, Method},
    output::{self, Columns},
};

const COLUMNS: Columns<'static> = &[
    ("time", "/timestamp"),
    ("actor", "/actor/type"),
    ("key", "/actor/id"),
    ("name", "/actor/name"),
    ("action", "/action"),
    ("resource", "/resource"),
    ("id", "/ids/0"),
    ("count", "/count"),
    ("fields", "/fields"),
];

/// The arguments of `clickhook audit-log`.
#[derive(Debug, Args)]
#[command(after_help = r"Examples:
  clickhook audit-log --since 7d
  clickhook audit-log --resource key --action rotated
  clickhook audit-log --id lnk_… --json")]
pub(crate) struct AuditLogArgs {
    /// Only changes of this kind of things: link, campaign, endpoint, replay, domain, key, workspace or person.
    #[arg(long)]
    resource: Option<String>,
    /// Only changes of this link, key, ….
    #[arg(long)]
    id: Option<String>,
    /// Only changes by this key (`key_…`).
    #[arg(long)]
    actor: Option<KeyId>,
    /// Only this action: created, updated, deleted, rotated, verified, lapsed, disabled, expired or erased.
    #[arg(long)]
    action: Option<String>,
    /// Only changes since then: 90m, 24h, 7d, or a moment such as 2026-02-05T14:00:00Z.
    #[arg(long)]
    since: Option<Since>,
    /// Only changes before this moment.
    #[arg(long)]
    until: Option<Timestamp>,
    /// The most changes to list (1 to 200).
    #[arg(long, default_value_t = 50)]
    limit: u32,
    #[command(flatten)]
    api: ApiArgs,
}

/// Lists the last changes.
pub(crate) fn run(args: &AuditLogArgs) -> anyhow::Result<()> {
    let chosen = [
        ("resource", args.resource.clone()),
        ("resource_id", args.id.clone()),
        ("actor", args.actor.map(|key| key.to_string())),
        ("action", args.action.clone()),
        ("since", args.since.map(|since| since.moment().to_string())),
        ("until", args.until.map(|until| until.to_string())),
        ("limit", Some(args.limit.to_string())),
    ];
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (name, value) in chosen {
        if let Some(value) = value {
            query.append_pair(name, &value);
        }
    }
    let page: Value = args.api.client()?.call(Method::Get, &format!("/v1/audit?{}", query.finish()), None)?;
    if args.api.json {
        output::json(&page["data"]);
        return Ok(());
    }
    let changes: Vec<Value> = page["data"].as_array().into_iter().flatten().map(row).collect();
    output::table(&changes, COLUMNS);
    Ok(())
}

/// Returns a change as a line of a table: with the number of things, and the fields in one text.
fn row(change: &Value) -> Value {
    let mut row = change.clone();
    let fields = change["fields"].as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>();
    row["fields"] = json!(fields.join(" "));
    row["count"] = json!(change["ids"].as_array().map_or(0, Vec::len));
    row
}
