//! The metrics of webhook delivery.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};
use schemas::{DelayTier, Outcome};
use service::Metrics;

use super::outcome::{EndpointAnswer, Exchange, Verdict};

/// The label of an attempt's outcome.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OutcomeLabel {
    outcome: &'static str,
}

/// The labels of a verdict: what follows for the delivery, and whose fault it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerdictLabels {
    verdict: &'static str,
    fault: &'static str,
}

/// The label of a state.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

/// The label of an answer's status.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabel {
    status: &'static str,
}

/// The label of an attempt's number, of which there are six.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AttemptLabel {
    attempt: u32,
}

/// The label of a delay topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TierLabel {
    tier: &'static str,
}

/// The label of the way in which a name's addresses were found.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LookupLabel {
    source: &'static str,
}

/// The metrics of the resolver of names.
#[derive(Clone, Default)]
pub(super) struct NameMetrics {
    lookups: Family<LookupLabel, Counter>,
    questions: Family<OutcomeLabel, Counter>,
}

impl NameMetrics {
    /// Counts a lookup by the source of its answer: `cache`, `joined` for a question that was
    /// on its way already, or `asked`.
    pub(super) fn count_lookup(&self, source: &'static str) {
        self.lookups.get_or_create(&LookupLabel { source }).inc();
    }

    /// Counts a question that has ended.
    pub(super) fn count_question(&self, outcome: &'static str) {
        self.questions.get_or_create(&OutcomeLabel { outcome }).inc();
    }
}

#[derive(Clone)]
pub(super) struct WebhookMetrics {
    attempts: Family<OutcomeLabel, Counter>,
    verdicts: Family<VerdictLabels, Counter>,
    answers: Family<StatusLabel, Counter>,
    retries: Family<AttemptLabel, Counter>,
    lanes: Family<StateLabel, Gauge>,
    breakers: Family<StateLabel, Gauge>,
    tier_depth: Family<TierLabel, Gauge>,
    tier_head_age: Family<TierLabel, Gauge>,
    pub names: NameMetrics,
    /// Deliveries that wait in lanes.
    pub waiting: Gauge,
    /// The memory of deliveries that wait in lanes.
    pub waiting_bytes: Gauge,
    pub waiting_max_bytes: Gauge,
    /// Whether events are not read for now.
    pub reading_paused: Gauge,
    pub running_exchanges: Gauge,
    pub open_connections: Gauge,
    /// Deliveries that found their lane full.
    pub spilled: Counter,
    /// Deliveries that were written to a delay topic because their partition went to another
    /// member.
    pub handed_over: Counter,
    /// Deliveries that were put off because this process or machine lacked something.
    pub postponed: Counter,
    /// Records and deliveries that were given up.
    pub dead: Counter,
    /// Attempts whose record was lost on its way to Kafka.
    pub unrecorded: Counter,
    /// Deliveries between the reading of their record and the end of their claim on it.
    pub outstanding: Gauge,
    /// The known endpoints.
    pub endpoints: Gauge,
    /// The duration of an exchange, in seconds.
    pub exchange: Histogram,
    /// The time from an event to its first delivery, in seconds.
    pub latency: Histogram,
}

/// Buckets from a millisecond to the longest timeout.
const EXCHANGE_S: [f64; 12] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 30.0];
/// Buckets that are closest around the promised latency: 40 ms at the median, 200 ms
/// at the worst.
const LATENCY_S: [f64; 13] = [0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.1, 0.2, 0.5, 1.0, 10.0, 60.0];

