//! Slugs: which slugs are allowed, their canonical spelling, their form in an address, and the generated ones. People
//! read slugs on posters and type them, so no character of a slug may be invisible, or have a meaning in an address.

use std::borrow::Cow;

use icu_properties::{
    CodePointSetData,
    props::{
        CanonicalCombiningClass, DefaultIgnorableCodePoint, Emoji, EnumeratedProperty, GeneralCategory as Category,
        JoiningType,
    },
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use schemas::workspace::SlugCase;
use unicode_normalization::UnicodeNormalization;

/// The most characters of a slug.
pub(crate) const MAX_CHARS: usize = 64;

/// The paths that are, or may become, something other than a link.
const RESERVED: [&str; 14] = [
    ".",
    "..",
    ".well-known",
    "apple-app-site-association",
    "favicon.ico",
    "healthz",
    "humans.txt",
    "index.html",
    "metrics",
    "openapi.json",
    "q",
    "readyz",
    "robots.txt",
    "v1",
];

/// The characters with a meaning in an address; browsers treat `\` as a slash.
const DELIMITERS: [char; 5] = ['/', '?', '#', '%', '\\'];

/// The characters of generated slugs, none of which people confuse.
const ALPHABET: &[u8] = b"23456789abcdefghjkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ";
/// The number of characters at its beginning that have one case.
const LOWER: usize = 31;
/// The attempts at each length: after so many taken slugs, the next length is tried.
const ATTEMPTS: usize = 32;

/// The characters that a path has as they are (RFC 3986, `pchar`); the others are percent-encoded.
const PERCENT_ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=')
    .remove(b':')
    .remove(b'@');

/// Returns the reason why a slug is not allowed, as the words after the name of the field.
pub(crate) fn fault(slug: &str) -> Option<String> {
    // The canonical form can be longer than the slug; the longest form of any domain counts.
    let chars = slug.nfc().flat_map(char::to_lowercase).nfc().count().max(slug.nfc().count());
    if !(1..=MAX_CHARS).contains(&chars) {
        return Some(format!("has {chars} characters, must have 1 to {MAX_CHARS}"));
    }
    if let Some(wrong) = slug.chars().find(|c| DELIMITERS.contains(c)) {
        return Some(format!("has `{wrong}`, which means something else in an address: leave it out"));
    }
    let chars: Vec<char> = slug.nfc().collect();
    let is_seen = |at: usize| is_visible(chars[at]) || joins(&chars[..at], chars[at], &chars[at + 1..]);
    if let Some(wrong) = (0..chars.len()).find(|at| !is_seen(*at)).map(|at| chars[at]) {
        let code = u32::from(wrong);
        return Some(format!(
            "has U+{code:04X}, which nobody can see or type: leave out spaces and control characters"
        ));
    }
    // The mark would combine with the slash before it.
    if slug.nfc().next().is_some_and(|first| is_mark(Category::for_char(first))) {
        return Some("begins with a combining mark: put it behind a letter".to_owned());
    }
    let word = canonical(slug, SlugCase::Insensitive);
    RESERVED.contains(&word.as_str()).then(|| format!("`{slug}` is reserved: choose another"))
}

/// Tells whether people see a character, and whether it keeps its place in the text.
fn is_visible(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_graphic();
    }
    let seen = !matches!(
        Category::for_char(c),
        Category::Control
            | Category::Format
            | Category::Surrogate
            | Category::PrivateUse
            | Category::Unassigned
            | Category::SpaceSeparator
            | Category::LineSeparator
            | Category::ParagraphSeparator
    );
    // Ignorable are among others the fillers of Hangul and variation selectors; the empty Braille pattern is a symbol,
    // but blank.
    seen && !CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c) && c != '\u{2800}'
}

/// Tells whether an invisible character shapes the characters around it, as keyboards type it: the variation selector of
/// an emoji, and the joiners of emoji and of scripts whose letters join (RFC 5892, appendices A.1 and A.2). The canonical
/// spelling is without it, so the slug is found with and without it.
fn joins(before: &[char], c: char, after: &[char]) -> bool {
    let Some(last) = before.last().copied() else { return false };
    let is_emoji = |c: char| CodePointSetData::new::<Emoji>().contains(c);
    let follows_virama = CanonicalCombiningClass::for_char(last) == CanonicalCombiningClass::Virama;
    let joining = |c: char| JoiningType::for_char(c);
    match c {
        '\u{fe0e}' | '\u{fe0f}' => is_emoji(last),
        '\u{200d}' => {
            let joins_emoji = after.first().is_some_and(|next| !next.is_ascii() && is_emoji(*next));
            let is_sign = last == '\u{fe0f}' || (!last.is_ascii() && is_emoji(last));
            follows_virama || (joins_emoji && is_sign)
        }
        '\u{200c}' => {
            let is_letter = |c: &&char| joining(**c) != JoiningType::Transparent;
            let joins_left = before
                .iter()
                .rev()
                .find(is_letter)
                .is_some_and(|c| matches!(joining(*c), JoiningType::LeftJoining | JoiningType::DualJoining));
            let joins_right = after
                .iter()
                .find(is_letter)
                .is_some_and(|c| matches!(joining(*c), JoiningType::RightJoining | JoiningType::DualJoining));
            follows_virama || (joins_left && joins_right)
        }
        _ => false,
    }
}

