//! The tokens that are looked for in a user agent, and what each says.
//!
//! `|` at an end of a token asks for a character there that is neither letter nor
//! digit, or for the end of the text; tokens are compared without regard to case.

pub(super) mod browsers;
pub(super) mod devices;
pub(super) mod helpers;
pub(super) mod programs;