impl WebhookMetrics {
    pub(super) fn new(metrics: &Metrics) -> Self {
        Self {
            attempts: metrics.family_counter("clickhook_webhook_attempts", "Attempts by how they ended"),
            verdicts: metrics.family_counter(
                "clickhook_webhook_verdicts",
                "Decisions about deliveries after an exchange, by whose fault a failure is",
            ),
            answers: metrics.family_counter("clickhook_webhook_answers", "Exchanges by the status of the answer"),
            retries: metrics.family_counter("clickhook_webhook_retries", "Retries scheduled, by the number of the attempt"),
            lanes: metrics.family_gauge("clickhook_webhook_lanes", "Endpoints by the state of their lane"),
            breakers: metrics.family_gauge("clickhook_webhook_breakers", "Endpoints by the state of their breaker"),
            tier_depth: metrics.family_gauge(
                "clickhook_webhook_delayed_deliveries",
                "Deliveries that wait on a delay topic, in the partitions of this process",
            ),
            tier_head_age: metrics.family_gauge(
                "clickhook_webhook_delay_head_age_seconds",
                "Age of the oldest delivery at the head of a partition of a delay topic",
            ),
            names: NameMetrics {
                lookups: metrics.family_counter("clickhook_webhook_name_lookups", "Lookups of names, by the source of the answer"),
                questions: metrics
                    .family_counter("clickhook_webhook_name_questions", "Questions to name servers, by their outcome"),
            },
            waiting: metrics.gauge("clickhook_webhook_waiting_deliveries", "Deliveries that wait in lanes"),
            waiting_bytes: metrics.gauge("clickhook_webhook_waiting_bytes", "Memory of the deliveries that wait in lanes"),
            waiting_max_bytes: metrics.gauge("clickhook_webhook_waiting_max_bytes", "webhook.max_waiting_bytes"),
            reading_paused: metrics.gauge(
                "clickhook_webhook_reading_paused",
                "1 while no events are read, since lanes or Kafka are full",
            ),
            running_exchanges: metrics.gauge("clickhook_webhook_running_exchanges", "Exchanges that run"),
            open_connections: metrics
                .gauge("clickhook_webhook_open_connections", "Connections to endpoints, kept ones included"),
            spilled: metrics.counter(
                "clickhook_webhook_spilled_deliveries",
                "Deliveries that found their lane full and wait on a delay topic",
            ),
            handed_over: metrics.counter(
                "clickhook_webhook_handed_over_deliveries",
                "Deliveries that went to a delay topic because another process now reads their records",
            ),
            postponed: metrics.counter(
                "clickhook_webhook_postponed_deliveries",
                "Deliveries that were put off with their attempt unused, since sockets, name servers or memory were short",
            ),
            dead: metrics.counter("clickhook_webhook_dead_records", "Records and deliveries that were given up"),
            unrecorded: metrics
                .counter("clickhook_webhook_unrecorded_attempts", "Attempts whose record did not reach Kafka"),
            outstanding: metrics.gauge(
                "clickhook_webhook_outstanding_deliveries",
                "Deliveries between the reading of their record and its settling",
            ),
            endpoints: metrics.gauge("clickhook_webhook_known_endpoints", "Endpoints that are known"),
            exchange: metrics.histogram(
                "clickhook_webhook_exchange_seconds",
                "Time that an exchange with an endpoint takes",
                EXCHANGE_S,
            ),
            latency: metrics.histogram(
                "clickhook_webhook_latency_seconds",
                "Time from what happened to its first delivery",
                LATENCY_S,
            ),
        }
    }

    /// Counts an attempt of so many events.
    pub(super) fn count_attempts(&self, outcome: Outcome, events: usize) {
        self.attempts.get_or_create(&OutcomeLabel { outcome: outcome.as_str() }).inc_by(events as u64);
    }

    /// Counts an exchange with the decision that follows from it, and a retry of the events that
    /// the answer names as failed: without such events, `named` is the same decision.
    pub(super) fn count_exchange(&self, exchange: &Exchange, verdict: &Verdict, named: &Verdict, attempt: u32) {
        let verdict_name = match verdict {
            Verdict::Delivered => "delivered",
            Verdict::Retry { .. } => "retry",
            Verdict::Postponed { .. } => "postponed",
            Verdict::Dead { .. } => "dead",
        };
        let fault = match exchange {
            Exchange::Answered(EndpointAnswer { status: 200..=299, .. }) => "none",
            Exchange::Answered(_) | Exchange::Failed(_) => "endpoint",
            Exchange::Ours(_) => "ours",
        };
        self.verdicts.get_or_create(&VerdictLabels { verdict: verdict_name, fault }).inc();
        let status = match exchange {
            Exchange::Answered(EndpointAnswer { status, .. }) => match status / 100 {
                2 => "2xx",
                3 => "3xx",
                4 => "4xx",
                5 => "5xx",
                _ => "other",
            },
            Exchange::Failed(_) | Exchange::Ours(_) => "none",
        };
        self.answers.get_or_create(&StatusLabel { status }).inc();
        if let Verdict::Retry { .. } = named {
            self.retries.get_or_create(&AttemptLabel { attempt: attempt + 1 }).inc();
        }
    }

    pub(super) fn set_lanes(&self, states: [(&'static str, i64); 3]) {
        set_states(&self.lanes, states);
    }

    pub(super) fn set_breakers(&self, states: [(&'static str, i64); 3]) {
        set_states(&self.breakers, states);
    }

    pub(super) fn set_tier_depth(&self, tier: DelayTier, records: i64) {
        self.tier_depth.get_or_create(&TierLabel::of(tier)).set(records);
    }

    pub(super) fn set_tier_head_age(&self, tier: DelayTier, seconds: i64) {
        self.tier_head_age.get_or_create(&TierLabel::of(tier)).set(seconds);
    }
}

impl TierLabel {
    fn of(tier: DelayTier) -> Self {
        Self { tier: tier.topic().trim_start_matches("delay.") }
    }
}

fn set_states(gauges: &Family<StateLabel, Gauge>, states: [(&'static str, i64); 3]) {
    for (state, number) in states {
        gauges.get_or_create(&StateLabel { state }).set(number);
    }
}
