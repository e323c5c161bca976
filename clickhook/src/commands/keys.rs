//! `clickhook keys`.

use clap::Subcommand;
use serde_json::json;

use super::things::{Common, Things, given};
use crate::api::ApiArgs;

const KEYS: Things = Things {
    path: "/v1/keys",
    facts: &[
        ("id", "/id"),
        ("name", "/name"),
        ("scopes", "/scopes"),
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

/// What can be done with keys.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a key; its secret is shown this once.
    #[command(
        after_help = "Examples:\n  clickhook keys create --name crm --scope links,stats\n  clickhook keys create --name shop --scope conversions --expires-at 2027-01-01T00:00:00Z\n  clickhook keys create --name network --scope postback"
    )]
    Create {
        /// What people call it.
        #[arg(long)]
        name: String,
        /// What it may do: links, endpoints, conversions, stats, admin; or postback alone. Several
        /// with commas between.
        #[arg(long = "scope", value_delimiter = ',', required = true)]
        scopes: Vec<String>,
        /// From when on it opens nothing (RFC 3339).
        #[arg(long, value_name = "TIME")]
        expires_at: Option<String>,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Give a key a new secret; the one before opens for a while longer.
    #[command(after_help = "Example:\n  clickhook keys rotate key_… --overlap-s 3600")]
    Rotate {
        /// Its id (`key_…`).
        id: String,
        /// How many seconds the secret before still opens [default: a day]
        #[arg(long, value_name = "S")]
        overlap_s: Option<u32>,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Listing, showing and deleting (a deleted key opens nothing).
    #[command(flatten)]
    Common(Common),
}

/// Runs `clickhook keys …`.
pub(crate) fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Create { name, scopes, expires_at, api } => {
            let expires_at = expires_at.map(Into::into);
            let body =
                given([("name", Some(name.into())), ("scopes", Some(scopes.into())), ("expires_at", expires_at)]);
            KEYS.create(&api, &body)
        }
        Command::Rotate { id, overlap_s, api } => {
            let body = given([("overlap_s", overlap_s.map(|seconds| json!(seconds)))]);
            KEYS.act(&api, &id, "rotate", &body)
        }
        Command::Common(common) => common.run(&KEYS),
    }
}
