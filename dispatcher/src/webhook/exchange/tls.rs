//! TLS to endpoints: whose certificates are trusted, and which versions of HTTP are offered.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};
use service::ConfigError;

use crate::webhook::error::Error;

/// The protocol that stands for HTTP/2 in the TLS handshake (RFC 9113, section 3.1).
pub(super) const H2: &[u8] = b"h2";

/// Returns the settings of TLS: the public authorities are trusted, and those of `ca_file`.
pub(super) fn client_config(ca_file: Option<&Path>) -> Result<ClientConfig, Error> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(path) = ca_file {
        add_authorities(&mut roots, path)?;
    }
    let mut tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![H2.to_vec(), b"http/1.1".to_vec()];
    Ok(tls)
}

fn add_authorities(roots: &mut RootCertStore, path: &Path) -> Result<(), ConfigError> {
    let refused = |reason: String| ConfigError::value("webhook.ca_file", path.display(), reason);
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| refused(format!("must be a file of certificates in PEM: {error}")))?;
    if certificates.is_empty() {
        return Err(refused("must be a file of certificates in PEM: there is none in it".to_owned()));
    }
    for certificate in certificates {
        let unusable = |error| refused(format!("has a certificate that cannot be used: {error}"));
        roots.add(certificate).map_err(unusable)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let refused = || client_config(Some(&path)).unwrap_err().to_string();
        assert!(refused().contains("webhook.ca_file"), "{}", refused());
        std::fs::write(&path, "no certificate").unwrap();
        assert!(refused().contains("there is none in it"), "{}", refused());
    }
}
