//! ClickHouse as a child: its server comes as a library, which a hidden
//! subcommand of the running program loads (see [`run_child`]). ADR 0002 says why.

mod child;

use std::ffi::OsString;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub use child::run_child;

use crate::Error;
use crate::data_dir::{DataDir, write_atomically};
use crate::install::Installed;
use crate::log_file::LogFile;
use crate::supervisor::{self, Spec, Stop};

/// The hidden subcommand whose arguments go to [`run_child`], by default.
pub const SUBCOMMAND: &str = "__clickhouse";

pub(crate) const NAME: &str = "clickhouse";
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
    let dir = data_dir.path().join(NAME);
    let tables = dir.join("data");
    fs::create_dir_all(&tables).map_err(|source| Error::io("create", &tables, source))?;
    let config = dir.join("config.xml");
    write_atomically(&config, CONFIG)?;

    let own = child::Arguments { lib: installed.clickhouse_lib(), config, path: tables.clone(), http_port: port };
    let mut args = args_prefix.to_vec();
    args.extend(own.to_args());
    Ok(Spec {
        engine: NAME,
        program: exe.to_owned(),
        args,
        current_dir: dir,
        marker: tables.to_string_lossy().into_owned(),
        record: data_dir.run().join("clickhouse.json"),
        log: LogFile::new(data_dir.logs().join("clickhouse.log"), data_dir.log_max_bytes()),
        probe: supervisor::Probe::ClickHouse(Probe { port, path: tables.to_string_lossy().into_owned() }),
        stop: Stop::CloseStdin(STOP_WITHIN),
    })
}

/// Asks the server for its data path: it is ready when it answers, and ours
/// when the path is.
#[derive(Debug)]
pub(crate) struct Probe {
    port: u16,
    path: String,
}

impl Probe {
    pub(crate) async fn answers(&self) -> bool {
        self.ask().await.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200") && answer.contains(&self.path))
    }

    async fn ask(&self) -> std::io::Result<String> {
        const QUERY: &str = "SELECT path FROM system.disks WHERE name = 'default'";
        let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await?;
        let request = format!(
            "POST / HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{QUERY}",
            self.port,
            QUERY.len()
        );
        connection.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        connection.take(64 << 10).read_to_end(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }
}
