//! The user agents of visitors.

use crate::connection::PHONE;

/// Returns the user agent of a visitor, drawn by a random number.
pub(crate) const fn agent(_random: u32) -> &'static str {
    PHONE
}
