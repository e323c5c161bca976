//! The limit of everything that consumes and produces: records that go through Kafka
//! inside transactions, and nothing else.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bus::{Bus, BusConfig, CommitStart, Isolation, LogEnd, Membership, OffsetScope, Outgoing};
use schemas::Topic;
use serde::Serialize;
use tokio::task::spawn_blocking;

use crate::{
    process::{self, Who},
    produce,
};

/// The bytes of a record in the null hop: about a click's.
const RECORD_BYTES: usize = 500;
/// As the enricher's transactions are by default.
const WINDOW: Duration = Duration::from_millis(10);
const MAX_RECORDS: usize = 10_000;
/// How long the null hop may take to be assigned its partitions.
const PATIENCE: Duration = Duration::from_secs(30);

/// Records that are consumed and produced inside transactions.
#[derive(Debug, Serialize)]
pub(crate) struct NullHop {
    pub(crate) records: u64,
    pub(crate) records_per_s: f64,
    /// Of the client; the broker's is beside it.
    pub(crate) cpu_us_per_record: f64,
    pub(crate) kafka_cpu_us_per_record: f64,
}

/// Measures the null hop on `brokers` for about `during`; `kafka` is the broker.
pub(crate) async fn measure(brokers: String, kafka: Option<Who>, during: Duration) -> anyhow::Result<NullHop> {
    let bus = Bus::new(BusConfig { brokers, prefix: "null".to_owned(), ..BusConfig::default() });
    bus.migrate().await.context("create the null hop's topics")?;
    let filling = bus.clone();
    // It ends with the records, or in time, whichever comes first.
    let records = 250_000 * during.as_secs().clamp(1, 10);
    spawn_blocking(move || fill(&filling, records)).await??;
    spawn_blocking(move || hop(&bus, kafka, records, during)).await?
}

fn fill(bus: &Bus, records: u64) -> anyhow::Result<()> {
    let producer = bus.producer("fill", Duration::from_millis(5), PATIENCE)?;
    let event = schemas::sample::event(schemas::EventName::LinkClicked, schemas::Timestamp::now());
    let mut value = serde_json::to_vec(&event)?;
    value.truncate(RECORD_BYTES);
    for number in 0..records {
        // As alike as clicks are: most of it the same, some of it new.
        value[..64].copy_from_slice(hex::encode(rand::random::<[u8; 32]>()).as_bytes());
        let partition = i32::try_from(number % u64::from(bus.partitions(Topic::ClicksRaw)))?;
        let out = Outgoing {
            topic: Topic::ClicksRaw,
            partition: Some(partition),
            key: None,
            value: Some(&value),
            headers: &[],
        };
        produce::send(&producer, &out)?;
    }
    produce::until_taken(&producer, PATIENCE)
}

/// The enricher's loop without the enriching.
fn hop(bus: &Bus, kafka: Option<Who>, records: u64, during: Duration) -> anyhow::Result<NullHop> {
    let mut pair = bus.transaction_pair("null", Duration::from_millis(1))?;
    bus.set_offsets("null", Topic::ClicksRaw, LogEnd::Earliest, OffsetScope::All)?;
    let consumer =
        bus.consumer("null", &[Topic::ClicksRaw], Isolation::Committed, Membership::Dynamic, Arc::new(()))?;
    let ours = Who::Process(std::process::id());
    let cpu = || anyhow::Ok((process::cpu_time(ours)?, kafka.map(process::cpu_time).transpose()?.unwrap_or_default()));
    let deadline = Instant::now() + PATIENCE + during;
    // It begins with the first record: joining the group is not the hop's.
    let mut begun: Option<(Instant, (Duration, Duration))> = None;
    let (mut moved, mut open) = (0_u64, 0_usize);
    while moved < records && begun.is_none_or(|(begun, _)| begun.elapsed() < during) {
        if Instant::now() > deadline {
            bail!("the null hop read only {moved} of {records} records");
        }
        if let Some(record) = consumer.poll(Duration::from_millis(1))? {
            if begun.is_none() {
                begun = Some((Instant::now(), cpu()?));
            }
            let at = record.partition();
            let (key, value) = (Some(record.key()), record.value());
            pair.send(&Outgoing { topic: Topic::Clicks, partition: Some(at.index), key, value, headers: &[] })?;
            pair.read_up_to(at, record.offset() + 1)?;
            (moved, open) = (moved + 1, open + 1);
        }
        let due = open >= MAX_RECORDS || pair.age().is_some_and(|age| age >= WINDOW);
        if due && pair.try_commit(|| consumer.group_metadata())? == CommitStart::Started {
            open = 0;
        }
    }
    pair.commit_all(|| consumer.group_metadata())?;
    let Some((begun, (client_before, kafka_before))) = begun else { bail!("the null hop read nothing") };
    let (took, (client, kafka)) = (begun.elapsed(), cpu()?);
    let per_record = |cpu: Duration, before: Duration| (cpu - before).as_secs_f64() * 1e6 / moved as f64;
    Ok(NullHop {
        records: moved,
        records_per_s: moved as f64 / took.as_secs_f64(),
        cpu_us_per_record: per_record(client, client_before),
        kafka_cpu_us_per_record: per_record(kafka, kafka_before),
    })
}
