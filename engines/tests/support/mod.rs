//! Talking to the engines by hand: enough of Kafka's protocol and of HTTP to
//! see that they work and keep what they are given.

#![allow(dead_code, reason = "each test uses its part")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use engines::Options;

const DEADLINE: Duration = Duration::from_secs(60);

/// Options whose ClickHouse child is this crate's example.
pub(crate) fn options(data_dir: impl Into<PathBuf>) -> Options {
    Options { exe: Some(example()), ..Options::new(data_dir) }
}

/// `examples/engines.rs`, which cargo builds beside the tests.
pub(crate) fn example() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let example = test.ancestors().nth(2).unwrap().join("examples/engines");
    assert!(example.exists(), "{} is missing: run `cargo build --release -p engines --examples`", example.display());
    example
}

/// Waits until `condition` gives something.
pub(crate) fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// ClickHouse's answer, or `None` if it is not there.
pub(crate) fn query(url: &str, sql: &str) -> Option<String> {
    let address = url.strip_prefix("http://").unwrap();
    let mut connection = TcpStream::connect(address).ok()?;
    let length = sql.len();
    write!(connection, "POST / HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{sql}").ok()?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    assert!(head.contains(" 200 "), "{answer}");
    Some(body.trim().to_owned())
}

/// `CreateTopics`, version 2 (<https://kafka.apache.org/protocol>).
pub(crate) fn create_topic(broker: &str, topic: &str, replicas: u8) {
    let one_partition = [0, 0, 0, 1, 0, replicas];
    let no_assignments_no_configs = [0; 8];
    let timeout_ms = 10_000u32.to_be_bytes();
    let for_real = [0];
    let parts = [&string(topic)[..], &one_partition, &no_assignments_no_configs, &timeout_ms, &for_real];
    let request = [&[0, 0, 0, 1][..], &parts.concat()].concat();
    // Brokers that have just come up may not know each other yet.
    eventually("the topic is made", || {
        let answer = call(broker, 19, 2, &request)?;
        let after_name = 4 + 4 + 4 + 2 + topic.len();
        (answer.get(after_name..after_name + 2)? == [0, 0]).then_some(())
    });
}

/// Whether the broker knows a topic: the error code after Metadata's list of
/// brokers is 0, or 3 (unknown).
pub(crate) fn has_topic(broker: &str, topic: &str) -> bool {
    let no_creation = [0];
    let request = [&[0, 0, 0, 1][..], &string(topic), &no_creation].concat();
    let Some(answer) = call(broker, 3, 4, &request) else { return false };
    let name = string(topic);
    let at = answer.windows(name.len()).position(|window| window == name);
    at.is_some_and(|at| answer[at - 2..at] == [0, 0])
}

/// A partition as Metadata tells of it.
struct PartitionState {
    leader: i32,
    in_sync: Vec<i32>,
}

/// The first partition of a topic, and the addresses of the brokers by id
/// (Metadata, version 4), from the first broker that answers.
fn partition_state(brokers: &[&str], topic: &str) -> Option<(PartitionState, BTreeMap<i32, String>)> {
    let no_creation = [0];
    let request = [&[0, 0, 0, 1][..], &string(topic), &no_creation].concat();
    let answer = brokers.iter().find_map(|broker| call(broker, 3, 4, &request))?;
    let mut rest = Reader(&answer);
    let _correlation = rest.int32()?;
    let _throttle = rest.int32()?;
    let mut addresses = BTreeMap::new();
    for _ in 0..rest.int32()? {
        let id = rest.int32()?;
        let host = rest.string()?;
        let port = rest.int32()?;
        let _rack = rest.string()?;
        addresses.insert(id, format!("{host}:{port}"));
    }
    let _cluster = rest.string()?;
    let _controller = rest.int32()?;
    let _topics = rest.int32()?;
    let _error = rest.int16()?;
    let _name = rest.string()?;
    let _internal = rest.take(1)?;
    let _partitions = rest.int32()?;
    let _error = rest.int16()?;
    let _index = rest.int32()?;
    let leader = rest.int32()?;
    let _replicas = rest.ids()?;
    let in_sync = rest.ids()?;
    Some((PartitionState { leader, in_sync }, addresses))
}

/// The id of the broker that leads the topic's first partition.
pub(crate) fn leader(brokers: &[&str], topic: &str) -> Option<i32> {
    partition_state(brokers, topic).map(|(partition, _)| partition.leader)
}

