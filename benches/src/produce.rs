//! Writing a backlog to Kafka, faster than Kafka takes it.

use std::{thread, time::Duration};

use anyhow::{Context, bail};
use bus::{BusError, Outgoing, Producer};

/// Sends a record; waits while the producer's queue is full.
pub(crate) fn send(producer: &Producer, out: &Outgoing<'_>) -> anyhow::Result<()> {
    while let Err(error) = producer.send(out, |_| {}) {
        if !matches!(error, BusError::QueueFull) {
            return Err(error).context("write to Kafka");
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Waits until Kafka has taken all records.
pub(crate) fn until_taken(producer: &Producer, within: Duration) -> anyhow::Result<()> {
    match producer.drain(within) {
        0 => Ok(()),
        left => bail!("Kafka has not taken {left} records within {} s", within.as_secs()),
    }
}
