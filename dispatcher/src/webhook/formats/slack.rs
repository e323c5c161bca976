//! The format `slack`: a message for an incoming webhook of Slack, with a line for people for
//! each event. A batch is one message. Slack takes about one message a second of a webhook, so
//! busy endpoints want batches.
//!
//! Texts from outside are escaped as Slack asks (docs.slack.dev, "Formatting message text"), so
//! that they notify nobody and form no links. Links are not unfurled: Slack would follow them,
//! and each unfurling would be a visit.

use bytes::Bytes;
use iso_currency::Currency;
use schemas::{
    Event, EventName, LinkFacts,
    audit::AuditAction,
    conversion::Amount,
    watch::{BurstCause, CompletionReason},
};
use serde::Serialize;

use super::event_facts::{changed, json, place, read};
use crate::webhook::delivery::Message;

/// The most lines of a message. Slack shows 4,000 characters well, and cuts at 40,000.
const LINES: usize = 50;
/// The most characters of a text from outside.
const TEXT_CHARS: usize = 150;
/// The most bytes of a link's address: a longer one is left out.
const URL_BYTES: usize = 500;

#[derive(Serialize)]
struct SlackMessage {
    text: String,
    unfurl_links: bool,
    unfurl_media: bool,
}

/// Returns a message with a line for each event.
pub(super) fn message<'m>(messages: impl Iterator<Item = &'m Message>) -> Result<Bytes, String> {
    let mut lines = Vec::new();
    let mut more = 0;
    for message in messages {
        if lines.len() < LINES {
            lines.push(line(&read(message)?));
        } else {
            more += 1;
        }
    }
    if more > 0 {
        lines.push(format!("… and {more} more"));
    }
    json(&SlackMessage { text: lines.join("\n"), unfurl_links: false, unfurl_media: false })
}

/// Returns the line of an event.
fn line(event: &Event<'_>) -> String {
    let link = event.link.as_ref().map_or_else(|| "a link".to_owned(), short_link);
    let endpoint = event.endpoint.as_ref();
    let endpoint_id = endpoint.map_or_else(|| "An endpoint".to_owned(), |endpoint| format!("Endpoint {}", endpoint.id));
    let told = || event.message.as_deref().map(text);
    match event.event {
        EventName::LinkClicked => format!("Someone followed {link}{}", visit(event)),
        EventName::QrScanned => format!("Someone scanned the QR code of {link}{}", visit(event)),
        EventName::LinkConverted => format!("{} from {link}{}", conversion(event), visit(event)),
        EventName::LinkCreated => format!("{link} was created{}", destination(event)),
        EventName::LinkUpdated => {
            let fields = changed(event).map(|fields| format!(": {fields}")).unwrap_or_default();
            format!("{link} was changed{fields}")
        }
        EventName::LinkDeleted => format!("{link} was deleted"),
        EventName::EndpointFailing => {
            let since = endpoint.and_then(|endpoint| endpoint.failing_since);
            let since = since.map(|since| format!(" since {since}")).unwrap_or_default();
            format!("{endpoint_id} has been failing{since}; its deliveries are retried")
        }
        EventName::EndpointDisabled => {
            let reason = endpoint.and_then(|endpoint| endpoint.status_reason.as_deref());
            format!(
                "{endpoint_id} was disabled{}",
                reason.map(|reason| format!(": {}", text(reason))).unwrap_or_default()
            )
        }
        EventName::EndpointRecovered => format!("{endpoint_id} takes deliveries again"),
        EventName::LinkMilestone => format!("{link} {}", milestone(event)),
        EventName::CampaignMilestone => format!("{} {}", campaign(event), milestone(event)),
        EventName::CampaignCompleted => format!("{} {}", campaign(event), completion(event)),
        EventName::LinkViral => format!("{link} goes viral{}", viral(event)),
        EventName::LinkSuspicious => format!("Suspicious clicks of {link}{}", burst(event)),
        EventName::LinkExpired => format!("{link} has expired"),
        _ if event.audit.is_some() => audit(event),
        _ => told().unwrap_or_else(|| sentence(event, &link)),
    }
}

fn audit(event: &Event<'_>) -> String {
    let Some((action, change)) = AuditAction::of(event.event).zip(event.audit.as_ref()) else { return String::new() };
    let resource = change.resource.as_str();
    let things = match change.ids.as_slice() {
        [id] => format!("{resource} {}", text(id)),
        ids => format!("{} × {resource}", ids.len()),
    };
    let fields =
        if change.fields.is_empty() { String::new() } else { format!(": {}", text(&change.fields.join(", "))) };
    let by = match (&change.actor.name, change.actor.id) {
        (Some(name), _) => text(name),
        (None, Some(id)) => format!("{} {id}", change.actor.kind.as_str()),
        (None, None) => change.actor.kind.as_str().to_owned(),
    };
    format!("{by}: {} {things}{fields}", action.as_str())
}

