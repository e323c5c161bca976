//! Secrets at rest: sealed with XChaCha20-Poly1305 under the installation's
//! key, each bound to the record that it belongs to, so that a sealed secret
//! moved to another record does not open. An installation may have several keys: the
//! first seals, and each opens what it has sealed, so that the key can be replaced while
//! everything runs.

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
    /// The key that seals.
    sealing: VaultKey,
    /// The keys that open secrets and seal none.
    further: Vec<VaultKey>,
}

/// A key of the installation.
struct VaultKey {
    cipher: XChaCha20Poly1305,
    /// The first 8 hexadecimal digits of the key's SHA-256.
    id: String,
}

/// The error of a secret that cannot be opened, or of a key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The text is no installation key, and no list of them.
    #[error(
        "an installation key is not 64 hexadecimal digits: set CLICKHOOK_INSTALLATION_KEY to the output of `openssl rand -hex 32`, \
         or to several with commas between, of which the first seals"
    )]
    Key,
    /// The secret was sealed under another key.
    #[error(
        "sealed under installation key {sealed}, but the keys given are {given}: add the key that sealed it to CLICKHOOK_INSTALLATION_KEY, \
         behind a comma"
    )]
    OtherKey {
        /// The id of the key that sealed it.
        sealed: String,
        /// The ids of the keys that were given.
        given: String,
    },
    /// The secret is damaged, or belongs to another record.
    #[error("a sealed secret does not open: it is damaged, or belongs to another record")]
    Damaged,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vault").field("keys", &self.key_ids()).finish_non_exhaustive()
    }
}

impl VaultKey {
    fn from_hex(text: &str) -> Result<Self, VaultError> {
        let key = Zeroizing::new(hex::decode(text).map_err(|_| VaultError::Key)?);
        let cipher = XChaCha20Poly1305::new_from_slice(&key).map_err(|_| VaultError::Key)?;
        let id = hex::encode(&Sha256::digest(&*key)[..4]);
        Ok(Self { cipher, id })
    }
}

impl Vault {
    /// Returns the vault of the installation's keys: each is 64 hexadecimal digits, and
    /// commas or whitespace are between them. The first one seals.
    ///
    /// # Errors
    /// When the text is anything else.
    pub fn from_hex(text: &str) -> Result<Self, VaultError> {
        let separated = |char: char| char == ',' || char.is_whitespace();
        let keys = text.split(separated).filter(|key| !key.is_empty()).map(VaultKey::from_hex);
        let mut keys = keys.collect::<Result<Vec<VaultKey>, VaultError>>()?.into_iter();
        let sealing = keys.next().ok_or(VaultError::Key)?;
        Ok(Self { sealing, further: keys.collect() })
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
            .sealing
            .cipher
            .encrypt(&nonce.into(), Payload { msg: secret, aad: context.as_bytes() })
            .expect("encryption fails only for messages of 256 GiB");
        SealedSecret {
            key: self.sealing.id.clone(),
            nonce: BASE64_STANDARD.encode(nonce),
            sealed: BASE64_STANDARD.encode(sealed),
        }
    }

    /// Opens what was sealed for the record named `context`.
    ///
    /// # Errors
    /// When it was sealed under another key or for another record, or is damaged.
    pub fn open(&self, context: &str, sealed: &SealedSecret) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let mut keys = std::iter::once(&self.sealing).chain(&self.further);
        let Some(key) = keys.find(|key| key.id == sealed.key) else {
            return Err(VaultError::OtherKey { sealed: sealed.key.clone(), given: self.key_ids() });
        };
        let decode = |text: &str| BASE64_STANDARD.decode(text).map_err(|_| VaultError::Damaged);
        let nonce: [u8; 24] = decode(&sealed.nonce)?.try_into().map_err(|_| VaultError::Damaged)?;
        let bytes = decode(&sealed.sealed)?;
        key.cipher
            .decrypt(&nonce.into(), Payload { msg: &bytes, aad: context.as_bytes() })
            .map(Zeroizing::new)
            .map_err(|_| VaultError::Damaged)
    }

    /// Tells whether a secret is sealed under the key that seals now.
    #[must_use]
    pub fn is_current(&self, sealed: &SealedSecret) -> bool {
        sealed.key == self.sealing.id
    }

    fn key_ids(&self) -> String {
        let ids = std::iter::once(&self.sealing).chain(&self.further).map(|key| key.id.as_str());
        ids.collect::<Vec<_>>().join(", ")
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

    #[test]
    fn the_first_of_several_keys_seals_and_each_opens() {
        let [old, new] = [(), ()].map(|()| Vault::generate().to_string());
        let sealed = Vault::from_hex(&old).unwrap().seal("ep_1", b"whsec_abc");
        for keys in [format!("{new},{old}"), format!("{new}\n {old}\n")] {
            let vault = Vault::from_hex(&keys).unwrap();
            assert_eq!(vault.open("ep_1", &sealed).unwrap().as_slice(), b"whsec_abc");
            assert!(!vault.is_current(&sealed));
            let again = vault.seal("ep_1", b"whsec_abc");
            assert!(vault.is_current(&again));
            assert!(Vault::from_hex(&new).unwrap().open("ep_1", &again).is_ok());
            let error = Vault::from_hex(&old).unwrap().open("ep_1", &again).unwrap_err().to_string();
            assert!(error.contains(&again.key), "{error}");
        }
        for wrong in ["", ",", "abc", &format!("{new},abc")] {
            assert!(matches!(Vault::from_hex(wrong), Err(VaultError::Key)), "{wrong}");
        }
    }
}
