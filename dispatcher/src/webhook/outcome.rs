//! The decision that follows from an exchange with an endpoint (docs/CONTRACTS.md §4), and
//! the time of the next attempt. Nothing here sends, waits or records.

use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::config::Config;

/// The longest wait that an endpoint may ask for with `Retry-After`.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

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

/// Judges attempt number `attempt` (from 1). `random`, from 0 to 1, decides the jitter.
pub(super) fn judge(exchange: &Exchange, attempt: u32, config: &Config, random: f64) -> Verdict {
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
    if attempt >= config.max_attempts {
        return Verdict::Dead { why: format!("{why}; that was attempt {attempt} of {}", config.max_attempts) };
    }
    let asked = asked.unwrap_or_default().min(LONGEST_RETRY_AFTER);
    // The retry never comes earlier than the endpoint asked for.
    let after = jittered(config.retry_delay(), random).max(asked.mul_f64(1.0 + 0.1 * random));
    Verdict::Retry { after, why }
}

/// Returns `delay` ±10 %, as `random` from 0 to 1 decides.
pub(super) fn jittered(delay: Duration, random: f64) -> Duration {
    delay.mul_f64(0.9 + 0.2 * random)
}

/// Reads `Retry-After`, seconds or a date (RFC 9110, 10.2.3), as a time from `now`.
pub(super) fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = httpdate::parse_http_date(value).ok()?;
    Some(at.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn config() -> Config {
        Config { max_attempts: 3, retry_delay_ms: 1000, ..Config::default() }
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
            assert_eq!(judge(&answered(status, None), 3, &config(), 0.5), Verdict::Delivered);
        }
        assert!(matches!(judge(&answered(410, None), 1, &config(), 0.5), Verdict::Dead { .. }));
        for status in [100, 301, 302, 307, 308, 400, 401, 404, 408, 429, 500, 503, 599] {
            let verdict = judge(&answered(status, None), 1, &config(), 0.5);
            assert!(
                matches!(&verdict, Verdict::Retry { why, after } if why.contains(&status.to_string()) && *after == Duration::from_secs(1)),
                "{verdict:?}"
            );
        }
    }

    #[test]
    fn the_last_attempt_is_the_last() {
        let failed = Exchange::Failed("no answer within 5000 ms".to_owned());
        assert!(matches!(judge(&failed, 2, &config(), 0.0), Verdict::Retry { .. }));
        let verdict = judge(&failed, 3, &config(), 0.0);
        assert_eq!(verdict, Verdict::Dead { why: "no answer within 5000 ms; that was attempt 3 of 3".to_owned() });
    }

    #[test]
    fn a_flaw_after_the_status_changes_no_verdict() {
        let flawed =
            |status| Exchange::Answered(EndpointAnswer::flawed(status, "its body broke off: reset".to_owned()));
        assert_eq!(judge(&flawed(200), 3, &config(), 0.5), Verdict::Delivered);
        assert!(matches!(judge(&flawed(500), 1, &config(), 0.5), Verdict::Retry { .. }));
    }

    #[test]
    fn our_own_fault_uses_no_attempt() {
        let ours = Exchange::Ours("no sockets".to_owned());
        for attempt in [1, 3, 100] {
            let verdict = judge(&ours, attempt, &config(), 0.5);
            assert_eq!(verdict, Verdict::Postponed { after: POSTPONED, why: "no sockets".to_owned() });
        }
    }

    #[test]
    fn retry_after_lengthens_the_wait_within_bounds() {
        let after = |status, seconds| match judge(&answered(status, Some(seconds)), 1, &config(), 0.0) {
            Verdict::Retry { after, .. } => after,
            other => panic!("{other:?}"),
        };
        assert_eq!(after(429, 120), Duration::from_secs(120));
        assert_eq!(after(503, 120), Duration::from_secs(120));
        assert_eq!(after(500, 120), Duration::from_millis(900), "only 429 and 503 may ask");
        assert_eq!(after(429, 0), Duration::from_millis(900), "it never shortens the wait");
        assert_eq!(after(429, 1_000_000), LONGEST_RETRY_AFTER);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Fri, 31 Dec 1999 23:59:00 GMT").unwrap();
        assert_eq!(retry_after("120", now), Some(Duration::from_secs(120)));
        assert_eq!(retry_after("Fri, 31 Dec 1999 23:59:59 GMT", now), Some(Duration::from_secs(59)));
        assert_eq!(retry_after("Fri, 31 Dec 1999 23:58:00 GMT", now), Some(Duration::ZERO));
        assert_eq!(retry_after("soon", now), None);
    }

    proptest! {
        #[test]
        fn jitter_is_at_most_a_tenth(ms in 0_u64..10_000_000, random in 0.0..1.0_f64) {
            let delay = Duration::from_millis(ms);
            let jittered = jittered(delay, random);
            prop_assert!(jittered >= delay.mul_f64(0.9) && jittered <= delay.mul_f64(1.1));
        }
    }
}
