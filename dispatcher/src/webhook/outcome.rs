//! The decision that follows from an exchange with an endpoint (docs/CONTRACTS.md §4), and
//! what an endpoint asks for. Nothing here sends, waits or records.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use schemas::Outcome;

use super::retry::{RetryPolicy, jittered};

/// The pause before a delivery whose endpoint was not asked is tried again.
const POSTPONED: Duration = Duration::from_secs(5);

/// The result of an HTTP exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Exchange {
    /// The endpoint answered with a status line within the time allowed.
    Answered(EndpointAnswer),
    /// There was no answer, for this reason: the endpoint, its name or the way to it failed.
    Failed(String),
    /// The endpoint was not asked, for this reason: this process or machine lacks something.
    Ours(String),
}

/// The answer of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct EndpointAnswer {
    pub status: u16,
    /// The pause that the endpoint asks for.
    pub retry_after: Option<Duration>,
    /// The beginning of the body, at most 16 KiB.
    pub body: Bytes,
    /// The fault of the rest of the answer, if there is one.
    pub flaw: Option<String>,
}

impl EndpointAnswer {
    /// Returns an answer of which nothing but the status can be read.
    pub(super) fn flawed(status: u16, flaw: String) -> Self {
        Self { status, flaw: Some(flaw), ..Self::default() }
    }
}

/// The decision about a delivery after an exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Delivered,
    /// The delivery is retried after this time.
    Retry {
        after: Duration,
        why: String,
    },
    /// The delivery is put off for this time, with its attempt unused, since the endpoint was
    /// not asked.
    Postponed {
        after: Duration,
        why: String,
    },
    /// The delivery is given up.
    Dead {
        why: String,
    },
}

impl Verdict {
    /// Returns the outcome that is recorded; none where the endpoint was not asked.
    pub(super) const fn outcome(&self) -> Option<Outcome> {
        match self {
            Self::Delivered => Some(Outcome::Delivered),
            Self::Retry { .. } => Some(Outcome::Retrying),
            Self::Postponed { .. } => None,
            Self::Dead { .. } => Some(Outcome::Dead),
        }
    }

    /// Returns the reason why the delivery was not made.
    pub(super) fn reason(&self) -> Option<&str> {
        match self {
            Self::Delivered => None,
            Self::Retry { why, .. } | Self::Postponed { why, .. } | Self::Dead { why } => Some(why),
        }
    }
}

/// Judges attempt number `attempt` (from 1). `random`, from 0 to 1, decides the jitter.
pub(super) fn judge(exchange: &Exchange, attempt: u32, retries: RetryPolicy, random: f64) -> Verdict {
    let (why, asked) = match exchange {
        Exchange::Answered(EndpointAnswer { status: 200..=299, .. }) => return Verdict::Delivered,
        Exchange::Answered(EndpointAnswer { status: 410, .. }) => {
            return Verdict::Dead { why: "the endpoint answered 410: it wants no more webhooks".to_owned() };
        }
        Exchange::Answered(EndpointAnswer { status: status @ 300..=399, .. }) => {
            (format!("the endpoint answered {status}, and redirects are not followed"), None)
        }
        Exchange::Answered(EndpointAnswer { status: status @ (429 | 503), retry_after, .. }) => {
            (format!("the endpoint answered {status}"), *retry_after)
        }
        Exchange::Answered(EndpointAnswer { status, .. }) => (format!("the endpoint answered {status}"), None),
        Exchange::Failed(reason) => (reason.clone(), None),
        Exchange::Ours(reason) => {
            return Verdict::Postponed { after: jittered(POSTPONED, random), why: reason.clone() };
        }
    };
    failed(why, asked, attempt, retries, random)
}

/// Returns what follows from a failed attempt. `asked` is the wait that the endpoint asks for.
pub(super) fn failed(why: String, asked: Option<Duration>, attempt: u32, retries: RetryPolicy, random: f64) -> Verdict {
    match retries.delay_after(attempt, asked, random) {
        Some(after) => Verdict::Retry { after, why },
        None => Verdict::Dead { why: format!("{why}; that was attempt {attempt} of {}", retries.schedule.attempts()) },
    }
}

