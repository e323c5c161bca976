//! `clickhook workspaces`.

use clap::Subcommand;

use super::things::{Common, Things, given};
use crate::api::ApiArgs;

const COLUMNS: crate::output::Columns<'static> = &[("id", "/id"), ("name", "/name"), ("created", "/created_at")];
const WORKSPACES: Things = Things { path: "/v1/workspaces", facts: COLUMNS, columns: COLUMNS };

/// What can be done with workspaces; all of it takes an operator's key.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a workspace.
    #[command(after_help = "Example:\n  clickhook workspaces create --id acme --name 'Acme Outdoor'")]
    Create {
        /// A short name that stays: a-z, 0-9 and -.
        #[arg(long)]
        id: String,
        /// What people call it; its id if none is given.
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Listing, showing and deleting (only an empty one).
    #[command(flatten)]
    Common(Common),
}

/// Runs `clickhook workspaces …`.
pub(crate) fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Create { id, name, api } => {
            let body = given([("id", Some(id.into())), ("name", name.map(Into::into))]);
            WORKSPACES.create(&api, &body)
        }
        Command::Common(common) => common.run(&WORKSPACES),
    }
}