fn is_mark(category: Category) -> bool {
    matches!(category, Category::NonspacingMark | Category::SpacingMark | Category::EnclosingMark)
}

/// Returns the canonical spelling of a slug on a domain with this case.
pub(crate) fn canonical(slug: &str, case: SlugCase) -> String {
    case.canonical(Cow::Borrowed(slug)).into_owned()
}

/// Returns the slug as it is in an address: ASCII, with a path's characters alone.
pub(crate) fn in_address(slug: &str) -> Cow<'_, str> {
    utf8_percent_encode(slug, PERCENT_ENCODED).into()
}

/// Returns a free slug of `chars` characters, or of more if too many of that length are taken.
pub(crate) fn generate(case: SlugCase, chars: usize, is_free: impl Fn(&str) -> bool) -> String {
    let alphabet = match case {
        SlugCase::Sensitive => ALPHABET,
        SlugCase::Insensitive => &ALPHABET[..LOWER],
    };
    let mut chars = chars;
    loop {
        for _ in 0..ATTEMPTS {
            let slug: String =
                (0..chars).map(|_| char::from(alphabet[rand::random_range(0..alphabet.len())])).collect();
            if is_free(&slug) {
                return slug;
            }
        }
        chars += 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_people_can_read_and_type_is_a_slug() {
        for slug in [
            "sale",
            "Winter-Sale_2026.v2~",
            "q2",
            "über",
            "u\u{308}ber",
            "夏セール",
            "распродажа",
            "a'b(c)",
            "🎁",
            "a@b:c",
            "ß",
            "❤️",
            "1️⃣",
            "👨‍👩‍👧",
            "❤️‍🔥",
            "می‌خواهم",
            "ශ්‍රී",
        ] {
            assert_eq!(fault(slug), None, "{slug:?}");
        }
    }

    #[test]
    fn what_hides_or_means_something_is_not() {
        for (slug, words) in [
            ("", "0 characters"),
            ("a/b", "`/`"),
            ("a\\b", "`\\`"),
            ("a?b", "`?`"),
            ("a#b", "`#`"),
            ("%61", "`%`"),
            ("a b", "U+0020"),
            ("a\u{0}", "U+0000"),
            ("a\r\n", "U+000D"),
            ("a\u{7f}", "U+007F"),
            ("a\u{85}", "U+0085"),
            ("a\u{a0}b", "U+00A0"),
            ("a\u{ad}b", "U+00AD"),
            ("a\u{200b}b", "U+200B"),
            ("a\u{200d}b", "U+200D"),
            ("a\u{202e}b", "U+202E"),
            ("a\u{2066}b", "U+2066"),
            ("a\u{2028}b", "U+2028"),
            ("a\u{2800}b", "U+2800"),
            ("a\u{3164}b", "U+3164"),
            ("a\u{fe0f}b", "U+FE0F"),
            ("\u{fe0f}", "U+FE0F"),
            ("1\u{200d}2", "U+200D"),
            ("\u{2764}\u{200d}", "U+200D"),
            ("\u{2764}\u{200d}a", "U+200D"),
            ("a\u{200c}b", "U+200C"),
            ("v1\u{fe0f}", "reserved"),
            ("a\u{e0041}b", "U+E0041"),
            ("a\u{e000}b", "U+E000"),
            ("a\u{378}b", "U+0378"),
            ("\u{feff}a", "U+FEFF"),
            ("\u{301}a", "combining"),
            ("Robots.TXT", "reserved"),
            ("Q", "reserved"),
            ("..", "reserved"),
        ] {
            let found = fault(slug).unwrap_or_default();
            assert!(found.contains(words), "{slug:?}: {found:?}");
        }
        assert!(fault(&"ü".repeat(64)).is_none() && fault(&"ü".repeat(65)).is_some());
        // Each becomes two characters in lower case.
        assert!(fault(&"\u{130}".repeat(33)).is_some());
    }

    #[test]
    fn an_address_is_ascii() {
        assert_eq!(in_address("sale-2_x.~"), "sale-2_x.~");
        assert_eq!(in_address("über"), "%C3%BCber");
        assert_eq!(in_address("a\"<b>^`{|}[]"), "a%22%3Cb%3E%5E%60%7B%7C%7D%5B%5D");
    }

    #[test]
    fn a_crowd_makes_made_up_slugs_longer() {
        let taken = |slug: &str| slug.len() > 5;
        let slug = generate(SlugCase::Insensitive, 4, taken);
        assert_eq!(slug.len(), 6);
        assert_eq!(slug, slug.to_lowercase());
        assert_eq!(generate(SlugCase::Sensitive, 7, |_| true).len(), 7);
    }

    proptest! {
        #[test]
        fn whatever_is_allowed_stays_allowed_as_it_is_kept(slug in "\\PC{0,70}") {
            if fault(&slug).is_none() {
                for case in [SlugCase::Sensitive, SlugCase::Insensitive] {
                    let kept = canonical(&slug, case);
                    prop_assert_eq!(fault(&kept), None);
                    prop_assert_eq!(&canonical(&kept, case), &kept);
                    let address = in_address(&kept).into_owned();
                    let address = format!("https://go.example/{address}");
                    let url = url::Url::parse(&address).unwrap();
                    prop_assert_eq!(url.as_str(), &address);
                    let path = percent_encoding::percent_decode_str(&url.path()[1..]).decode_utf8().unwrap();
                    prop_assert_eq!(path, kept);
                }
            }
        }
    }
}