/// Reads `Retry-After`, seconds or a date (RFC 9110, 10.2.3), as a time from `now`. A
/// number of seconds that is too large for us is the largest one (RFC 9111, 1.2.2).
pub(super) fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let at = httpdate::parse_http_date(value).ok()?;
    Some(at.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use schemas::RetrySchedule;

    use super::{super::retry::RetryTiming, *};

    /// Three attempts, the second one a second after the first.
    fn retries() -> RetryPolicy {
        RetryPolicy { schedule: RetrySchedule::first(2), timing: RetryTiming { speedup: 60 } }
    }

    fn answered(status: u16, retry_after_s: Option<u64>) -> Exchange {
        Exchange::Answered(EndpointAnswer {
            status,
            retry_after: retry_after_s.map(Duration::from_secs),
            ..EndpointAnswer::default()
        })
    }

    #[test]
    fn only_2xx_is_delivered_and_410_is_final() {
        for status in [200, 201, 204, 299] {
            assert_eq!(judge(&answered(status, None), 3, retries(), 0.5), Verdict::Delivered);
        }
        assert!(matches!(judge(&answered(410, None), 1, retries(), 0.5), Verdict::Dead { .. }));
        for status in [100, 301, 302, 307, 308, 400, 401, 404, 408, 429, 500, 503, 599] {
            let verdict = judge(&answered(status, None), 1, retries(), 0.0);
            assert!(
                matches!(&verdict, Verdict::Retry { why, after } if why.contains(&status.to_string()) && *after == Duration::from_secs(1)),
                "{verdict:?}"
            );
        }
    }

    #[test]
    fn the_last_attempt_is_the_last() {
        let failed = Exchange::Failed("no answer within 5000 ms".to_owned());
        assert!(matches!(judge(&failed, 2, retries(), 0.0), Verdict::Retry { .. }));
        let verdict = judge(&failed, 3, retries(), 0.0);
        assert_eq!(verdict, Verdict::Dead { why: "no answer within 5000 ms; that was attempt 3 of 3".to_owned() });
    }

    #[test]
    fn a_flaw_after_the_status_changes_no_verdict() {
        let flawed =
            |status| Exchange::Answered(EndpointAnswer::flawed(status, "its body broke off: reset".to_owned()));
        assert_eq!(judge(&flawed(200), 3, retries(), 0.5), Verdict::Delivered);
        assert!(matches!(judge(&flawed(500), 1, retries(), 0.5), Verdict::Retry { .. }));
    }

    #[test]
    fn our_own_fault_uses_no_attempt() {
        let ours = Exchange::Ours("no sockets".to_owned());
        for attempt in [1, 3, 100] {
            let verdict = judge(&ours, attempt, retries(), 0.0);
            assert_eq!(verdict, Verdict::Postponed { after: POSTPONED, why: "no sockets".to_owned() });
        }
    }

    #[test]
    fn only_429_and_503_may_ask_for_a_wait() {
        let after = |status, seconds| match judge(&answered(status, Some(seconds)), 1, retries(), 0.0) {
            Verdict::Retry { after, .. } => after,
            other => panic!("{other:?}"),
        };
        assert_eq!(after(429, 120), Duration::from_secs(120));
        assert_eq!(after(503, 120), Duration::from_secs(120));
        assert_eq!(after(500, 120), Duration::from_secs(1), "only 429 and 503 may ask");
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Fri, 31 Dec 1999 23:59:00 GMT").unwrap();
        assert_eq!(retry_after("120", now), Some(Duration::from_secs(120)));
        assert_eq!(retry_after("Fri, 31 Dec 1999 23:59:59 GMT", now), Some(Duration::from_secs(59)));
        assert_eq!(retry_after("Fri, 31 Dec 1999 23:58:00 GMT", now), Some(Duration::ZERO));
        assert_eq!(retry_after("Friday, 31-Dec-99 23:59:59 GMT", now), Some(Duration::from_secs(59)));
        assert_eq!(retry_after("Fri Dec 31 23:59:59 1999", now), Some(Duration::from_secs(59)));
        assert_eq!(retry_after(" 120 ", now), Some(Duration::from_secs(120)));
        assert_eq!(retry_after("99999999999999999999", now), Some(Duration::from_secs(u64::MAX)));
        for wrong in ["soon", "", "-5", "+5", "6.5", "Fri, 31 Dec 1999 23:59:59 +0000"] {
            assert_eq!(retry_after(wrong, now), None, "{wrong}");
        }
    }
}
