//! Events and attempts as rows. An absent fact is an empty text:
//! `Nullable` columns cost ClickHouse a second file each, and no fact here is
//! ever present and empty.

use schemas::{
    Attempt, AttemptedEvent, Attribution, ClickId, Event, EventId, EventName, LinkId, Timestamp, Utm,
    audit::AuditAction, conversion::Amount,
};

use crate::{RowWriter, click_record::ClickRecord};

/// The record that a row came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source<'a> {
    /// The topic's full name.
    pub topic: &'a str,
    /// The partition.
    pub partition: u16,
    /// The offset.
    pub offset: u64,
}

impl Source<'_> {
    fn write(&self, row: &mut RowWriter<'_>) {
        row.text(self.topic).u16(self.partition).u64(self.offset);
    }
}

/// The reason why an event or attempt cannot be a row.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRow {
    /// The record is not the JSON that it should be.
    #[error("the record cannot be read: {0}")]
    Unreadable(String),
    /// The record is of a version that this program does not know.
    #[error("the record's format is version {0}, only 1 is known")]
    Version(u8),
    /// The event is no click and no scan, or lacks the facts of one.
    #[error("not a click or scan with its link")]
    NoClick,
    /// The event is no conversion, or lacks the facts of one.
    #[error("not a conversion")]
    NoConversion,
    /// The event is no part of the audit log, or lacks its facts.
    #[error("not a change of the audit log")]
    NoAudit,
    /// Its time is outside the range of `DateTime64`.
    #[error("its timestamp is not between 1970 and 2299")]
    Time,
}

/// The last moment that a `DateTime64` holds to the millisecond in every version: 2299-12-31.
const LAST_MILLIS: i64 = 10_413_791_999_999;

fn millis(at: Timestamp) -> Result<i64, NoRow> {
    let millis = at.as_millis();
    if (0..=LAST_MILLIS).contains(&millis) { Ok(millis) } else { Err(NoRow::Time) }
}

/// Appends the row of a record of `clicks`, an [`Envelope`](schemas::Envelope), and returns
/// its time, or none where the record is a test, which no table counts.
///
/// # Errors
/// When the record cannot be read, or is no click; nothing is appended then.
pub fn click(record: &[u8], source: Source<'_>, block: &mut Vec<u8>) -> Result<Option<Timestamp>, NoRow> {
    let record: ClickRecord<'_> =
        serde_json::from_slice(record).map_err(|error| NoRow::Unreadable(error.to_string()))?;
    if record.v != 1 {
        return Err(NoRow::Version(record.v));
    }
    if record.endpoint.is_some() {
        return Ok(None);
    }
    let event = &record.event;
    let kind = match event.event {
        EventName::LinkClicked => 1,
        EventName::QrScanned => 2,
        _ => return Err(NoRow::NoClick),
    };
    let (Some(click), Some(link)) = (&event.click, &event.link) else { return Err(NoRow::NoClick) };
    let at = millis(click.timestamp)?;
    let mut row = RowWriter::new(block);
    row.id(ClickId::TEXT_BYTES, |out| click.id.write_to(out)).id(EventId::TEXT_BYTES, |out| event.id.write_to(out));
    row.u8(kind).i64(at).text(&record.workspace);
    row.id(LinkId::TEXT_BYTES, |out| link.id.write_to(out));
    row.text(&link.short_url).text(&link.destination).text(&link.slug).text(&link.campaign).text(&link.segment);
    row.texts(link.tags.iter().map(|tag| &**tag));
    row.text(&click.ip_address).text(&record.ip_key).text(&click.user_agent).text(&click.referer);
    row.text(&click.country).text(&click.region).text(&click.city).u32(click.asn.unwrap_or(0));
    row.text(&click.organisation).text(&click.network).text(&click.device).text(&click.browser);
    row.text(&click.browser_version).text(&click.os).text(&click.os_version).text(&click.app);
    row.text(&click.source).text(&click.medium).u8(u8::from(click.bot)).text(&click.bot_reason);
    row.text(&click.session_id);
    let (utm, ad) = (&event.utm, &event.attribution);
    row.text(&utm.source).text(&utm.medium).text(&utm.campaign).text(&utm.term).text(&utm.content);
    row.text(&ad.referrer_ad_creative).text(&ad.ad_set).text(&ad.ad_campaign).text(&ad.gclid).text(&ad.fbclid);
    row.map(ad.click_ids.0.iter().map(|(name, id)| (&**name, &**id)));
    source.write(&mut row);
    Ok(Some(click.timestamp))
}

/// Writes the columns that a conversion has of the campaign's parameters and of the ad.
fn campaign_columns(row: &mut RowWriter<'_>, utm: &Utm<'_>, ad: &Attribution<'_>) {
    let columns = [&utm.source, &utm.medium, &utm.campaign, &utm.term, &utm.content];
    for value in columns.into_iter().chain([&ad.referrer_ad_creative, &ad.ad_set, &ad.ad_campaign]) {
        row.text(or_empty(value));
    }
}

