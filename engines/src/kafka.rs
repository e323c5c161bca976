//! Apache Kafka as children: one node, or a cluster of several. Each is a broker and
//! a controller in one JVM (KRaft).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::data_dir::{DataDir, write_atomically};
use crate::install::Installed;
use crate::log_file::LogFile;
use crate::ports::BrokerPorts;
use crate::probe::{KafkaProbe, Probe, WaitsFor};
use crate::supervisor::{Spec, Stop};
use crate::{Engine, Error, SecureListeners};

const CONFIG: &str = include_str!("kafka/server.properties");
const LOGGING: &str = include_str!("kafka/log4j2.properties");
/// Also read by scripts/engines: the class-data archive fits the flags that it
/// was made with.
const JAVA_ARGS: &str = include_str!("kafka/java.args");
/// Closing its logs in order spares the next start the recovery.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// A node of a cluster is small: several share a laptop with everything else.
const CLUSTER_HEAP: &str = "-Xmx192m";

/// Writes the configuration of each node, formats its folder if it is new, and
/// says how it is run. A node has a folder of its own in the data directory: the
/// first `kafka`, the others `kafka-2` and so on.
pub(crate) fn prepare(
    data_dir: &DataDir,
    installed: &Installed,
    ports: &[BrokerPorts],
    heap_mb: Option<u16>,
    secure: Option<&SecureListeners>,
) -> Result<Vec<Spec>, Error> {
    let voters: Vec<String> =
        ports.iter().zip(1..).map(|(ports, id)| format!("{id}@127.0.0.1:{}", ports.controllers)).collect();
    let voters = voters.join(",");
    let mut cluster_id = None;
    let mut specs = Vec::new();
    for (own, id) in ports.iter().zip(1..) {
        let name = if id == 1 { "kafka".to_owned() } else { format!("kafka-{id}") };
        let node = Node { id, name, ports: *own, voters: &voters, brokers: ports.len(), heap_mb, secure };
        let log_dir = data_dir.path().join(&node.name).join("data");
        fs::create_dir_all(&log_dir).map_err(|source| Error::io("create", &log_dir, source))?;
        let cluster = format(&installed.kafka().join("formatted"), &log_dir, id, cluster_id.take())?;
        specs.push(node.prepare(data_dir, installed, &log_dir, &cluster)?);
        cluster_id = Some(cluster);
    }
    Ok(specs)
}

/// One of the brokers, which is also one of the controllers.
struct Node<'a> {
    id: u16,
    name: String,
    ports: BrokerPorts,
    voters: &'a str,
    brokers: usize,
    heap_mb: Option<u16>,
    secure: Option<&'a SecureListeners>,
}

