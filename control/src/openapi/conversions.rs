//! The operations of the intake, which another role serves (`ingest/src/intake/`)
//! behind this address. What is answered is described here; what is sent is the
//! very type that the intake reads.

use schemars::JsonSchema;
use schemas::{ConversionId, conversion::Reported};
use serde_json::{Value, json};
use service::{
    headers::IDEMPOTENCY_KEY_CHARS,
    problem::{Kind, RejectedLine},
};

use crate::openapi::{document::Document, operation::Operation};

/// What is answered to a report.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "it is described, not made")]
enum Taken {
    /// To one conversion.
    One { id: ConversionId },
    /// To several, a line each.
    Lines { accepted: u64, rejected: Vec<RejectedLine> },
}

/// What is answered to a postback.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "it is described, not made")]
struct CalledBack {
    id: ConversionId,
}

/// What a network's address may say; other names that networks use for the same
/// are taken as well.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "it is described, not made")]
struct Postback {
    /// The click (`clk_…`), which the link told its destination.
    click_id: String,
    /// What it was worth: a decimal number.
    payout: Option<String>,
    /// The currency of `payout` (ISO 4217).
    currency: Option<String>,
    /// What it is: `conversion`, if left out.
    name: Option<String>,
    /// The network's number of the order; a second report with it is the same conversion.
    order_id: Option<String>,
    /// `pending`, `approved`, ….
    status: Option<String>,
    /// What was bought.
    product: Option<String>,
    /// Who it is paid to.
    affiliate_id: Option<String>,
    /// The customer, as the shop knows them.
    customer_id: Option<String>,
}

pub(super) fn describe(document: &mut Document) {
    let key: Value = json!({"type": "string", "minLength": 1, "maxLength": IDEMPOTENCY_KEY_CHARS});
    Operation::new(document, "post", "/v1/conversions", "reportConversion", "Report what a click led to")
        .tag("Conversions")
        .describe(
            "One conversion, or one a line (`application/x-ndjson`). 202 once Kafka has it. A second report with the \
             same `name` and `order_id` is the same conversion; without an order, one with the same `Idempotency-Key`.",
        )
        .header("Idempotency-Key", "Makes the report safe to repeat where it has no order.", &key)
        .body::<Reported>(&json!({
            "click_id": "clk_01KH0FTEXX7000000000000000", "name": "purchase", "order_id": "1001",
            "amount": {"value": 4990, "currency": "EUR"},
        }))
        .answers::<Taken>(202, "Kafka has it", &[])
        .done();
    for (method, id) in [("get", "postback"), ("post", "postPostback")] {
        Operation::new(document, method, "/v1/postback/{token}", id, "Report a conversion by calling an address")
            .tag("Conversions")
            .describe(
                "For networks that can only call an address: the token is a key whose only scope is `postback`, and \
                 stands for one. Without `order_id`, the click and the name make a second call the same conversion.",
            )
            .open()
            .path::<String>("token")
            .query::<Postback>()
            .answers::<CalledBack>(202, "Kafka has it", &[])
            .refuses(&[
                Kind::Malformed,
                Kind::NotFound,
                Kind::Invalid,
                Kind::Limited { retry_after_s: 1 },
                Kind::Unavailable,
            ])
            .done();
    }
}