fn campaign(event: &Event<'_>) -> String {
    let name = event.campaign.as_ref().map(|campaign| format!(" *{}*", text(&campaign.name)));
    format!("Campaign{}", name.unwrap_or_default())
}

fn milestone(event: &Event<'_>) -> String {
    let Some(milestone) = &event.milestone else { return "has reached a milestone".to_owned() };
    let reached = match (&milestone.currency, i64::try_from(milestone.threshold)) {
        (Some(currency), Ok(value)) => {
            format!("{} of revenue", money(&Amount { value, currency: currency.to_string() }))
        }
        _ => format!("{} {}", milestone.threshold, milestone.metric.as_str()),
    };
    let source = milestone.top_source.as_deref().map(|source| format!(", most clicks from {}", text(source)));
    format!("has reached {reached}{}", source.unwrap_or_default())
}

fn completion(event: &Event<'_>) -> String {
    let Some(completion) = &event.completion else { return "is complete".to_owned() };
    let what = match completion.reason {
        CompletionReason::Ended => "has ended",
        CompletionReason::Goal => "has reached its goal",
    };
    format!("{what}: {} clicks, {} conversions", completion.clicks, completion.conversions)
}

fn viral(event: &Event<'_>) -> String {
    let told = event
        .viral
        .as_ref()
        .map(|viral| format!(": {} clicks in the last hour, {} in an average one", viral.clicks, viral.hourly_average));
    told.unwrap_or_default()
}

fn burst(event: &Event<'_>) -> String {
    let Some(burst) = &event.suspicious else { return String::new() };
    let who = burst.organisation.as_deref().or(burst.user_agent.as_deref());
    let who = who.map(|who| format!(" ({})", text(who))).unwrap_or_default();
    let cause = match burst.cause {
        BurstCause::Address => "from one address",
        BurstCause::Network => "from one network",
        BurstCause::Agent => "with one user agent",
    };
    format!(": {} of {} in five minutes came {cause}{who}", burst.clicks, burst.link_clicks)
}

/// Returns the name and the description of an event, with its link.
fn sentence(event: &Event<'_>, link: &str) -> String {
    let about = if event.link.is_some() { format!(" ({link})") } else { String::new() };
    format!("*{}*{about}: {}", event.event, event.event.description())
}

/// Returns what is known of a visit: where, on what, from where, and whether a program made it.
fn visit(event: &Event<'_>) -> String {
    let Some(click) = &event.click else { return String::new() };
    let mut words = String::new();
    if let Some(place) = place(click) {
        words += &format!(" from {}", text(&place));
    }
    match (&click.device, &click.browser) {
        (Some(device), Some(browser)) => words += &format!(" on {} ({})", text(device), text(browser)),
        (Some(known), None) | (None, Some(known)) => words += &format!(" on {}", text(known)),
        (None, None) => {}
    }
    if let Some(source) = &click.source {
        words += &format!(", source {}", text(source));
    }
    if click.bot {
        let reason = click.bot_reason.as_deref().map(|reason| format!(" ({})", text(reason))).unwrap_or_default();
        words += &format!(", a program{reason}");
    }
    words
}

fn conversion(event: &Event<'_>) -> String {
    let Some(conversion) = &event.conversion else { return "Conversion".to_owned() };
    let mut words = format!("Conversion *{}*", text(&conversion.name));
    if let Some(amount) = &conversion.amount {
        words += &format!(" of {}", money(amount));
    }
    let order = conversion.order_id.as_deref().map(|order| format!("order {}", text(order)));
    let facts: Vec<String> = order.into_iter().chain(conversion.status.as_deref().map(text)).collect();
    if !facts.is_empty() {
        words += &format!(" ({})", facts.join(", "));
    }
    words
}

fn destination(event: &Event<'_>) -> String {
    event.link.as_ref().map(|link| format!(" and leads to {}", text(&link.destination))).unwrap_or_default()
}

/// Returns an amount with its decimal places.
fn money(Amount { value, currency }: &Amount) -> String {
    let places = Currency::from_code(currency).and_then(Currency::exponent).unwrap_or(0);
    let sign = if *value < 0 { "-" } else { "" };
    let digits = format!("{:0>width$}", value.unsigned_abs(), width = usize::from(places) + 1);
    let (whole, fraction) = digits.split_at(digits.len() - usize::from(places));
    let point = if places == 0 { "" } else { "." };
    format!("{sign}{whole}{point}{fraction} {}", text(currency))
}

