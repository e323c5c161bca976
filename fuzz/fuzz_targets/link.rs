//! Bodies of API requests, up to the kept link and its destination: the first line
//! creates the link, the last is a visitor's query, and those between change the link.

#![no_main]

#[path = "../../clickhook/tests/links/seeds.rs"]
mod links;
#[path = "../seeds.rs"]
mod seeds;

use std::sync::LazyLock;

use ingest::fuzz::FuzzedRedirector;
use libfuzzer_sys::fuzz_target;
use schemas::AppSchemes;

static SCHEMES: LazyLock<AppSchemes> =
    LazyLock::new(|| AppSchemes::try_from(vec!["myapp".to_owned()]).expect("it is one"));

fuzz_target!(init: seeds::write(links::SEEDS.map(|seed| seed.as_bytes().to_vec())), |bytes: &[u8]| {
    let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    let [create, changes @ .., query] = lines.as_slice() else { return };
    if let Some(link) = control::fuzz::link(create, changes, SCHEMES.clone()) {
        FuzzedRedirector::follow(&link, query, SCHEMES.clone());
    }
});
