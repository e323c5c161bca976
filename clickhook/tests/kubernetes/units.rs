//! The systemd units: each starts a command that exists, with a configuration that passes, and
//! has the time to drain.

use std::{
    collections::BTreeMap,
    fs,
    process::{Command, Stdio},
};

use crate::manifests::repository;

const BINARY: &str = env!("CARGO_BIN_EXE_clickhook");

/// Returns the units with their lines `key=value`, each key with all its values.
fn units() -> BTreeMap<String, Vec<(String, String)>> {
    let mut units = BTreeMap::new();
    for entry in fs::read_dir(repository().join("systemd")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "service") {
            let text = fs::read_to_string(&path).unwrap();
            let lines = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
            let lines = lines.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
            units.insert(path.file_stem().unwrap().to_str().unwrap().to_owned(), lines);
        }
    }
    assert_eq!(units.len(), 6);
    units
}

fn all<'a>(unit: &'a [(String, String)], key: &str) -> Vec<&'a str> {
    unit.iter().filter(|(own, _)| own == key).map(|(_, value)| value.as_str()).collect()
}

#[test]
fn every_unit_starts_a_command_with_settings_that_pass() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("clickhook.toml");
    fs::write(&config, "").unwrap();
    let mut listens = Vec::new();
    for (name, unit) in units() {
        let command = all(&unit, "ExecStart")[0];
        let words: Vec<&str> = command.split(' ').collect();
        let (args, file) = words.split_at(words.len() - 2);
        assert_eq!(args[0], "/usr/bin/clickhook", "{name}");
        assert_eq!(file, ["--config", "/etc/clickhook/clickhook.toml"], "{name}");
        let help =
            Command::new(BINARY).args(&args[1..]).args(["--config", "x", "--help"]).stdout(Stdio::null()).status();
        assert!(help.unwrap().success(), "{name}: {command}");
        let variables: Vec<(&str, &str)> =
            all(&unit, "Environment").into_iter().map(|variable| variable.split_once('=').unwrap()).collect();
        listens.extend(
            variables.iter().filter(|(key, _)| *key == "CLICKHOOK_METRICS_LISTEN").map(|(_, at)| (*at).to_owned()),
        );
        let checked = Command::new(BINARY)
            .args(["check-config", "--config"])
            .arg(&config)
            .env_clear()
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        assert!(checked.status.success(), "{name}: {}", String::from_utf8_lossy(&checked.stderr));
        let settings: toml::Table = String::from_utf8(checked.stdout).unwrap().parse().unwrap();
        let ms = |section: &str, key: &str| u64::try_from(settings[section][key].as_integer().unwrap()).unwrap();
        let needed_ms = match name.as_str() {
            "clickhook-ingest" => {
                let data_dir = settings["ingest"]["data_dir"].as_str().unwrap();
                let state = format!("/var/lib/{}", all(&unit, "StateDirectory")[0]);
                assert_eq!(data_dir, state, "the unit may write to no other folder");
                ["drain_delay_ms", "drain_timeout_ms", "drain_spool_ms"]
                    .map(|key| ms("ingest", key))
                    .iter()
                    .sum::<u64>()
                    + 10_000
            }
            "clickhook-webhook" => ms("webhook", "drain_ms"),
            "clickhook-warehouse" => {
                2 * ms("clickhouse", "insert_timeout_ms") + 4 * ms("clickhouse", "query_timeout_ms")
            }
            _ => 10_000,
        };
        if let [stop] = all(&unit, "TimeoutStopSec")[..] {
            assert!(
                stop.parse::<u64>().unwrap() * 1000 >= needed_ms + 10_000,
                "{name} drains for up to {needed_ms} ms"
            );
        } else {
            assert_eq!(name, "clickhook-migrate");
        }
    }
    let count = listens.len();
    listens.sort();
    listens.dedup();
    assert_eq!(listens.len(), count, "two units on one machine would take the same port");
    assert_eq!(count, 5);
}

#[test]
fn systemd_accepts_the_units_and_finds_them_hardened() {
    let Ok(version) = Command::new("systemd-analyze").arg("--version").output() else {
        println!("there is no systemd here: its own check is left out");
        return;
    };
    // `security --offline` is of 250.
    let version = String::from_utf8_lossy(&version.stdout).split(' ').nth(1).unwrap_or("0").parse().unwrap_or(0);
    let dir = tempfile::tempdir().unwrap();
    let hardening = fs::read_to_string(repository().join("systemd/clickhook-.service.d/10-hardening.conf")).unwrap();
    for name in units().keys() {
        // The drop-in applies to all units by its folder's name, which a check by path does
        // not see.
        let text = fs::read_to_string(repository().join(format!("systemd/{name}.service"))).unwrap();
        let text = text.replace("/usr/bin/clickhook", BINARY);
        let (before, after) = text.split_once("[Service]\n").unwrap();
        let hardening = hardening.split_once("[Service]\n").unwrap().1;
        let path = dir.path().join(format!("{name}.service"));
        fs::write(&path, format!("{before}[Service]\n{hardening}{after}")).unwrap();
        let verified = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output().unwrap();
        let told = String::from_utf8_lossy(&verified.stderr);
        let wrong: Vec<&str> = told.lines().filter(|line| line.contains(name.as_str())).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
        if version >= 250 {
            // In tenths: 2.0 of 10 is what systemd calls "OK"; 9.6 is a unit without hardening.
            let rated = Command::new("systemd-analyze")
                .args(["security", "--offline=true", "--threshold=20"])
                .arg(&path)
                .output()
                .unwrap();
            let told = String::from_utf8_lossy(&rated.stdout);
            assert!(rated.status.success(), "{}", told.lines().last().unwrap_or_default());
        }
    }
}
