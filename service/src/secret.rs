//! The signing secret of an endpoint: `whsec_` and base64 (Standard Webhooks
//! 1.0.0, "Signature scheme"). It is wiped when dropped and never printed.

use std::fmt;

use base64::{Engine, prelude::BASE64_STANDARD};
use zeroize::Zeroizing;

/// The prefix of every secret.
pub const PREFIX: &str = "whsec_";

/// A signing secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// The secret that is this text.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text, for signing and for the one answer that shows it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("whsec_…")
    }
}

/// Mints a secret from 32 random bytes.
#[must_use]
pub fn mint() -> Secret {
    let bytes = Zeroizing::new(rand::random::<[u8; 32]>());
    Secret::new(format!("{PREFIX}{}", BASE64_STANDARD.encode(*bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_printed() {
        let secret = mint();
        assert!(secret.expose().starts_with(PREFIX));
        assert_eq!(format!("{secret:?}"), "whsec_…");
        assert_ne!(secret, mint());
    }
}
