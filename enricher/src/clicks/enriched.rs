//! The event of a click, and its JSON. The bytes are those that serde makes of the event's
//! types, as a test compares: written by hand, they take half the time, and the link is
//! copied.

use std::{borrow::Cow, io::Write};

use schemas::{Attribution, ClickFacts, EventId, EventName, Timestamp, Utm};

use super::links::KnownLink;

/// A click with all its facts.
pub(crate) struct EnrichedClick<'a> {
    pub(super) workspace: &'a str,
    /// The address hashed under the day's key.
    pub(super) ip_key: Option<String>,
    pub(super) id: EventId,
    pub(super) event: EventName,
    pub(super) at: Timestamp,
    pub(super) link: &'a KnownLink,
    pub(super) click: ClickFacts<'a>,
    pub(super) utm: Option<Utm<'a>>,
    pub(super) attribution: Option<Attribution<'a>>,
}

impl EnrichedClick<'_> {
    /// Appends the event in its envelope ([`Envelope`](schemas::Envelope)).
    pub(super) fn write_json(&self, out: &mut Vec<u8>) {
        let Self { workspace, ip_key, id, event, at, link, click, utm, attribution } = self;
        out.extend_from_slice(b"{\"v\":1,\"workspace\":");
        write_text(out, workspace);
        write_field(out, b",\"ip_key\":", ip_key.as_deref());
        out.extend_from_slice(b",\"event\":{\"id\":\"");
        id.write_to(out);
        out.extend_from_slice(b"\",\"event\":\"");
        out.extend_from_slice(event.as_str().as_bytes());
        out.extend_from_slice(b"\",\"timestamp\":\"");
        write_display(out, at);
        out.extend_from_slice(b"\",\"link\":");
        out.extend_from_slice(link.json.as_bytes());
        out.extend_from_slice(b",\"click\":");
        write_click(out, click);
        if let Some(utm) = utm {
            out.extend_from_slice(b",\"utm\":");
            write_utm(out, utm);
        }
        if let Some(attribution) = attribution {
            out.extend_from_slice(b",\"attribution\":");
            write_attribution(out, attribution);
        }
        out.extend_from_slice(b"}}");
    }
}

fn write_click(out: &mut Vec<u8>, click: &ClickFacts<'_>) {
    let ClickFacts {
        id,
        timestamp,
        ip_address,
        user_agent,
        referer,
        country,
        region,
        city,
        asn,
        organisation,
        network,
        device,
        browser,
        browser_version,
        os,
        os_version,
        app,
        source,
        medium,
        bot,
        bot_reason,
        session_id,
    } = click;
    out.extend_from_slice(b"{\"id\":\"");
    id.write_to(out);
    out.extend_from_slice(b"\",\"timestamp\":\"");
    write_display(out, timestamp);
    out.push(b'"');
    let mut field = |key: &[u8], value: &Option<Cow<'_, str>>| write_field(out, key, value.as_deref());
    field(b",\"ip_address\":", ip_address);
    field(b",\"user_agent\":", user_agent);
    field(b",\"referer\":", referer);
    field(b",\"country\":", country);
    field(b",\"region\":", region);
    field(b",\"city\":", city);
    if let Some(asn) = asn {
        out.extend_from_slice(b",\"asn\":");
        write_display(out, asn);
    }
    let mut field = |key: &[u8], value: &Option<Cow<'_, str>>| write_field(out, key, value.as_deref());
    field(b",\"organisation\":", organisation);
    field(b",\"network\":", network);
    field(b",\"device\":", device);
    field(b",\"browser\":", browser);
    field(b",\"browser_version\":", browser_version);
    field(b",\"os\":", os);
    field(b",\"os_version\":", os_version);
    field(b",\"app\":", app);
    field(b",\"source\":", source);
    field(b",\"medium\":", medium);
    out.extend_from_slice(if *bot { b",\"bot\":true" } else { b",\"bot\":false" });
    write_field(out, b",\"bot_reason\":", bot_reason.as_deref());
    write_field(out, b",\"session_id\":", session_id.as_deref());
    out.push(b'}');
}

