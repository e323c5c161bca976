//! Servers under a load by turns, so that whatever else the machine does meanwhile
//! hits them all, and what a turn cost them.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context;
use serde::Serialize;
use tokio::task::spawn_blocking;

use crate::{
    cores::{self, Cores},
    process::{self, Who},
    requests::Requests,
    summary::Latency,
    visitors::{self, Pace, Visits},
};

/// How a load is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) connections: u16,
    /// Turns of each server.
    pub(crate) rounds: u16,
    /// How long a turn takes.
    pub(crate) turn: Duration,
}

/// A server under measurement.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) whose: Vec<Who>,
    /// Kafka, if it works for this server.
    pub(crate) kafka: Option<Who>,
    /// How many links it knows.
    pub(crate) links: u64,
}

/// One server's turn.
struct Turn {
    visits: Visits,
    cpu: Duration,
    kafka: Duration,
}

/// The measurements of one server under one load.
#[derive(Debug, Serialize)]
pub(crate) struct Load {
    pub(crate) requests: usize,
    /// Answers that were no redirect, and requests without an answer.
    pub(crate) failed: u64,
    pub(crate) requests_per_s: f64,
    /// Of the server.
    pub(crate) cpu_us_per_request: f64,
    /// The same of each turn: how far they are apart says how quiet the machine was.
    pub(crate) turns_cpu_us_per_request: Vec<f64>,
    /// Of Kafka, for the server that needs it.
    pub(crate) kafka_us_per_request: f64,
    /// Of the generator.
    pub(crate) generator_us_per_request: f64,
    pub(crate) latency: Latency,
}

impl Load {
    /// Turns as one.
    fn of(turns: &[Turn]) -> Self {
        let requests: usize = turns.iter().map(|turn| turn.visits.latencies.len()).sum();
        let sum = |of: fn(&Turn) -> Duration| turns.iter().map(of).sum::<Duration>();
        let each = |cpu: Duration| us_each(cpu, requests);
        Self {
            requests,
            failed: turns.iter().map(|turn| turn.visits.refused + turn.visits.broken).sum(),
            requests_per_s: requests as f64 / sum(|turn| turn.visits.took).as_secs_f64(),
            cpu_us_per_request: each(sum(|turn| turn.cpu)),
            turns_cpu_us_per_request: turns.iter().map(|turn| us_each(turn.cpu, turn.visits.latencies.len())).collect(),
            kafka_us_per_request: each(sum(|turn| turn.kafka)),
            generator_us_per_request: each(sum(|turn| turn.visits.cpu)),
            latency: Latency::of(turns.iter().flat_map(|turn| turn.visits.latencies.iter().copied()).collect()),
        }
    }
}

fn us_each(cpu: Duration, requests: usize) -> f64 {
    cpu.as_secs_f64() * 1e6 / requests.max(1) as f64
}

/// Lets each server have its turns at its pace, under visitors on `cores`.
pub(crate) async fn by_turns(
    servers: &[Server],
    paces: &[Pace],
    plan: Plan,
    cores: Cores,
) -> anyhow::Result<Vec<Load>> {
    let mut turns: Vec<Vec<Turn>> = servers.iter().map(|_| Vec::new()).collect();
    for round in 0..usize::from(plan.rounds) {
        for turn in 0..servers.len() {
            // Nobody always comes right after the same one.
            let index = (turn + round) % servers.len();
            turns[index].push(take(&servers[index], plan, paces[index], cores).await?);
        }
    }
    Ok(turns.iter().map(|turns| Load::of(turns)).collect())
}

async fn take(server: &Server, plan: Plan, pace: Pace, cores: Cores) -> anyhow::Result<Turn> {
    let (address, links) = (server.address, server.links);
    let kafka: Vec<Who> = server.kafka.into_iter().collect();
    let (before, kafka_before) = (process::cpu_of(&server.whose)?, process::cpu_of(&kafka)?);
    let visits = spawn_blocking(move || {
        let mut requests = Requests::new(links);
        cores::on(cores, || visitors::visit(address, plan.connections, pace, plan.turn, &mut requests))
    });
    let visits = visits.await??.context("load a server")?;
    Ok(Turn {
        visits,
        cpu: process::cpu_of(&server.whose)?.saturating_sub(before),
        kafka: process::cpu_of(&kafka)?.saturating_sub(kafka_before),
    })
}
