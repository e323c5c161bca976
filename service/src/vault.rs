//! Secrets at rest: sealed with XChaCha20-Poly1305 under the installation's
//! key, each bound to the record that it belongs to, so that a sealed secret
//! moved to another record does not open.

use base64::{Engine, prelude::BASE64_STANDARD};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305,
    aead::{Aead, Payload},
};
use schemas::SealedSecret;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// Seals and opens secrets.
pub struct Vault {
    cipher: XChaCha20Poly1305,
    key_id: String,
}

/// The error of a secret that cannot be opened, or of a key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The text is no installation key.
    #[error(
        "the installation key is not 64 hexadecimal digits: set CLICKHOOK_INSTALLATION_KEY to the output of `openssl rand -hex 32`"
    )]
    Key,
    /// The secret was sealed under another key.
    #[error(
        "sealed under installation key {sealed}, but the key given is {given}: set CLICKHOOK_INSTALLATION_KEY to the key that sealed it"
    )]
    OtherKey {
        /// The id of the key that sealed it.
        sealed: String,
        /// The id of the key that was given.
        given: String,
    },
    /// The secret is damaged, or belongs to another record.
    #[error("a sealed secret does not open: it is damaged, or belongs to another record")]
    Damaged,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vault").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

impl Vault {
    /// The vault of an installation key: 64 hexadecimal digits.
    ///
    /// # Errors
    /// When the text is anything else.
    pub fn from_hex(text: &str) -> Result<Self, VaultError> {
        let key = Zeroizing::new(hex::decode(text.trim()).map_err(|_| VaultError::Key)?);
        let cipher = XChaCha20Poly1305::new_from_slice(&key).map_err(|_| VaultError::Key)?;
        let key_id = hex::encode(&Sha256::digest(&*key)[..4]);
        Ok(Self { cipher, key_id })
    }

    /// A fresh installation key, as text.
    #[must_use]
    pub fn generate() -> Zeroizing<String> {
        let key = Zeroizing::new(rand::random::<[u8; 32]>());
        Zeroizing::new(hex::encode(*key))
    }

    /// Seals `secret` for the record named `context`.
    #[must_use]
    pub fn seal(&self, context: &str, secret: &[u8]) -> SealedSecret {
        let nonce = rand::random::<[u8; 24]>();
        let sealed = self
            .cipher
            .encrypt(&nonce.into(), Payload { msg: secret, aad: context.as_bytes() })
            .expect("encryption fails only for messages of 256 GiB");
        SealedSecret {
            key: self.key_id.clone(),
            nonce: BASE64_STANDARD.encode(nonce),
            sealed: BASE64_STANDARD.encode(sealed),
        }
    }

    /// Opens what was sealed for the record named `context`.
    ///
    /// # Errors
    /// When it was sealed under another key or for another record, or is damaged.
    pub fn open(&self, context: &str, sealed: &SealedSecret) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        if sealed.key != self.key_id {
            return Err(VaultError::OtherKey { sealed: sealed.key.clone(), given: self.key_id.clone() });
        }
        let decode = |text: &str| BASE64_STANDARD.decode(text).map_err(|_| VaultError::Damaged);
        let nonce: [u8; 24] = decode(&sealed.nonce)?.try_into().map_err(|_| VaultError::Damaged)?;
        let bytes = decode(&sealed.sealed)?;
        self.cipher
            .decrypt(&nonce.into(), Payload { msg: &bytes, aad: context.as_bytes() })
            .map(Zeroizing::new)
            .map_err(|_| VaultError::Damaged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_opens_only_for_its_record_and_key() {
        let vault = Vault::from_hex(&Vault::generate()).unwrap();
        let sealed = vault.seal("ep_1", b"whsec_abc");
        assert_eq!(vault.open("ep_1", &sealed).unwrap().as_slice(), b"whsec_abc");
        assert!(matches!(vault.open("ep_2", &sealed), Err(VaultError::Damaged)));
        let other = Vault::from_hex(&Vault::generate()).unwrap();
        assert!(matches!(other.open("ep_1", &sealed), Err(VaultError::OtherKey { .. })));
        assert!(matches!(Vault::from_hex("abc"), Err(VaultError::Key)));
    }
}
