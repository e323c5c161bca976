//! The limits of an endpoint's batches, as callers write them.

use std::ops::RangeInclusive;

use schemars::JsonSchema;
use schemas::BatchLimits;
use serde::Deserialize;

use crate::check::{Checker, Patch};

/// Below two, nothing is a batch. The names of all events must fit into the part of an answer
/// that is read, for an answer may name failed ones.
const MAX_EVENTS: RangeInclusive<u32> = 2..=1_000;
/// An event is delivered and its offset is committed this much later.
const MAX_WAIT_MS: RangeInclusive<u32> = 0..=10_000;
/// A batch must fit into a record of Kafka, with each of its quotes escaped.
const MAX_BYTES: RangeInclusive<u32> = 1_000..=1_000_000;

/// The limits where a caller gives none. Many servers take bodies of 100 KiB at most.
const DEFAULT: BatchLimits = BatchLimits { max_events: 100, max_wait_ms: 1_000, max_bytes: 100_000 };

/// The limits of an endpoint's batches. What is left out has a default, or in a patch keeps its value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Batch")]
pub(crate) struct BatchPatch {
    /// The most events of a batch; 100 by default.
    #[schemars(range(min = *MAX_EVENTS.start(), max = *MAX_EVENTS.end()))]
    max_events: Patch<u32>,
    /// The longest time that an event waits for others, in milliseconds; 1000 by default. With 0, events are together
    /// that came while as many exchanges ran as may.
    #[schemars(range(min = *MAX_WAIT_MS.start(), max = *MAX_WAIT_MS.end()))]
    max_wait_ms: Patch<u32>,
    /// The most bytes of a batch's body; 100000 by default. A larger event goes alone.
    #[schemars(range(min = *MAX_BYTES.start(), max = *MAX_BYTES.end()))]
    max_bytes: Patch<u32>,
}

impl BatchPatch {
    /// Returns the limits with the patch applied.
    pub(super) fn apply(self, limits: Option<BatchLimits>) -> BatchLimits {
        let mut new = limits.unwrap_or(DEFAULT);
        self.max_events.apply_or(&mut new.max_events, DEFAULT.max_events);
        self.max_wait_ms.apply_or(&mut new.max_wait_ms, DEFAULT.max_wait_ms);
        self.max_bytes.apply_or(&mut new.max_bytes, DEFAULT.max_bytes);
        new
    }
}

/// Checks the limits of an endpoint's batches.
pub(super) fn check(limits: BatchLimits, checker: &mut Checker) {
    for (field, value, range) in [
        ("batch.max_events", limits.max_events, MAX_EVENTS),
        ("batch.max_wait_ms", limits.max_wait_ms, MAX_WAIT_MS),
        ("batch.max_bytes", limits.max_bytes, MAX_BYTES),
    ] {
        if !range.contains(&value) {
            checker.wrong(field, format!("is {value}, must be {} to {}", range.start(), range.end()));
        }
    }
}
