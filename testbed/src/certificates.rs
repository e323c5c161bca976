//! An authority of one's own and what it vouches for, for a Kafka that asks who its clients are.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// The settings of a client, as variables.
pub type ClientSettings = Vec<(&'static str, String)>;

/// The PEM files of an authority, and of the brokers and the client that it vouches for.
#[derive(Debug)]
pub struct Certificates {
    /// The authority's certificate.
    pub authority: PathBuf,
    /// The brokers' key and certificate, for 127.0.0.1.
    pub brokers: PathBuf,
    /// The certificate of a client called `clickhook`.
    pub client: PathBuf,
    /// The client's key.
    pub client_key: PathBuf,
}

impl Certificates {
    /// Makes them in `dir`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn make(dir: &Path) -> io::Result<Self> {
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let mut authority = params(Vec::new(), "a private authority")?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = authority.self_signed(&key).map_err(io::Error::other)?.pem();
        let issuer = Issuer::new(authority, key);
        let made = Self {
            authority: dir.join("authority.pem"),
            brokers: dir.join("brokers.pem"),
            client: dir.join("client.pem"),
            client_key: dir.join("client.key"),
        };
        fs::write(&made.authority, certificate)?;
        let (key, certificate) = signed("broker", &issuer)?;
        fs::write(&made.brokers, key + &certificate)?;
        let (key, certificate) = signed("clickhook", &issuer)?;
        fs::write(&made.client_key, key)?;
        fs::write(&made.client, certificate)?;
        Ok(made)
    }

    /// Returns the settings of a client that trusts the authority.
    #[must_use]
    pub fn trusted(&self, protocol: &str) -> ClientSettings {
        vec![
            ("CLICKHOOK_KAFKA_PROPERTIES_SECURITY_PROTOCOL", protocol.to_owned()),
            ("CLICKHOOK_KAFKA_PROPERTIES_SSL_CA_LOCATION", self.authority.display().to_string()),
        ]
    }

    /// Returns the settings of a client with a certificate.
    #[must_use]
    pub fn by_certificate(&self) -> ClientSettings {
        let mut settings = self.trusted("ssl");
        settings.extend([
            ("CLICKHOOK_KAFKA_PROPERTIES_SSL_CERTIFICATE_LOCATION", self.client.display().to_string()),
            ("CLICKHOOK_KAFKA_PROPERTIES_SSL_KEY_LOCATION", self.client_key.display().to_string()),
        ]);
        settings
    }

    /// Returns the settings of a client that logs in.
    #[must_use]
    pub fn by_login(&self, mechanism: &str, user: &str, password: &str) -> ClientSettings {
        let mut settings = self.trusted("sasl_ssl");
        settings.extend([
            ("CLICKHOOK_KAFKA_PROPERTIES_SASL_MECHANISM", mechanism.to_owned()),
            ("CLICKHOOK_KAFKA_PROPERTIES_SASL_USERNAME", user.to_owned()),
            ("CLICKHOOK_KAFKA_PROPERTIES_SASL_PASSWORD", password.to_owned()),
        ]);
        settings
    }
}

fn params(names: Vec<String>, common_name: &str) -> io::Result<CertificateParams> {
    let mut params = CertificateParams::new(names).map_err(io::Error::other)?;
    params.distinguished_name.push(DnType::CommonName, common_name);
    Ok(params)
}

/// Returns a key and its certificate, as PEM.
fn signed(name: &str, issuer: &Issuer<'_, KeyPair>) -> io::Result<(String, String)> {
    let key = KeyPair::generate().map_err(io::Error::other)?;
    let certificate = params(vec!["127.0.0.1".to_owned()], name)?.signed_by(&key, issuer).map_err(io::Error::other)?;
    Ok((key.serialize_pem(), certificate.pem()))
}
