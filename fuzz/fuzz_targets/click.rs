//! Bundles of `clicks.raw`, up to events and dead letters; or, behind a tab, the texts of a
//! visit. The invariants are in `enricher/src/fuzz.rs`.

#![no_main]

#[path = "../../enricher/tests/common/lines.rs"]
mod lines;
#[path = "../seeds.rs"]
mod seeds;

use std::cell::RefCell;

use enricher::fuzz::FuzzedEnricher;
use libfuzzer_sys::fuzz_target;

thread_local! {
    static ENRICHER: RefCell<FuzzedEnricher> = RefCell::new(FuzzedEnricher::new().expect("its tables can be built"));
}

fn seeds() -> impl Iterator<Item = Vec<u8>> {
    let visits = lines::VISITS.into_iter().map(|visit| format!("\t{visit}").into_bytes());
    lines::BUNDLES.into_iter().map(|bundle| bundle.as_bytes().to_vec()).chain(visits)
}

fuzz_target!(init: seeds::write(seeds()), |bytes: &[u8]| {
    ENRICHER.with_borrow_mut(|enricher| match bytes.split_first() {
        Some((b'\t', texts)) => enricher.visit(texts),
        _ => enricher.bundle(bytes),
    });
});
