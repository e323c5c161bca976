//! The event that tells of a conversion.

use schemas::{ConversionFacts, ConversionId, Envelope, Event, EventName, RawConversion};
use store::StoredClick;

/// Returns the event of a report that belongs to the conversion `id`, with its click or
/// without.
pub(super) fn converted<'a>(
    raw: &'a RawConversion,
    id: ConversionId,
    found: Option<&'a StoredClick>,
) -> Envelope<'a, Event<'a>> {
    let text = |text: &'a Option<String>| text.as_deref().map(Into::into);
    let conversion = ConversionFacts {
        id,
        name: raw.name.as_str().into(),
        order_id: text(&raw.order_id),
        status: text(&raw.status),
        product: text(&raw.product),
        amount: raw.amount.clone(),
        commission: raw.commission.clone(),
        affiliate_id: text(&raw.affiliate_id),
        customer_id: text(&raw.customer_id),
        attributed: found.is_some(),
        seconds_since_click: found.map(|found| raw.timestamp.since(found.click.timestamp).as_secs()),
        metadata: raw.metadata.clone(),
    };
    let event = Event {
        id: raw.event_id(),
        event: EventName::LinkConverted,
        timestamp: raw.timestamp,
        link: found.map(|found| found.link.clone()),
        conversion: Some(conversion),
        click: found.map(|found| found.click.clone()),
        utm: found.map(|found| found.utm.clone()).filter(|utm| *utm != schemas::Utm::default()),
        attribution: found.map(|found| found.attribution.clone()).filter(|ad| *ad != schemas::Attribution::default()),
        changes: None,
        endpoint: None,
        message: None,
    };
    Envelope { v: 1, workspace: raw.workspace.as_str().into(), ip_key: None, endpoint: None, event }
}
