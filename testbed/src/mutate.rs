//! Inputs that are nearly right, as from a fuzzer without coverage: the same ones each
//! time, for a test that takes a second. `make fuzz` searches further.

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};

/// The pieces of usual inputs, and pieces that often cause errors.
const WORDS: [&[u8]; 40] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b"%",
    b"%00",
    b"%0d%0a",
    b"%2f",
    b"%5c",
    b"\\",
    b"//",
    b"/..",
    b"@",
    b"#",
    b"?",
    b"&",
    b"=",
    b"+",
    b":",
    b"\"",
    b"{",
    b"}",
    b",",
    b"[",
    b"\xff",
    b"\xc0\xaf",
    b"\xed\xa0\x80",
    b"\xf0\x9f\x98\x80",
    b"e\xcc\x81",
    b"\\ud800",
    b"\\u0000",
    b"qr=1",
    b"ch_click_id",
    b"https://",
    b"javascript:",
    b"xn--",
    b"null",
    b"1e999",
];

/// `count` inputs, each a seed with up to eight things changed.
pub fn mutated(seeds: &[Vec<u8>], random: u64, count: usize) -> impl Iterator<Item = Vec<u8>> {
    let mut rng = StdRng::seed_from_u64(random);
    std::iter::repeat_with(move || {
        let mut bytes = seeds.choose(&mut rng).cloned().unwrap_or_default();
        for _ in 0..rng.random_range(1..=8) {
            change(&mut bytes, seeds, &mut rng);
        }
        bytes
    })
    .take(count)
}

fn change(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], rng: &mut StdRng) {
    let at = rng.random_range(0..=bytes.len());
    let end = (at + rng.random_range(0..32)).min(bytes.len());
    match rng.random_range(0..6) {
        0 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
        1 if at < bytes.len() => bytes[at] = rng.random(),
        2 => drop(bytes.drain(at..end)),
        3 => {
            let again = bytes[at..end].repeat(rng.random_range(1..4));
            drop(bytes.splice(at..at, again));
        }
        4 => {
            let other = seeds.choose(rng).map_or(&[][..], Vec::as_slice);
            let from = rng.random_range(0..=other.len());
            let to = (from + rng.random_range(0..64)).min(other.len());
            drop(bytes.splice(at..end, other[from..to].iter().copied()));
        }
        _ => {
            let word = WORDS.choose(rng).copied().unwrap_or_default();
            drop(bytes.splice(at..at, word.iter().copied()));
        }
    }
}