/// Appends a row of `conversions`.
///
/// # Errors
/// When the event is no conversion, or its time cannot be held; nothing is appended then.
pub fn conversion(workspace: &str, event: &Event<'_>, source: Source<'_>, block: &mut Vec<u8>) -> Result<(), NoRow> {
    let Some(conversion) = event.conversion.as_ref().filter(|_| event.event == EventName::LinkConverted) else {
        return Err(NoRow::NoConversion);
    };
    let at = millis(event.timestamp)?;
    let (link, click) = (event.link.as_ref(), event.click.as_ref());
    let mut row = RowWriter::new(block);
    row.text(&event.id.to_string()).text(&conversion.id.to_string()).i64(at).text(workspace);
    row.text(&link.map(|link| link.id.to_string()).unwrap_or_default())
        .text(link.map_or("", |link| &link.short_url))
        .text(link.map_or("", |link| &link.destination))
        .text(link.map_or("", |link| or_empty(&link.campaign)))
        .text(link.map_or("", |link| or_empty(&link.segment)))
        .texts(link.map_or(&[][..], |link| &link.tags).iter().map(AsRef::as_ref));
    row.text(&click.map(|click| click.id.to_string()).unwrap_or_default());
    for fact in [
        click.map(|click| &click.session_id),
        click.map(|click| &click.country),
        click.map(|click| &click.device),
        click.map(|click| &click.source),
        click.map(|click| &click.medium),
    ] {
        row.text(fact.map_or("", or_empty));
    }
    row.text(&conversion.name);
    for fact in [&conversion.order_id, &conversion.status, &conversion.product] {
        row.text(or_empty(fact));
    }
    money(&mut row, conversion.amount.as_ref());
    money(&mut row, conversion.commission.as_ref());
    row.text(or_empty(&conversion.affiliate_id)).text(or_empty(&conversion.customer_id));
    row.u8(u8::from(conversion.attributed)).u64(conversion.seconds_since_click.unwrap_or(0));
    let metadata: Vec<(&str, &str)> = conversion.metadata.iter().collect();
    row.map(metadata.into_iter());
    campaign_columns(&mut row, &event.utm.clone().unwrap_or_default(), &event.attribution.clone().unwrap_or_default());
    source.write(&mut row);
    Ok(())
}

/// Writes an amount and its currency; an amount that is absent has an empty one.
fn money(row: &mut RowWriter<'_>, amount: Option<&Amount>) {
    row.i64(amount.map_or(0, |amount| amount.value)).text(amount.map_or("", |amount| &amount.currency));
}

/// Appends a row of `link_events`; `body` is the event's exact text.
///
/// # Errors
/// When its time cannot be held; nothing is appended then.
pub fn link_event(
    workspace: &str,
    event: &Event<'_>,
    body: &str,
    source: Source<'_>,
    block: &mut Vec<u8>,
) -> Result<(), NoRow> {
    let at = millis(event.timestamp)?;
    let link = event.link.as_ref().map(|link| link.id.to_string()).unwrap_or_default();
    let mut row = RowWriter::new(block);
    row.text(&event.id.to_string()).text(event.event.as_str()).i64(at).text(workspace).text(&link).text(body);
    source.write(&mut row);
    Ok(())
}

/// Appends a row of `audit`.
///
/// # Errors
/// When the event is no part of the audit log, or its time cannot be held; nothing is appended then.
pub fn audit(workspace: &str, event: &Event<'_>, source: Source<'_>, block: &mut Vec<u8>) -> Result<(), NoRow> {
    let (Some(action), Some(change)) = (AuditAction::of(event.event), &event.audit) else {
        return Err(NoRow::NoAudit);
    };
    let at = millis(event.timestamp)?;
    let actor = &change.actor;
    let mut row = RowWriter::new(block);
    row.text(&event.id.to_string())
        .i64(at)
        .text(workspace)
        .text(actor.kind.as_str())
        .text(&actor.id.map(|id| id.to_string()).unwrap_or_default())
        .text(or_empty(&actor.name))
        .text(action.as_str())
        .text(change.resource.as_str())
        .texts(change.ids.iter().map(AsRef::as_ref))
        .texts(change.fields.iter().map(AsRef::as_ref))
        .text(or_empty(&change.request_id));
    source.write(&mut row);
    Ok(())
}

