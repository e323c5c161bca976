//! Whether a broker serves, and is one of our cluster: as much of Kafka's
//! protocol (<https://kafka.apache.org/protocol>) as these questions need.

use std::io;
use std::net::Ipv4Addr;

use tokio::net::TcpStream;

use super::protocol::{ask, byte, int16, int32, nullable_string, request, string};

/// Groups and transactional ids whose Java hash codes are four numbers in a row:
/// each falls to another of the four partitions of Kafka's internal topics.
const ONE_A_PARTITION: [&str; 4] = ["a", "b", "c", "d"];
const NO_ERROR: i16 = 0;
/// The answer about a transactional id of a partition that is loaded.
const TRANSACTIONAL_ID_NOT_FOUND: i16 = 105;

/// Asks a broker what a client asks first. A broker names itself a moment before
/// it hands out producer ids and has loaded its groups and transactions. A client
/// that asks in that moment asks again only after half a second or a second.
#[derive(Debug)]
pub(crate) struct KafkaProbe {
    pub(crate) port: u16,
    pub(crate) cluster_id: String,
    pub(crate) waits_for: WaitsFor,
}

/// How far a broker must have come to count as ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitsFor {
    /// A controller leads: enough for one of several brokers, whose groups and
    /// transactions may be another's.
    ProducerIds,
    /// All groups and transactions are loaded, as a broker alone must.
    Coordinators,
}

impl KafkaProbe {
    pub(crate) async fn is_ready(&self) -> bool {
        self.ask_all().await.unwrap_or(false)
    }

    async fn ask_all(&self) -> io::Result<bool> {
        let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await?;
        let metadata = ask(&mut connection, &metadata_request()).await?;
        let is_ours = named_in(&metadata).is_some_and(|(brokers, cluster)| brokers > 0 && cluster == self.cluster_id);
        if !is_ours || !hands_out_producer_ids(&ask(&mut connection, &producer_id_request()).await?) {
            return Ok(false);
        }
        if self.waits_for == WaitsFor::ProducerIds {
            return Ok(true);
        }
        for kind in [CoordinatorKind::Group, CoordinatorKind::Transaction] {
            if !has_coordinator(&ask(&mut connection, &coordinator_request(kind)).await?) {
                return Ok(false);
            }
        }
        let groups = errors_of_groups(&ask(&mut connection, &groups_request()).await?);
        let transactions = errors_of_transactions(&ask(&mut connection, &transactions_request()).await?);
        Ok(are_all(groups.as_deref(), NO_ERROR) && are_all(transactions.as_deref(), TRANSACTIONAL_ID_NOT_FOUND))
    }
}

/// The two kinds of coordinator, by their numbers in `FindCoordinator`. The first
/// who asks for one has Kafka make its topic.
#[derive(Clone, Copy)]
enum CoordinatorKind {
    Group = 0,
    Transaction = 1,
}

/// A Metadata request about no topic, version 4: the oldest that Kafka 4 knows,
/// without tagged fields.
fn metadata_request() -> Vec<u8> {
    const NO_TOPICS: [u8; 4] = [0; 4];
    const NO_TOPIC_CREATION: [u8; 1] = [0];
    request(3, 4, &[&NO_TOPICS[..], &NO_TOPIC_CREATION].concat())
}

/// A request for the id of a producer without transactions, version 1: the last
/// without tagged fields (`InitProducerId`).
fn producer_id_request() -> Vec<u8> {
    const NO_TRANSACTIONAL_ID: [u8; 2] = (-1_i16).to_be_bytes();
    const TRANSACTION_TIMEOUT_MS: [u8; 4] = 1000_i32.to_be_bytes();
    request(22, 1, &[&NO_TRANSACTIONAL_ID[..], &TRANSACTION_TIMEOUT_MS].concat())
}

/// `FindCoordinator`, version 1.
fn coordinator_request(kind: CoordinatorKind) -> Vec<u8> {
    let key = string(ONE_A_PARTITION[0]);
    request(10, 1, &[&key[..], &[kind as u8]].concat())
}

/// `DescribeGroups`, version 1.
fn groups_request() -> Vec<u8> {
    let groups: Vec<u8> = ONE_A_PARTITION.iter().flat_map(|group| string(group)).collect();
    request(15, 1, &[&[0, 0, 0, 4][..], &groups].concat())
}

/// `DescribeTransactions`, version 0, which has tagged fields: a zero behind the
/// header and behind the body stands for none, and a length is one more than it is.
fn transactions_request() -> Vec<u8> {
    let ids: Vec<u8> =
        ONE_A_PARTITION.iter().flat_map(|id| [&[compact_length(id)][..], id.as_bytes()].concat()).collect();
    request(65, 0, &[&[0, 5][..], &ids, &[0]].concat())
}

fn compact_length(text: &str) -> u8 {
    u8::try_from(text.len() + 1).unwrap_or_default()
}

