//! The events that tell of a conversion.

use schemas::{
    Attribution, ConversionFacts, ConversionId, Envelope, Event, EventId, EventName, RawConversion, Timestamp, Utm,
    conversion::late_event_id,
};
use store::{StoredClick, UnattributedConversion};

/// Returns the event of a report that belongs to the conversion `id`, with its click or
/// without.
pub(super) fn converted<'a>(
    raw: &'a RawConversion,
    id: ConversionId,
    found: Option<&'a StoredClick>,
) -> Envelope<'a, Event<'a>> {
    let text = |text: &'a Option<String>| text.as_deref().map(Into::into);
    let facts = ConversionFacts {
        id,
        name: raw.name.as_str().into(),
        order_id: text(&raw.order_id),
        status: text(&raw.status),
        product: text(&raw.product),
        amount: raw.amount.clone(),
        commission: raw.commission.clone(),
        affiliate_id: text(&raw.affiliate_id),
        customer_id: text(&raw.customer_id),
        attributed: false,
        seconds_since_click: None,
        metadata: raw.metadata.clone(),
    };
    told(raw.workspace.as_str(), raw.event_id(), raw.timestamp, facts, found)
}

/// Returns the event by which a conversion that was told without its click is told with
/// it: the latest status once more.
pub(super) fn attributed_late<'a>(
    known: &'a UnattributedConversion,
    found: &'a StoredClick,
) -> Envelope<'a, Event<'a>> {
    let id = late_event_id(&known.workspace, known.facts.id, known.timestamp);
    told(&known.workspace, id, known.timestamp, known.facts.clone(), Some(found))
}

fn told<'a>(
    workspace: &'a str,
    id: EventId,
    timestamp: Timestamp,
    facts: ConversionFacts<'a>,
    found: Option<&'a StoredClick>,
) -> Envelope<'a, Event<'a>> {
    let conversion = ConversionFacts {
        attributed: found.is_some(),
        seconds_since_click: found.map(|found| timestamp.since(found.click.timestamp).as_secs()),
        ..facts
    };
    let event = Event {
        link: found.map(|found| found.link.clone()),
        conversion: Some(conversion),
        click: found.map(|found| found.click.clone()),
        utm: found.map(|found| found.utm.clone()).filter(|utm| *utm != Utm::default()),
        attribution: found.map(|found| found.attribution.clone()).filter(|ad| *ad != Attribution::default()),
        ..Event::bare(id, EventName::LinkConverted, timestamp)
    };
    Envelope { v: 1, workspace: workspace.into(), ip_key: None, endpoint: None, event }
}
