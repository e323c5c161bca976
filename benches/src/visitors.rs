//! Visitors by the hundred on one thread, at the least cost: requests are bytes
//! made beforehand, and one epoll loop sends and takes them. The generator shares
//! the cores with the server that it measures, so what it uses the server lacks.
//!
//! Saturating, every visitor asks again as soon as it was answered. Paced, each
//! request has its moment, drawn beforehand; it is sent then by a visitor who has
//! nothing else to wait for, and its latency counts from that moment.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use rustix::{
    event::{
        Timespec,
        epoll::{self, CreateFlags, Event, EventData, EventFlags},
    },
    fd::OwnedFd,
};

use crate::{connection::head, load::gap, process};

/// How long a visitor waits for an answer, and how long a loop waits at most.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(100);
/// Events taken at once.
const EVENTS: usize = 64;

/// When requests are made.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// As soon as the last one is answered.
    Saturating,
    /// So many a second, at random moments.
    PerSecond(u32),
}

/// The requests that visitors make.
pub(crate) trait Script {
    /// The status of a good answer.
    const WANTED: u16;

    /// The next request, all of it.
    fn next(&mut self) -> &[u8];
}

/// The answers that visitors had.
#[derive(Debug, Default)]
pub(crate) struct Visits {
    /// Of each request that was answered as wanted.
    pub(crate) latencies: Vec<Duration>,
    /// Other answers.
    pub(crate) refused: u64,
    /// Requests without an answer.
    pub(crate) broken: u64,
    /// From the first request to the last answer.
    pub(crate) took: Duration,
    /// CPU time of the generator.
    pub(crate) cpu: Duration,
}

/// Lets `visitors` ask `address` for what `script` says, for `during`. Blocks.
pub(crate) fn visit(
    address: SocketAddr,
    visitors: u16,
    pace: Pace,
    during: Duration,
    script: &mut impl Script,
) -> io::Result<Visits> {
    let cpu = process::cpu_of_this_thread();
    let mut crowd = Crowd::gather(address, visitors, script)?;
    let begun = Instant::now();
    let mut moments = Moments::new(pace, begun, during);
    if matches!(pace, Pace::Saturating) {
        for visitor in 0..crowd.visitors.len() {
            crowd.ask(visitor, begun)?;
        }
    }
    let end = begun + during;
    loop {
        let now = Instant::now();
        if now >= end && (crowd.waiting == 0 || now >= end + PATIENCE) {
            break;
        }
        let next = moments.next_after(now, &mut crowd.late);
        crowd.serve_late()?;
        let again = if now < end && matches!(pace, Pace::Saturating) { Then::AskAgain } else { Then::Rest };
        crowd.answers(next.map_or(LOOK, |next| next - now).min(LOOK), again)?;
    }
    let mut visits = crowd.visits;
    visits.broken += crowd.waiting as u64 + crowd.late.len() as u64;
    visits.took = begun.elapsed();
    visits.cpu = process::cpu_of_this_thread().saturating_sub(cpu);
    Ok(visits)
}

/// The moments of a paced load.
struct Moments {
    random: StdRng,
    rate: u32,
    next: Option<Instant>,
    end: Instant,
}

impl Moments {
    fn new(pace: Pace, begun: Instant, during: Duration) -> Self {
        let rate = match pace {
            Pace::Saturating => 0,
            Pace::PerSecond(rate) => rate,
        };
        let random = StdRng::seed_from_u64(u64::from(rate));
        Self { random, rate, next: (rate > 0).then_some(begun), end: begun + during }
    }

    /// Adds the moments up to `now` to `due`; the one that comes next.
    fn next_after(&mut self, now: Instant, due: &mut VecDeque<Instant>) -> Option<Instant> {
        while let Some(next) = self.next.filter(|next| *next <= now) {
            due.push_back(next);
            let after = next + gap(self.rate, self.random.random());
            self.next = (after < self.end).then_some(after);
        }
        self.next
    }
}

/// The next step of a visitor after an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    AskAgain,
    Rest,
}

struct Visitor {
    stream: TcpStream,
    /// The beginning of an answer that has not come whole.
    received: Vec<u8>,
    /// When its request was due, while it waits for the answer.
    due: Option<Instant>,
}

struct Crowd<'s, S> {
    address: SocketAddr,
    script: &'s mut S,
    epoll: OwnedFd,
    visitors: Vec<Visitor>,
    idle: Vec<usize>,
    waiting: usize,
    /// Requests that are due and that nobody is free to send.
    late: VecDeque<Instant>,
    buffer: Vec<u8>,
    visits: Visits,
}

