//! Token buckets by address, against unknown callers with too many requests: a table
//! of fixed size that takes no lock under any load. Each bucket holds a minute's worth and
//! is one number, the moment at which it is full again (GCRA, as in ATM's
//! generic cell rate algorithm). Where the table is full, the fullest bucket is
//! replaced, so that the address with the fewest requests is forgotten.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher,
    net::IpAddr,
    num::NonZeroU32,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// A bucket's bits: 20 of its address's hash, 44 of its moment. A unit of time is
/// 1/64 ms, so that they last for 8 years and a rate may be 64,000 a second.
const TIME_BITS: u32 = 44;
const TIME: u64 = (1 << TIME_BITS) - 1;
const UNITS_PER_MS: u64 = 64;
const MINUTE: u64 = 60_000 * UNITS_PER_MS;
/// Addresses that share a cache line, and the only ones that make room for each
/// other.
const WAYS: usize = 8;
/// The tries to change a bucket while other threads change the same line.
const TRIES: usize = 8;

/// The treatment of requests above a bucket's rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excess {
    /// Such a request is refused and takes no token, so that the address goes on at its
    /// rate.
    Refused,
    /// Such a request is served and takes a token, up to another minute's worth: an
    /// address is above its rate until it slows down.
    Counted,
}

/// The level of an address after one more request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The address is within its rate.
    Within,
    /// The address is above its rate since this request. Only returned with
    /// [`Excess::Counted`].
    Crossed,
    /// The address is above its rate.
    Above,
}

#[derive(Default)]
#[repr(align(64))]
struct Line([AtomicU64; WAYS]);

/// A bucket for each address.
pub struct Buckets {
    lines: Box<[Line]>,
    hasher: RandomState,
    epoch: Instant,
    /// The time after which a token comes back.
    interval: u64,
    excess: Excess,
}

impl Buckets {
    /// Returns buckets for at least `addresses` addresses at a time, 8 bytes each.
    #[must_use]
    pub fn new(per_minute: NonZeroU32, addresses: usize, excess: Excess) -> Self {
        let lines = addresses.div_ceil(WAYS).max(1);
        Self {
            lines: std::iter::repeat_with(Line::default).take(lines).collect(),
            hasher: RandomState::new(),
            epoch: Instant::now(),
            interval: (MINUTE / u64::from(per_minute.get())).max(1),
            excess,
        }
    }

    /// Returns the time after which a token comes back.
    #[must_use]
    pub const fn interval(&self) -> Duration {
        Duration::from_millis(self.interval.div_ceil(UNITS_PER_MS))
    }

    /// Takes a token from the bucket of an address: of its /64 where it is IPv6,
    /// since that is what one subscriber has.
    pub fn take(&self, ip: IpAddr, now: Instant) -> Level {
        let network = match ip {
            IpAddr::V4(ip) => u64::from(ip.to_bits()),
            // No network of visitors begins with as many zeros as an IPv4 address.
            IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64,
        };
        let hash = self.hasher.hash_one(network);
        let (tag, low) = (hash & !TIME, hash & TIME);
        let Line(cells) = &self.lines[usize::try_from(low % self.lines.len() as u64).unwrap_or(0)];
        let since = now.saturating_duration_since(self.epoch);
        let now = (since.as_micros() as u64 * UNITS_PER_MS / 1000) & TIME;
        for _ in 0..TRIES {
            let Some((cell, bits)) = find(cells, tag) else { break };
            let full_at = if bits & !TIME == tag { bits & TIME } else { 0 };
            let owed = full_at.saturating_sub(now);
            let mut owes = owed + self.interval;
            let level = match self.excess {
                _ if owes <= MINUTE => Level::Within,
                Excess::Refused => return Level::Above,
                Excess::Counted if owed <= MINUTE => Level::Crossed,
                Excess::Counted => {
                    owes = owes.min(2 * MINUTE);
                    Level::Above
                }
            };
            let changed = tag | ((now + owes) & TIME);
            if cell.compare_exchange_weak(bits, changed, Relaxed, Relaxed).is_ok() {
                return level;
            }
        }
        // No request is refused because others are busy.
        Level::Within
    }
}

