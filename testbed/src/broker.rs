//! Requests to a Kafka of one broker that no client of clickhook makes, by hand
//! (<https://kafka.apache.org/protocol>): a topic's settings are changed, and the
//! beginning of a log is deleted.

use std::{
    io::{self, Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

/// How long the broker may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sets settings of a topic, or resets those without a value to their defaults
/// (`IncrementalAlterConfigs`, version 0).
///
/// # Panics
/// When the broker does not answer, or refuses.
pub fn set_topic(broker: &str, topic: &str, settings: &[(&str, Option<&str>)]) {
    const TOPIC: u8 = 2;
    const SET: u8 = 0;
    const RESET: u8 = 1;
    let settings_bytes = settings.iter().flat_map(|(key, value)| {
        let operation = if value.is_some() { SET } else { RESET };
        [&string(key)[..], &[operation], &nullable_string(*value)].concat()
    });
    let count = u32::try_from(settings.len()).expect("few settings").to_be_bytes();
    let body = [&[0, 0, 0, 1, TOPIC][..], &string(topic), &count, &settings_bytes.collect::<Vec<u8>>(), &[0]].concat();
    let answer = call(broker, 44, 0, &body).expect("the broker answers");
    // Behind the correlation, the throttle and the number of answers.
    assert_eq!(answer.get(12..14), Some(&[0, 0][..]), "{topic}: {settings:?}: {}", String::from_utf8_lossy(&answer));
}

/// Deletes the records of a partition before `offset` (`DeleteRecords`, version 1).
///
/// # Panics
/// When the broker does not answer, or refuses.
pub fn delete_before(broker: &str, topic: &str, partition: i32, offset: i64) {
    let one = [0, 0, 0, 1];
    let timeout_ms = 10_000_u32.to_be_bytes();
    let body = [&one[..], &string(topic), &one, &partition.to_be_bytes(), &offset.to_be_bytes(), &timeout_ms].concat();
    let answer = call(broker, 21, 1, &body).expect("the broker answers");
    assert!(answer.ends_with(&[0, 0]), "{topic}[{partition}]: {answer:?}");
}

fn call(broker: &str, api: u16, version: u16, body: &[u8]) -> io::Result<Vec<u8>> {
    let mut connection = TcpStream::connect(broker)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    let request = [&api.to_be_bytes()[..], &version.to_be_bytes(), &[0; 4], &string("testbed"), body].concat();
    let length = u32::try_from(request.len()).map_err(io::Error::other)?.to_be_bytes();
    connection.write_all(&[&length[..], &request].concat())?;
    let mut length = [0; 4];
    connection.read_exact(&mut length)?;
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    connection.read_exact(&mut answer)?;
    Ok(answer)
}

fn string(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).expect("a short text").to_be_bytes();
    [&length[..], text.as_bytes()].concat()
}

/// A length of -1 stands for none.
fn nullable_string(text: Option<&str>) -> Vec<u8> {
    text.map_or_else(|| vec![0xff; 2], string)
}