/// Returns a link under its short address without the scheme.
fn short_link(link: &LinkFacts<'_>) -> String {
    let url = &*link.short_url;
    let label = text(url.trim_start_matches("https://").trim_start_matches("http://"));
    let is_web = url.starts_with("https://") || url.starts_with("http://");
    let is_clean = url.len() <= URL_BYTES && !url.chars().any(|c| c.is_control() || c.is_whitespace() || c == '|');
    if is_web && is_clean { format!("<{}|{label}>", escaped(url)) } else { label }
}

/// Returns a text from outside as a part of a line: shortened, without control characters, and
/// escaped.
fn text(from_outside: &str) -> String {
    let mut kept: String = from_outside.chars().take(TEXT_CHARS).collect();
    if kept.len() < from_outside.len() {
        kept.push('…');
    }
    escaped(&kept.replace(|c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'), " "))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use schemas::{Timestamp, sample};

    use super::*;
    use crate::webhook::formats::event_facts;

    fn sample(name: EventName) -> Event<'static> {
        sample::event(name, Timestamp::from_millis(1_770_301_425_120))
    }

    #[test]
    fn each_type_of_event_has_a_line_for_people() {
        let link = "<https://go.acme.co/sale|go.acme.co/sale>";
        let visit = "from San Francisco, California, US on mobile (Safari), source instagram";
        for (name, expected) in [
            (EventName::LinkClicked, format!("Someone followed {link} {visit}")),
            (EventName::QrScanned, format!("Someone scanned the QR code of {link} {visit}")),
            (
                EventName::LinkConverted,
                format!("Conversion *purchase* of 129.50 EUR (order A-1042, approved) from {link} {visit}"),
            ),
            (EventName::LinkCreated, format!("{link} was created and leads to https://acme.com/winter-sale")),
            (EventName::LinkUpdated, format!("{link} was changed: destination")),
            (EventName::AuditRotated, "deploy: rotated key key_00000000000000000000000003".to_owned()),
            (EventName::WebhookTest, "This is a test. Your endpoint works.".to_owned()),
            (EventName::LinkMilestone, format!("{link} has reached 1000 clicks, most clicks from instagram")),
            (
                EventName::CampaignCompleted,
                "Campaign *winter-sale-2026* has reached its goal: 10000 clicks, 312 conversions".to_owned(),
            ),
            (
                EventName::LinkSuspicious,
                format!(
                    "Suspicious clicks of {link}: 1200 of 1310 in five minutes came from one network (Example Net)"
                ),
            ),
        ] {
            assert_eq!(line(&sample(name)), expected);
        }
        for name in EventName::ALL {
            let line = line(&sample(*name));
            assert!(line.len() > 20 && !line.contains('\n'), "{name}: {line}");
        }
    }

    #[test]
    fn texts_from_outside_neither_notify_nor_link() {
        let mut event = sample(EventName::LinkClicked);
        let link = event.link.as_mut().unwrap();
        link.short_url = "https://go.acme.co/a?b=<c>&d".into();
        let click = event.click.as_mut().unwrap();
        click.source = Some("<!channel> & <https://evil.example|click>\n*bold*".into());
        let told = line(&event);
        assert!(told.contains("<https://go.acme.co/a?b=&lt;c&gt;&amp;d|go.acme.co/a?b=&lt;c&gt;&amp;d>"), "{told}");
        assert!(told.contains("source &lt;!channel&gt; &amp; &lt;https://evil.example|click&gt; *bold*"), "{told}");
        let link = event.link.as_mut().unwrap();
        link.short_url = "https://go.acme.co/a|b".into();
        assert!(line(&event).starts_with("Someone followed go.acme.co/a|b from"), "{}", line(&event));
    }

    #[test]
    fn a_batch_is_one_message_of_bounded_length() {
        let one = event_facts::message(&sample(EventName::LinkClicked));
        let messages: Vec<&Message> = std::iter::repeat_n(&one, LINES + 7).collect();
        let body: serde_json::Value = serde_json::from_slice(&message(messages.into_iter()).unwrap()).unwrap();
        let text = body["text"].as_str().unwrap();
        assert_eq!(text.lines().count(), LINES + 1);
        assert!(text.ends_with("\n… and 7 more"), "{text}");
        assert_eq!((&body["unfurl_links"], &body["unfurl_media"]), (&false.into(), &false.into()));
    }

    #[test]
    fn money_has_its_decimal_places() {
        let money = |value, currency: &str| money(&Amount { value, currency: currency.to_owned() });
        assert_eq!(money(4990, "EUR"), "49.90 EUR");
        assert_eq!(money(-5, "EUR"), "-0.05 EUR");
        assert_eq!(money(500, "JPY"), "500 JPY");
        assert_eq!(money(1, "BHD"), "0.001 BHD");
    }
}
