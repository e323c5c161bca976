//! `clickhook workspaces`.

use std::str::FromStr;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::resource::{ListGetDelete, ResourceSpec, json_object, show};
use crate::api::{ApiArgs, Method};

const WORKSPACES: ResourceSpec = ResourceSpec {
    path: "/v1/workspaces",
    facts: &[("id", "/id"), ("name", "/name"), ("created", "/created_at"), ("limits", "/limits")],
    columns: &[("id", "/id"), ("name", "/name"), ("created", "/created_at")],
};
const USAGE: crate::output::Columns<'static> = &[
    ("workspace", "/workspace"),
    ("links", "/links/used"),
    ("of", "/links/limit"),
    ("bytes of links", "/link_bytes/used"),
    ("of", "/link_bytes/limit"),
    ("endpoints", "/endpoints/used"),
    ("of", "/endpoints/limit"),
    ("domains", "/domains/used"),
    ("of", "/domains/limit"),
    ("keys", "/keys/used"),
    ("of", "/keys/limit"),
    ("campaigns", "/campaigns/used"),
    ("of", "/campaigns/limit"),
    ("requests a second", "/requests_per_s/limit"),
];

/// The limits of a workspace that can be set.
#[derive(Debug, Args)]
pub(crate) struct LimitArgs {
    /// The most links.
    #[arg(long, value_name = "N")]
    links: Option<LimitArg>,
    /// The most bytes of all links together.
    #[arg(long, value_name = "BYTES")]
    link_bytes: Option<LimitArg>,
    /// The most endpoints.
    #[arg(long, value_name = "N")]
    endpoints: Option<LimitArg>,
    /// The most domains.
    #[arg(long, value_name = "N")]
    domains: Option<LimitArg>,
    /// The most keys.
    #[arg(long, value_name = "N")]
    keys: Option<LimitArg>,
    /// The most campaigns.
    #[arg(long, value_name = "N")]
    campaigns: Option<LimitArg>,
    /// The requests a second of all keys together.
    #[arg(long, value_name = "N")]
    requests_per_s: Option<LimitArg>,
}

/// A limit of a workspace: its own, or `default` for that of the installation.
#[derive(Clone, Copy, Debug)]
enum LimitArg {
    Own(u64),
    Default,
}

impl FromStr for LimitArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "default" {
            return Ok(Self::Default);
        }
        text.parse()
            .map(Self::Own)
            .map_err(|_| "must be a number, or `default` for the installation's limit".to_owned())
    }
}

impl From<LimitArg> for Value {
    fn from(limit: LimitArg) -> Self {
        match limit {
            LimitArg::Own(limit) => limit.into(),
            LimitArg::Default => Self::Null,
        }
    }
}

/// The subcommands of `clickhook workspaces`; all of it takes an operator's key.
#[derive(Debug, Subcommand)]
pub(crate) enum WorkspacesCommand {
    /// Create a workspace.
    #[command(after_help = r"Example:
  clickhook workspaces create --id acme --name 'Acme Outdoor'")]
    Create {
        /// A short name that stays: a-z, 0-9 and -.
        #[arg(long)]
        id: String,
        /// The name that people call it by; its id if none is given.
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Set how much a workspace may have. Limits that are not named stay.
    #[command(after_help = r"Examples:
  clickhook workspaces limit acme --links 10000000 --endpoints 50
  clickhook workspaces limit acme --links default")]
    Limit {
        /// Its id.
        id: String,
        #[command(flatten)]
        limits: LimitArgs,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Show what the workspace of the key has, and may have.
    Usage {
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Lists, shows and deletes (only an empty one).
    #[command(flatten)]
    Stored(ListGetDelete),
}

/// Runs `clickhook workspaces …`.
pub(crate) fn run(command: WorkspacesCommand) -> anyhow::Result<()> {
    match command {
        WorkspacesCommand::Create { id, name, api } => {
            let body = json_object([("id", Some(id.into())), ("name", name.map(Into::into))]);
            WORKSPACES.create(&api, &body)
        }
        WorkspacesCommand::Limit { id, limits, api } => {
            let limits = json_object([
                ("links", limits.links.map(Into::into)),
                ("link_bytes", limits.link_bytes.map(Into::into)),
                ("endpoints", limits.endpoints.map(Into::into)),
                ("domains", limits.domains.map(Into::into)),
                ("keys", limits.keys.map(Into::into)),
                ("campaigns", limits.campaigns.map(Into::into)),
                ("requests_per_s", limits.requests_per_s.map(Into::into)),
            ]);
            let path = format!("{}/{id}", WORKSPACES.path);
            let workspace: Value = api.client()?.call(Method::Patch, &path, Some(&json!({"limits": limits})))?;
            show(&api, &workspace, WORKSPACES.facts);
            Ok(())
        }
        WorkspacesCommand::Usage { api } => {
            let usage: Value = api.client()?.call(Method::Get, "/v1/usage", None)?;
            show(&api, &usage, USAGE);
            Ok(())
        }
        WorkspacesCommand::Stored(command) => command.run(&WORKSPACES),
    }
}
