//! Clicks. The open load sends each at its moment, whatever is still
//! unanswered, and counts latency from that moment: a pipeline that stalls does
//! not slow its visitors down, so the stall is seen in full. The closed load has
//! visitors that click again when they were answered: it finds out how much the
//! pipeline takes.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    io,
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use parking_lot::RwLock;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    runtime,
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{connection::Connection, process, receiver::Arrivals};

/// Connections of the open load. With all of them waiting for an answer a click
/// is sent late, and its latency says so.
const MAX_CONNECTIONS: usize = 1000;
/// How long a visitor waits for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The redirectors that visitors are sent to. They may change under a load.
pub(crate) type Redirectors = Arc<RwLock<Vec<SocketAddr>>>;

/// The redirectors where there is only one.
pub(crate) fn only(redirector: SocketAddr) -> Redirectors {
    Arc::new(RwLock::new(vec![redirector]))
}

/// The link that is followed, and the markers of its clicks.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Each click goes to the next of them.
    pub(crate) redirectors: Redirectors,
    pub(crate) slug: &'static str,
    /// The first click's; each has one more than the click before.
    pub(crate) first_marker: u32,
}

impl Target {
    /// Returns the redirector that a click goes to.
    fn redirector(&self, marker: u32) -> io::Result<SocketAddr> {
        let redirectors = self.redirectors.read();
        let at = marker as usize % redirectors.len().max(1);
        redirectors.get(at).copied().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }
}

/// A click that was answered with a redirect.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Click {
    pub(crate) marker: u32,
    /// When it was to be sent.
    pub(crate) due: Instant,
    /// From then to its answer.
    pub(crate) latency: Duration,
}

/// A click that was not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failure {
    /// When it was to be sent.
    pub(crate) due: Instant,
    /// When it failed.
    pub(crate) at: Instant,
    pub(crate) why: Why,
}

/// Why a click was not answered with a redirect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// The answer's status.
    Status(u16),
    /// The connection was refused, or broke.
    Connection(io::ErrorKind),
    /// Nobody answered.
    Silence,
}

/// The end of an open load.
#[derive(Clone, Debug)]
pub(crate) enum LoadEnd {
    After(Duration),
    /// When the flag is set.
    Told(Arc<AtomicBool>),
}

impl LoadEnd {
    fn is_over(&self, running: Duration) -> bool {
        match self {
            Self::After(time) => running > *time,
            Self::Told(flag) => flag.load(Ordering::Relaxed),
        }
    }
}

/// The outcome of a load.
#[derive(Debug, Default)]
pub(crate) struct Clicks {
    pub(crate) answered: Vec<Click>,
    pub(crate) failures: Vec<Failure>,
    /// Answers other than a redirect.
    pub(crate) refused: u64,
    /// Clicks whose connection broke, or that nobody answered.
    pub(crate) broken: u64,
    /// From the first click to the last answer.
    pub(crate) took: Duration,
    /// CPU time of the generator.
    pub(crate) cpu: Duration,
}

/// Sends `rate` clicks a second until `end`, at random moments. Blocks.
pub(crate) fn open(target: &Target, rate: u32, end: LoadEnd) -> io::Result<Clicks> {
    measured(async |log: &Rc<Log>| {
        let (send, mut due) = mpsc::unbounded_channel();
        let clock = thread::Builder::new().name("clock".to_owned()).spawn(move || tick(rate, &end, &send))?;
        let pool = Rc::<Pool>::default();
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut visits = JoinSet::new();
        let mut marker = target.first_marker;
        while let Some(at) = due.recv().await {
            let (pool, slots, log, target) = (Rc::clone(&pool), Arc::clone(&slots), Rc::clone(log), target.clone());
            visits.spawn_local(async move {
                let _slot = slots.acquire().await;
                log.note(visit(&pool, &target, marker), marker, at).await;
            });
            marker += 1;
            while visits.try_join_next().is_some() {}
        }
        while visits.join_next().await.is_some() {}
        Ok(clock.join().unwrap_or_default())
    })
}

/// Follows the link from `connections` at once, each again as soon as it was
/// answered, for `during`; but only while fewer than `under_way` clicks of
/// this load are without a webhook in `arrivals`. Blocks.
pub(crate) fn closed(
    target: &Target,
    connections: u16,
    during: Duration,
    under_way: Option<(u32, Arc<Arrivals>)>,
) -> io::Result<Clicks> {
    measured(async |log: &Rc<Log>| {
        let end = Instant::now() + during;
        let next = Rc::new(Cell::new(target.first_marker));
        let limit = under_way.map(|(limit, arrivals)| Rc::new((limit as usize, arrivals.distinct(), arrivals)));
        let mut visitors = JoinSet::new();
        for _ in 0..connections {
            let (next, log, target, limit) = (Rc::clone(&next), Rc::clone(log), target.clone(), limit.clone());
            visitors.spawn_local(async move {
                let pool = Pool::default();
                while Instant::now() < end {
                    let sent = (next.get() - target.first_marker) as usize;
                    if let Some((limit, before, arrivals)) = limit.as_deref()
                        && sent >= limit + arrivals.distinct() - before
                    {
                        sleep(Duration::from_millis(1)).await;
                        continue;
                    }
                    let marker = next.replace(next.get() + 1);
                    log.note(visit(&pool, &target, marker), marker, Instant::now()).await;
                }
            });
        }
        while visitors.join_next().await.is_some() {}
        Ok(Duration::ZERO)
    })
}

