//! Networks of a special kind: data centres, content networks, relays and crawlers,
//! as the Python package `iporigin` compiles them from the lists that these networks publish
//! (`ranges.bin`; the format is that of its `_data.py`, version 1).
//!
//! Lists whose licence is not in writing are left out: those of Cogent, Contabo and
//! others, and of Akamai, whose ranges cannot be told from such a list.

use std::net::IpAddr;

/// The bytes at the beginning of the file.
const MAGIC: &[u8; 8] = b"IPORIGIN";
const VERSION: u16 = 1;

/// Networks of the dataset's third tier (its NOTICE, section 3).
const WITHOUT_LICENCE: [&str; 12] = [
    "Akamai", "BunnyCDN", "BuyVM", "CDN77", "Cogent", "Contabo", "DataCamp", "GTHost", "GleSYS", "Melbicom", "Scalaxy",
    "Vercel",
];

/// The kind of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NetworkKind {
    /// Computers that are rented out.
    Hosting,
    /// Computers that serve other people's sites.
    Cdn,
    /// The exits of a relay or virtual private network, behind which are people.
    Vpn,
    /// The exits of Tor.
    Tor,
    /// The computers of a crawler.
    Bot,
}

impl NetworkKind {
    /// The name in events and rows.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Hosting => "hosting",
            Self::Cdn => "cdn",
            Self::Vpn => "vpn",
            Self::Tor => "tor",
            Self::Bot => "bot",
        }
    }

    fn of(name: &str) -> Option<Self> {
        [Self::Hosting, Self::Cdn, Self::Vpn, Self::Tor, Self::Bot].into_iter().find(|kind| kind.as_str() == name)
    }
}

/// A file of ranges that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RangesError {
    #[error("it is no file of iporigin")]
    Magic,
    #[error("its format is {0}, and 1 is read")]
    Version(u16),
    #[error("it is cut off or damaged")]
    Damaged,
}

/// A network of a special kind.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SpecialNetwork {
    /// The name of its owner.
    pub(crate) owner: String,
    pub(crate) kind: NetworkKind,
}

/// A range of addresses, both ends included, with its label's place.
type Range<T> = (T, T, u16);

/// The ranges in memory, sorted and without overlaps.
#[derive(Debug)]
pub(crate) struct NetworkRanges {
    built_at: u64,
    labels: Vec<Option<SpecialNetwork>>,
    v4: Vec<Range<u32>>,
    v6: Vec<Range<u128>>,
}

/// The bytes that are not read yet.
struct UnreadBytes<'a>(&'a [u8]);

impl<'a> UnreadBytes<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], RangesError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(RangesError::Damaged)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RangesError> {
        self.bytes(N)?.try_into().map_err(|_| RangesError::Damaged)
    }

    fn u16(&mut self) -> Result<u16, RangesError> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, RangesError> {
        self.array().map(u32::from_le_bytes)
    }
}

