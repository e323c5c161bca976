//! `clickhook offsets`: where a group reads on, where reading on by itself
//! could lose records and so only a person can decide.

use anyhow::bail;
use bus::{Bus, LogEnd, OffsetScope};
use clap::{Subcommand, ValueEnum};
use schemas::{Topic, Topics};

use crate::{cli::RoleArgs, config};

/// What can be done with offsets.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Set where a group reads on that has lost its place. Stop its processes first.
    #[command(after_help = "Example:\n  clickhook offsets set --group warehouse --topic clicks --to earliest")]
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
        to: To,
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

/// An end of a log.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum To {
    /// Nothing that is still there is left out.
    Earliest,
    /// What is there now is left out.
    Latest,
}

/// Runs `clickhook offsets …`.
pub(crate) fn run(command: Command) -> anyhow::Result<()> {
    let Command::Set { group, topic, to, all, role } = command;
    let bus = Bus::new(config::load(role.config.as_deref())?.kafka);
    let Some(topic) = parse(bus.topics(), &topic) else {
        let known: Vec<&str> = Topic::ALL.iter().map(|topic| topic.suffix()).collect();
        bail!("no topic is called `{topic}`: known are {}", known.join(", "));
    };
    let edge = match to {
        To::Earliest => LogEnd::Earliest,
        To::Latest => LogEnd::Latest,
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
