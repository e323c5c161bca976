//! A small `ranges.bin`, for tests.

use std::net::{Ipv4Addr, Ipv6Addr};

/// A file with three labels, of which Cogent must not be used.
pub(super) fn ranges_file() -> Vec<u8> {
    let mut bytes = b"IPORIGIN".to_vec();
    bytes.extend(1_u16.to_le_bytes());
    bytes.extend(1_791_200_061_u64.to_le_bytes());
    bytes.extend(3_u16.to_le_bytes());
    bytes.extend(3_u32.to_le_bytes());
    bytes.extend(1_u32.to_le_bytes());
    for label in ["Hetzner\thosting", "Cogent\thosting", "Googlebot\tbot"] {
        bytes.extend(u16::try_from(label.len()).unwrap().to_le_bytes());
        bytes.extend(label.as_bytes());
    }
    let v4 = |text: &str| u32::from(text.parse::<Ipv4Addr>().unwrap());
    for (start, end, label) in
        [("192.0.2.0", "192.0.2.127", 0_u16), ("198.51.100.0", "198.51.100.255", 1), ("203.0.113.7", "203.0.113.7", 2)]
    {
        bytes.extend(v4(start).to_le_bytes());
        bytes.extend(v4(end).to_le_bytes());
        bytes.extend(label.to_le_bytes());
    }
    for end in ["2001:db8::", "2001:db8::ffff"] {
        bytes.extend(end.parse::<Ipv6Addr>().unwrap().octets());
    }
    bytes.extend(2_u16.to_le_bytes());
    bytes
}
