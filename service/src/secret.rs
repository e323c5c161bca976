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

/// The error of a text that cannot be an endpoint's secret. It never shows the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be `{PREFIX}` and the base64, with its padding, of {} to {} random bytes, such as of `openssl rand -base64 32`",
    KEY_BYTES.start(),
    KEY_BYTES.end()
)]
pub struct WeakSecret;

/// The bytes of the key in a secret (Standard Webhooks 1.0.0, "Signature scheme").
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// Returns the secret that somebody brings along. Libraries of all languages must be able to
/// decode it, so that only the canonical base64 of a key of sufficient length is one.
///
/// # Errors
/// When the text is another one.
pub fn given(text: String) -> Result<Secret, WeakSecret> {
    let key = text.strip_prefix(PREFIX).and_then(|base64| BASE64_STANDARD.decode(base64).ok()).map(Zeroizing::new);
    let is_strong = key.is_some_and(|key| KEY_BYTES.contains(&key.len()));
    if is_strong { Ok(Secret::new(text)) } else { Err(WeakSecret) }
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

    #[test]
    fn a_secret_that_is_brought_along_is_long_enough_and_canonical() {
        let of = |bytes: usize| format!("{PREFIX}{}", BASE64_STANDARD.encode(vec![7; bytes]));
        for (text, ok) in [
            (of(23), false),
            (of(24), true),
            (of(32), true),
            (of(64), true),
            (of(65), false),
            (of(32).trim_end_matches('=').to_owned(), false),
            (of(32).replace(PREFIX, ""), false),
            (format!("{} ", of(32)), false),
            (of(33).replace('B', "-"), false),
        ] {
            assert_eq!(given(text.clone()).is_ok(), ok, "{text}");
        }
    }
}
