//! The life of real engines: started, shared with nobody, killed, orphaned,
//! started again, with what they were given still there.

#![allow(clippy::unwrap_used, reason = "in a test it says what must hold")]

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use engines::{Engines, Error, Installed, exec};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use support::{create_topic, eventually, example, has_topic, options, query};

fn pid(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
}

/// Puts something into both engines that can be looked for later.
fn remember(brokers: &str, url: &str) {
    create_topic(brokers, "kept", 1);
    query(url, "CREATE TABLE kept (n UInt64) ENGINE = MergeTree ORDER BY n").unwrap();
    query(url, "INSERT INTO kept SELECT number FROM numbers(1000)").unwrap();
}

fn assert_remembered(brokers: &str, url: &str) {
    eventually("the topic is known", || has_topic(brokers, "kept").then_some(()));
    assert_eq!(query(url, "SELECT sum(n) FROM kept").unwrap(), "499500");
}

#[tokio::test(flavor = "multi_thread")]
async fn data_and_ports_survive_a_restart_and_a_second_start_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let engines = Engines::start(options(dir.path())).await.unwrap();
    let (brokers, url) = (engines.kafka_brokers(), engines.clickhouse_url());
    remember(&brokers, &url);

    let refused = Engines::start(options(dir.path())).await.unwrap_err();
    assert!(matches!(refused, Error::InUse { .. }), "{refused}");

    let pids = engines.pids();
    engines.shutdown().await;
    for child in [pids.kafka, pids.clickhouse] {
        assert!(test_kill_process(pid(child.unwrap())).is_err(), "{pids:?} after the shutdown");
    }

    let engines = Engines::start(options(dir.path())).await.unwrap();
    assert_eq!((engines.kafka_brokers(), engines.clickhouse_url()), (brokers.clone(), url.clone()));
    assert_remembered(&brokers, &url);
    engines.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_child_is_started_again_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let engines = Engines::start(options(dir.path())).await.unwrap();
    let (brokers, url) = (engines.kafka_brokers(), engines.clickhouse_url());
    remember(&brokers, &url);

    let before = engines.pids();
    for child in [before.kafka, before.clickhouse] {
        kill_process(pid(child.unwrap()), Signal::KILL).unwrap();
    }
    let after = eventually("both are back", || {
        let now = engines.pids();
        let back = now.kafka.is_some_and(|pid| Some(pid) != before.kafka)
            && now.clickhouse.is_some_and(|pid| Some(pid) != before.clickhouse);
        back.then_some(now)
    });
    assert_ne!(before, after);
    assert_remembered(&brokers, &url);
    engines.shutdown().await;
}

/// A process of its own that runs engines, and what it says about them.
fn start_process(data_dir: &Path) -> (Child, String, String, Vec<u32>) {
    let mut process = Command::new(example()).arg(data_dir).stdout(Stdio::piped()).spawn().unwrap();
    let lines: Vec<String> =
        BufReader::new(process.stdout.take().unwrap()).lines().take(3).map(Result::unwrap).collect();
    let value = |line: &str| line.split_once('=').unwrap().1.to_owned();
    let pids = lines[2].split(' ').filter_map(|word| word.parse().ok()).collect();
    (process, value(&lines[0]), value(&lines[1]), pids)
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_of_a_killed_parent_are_ended_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let (mut parent, brokers, url, orphans) = start_process(dir.path());
    remember(&brokers, &url);
    parent.kill().unwrap();
    parent.wait().unwrap();
    assert_eq!(orphans.len(), 2);
    assert!(has_topic(&brokers, "kept"), "Kafka does not notice that its parent is gone");

    let engines = Engines::start(options(dir.path())).await.unwrap();
    for orphan in &orphans {
        let program = fs::read_link(format!("/proc/{orphan}/exe"));
        assert!(program.is_err(), "process {orphan} still runs {program:?}");
    }
    assert_eq!((engines.kafka_brokers(), engines.clickhouse_url()), (brokers.clone(), url.clone()));
    assert_remembered(&brokers, &url);
    engines.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_runs_beside_engines_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let script = r#"[ -n "$CLICKHOOK_TEST_KAFKA" ] && [ -n "$CLICKHOOK_TEST_CLICKHOUSE" ] && exit 7"#;
    let code = exec(options(dir.path()), &["sh".into(), "-c".into(), script.into()]).await.unwrap();
    assert_eq!(code, 7);
}

#[tokio::test]
async fn external_engines_are_used_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    (options.kafka, options.clickhouse) = (Some("kafka-1:9092".into()), Some("https://warehouse:8443".into()));
    let engines = Engines::start(options).await.unwrap();
    assert_eq!(engines.kafka_brokers(), "kafka-1:9092");
    assert_eq!(engines.clickhouse_url(), "https://warehouse:8443");
    assert_eq!(engines.pids(), engines::Pids::default());
    engines.shutdown().await;
}

#[test]
fn a_missing_installation_says_how_to_get_one() {
    let empty = tempfile::tempdir().unwrap();
    let error = Installed::locate(Some(empty.path())).unwrap_err().to_string();
    assert!(error.contains("make engines"), "{error}");
}
