//! The request rates of keys and of workspaces, as token buckets, and the headers that tell callers of them
//! (draft-ietf-httpapi-ratelimit-headers). A call that turns out to be much work is charged for it afterwards, so that
//! what its caller may ask next comes later.

use std::{
    collections::HashMap,
    fmt::Write,
    hash::Hash,
    num::NonZeroU32,
    time::{Duration, Instant},
};

use axum::http::{HeaderName, HeaderValue, Response};
use parking_lot::Mutex;
use schemas::{KeyId, WorkspaceId};
use service::problem::Problem;

/// The interval at which full buckets are forgotten.
const SWEEP: Duration = Duration::from_secs(60);
/// The requests of a workspace at once, as a multiple of its requests a second.
const WORKSPACE_BURST: u32 = 4;

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const STANDING: HeaderName = HeaderName::from_static("ratelimit");

/// The rate of a bucket: its average, and the most at once after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    pub(crate) per_s: NonZeroU32,
    pub(crate) burst: NonZeroU32,
}

impl Rate {
    /// Returns the rate of a workspace with this average; nothing where there is no limit.
    pub(crate) fn of_workspace(per_s: u32) -> Option<Self> {
        let per_s = NonZeroU32::new(per_s)?;
        Some(Self { per_s, burst: per_s.saturating_mul(NonZeroU32::new(WORKSPACE_BURST)?) })
    }

    /// Returns the time in which an empty bucket is full again.
    fn window(self) -> Duration {
        self.tokens(self.burst.get())
    }

    /// Returns the time in which so many tokens are back.
    fn tokens(self, count: u32) -> Duration {
        Duration::from_secs(1) * count / self.per_s.get()
    }
}

/// The standing of a caller after a request.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Standing {
    rate: Rate,
    /// The requests that may follow at once.
    remaining: u32,
    /// The time in which all requests are back.
    reset: Duration,
}

/// The bucket of each caller that has called recently: the moment at which it is full again (GCRA).
struct RateBuckets<K> {
    full_at: HashMap<K, Instant>,
    swept: Instant,
}

impl<K: Hash + Eq + Clone> RateBuckets<K> {
    fn new(at: Instant) -> Self {
        Self { full_at: HashMap::new(), swept: at }
    }

    /// Returns the time in which the caller's bucket is full again.
    fn refill(&self, key: &K, at: Instant) -> Duration {
        self.full_at.get(key).map_or(Duration::ZERO, |full_at| full_at.saturating_duration_since(at))
    }

    /// Takes a token; the error is the time to wait for it.
    fn take(&mut self, key: &K, rate: Rate, at: Instant) -> Result<Standing, Duration> {
        if at.saturating_duration_since(self.swept) >= SWEEP {
            self.swept = at;
            self.full_at.retain(|_, full_at| *full_at > at);
        }
        let reset = self.refill(key, at) + rate.tokens(1);
        let window = rate.window();
        if reset > window {
            return Err(reset - window);
        }
        self.full_at.insert(key.clone(), at + reset);
        let left = (window - reset).as_secs_f64() * f64::from(rate.per_s.get());
        // A hundredth of a token makes up for rounding.
        Ok(Standing { rate, remaining: (left + 0.01) as u32, reset })
    }

    /// Takes tokens for work that was done, also those that are not there. At most another full bucket is owed.
    fn charge(&mut self, key: &K, rate: Rate, tokens: u32, at: Instant) {
        let reset = (self.refill(key, at) + rate.tokens(tokens)).min(2 * rate.window());
        self.full_at.insert(key.clone(), at + reset);
    }
}

/// The request rates of all keys and workspaces.
pub(crate) struct RequestRates {
    /// The rate of each key; nothing where there is no limit.
    key_rate: Option<Rate>,
    buckets: Mutex<(RateBuckets<KeyId>, RateBuckets<WorkspaceId>)>,
}

/// A caller whose requests are counted.
#[derive(Clone, Debug)]
pub(crate) struct RatedCaller {
    pub(crate) key: KeyId,
    pub(crate) workspace: WorkspaceId,
    /// The rate of the workspace; nothing where there is no limit.
    pub(crate) workspace_rate: Option<Rate>,
}

/// The headers about the standing of a caller, of which there are none without limits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RateHeaders {
    policy: String,
    standing: String,
}

impl RequestRates {
    pub(crate) fn new(key_rate: Option<Rate>) -> Self {
        let at = Instant::now();
        Self { key_rate, buckets: Mutex::new((RateBuckets::new(at), RateBuckets::new(at))) }
    }

    /// Counts a request of the key and of its workspace, and returns the headers of its answer, and the problem where the
    /// request comes too early for either.
    pub(crate) fn count(&self, caller: &RatedCaller, at: Instant) -> (Result<(), Problem>, RateHeaders) {
        let mut headers = RateHeaders::default();
        let (keys, workspaces) = &mut *self.buckets.lock();
        if let Some(rate) = self.key_rate {
            let standing = keys.take(&caller.key, rate, at);
            headers.add("key", rate, standing);
            if let Err(wait) = standing {
                let detail = "This key calls too often: wait, then call more slowly";
                return (Err(Problem::limited(detail, wait)), headers);
            }
        }
        if let Some(rate) = caller.workspace_rate {
            let standing = workspaces.take(&caller.workspace, rate, at);
            headers.add("workspace", rate, standing);
            if let Err(wait) = standing {
                let detail = "The keys of this workspace call too often together: wait, then call more slowly, or ask an \
                              operator to raise the limit `requests_per_s` of the workspace";
                return (Err(Problem::limited(detail, wait)), headers);
            }
        }
        (Ok(()), headers)
    }

