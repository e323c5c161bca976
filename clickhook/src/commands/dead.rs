//! `clickhook dead`: records and deliveries that were given up. A person has deliveries made
//! once more, and decides on bundles of clicks that cannot be told from a second copy.

use std::{
    collections::HashSet,
    io::{self, Write as _},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use bus::{Bus, Outgoing, Partition};
use clap::Subcommand;
use schemas::{
    Dead, DeadOrigin, DelayTier, Delivery, EndpointId, RawClick, Timestamp, Topic,
    click::{AFTER_HEADER, AGAIN_HEADER, BUNDLE_COUNT_HEADER, BUNDLE_HEADER},
};
use uuid::Uuid;

use super::since::Since;
use crate::{config, roles::RoleArgs};

/// Commands on dead letters.
#[derive(Debug, Subcommand)]
pub(crate) enum DeadCommand {
    /// List dead letters: their place, time, origin and reason.
    Ls {
        #[command(flatten)]
        role: RoleArgs,
    },
    /// Show a dead letter whole.
    Show {
        /// The place that `ls` prints: partition:offset.
        place: String,
        #[command(flatten)]
        role: RoleArgs,
    },
    /// Make deliveries that were given up once more, or count a bundle of clicks that cannot be
    /// told from a second copy.
    #[command(after_help = r"A delivery begins again with its first attempt, in the format that its endpoint has now.
Repeated, the command delivers again, with the same event id.

The visits of a bundle are produced as a bundle of their own. Repeated within 72 hours, the
command changes nothing.

Examples:
  clickhook dead replay 2:17
  clickhook dead replay --endpoint ep_… --since 7d --yes")]
    Replay {
        /// The place that `ls` prints: partition:offset.
        #[arg(required_unless_present = "endpoint")]
        place: Option<String>,
        /// All deliveries to this endpoint, in place of one dead letter.
        #[arg(long, value_name = "ID", conflicts_with = "place")]
        endpoint: Option<EndpointId>,
        /// Only what was given up since: before now, as in 90m, 24h or 7d, or a moment.
        #[arg(long, value_name = "TIME", requires = "endpoint")]
        since: Option<Since>,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        role: RoleArgs,
    },
}

/// The deliveries that are shown before they are made once more.
const SHOWN: usize = 20;
/// How long Kafka may take for a replayed bundle.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs `clickhook dead …`.
pub(crate) async fn run(command: DeadCommand) -> anyhow::Result<()> {
    match command {
        DeadCommand::Ls { role } => tokio::task::block_in_place(|| list(&connect(&role)?)),
        DeadCommand::Show { place, role } => {
            let dead = tokio::task::block_in_place(|| find(&connect(&role)?, &place))?;
            say!("{}", serde_json::to_string_pretty(&dead)?);
            Ok(())
        }
        DeadCommand::Replay { place, endpoint, since, yes, role } => {
            let bus = connect(&role)?;
            if let Some(endpoint) = endpoint {
                let since = since.map_or_else(|| Timestamp::from_millis(0), Since::moment);
                let deliveries = tokio::task::block_in_place(|| deliveries_to(&bus, endpoint, since))?;
                return redeliver(&bus, deliveries, yes).await;
            }
            let place = place.context("give the place of a dead letter, or --endpoint")?;
            let dead = tokio::task::block_in_place(|| find(&bus, &place))?;
            match dead.delivery {
                Some(delivery) => redeliver(&bus, vec![delivery], yes).await,
                None => replay(&bus, &dead, yes).await,
            }
        }
    }
}

fn connect(role: &RoleArgs) -> anyhow::Result<Bus> {
    let bus = Bus::new(config::load(role.config.as_deref())?.kafka);
    // The topics may have more partitions than they were made with.
    tokio::task::block_in_place(|| bus.refresh_partitions())?;
    Ok(bus)
}

fn list(bus: &Bus) -> anyhow::Result<()> {
    let reader = bus.log_reader("dead")?;
    for index in 0..i32::from(bus.partitions(Topic::Dead)) {
        let partition = Partition { topic: Topic::Dead, index };
        reader.read(
            partition,
            reader.range(partition)?,
            || false,
            |record| {
                let place = format!("{index}:{}", record.offset());
                match serde_json::from_slice::<Dead>(record.value().unwrap_or_default()) {
                    Ok(Dead { at, origin, reason, .. }) => {
                        say!("{place}\t{at}\t{}[{}]@{}\t{reason}", origin.topic, origin.partition, origin.offset);
                    }
                    Err(error) => say!("{place}\tnot a dead letter: {error}"),
                }
                true
            },
        )?;
    }
    Ok(())
}

fn find(bus: &Bus, place: &str) -> anyhow::Result<Dead> {
    let parsed = place.split_once(':').and_then(|(index, offset)| Some((index.parse().ok()?, offset.parse().ok()?)));
    let (index, offset): (i32, i64) =
        parsed.context("a place is partition:offset, as `clickhook dead ls` prints it")?;
    let reader = bus.log_reader("dead")?;
    let partition = Partition { topic: Topic::Dead, index };
    let range = reader.range(partition)?;
    ensure!(range.contains(&offset), "no dead letter is at {place}: the log holds {} to {}", range.start, range.end);
    let mut found = None;
    reader.read(
        partition,
        offset..offset + 1,
        || false,
        |record| {
            found = Some(serde_json::from_slice(record.value().unwrap_or_default()));
            false
        },
    )?;
    found.with_context(|| format!("no dead letter is at {place}"))?.context("the record is not a dead letter")
}

/// Returns the deliveries to an endpoint that were given up since. Of an event that was given up
/// several times there is one.
fn deliveries_to(bus: &Bus, endpoint: EndpointId, since: Timestamp) -> anyhow::Result<Vec<Delivery>> {
    let reader = bus.log_reader("dead")?;
    let mut seen = HashSet::new();
    let mut deliveries = Vec::new();
    for index in 0..i32::from(bus.partitions(Topic::Dead)) {
        let partition = Partition { topic: Topic::Dead, index };
        reader.read(
            partition,
            reader.range(partition)?,
            || false,
            |record| {
                let dead = serde_json::from_slice::<Dead>(record.value().unwrap_or_default()).ok();
                let delivery = dead.filter(|dead| dead.at >= since).and_then(|dead| dead.delivery);
                let delivery = delivery.filter(|delivery| delivery.endpoint == endpoint);
                deliveries
                    .extend(delivery.filter(|delivery| seen.insert(delivery.events.first().map(|event| event.id))));
                true
            },
        )?;
    }
    Ok(deliveries)
}

/// Hands deliveries over to the delay topics, from which they are made like any others.
async fn redeliver(bus: &Bus, deliveries: Vec<Delivery>, yes: bool) -> anyhow::Result<()> {
    let count = deliveries.len();
    for delivery in deliveries.iter().take(SHOWN) {
        let events: Vec<String> = delivery.events.iter().map(|event| format!("{} {}", event.name, event.id)).collect();
        say!("{} to {}", events.join(", "), delivery.endpoint);
    }
    if count > SHOWN {
        say!("… and {} more", count - SHOWN);
    }
    if count == 0 {
        say!("no dead letter has such a delivery");
        return Ok(());
    }
    if !yes && !confirm(&format!("Deliver {count} once more? [y/N] "))? {
        say!("nothing was produced");
        return Ok(());
    }
    let producer = bus.producer("dead", Duration::ZERO, PATIENCE)?;
    for delivery in deliveries {
        let key = delivery.endpoint.to_string();
        let delivery =
            Delivery { attempt: 1, due: Timestamp::now(), held_since: None, packing: None, format: None, ..delivery };
        let value = serde_json::to_vec(&delivery)?;
        let topic = Topic::Delay(DelayTier::Seconds5);
        producer.produce(&Outgoing::keyed(topic, key.as_bytes(), Some(&value))).await?;
    }
    say!("{count} are delivered once more");
    Ok(())
}

async fn replay(bus: &Bus, dead: &Dead, yes: bool) -> anyhow::Result<()> {
    let lines = bundle_lines(bus, dead)?;
    let count = lines.lines().count();
    let count_text = count.to_string();
    say!("bundle {}: {}", dead.origin.bundle.as_deref().unwrap_or("without an id"), dead.reason);
    say!("{count} visits are produced with truncated addresses. If a first copy was counted, they are counted twice.");
    if !yes && !confirm("Produce them? [y/N] ")? {
        say!("nothing was produced");
        return Ok(());
    }
    let id = replayed_id(&dead.origin).to_string();
    let log = Partition { topic: Topic::ClicksRaw, index: dead.origin.partition };
    // A replay of the same dead letter may be anywhere in the log.
    let after = tokio::task::block_in_place(|| bus.log_reader("dead")?.range(log))?.start - 1;
    let after = after.to_string();
    let producer = bus.producer("dead", Duration::ZERO, PATIENCE)?;
    let out = Outgoing {
        topic: Topic::ClicksRaw,
        partition: Some(dead.origin.partition),
        key: None,
        value: Some(lines.as_bytes()),
        headers: &[
            (BUNDLE_COUNT_HEADER, count_text.as_bytes()),
            (BUNDLE_HEADER, id.as_bytes()),
            (AGAIN_HEADER, b"1"),
            (AFTER_HEADER, after.as_bytes()),
        ],
    };
    let (partition, offset) = producer.produce(&out).await?;
    say!("produced as bundle {id}: {}[{partition}]@{offset}", bus.topics().name(Topic::ClicksRaw));
    Ok(())
}

/// Returns the id of the bundle that a dead letter is replayed as: always the same, so
/// that the enricher drops all replays but the first.
fn replayed_id(origin: &DeadOrigin) -> Uuid {
    let mut id = *b"dead............";
    id[4..8].copy_from_slice(&origin.partition.to_be_bytes());
    id[8..].copy_from_slice(&origin.offset.to_be_bytes());
    Uuid::from_bytes(id)
}

/// Returns the lines of a whole bundle of clicks.
fn bundle_lines<'a>(bus: &Bus, dead: &'a Dead) -> anyhow::Result<&'a str> {
    let is_bundle = dead.origin.topic == bus.topics().name(Topic::ClicksRaw) && dead.origin.line.is_none();
    if !is_bundle {
        bail!(
            "only deliveries and whole bundles of {} can be replayed: this dead letter is neither, or its content was cut",
            bus.topics().name(Topic::ClicksRaw)
        );
    }
    let lines = dead.payload.as_deref().context("the dead letter has no payload")?;
    for line in lines.lines() {
        let _: RawClick<'_> = serde_json::from_str(line).context("a line of the bundle was cut or is no click")?;
    }
    Ok(lines)
}

