//! Whatever stands on `clicks.raw`, each line becomes an event of the schema, is a visit
//! that is not counted, or goes to `dead` with its reason. The invariants are in
//! `src/fuzz.rs`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "common/lines.rs"]
mod lines;

use std::sync::LazyLock;

use enricher::fuzz::{FuzzedEnricher, LineOutcomes};
use lines::{BUNDLES, VISITS};
use parking_lot::Mutex;
use proptest::prelude::*;
use testbed::mutate::mutated;

fn bytes(seeds: &[&str]) -> Vec<Vec<u8>> {
    seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect()
}

#[test]
fn lines_that_are_nearly_right_become_events_or_are_refused() {
    let mut enricher = FuzzedEnricher::new().unwrap();
    let seeds = bytes(&BUNDLES);
    let mut sum = LineOutcomes::default();
    for bundle in seeds.iter().cloned().chain(mutated(&seeds, 1, 40_000)) {
        let outcomes = enricher.bundle(&bundle);
        sum.events += outcomes.events;
        sum.visits += outcomes.visits;
        sum.refused += outcomes.refused;
    }
    assert!(sum.events > 300 && sum.visits > 50 && sum.refused > 10_000, "{sum:?}");
}

#[test]
fn visits_of_any_agent_referrer_and_query_become_events() {
    let mut enricher = FuzzedEnricher::new().unwrap();
    let seeds = bytes(&VISITS);
    for texts in seeds.iter().cloned().chain(mutated(&seeds, 2, 15_000)) {
        enricher.visit(&texts);
    }
}

static ENRICHER: LazyLock<Mutex<FuzzedEnricher>> = LazyLock::new(|| Mutex::new(FuzzedEnricher::new().unwrap()));

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn any_bytes_are_a_bundle(bundle: Vec<u8>) {
        ENRICHER.lock().bundle(&bundle);
    }

    #[test]
    fn any_texts_are_a_visit(texts in proptest::collection::vec(".{0,200}", 0..6)) {
        ENRICHER.lock().visit(texts.join("\n").as_bytes());
    }
}
