//! Events and attempts as rows. An absent fact is an empty text:
//! `Nullable` columns cost ClickHouse a second file each, and no fact here is
//! ever present and empty.

use schemas::{
    Attempt, Attribution, ClickFacts, Envelope, Event, EventName, LinkFacts, Outcome, Timestamp, Utm,
    conversion::Amount,
};

use crate::RowWriter;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRow {
    /// The event is no click and no scan, or lacks the facts of one.
    #[error("not a click or scan with its link")]
    NoClick,
    /// The event is no conversion, or lacks the facts of one.
    #[error("not a conversion")]
    NoConversion,
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

/// Appends a row of `clicks`.
///
/// # Errors
/// When the event is no click; nothing is appended then.
pub fn click(envelope: &Envelope<'_, Event<'_>>, source: Source<'_>, block: &mut Vec<u8>) -> Result<(), NoRow> {
    let event = &envelope.event;
    let kind = match event.event {
        EventName::LinkClicked => 1,
        EventName::QrScanned => 2,
        _ => return Err(NoRow::NoClick),
    };
    let (Some(click), Some(link)) = (&event.click, &event.link) else { return Err(NoRow::NoClick) };
    let at = millis(click.timestamp)?;
    let mut row = RowWriter::new(block);
    row.text(&click.id.to_string()).text(&event.id.to_string()).u8(kind).i64(at).text(&envelope.workspace);
    link_columns(&mut row, link);
    row.text(or_empty(&click.ip_address)).text(or_empty(&envelope.ip_key));
    click_columns(&mut row, click);
    let (utm, ad) = (event.utm.clone().unwrap_or_default(), event.attribution.clone().unwrap_or_default());
    campaign_columns(&mut row, &utm, &ad);
    row.text(or_empty(&ad.gclid)).text(or_empty(&ad.fbclid));
    row.map(ad.click_ids.iter().map(|(name, id)| (name.as_ref(), id.as_ref())));
    source.write(&mut row);
    Ok(())
}

fn link_columns(row: &mut RowWriter<'_>, link: &LinkFacts<'_>) {
    row.text(&link.id.to_string())
        .text(&link.short_url)
        .text(&link.destination)
        .text(&link.slug)
        .text(or_empty(&link.campaign))
        .text(or_empty(&link.segment))
        .texts(link.tags.iter().map(AsRef::as_ref));
}

/// Writes the columns that clicks and conversions have of the campaign's parameters and
/// of the ad.
fn campaign_columns(row: &mut RowWriter<'_>, utm: &Utm<'_>, ad: &Attribution<'_>) {
    let columns = [&utm.source, &utm.medium, &utm.campaign, &utm.term, &utm.content];
    for value in columns.into_iter().chain([&ad.referrer_ad_creative, &ad.ad_set, &ad.ad_campaign]) {
        row.text(or_empty(value));
    }
}

fn click_columns(row: &mut RowWriter<'_>, click: &ClickFacts<'_>) {
    for value in [&click.user_agent, &click.referer, &click.country, &click.region, &click.city] {
        row.text(or_empty(value));
    }
    row.u32(click.asn.unwrap_or(0));
    for value in [
        &click.organisation,
        &click.network,
        &click.device,
        &click.browser,
        &click.browser_version,
        &click.os,
        &click.os_version,
        &click.app,
        &click.source,
        &click.medium,
    ] {
        row.text(or_empty(value));
    }
    row.u8(u8::from(click.bot)).text(or_empty(&click.bot_reason)).text(or_empty(&click.session_id));
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

/// Appends a row of `deliveries`.
///
/// # Errors
/// When its time cannot be held; nothing is appended then.
pub fn delivery(attempt: &Attempt, source: Source<'_>, block: &mut Vec<u8>) -> Result<(), NoRow> {
    let at = millis(attempt.at)?;
    let mut row = RowWriter::new(block);
    row.text(&attempt.id.to_string())
        .i64(at)
        .text(attempt.workspace.as_str())
        .text(&attempt.endpoint.to_string())
        .text(&attempt.event_id.to_string())
        .text(attempt.event.as_str())
        .u32(attempt.attempt)
        .u32(attempt.duration_ms)
        .text(match attempt.outcome {
            Outcome::Delivered => "delivered",
            Outcome::Retrying => "retrying",
            Outcome::Dead => "dead",
            Outcome::Skipped => "skipped",
        })
        .u16(attempt.status.unwrap_or(0))
        .text(attempt.error.as_deref().unwrap_or_default())
        .text(attempt.response.as_deref().unwrap_or_default());
    source.write(&mut row);
    Ok(())
}

fn or_empty<T: AsRef<str>>(value: &Option<T>) -> &str {
    value.as_ref().map_or("", AsRef::as_ref)
}

#[cfg(test)]
mod tests {
    use schemas::sample;

    use super::*;

    const SOURCE: Source<'_> = Source { topic: "t.clicks", partition: 3, offset: 9 };

    fn envelope(name: EventName, at: i64) -> Envelope<'static, Event<'static>> {
        let event = sample::event(name, Timestamp::from_millis(at));
        Envelope { v: 1, workspace: "default".into(), ip_key: None, endpoint: None, event }
    }

    #[test]
    fn what_is_no_row_leaves_the_block_as_it_was() {
        let mut block = b"before".to_vec();
        assert_eq!(click(&envelope(EventName::LinkCreated, 1), SOURCE, &mut block), Err(NoRow::NoClick));
        let mut clickless = envelope(EventName::LinkClicked, 1);
        clickless.event.click = None;
        assert_eq!(click(&clickless, SOURCE, &mut block), Err(NoRow::NoClick));
        for at in [-1, LAST_MILLIS + 1] {
            assert_eq!(click(&envelope(EventName::LinkClicked, at), SOURCE, &mut block), Err(NoRow::Time));
        }
        for (name, at, why) in
            [(EventName::LinkCreated, 1, NoRow::NoConversion), (EventName::LinkConverted, -1, NoRow::Time)]
        {
            assert_eq!(conversion("default", &envelope(name, at).event, SOURCE, &mut block), Err(why));
        }
        assert_eq!(block, b"before");
        assert_eq!(click(&envelope(EventName::QrScanned, LAST_MILLIS), SOURCE, &mut block), Ok(()));
        assert!(block.len() > 500);
    }
}
