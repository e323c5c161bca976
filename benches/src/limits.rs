//! The limits of this machine, measured in the same run: a server that answers
//! 302 and does nothing else, and records that go through Kafka inside
//! transactions and nothing else. What we cost is read beside them.

use std::{
    convert::Infallible,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bus::{Bus, BusConfig, BusError, Isolation, Membership, Outgoing, Turned};
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header::LOCATION};
use http_body_util::Empty;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use schemas::Topic;
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::TcpListener,
    runtime,
    task::{spawn_blocking, spawn_local},
};

use crate::{
    Plan,
    load::{self, Clicks, Target},
    process::{self, Who},
    summary::Latency,
};

/// The hidden subcommand whose process is the bare server.
pub(crate) const BARE_SUBCOMMAND: &str = "__bare-302";

/// The bytes of a record in the null hop: about a click's.
const RECORD_BYTES: usize = 500;
/// As the enricher's transactions are by default.
const WINDOW: Duration = Duration::from_millis(10);
const MAX_RECORDS: usize = 10_000;
/// How long the null hop may take to be assigned its partitions.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the machine can do.
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

/// Records that are consumed and produced inside transactions.
#[derive(Debug, Serialize)]
pub(crate) struct NullHop {
    pub(crate) records: u64,
    pub(crate) records_per_s: f64,
    /// Of the client; the broker's is beside it.
    pub(crate) cpu_us_per_record: f64,
    pub(crate) kafka_cpu_us_per_record: f64,
}

/// The bare server's process; it ends when this is dropped.
struct BareServer {
    child: Child,
    address: SocketAddr,
}

impl BareServer {
    fn start() -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(BARE_SUBCOMMAND)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start the bare server")?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("read the bare server's address")?).read_line(&mut line)?;
        let address = line.trim().parse().with_context(|| format!("the bare server said {line:?}"))?;
        Ok(Self { child, address })
    }

    async fn under(
        &self,
        load: impl FnOnce(&Target) -> std::io::Result<Clicks> + Send + 'static,
    ) -> anyhow::Result<Bare> {
        let who = Who::Process(self.child.id());
        let target = Target { address: self.address, slug: "bench", first_marker: 0 };
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
}

impl Drop for BareServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Measures the bare server under the loads of `plan`: steady, then closed.
pub(crate) async fn bare(plan: &Plan) -> anyhow::Result<(Bare, Bare)> {
    let server = BareServer::start()?;
    let (during, rate, connections) = (plan.limit, plan.rate, plan.connections);
    let steady = server.under(move |target| load::open(target, rate, during)).await?;
    let closed = server.under(move |target| load::closed(target, connections, during, None)).await?;
    Ok((steady, closed))
}

/// The bare server: runtimes, sockets and connections as the redirector's.
/// Lives until its standard input closes.
pub(crate) fn serve_bare() -> anyhow::Result<()> {
    let cores = thread::available_parallelism()?.get();
    let mut address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    for _ in 0..cores {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(4096)?;
        let listener = std::net::TcpListener::from(socket);
        address = listener.local_addr()?;
        thread::spawn(move || serve_core(listener));
    }
    println!("{address}");
    std::io::stdout().flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn serve_core(listener: std::net::TcpListener) -> std::io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build_local(runtime::LocalOptions::default())?;
    runtime.block_on(async move {
        let listener = TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let answer = service_fn(async |_| {
                let mut answer = Response::new(Empty::<Bytes>::new());
                *answer.status_mut() = StatusCode::FOUND;
                answer.headers_mut().insert(LOCATION, HeaderValue::from_static("https://example.com/landing/page"));
                Ok::<_, Infallible>(answer)
            });
            let serve = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), answer);
            spawn_local(async move { drop(serve.await) });
        }
    })
}

