//! The keys and values of a query as people and programs write them, and as they are
//! meant.

use std::borrow::Cow;

use percent_encoding::{percent_decode, percent_decode_str};

/// The length to which a value is cut, in characters.
pub(super) const MAX_CHARS: usize = 512;
/// The longest key that is looked at, in bytes as it came.
const MAX_KEY: usize = 128;

/// Splits a query into its pairs. `;` separates none (WHATWG, URL standard).
pub(super) fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// Returns a key as it is meant: decoded, in lower case, without a `?` or `amp;` before
/// it and without `[]` behind it.
pub(super) fn key(raw: &str) -> Option<Cow<'_, str>> {
    if raw.is_empty() || raw.len() > MAX_KEY {
        return None;
    }
    // The query of an address that had one already: `a?utm_medium`.
    let raw = raw.rsplit('?').next().unwrap_or(raw);
    let plain = raw.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.'));
    if plain {
        return Some(Cow::Borrowed(raw));
    }
    let decoded = decode(raw).to_lowercase();
    let mut name = decoded.trim_matches(|letter: char| letter.is_whitespace() || letter.is_control() || letter == '?');
    while let Some(rest) = name.strip_prefix("amp;") {
        name = rest;
    }
    let name = name.strip_suffix("[]").or_else(|| name.strip_suffix("[0]")).unwrap_or(name);
    Some(Cow::Owned(name.to_owned()))
}

/// Decodes a key or value of a query (`application/x-www-form-urlencoded`). Bytes that
/// are no UTF-8 become U+FFFD.
pub(super) fn decode(raw: &str) -> Cow<'_, str> {
    if !raw.contains('+') {
        return percent_decode_str(raw).decode_utf8_lossy();
    }
    let spaced = raw.replace('+', " ");
    Cow::Owned(percent_decode_str(&spaced).decode_utf8_lossy().into_owned())
}

/// Decodes once more what was encoded twice: every `%` begins a byte, and the bytes
/// are UTF-8.
pub(super) fn decode_again(value: Cow<'_, str>) -> Cow<'_, str> {
    let bytes = value.as_bytes();
    let encoded = |at: usize| bytes.get(at + 1..at + 3).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit));
    let mut percents = memchr::memchr_iter(b'%', bytes).peekable();
    if percents.peek().is_none() || !percents.all(encoded) {
        return value;
    }
    match percent_decode(bytes).decode_utf8() {
        Ok(decoded) => Cow::Owned(decoded.into_owned()),
        Err(_) => value,
    }
}

/// Returns a value without control characters and outer spaces, cut at [`MAX_CHARS`];
/// `None` where nothing is left that can be read.
pub(super) fn tidy(value: Cow<'_, str>) -> Option<Cow<'_, str>> {
    let value = if value.chars().any(char::is_control) {
        Cow::Owned(value.chars().filter(|letter| !letter.is_control()).collect())
    } else {
        value
    };
    let kept = value.trim();
    if kept.chars().all(|letter| letter == char::REPLACEMENT_CHARACTER) {
        return None;
    }
    let end = kept.char_indices().nth(MAX_CHARS).map_or(kept.len(), |(end, _)| end);
    if end == value.len() {
        return Some(value);
    }
    let start = value.len() - value.trim_start().len();
    Some(match value {
        Cow::Borrowed(value) => Cow::Borrowed(&value[start..start + end]),
        Cow::Owned(value) => Cow::Owned(value[start..start + end].to_owned()),
    })
}

/// Splits a value that has further parameters in it, since an address with a query was
/// put together once too often: `a?utm_medium=b`, `a&utm_medium=b`.
pub(super) fn swallowed(value: &str) -> Option<(&str, &str)> {
    let mark = memchr::memmem::find(value.as_bytes(), b"utm_")?;
    let before = value[..mark].strip_suffix(['?', '&'])?;
    Some((before, &value[mark..]))
}
