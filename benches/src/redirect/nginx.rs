//! nginx that answers the same redirect, the visit's query passed on, and writes an
//! access log: what people run when they run no link service. It is a child in a folder of its own and has
//! nothing to do with the system's.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use testbed::free_address;
use tokio::time::sleep;

use crate::{
    bare::HEADERS,
    process::{Who, children},
};

/// Debian has it where not everybody's PATH leads.
const PROGRAMS: [&str; 3] = ["nginx", "/usr/sbin/nginx", "/usr/local/sbin/nginx"];
const PATIENCE: Duration = Duration::from_secs(10);

/// It ends when this is dropped.
pub(crate) struct Nginx {
    child: Child,
    pub(crate) address: SocketAddr,
    workers: u16,
}

impl Nginx {
    /// Starts it with so many workers, its files in `dir`.
    pub(crate) fn start(dir: &Path, workers: u16) -> anyhow::Result<Self> {
        let address = free_address();
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let file = dir.join("nginx.conf");
        fs::write(&file, configuration(address, workers))?;
        for program in PROGRAMS {
            let started = Command::new(program)
                .arg("-p")
                .arg(dir)
                .arg("-c")
                .arg(&file)
                // What it would write to before it has read its configuration.
                .args(["-e", "error.log"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(fs::File::create(dir.join("stderr.log"))?)
                .spawn();
            match started {
                Ok(child) => return Ok(Self { child, address, workers }),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).context("start nginx"),
            }
        }
        bail!("nginx is not installed: `make bench` installs it, or `apt-get install nginx-light`")
    }

    /// Its workers, once they are there.
    pub(crate) async fn workers(&self) -> anyhow::Result<Vec<Who>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let workers = children(self.child.id()).unwrap_or_default();
            if workers.len() == usize::from(self.workers) && std::net::TcpStream::connect(self.address).is_ok() {
                return Ok(workers.into_iter().map(Who::Process).collect());
            }
            if Instant::now() > deadline {
                bail!("nginx has not started within {} s", PATIENCE.as_secs());
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its workers end with it only when it is asked to.
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.child.wait();
    }
}

fn configuration(address: SocketAddr, workers: u16) -> String {
    let mut headers = String::new();
    let mut location = "";
    for (name, value) in HEADERS {
        match name {
            "location" => location = value,
            _ => headers += &format!("      add_header {name} \"{value}\" always;\n"),
        }
    }
    format!(
        "\
daemon off;
worker_processes {workers};
pid nginx.pid;
error_log error.log warn;
events {{ worker_connections 8192; }}
http {{
  access_log access.log combined;
  server_tokens off;
  tcp_nodelay on;
  keepalive_requests 1000000000;
  keepalive_timeout 1h;
  client_body_temp_path tmp-body;
  proxy_temp_path tmp-proxy;
  fastcgi_temp_path tmp-fastcgi;
  uwsgi_temp_path tmp-uwsgi;
  scgi_temp_path tmp-scgi;
  server {{
    listen {address} reuseport backlog=4096;
    location / {{
{headers}      return 302 \"{location}&$args\";
    }}
  }}
}}
"
    )
}