fn confirm(question: &str) -> io::Result<bool> {
    let mut out = io::stdout();
    write!(out, "{question}")?;
    out.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests {
    use bus::BusConfig;
    use schemas::{DeadOrigin, Timestamp};

    use super::*;

    const LINE: &str = concat!(
        r#"{"v":1,"id":"clk_01KGQ7ZJ4GE01A80000000002A","class":"click","ip":"203.0.113.0","workspace":"default","#,
        r#""link":{"id":"lnk_0000000000000000000000000Z","short_url":"https://go.acme.co/sale","#,
        r#""destination":"https://acme.com/","slug":"sale"}}"#,
    );

    fn dead(topic: &str, line: Option<u32>, payload: &str) -> Dead {
        let origin = DeadOrigin { topic: topic.to_owned(), partition: 0, offset: 7, line, bundle: None };
        let at = Timestamp::from_millis(0);
        Dead::of_record(String::new(), at, origin, payload)
    }

    #[test]
    fn only_a_whole_bundle_of_clicks_can_be_replayed() {
        let bus = Bus::new(BusConfig::default());
        let lines = format!("{LINE}\n{LINE}\n");
        assert_eq!(bundle_lines(&bus, &dead("clickhook.clicks.raw", None, &lines)).unwrap(), lines);
        assert!(bundle_lines(&bus, &dead("clickhook.clicks.raw", Some(1), &lines)).is_err());
        assert!(bundle_lines(&bus, &dead("clickhook.clicks", None, &lines)).is_err());
        assert!(bundle_lines(&bus, &dead("clickhook.clicks.raw", None, &lines[..lines.len() - 9])).is_err());
    }
}
