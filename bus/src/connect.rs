//! The first connection of a client, waited for before the client is used.

use std::time::Duration;

use rdkafka::{ClientContext, client::Client, error::KafkaResult};

/// Waits until a client is connected to a broker that the cluster has named.
///
/// librdkafka closes the connection to a bootstrap address as soon as it knows the
/// cluster's brokers, and fails what was asked over that connection. It repeats
/// such a question only after half a second (the coordinator of a transaction) or
/// a second (the leader of a partition). The first metadata may come from a
/// bootstrap address, the second cannot.
pub(crate) fn connect<C: ClientContext>(client: &Client<C>, topic: &str, within: Duration) -> KafkaResult<()> {
    client.fetch_metadata(Some(topic), within)?;
    client.fetch_metadata(Some(topic), within)?;
    Ok(())
}