/// Returns the bucket with that tag, or the one to replace.
fn find(cells: &[AtomicU64; WAYS], tag: u64) -> Option<(&AtomicU64, u64)> {
    let found = cells.iter().map(|cell| (cell, cell.load(Relaxed)));
    found.clone().find(|(_, bits)| bits & !TIME == tag).or_else(|| found.min_by_key(|(_, bits)| bits & TIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buckets(per_minute: u32, addresses: usize, excess: Excess) -> Buckets {
        Buckets::new(NonZeroU32::new(per_minute).unwrap(), addresses, excess)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_minutes_worth_is_there_at_once_and_comes_back_over_a_minute() {
        let buckets = buckets(60, 1000, Excess::Refused);
        let (a, start) = (ip("192.0.2.1"), Instant::now() + Duration::from_secs(1));
        let at = |seconds| start + Duration::from_secs(seconds);
        let taken = |at| std::iter::repeat_with(|| buckets.take(a, at)).take_while(|l| *l == Level::Within).count();
        assert_eq!(taken(at(0)), 60);
        assert_eq!(taken(at(0)), 0);
        assert_eq!(taken(at(5)), 5);
        assert_eq!(taken(at(65)), 60);
        assert_eq!(taken(at(1000)), 60);
        assert_eq!(buckets.interval(), Duration::from_secs(1));
        assert_eq!(buckets.take(ip("192.0.2.2"), at(1000)), Level::Within);
    }

    #[test]
    fn what_is_counted_stays_above_until_it_slows_down() {
        let buckets = buckets(60, 1000, Excess::Counted);
        let (a, start) = (ip("192.0.2.1"), Instant::now() + Duration::from_secs(1));
        for n in 0..1000 {
            let expected = match n {
                0..60 => Level::Within,
                60 => Level::Crossed,
                _ => Level::Above,
            };
            assert_eq!(buckets.take(a, start), expected, "{n}");
        }
        // It is as much above as a minute brings back.
        assert_eq!(buckets.take(a, start + Duration::from_secs(30)), Level::Above);
        assert_eq!(buckets.take(a, start + Duration::from_secs(95)), Level::Within);
    }

    #[test]
    fn a_subscriber_of_ipv6_is_a_network() {
        let buckets = buckets(1, 1000, Excess::Refused);
        let now = Instant::now();
        assert_eq!(buckets.take(ip("2001:db8:1:2::1"), now), Level::Within);
        assert_eq!(buckets.take(ip("2001:db8:1:2:ffff::9"), now), Level::Above);
        assert_eq!(buckets.take(ip("2001:db8:1:3::1"), now), Level::Within);
    }

    #[test]
    fn a_flood_of_addresses_does_not_make_a_heavy_one_forgotten() {
        let buckets = buckets(60, 64, Excess::Counted);
        let (heavy, now) = (ip("192.0.2.1"), Instant::now());
        for _ in 0..200 {
            buckets.take(heavy, now);
        }
        for n in 0..100_000_u32 {
            buckets.take(IpAddr::V4((0x0a00_0000 + n).into()), now);
        }
        assert_eq!(buckets.lines.len(), 8);
        assert_eq!(buckets.take(heavy, now), Level::Above);
    }

    #[test]
    fn no_token_is_given_twice_where_threads_race() {
        let buckets = buckets(500, 8, Excess::Refused);
        let now = Instant::now();
        let within: usize = std::thread::scope(|scope| {
            let take = || (0..1000).filter(|_| buckets.take(ip("192.0.2.1"), now) == Level::Within).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        // A request whose every try was disturbed is served without a token.
        assert!((500..=520).contains(&within), "{within}");
    }
}
