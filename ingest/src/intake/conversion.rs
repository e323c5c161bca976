//! A conversion as a caller reports it, and the record that is made of it once every
//! field is valid. The enricher decides later, from the record alone, whether it was
//! reported before and to which click it belongs; the record says by which fact a
//! second report is recognised.

use schemas::{ConversionId, RawConversion, Timestamp, WorkspaceId, conversion::Reported, is_placeholder};
use service::problem::FieldError;

use crate::money::{self, LARGEST};

const NAME_CHARS: usize = 64;
const TEXT_CHARS: usize = 255;
const METADATA_KEYS: usize = 50;
const METADATA_KEY_CHARS: usize = 64;
const METADATA_VALUE_CHARS: usize = 1024;
/// The earliest moment that is believed: 2000-01-01.
const EARLIEST: Timestamp = Timestamp::from_millis(946_684_800_000);
/// How far a caller's clock may be ahead: a day, for those that forget their
/// time zone.
const AHEAD_MS: i64 = 24 * 3600 * 1000;

/// The fact by which a second report of a conversion without an order is recognised.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Repeat<'a> {
    /// No fact of the request: its click and its name tell, or else each report is another
    /// conversion.
    Unknown,
    /// The `Idempotency-Key` of the request that reports it alone.
    Request(&'a str),
    /// The `Idempotency-Key` of the request and its line there, from 1.
    Line(&'a str, usize),
}

impl Repeat<'_> {
    fn same_as(self, reported: &Reported, id: ConversionId) -> String {
        let Reported { click_id, name, order_id, .. } = reported;
        // No name has a slash, so no two of them read the same.
        if let Some(order_id) = order_id {
            return format!("order/{name}/{order_id}");
        }
        match (self, click_id) {
            (Self::Request(key), _) => format!("key/{key}"),
            // The key comes last: it may have slashes, and what is before it has none.
            (Self::Line(key, line), _) => format!("line/{line}/{key}"),
            (Self::Unknown, Some(click_id)) => format!("click/{click_id}/{name}"),
            (Self::Unknown, None) => format!("id/{id}"),
        }
    }
}

/// Makes the record of a conversion that a key of `workspace` reports at `now`.
///
/// # Errors
/// With every field that is not valid.
pub(crate) fn record(
    mut reported: Reported,
    workspace: &WorkspaceId,
    repeat: Repeat<'_>,
    now: Timestamp,
) -> Result<RawConversion, Vec<FieldError>> {
    let errors = wrong(&reported, now);
    if !errors.is_empty() {
        return Err(errors);
    }
    for amount in [&mut reported.amount, &mut reported.commission].into_iter().flatten() {
        // Payment providers write currencies in lower case, tables do not.
        amount.currency.make_ascii_uppercase();
    }
    let id = ConversionId::mint();
    Ok(RawConversion {
        v: 1,
        id,
        workspace: workspace.clone(),
        received_at: now,
        same_as: repeat.same_as(&reported, id),
        click_id: reported.click_id,
        name: reported.name,
        order_id: reported.order_id,
        product: reported.product,
        amount: reported.amount,
        commission: reported.commission,
        affiliate_id: reported.affiliate_id,
        customer_id: reported.customer_id,
        status: reported.status,
        timestamp: reported.timestamp.unwrap_or(now),
        metadata: reported.metadata,
    })
}

