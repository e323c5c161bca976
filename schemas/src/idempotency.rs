//! The kept answer of a call that may be repeated: a record on `idempotency`, under
//! the workspace and the caller's `Idempotency-Key`.

use serde::{Deserialize, Serialize};

use crate::{SealedSecret, Timestamp};

/// An answer that was given, for a repetition of the same request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptAnswer {
    /// Version of the format: 1.
    pub v: u8,
    /// The SHA-256 of the request (the key's id, method, path, body), in hexadecimal.
    pub asked: String,
    /// The time of the answer.
    pub at: Timestamp,
    /// The answer, sealed, since it may show a secret that is kept nowhere else.
    pub answer: SealedSecret,
}