/// Whether the answer has no error code, which stands behind the correlation and
/// the throttle.
fn hands_out_producer_ids(answer: &[u8]) -> bool {
    answer.get(8..10) == Some(&[0, 0])
}

/// Whether the answer names a coordinator: its error code stands behind the
/// correlation and the throttle.
fn has_coordinator(answer: &[u8]) -> bool {
    answer.get(8..10) == Some(&[0, 0])
}

fn are_all(errors: Option<&[i16]>, expected: i16) -> bool {
    errors == Some(&[expected; ONE_A_PARTITION.len()])
}

/// The number of brokers and the cluster's id in a Metadata response, version 4.
fn named_in(answer: &[u8]) -> Option<(i32, String)> {
    let mut rest = answer;
    let _correlation = int32(&mut rest)?;
    let _throttle_ms = int32(&mut rest)?;
    let brokers = int32(&mut rest)?;
    for _ in 0..brokers {
        let _id = int32(&mut rest)?;
        let _host = nullable_string(&mut rest)?;
        let _port = int32(&mut rest)?;
        let _rack = nullable_string(&mut rest)?;
    }
    Some((brokers, nullable_string(&mut rest)?))
}

/// The error codes in a `DescribeGroups` response, version 1, of groups without
/// members; none where it cannot be read.
fn errors_of_groups(answer: &[u8]) -> Option<Vec<i16>> {
    let mut rest = answer;
    let _correlation = int32(&mut rest)?;
    let _throttle_ms = int32(&mut rest)?;
    let groups = int32(&mut rest)?;
    let mut errors = Vec::new();
    for _ in 0..groups {
        errors.push(int16(&mut rest)?);
        let _group = nullable_string(&mut rest)?;
        let _state = nullable_string(&mut rest)?;
        let _protocol_type = nullable_string(&mut rest)?;
        let _protocol = nullable_string(&mut rest)?;
        let _no_members = int32(&mut rest)?;
    }
    Some(errors)
}

/// The error codes in a `DescribeTransactions` response, version 0, of ids without
/// a transaction; none where it cannot be read.
fn errors_of_transactions(answer: &[u8]) -> Option<Vec<i16>> {
    let mut rest = answer;
    let _correlation = int32(&mut rest)?;
    let _no_tags = byte(&mut rest)?;
    let _throttle_ms = int32(&mut rest)?;
    let ids = byte(&mut rest)?.saturating_sub(1);
    let mut errors = Vec::new();
    for _ in 0..ids {
        errors.push(int16(&mut rest)?);
        for _ in 0..2 {
            let length = byte(&mut rest)?.saturating_sub(1);
            let (_id_or_state, after) = rest.split_at_checked(length.into())?;
            rest = after;
        }
        let _timeout_ms = int32(&mut rest)?;
        let _start = (int32(&mut rest)?, int32(&mut rest)?);
        let _producer_id = (int32(&mut rest)?, int32(&mut rest)?);
        let _producer_epoch = int16(&mut rest)?;
        let _no_partitions = byte(&mut rest)?;
        let _no_tags = byte(&mut rest)?;
    }
    Some(errors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metadata_response_is_read() {
        let answer =
            b"\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\x01\0\x09127.0.0.1\0\0\x4e\x20\xff\xff\0\x03abc\0\0\0\x01\0\0\0\0";
        assert_eq!(named_in(answer), Some((1, "abc".into())));
        assert_eq!(named_in(&answer[..20]), None);
    }

    #[test]
    fn an_id_that_is_refused_is_not_taken_for_one() {
        assert!(hands_out_producer_ids(b"\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\x07\0\0"));
        assert!(!hands_out_producer_ids(b"\0\0\0\x01\0\0\0\0\0\x0e\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"));
        assert!(!hands_out_producer_ids(b""));
    }

    #[test]
    fn groups_that_are_still_loaded_are_told_from_loaded_ones() {
        let loaded = b"\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\x01a\0\x04Dead\0\0\0\0\0\0\0\0";
        let loading = b"\0\0\0\x01\0\0\0\0\0\0\0\x01\0\x0e\0\x01a\0\0\0\0\0\0\0\0\0\0";
        assert_eq!(errors_of_groups(loaded), Some(vec![NO_ERROR]));
        assert_eq!(errors_of_groups(loading), Some(vec![14]));
        assert_eq!(errors_of_groups(&loading[..20]), None);
    }

    #[test]
    fn transactions_that_are_still_loaded_are_told_from_loaded_ones() {
        let answer = |error: u8| {
            let id = [&[0, error, 2, b'a', 1][..], &[0; 22], &[1, 0]].concat();
            [&[0, 0, 0, 1, 0, 0, 0, 0, 0, 2][..], &id, &[0]].concat()
        };
        assert_eq!(errors_of_transactions(&answer(105)), Some(vec![TRANSACTIONAL_ID_NOT_FOUND]));
        assert_eq!(errors_of_transactions(&answer(14)), Some(vec![14]));
        assert_eq!(errors_of_transactions(&answer(14)[..20]), None);
    }
}
