//! `clickhook up`, as a person starts it: how long its first and its second start
//! take, and what it uses while nobody clicks.

use std::{fs, net::SocketAddr, path::Path, process::Stdio, time::Duration};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Child,
    time::{sleep, timeout},
};

use super::plan::Plan;
use crate::{
    process::{self, Memory, Who},
    role::{command, last_lines, stop},
};

/// How long a start may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The start of `clickhook up`, and the resources that it uses while idle.
#[derive(Debug, Serialize)]
pub(crate) struct Idle {
    /// On an empty folder.
    pub(crate) first_start: Start,
    pub(crate) second_start: Start,
    /// For how long it was watched.
    pub(crate) seconds: f64,
    pub(crate) processes: Vec<IdleProcess>,
}

/// How long a start took.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Start {
    pub(crate) all_ms: u64,
    /// Of which Kafka and ClickHouse, side by side.
    pub(crate) engines_ms: u64,
}

/// The resources that an idle process uses.
#[derive(Debug, Serialize)]
pub(crate) struct IdleProcess {
    pub(crate) process: &'static str,
    /// Of one core.
    pub(crate) cpu_percent: f64,
    pub(crate) memory: Memory,
}

/// The line that `up --json` prints when it is ready.
#[derive(Debug, Deserialize)]
struct Facts {
    redirect: SocketAddr,
    pids: Pids,
    start_ms: u64,
    engines_ms: u64,
}

#[derive(Debug, Deserialize)]
struct Pids {
    clickhook: u32,
    kafka: u32,
    clickhouse: u32,
}

/// Starts `up` in `dir` twice and watches it do nothing.
pub(crate) async fn watch(plan: &Plan, dir: &Path) -> anyhow::Result<Idle> {
    let (mut up, first) = start(&plan.binary, dir).await?;
    stop(&mut up).await.context("stop `clickhook up`")?;
    let (mut up, facts) = start(&plan.binary, dir).await?;
    sleep(plan.settle).await;
    let meters = [
        ("Kafka", Who::Process(facts.pids.kafka)),
        ("ClickHouse", Who::Process(facts.pids.clickhouse)),
        ("clickhook", Who::Process(facts.pids.clickhook)),
    ];
    let before = process::cpu_times(&meters)?;
    sleep(plan.idle).await;
    let after = process::cpu_times(&meters)?;
    let mut processes = Vec::new();
    for (name, who) in meters {
        let cpu = after[name].saturating_sub(before[name]);
        let Who::Process(pid) = who else { continue };
        processes.push(IdleProcess {
            process: name,
            cpu_percent: 100.0 * cpu.as_secs_f64() / plan.idle.as_secs_f64(),
            memory: process::memory(pid)?,
        });
    }
    stop(&mut up).await.context("stop `clickhook up`")?;
    let start = |facts: &Facts| Start { all_ms: facts.start_ms, engines_ms: facts.engines_ms };
    Ok(Idle { first_start: start(&first), second_start: start(&facts), seconds: plan.idle.as_secs_f64(), processes })
}

async fn start(binary: &Path, dir: &Path) -> anyhow::Result<(Child, Facts)> {
    let log = dir.join("up.log");
    let any_port = "127.0.0.1:0";
    let mut up = command(binary)
        .args([
            "up",
            "--json",
            "--redirect",
            any_port,
            "--intake",
            any_port,
            "--api",
            any_port,
            "--metrics",
            any_port,
            "--data-dir",
        ])
        .arg(dir.join("data"))
        .stdout(Stdio::piped())
        .stderr(fs::File::create(&log)?)
        .spawn()
        .with_context(|| format!("start {} up", binary.display()))?;
    let mut lines = BufReader::new(up.stdout.take().context("read what `clickhook up` says")?).lines();
    let Ok(Ok(Some(line))) = timeout(PATIENCE, lines.next_line()).await else {
        bail!("`clickhook up` did not come up: {}", last_lines(&log));
    };
    let facts: Facts = serde_json::from_str(&line).with_context(|| format!("`clickhook up --json` said {line}"))?;
    // Kept open: a program whose output nobody reads would be told so.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    if facts.redirect.port() == 0 {
        bail!("`clickhook up --json` does not say where it listens: {line}");
    }
    Ok((up, facts))
}
