//! The host or app of a `Referer`. No URL parser: one is only asked about hosts
//! that are not plain names.

use std::borrow::Cow;

use url::Host;

/// The longest name of a host (RFC 1035).
const MAX_HOST: usize = 253;

/// The sender of a `Referer`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Referrer<'a> {
    /// An Android app, by its package in lower case.
    App(Cow<'a, str>),
    /// A host on the web in lower case, without `www.`, port and final dot.
    Host(Cow<'a, str>),
}

/// Returns the sender of `referer`, or `None` where it names nobody: it is no
/// address, a page of the browser or of a file, or a host that only the visitor's own
/// machine or network knows.
pub(super) fn parse(referer: &str) -> Option<Referrer<'_>> {
    let (scheme, rest) = referer.trim().split_once("://")?;
    let authority = &rest[..rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len())];
    let is = |name: &str| scheme.eq_ignore_ascii_case(name);
    if is("android-app") {
        let package = lower(authority);
        let named = !package.is_empty() && package.bytes().all(|byte| is_plain(byte) || byte == b'_');
        return (named && package.len() <= MAX_HOST).then_some(Referrer::App(package));
    }
    if !is("https") && !is("http") {
        return None;
    }
    host(authority).map(Referrer::Host)
}

/// Returns the host of an address on the web, as a referrer's is written.
pub(super) fn host_of(url: &str) -> Option<Cow<'_, str>> {
    match parse(url)? {
        Referrer::Host(host) => Some(host),
        Referrer::App(_) => None,
    }
}

fn host(authority: &str) -> Option<Cow<'_, str>> {
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.is_empty() => name,
        _ => host,
    };
    let host = host.trim_end_matches('.');
    if host.is_empty() || host.len() > MAX_HOST {
        return None;
    }
    let top = host.rsplit('.').next().unwrap_or_default();
    // A host whose last label begins with a digit is an IPv4 address, or wrong.
    let plain = host.bytes().all(is_plain) && !top.starts_with(|first: char| first.is_ascii_digit());
    let host = if plain { lower(host) } else { unusual(host)? };
    let name = match host.strip_prefix("www.") {
        Some(rest) if rest.contains('.') => rest,
        _ => &host,
    };
    if name.starts_with('.') || name.contains("..") || is_local(name) {
        return None;
    }
    let skipped = host.len() - name.len();
    Some(match host {
        Cow::Borrowed(host) => Cow::Borrowed(&host[skipped..]),
        Cow::Owned(mut host) => {
            host.drain(..skipped);
            Cow::Owned(host)
        }
    })
}

/// Returns a host that is not a plain name: an internationalised name in its ASCII
/// form, or an address that is reachable from elsewhere.
fn unusual(host: &str) -> Option<Cow<'_, str>> {
    let text = match Host::parse(host).ok()? {
        Host::Domain(name) => name.trim_end_matches('.').to_owned(),
        Host::Ipv4(ip) if ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_unspecified() => {
            return None;
        }
        Host::Ipv4(ip) => ip.to_string(),
        Host::Ipv6(ip)
            if ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local() || ip.is_unspecified() =>
        {
            return None;
        }
        Host::Ipv6(ip) => ip.to_string(),
    };
    (!text.is_empty() && text.len() <= MAX_HOST).then_some(Cow::Owned(text))
}

/// Whether a name means something in one network alone: it has a single label, or its
/// last label is one that no public name has (RFC 6761, RFC 6762).
fn is_local(name: &str) -> bool {
    let top = name.rsplit('.').next().unwrap_or_default();
    let address = name.contains(':');
    !address && (top.len() == name.len() || matches!(top, "localhost" | "local" | "internal" | "lan" | "arpa"))
}

const fn is_plain(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_')
}

fn lower(text: &str) -> Cow<'_, str> {
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(text.to_ascii_lowercase())
    } else {
        Cow::Borrowed(text)
    }
}
