//! The three servers side by side, started alike.

use std::path::Path;

use super::{nginx::Nginx, servers::LINKS};
use crate::{
    bare::BareServer,
    cores::{self, Cores},
    kafka::{Ingest, Kafka},
    process::Who,
    turn::{self, Load, Plan, Server},
    visitors::Pace,
};
use anyhow::Context;
use bus::Bus;

/// The servers, in the order of [`super::servers::SERVERS`].
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
            Server { address: bare.address, whose: vec![Who::Process(bare.pid())], kafka: None, links: LINKS },
            Server { address: nginx.address, whose: nginx.workers().await?, kafka: None, links: LINKS },
            Server {
                address: ingest.address,
                whose: vec![Who::Process(ingest_pid)],
                kafka: Some(Who::Process(kafka.pid()?)),
                links: LINKS,
            },
        ];
        Ok(Self { servers, visitors: others, _bare: bare, _nginx: nginx, ingest })
    }

    /// Lets each server have its turns at its pace.
    pub(crate) async fn loads(&self, plan: Plan, paces: [Pace; 3]) -> anyhow::Result<[Load; 3]> {
        let loads = turn::by_turns(&self.servers, &paces, plan, self.visitors).await?;
        loads.try_into().map_err(|_| anyhow::anyhow!("three servers have three loads"))
    }

    pub(crate) async fn stop(self) {
        self.ingest.role.stop().await;
    }
}
