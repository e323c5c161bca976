//! ClickHouse as a child: its server comes as a library, which a hidden
//! subcommand of the running program loads (see [`run_child`]). ADR 0002 says why.

mod child;

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::Duration;

pub use child::run_child;

use crate::data_dir::{DataDir, write_atomically};
use crate::install::Installed;
use crate::log_file::LogFile;
use crate::probe::{ClickHouseProbe, Probe};
use crate::supervisor::{Spec, Stop};
use crate::{Engine, Error};

/// The hidden subcommand whose arguments go to [`run_child`], by default.
pub const SUBCOMMAND: &str = "__clickhouse";

const CONFIG: &str = include_str!("clickhouse/config.xml");
/// It ends in a tenth of a second, but may be in the middle of a merge.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// Writes ClickHouse's configuration and says how it is run.
pub(crate) fn prepare(
    data_dir: &DataDir,
    installed: &Installed,
    exe: &Path,
    args_prefix: &[OsString],
    port: u16,
) -> Result<Spec, Error> {
    let dir = data_dir.path().join("clickhouse");
    let tables = dir.join("data");
    fs::create_dir_all(&tables).map_err(|source| Error::io("create", &tables, source))?;
    let config = dir.join("config.xml");
    write_atomically(&config, CONFIG)?;

    let own = child::Arguments { lib: installed.clickhouse_lib(), config, path: tables.clone(), http_port: port };
    let mut args = args_prefix.to_vec();
    args.extend(own.to_args());
    Ok(Spec {
        engine: Engine::ClickHouse,
        program: exe.to_owned(),
        args,
        current_dir: dir,
        marker: tables.to_string_lossy().into_owned(),
        record: data_dir.run().join("clickhouse.json"),
        log: LogFile::new(data_dir.logs().join("clickhouse.log"), data_dir.log_max_bytes()),
        probe: Probe::ClickHouse(ClickHouseProbe { port, path: tables.to_string_lossy().into_owned() }),
        stop: Stop::CloseStdin(STOP_WITHIN),
    })
}