fn wrong(reported: &Reported, now: Timestamp) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if reported.click_id.is_none() && reported.order_id.is_none() && reported.customer_id.is_none() {
        let reason = "is missing: name the click, or an `order_id` or `customer_id` that was reported with its click";
        errors.push(FieldError::new("click_id", reason));
    }
    let mut text = |field: &str, text: &str, max: usize| {
        if text.is_empty() || text.chars().count() > max || text.chars().any(char::is_control) {
            let reason = format!("must have 1 to {max} characters, none of them a control character");
            errors.push(FieldError::new(field, reason));
        }
    };
    text("name", &reported.name, NAME_CHARS);
    for (field, value) in [
        ("order_id", &reported.order_id),
        ("product", &reported.product),
        ("affiliate_id", &reported.affiliate_id),
        ("customer_id", &reported.customer_id),
        ("status", &reported.status),
    ] {
        if let Some(value) = value {
            text(field, value, TEXT_CHARS);
        }
    }
    for (key, _) in reported.metadata.iter() {
        text("metadata", key, METADATA_KEY_CHARS);
    }
    for (field, value) in [("order_id", &reported.order_id), ("customer_id", &reported.customer_id)] {
        if value.as_deref().is_some_and(is_placeholder) {
            // It would make one order, or one customer, of many.
            let reason = "is a placeholder that was not filled in: send the value, or leave the field out";
            errors.push(FieldError::new(field, reason));
        }
    }
    if reported.name.contains('/') {
        errors.push(FieldError::new("name", "must not contain `/`"));
    }
    for (field, amount) in [("amount", &reported.amount), ("commission", &reported.commission)] {
        let Some(amount) = amount else { continue };
        if amount.value.unsigned_abs() > LARGEST.unsigned_abs() {
            let reason = format!("must be within ±{LARGEST} (2^53), in the currency's minor unit");
            errors.push(FieldError::new(format!("{field}.value"), reason));
        }
        if let Err(reason) = money::currency(&amount.currency) {
            errors.push(FieldError::new(format!("{field}.currency"), reason));
        }
    }
    if let Some(at) = reported.timestamp {
        if at < EARLIEST {
            errors.push(FieldError::new("timestamp", format!("{at} is before {EARLIEST}")));
        } else if at.as_millis() - now.as_millis() > AHEAD_MS {
            errors.push(FieldError::new("timestamp", format!("{at} is more than a day in the future")));
        }
    }
    if reported.metadata.len() > METADATA_KEYS {
        let reason = format!("has {} keys, at most {METADATA_KEYS} are allowed", reported.metadata.len());
        errors.push(FieldError::new("metadata", reason));
    }
    for (key, value) in reported.metadata.iter().take(METADATA_KEYS) {
        if value.chars().count() > METADATA_VALUE_CHARS {
            let key: String = key.chars().take(METADATA_KEY_CHARS).collect();
            let reason = format!("is longer than {METADATA_VALUE_CHARS} characters");
            errors.push(FieldError::new(format!("metadata.{key}"), reason));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const CLICK: &str = "clk_01KH0FTEXX7000000000000000";

    fn now() -> Timestamp {
        "2026-02-05T14:23:45.120Z".parse().unwrap()
    }

    fn reported(fields: &Value) -> Reported {
        let mut body = json!({"click_id": CLICK, "name": "purchase"});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        serde_json::from_value(body).unwrap()
    }

    fn record(fields: &Value, repeat: Repeat<'_>) -> Result<RawConversion, Vec<FieldError>> {
        super::record(reported(fields), &WorkspaceId::new("acme"), repeat, now())
    }

    #[test]
    fn what_is_reported_is_what_is_recorded() {
        let fields = json!({
            "order_id": "A-1", "product": "shoes", "amount": {"value": -1250, "currency": "EUR"},
            "commission": {"value": 9_007_199_254_740_992_i64, "currency": "JPY"}, "affiliate_id": "aff",
            "customer_id": "cus", "status": "approved", "timestamp": "2026-02-05T15:00:00+01:00",
            "metadata": {"color": "red"},
        });
        let raw = record(&fields, Repeat::Unknown).unwrap();
        assert_eq!((raw.v, raw.workspace.as_str(), raw.received_at), (1, "acme", now()));
        assert_eq!(raw.timestamp.to_string(), "2026-02-05T14:00:00.000Z");
        let mut json = serde_json::to_value(&raw).unwrap();
        for (field, value) in fields.as_object().unwrap() {
            if field != "timestamp" {
                assert_eq!(json[field].take(), *value, "{field}");
            }
        }
        let cents = record(&json!({"amount": {"value": 1, "currency": "usd"}}), Repeat::Unknown).unwrap();
        assert_eq!(cents.amount.unwrap().currency, "USD");
        let bare = record(&json!({}), Repeat::Unknown).unwrap();
        assert_eq!((bare.timestamp, bare.same_as), (now(), format!("click/{CLICK}/purchase")));
    }

    #[test]
    fn a_second_report_is_known_by_the_order_first() {
        let order = json!({"order_id": "7/8"});
        for (fields, repeat, expected) in [
            (&order, Repeat::Unknown, "order/purchase/7/8".to_owned()),
            (&order, Repeat::Request("k"), "order/purchase/7/8".to_owned()),
            (&json!({}), Repeat::Request("k"), "key/k".to_owned()),
            (&json!({}), Repeat::Line("k/1", 3), "line/3/k/1".to_owned()),
            (&json!({}), Repeat::Unknown, format!("click/{CLICK}/purchase")),
        ] {
            assert_eq!(record(fields, repeat).unwrap().same_as, expected, "{fields} {repeat:?}");
        }
        let customer = json!({"click_id": null, "customer_id": "cus"});
        let raw = record(&customer, Repeat::Unknown).unwrap();
        assert_eq!(raw.same_as, format!("id/{}", raw.id));
    }

    #[test]
    fn everything_that_is_wrong_is_named() {
        let many: serde_json::Map<String, Value> = (0..51).map(|key| (key.to_string(), json!(""))).collect();
        for (fields, field) in [
            (json!({"click_id": null}), "click_id"),
            (json!({"name": ""}), "name"),
            (json!({"name": "a/b"}), "name"),
            (json!({"name": "a".repeat(65)}), "name"),
            (json!({"order_id": ""}), "order_id"),
            (json!({"product": "a\u{0}b"}), "product"),
            (json!({"affiliate_id": "a\nb"}), "affiliate_id"),
            (json!({"customer_id": "\u{fc}".repeat(256)}), "customer_id"),
            (json!({"status": "\u{7f}"}), "status"),
            (json!({"amount": {"value": 9_007_199_254_740_993_i64, "currency": "EUR"}}), "amount.value"),
            (json!({"amount": {"value": i64::MIN, "currency": "EUR"}}), "amount.value"),
            (json!({"order_id": "undefined"}), "order_id"),
            (json!({"customer_id": "{{customer.id}}"}), "customer_id"),
            (json!({"amount": {"value": 1, "currency": "eu"}}), "amount.currency"),
            (json!({"commission": {"value": 1, "currency": "EURO"}}), "commission.currency"),
            (json!({"timestamp": "2026-02-07T00:00:00Z"}), "timestamp"),
            (json!({"timestamp": "1999-12-31T23:59:59Z"}), "timestamp"),
            (json!({"metadata": many}), "metadata"),
            (json!({"metadata": {"": "a"}}), "metadata"),
            (json!({"metadata": {"a": "b".repeat(1025)}}), "metadata.a"),
        ] {
            let errors = record(&fields, Repeat::Unknown).unwrap_err();
            assert_eq!(errors.iter().map(|error| error.field.as_str()).collect::<Vec<_>>(), [field], "{fields}");
        }
        let two = json!({"name": "", "status": ""});
        assert_eq!(record(&two, Repeat::Unknown).unwrap_err().len(), 2);
    }
}
