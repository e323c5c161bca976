//! The bytes of a connection, up to the answers and the recorded lines. The invariants
//! are in `ingest/src/fuzz.rs`.

#![no_main]

#[allow(dead_code, reason = "only the test uses the expected answers")]
#[path = "../../ingest/tests/common/attacks.rs"]
mod attacks;
#[path = "../seeds.rs"]
mod seeds;

use std::sync::LazyLock;

use ingest::fuzz::{FuzzedRedirector, example};
use libfuzzer_sys::fuzz_target;
use schemas::AppSchemes;

static REDIRECTOR: LazyLock<FuzzedRedirector> = LazyLock::new(|| {
    let (links, domains) = example();
    FuzzedRedirector::new(&links, &domains, AppSchemes::default()).expect("they can be served")
});

fuzz_target!(
    init: seeds::write(attacks::attacks().into_iter().map(|attack| attack.bytes)),
    |bytes: &[u8]| {
        let _ = REDIRECTOR.answer(bytes);
    }
);
