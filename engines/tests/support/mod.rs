//! Talking to the engines by hand: enough of Kafka's protocol and of HTTP to
//! see that they work and keep what they are given.

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
pub(crate) fn create_topic(broker: &str, topic: &str) {
    let one_partition_one_replica = [0, 0, 0, 1, 0, 1];
    let no_assignments_no_configs = [0; 8];
    let timeout_ms = 10_000u32.to_be_bytes();
    let for_real = [0];
    let parts = [&string(topic)[..], &one_partition_one_replica, &no_assignments_no_configs, &timeout_ms, &for_real];
    let answer = call(broker, 19, 2, &[&[0, 0, 0, 1][..], &parts.concat()].concat()).expect("an answer of the broker");
    let after_name = 4 + 4 + 4 + 2 + topic.len();
    assert_eq!(answer[after_name..after_name + 2], [0, 0], "error code of CreateTopics in {answer:?}");
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

fn call(broker: &str, api: u16, version: u16, body: &[u8]) -> Option<Vec<u8>> {
    let mut connection = TcpStream::connect(broker).ok()?;
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
