//! `clickhook offsets`: where a group reads on, where reading on by itself
//! could lose records and so only a person can decide.

use anyhow::bail;
use bus::{Bus, LogEnd, OffsetScope};
use clap::{Subcommand, ValueEnum};
use schemas::{Topic, Topics};

use crate::{config, roles::RoleArgs};

/// The subcommands of `clickhook offsets`.
#[derive(Debug, Subcommand)]
pub(crate) enum OffsetsCommand {
    /// Set where a group reads on that has lost its place. Stop its processes first.
    #[command(after_help = r"Example:
  clickhook offsets set --group warehouse --topic clicks --to earliest")]
    Set {
        /// The group, without the installation's prefix: enricher, webhook.clicks,
        /// webhook.events, webhook.delay, warehouse.
        #[arg(long)]
        group: String,
        /// The topic, with or without the installation's prefix.
        #[arg(long)]
        topic: String,
        /// At the first record that is still there, or behind the last.
        #[arg(long, value_enum)]
        to: OffsetTarget,
        /// In every partition, also where the group knows where to read on: with
        /// `earliest` its work is done again, with `latest` what waits is left out.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        role: RoleArgs,
    },
}

/// The groups whose offsets a person may have to choose.
const GROUPS: [&str; 5] = ["enricher", "webhook.clicks", "webhook.events", "webhook.delay", "warehouse"];

/// The end of a log at which a group continues.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum OffsetTarget {
    /// The group continues at the first record that is still there.
    Earliest,
    /// The group continues behind the last record: the present records are left out.
    Latest,
}

/// Runs `clickhook offsets …`.
pub(crate) fn run(command: OffsetsCommand) -> anyhow::Result<()> {
    let OffsetsCommand::Set { group, topic, to, all, role } = command;
    let bus = Bus::new(config::load(role.config.as_deref())?.kafka);
    let Some(topic) = parse(bus.topics(), &topic) else {
        let known: Vec<&str> = Topic::ALL.iter().map(|topic| topic.suffix()).collect();
        bail!("no topic is called `{topic}`: known are {}", known.join(", "));
    };
    let edge = match to {
        OffsetTarget::Earliest => LogEnd::Earliest,
        OffsetTarget::Latest => LogEnd::Latest,
    };
    let group = group.strip_prefix(&bus.topics().group("")).unwrap_or(&group);
    if !GROUPS.contains(&group) {
        bail!("no group is called `{group}`: known are {}", GROUPS.join(", "));
    }
    let moved = bus.set_offsets(group, topic, edge, if all { OffsetScope::All } else { OffsetScope::Missing })?;
    if moved.is_empty() {
        say!("{group} knows where to read on in every partition of {}: nothing was changed", topic.suffix());
    }
    for (partition, offset) in moved {
        say!("{group} reads {}[{partition}] from offset {offset}", topic.suffix());
    }
    Ok(())
}

fn parse(topics: &Topics, name: &str) -> Option<Topic> {
    topics.parse(name).or_else(|| Topic::ALL.into_iter().find(|topic| topic.suffix() == name))
}
