//! The client of ClickHouse's HTTP interface, with TLS where the address says `https`.

use std::{path::Path, sync::Arc, time::Duration};

use clickhouse::Client;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{
    client::legacy::{Client as HyperClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::{ClientConfig, crypto::ring};
use service::ConfigError;

/// How often an idle connection is probed, so that one through a firewall is not forgotten.
const TCP_KEEPALIVE: Duration = Duration::from_secs(60);
/// How long an idle connection is kept: ClickHouse closes one after 3 s by default.
const IDLE: Duration = Duration::from_secs(2);

/// Returns a client that trusts the public authorities, and those of `ca_file`.
pub(crate) fn client(ca_file: Option<&Path>) -> Result<Client, ConfigError> {
    let key = "clickhouse.ca_file";
    let roots = service::authorities(key, ca_file)?;
    let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| ConfigError::value(key, "…", format!("TLS cannot be used: {error}")))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut tcp = HttpConnector::new();
    tcp.set_keepalive(Some(TCP_KEEPALIVE));
    tcp.enforce_http(false);
    let connector =
        HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
    let http = HyperClient::builder(TokioExecutor::new()).pool_idle_timeout(IDLE).build(connector);
    Ok(Client::with_http_client(http))
}
