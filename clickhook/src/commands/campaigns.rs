//! `clickhook campaigns`.

use clap::Subcommand;
use serde_json::json;

use super::resource::{ListGetDelete, ResourceSpec, json_object};
use crate::api::ApiArgs;

const CAMPAIGNS: ResourceSpec = ResourceSpec {
    path: "/v1/campaigns",
    facts: &[
        ("id", "/id"),
        ("name", "/name"),
        ("starts", "/starts_at"),
        ("ends", "/ends_at"),
        ("goal", "/goal"),
        ("milestones", "/milestones"),
        ("conversion milestones", "/conversion_milestones"),
    ],
    columns: &[("id", "/id"), ("name", "/name"), ("starts", "/starts_at"), ("ends", "/ends_at"), ("goal", "/goal")],
};

/// The subcommands of `clickhook campaigns`.
#[derive(Debug, Subcommand)]
pub(crate) enum CampaignsCommand {
    /// Create a campaign; links name it by its name.
    #[command(after_help = r"Example:
  clickhook campaigns create --name winter --ends-at 2027-02-01T00:00:00Z --goal-clicks 10000")]
    Create {
        /// The name by which links refer to it.
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
        /// The numbers of clicks at which an event is sent, in ascending order.
        #[arg(long, value_name = "N,…", value_delimiter = ',')]
        milestones: Option<Vec<u64>>,
        /// The numbers of conversions at which an event is sent, in ascending order.
        #[arg(long, value_name = "N,…", value_delimiter = ',')]
        conversion_milestones: Option<Vec<u64>>,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Lists, shows and deletes.
    #[command(flatten)]
    Stored(ListGetDelete),
}

/// Runs `clickhook campaigns …`.
pub(crate) fn run(command: CampaignsCommand) -> anyhow::Result<()> {
    match command {
        CampaignsCommand::Create {
            name,
            starts_at,
            ends_at,
            goal_clicks,
            goal_conversions,
            milestones,
            conversion_milestones,
            api,
        } => {
            let clicks = goal_clicks.map(|clicks| json!({"clicks": clicks}));
            let goal = clicks.or_else(|| goal_conversions.map(|conversions| json!({"conversions": conversions})));
            let body = json_object([
                ("name", Some(name.into())),
                ("starts_at", starts_at.map(Into::into)),
                ("ends_at", ends_at.map(Into::into)),
                ("goal", goal),
                ("milestones", milestones.map(Into::into)),
                ("conversion_milestones", conversion_milestones.map(Into::into)),
            ]);
            CAMPAIGNS.create(&api, &body)
        }
        CampaignsCommand::Stored(command) => command.run(&CAMPAIGNS),
    }
}
