//! The limits of this machine, measured in the same run: a server that answers
//! 302 and does nothing else, and records that go through Kafka inside
//! transactions and nothing else. What we cost is read beside them.

use anyhow::Context;
use serde::Serialize;
use tokio::task::spawn_blocking;

use super::plan::Plan;
use crate::{
    bare::BareServer,
    load::{self, Clicks, LoadEnd, Target},
    null_hop::NullHop,
    process::{self, Who},
    summary::Latency,
};

/// The limits of the machine.
#[derive(Debug, Serialize)]
pub(crate) struct Limits {
    /// The bare server under the steady load.
    pub(crate) bare_steady: Bare,
    /// The bare server under the closed load.
    pub(crate) bare: Bare,
    pub(crate) null_hop: NullHop,
}

/// A server that answers 302 and does nothing else.
#[derive(Debug, Serialize)]
pub(crate) struct Bare {
    pub(crate) requests: usize,
    pub(crate) requests_per_s: f64,
    pub(crate) cpu_us_per_request: f64,
    pub(crate) latency: Latency,
}

/// Measures the bare server under the loads of `plan`: steady, then closed.
pub(crate) async fn bare(plan: &Plan) -> anyhow::Result<(Bare, Bare)> {
    let server = BareServer::start()?;
    let (during, rate, connections) = (plan.limit, plan.rate, plan.connections);
    let steady = under(&server, move |target| load::open(target, rate, LoadEnd::After(during))).await?;
    let closed = under(&server, move |target| load::closed(target, connections, during, None)).await?;
    Ok((steady, closed))
}

async fn under(
    server: &BareServer,
    load: impl FnOnce(&Target) -> std::io::Result<Clicks> + Send + 'static,
) -> anyhow::Result<Bare> {
    let who = Who::Process(server.pid());
    let target = Target { redirectors: load::only(server.address), slug: "bench", first_marker: 0 };
    let before = process::cpu_time(who)?;
    let clicks = spawn_blocking(move || load(&target)).await?.context("load the bare server")?;
    let cpu = process::cpu_time(who)?.saturating_sub(before);
    let requests = clicks.answered.len();
    Ok(Bare {
        requests,
        requests_per_s: requests as f64 / clicks.took.as_secs_f64(),
        cpu_us_per_request: cpu.as_secs_f64() * 1e6 / requests.max(1) as f64,
        latency: Latency::of(clicks.answered.iter().map(|click| click.latency).collect()),
    })
}
