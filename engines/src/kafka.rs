//! Apache Kafka as a child: one node, broker and controller in one JVM (KRaft).

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Error;
use crate::data_dir::{DataDir, write_atomically};
use crate::install::Installed;
use crate::log_file::LogFile;
use crate::supervisor::{self, Spec, Stop};

const NAME: &str = "kafka";
const CONFIG: &str = include_str!("kafka/server.properties");
const LOGGING: &str = include_str!("kafka/log4j2.properties");
/// Also read by scripts/engines: the class-data archive fits the flags that it
/// was made with.
const JAVA_ARGS: &str = include_str!("kafka/java.args");
/// Closing its logs in order spares the next start the recovery.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// Writes Kafka's configuration, formats its folder if it is new, and says how
/// it is run.
pub(crate) fn prepare(
    data_dir: &DataDir,
    installed: &Installed,
    broker_port: u16,
    controller_port: u16,
) -> Result<Spec, Error> {
    let dir = data_dir.path().join(NAME);
    let log_dir = dir.join("data");
    fs::create_dir_all(&log_dir).map_err(|source| Error::io("create", &log_dir, source))?;
    let temporary = empty_dir(dir.join("tmp"))?;
    let cluster_id = cluster_id(&installed.kafka().join("formatted"), &log_dir)?;

    let config = dir.join("server.properties");
    let filled_in = CONFIG
        .replace("@log_dir@", &log_dir.to_string_lossy().replace('\\', "\\\\"))
        .replace("@broker_port@", &broker_port.to_string())
        .replace("@controller_port@", &controller_port.to_string());
    write_atomically(&config, &filled_in)?;
    let logging = dir.join("log4j2.properties");
    write_atomically(&logging, LOGGING)?;

    // Its classpath is relative, so Java runs in the folder with the jars.
    let mut args = vec!["@classpath.args".to_owned()];
    args.extend(JAVA_ARGS.lines().map(str::to_owned));
    // Without it, or with another Java than it was made by, the start is slower.
    if installed.kafka().join("classes.jsa").exists() {
        args.push("-XX:SharedArchiveFile=classes.jsa".into());
    }
    let marker = config.to_string_lossy().into_owned();
    args.extend([
        format!("-Djava.io.tmpdir={}", temporary.display()),
        format!("-Dlog4j2.configurationFile={}", logging.display()),
        "kafka.Kafka".into(),
        marker.clone(),
    ]);

    Ok(Spec {
        engine: NAME,
        program: installed.java(),
        args: args.into_iter().map(Into::into).collect(),
        current_dir: installed.kafka(),
        marker,
        record: data_dir.run().join("kafka.json"),
        log: LogFile::new(data_dir.logs().join("kafka.log"), data_dir.log_max_bytes()),
        probe: supervisor::Probe::Kafka(Probe { port: broker_port, cluster_id }),
        stop: Stop::Terminate(STOP_WITHIN),
    })
}

/// Java's folder for temporary files. Kafka's compressors unpack libraries there,
/// which a JVM that is killed leaves behind.
fn empty_dir(dir: PathBuf) -> Result<PathBuf, Error> {
    match fs::remove_dir_all(&dir) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(Error::io("clear", &dir, source)),
        _ => fs::create_dir_all(&dir).map_err(|source| Error::io("create", &dir, source))?,
    }
    Ok(dir)
}

/// The id of the cluster in `log_dir`. A new folder is formatted by copying what
/// Kafka's own tool wrote when Kafka was installed, under ids of its own: the
/// same outcome as running the tool, a JVM start sooner.
fn cluster_id(formatted: &Path, log_dir: &Path) -> Result<String, Error> {
    let properties = log_dir.join("meta.properties");
    let found = match fs::read_to_string(&properties) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let template = formatted.join("meta.properties");
            let template = fs::read_to_string(&template).map_err(|source| Error::io("read", &template, source))?;
            let checkpoint = log_dir.join("bootstrap.checkpoint");
            fs::copy(formatted.join("bootstrap.checkpoint"), &checkpoint)
                .map_err(|source| Error::io("write", &checkpoint, source))?;
            let new = with_new_ids(&template)?;
            // Last: with it, the folder counts as formatted.
            write_atomically(&properties, &new)?;
            new
        }
        Err(source) => return Err(Error::io("read", &properties, source)),
    };
    let id = found.lines().find_map(|line| line.strip_prefix("cluster.id="));
    id.map(str::to_owned)
        .ok_or_else(|| Error::io("find a cluster.id in", &properties, io::ErrorKind::InvalidData.into()))
}

fn with_new_ids(template: &str) -> Result<String, Error> {
    let mut lines = Vec::new();
    for line in template.lines() {
        lines.push(match line.split_once('=') {
            Some((key @ ("cluster.id" | "directory.id"), _)) => format!("{key}={}\n", random_id()?),
            _ => format!("{line}\n"),
        });
    }
    Ok(lines.concat())
}

