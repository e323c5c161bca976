//! Signatures of a body (docs/CONTRACTS.md §4): one as Standard Webhooks 1.0.0 defines it,
//! over id, timestamp and body under the decoded secret, and one over the body
//! alone under the secret's text, for simple receivers.

use base64::{Engine, alphabet, engine, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use service::secret::{PREFIX, Secret};
use sha2::Sha256;

/// The header with the event's id, which stays the same over retries.
pub const ID: &str = "webhook-id";
/// The header with the Unix seconds of the attempt.
pub const TIMESTAMP: &str = "webhook-timestamp";
/// The header with the Standard Webhooks signatures.
pub const SIGNATURE: &str = "webhook-signature";
/// The header with the simple signature.
pub const SIMPLE_SIGNATURE: &str = "x-webhook-signature";
/// The header with the event's name.
pub const EVENT: &str = "x-webhook-event";
/// The header with the number of the attempt, from 1.
pub const ATTEMPT: &str = "x-webhook-attempt";

/// The prefix of a Standard Webhooks signature: the version of its scheme.
pub(super) const VERSION: &str = "v1,";

/// The error for a text that is not a signing secret.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a signing secret: expected `whsec_` and base64, as `clickhook endpoints create` shows it once")]
pub struct SecretError;

/// A signer under one secret. Both keys are prepared once, not for each body.
#[derive(Clone)]
pub struct Signer {
    standard: Hmac<Sha256>,
    simple: Hmac<Sha256>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer")
    }
}

/// Base64 with or without padding: secrets from elsewhere may lack it.
const LENIENT: engine::GeneralPurpose = engine::GeneralPurpose::new(
    &alphabet::STANDARD,
    engine::GeneralPurposeConfig::new().with_decode_padding_mode(engine::DecodePaddingMode::Indifferent),
);

impl Signer {
    /// Makes a signer under `secret`.
    ///
    /// # Errors
    /// When the secret is not `whsec_` and base64.
    pub fn new(secret: &Secret) -> Result<Self, SecretError> {
        let text = secret.expose();
        let key = text.strip_prefix(PREFIX).and_then(|base64| LENIENT.decode(base64).ok()).ok_or(SecretError)?;
        if key.is_empty() {
            return Err(SecretError);
        }
        let hmac = |key: &[u8]| Hmac::new_from_slice(key).map_err(|_| SecretError);
        Ok(Self { standard: hmac(&key)?, simple: hmac(text.as_bytes())? })
    }

    /// Returns the value of `webhook-signature` for a body sent at `timestamp` (Unix
    /// seconds).
    #[must_use]
    pub fn standard(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let mac = self.standard_bytes(id, &timestamp.to_string(), body);
        let mut text = String::with_capacity(VERSION.len() + 44);
        text.push_str(VERSION);
        BASE64_STANDARD.encode_string(mac, &mut text);
        text
    }

    /// Returns the value of `X-Webhook-Signature`.
    #[must_use]
    pub fn simple(&self, body: &[u8]) -> String {
        hex::encode(self.simple_bytes(body))
    }

    pub(super) fn standard_bytes(&self, id: &str, timestamp: &str, body: &[u8]) -> [u8; 32] {
        let mut mac = self.standard.clone();
        for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }

    pub(super) fn simple_bytes(&self, body: &[u8]) -> [u8; 32] {
        let mut mac = self.simple.clone();
        mac.update(body);
        mac.finalize().into_bytes().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer(secret: &str) -> Result<Signer, SecretError> {
        Signer::new(&Secret::new(secret.to_owned()))
    }

    /// The example that the libraries of standardwebhooks.com are tested with.
    #[test]
    fn the_published_vector() {
        let signer = signer("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = signer.standard("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    /// From `openssl dgst -sha256 -hmac whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw`.
    #[test]
    fn the_simple_signature_is_under_the_text_of_the_secret() {
        let signer = signer("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let simple = signer.simple(br#"{"test": 2432232314}"#);
        assert_eq!(simple, "80ec8a89ce3cd22133a1066caecb4d04fea7467657c8514d717ec42c38a5c94c");
    }

    #[test]
    fn what_is_no_secret_is_refused() {
        for wrong in ["", "whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_not base64", "whsec_MfKQ9r8G!"] {
            assert_eq!(signer(wrong).unwrap_err(), SecretError, "{wrong}");
        }
        assert!(signer("whsec_MfKQ9r8GKQ").is_ok(), "padding may be left out");
        assert!(signer(service::secret::mint().expose()).is_ok());
    }
}