    /// Counts the work of a request as that of so many further requests.
    pub(crate) fn charge(&self, caller: &RatedCaller, requests: u32) {
        if requests == 0 {
            return;
        }
        let at = Instant::now();
        let (keys, workspaces) = &mut *self.buckets.lock();
        if let Some(rate) = self.key_rate {
            keys.charge(&caller.key, rate, requests, at);
        }
        if let Some(rate) = caller.workspace_rate {
            workspaces.charge(&caller.workspace, rate, requests, at);
        }
    }
}

impl RateHeaders {
    fn add(&mut self, name: &str, rate: Rate, standing: Result<Standing, Duration>) {
        let (remaining, reset) = match standing {
            Ok(standing) => (standing.remaining, standing.reset),
            Err(wait) => (0, wait),
        };
        let seconds = |time: Duration| time.as_secs() + u64::from(time.subsec_nanos() > 0);
        let between = if self.policy.is_empty() { "" } else { ", " };
        // Writing to a string cannot fail.
        let _ = write!(self.policy, "{between}\"{name}\";q={};w={}", rate.burst, seconds(rate.window()));
        let _ = write!(self.standing, "{between}\"{name}\";r={remaining};t={}", seconds(reset));
    }

    /// Adds the headers to an answer.
    pub(crate) fn insert_into<B>(&self, response: &mut Response<B>) {
        for (name, value) in [(POLICY, &self.policy), (STANDING, &self.standing)] {
            if let Some(value) = HeaderValue::from_str(value).ok().filter(|value| !value.is_empty()) {
                response.headers_mut().insert(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(per_s: u32, burst: u32) -> Rate {
        Rate { per_s: NonZeroU32::new(per_s).unwrap(), burst: NonZeroU32::new(burst).unwrap() }
    }

    fn caller(key: u128, per_s: u32) -> RatedCaller {
        RatedCaller {
            key: KeyId::from_bits(key),
            workspace: WorkspaceId::new("acme"),
            workspace_rate: Rate::of_workspace(per_s),
        }
    }

    #[test]
    fn a_key_has_a_burst_and_then_its_average() {
        let rates = RequestRates::new(Some(rate(2, 4)));
        let at = Instant::now();
        let mut remaining = Vec::new();
        for _ in 0..4 {
            remaining.push(rates.count(&caller(1, 0), at).1.standing);
        }
        assert_eq!(remaining, ["\"key\";r=3;t=1", "\"key\";r=2;t=1", "\"key\";r=1;t=2", "\"key\";r=0;t=2"]);
        let (outcome, refused) = rates.count(&caller(1, 0), at);
        assert!(outcome.is_err());
        assert_eq!((refused.policy.as_str(), refused.standing.as_str()), ("\"key\";q=4;w=2", "\"key\";r=0;t=1"));
        assert!(rates.count(&caller(1, 0), at + Duration::from_millis(500)).0.is_ok());
        assert!(rates.count(&caller(2, 0), at).0.is_ok());
    }

    #[test]
    fn a_workspace_has_a_rate_however_many_keys_it_has() {
        let rates = RequestRates::new(Some(rate(100, 100)));
        let at = Instant::now();
        for key in 0..4 {
            assert!(rates.count(&caller(key, 1), at).0.is_ok());
        }
        let (outcome, headers) = rates.count(&caller(9, 1), at);
        let problem = outcome.unwrap_err();
        assert!(problem.detail.contains("requests_per_s"), "{}", problem.detail);
        assert_eq!(headers.policy, "\"key\";q=100;w=1, \"workspace\";q=4;w=4");
        let other = RatedCaller { workspace: WorkspaceId::new("other"), ..caller(9, 1) };
        assert!(rates.count(&other, at).0.is_ok());
    }

    #[test]
    fn much_work_is_paid_for_afterwards_but_not_for_ever() {
        let rates = RequestRates::new(Some(rate(10, 10)));
        let at = Instant::now();
        assert!(rates.count(&caller(1, 0), at).0.is_ok());
        rates.charge(&caller(1, 0), 1_000_000);
        assert!(rates.count(&caller(1, 0), at + Duration::from_millis(900)).0.is_err());
        assert!(rates.count(&caller(1, 0), at + Duration::from_millis(1_500)).0.is_ok());
    }

    #[test]
    fn full_buckets_are_forgotten() {
        let mut buckets = RateBuckets::new(Instant::now());
        let at = Instant::now();
        for key in 0..10 {
            buckets.take(&key, rate(1, 5), at).unwrap();
        }
        buckets.take(&99, rate(1, 5), at + 2 * SWEEP).unwrap();
        assert_eq!(buckets.full_at.len(), 1);
    }
}
