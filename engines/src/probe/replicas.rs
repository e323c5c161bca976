//! The replicas of every partition, as a broker tells of them.

use std::io;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::protocol::{ask, byte, int16, int32, nullable_string, request};

/// How long a broker may take to answer. A broker that is frozen does not answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// The replicas of a partition. Brokers are counted from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionReplicas {
    /// The topic's full name. Internal topics are partitions like others.
    pub topic: String,
    /// The partition's number.
    pub index: i32,
    /// The broker that leads the partition; `None` while it has no leader.
    pub leader: Option<usize>,
    /// The brokers that keep a replica.
    pub replicas: Vec<usize>,
    /// The brokers whose replica is in sync.
    pub in_sync: Vec<usize>,
}

impl PartitionReplicas {
    /// Whether the partition has a leader and all its replicas are in sync.
    #[must_use]
    pub fn is_in_sync(&self) -> bool {
        self.leader.is_some() && self.in_sync.len() == self.replicas.len()
    }
}

/// Asks the broker at `address` for the replicas of all topics.
pub(crate) async fn partitions(address: &str) -> io::Result<Vec<PartitionReplicas>> {
    let answer = async {
        let mut connection = TcpStream::connect(address).await?;
        ask(&mut connection, &metadata_request()).await
    };
    let answer = timeout(ANSWER_WITHIN, answer).await??;
    read(&answer).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// A Metadata request about all topics, version 4.
fn metadata_request() -> Vec<u8> {
    const ALL_TOPICS: [u8; 4] = [0xff; 4];
    const NO_TOPIC_CREATION: [u8; 1] = [0];
    request(3, 4, &[&ALL_TOPICS[..], &NO_TOPIC_CREATION].concat())
}

/// Reads a Metadata response, version 4.
fn read(answer: &[u8]) -> Option<Vec<PartitionReplicas>> {
    let mut rest = answer;
    let _correlation = int32(&mut rest)?;
    let _throttle_ms = int32(&mut rest)?;
    for _ in 0..int32(&mut rest)? {
        let _id = int32(&mut rest)?;
        let _host = nullable_string(&mut rest)?;
        let _port = int32(&mut rest)?;
        let _rack = nullable_string(&mut rest)?;
    }
    let _cluster = nullable_string(&mut rest)?;
    let _controller = int32(&mut rest)?;
    let mut partitions = Vec::new();
    for _ in 0..int32(&mut rest)? {
        let _error = int16(&mut rest)?;
        let topic = nullable_string(&mut rest)?;
        let _is_internal = byte(&mut rest)?;
        for _ in 0..int32(&mut rest)? {
            let _error = int16(&mut rest)?;
            let index = int32(&mut rest)?;
            let leader = broker(int32(&mut rest)?);
            let replicas = brokers(&mut rest)?;
            let in_sync = brokers(&mut rest)?;
            partitions.push(PartitionReplicas { topic: topic.clone(), index, leader, replicas, in_sync });
        }
    }
    Some(partitions)
}

/// The ids of our nodes begin at 1; no node has the id -1, which stands for no leader.
fn broker(id: i32) -> Option<usize> {
    usize::try_from(id).ok()?.checked_sub(1)
}

fn brokers(rest: &mut &[u8]) -> Option<Vec<usize>> {
    let count = int32(rest)?;
    (0..count).map(|_| broker(int32(rest)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_that_is_not_in_sync_and_a_missing_leader_are_seen() {
        let head = b"\0\0\0\x01\0\0\0\0\0\0\0\0\0\x01c\0\0\0\x01\0\0\0\x01\0\0\0\x01t\0\0\0\0\x02";
        let first = b"\0\0\0\0\0\0\0\0\0\x02\0\0\0\x02\0\0\0\x01\0\0\0\x02\0\0\0\x01\0\0\0\x02";
        let second = b"\0\x05\0\0\0\x01\xff\xff\xff\xff\0\0\0\x01\0\0\0\x03\0\0\0\0";
        let answer = [&head[..], first, second].concat();
        let partitions = read(&answer).unwrap();
        let [first, second] = partitions.as_slice() else { panic!("{partitions:?}") };
        assert_eq!(
            (first.leader, first.replicas.as_slice(), first.in_sync.as_slice()),
            (Some(1), &[0, 1][..], &[1][..])
        );
        assert_eq!((second.leader, second.index), (None, 1));
        assert!(!first.is_in_sync() && !second.is_in_sync());
        assert_eq!(read(&answer[..answer.len() - 1]), None);
    }
}
