//! Why a client does not reach Kafka. librdkafka logs the reason (a certificate that is not
//! trusted, a wrong password), and lets the call fail with `BrokerTransportFailure`. So
//! contexts note the last reason here, and errors add it.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::{config::RDKafkaLogLevel, error::KafkaError, types::RDKafkaErrorCode};
use tracing::{debug, error, info, warn};

/// How long a noted reason explains errors. librdkafka logs the same one every 30 s.
const EXPLAINS_FOR: Duration = Duration::from_secs(40);
/// The kind of a log line that says why a connection failed.
const CONNECTION_FAILED: &str = "FAIL";
/// Parts of reasons that say more than the broken connection that follows from them.
const REFUSALS: [&str; 2] = ["SSL_HANDSHAKE", "SASL authentication error"];

/// The last reason that a client of this process gave, and when. All clients of a process
/// speak to one Kafka, so one reason is enough.
static LAST_REASON: Mutex<Option<(Instant, String)>> = Mutex::new(None);

/// Writes a log line of librdkafka, and notes the reason of a failed connection.
pub(crate) fn log(level: RDKafkaLogLevel, kind: &str, message: &str) {
    use RDKafkaLogLevel::{Alert, Critical, Debug, Emerg, Error, Info, Notice, Warning};
    match level {
        Emerg | Alert | Critical | Error => error!(target: "librdkafka", "librdkafka: {kind} {message}"),
        Warning => warn!(target: "librdkafka", "librdkafka: {kind} {message}"),
        Notice | Info => info!(target: "librdkafka", "librdkafka: {kind} {message}"),
        Debug => debug!(target: "librdkafka", "librdkafka: {kind} {message}"),
    }
    if kind == CONNECTION_FAILED {
        note(message);
    }
}

fn note(message: &str) {
    // The line begins with the name of librdkafka's thread, in brackets.
    let reason = message.split_once("]: ").map_or(message, |(_, reason)| reason);
    let is_refusal = |reason: &str| REFUSALS.iter().any(|refusal| reason.contains(refusal));
    let mut last = LAST_REASON.lock();
    let explained = last.as_ref().is_some_and(|(at, reason)| at.elapsed() < EXPLAINS_FOR && is_refusal(reason));
    if is_refusal(reason) || !explained {
        *last = Some((Instant::now(), reason.to_owned()));
    }
}

/// Whether a client has given a reason.
pub(crate) fn has_reason() -> bool {
    LAST_REASON.lock().is_some()
}

/// Returns the last reason as the end of an error's sentence, or nothing where `error` is
/// none of a connection or the reason is old.
pub(crate) fn explanation(error: &KafkaError) -> String {
    use RDKafkaErrorCode::{AllBrokersDown, BrokerTransportFailure, OperationTimedOut};
    let is_of_connection = error
        .rdkafka_error_code()
        .is_some_and(|code| matches!(code, AllBrokersDown | BrokerTransportFailure | OperationTimedOut));
    match &*LAST_REASON.lock() {
        Some((at, reason)) if is_of_connection && at.elapsed() < EXPLAINS_FOR => format!(". The last reason: {reason}"),
        _ => String::new(),
    }
}
