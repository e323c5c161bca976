//! `clickhook offsets`: where a group reads on, where reading on by itself
//! could lose records and so only a person can decide.

use anyhow::bail;
use bus::{Bus, LogEnd, OffsetScope};
use clap::{Subcommand, ValueEnum};
use schemas::{ConsumerGroup, Topic, Topics};

use crate::{config, roles::RoleArgs};

/// The subcommands of `clickhook offsets`.
#[derive(Debug, Subcommand)]
pub(crate) enum OffsetsCommand {
    /// Set where a group reads on in partitions where it has lost its place. Its processes
    /// may run: they go on with the others meanwhile, and with these within seconds.
    #[command(after_help = r"Example:
  clickhook offsets set --group warehouse --topic clicks --to earliest")]
    Set {
        /// The group, with or without the installation's prefix: control, enricher,
        /// webhook.clicks, webhook.events, webhook.delay, warehouse.
        #[arg(long)]
        group: String,
        /// The topic, with or without the installation's prefix; all topics of the group
        /// if none is given.
        #[arg(long)]
        topic: Option<String>,
        /// At the first record that is still there, or behind the last.
        #[arg(long, value_enum)]
        to: OffsetTarget,
        /// In every partition, also where the group knows where to read on: with
        /// `earliest` its work is done again, with `latest` what waits is left out. Stop
        /// the group's processes first.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        role: RoleArgs,
    },
}

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
    let group = parse_group(bus.topics(), &group)?;
    let topics = match &topic {
        Some(topic) => vec![parse_topic(bus.topics(), group, topic)?],
        None => group.topics().to_vec(),
    };
    let end = match to {
        OffsetTarget::Earliest => LogEnd::Earliest,
        OffsetTarget::Latest => LogEnd::Latest,
    };
    for topic in topics {
        let moved =
            bus.set_offsets(group.name(), topic, end, if all { OffsetScope::All } else { OffsetScope::Missing })?;
        let (group, topic) = (group.name(), topic.suffix());
        if moved.is_empty() {
            say!("{group} knows where to read on in every partition of {topic}: nothing was changed");
        }
        for (partition, offset) in moved {
            say!("{group} reads {topic}[{partition}] from offset {offset}");
        }
    }
    Ok(())
}

fn parse_group(topics: &Topics, name: &str) -> anyhow::Result<ConsumerGroup> {
    let suffix = name.strip_prefix(&topics.group("")).unwrap_or(name);
    let Some(group) = ConsumerGroup::ALL.into_iter().find(|group| group.name() == suffix) else {
        let known = ConsumerGroup::ALL.map(ConsumerGroup::name);
        bail!("no group is called `{name}`: known are {}", known.join(", "));
    };
    Ok(group)
}

fn parse_topic(topics: &Topics, group: ConsumerGroup, name: &str) -> anyhow::Result<Topic> {
    let read = group.topics().iter().copied();
    let Some(topic) = read.clone().find(|topic| topic.suffix() == name || topics.name(*topic) == name) else {
        let read: Vec<&str> = read.map(Topic::suffix).collect();
        bail!("group {} reads no topic that is called `{name}`: it reads {}", group.name(), read.join(", "));
    };
    Ok(topic)
}