/// Measures the null hop on `brokers` for about `during`; `kafka` is the broker.
pub(crate) async fn null_hop(brokers: String, kafka: Option<Who>, during: Duration) -> anyhow::Result<NullHop> {
    let bus = Bus::new(BusConfig { brokers, prefix: "null".to_owned(), ..BusConfig::default() });
    bus.migrate().await.context("create the null hop's topics")?;
    let filling = bus.clone();
    // It ends with the records, or in time, whichever comes first.
    let records = 250_000 * during.as_secs().clamp(1, 10);
    spawn_blocking(move || fill(&filling, records)).await??;
    spawn_blocking(move || hop(&bus, kafka, records, during)).await?
}

fn fill(bus: &Bus, records: u64) -> anyhow::Result<()> {
    let producer = bus.producer("fill", Duration::from_millis(5), PATIENCE)?;
    let event = schemas::sample::event(schemas::EventName::LinkClicked, schemas::Timestamp::now());
    let mut value = serde_json::to_vec(&event)?;
    value.truncate(RECORD_BYTES);
    for number in 0..records {
        // As alike as clicks are: most of it the same, some of it new.
        value[..64].copy_from_slice(hex::encode(rand::random::<[u8; 32]>()).as_bytes());
        let partition = i32::try_from(number % u64::from(bus.partitions(Topic::ClicksRaw)))?;
        let out = Outgoing {
            topic: Topic::ClicksRaw,
            partition: Some(partition),
            key: None,
            value: Some(&value),
            headers: &[],
        };
        while let Err(error) = producer.send(&out, |_| {}) {
            if !matches!(error, BusError::QueueFull) {
                return Err(error).context("fill the null hop's topic");
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
    match producer.drain(PATIENCE) {
        0 => Ok(()),
        left => bail!("Kafka has not taken {left} records within {} s", PATIENCE.as_secs()),
    }
}

/// The enricher's loop without the enriching.
fn hop(bus: &Bus, kafka: Option<Who>, records: u64, during: Duration) -> anyhow::Result<NullHop> {
    let mut turns = bus.turns("null", Duration::from_millis(1))?;
    let consumer =
        bus.consumer("null", &[Topic::ClicksRaw], Isolation::Committed, Membership::Dynamic, Arc::new(()))?;
    let ours = Who::Process(std::process::id());
    let cpu = || anyhow::Ok((process::cpu_time(ours)?, kafka.map(process::cpu_time).transpose()?.unwrap_or_default()));
    let deadline = Instant::now() + PATIENCE + during;
    // It begins with the first record: joining the group is not the hop's.
    let mut begun: Option<(Instant, (Duration, Duration))> = None;
    let (mut moved, mut open) = (0_u64, 0_usize);
    while moved < records && begun.is_none_or(|(begun, _)| begun.elapsed() < during) {
        if Instant::now() > deadline {
            bail!("the null hop read only {moved} of {records} records");
        }
        if let Some(record) = consumer.poll(Duration::from_millis(1))? {
            if begun.is_none() {
                begun = Some((Instant::now(), cpu()?));
            }
            let at = record.partition();
            let (key, value) = (Some(record.key()), record.value());
            turns.send(&Outgoing { topic: Topic::Clicks, partition: Some(at.index), key, value, headers: &[] })?;
            turns.read_up_to(at, record.offset() + 1)?;
            (moved, open) = (moved + 1, open + 1);
        }
        let due = open >= MAX_RECORDS || turns.age().is_some_and(|age| age >= WINDOW);
        if due && turns.turn(|| consumer.group_metadata())? == Turned::Handed {
            open = 0;
        }
    }
    turns.settle(|| consumer.group_metadata())?;
    let Some((begun, (client_before, kafka_before))) = begun else { bail!("the null hop read nothing") };
    let (took, (client, kafka)) = (begun.elapsed(), cpu()?);
    let per_record = |cpu: Duration, before: Duration| (cpu - before).as_secs_f64() * 1e6 / moved as f64;
    Ok(NullHop {
        records: moved,
        records_per_s: moved as f64 / took.as_secs_f64(),
        cpu_us_per_record: per_record(client, client_before),
        kafka_cpu_us_per_record: per_record(kafka, kafka_before),
    })
}
