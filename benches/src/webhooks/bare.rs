//! The limit of webhooks: a bare hyper client that posts the same bytes in a loop, over as
//! many connections as a dispatcher may have to one endpoint. It is a process of its own.

use std::{
    io::Read,
    net::SocketAddr,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpStream, runtime};

/// The hidden subcommand whose process is the bare client.
pub(crate) const SUBCOMMAND: &str = "__bare-posts";

/// The order of a bare client, in JSON on its standard input.
#[derive(Serialize, Deserialize)]
struct Order {
    address: SocketAddr,
    connections: usize,
    seconds: f64,
    headers: Vec<(String, String)>,
    body: String,
}

/// The bare client's report.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct BarePosts {
    pub(super) posts_per_s: f64,
    pub(super) cpu_us_per_post: f64,
}

/// Posts `body` to `address` for `during`. Blocks.
pub(super) fn measure(
    address: SocketAddr,
    connections: usize,
    during: Duration,
    body: Vec<u8>,
) -> anyhow::Result<BarePosts> {
    let order = Order {
        address,
        connections,
        seconds: during.as_secs_f64(),
        headers: headers(),
        body: String::from_utf8(body).context("a body is text")?,
    };
    let mut child = Command::new(std::env::current_exe()?)
        .arg(SUBCOMMAND)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("start the bare client")?;
    let input = child.stdin.take().context("tell the bare client what to do")?;
    serde_json::to_writer(input, &order)?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("the bare client ended with {}", output.status);
    }
    serde_json::from_slice(&output.stdout).context("read the bare client's report")
}

/// Headers as long as a webhook's.
fn headers() -> Vec<(String, String)> {
    let signature = "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=";
    [
        ("content-type", "application/json"),
        ("user-agent", "clickhook/0.1.0"),
        ("webhook-id", "evt_01KGQ7ZJ4GE01A80000000002A"),
        ("webhook-timestamp", "1770301425"),
        ("webhook-signature", signature),
        ("x-webhook-signature", "f7bc83f430538424b13298e6aa6fb143ef4d59a14946175997479dbc2d1a3cd8"),
        ("x-webhook-event", "link.clicked"),
        ("x-webhook-attempt", "1"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

/// The bare client: reads its order, posts, and reports.
pub(crate) fn post() -> anyhow::Result<()> {
    let mut order = String::new();
    std::io::stdin().read_to_string(&mut order)?;
    let order: Order = serde_json::from_str(&order)?;
    // The dispatcher's runtime.
    let runtime = runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(run(Arc::new(order)))?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

async fn run(order: Arc<Order>) -> anyhow::Result<BarePosts> {
    let begun = Instant::now();
    let before = cpu();
    let deadline = begun + Duration::from_secs_f64(order.seconds);
    let mut connections = tokio::task::JoinSet::new();
    for _ in 0..order.connections {
        connections.spawn(connection(Arc::clone(&order), deadline));
    }
    let mut posts = 0;
    while let Some(posted) = connections.join_next().await {
        posts += posted??;
    }
    let (took, cpu) = (begun.elapsed(), cpu().saturating_sub(before));
    Ok(BarePosts {
        posts_per_s: f64::from(posts) / took.as_secs_f64(),
        cpu_us_per_post: cpu.as_secs_f64() * 1e6 / f64::from(posts.max(1)),
    })
}

async fn connection(order: Arc<Order>, deadline: Instant) -> anyhow::Result<u32> {
    let stream = TcpStream::connect(order.address).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let body = Bytes::from(order.body.clone());
    let mut posts = 0;
    while Instant::now() < deadline {
        let mut request = Request::builder().method(Method::POST).uri("/").header("host", order.address.to_string());
        for (name, value) in &order.headers {
            request = request.header(name, value);
        }
        sender.ready().await?;
        let response = sender.send_request(request.body(Full::new(body.clone()))?).await?;
        if !response.status().is_success() {
            bail!("the receiver answered {}", response.status());
        }
        response.into_body().collect().await?;
        posts += 1;
    }
    Ok(posts)
}

/// CPU time of this process.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}