/// The ids of the brokers whose replicas of the topic's first partition are in sync.
pub(crate) fn in_sync(brokers: &[&str], topic: &str) -> Vec<i32> {
    partition_state(brokers, topic).map(|(partition, _)| partition.in_sync).unwrap_or_default()
}

/// The answer of the leader of the topic's first partition.
fn call_leader(brokers: &[&str], topic: &str, api: u16, version: u16, body: &[u8]) -> Option<Vec<u8>> {
    let (partition, addresses) = partition_state(brokers, topic)?;
    call(addresses.get(&partition.leader)?, api, version, body)
}

/// Appends one record, and waits until all replicas that are in sync have it
/// (Produce, version 3, acks -1).
pub(crate) fn append(brokers: &[&str], topic: &str, value: &[u8]) {
    let batch = record_batch(value);
    let no_transaction = (-1_i16).to_be_bytes();
    let all = (-1_i16).to_be_bytes();
    let timeout_ms = 10_000_u32.to_be_bytes();
    let one = [0, 0, 0, 1];
    let length = u32::try_from(batch.len()).unwrap().to_be_bytes();
    let request =
        [&no_transaction[..], &all, &timeout_ms, &one, &string(topic), &one, &[0; 4], &length, &batch].concat();
    // The leader may be the one that is away: it is asked again until there is another.
    eventually("the record is acknowledged", || {
        let answer = call_leader(brokers, topic, 0, 3, &request)?;
        let after_index = 4 + 4 + 2 + topic.len() + 4 + 4;
        (answer.get(after_index..after_index + 2)? == [0, 0]).then_some(())
    });
}

/// The offset behind the last record (`ListOffsets`, version 1); -1 while the
/// leader does not say.
pub(crate) fn end_of_log(brokers: &[&str], topic: &str) -> i64 {
    let client = (-1_i32).to_be_bytes();
    let latest = (-1_i64).to_be_bytes();
    let one = [0, 0, 0, 1];
    let request = [&client[..], &one, &string(topic), &one, &[0; 4], &latest].concat();
    let answer = call_leader(brokers, topic, 2, 1, &request).unwrap_or_default();
    answer.last_chunk().map_or(-1, |offset| i64::from_be_bytes(*offset))
}

/// A batch of one record without a key, in Kafka's format of records, version 2.
fn record_batch(value: &[u8]) -> Vec<u8> {
    let zigzag = |length: usize| u8::try_from(length * 2).unwrap();
    let body = [&[0, 0, 0, 1, zigzag(value.len())][..], value, &[0]].concat();
    let record = [&[zigzag(body.len())][..], &body].concat();
    let no_producer = [0xff; 8 + 2 + 4];
    let one = [0, 0, 0, 1];
    let (attributes, last_offset_delta, times) = ([0; 2], [0; 4], [0; 16]);
    let summed = [&attributes[..], &last_offset_delta, &times, &no_producer, &one, &record].concat();
    let (epoch, magic, checksum) = ([0xff; 4], [2], crc32c(&summed).to_be_bytes());
    let length = u32::try_from(4 + 1 + 4 + summed.len()).unwrap().to_be_bytes();
    [&[0; 8][..], &length, &epoch, &magic, &checksum, &summed].concat()
}

/// The checksum of RFC 3720, B.4.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 })
    })
}

/// Reads an answer field by field.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take(&mut self, bytes: usize) -> Option<Vec<u8>> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken.to_vec())
    }

    fn int16(&mut self) -> Option<i16> {
        Some(i16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn int32(&mut self) -> Option<i32> {
        Some(i32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    /// A length of -1 is null, which is read as the empty string.
    fn string(&mut self) -> Option<String> {
        let length = usize::try_from(self.int16()?).unwrap_or(0);
        String::from_utf8(self.take(length)?).ok()
    }

    fn ids(&mut self) -> Option<Vec<i32>> {
        (0..self.int32()?).map(|_| self.int32()).collect()
    }
}

fn call(broker: &str, api: u16, version: u16, body: &[u8]) -> Option<Vec<u8>> {
    let mut connection = TcpStream::connect(broker).ok()?;
    // A broker that is given up waits long for its replicas.
    connection.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let request = [&api.to_be_bytes()[..], &version.to_be_bytes(), &[0; 4], &string("test"), body].concat();
    connection.write_all(&u32::try_from(request.len()).unwrap().to_be_bytes()).ok()?;
    connection.write_all(&request).ok()?;
    let mut length = [0; 4];
    connection.read_exact(&mut length).ok()?;
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    connection.read_exact(&mut answer).ok()?;
    Some(answer)
}

fn string(text: &str) -> Vec<u8> {
    [&u16::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat()
}