/// An id as Kafka spells them (org.apache.kafka.common.Uuid): the 16 bytes of a
/// random UUID in base64url without padding.
fn random_id() -> Result<String, Error> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    const SOURCE: &str = "/proc/sys/kernel/random/uuid";
    let uuid = fs::read_to_string(SOURCE).map_err(|source| Error::io("read", SOURCE, source))?;
    let bits =
        uuid.chars().filter_map(|digit| digit.to_digit(16)).fold(0u128, |bits, digit| (bits << 4) | u128::from(digit));
    // 128 bits are 21 characters of 6 bits and one of 2, shifted to the left.
    let character = |at: u32| {
        let six = if at < 21 { bits >> (128 - 6 * (at + 1)) } else { bits << 4 };
        char::from(ALPHABET[(six & 0x3f) as usize])
    };
    let id: String = (0..22).map(character).collect();
    // Kafka's tools take a leading dash for an option.
    if id.starts_with('-') { random_id() } else { Ok(id) }
}

/// Asks the broker who is in the cluster: it is ours when the cluster is, and
/// ready when it names itself and hands out producer ids. It names itself a
/// moment sooner, and a client that asks too soon for an id waits half a second
/// before it asks again.
#[derive(Debug)]
pub(crate) struct Probe {
    port: u16,
    cluster_id: String,
}

impl Probe {
    pub(crate) async fn answers(&self) -> bool {
        self.is_ready().await.unwrap_or(false)
    }

    async fn is_ready(&self) -> io::Result<bool> {
        let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await?;
        let answer = ask(&mut connection, &metadata_request()).await?;
        let named = named_in(&answer).is_some_and(|(brokers, cluster)| brokers > 0 && cluster == self.cluster_id);
        Ok(named && hands_out_producer_ids(&ask(&mut connection, &producer_id_request()).await?))
    }
}

async fn ask(connection: &mut TcpStream, request: &[u8]) -> io::Result<Vec<u8>> {
    connection.write_all(request).await?;
    let length = connection.read_u32().await?;
    if length > 1 << 20 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut answer = vec![0; length as usize];
    connection.read_exact(&mut answer).await?;
    Ok(answer)
}

/// A request as Kafka frames it: its length, the header (version 1) and the body.
fn request(api: u16, version: u16, body: &[u8]) -> Vec<u8> {
    const CORRELATION: [u8; 4] = [0, 0, 0, 1];
    const CLIENT: &[u8] = b"\0\x07engines";
    let request = [&api.to_be_bytes()[..], &version.to_be_bytes(), &CORRELATION, CLIENT, body].concat();
    let length = u32::try_from(request.len()).unwrap_or_default().to_be_bytes();
    [&length[..], &request].concat()
}

/// A Metadata request about no topic, version 4: the oldest that Kafka 4 knows,
/// without tagged fields (<https://kafka.apache.org/protocol>, Metadata).
fn metadata_request() -> Vec<u8> {
    const NO_TOPICS: [u8; 4] = [0; 4];
    const NO_TOPIC_CREATION: [u8; 1] = [0];
    request(3, 4, &[&NO_TOPICS[..], &NO_TOPIC_CREATION].concat())
}

/// A request for the id of a producer without transactions, version 1: the last
/// without tagged fields (<https://kafka.apache.org/protocol>, InitProducerId).
fn producer_id_request() -> Vec<u8> {
    const NO_TRANSACTIONAL_ID: [u8; 2] = (-1_i16).to_be_bytes();
    const TRANSACTION_TIMEOUT_MS: [u8; 4] = 1000_i32.to_be_bytes();
    request(22, 1, &[&NO_TRANSACTIONAL_ID[..], &TRANSACTION_TIMEOUT_MS].concat())
}

/// Whether the answer to it has no error code, which stands behind the
/// correlation and the throttle.
fn hands_out_producer_ids(answer: &[u8]) -> bool {
    answer.get(8..10) == Some(&[0, 0])
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

fn int32(rest: &mut &[u8]) -> Option<i32> {
    let (bytes, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(i32::from_be_bytes(*bytes))
}

/// A length of -1 is null, which is read as the empty string.
fn nullable_string(rest: &mut &[u8]) -> Option<String> {
    let (length, after) = rest.split_first_chunk()?;
    let length = usize::try_from(i16::from_be_bytes(*length)).unwrap_or(0);
    let (bytes, after) = after.split_at_checked(length)?;
    *rest = after;
    String::from_utf8(bytes.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_java_left_is_cleared() {
        let parent = tempfile::tempdir().unwrap();
        let dir = empty_dir(parent.path().join("tmp")).unwrap();
        fs::write(dir.join("liblz4-java-1.so"), "left").unwrap();
        assert_eq!(fs::read_dir(empty_dir(dir).unwrap()).unwrap().count(), 0);
    }

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
    fn a_new_folder_gets_ids_of_its_own_once() {
        let (formatted, log_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(
            formatted.path().join("meta.properties"),
            "#\nnode.id=1\ndirectory.id=old\nversion=1\ncluster.id=old\n",
        )
        .unwrap();
        fs::write(formatted.path().join("bootstrap.checkpoint"), "x").unwrap();
        let id = cluster_id(formatted.path(), log_dir.path()).unwrap();
        assert_eq!(id.len(), 22);
        assert_ne!(id, "old");
        assert_eq!(cluster_id(formatted.path(), log_dir.path()).unwrap(), id);
        let written = fs::read_to_string(log_dir.path().join("meta.properties")).unwrap();
        assert!(written.contains("node.id=1\n") && !written.contains("old"), "{written}");
    }
}