fn write_utm(out: &mut Vec<u8>, utm: &Utm<'_>) {
    let Utm { source, medium, campaign, term, content } = utm;
    let start = out.len();
    let mut field = |key: &[u8], value: &Option<Cow<'_, str>>| write_field(out, key, value.as_deref());
    field(b",\"source\":", source);
    field(b",\"medium\":", medium);
    field(b",\"campaign\":", campaign);
    field(b",\"term\":", term);
    field(b",\"content\":", content);
    close(out, start);
}

fn write_attribution(out: &mut Vec<u8>, attribution: &Attribution<'_>) {
    let Attribution { referrer_ad_creative, ad_set, ad_campaign, gclid, fbclid, click_ids } = attribution;
    let start = out.len();
    let mut field = |key: &[u8], value: &Option<Cow<'_, str>>| write_field(out, key, value.as_deref());
    field(b",\"referrer_ad_creative\":", referrer_ad_creative);
    field(b",\"ad_set\":", ad_set);
    field(b",\"ad_campaign\":", ad_campaign);
    field(b",\"gclid\":", gclid);
    field(b",\"fbclid\":", fbclid);
    if !click_ids.is_empty() {
        out.extend_from_slice(b",\"click_ids\":");
        let start = out.len();
        for (name, value) in click_ids {
            out.push(b',');
            write_text(out, name);
            out.push(b':');
            write_text(out, value);
        }
        close(out, start);
    }
    close(out, start);
}

/// Makes an object of the fields from `start` on, each of which begins with a comma.
fn close(out: &mut Vec<u8>, start: usize) {
    match out.get_mut(start) {
        Some(comma) => *comma = b'{',
        None => out.push(b'{'),
    }
    out.push(b'}');
}

/// Writes a field, if it has a value. `key` begins with a comma and ends with a colon.
fn write_field(out: &mut Vec<u8>, key: &[u8], value: Option<&str>) {
    if let Some(value) = value {
        out.extend_from_slice(key);
        write_text(out, value);
    }
}

/// Writes a text as JSON. Most have nothing to escape, which is seen many bytes at a time.
fn write_text(out: &mut Vec<u8>, text: &str) {
    let escaped = |byte: u8| byte < 0x20 || byte == b'"' || byte == b'\\';
    if text.bytes().fold(false, |any, byte| any | escaped(byte)) {
        // A Vec takes every write.
        let _ = serde_json::to_writer(out, text);
        return;
    }
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

fn write_display(out: &mut Vec<u8>, value: &impl std::fmt::Display) {
    // A Vec takes every write.
    let _ = write!(out, "{value}");
}

#[cfg(test)]
impl EnrichedClick<'_> {
    /// Returns the event by its types.
    pub(crate) fn envelope(&self) -> schemas::Envelope<'_, schemas::Event<'_>> {
        let Self { workspace, ip_key, id, event, at, link, click, utm, attribution } = self;
        schemas::Envelope {
            v: 1,
            workspace: (*workspace).into(),
            ip_key: ip_key.as_deref().map(Into::into),
            endpoint: None,
            event: schemas::Event {
                link: Some(serde_json::from_str(&link.json).unwrap()),
                click: Some(click.clone()),
                utm: utm.clone(),
                attribution: attribution.clone(),
                ..schemas::Event::bare(*id, *event, *at)
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_without_fields_is_empty() {
        let mut out = Vec::new();
        write_utm(&mut out, &Utm::default());
        write_attribution(&mut out, &Attribution::default());
        assert_eq!(out, b"{}{}");
    }

    #[test]
    fn what_json_escapes_is_escaped() {
        for text in ["", "plain", "\"", "\\", "\u{7f}\u{1f}", "l\u{e4}ngs\n\t\u{0}", "\u{1f600}\u{2028}"] {
            let mut out = Vec::new();
            write_text(&mut out, text);
            assert_eq!(out, serde_json::to_vec(text).unwrap());
        }
    }
}
