//! What a repeated call is answered with: a record on `idempotency`, under the
//! workspace and the caller's `Idempotency-Key`.

use serde::{Deserialize, Serialize};

use crate::{SealedSecret, Timestamp};

/// An answer that was given, for whoever asks the same again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptAnswer {
    /// Version of the format: 1.
    pub v: u8,
    /// SHA-256 of who asked what (the key's id, method, path, body), in hexadecimal.
    pub asked: String,
    /// When it was answered.
    pub at: Timestamp,
    /// The answer, sealed: it may show a secret, which is kept nowhere else.
    pub answer: SealedSecret,
}