impl Node<'_> {
    fn prepare(
        &self,
        data_dir: &DataDir,
        installed: &Installed,
        log_dir: &Path,
        cluster_id: &str,
    ) -> Result<Spec, Error> {
        let dir = data_dir.path().join(&self.name);
        let temporary = empty_dir(dir.join("tmp"))?;
        let config = dir.join("server.properties");
        write_atomically(&config, &self.config(log_dir))?;
        let logging = dir.join("log4j2.properties");
        write_atomically(&logging, LOGGING)?;

        // Its classpath is relative, so Java runs in the folder with the jars.
        let mut args = vec!["@classpath.args".to_owned()];
        args.extend(JAVA_ARGS.lines().map(str::to_owned));
        if let Some(heap_mb) = self.heap_mb {
            args.push(format!("-Xmx{heap_mb}m"));
        } else if self.brokers > 1 {
            args.push(CLUSTER_HEAP.into());
        }
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
        let port = self.ports.clients;
        let cluster_id = cluster_id.to_owned();
        let waits_for = if self.brokers == 1 { WaitsFor::Coordinators } else { WaitsFor::ProducerIds };
        Ok(Spec {
            engine: Engine::Kafka,
            program: installed.java(),
            args: args.into_iter().map(Into::into).collect(),
            current_dir: installed.kafka(),
            marker,
            record: data_dir.run().join(format!("{}.json", self.name)),
            log: LogFile::new(data_dir.logs().join(format!("{}.log", self.name)), data_dir.log_max_bytes()),
            probe: Probe::Kafka(KafkaProbe { port, cluster_id, waits_for }),
            stop: Stop::Terminate(STOP_WITHIN),
        })
    }

    fn config(&self, log_dir: &Path) -> String {
        let replicas = self.brokers.min(3);
        let BrokerPorts { clients, controllers, secure } = self.ports;
        let secure = self.secure.zip(secure).map(|(listeners, own)| listeners.config(clients, controllers, own));
        let config = CONFIG
            .replace("@log_dir@", &log_dir.to_string_lossy().replace('\\', "\\\\"))
            .replace("@broker_port@", &clients.to_string())
            .replace("@controller_port@", &controllers.to_string())
            .replace("@node_id@", &self.id.to_string())
            .replace("@voters@", self.voters)
            .replace("@replicas@", &replicas.to_string())
            .replace("@min_isr@", &replicas.saturating_sub(1).max(1).to_string());
        config + &secure.unwrap_or_default()
    }
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

/// Formats `log_dir` if it is new, and gives back the id of its cluster. A new
/// folder is formatted by copying what Kafka's own tool wrote when Kafka was
/// installed, under ids of its own: the same outcome as running the tool, a JVM
/// start sooner. Without `cluster_id`, the cluster is new, too.
fn format(formatted: &Path, log_dir: &Path, node_id: u16, cluster_id: Option<String>) -> Result<String, Error> {
    let properties = log_dir.join("meta.properties");
    let found = match fs::read_to_string(&properties) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let template = formatted.join("meta.properties");
            let template = fs::read_to_string(&template).map_err(|source| Error::io("read", &template, source))?;
            let checkpoint = log_dir.join("bootstrap.checkpoint");
            fs::copy(formatted.join("bootstrap.checkpoint"), &checkpoint)
                .map_err(|source| Error::io("write", &checkpoint, source))?;
            let cluster_id = cluster_id.map_or_else(random_id, Ok)?;
            let new = with_ids(&template, node_id, &cluster_id)?;
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

fn with_ids(template: &str, node_id: u16, cluster_id: &str) -> Result<String, Error> {
    let mut lines = Vec::new();
    for line in template.lines() {
        lines.push(match line.split_once('=') {
            Some((key @ "cluster.id", _)) => format!("{key}={cluster_id}\n"),
            Some((key @ "directory.id", _)) => format!("{key}={}\n", random_id()?),
            Some((key @ "node.id", _)) => format!("{key}={node_id}\n"),
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
    fn a_new_folder_gets_ids_of_its_own_once() {
        let (formatted, log_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(
            formatted.path().join("meta.properties"),
            "#\nnode.id=1\ndirectory.id=old\nversion=1\ncluster.id=old\n",
        )
        .unwrap();
        fs::write(formatted.path().join("bootstrap.checkpoint"), "x").unwrap();
        let id = format(formatted.path(), log_dir.path(), 1, None).unwrap();
        assert_eq!(id.len(), 22);
        assert_ne!(id, "old");
        assert_eq!(format(formatted.path(), log_dir.path(), 1, None).unwrap(), id);
        let written = fs::read_to_string(log_dir.path().join("meta.properties")).unwrap();
        assert!(written.contains("node.id=1\n") && !written.contains("old"), "{written}");

        let second = tempfile::tempdir().unwrap();
        assert_eq!(format(formatted.path(), second.path(), 2, Some(id.clone())).unwrap(), id);
        let written = fs::read_to_string(second.path().join("meta.properties")).unwrap();
        assert!(written.contains("node.id=2\n"), "{written}");
    }
}
