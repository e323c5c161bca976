//! The engines without clickhook: the crate's own tests run it, and it serves
//! to look at the engines by hand.
//!
//! ```text
//! engines DATA_DIR              start them, say where they are, run until told to stop
//! engines DATA_DIR COMMAND…     run a command beside them
//! ```

use std::ffi::OsString;
use std::process::ExitCode;

use engines::{Engines, Options, clickhouse, exec};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let code = match args.split_first() {
        Some((first, rest)) if first == clickhouse::SUBCOMMAND => clickhouse::run_child(rest.iter().cloned()),
        Some((data_dir, command)) => tokio_main(Options::new(data_dir), command),
        None => {
            eprintln!("usage: engines DATA_DIR [COMMAND…]");
            Ok(2)
        }
    };
    match code {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(error) => {
            eprintln!("engines: {error}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn tokio_main(options: Options, command: &[OsString]) -> Result<i32, engines::Error> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    if !command.is_empty() {
        return exec(options, command).await;
    }
    let engines = Engines::start(options).await?;
    let pids = engines.pids();
    println!("export {}={}", engines::TEST_KAFKA_ENV, engines.kafka_brokers());
    println!("export {}={}", engines::TEST_CLICKHOUSE_ENV, engines.clickhouse_url());
    println!("# pids: kafka {} clickhouse {}", pids.kafka.unwrap_or(0), pids.clickhouse.unwrap_or(0));
    let stop = signal(SignalKind::terminate()).ok();
    match stop {
        Some(mut stop) => tokio::select! {
            _ = stop.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        },
        None => drop(tokio::signal::ctrl_c().await),
    }
    engines.shutdown().await;
    Ok(0)
}