/// Runs a load on this thread; it gives back the CPU time of its other threads.
fn measured(load: impl AsyncFnOnce(&Rc<Log>) -> io::Result<Duration>) -> io::Result<Clicks> {
    let (begun, cpu) = (Instant::now(), process::cpu_of_this_thread());
    let runtime = runtime::Builder::new_current_thread().enable_all().build_local(runtime::LocalOptions::default())?;
    let log = Rc::new(Log::default());
    let others = runtime.block_on(load(&log))?;
    let mut clicks = log.0.take();
    clicks.took = begun.elapsed();
    clicks.cpu = process::cpu_of_this_thread().saturating_sub(cpu) + others;
    Ok(clicks)
}

#[derive(Default)]
struct Log(RefCell<Clicks>);

impl Log {
    /// Notes what becomes of a visit.
    async fn note(&self, visit: impl Future<Output = io::Result<u16>>, marker: u32, due: Instant) {
        let outcome = timeout(PATIENCE, visit).await;
        let mut clicks = self.0.borrow_mut();
        let why = match outcome {
            Ok(Ok(302)) => {
                clicks.answered.push(Click { marker, due, latency: due.elapsed() });
                return;
            }
            Ok(Ok(status)) => Why::Status(status),
            Ok(Err(error)) => Why::Connection(error.kind()),
            Err(_) => Why::Silence,
        };
        match why {
            Why::Status(_) => clicks.refused += 1,
            Why::Connection(_) | Why::Silence => clicks.broken += 1,
        }
        clicks.failures.push(Failure { due, at: Instant::now(), why });
    }
}

/// The connections that no visit uses, each with its redirector.
#[derive(Default)]
struct Pool(RefCell<Vec<(SocketAddr, Connection)>>);

impl Pool {
    fn take(&self, redirector: SocketAddr) -> Option<Connection> {
        let mut idle = self.0.borrow_mut();
        let at = idle.iter().rposition(|(address, _)| *address == redirector)?;
        Some(idle.swap_remove(at).1).filter(|connection| !connection.is_closed())
    }

    fn keep(&self, redirector: SocketAddr, connection: Connection) {
        self.0.borrow_mut().push((redirector, connection));
    }
}

async fn visit(pool: &Pool, target: &Target, marker: u32) -> io::Result<u16> {
    let redirector = target.redirector(marker)?;
    let mut connection = match pool.take(redirector) {
        Some(connection) => connection,
        None => Connection::open(redirector).await?,
    };
    // Each click of an ad has an id of its own: the place for a marker.
    let path = format!("/{}?utm_source=newsletter&utm_medium=email&gclid={marker}", target.slug);
    let status = connection.get(&path, address_of(marker)).await?;
    pool.keep(redirector, connection);
    Ok(status)
}

/// Says when each click is due. On a thread of its own: a runtime's timer is a
/// millisecond coarse. Gives back its CPU time.
fn tick(rate: u32, end: &LoadEnd, send: &mpsc::UnboundedSender<Instant>) -> Duration {
    let mut moments = StdRng::seed_from_u64(u64::from(rate));
    let begun = Instant::now();
    let mut due = begun;
    loop {
        due += gap(rate, moments.random());
        if end.is_over(due - begun) {
            return process::cpu_of_this_thread();
        }
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if send.send(due).is_err() {
            return process::cpu_of_this_thread();
        }
    }
}

/// The time between two of `rate` clicks a second that know nothing of each
/// other (exponentially distributed), for a random number in 0..1.
pub(crate) fn gap(rate: u32, random: f64) -> Duration {
    Duration::from_secs_f64(-(1.0 - random).ln() / f64::from(rate))
}

/// A visitor's address, spread over the internet: what is found out about it
/// should cost what it does.
pub(crate) fn address_of(marker: u32) -> Ipv4Addr {
    let mixed = marker.wrapping_mul(0x9e37_79b9).rotate_left(13).wrapping_mul(0x85eb_ca6b);
    let [first, b, c, d] = mixed.to_be_bytes();
    let first = match 1 + first % 223 {
        // Not addresses of anybody's.
        10 | 127 => 8,
        first => first,
    };
    Ipv4Addr::new(first, b, c, d)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_average_to_the_rate() {
        let mut moments = StdRng::seed_from_u64(1);
        let total: Duration = (0..10_000).map(|_| gap(500, moments.random())).sum();
        assert!((18.0..22.0).contains(&total.as_secs_f64()), "{total:?}");
    }

    #[test]
    fn visitors_are_spread_and_public() {
        let addresses: std::collections::BTreeSet<_> = (0..1000).map(address_of).collect();
        assert!(addresses.len() > 990);
        assert!(addresses.iter().all(|address| !address.is_loopback() && !address.is_multicast()));
    }
}
