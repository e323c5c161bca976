//! A conversion as it is reported, and its record on `conversions.raw`. The record is
//! enough to decide later which click the conversion belongs to and whether it was
//! reported before.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ClickId, ConversionId, Timestamp, WorkspaceId, usermap::UserMap};

/// An amount of money.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Amount {
    /// In the currency's minor unit: cents. Within ±2^53.
    pub value: i64,
    /// ISO 4217, upper case.
    pub currency: String,
}

/// A conversion as a shop or a tracker reports it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Reported {
    /// The click that led to the conversion.
    pub click_id: ClickId,
    /// `purchase`, `signup`, …: without a slash.
    pub name: String,
    /// The shop's number of the order; a second report with it is the same conversion.
    #[serde(default)]
    pub order_id: Option<String>,
    /// The product that was bought.
    #[serde(default)]
    pub product: Option<String>,
    /// The value of the conversion.
    #[serde(default)]
    pub amount: Option<Amount>,
    /// The commission that is paid for the conversion.
    #[serde(default)]
    pub commission: Option<Amount>,
    /// The affiliate that the commission is paid to.
    #[serde(default)]
    pub affiliate_id: Option<String>,
    /// The customer, as the shop knows them.
    #[serde(default)]
    pub customer_id: Option<String>,
    /// `pending`, `approved`, ….
    #[serde(default)]
    pub status: Option<String>,
    /// The time of the conversion; the time of the report where it is absent.
    #[serde(default)]
    pub timestamp: Option<Timestamp>,
    /// The customer's own facts.
    #[serde(default)]
    pub metadata: UserMap,
}

/// A sale, a sign-up or another action that a click led to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawConversion {
    /// Version of the format: 1.
    pub v: u8,
    /// The id of the conversion.
    pub id: ConversionId,
    /// The workspace whose key reported it.
    pub workspace: WorkspaceId,
    /// The time at which the report was received.
    pub received_at: Timestamp,
    /// The mark by which a second report is found to be the same: `order/<name>/<order_id>`,
    /// `key/<Idempotency-Key>`, `line/<number>/<Idempotency-Key>` of a request with
    /// many, or `click/<click_id>/<name>`; absent where it was
    /// reported without any of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub same_as: Option<String>,
    /// The click that led to the conversion.
    pub click_id: ClickId,
    /// `purchase`, `signup`, ….
    pub name: String,
    /// The shop's number of the order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_id: Option<String>,
    /// The product that was bought.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
    /// The value of the conversion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<Amount>,
    /// The commission that is paid for the conversion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commission: Option<Amount>,
    /// The affiliate that the commission is paid to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affiliate_id: Option<String>,
    /// The customer, as the shop knows them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customer_id: Option<String>,
    /// `pending`, `approved`, ….
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// The time of the conversion as it was reported, else that of the report.
    pub timestamp: Timestamp,
    /// The customer's own facts.
    #[serde(default, skip_serializing_if = "UserMap::is_empty")]
    pub metadata: UserMap,
}