impl<'s, S: Script> Crowd<'s, S> {
    fn gather(address: SocketAddr, visitors: u16, script: &'s mut S) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let visitors: Vec<Visitor> =
            (0..usize::from(visitors)).map(|index| connect(&epoll, address, index)).collect::<io::Result<_>>()?;
        let idle = (0..visitors.len()).rev().collect();
        let late = VecDeque::new();
        let visits = Visits::default();
        Ok(Self { address, script, epoll, visitors, idle, waiting: 0, late, buffer: vec![0; 16 << 10], visits })
    }

    fn ask(&mut self, index: usize, due: Instant) -> io::Result<()> {
        let visitor = &mut self.visitors[index];
        // A request is smaller than any socket's buffer: it goes whole, or the connection is gone.
        match visitor.stream.write_all(self.script.next()) {
            Ok(()) => {
                visitor.due = Some(due);
                self.waiting += 1;
                Ok(())
            }
            Err(_) => {
                self.visits.broken += 1;
                self.reconnect(index)
            }
        }
    }

    fn serve_late(&mut self) -> io::Result<()> {
        while let (Some(due), Some(index)) = (self.late.front().copied(), self.idle.last().copied()) {
            self.late.pop_front();
            self.idle.pop();
            self.ask(index, due)?;
        }
        Ok(())
    }

    /// Takes the answers that are there, or come within `patience`.
    fn answers(&mut self, patience: Duration, then: Then) -> io::Result<()> {
        let patience =
            Timespec { tv_sec: patience.as_secs().cast_signed(), tv_nsec: i64::from(patience.subsec_nanos()) };
        let mut events = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; EVENTS];
        let count = match epoll::wait(&self.epoll, &mut events, Some(&patience)) {
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        for event in &events[..count] {
            self.answer(event.data.u64() as usize, then)?;
        }
        Ok(())
    }

    fn answer(&mut self, index: usize, then: Then) -> io::Result<()> {
        let visitor = &mut self.visitors[index];
        let read = match visitor.stream.read(&mut self.buffer) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(_) => 0,
        };
        if read == 0 {
            if self.visitors[index].due.is_some() {
                self.visits.broken += 1;
                self.waiting -= 1;
                self.idle_or(index, then)?;
            }
            return self.reconnect(index);
        }
        let Some(status) = whole(&mut visitor.received, &self.buffer[..read])? else { return Ok(()) };
        let Some(due) = visitor.due.take() else { return Ok(()) };
        self.waiting -= 1;
        if status == S::WANTED {
            self.visits.latencies.push(due.elapsed());
        } else {
            self.visits.refused += 1;
        }
        self.idle_or(index, then)
    }

    fn idle_or(&mut self, index: usize, then: Then) -> io::Result<()> {
        match then {
            Then::AskAgain => self.ask(index, Instant::now()),
            Then::Rest => {
                self.idle.push(index);
                Ok(())
            }
        }
    }

    fn reconnect(&mut self, index: usize) -> io::Result<()> {
        self.visitors[index] = connect(&self.epoll, self.address, index)?;
        Ok(())
    }
}

fn connect(epoll: &OwnedFd, address: SocketAddr, index: usize) -> io::Result<Visitor> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    epoll::add(epoll, &stream, EventData::new_u64(index as u64), EventFlags::IN)?;
    Ok(Visitor { stream, received: Vec::new(), due: None })
}

/// The status of an answer, once all of it is there.
fn whole(received: &mut Vec<u8>, more: &[u8]) -> io::Result<Option<u16>> {
    let status = |answer: &[u8]| {
        let head = head(answer)?.filter(|head| answer.len() >= head.bytes + head.body_bytes);
        io::Result::Ok(head.map(|head| head.status))
    };
    // Nearly always it comes whole, and is not copied.
    if received.is_empty()
        && let Some(status) = status(more)?
    {
        return Ok(Some(status));
    }
    received.extend_from_slice(more);
    let status = status(received)?;
    if status.is_some() {
        received.clear();
    }
    Ok(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_when_all_of_it_is_there() {
        let answer = b"HTTP/1.1 302 Found\r\nContent-Length: 3\r\n\r\nabc";
        let mut received = Vec::new();
        assert_eq!(whole(&mut received, &answer[..20]).unwrap(), None);
        assert_eq!(whole(&mut received, &answer[20..answer.len() - 1]).unwrap(), None);
        assert_eq!(whole(&mut received, b"c").unwrap(), Some(302));
        assert_eq!(whole(&mut received, answer).unwrap(), Some(302));
    }

    #[test]
    fn moments_come_at_the_rate_and_end() {
        let begun = Instant::now();
        let mut moments = Moments::new(Pace::PerSecond(500), begun, Duration::from_secs(2));
        let mut due = VecDeque::new();
        assert_eq!(moments.next_after(begun + Duration::from_secs(3), &mut due), None);
        assert!((900..1100).contains(&due.len()), "{}", due.len());
        assert!(due.iter().all(|due| *due < begun + Duration::from_secs(2)));
    }
}