/// Appends the row of `deliveries` of one of an attempt's events.
///
/// # Errors
/// When its time cannot be held; nothing is appended then.
pub fn delivery(
    attempt: &Attempt,
    event: &AttemptedEvent,
    source: Source<'_>,
    block: &mut Vec<u8>,
) -> Result<(), NoRow> {
    let at = millis(attempt.at)?;
    let (outcome, error) = attempt.end_of(event);
    let webhook_id = attempt.batch.map_or_else(|| event.id.to_string(), |batch| batch.to_string());
    let mut row = RowWriter::new(block);
    row.text(&attempt.row_id(event).to_string())
        .i64(at)
        .text(attempt.workspace.as_str())
        .text(&attempt.endpoint.to_string())
        .text(&event.id.to_string())
        .text(event.event.as_str())
        .text(&webhook_id)
        .u32(attempt.attempt)
        .u32(attempt.duration_ms)
        .text(outcome.as_str())
        .u16(attempt.status.unwrap_or(0))
        .text(error.unwrap_or_default())
        .text(attempt.response.as_deref().unwrap_or_default());
    source.write(&mut row);
    Ok(())
}

fn or_empty<T: AsRef<str>>(value: &Option<T>) -> &str {
    value.as_ref().map_or("", AsRef::as_ref)
}

#[cfg(test)]
mod tests {
    use schemas::{Envelope, sample};

    use super::*;

    const SOURCE: Source<'_> = Source { topic: "t.clicks", partition: 3, offset: 9 };

    fn record(event: Event<'static>) -> Vec<u8> {
        let ip_key = Some("k".into());
        serde_json::to_vec(&Envelope { v: 1, workspace: "default".into(), ip_key, endpoint: None, event }).unwrap()
    }

    fn event(name: EventName, at: i64) -> Event<'static> {
        sample::event(name, Timestamp::from_millis(at))
    }

    #[test]
    fn what_is_no_row_leaves_the_block_as_it_was() {
        let mut block = b"before".to_vec();
        let created = record(event(EventName::LinkCreated, 1));
        assert_eq!(click(&created, SOURCE, &mut block), Err(NoRow::NoClick));
        let mut clickless = event(EventName::LinkClicked, 1);
        clickless.click = None;
        assert_eq!(click(&record(clickless), SOURCE, &mut block), Err(NoRow::NoClick));
        for at in [-1, LAST_MILLIS + 1] {
            assert_eq!(click(&record(event(EventName::LinkClicked, at)), SOURCE, &mut block), Err(NoRow::Time));
        }
        for (name, at, why) in
            [(EventName::LinkCreated, 1, NoRow::NoConversion), (EventName::LinkConverted, -1, NoRow::Time)]
        {
            assert_eq!(conversion("default", &event(name, at), SOURCE, &mut block), Err(why));
        }
        for (name, at, why) in [(EventName::LinkCreated, 1, NoRow::NoAudit), (EventName::AuditCreated, -1, NoRow::Time)]
        {
            assert_eq!(audit("default", &event(name, at), SOURCE, &mut block), Err(why));
        }
        assert_eq!(block, b"before");
        let last = Timestamp::from_millis(LAST_MILLIS);
        assert_eq!(click(&record(event(EventName::QrScanned, LAST_MILLIS)), SOURCE, &mut block), Ok(Some(last)));
        assert!(block.len() > 500);
    }

    #[test]
    fn a_row_has_every_fact_of_its_click() {
        let mut told = event(EventName::LinkClicked, 1_770_301_425_120);
        let facts = told.click.as_mut().unwrap();
        // Escapes in the record are none in the row.
        facts.user_agent = Some("\"\u{1f692}\u{1}\\".into());
        (facts.network, facts.bot_reason) = (Some("vpn".into()), Some("word:curl".into()));
        let utm = told.utm.as_mut().unwrap();
        utm.term = Some("shoes".into());
        let ad = told.attribution.as_mut().unwrap();
        (ad.ad_set, ad.ad_campaign, ad.gclid) = (Some("set".into()), Some("camp".into()), Some("g".into()));
        let mut block = Vec::new();
        click(&record(told.clone()), SOURCE, &mut block).unwrap();

        let mut expected = Vec::new();
        let mut row = RowWriter::new(&mut expected);
        let (link, facts) = (told.link.unwrap(), told.click.unwrap());
        row.text(&facts.id.to_string()).text(&told.id.to_string()).u8(1).i64(1_770_301_425_120).text("default");
        row.text(&link.id.to_string()).text(&link.short_url).text(&link.destination).text(&link.slug);
        row.text(&link.campaign.unwrap()).text(&link.segment.unwrap());
        row.texts(["social", "instagram"].into_iter());
        row.text("203.0.113.0").text("k").text("\"\u{1f692}\u{1}\\").text("https://instagram.com");
        row.text("US").text("California").text("San Francisco").u32(64_496).text("Example Net").text("vpn");
        row.text("mobile").text("Safari").text("17.0").text("iOS").text("17.0").text("instagram");
        row.text("instagram").text("social").u8(0).text("word:curl").text("ses_0123456789abcdef");
        row.text("instagram").text("social").text("winter-sale").text("shoes").text("story-swipe-up");
        row.text("story-7").text("set").text("camp").text("g").text("IwAR0sample");
        row.map([("igsh", "MzRlODBiNWFlZA==")].into_iter()).text("t.clicks").u16(3).u64(9);
        assert_eq!(block, expected);
    }
}