impl NetworkRanges {
    /// Reads the ranges from the bytes of their file, and checks them.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, RangesError> {
        let mut unread = UnreadBytes(bytes);
        if unread.bytes(MAGIC.len()).is_ok_and(|magic| magic != MAGIC) {
            return Err(RangesError::Magic);
        }
        let version = unread.u16()?;
        if version != VERSION {
            return Err(RangesError::Version(version));
        }
        let built_at = unread.array().map(u64::from_le_bytes)?;
        let (labels, v4, v6) = (unread.u16()?, unread.u32()?, unread.u32()?);
        let mut ranges = Self { built_at, labels: Vec::new(), v4: Vec::new(), v6: Vec::new() };
        for _ in 0..labels {
            let length = unread.u16()?;
            let label = str::from_utf8(unread.bytes(length.into())?).map_err(|_| RangesError::Damaged)?;
            ranges.labels.push(label_of(label));
        }
        for _ in 0..v4 {
            let range = (unread.u32()?, unread.u32()?, unread.u16()?);
            push(&mut ranges.v4, range, labels)?;
        }
        for _ in 0..v6 {
            let mut address = || unread.array().map(u128::from_be_bytes);
            let range = (address()?, address()?);
            push(&mut ranges.v6, (range.0, range.1, unread.u16()?), labels)?;
        }
        if unread.0.is_empty() { Ok(ranges) } else { Err(RangesError::Damaged) }
    }

    /// The time at which the ranges were compiled, in seconds of Unix time.
    pub(super) const fn built_at(&self) -> u64 {
        self.built_at
    }

    /// Returns the special network that an address is in.
    pub(crate) fn find(&self, ip: IpAddr) -> Option<&SpecialNetwork> {
        let label = match ip {
            IpAddr::V4(ip) => find(&self.v4, u32::from(ip)),
            IpAddr::V6(ip) => find(&self.v6, u128::from(ip)),
        };
        self.labels.get(usize::from(label?))?.as_ref()
    }
}

/// Reads a label: the owner's name, a tab, and the kind. What must not be used, or
/// cannot be told, is `None`.
fn label_of(label: &str) -> Option<SpecialNetwork> {
    let (owner, kind) = label.split_once('\t')?;
    let kind = NetworkKind::of(kind).filter(|_| !WITHOUT_LICENCE.contains(&owner))?;
    Some(SpecialNetwork { owner: owner.to_owned(), kind })
}

fn push<T: Copy + Ord>(ranges: &mut Vec<Range<T>>, range: Range<T>, labels: u16) -> Result<(), RangesError> {
    let (start, end, label) = range;
    let sorted = ranges.last().is_none_or(|(_, last, _)| *last < start);
    if start > end || !sorted || label >= labels {
        return Err(RangesError::Damaged);
    }
    ranges.push(range);
    Ok(())
}

fn find<T: Copy + Ord>(ranges: &[Range<T>], address: T) -> Option<u16> {
    let behind = ranges.partition_point(|(start, ..)| *start <= address);
    let (_, end, label) = ranges.get(behind.checked_sub(1)?)?;
    (address <= *end).then_some(*label)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::sample::ranges_file, *};

    #[test]
    fn an_address_is_found_between_both_ends() {
        let ranges = NetworkRanges::read(&ranges_file()).unwrap();
        let owner = |ip: &str| ranges.find(ip.parse().unwrap()).map(|network| network.owner.as_str());
        assert_eq!(ranges.built_at(), 1_791_200_061);
        for (ip, expected) in [
            ("192.0.1.255", None),
            ("192.0.2.0", Some("Hetzner")),
            ("192.0.2.127", Some("Hetzner")),
            ("192.0.2.128", None),
            ("198.51.100.1", None),
            ("203.0.113.7", Some("Googlebot")),
            ("203.0.113.8", None),
            ("0.0.0.0", None),
            ("255.255.255.255", None),
            ("2001:db8::1", Some("Googlebot")),
            ("2001:db8::1:0", None),
        ] {
            assert_eq!(owner(ip), expected, "{ip}");
        }
    }

    #[test]
    fn damaged_files_are_refused() {
        let file = ranges_file();
        for length in 0..file.len() {
            assert!(NetworkRanges::read(&file[..length]).is_err(), "{length}");
        }
        assert!(NetworkRanges::read(&[file.as_slice(), b"x"].concat()).is_err());
        let mut newer = file;
        newer[8] = 2;
        assert!(matches!(NetworkRanges::read(&newer), Err(RangesError::Version(2))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(at in 0_usize..140, byte: u8, ip: u32) {
            let mut bytes = ranges_file();
            let at = at % bytes.len();
            bytes[at] = byte;
            if let Ok(ranges) = NetworkRanges::read(&bytes) {
                ranges.find(IpAddr::from(ip.to_be_bytes()));
            }
        }
    }
}
