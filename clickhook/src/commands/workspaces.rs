//! `clickhook workspaces`.

use clap::Subcommand;

use super::resource::{ListGetDelete, ResourceSpec, json_object};
use crate::api::ApiArgs;

const COLUMNS: crate::output::Columns<'static> = &[("id", "/id"), ("name", "/name"), ("created", "/created_at")];
const WORKSPACES: ResourceSpec = ResourceSpec { path: "/v1/workspaces", facts: COLUMNS, columns: COLUMNS };

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
        WorkspacesCommand::Stored(command) => command.run(&WORKSPACES),
    }
}
