//! The API does what its description says: schemathesis makes up requests from
//! `/openapi.json`, valid ones and others, and holds every answer against it. An
//! answer that is not described, or a 500, fails.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use testbed::free_address;

use crate::{
    roles::Installation,
    support::{ADMIN_KEY, folder},
};

/// The checks that are made of every answer.
const CHECKS: &str = "no_server_error,status_code_conformance,content_type_conformance,\
    response_schema_conformance,response_headers_conformance,unsupported_method";
/// How many requests are made up for an operation in each phase, and how long all
/// of it may take.
const EXAMPLES: &str = "40";
const SECONDS: &str = "90";

/// The Python that has schemathesis. Its own script names the folder that it was
/// installed in, which may have been moved since.
fn python() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.engines");
    let dir = std::env::var_os("CLICKHOOK_ENGINES_DIR").map_or(root, PathBuf::from);
    let program = dir.join("schemathesis/bin/python");
    assert!(program.exists(), "{} is missing: run scripts/engines --tests", program.display());
    program
}

#[test]
fn the_api_answers_what_it_says_that_it_answers() {
    let (_keep, dir) = folder();
    let installation = Installation::new(dir.clone(), testbed::kafka());
    let intake = free_address();
    let ingest = installation.start_with("ingest", &[("CLICKHOOK_INGEST_INTAKE_LISTEN", intake.to_string())]);
    let intake_url = format!("http://{intake}");
    let control = installation.start_with("control", &[("CLICKHOOK_CONTROL_INTAKE_URL", intake_url)]);
    control.until_ready("control is the leader");
    ingest.until_ready("the intake knows the keys");
    let began = Instant::now();
    let checked = Command::new(python())
        .current_dir(&dir)
        .env("SCHEMATHESIS_HOOKS", Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pipeline/conformance/hooks.py"))
        .args(["-m", "schemathesis.cli", "run"])
        .arg(format!("http://{}/openapi.json", control.serves))
        .args(["--header", &format!("Authorization: Bearer {ADMIN_KEY}")])
        .args(["--checks", CHECKS, "--max-examples", EXAMPLES, "--max-time", SECONDS])
        // The same requests in every run, as far as it comes.
        .args(["--generation-deterministic", "--continue-on-failure", "--no-color"])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success(), "{told}\n{}", String::from_utf8_lossy(&checked.stderr));
    let cases = told.lines().find(|line| line.contains(" passed") && line.contains(" generated")).unwrap_or_default();
    println!("{} in {:.0} s", cases.trim(), began.elapsed().as_secs_f64());
}
