//! The format `flat`: the facts of an event that simple programs and spreadsheets use, with
//! nothing nested below `data`. An absent fact is left out.

use bytes::Bytes;
use schemas::{ConversionId, EndpointId, EndpointStatus, Event, EventId, EventName, KeyId, LinkId, Packing, Timestamp};
use serde::Serialize;

use super::event_facts::{changed, json, place, read};
use crate::webhook::delivery::Message;

/// The most bytes that an event is longer than in its own format: `data` around a message.
pub(super) const ADDED_BYTES: usize = 32;

/// An event as `flat` has it.
#[derive(Serialize)]
struct FlatEvent<'a> {
    /// The event's id, in a batch alone: of a single event, `webhook-id` has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<EventId>,
    event: EventName,
    timestamp: Timestamp,
    data: FlatFacts<'a>,
}

#[derive(Serialize)]
struct FlatFacts<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    link_id: Option<LinkId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    short_url: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination_url: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    segment: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    campaign: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    click_location: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    conversion_id: Option<ConversionId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    conversion: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    order_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'a str>,
    /// The number that a milestone is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    metric: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    threshold: Option<u64>,
    /// The clicks of an alert or of a completed campaign.
    #[serde(skip_serializing_if = "Option::is_none")]
    clicks: Option<u64>,
    /// The cause of a burst.
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'static str>,
    /// The value of a conversion in the currency's minor unit, or the number that has reached a milestone.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    currency: Option<&'a str>,
    /// The names of the fields that an update changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    changed: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint_id: Option<EndpointId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint_status: Option<EndpointStatus>,
    /// The change of the audit log: `key`, `operator` or `system`, the key's id, the kind of the things, and
    /// their ids.
    #[serde(skip_serializing_if = "Option::is_none")]
    actor: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    actor_id: Option<KeyId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_ids: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
}

/// Returns an event in the format.
pub(super) fn event(message: &Message, packing: Packing) -> Result<Bytes, String> {
    let event = read(message)?;
    json(&FlatEvent {
        id: (packing == Packing::Batch).then_some(event.id),
        event: event.event,
        timestamp: event.timestamp,
        data: facts(&event),
    })
}

fn facts<'a>(event: &'a Event<'_>) -> FlatFacts<'a> {
    let (link, click) = (event.link.as_ref(), event.click.as_ref());
    let (conversion, endpoint) = (event.conversion.as_ref(), event.endpoint.as_ref());
    let amount = conversion.and_then(|conversion| conversion.amount.as_ref());
    let (milestone, audit) = (event.milestone.as_ref(), event.audit.as_ref());
    let reached = milestone.and_then(|milestone| i64::try_from(milestone.value).ok());
    let clicks = [
        event.viral.as_ref().map(|viral| viral.clicks),
        event.suspicious.as_ref().map(|burst| burst.clicks),
        event.completion.as_ref().map(|completion| completion.clicks),
    ];
    let of_link = link.and_then(|link| link.campaign.as_deref());
    let reason = endpoint.and_then(|endpoint| endpoint.status_reason.as_deref());
    FlatFacts {
        link_id: link.map(|link| link.id),
        short_url: link.map(|link| &*link.short_url),
        destination_url: link.map(|link| &*link.destination),
        segment: link.and_then(|link| link.segment.as_deref()),
        campaign: of_link.or(event.campaign.as_ref().map(|campaign| &*campaign.name)),
        click_location: click.and_then(place),
        device: click.and_then(|click| click.device.as_deref()),
        conversion_id: conversion.map(|conversion| conversion.id),
        conversion: conversion.map(|conversion| &*conversion.name),
        order_id: conversion.and_then(|conversion| conversion.order_id.as_deref()),
        status: conversion.and_then(|conversion| conversion.status.as_deref()),
        metric: milestone.map(|milestone| milestone.metric.as_str()),
        threshold: milestone.map(|milestone| milestone.threshold),
        clicks: clicks.into_iter().flatten().next(),
        cause: event.suspicious.as_ref().map(|burst| burst.cause.as_str()),
        value: amount.map(|amount| amount.value).or(reached),
        currency: amount
            .map(|amount| &*amount.currency)
            .or(milestone.and_then(|milestone| milestone.currency.as_deref())),
        changed: changed(event),
        endpoint_id: endpoint.map(|endpoint| endpoint.id),
        endpoint_status: endpoint.map(|endpoint| endpoint.status),
        actor: audit.map(|audit| audit.actor.kind.as_str()),
        actor_id: audit.and_then(|audit| audit.actor.id),
        resource: audit.map(|audit| audit.resource.as_str()),
        resource_ids: audit.map(|audit| audit.ids.join(", ")),
        message: event.message.as_deref().or(reason),
    }
}

#[cfg(test)]
mod tests {
    use schemas::sample;
    use serde_json::{Value, json};

    use super::*;
    use crate::webhook::formats::event_facts::message;

    const AT: Timestamp = Timestamp::from_millis(1_770_301_425_120);

    #[test]
    fn a_click_has_its_link_its_place_and_its_device() {
        let click = sample::event(EventName::LinkClicked, AT);
        let text = event(&message(&click), Packing::Single).unwrap();
        let expected = concat!(
            r#"{"event":"link.clicked","timestamp":"2026-02-05T14:23:45.120Z","data":{"#,
            r#""link_id":"lnk_01KGQ7ZJ107000800000000000","short_url":"https://go.acme.co/sale","#,
            r#""destination_url":"https://acme.com/winter-sale","segment":"q1","campaign":"winter-sale-2026","#,
            r#""click_location":"San Francisco, California, US","device":"mobile"}}"#,
        );
        let link = click.link.as_ref().unwrap().id.to_string();
        assert_eq!(text, expected.replace("lnk_01KGQ7ZJ107000800000000000", &link));
        let batched: Value = serde_json::from_slice(&event(&message(&click), Packing::Batch).unwrap()).unwrap();
        assert_eq!(batched["id"], json!(click.id));
    }

    #[test]
    fn other_events_have_what_they_tell() {
        let data = |name| {
            let text = event(&message(&sample::event(name, AT)), Packing::Single).unwrap();
            serde_json::from_slice::<Value>(&text).unwrap()["data"].take()
        };
        let conversion = data(EventName::LinkConverted);
        assert_eq!((&conversion["value"], &conversion["currency"]), (&json!(12_950), &json!("EUR")));
        let milestone = data(EventName::CampaignMilestone);
        let expected = json!({"campaign": "winter-sale-2026", "metric": "clicks", "threshold": 1000, "value": 1003});
        assert_eq!(milestone, expected);
        let burst = data(EventName::LinkSuspicious);
        assert_eq!((&burst["cause"], &burst["clicks"]), (&json!("network"), &json!(1200)));
        assert_eq!(data(EventName::LinkUpdated)["changed"], "destination");
        let audit = data(EventName::AuditUpdated);
        assert_eq!(
            (&audit["actor"], &audit["resource"], &audit["changed"]),
            (&json!("key"), &json!("link"), &json!("destination"))
        );
        assert_eq!(data(EventName::EndpointDisabled)["message"], "nothing but failures for 120 hours");
        assert_eq!(data(EventName::WebhookTest), json!({"message": "This is a test. Your endpoint works."}));
    }
}
