//! Links by number: as different and as long as people's links are, made from
//! nothing but their number, so that a visitor knows each one's slug without
//! anything being kept.

use std::{ops::Range, time::Duration};

use bus::{Bus, Outgoing};
use schemas::{Link, LinkId, Timestamp, Topic, sample::plain_link};

use crate::produce;

/// How long Kafka may take for what is under way.
const PATIENCE: Duration = Duration::from_secs(60);
/// Characters that nobody mistakes for others, 32 of them.
const ALPHABET: &[u8; 32] = b"23456789abcdefghijkmnpqrstuvwxyz";
/// A slug's length: 35 bits, so more links than anybody has.
pub(crate) const SLUG_BYTES: usize = 7;

/// The slug of a link. Neighbours have nothing in common.
pub(crate) fn slug(number: u64) -> [u8; SLUG_BYTES] {
    // Odd factors map the numbers below 2^35 onto themselves, one to one.
    let mask = (1 << (5 * SLUG_BYTES)) - 1;
    let mut mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) & mask;
    mixed ^= mixed >> 17;
    mixed = mixed.wrapping_mul(0xd6e8_feb8_6659_fd93) & mask;
    std::array::from_fn(|at| ALPHABET[(mixed >> (5 * at)) as usize & 31])
}

/// A link.
pub(crate) fn link(number: u64) -> Link {
    let slug = String::from_utf8_lossy(&slug(number)).into_owned();
    let pick = |from: &[&'static str], salt: u64| from[(number.wrapping_mul(salt) >> 7) as usize % from.len()];
    let section = pick(&["winter-sale", "new-arrivals", "outlet", "stories", "gift-guide"], 31);
    let item = pick(&["alpine-shell", "trail-runner", "down-jacket", "day-pack", "merino-base"], 17);
    let channel = pick(&["instagram", "newsletter", "youtube", "partners"], 13);
    let at = Timestamp::from_millis(1_767_225_600_000 + (number % 30_000_000) as i64 * 1000);
    let id = LinkId::from_bits(u128::from(number) | 0x0190_0000_0000_7000_8000_0000_0000_0000);
    let destination = format!("https://www.acme-outdoor.example/{section}/{item}?variant={number}&ref={channel}");
    Link {
        short_url: format!("https://go.acme.example/{slug}"),
        campaign: Some(format!("{section}-2026")),
        segment: (number.is_multiple_of(2)).then(|| "returning".to_owned()),
        tags: vec![channel.to_owned(), "q1".to_owned()],
        created_at: at,
        updated_at: at,
        ..plain_link(id, &slug, &destination)
    }
}

/// Writes links to the topic of links. Blocks.
pub(crate) fn fill(bus: &Bus, numbers: Range<u64>) -> anyhow::Result<()> {
    let producer = bus.producer("bench-links", Duration::from_millis(20), PATIENCE)?;
    for number in numbers {
        let link = link(number);
        let (key, value) = (link.id.to_string(), serde_json::to_vec(&link)?);
        produce::send(&producer, &Outgoing::keyed(Topic::Links, key.as_bytes(), Some(&value)))?;
    }
    produce::until_taken(&producer, PATIENCE)
}

/// The bytes of the strings of a link that a redirector cannot do without, on
/// average: what it copies into every click's line. Where the link leads is part
/// of it.
pub(crate) fn mean_string_bytes() -> f64 {
    let sample = (0..1000).map(|number| number * 4999).map(link);
    let bytes = sample
        .map(|link| schemas::click::link_tail(link.workspace.as_str(), &link.facts()).map_or(0, |tail| tail.len()));
    bytes.sum::<usize>() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_link_has_a_slug_of_its_own() {
        let slugs: BTreeSet<_> = (0..200_000).map(slug).collect();
        assert_eq!(slugs.len(), 200_000);
    }
}
