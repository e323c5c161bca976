//! The reduction of addresses by `ip_mode`, and keyed hashes that distinguish
//! visits and addresses of one day without identifying a person.

use std::net::IpAddr;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::config::IpMode;

/// The bytes of a day's key.
pub(crate) type DayKeyBytes = [u8; 32];

/// The random key of a UTC day, as the state of a MAC that has taken it: half of the
/// work of a hash is done once a day.
#[derive(Clone)]
pub(crate) struct DayKey(Hmac<Sha256>);

impl DayKey {
    pub(crate) fn new(key: &DayKeyBytes) -> Self {
        Self(Hmac::new_from_slice(key).expect("HMAC takes keys of any length"))
    }
}

/// Returns 64 bits of HMAC-SHA256 as hexadecimal digits.
fn keyed_hash(key: &DayKey, parts: &[&[u8]]) -> String {
    let mut mac = key.0.clone();
    for part in parts {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    hex::encode(&mac.finalize().into_bytes()[..8])
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// Returns the session of a visit: equal for the same address and user agent on the
/// same day. Of an IPv6 address the first 64 bits count: a device changes the others
/// whenever it likes (RFC 8981).
pub(crate) fn session_id(key: &DayKey, ip: IpAddr, user_agent: Option<&str>) -> String {
    let octets = octets(ip);
    let network = &octets[..octets.len().min(8)];
    let hash = keyed_hash(key, &[b"session", network, user_agent.unwrap_or_default().as_bytes()]);
    format!("ses_{hash}")
}

/// Returns a hash of the address that is equal on the same day. It is stored and
/// never delivered.
pub(crate) fn ip_key(key: &DayKey, ip: IpAddr) -> String {
    keyed_hash(key, &[b"ip", &octets(ip)])
}

/// Returns the part of an address that may be delivered and stored. `hashed`
/// without the day's key returns `None`.
pub(crate) fn reduce(ip: IpAddr, mode: IpMode, key: Option<&DayKey>) -> Option<String> {
    match mode {
        IpMode::Full => Some(ip.to_canonical().to_string()),
        IpMode::Truncated => Some(truncate(ip).to_string()),
        IpMode::Hashed => key.map(|key| keyed_hash(key, &[b"delivered", &octets(ip)])),
    }
}

fn truncate(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            IpAddr::from([a, b, c, 0])
        }
        IpAddr::V6(ip) => {
            let [a, b, c, ..] = ip.segments();
            IpAddr::from([a, b, c, 0, 0, 0, 0, 0])
        }
    }
}

/// Returns a text with every address in it truncated, so that `dead` may keep it.
pub(crate) fn scrub(text: &str) -> String {
    let mut scrubbed = String::with_capacity(text.len());
    let mut token = String::new();
    let flush = |token: &mut String, scrubbed: &mut String| {
        match token.parse::<IpAddr>() {
            Ok(ip) => scrubbed.push_str(&truncate(ip).to_string()),
            Err(_) => scrubbed.push_str(token),
        }
        token.clear();
    };
    for letter in text.chars() {
        if letter.is_ascii_hexdigit() || matches!(letter, '.' | ':') {
            token.push(letter);
        } else {
            flush(&mut token, &mut scrubbed);
            scrubbed.push(letter);
        }
    }
    flush(&mut token, &mut scrubbed);
    scrubbed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> DayKey {
        DayKey::new(&[7; 32])
    }

    #[test]
    fn an_address_is_reduced_by_the_mode() {
        let v4 = "203.0.113.42".parse().unwrap();
        let v6 = "2001:db8:1:2:3:4:5:6".parse().unwrap();
        let mapped = "::ffff:203.0.113.42".parse().unwrap();
        assert_eq!(reduce(v4, IpMode::Truncated, None).unwrap(), "203.0.113.0");
        assert_eq!(reduce(v6, IpMode::Truncated, None).unwrap(), "2001:db8:1::");
        assert_eq!(reduce(mapped, IpMode::Truncated, None).unwrap(), "203.0.113.0");
        assert_eq!(reduce(v4, IpMode::Full, None).unwrap(), "203.0.113.42");
        assert_eq!(reduce(v4, IpMode::Hashed, None), None);
        let hashed = reduce(v4, IpMode::Hashed, Some(&key())).unwrap();
        assert!(!hashed.contains("203") && hashed != ip_key(&key(), v4));
        assert_eq!(hashed, reduce(mapped, IpMode::Hashed, Some(&key())).unwrap());
    }

    #[test]
    fn sessions_differ_by_address_agent_and_day() {
        let (a, b) = ("203.0.113.42".parse().unwrap(), "203.0.113.43".parse().unwrap());
        let session = session_id(&key(), a, Some("x"));
        assert_eq!(session, session_id(&key(), a, Some("x")));
        assert_ne!(session, session_id(&key(), b, Some("x")));
        assert_ne!(session, session_id(&key(), a, Some("y")));
        assert_ne!(session, session_id(&DayKey::new(&[8; 32]), a, Some("x")));
        let v6 = |text: &str| session_id(&key(), text.parse().unwrap(), Some("x"));
        assert_eq!(v6("2001:db8:1:2:3:4:5:6"), v6("2001:db8:1:2::1"));
        assert_ne!(v6("2001:db8:1:2::1"), v6("2001:db8:1:3::1"));
        assert_eq!(v6("::ffff:203.0.113.42"), session);
    }

    #[test]
    fn no_full_address_survives_in_a_dead_letter() {
        let text = r#"{"ip":"203.0.113.42","x":"2001:db8:1:2:3:4:5:6","at":"14:23:45","v":"1.2.3"} 198.51.100.7"#;
        let expected = r#"{"ip":"203.0.113.0","x":"2001:db8:1::","at":"14:23:45","v":"1.2.3"} 198.51.100.0"#;
        assert_eq!(scrub(text), expected);
    }
}
