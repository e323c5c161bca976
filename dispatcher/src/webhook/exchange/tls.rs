//! TLS to endpoints: which versions of HTTP are offered.

use std::{path::Path, sync::Arc};

use rustls::{ClientConfig, crypto::ring};

use crate::webhook::error::Error;

/// The protocol that stands for HTTP/2 in the TLS handshake (RFC 9113, section 3.1).
pub(super) const H2: &[u8] = b"h2";

/// Returns the settings of TLS: the public authorities are trusted, and those of `ca_file`.
pub(super) fn client_config(ca_file: Option<&Path>) -> Result<ClientConfig, Error> {
    let roots = service::authorities("webhook.ca_file", ca_file)?;
    let mut tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![H2.to_vec(), b"http/1.1".to_vec()];
    Ok(tls)
}
