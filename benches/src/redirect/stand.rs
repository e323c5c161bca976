//! The three servers side by side, and a turn of one of them under a load.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::Context;
use bus::Bus;
use tokio::task::spawn_blocking;

use super::{LINKS, nginx::Nginx, report::Load, requests::Requests};
use crate::{
    bare::BareServer,
    cores::{self, Cores},
    kafka::{Ingest, Kafka},
    process::{self, Who},
    visitors::{self, Pace, Visits},
};

/// The loads, and how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) connections: u16,
    pub(crate) rounds: u16,
    pub(crate) turn: Duration,
}

/// A server under measurement.
struct Server {
    address: SocketAddr,
    whose: Vec<Who>,
    /// Kafka, if it works for this server.
    kafka: Option<Who>,
}

/// The servers, in the order of [`super::SERVERS`].
pub(crate) struct Stand {
    servers: [Server; 3],
    /// Where the visitors are.
    visitors: Cores,
    _bare: BareServer,
    _nginx: Nginx,
    ingest: Ingest,
}

/// Which cores the servers have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Share {
    /// All, together with their visitors and Kafka.
    Everything,
    /// One; visitors and Kafka have the others.
    OneCore,
}

impl Stand {
    /// Starts the servers with their files in `dir`.
    pub(crate) async fn start(
        binary: &Path,
        dir: &Path,
        kafka: &Kafka,
        bus: &Bus,
        share: Share,
    ) -> anyhow::Result<Self> {
        let (theirs, others, workers) = match share {
            Share::Everything => (Cores::All, Cores::All, std::thread::available_parallelism()?.get()),
            Share::OneCore => (Cores::First, Cores::AllButFirst, 1),
        };
        std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        cores::move_to(kafka.pid()?, others).context("move Kafka to its cores")?;
        let (bare, nginx, mut ingest) = cores::on(theirs, || {
            let nginx = Nginx::start(&dir.join("nginx"), u16::try_from(workers)?)?;
            anyhow::Ok((BareServer::start()?, nginx, Ingest::start(binary, dir, bus)?))
        })??;
        ingest.role.ready().await?;
        let ingest_pid = ingest.role.pid().context("ingest has ended")?;
        let servers = [
            Server { address: bare.address, whose: vec![Who::Process(bare.pid())], kafka: None },
            Server { address: nginx.address, whose: nginx.workers().await?, kafka: None },
            Server {
                address: ingest.address,
                whose: vec![Who::Process(ingest_pid)],
                kafka: Some(Who::Process(kafka.pid()?)),
            },
        ];
        Ok(Self { servers, visitors: others, _bare: bare, _nginx: nginx, ingest })
    }

    /// Lets each server have its turns at its pace, and sums them up.
    pub(crate) async fn loads(&self, plan: Plan, paces: [Pace; 3]) -> anyhow::Result<[Load; 3]> {
        let mut loads = [Vec::new(), Vec::new(), Vec::new()];
        for round in 0..plan.rounds {
            for turn in 0..loads.len() {
                // Nobody always comes right after the same one.
                let server = (turn + usize::from(round)) % loads.len();
                loads[server].push(self.turn(&self.servers[server], plan, paces[server]).await?);
            }
        }
        Ok(loads.map(|turns| Load::of(&turns)))
    }

    async fn turn(&self, server: &Server, plan: Plan, pace: Pace) -> anyhow::Result<Turn> {
        let (address, cores) = (server.address, self.visitors);
        let kafka: Vec<Who> = server.kafka.into_iter().collect();
        let (before, kafka_before) = (process::cpu_of(&server.whose)?, process::cpu_of(&kafka)?);
        let visits = spawn_blocking(move || {
            let mut requests = Requests::new(LINKS);
            cores::on(cores, || visitors::visit(address, plan.connections, pace, plan.turn, &mut requests))
        });
        let visits = visits.await??.context("load a server")?;
        Ok(Turn {
            visits,
            cpu: process::cpu_of(&server.whose)?.saturating_sub(before),
            kafka: process::cpu_of(&kafka)?.saturating_sub(kafka_before),
        })
    }

    pub(crate) async fn stop(self) {
        self.ingest.role.stop().await;
    }
}

/// One server's turn.
pub(crate) struct Turn {
    pub(crate) visits: Visits,
    pub(crate) cpu: Duration,
    pub(crate) kafka: Duration,
}
