//! `clickhook keys`.

use clap::Subcommand;
use serde_json::json;

use super::resource::{ListGetDelete, ResourceSpec, json_object};
use crate::api::ApiArgs;

const KEYS: ResourceSpec = ResourceSpec {
    path: "/v1/keys",
    facts: &[
        ("id", "/id"),
        ("name", "/name"),
        ("scopes", "/scopes"),
        ("origins", "/origins"),
        ("expires", "/expires_at"),
        ("last used", "/last_used_at"),
        ("secret", "/secret"),
    ],
    columns: &[
        ("id", "/id"),
        ("name", "/name"),
        ("scopes", "/scopes"),
        ("begins with", "/hint"),
        ("expires", "/expires_at"),
        ("last used", "/last_used_at"),
    ],
};

/// The subcommands of `clickhook keys`.
#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Create a key; its secret is shown this once.
    #[command(after_help = r"Examples:
  clickhook keys create --name crm --scope links,stats
  clickhook keys create --name shop --scope conversions --expires-at 2027-01-01T00:00:00Z
  clickhook keys create --name network --scope postback")]
    Create {
        /// The name that people call it by.
        #[arg(long)]
        name: String,
        /// The scopes that it has: links, endpoints, conversions, stats, admin; or postback alone. Several
        /// with commas between.
        #[arg(long = "scope", value_delimiter = ',', required = true)]
        scopes: Vec<String>,
        /// The time at which it stops being accepted (RFC 3339).
        #[arg(long, value_name = "TIME")]
        expires_at: Option<String>,
        /// An origin whose pages may use it in a browser, such as `https://app.example.com`; give it
        /// several times for several.
        #[arg(long = "origin", value_name = "ORIGIN")]
        origins: Vec<String>,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Give a key a new secret; the old one is accepted for a while longer.
    #[command(after_help = r"Example:
  clickhook keys rotate key_… --overlap-s 3600")]
    Rotate {
        /// Its id (`key_…`).
        id: String,
        /// How many seconds the old secret is still accepted [default: a day]
        #[arg(long, value_name = "S")]
        overlap_s: Option<u32>,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Lists, shows and deletes (a deleted key is not accepted).
    #[command(flatten)]
    Stored(ListGetDelete),
}

/// Runs `clickhook keys …`.
pub(crate) fn run(command: KeysCommand) -> anyhow::Result<()> {
    match command {
        KeysCommand::Create { name, scopes, expires_at, origins, api } => {
            let body = json_object([
                ("name", Some(name.into())),
                ("scopes", Some(scopes.into())),
                ("expires_at", expires_at.map(Into::into)),
                ("origins", (!origins.is_empty()).then(|| origins.into())),
            ]);
            KEYS.create(&api, &body)
        }
        KeysCommand::Rotate { id, overlap_s, api } => {
            let body = json_object([("overlap_s", overlap_s.map(|seconds| json!(seconds)))]);
            KEYS.act(&api, &id, "rotate", &body)
        }
        KeysCommand::Stored(command) => command.run(&KEYS),
    }
}
