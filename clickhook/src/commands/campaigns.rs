//! `clickhook campaigns`.

use clap::Subcommand;
use serde_json::json;

use super::things::{Common, Things, given};
use crate::api::ApiArgs;

const CAMPAIGNS: Things = Things {
    path: "/v1/campaigns",
    facts: &[
        ("id", "/id"),
        ("name", "/name"),
        ("starts", "/starts_at"),
        ("ends", "/ends_at"),
        ("goal", "/goal"),
        ("milestones", "/milestones"),
    ],
    columns: &[("id", "/id"), ("name", "/name"), ("starts", "/starts_at"), ("ends", "/ends_at"), ("goal", "/goal")],
};

/// What can be done with campaigns.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a campaign; links name it by its name.
    #[command(
        after_help = "Example:\n  clickhook campaigns create --name winter --ends-at 2027-02-01T00:00:00Z --goal-clicks 10000"
    )]
    Create {
        /// What links name it by.
        #[arg(long)]
        name: String,
        /// When it begins (RFC 3339).
        #[arg(long, value_name = "TIME")]
        starts_at: Option<String>,
        /// When it ends (RFC 3339).
        #[arg(long, value_name = "TIME")]
        ends_at: Option<String>,
        /// How many clicks it is to reach.
        #[arg(long, value_name = "N", conflicts_with = "goal_conversions")]
        goal_clicks: Option<u64>,
        /// How many conversions it is to reach.
        #[arg(long, value_name = "N")]
        goal_conversions: Option<u64>,
        /// The clicks at which it has something to tell, in ascending order.
        #[arg(long, value_name = "N,…", value_delimiter = ',')]
        milestones: Option<Vec<u64>>,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Listing, showing and deleting.
    #[command(flatten)]
    Common(Common),
}

/// Runs `clickhook campaigns …`.
pub(crate) fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Create { name, starts_at, ends_at, goal_clicks, goal_conversions, milestones, api } => {
            let clicks = goal_clicks.map(|clicks| json!({"clicks": clicks}));
            let goal = clicks.or_else(|| goal_conversions.map(|conversions| json!({"conversions": conversions})));
            let body = given([
                ("name", Some(name.into())),
                ("starts_at", starts_at.map(Into::into)),
                ("ends_at", ends_at.map(Into::into)),
                ("goal", goal),
                ("milestones", milestones.map(Into::into)),
            ]);
            CAMPAIGNS.create(&api, &body)
        }
        Command::Common(common) => common.run(&CAMPAIGNS),
    }
}
