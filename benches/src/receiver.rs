//! The receiver of webhooks: takes everything at once, and notes when each
//! click's came for the first time. It has a thread of its own, so that what it
//! costs is known.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Instant,
};

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::{net::TcpListener, runtime, task::spawn_local};

use crate::process::Who;

/// When a click's webhook came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) first: Instant,
    /// How often it came.
    pub(crate) times: u32,
}

/// The webhooks that have arrived, by marker.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    by_marker: Mutex<Vec<Option<Arrival>>>,
    /// When webhooks came that had come before.
    repeats: Mutex<Vec<Instant>>,
    distinct: AtomicUsize,
    total: AtomicUsize,
    unmarked: AtomicUsize,
}

impl Arrivals {
    fn note(&self, marker: u32) {
        let (marker, now) = (marker as usize, Instant::now());
        self.total.fetch_add(1, Ordering::Relaxed);
        let mut by_marker = self.by_marker.lock();
        if by_marker.len() <= marker {
            by_marker.resize(marker + 1, None);
        }
        match &mut by_marker[marker] {
            Some(arrival) => {
                arrival.times += 1;
                self.repeats.lock().push(now);
            }
            first => {
                *first = Some(Arrival { first: now, times: 1 });
                self.distinct.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// How many webhooks came in a span of time that had come before.
    pub(crate) fn repeats_within(&self, span: &Range<Instant>) -> usize {
        self.repeats.lock().iter().filter(|at| span.contains(*at)).count()
    }

    /// How many clicks' webhooks have come.
    pub(crate) fn distinct(&self) -> usize {
        self.distinct.load(Ordering::Relaxed)
    }

    /// How many webhooks of clicks have come, repeated ones included.
    pub(crate) fn total(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }

    /// How many webhooks of no click have come.
    pub(crate) fn unmarked(&self) -> usize {
        self.unmarked.load(Ordering::Relaxed)
    }

    /// Returns the arrivals of these clicks, in their order.
    pub(crate) fn of(&self, markers: impl Iterator<Item = u32>) -> Vec<Option<Arrival>> {
        let by_marker = self.by_marker.lock();
        markers.map(|marker| by_marker.get(marker as usize).copied().flatten()).collect()
    }
}

/// A receiver that runs until the process ends.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    pub(crate) arrivals: Arc<Arrivals>,
    /// Its thread.
    pub(crate) who: Who,
}

impl Receiver {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen for webhooks")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let arrivals = Arc::<Arrivals>::default();
        let noted = Arc::clone(&arrivals);
        let (tell, told) = mpsc::channel();
        thread::Builder::new().name("receiver".to_owned()).spawn(move || {
            let _ = tell.send(rustix::thread::gettid().as_raw_nonzero().get());
            if let Err(error) = receive(listener, &noted) {
                eprintln!("bench: the receiver failed: {error}");
            }
        })?;
        Ok(Self { address, arrivals, who: Who::Thread(told.recv().context("start the receiver")?) })
    }
}

fn receive(listener: std::net::TcpListener, arrivals: &Arc<Arrivals>) -> std::io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build_local(runtime::LocalOptions::default())?;
    runtime.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let arrivals = Arc::clone(arrivals);
            let take = service_fn(move |request: Request<Incoming>| {
                let arrivals = Arc::clone(&arrivals);
                async move {
                    if let Ok(body) = request.into_body().collect().await {
                        for marker in markers(&body.to_bytes()) {
                            match marker {
                                Some(marker) => arrivals.note(marker),
                                None => drop(arrivals.unmarked.fetch_add(1, Ordering::Relaxed)),
                            }
                        }
                    }
                    Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
                }
            });
            let serve = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), take);
            // A connection that ends early is the sender's affair.
            spawn_local(async move { drop(serve.await) });
        }
    })
}

/// The markers of the clicks that a body tells of: of one, or of a batch. An event of no
/// click has none.
fn markers(body: &[u8]) -> Vec<Option<u32>> {
    #[derive(Deserialize)]
    struct Event<'b> {
        #[serde(borrow)]
        attribution: Option<Attribution<'b>>,
    }
    #[derive(Deserialize)]
    struct Attribution<'b> {
        gclid: Option<&'b str>,
    }
    let marker = |event: Event<'_>| event.attribution?.gclid?.parse().ok();
    match body.first() {
        Some(b'[') => {
            let events = serde_json::from_slice::<Vec<Event<'_>>>(body).unwrap_or_default();
            events.into_iter().map(marker).collect()
        }
        _ => vec![serde_json::from_slice::<Event<'_>>(body).ok().and_then(marker)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_click_is_found_in_its_webhook() {
        let mut event = schemas::sample::event(schemas::EventName::LinkClicked, schemas::Timestamp::now());
        event.attribution = Some(schemas::Attribution { gclid: Some("17".into()), ..Default::default() });
        assert_eq!(markers(&serde_json::to_vec(&event).unwrap()), [Some(17)]);
        assert_eq!(markers(&serde_json::to_vec(&[&event, &event]).unwrap()), [Some(17), Some(17)]);
        assert_eq!(markers(b"{}"), [None]);
    }

    #[test]
    fn the_first_arrival_counts_and_others_are_counted() {
        let arrivals = Arrivals::default();
        arrivals.note(3);
        arrivals.note(3);
        arrivals.note(0);
        assert_eq!(arrivals.distinct(), 2);
        let times: Vec<_> = arrivals.of([3, 2, 0].into_iter()).iter().map(|a| a.map(|a| a.times)).collect();
        assert_eq!(times, [Some(2), None, Some(1)]);
    }
}
