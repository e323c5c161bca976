//! The `Date` header of a response (RFC 9110 §6.6.1), spelt out once a second.

use std::time::{Duration, UNIX_EPOCH};

use schemas::Timestamp;

/// The `Date` of the second that was spelt out last.
#[derive(Default)]
pub(crate) struct DateHeader {
    second: i64,
    text: [u8; 29],
}

impl DateHeader {
    /// Spells `at` out, such as `Tue, 24 Nov 2026 03:56:00 GMT`.
    pub(crate) fn at(&mut self, at: Timestamp) -> [u8; 29] {
        let second = at.as_millis().div_euclid(1000);
        if second != self.second {
            let time = UNIX_EPOCH + Duration::from_secs(second.unsigned_abs());
            let text = httpdate::fmt_http_date(time);
            if let Ok(text) = text.as_bytes().try_into() {
                self.second = second;
                self.text = text;
            }
        }
        self.text
    }
}
