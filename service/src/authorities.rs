//! Whose certificates are trusted where this process connects by TLS.

use std::path::Path;

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

use crate::ConfigError;

/// Returns the public authorities, and those of `ca_file`, the value of the setting `key`.
///
/// # Errors
/// When the file cannot be read, or is none of certificates in PEM.
pub fn authorities(key: &str, ca_file: Option<&Path>) -> Result<RootCertStore, ConfigError> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let Some(path) = ca_file else { return Ok(roots) };
    let refused = |reason: String| ConfigError::value(key, path.display(), reason);
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
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let refused = || authorities("webhook.ca_file", Some(&path)).unwrap_err().to_string();
        assert!(refused().contains("webhook.ca_file"), "{}", refused());
        std::fs::write(&path, "no certificate").unwrap();
        assert!(refused().contains("there is none in it"), "{}", refused());
    }
}
