//! The operations on conversions and on the persons in them. Reports go to the intake, which another role
//! (`ingest/src/intake/`) serves behind this address: their answers are described here, and the request is the type that
//! the intake reads.

use schemars::JsonSchema;
use schemas::{ConversionId, conversion::Reported};
use serde_json::{Value, json};
use service::{
    headers::IDEMPOTENCY_KEY_CHARS,
    problem::{Kind, RejectedLine},
};

use crate::{
    api::{
        conversions::{ConversionQuery, ConversionView},
        people::{Erasure, PersonQuery},
        resource::Listed,
    },
    openapi::{document::Document, operation::Operation},
};

/// The answer to a report.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "the type is described, but no value is made")]
#[schemars(rename = "Taken")]
enum ReportAnswer {
    /// The answer to one conversion.
    One { id: ConversionId },
    /// The answer to several conversions, one in each line.
    Lines { accepted: u64, rejected: Vec<RejectedLine> },
}

/// The answer to a postback.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "the type is described, but no value is made")]
#[schemars(rename = "CalledBack")]
struct PostbackAnswer {
    id: ConversionId,
}

/// The parameters of a network's call; the other names that networks use for them are accepted as well.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "the type is described, but no value is made")]
#[schemars(rename = "Postback")]
struct PostbackQuery {
    /// The id of the click (`clk_…`), which the link passed to its destination. It can be left out where `order_id` or
    /// `customer_id` was reported with its click before.
    click_id: Option<String>,
    /// The value of the conversion: a decimal number.
    payout: Option<String>,
    /// The currency of `payout` (ISO 4217).
    currency: Option<String>,
    /// The name of the conversion; `conversion` by default.
    name: Option<String>,
    /// The network's id of the order; a second report with the same id is the same conversion.
    order_id: Option<String>,
    /// The status, such as `pending` or `approved`.
    status: Option<String>,
    /// The product that was bought.
    product: Option<String>,
    /// The affiliate who is paid for the conversion.
    affiliate_id: Option<String>,
    /// The id that the shop has for the customer.
    customer_id: Option<String>,
}

pub(super) fn describe(document: &mut Document) {
    let key: Value = json!({"type": "string", "minLength": 1, "maxLength": IDEMPOTENCY_KEY_CHARS});
    Operation::new(document, "post", "/v1/conversions", "reportConversion", "Report conversions")
        .tag("Conversions")
        .describe(
            "One conversion, or one in each line (`application/x-ndjson`). The answer is 202 once Kafka has stored the \
             report. A second report with the same `name` and `order_id` is the same conversion; without an order, a \
             report with the same `Idempotency-Key`.",
        )
        .header("Idempotency-Key", "A key that makes a report without an order safe to repeat.", &key)
        .body::<Reported>(&json!({
            "click_id": "clk_01KH0FTEXX7000000000000000", "name": "purchase", "order_id": "1001",
            "amount": {"value": 4990, "currency": "EUR"},
        }))
        .answers::<ReportAnswer>(202, "The report is stored in Kafka", &[])
        .done();
    Operation::new(document, "get", "/v1/conversions", "listConversions", "List conversions, last reported first")
        .tag("Conversions")
        .describe(
            "Each conversion in its current state, which ClickHouse knows about a second after the report. A key with the \
             scope `conversions` or `stats` may read them.",
        )
        .query::<ConversionQuery>()
        .answers::<Listed<ConversionView>>(200, "A page of conversions", &[])
        .refuses(&[Kind::Invalid])
        .done();
    let customer = "Delete the clicks and conversions of a customer";
    Operation::new(document, "delete", "/v1/people/{customer_id}", "eraseCustomer", customer)
        .tag("People")
        .describe(
            "Deletes the customer's conversions and the clicks that led to them in ClickHouse, counts again, and sends the \
             event `person.erased` as a receipt. Kafka forgets by the retention of its topics, so repeat the request if \
             reports of the customer were on their way.",
        )
        .path::<String>("customer_id")
        .answers::<Erasure>(200, "The deleted rows, and those that are left", &[])
        .refuses(&[Kind::Invalid])
        .done();
    Operation::new(document, "delete", "/v1/people", "eraseVisitor", "Delete the clicks of a session, or one click")
        .tag("People")
        .describe("Deletes the clicks and the conversions that they led to. Name one session or one click.")
        .query::<PersonQuery>()
        .answers::<Erasure>(200, "The deleted rows, and those that are left", &[])
        .refuses(&[Kind::Invalid])
        .done();
    for (method, id) in [("get", "postback"), ("post", "postPostback")] {
        Operation::new(document, method, "/v1/postback/{token}", id, "Report a conversion by calling a URL")
            .tag("Conversions")
            .describe(
                "For networks that can only call a URL: the token is the secret of a key whose only scope is `postback`. \
                 Without `order_id`, a second call with the same click and name is the same conversion. A POST may have the \
                 fields in a form or a JSON object instead.",
            )
            .open()
            .path::<String>("token")
            .query::<PostbackQuery>()
            .answers::<PostbackAnswer>(202, "The report is stored in Kafka", &[])
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
