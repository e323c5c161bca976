//! Whether a ClickHouse serves, and serves our folder.

use std::io;
use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Asks the server for its data path: the server is ready when it answers, and
/// ours when the path is.
#[derive(Debug)]
pub(crate) struct ClickHouseProbe {
    pub(crate) port: u16,
    pub(crate) path: String,
}

impl ClickHouseProbe {
    pub(crate) async fn is_ready(&self) -> bool {
        self.ask().await.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200") && answer.contains(&self.path))
    }

    async fn ask(&self) -> io::Result<String> {
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
