//! Versions: how they are read, which of them say nothing, and which builds of Chrome
//! can exist.

use std::borrow::Cow;

/// The longest version, in bytes.
const VERSION_BYTES: usize = 24;

/// The build with which versions of Chrome branched: the fourth number of a version
/// counts patches, the third is the branch's. (Chromium Dash, "Branches".)
const CHROME_BRANCHES: &[(u32, u32)] =
    &[(40, 2214), (50, 2661), (60, 3112), (70, 3538), (80, 3987), (90, 4430), (100, 4896), (110, 5481)];
/// How far a build may be from its version's branch: betas and other channels.
const BRANCH_SPREAD: u32 = 250;

/// Reads the version with which `text` begins, without the zeros with which browsers
/// hide what is behind the major version.
pub(super) fn leading(text: &str) -> Option<&str> {
    let text = text.strip_prefix(['/', ' ']).unwrap_or(text);
    let digits = text.bytes().take(VERSION_BYTES).take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
    told(&text[..digits])
}

/// Returns the part of a version that tells something: `138` of `138.0.0.0`.
pub(super) fn told(version: &str) -> Option<&str> {
    let version = version.trim_end_matches('.');
    let version = version.strip_suffix(".0.0.0").unwrap_or(version);
    let fits = version.len() <= VERSION_BYTES && version.starts_with(|c: char| c.is_ascii_digit());
    fits.then_some(version)
}

/// Reads a version whose numbers Apple separates by `_`.
pub(super) fn leading_underscored(text: &str) -> Option<Cow<'_, str>> {
    let of_version = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'.' | b'_');
    let end = text.bytes().take(VERSION_BYTES).take_while(of_version).count();
    let version = text[..end].trim_end_matches(['.', '_']);
    let version: Cow<'_, str> = if version.contains('_') { version.replace('_', ".").into() } else { version.into() };
    version.starts_with(|c: char| c.is_ascii_digit()).then_some(version)
}

/// Returns the first number of a version.
pub(super) fn major(version: &str) -> Option<u32> {
    version.split('.').next()?.parse().ok()
}

/// Whether the version with which `text` begins has a build that no Chrome of that
/// version had. Emulators make versions up.
pub(super) fn chrome_build_is_impossible(text: &str) -> bool {
    let end = text.bytes().take(VERSION_BYTES).take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
    let mut numbers = text[..end].split('.').map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(_)), Some(Ok(build)), Some(Ok(_))) =
        (numbers.next(), numbers.next(), numbers.next(), numbers.next())
    else {
        return false;
    };
    // 0 is what browsers say that hide it, 9999 what some vendors set.
    if matches!(build, 0 | 9999) {
        return false;
    }
    let pair = CHROME_BRANCHES.windows(2).find(|pair| (pair[0].0..pair[1].0).contains(&major));
    let Some(&[(from, first), (to, last)]) = pair else { return false };
    let expected = first + (last - first) * (major - from) / (to - from);
    build.abs_diff(expected) > BRANCH_SPREAD
}
