//! From the API to a browser: whatever link the API takes, the redirector serves,
//! and it leads where the link says.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod seeds;

use ingest::fuzz::FuzzedRedirector;
use schemas::AppSchemes;
use testbed::mutate::mutated;

use crate::seeds::SEEDS;

#[test]
fn what_the_api_takes_is_served() {
    let seeds: Vec<Vec<u8>> = SEEDS.map(|seed| seed.as_bytes().to_vec()).into();
    let schemes = AppSchemes::try_from(vec!["myapp".to_owned()]).unwrap();
    let mut taken = 0;
    for bytes in seeds.iter().cloned().chain(mutated(&seeds, 4, 100_000)) {
        let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
        let [create, changes @ .., query] = lines.as_slice() else { continue };
        if let Some(link) = control::fuzz::link(create, changes, schemes.clone()) {
            FuzzedRedirector::follow(&link, query, schemes.clone());
            taken += 1;
        }
    }
    assert!(taken > 2_000, "{taken}");
}
