//! A conversion as it is reported, its record on `conversions.raw`, and the states on
//! `conversions` by which the join knows what was reported before. The record is enough
//! to decide which click the conversion belongs to.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{ClickId, ConversionId, EventId, EventName, Timestamp, WorkspaceId, ids::SHARDS, usermap::UserMap};

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
    /// The click that led to the conversion. It may be left out where `order_id` or
    /// `customer_id` says which click it is: that of the order's first report, or of the
    /// customer's earlier conversions.
    #[serde(default)]
    pub click_id: Option<ClickId>,
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
    /// many, `click/<click_id>/<name>`, or `id/<id>` where the report has none of them
    /// and so is the same as no other.
    pub same_as: String,
    /// The click that led to the conversion, where the report names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub click_id: Option<ClickId>,
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

impl RawConversion {
    /// Returns the key of the record on `conversions.raw`: `<workspace>/<same_as>`.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{}", self.workspace, self.same_as)
    }

    /// Returns the shard of the record, 0 to 4095. Reports that are the same have the same
    /// shard, so one member of the group decides on all of them.
    #[must_use]
    pub fn shard(&self) -> u16 {
        let digest = Sha256::digest(self.key().as_bytes());
        u16::from_be_bytes([digest[0], digest[1]]) % SHARDS
    }

    /// Returns the id of the event that tells of this report: each status of an order has
    /// an event of its own.
    #[must_use]
    pub fn event_id(&self) -> EventId {
        let status = self.status.as_deref().unwrap_or_default();
        EventId::of(self.workspace.as_str(), EventName::LinkConverted, &self.same_as, status, self.timestamp)
    }

    /// Returns the key of the state of the order on `conversions`.
    #[must_use]
    pub fn order_key(&self) -> String {
        format!("{}/order/{}", self.workspace, digest(&self.same_as))
    }
}

/// Returns the id of the event by which a report that had no click is told again with its
/// click. `same_as`, `status` and `at` are those of the report.
#[must_use]
pub fn late_event_id(workspace: &str, same_as: &str, status: &str, at: Timestamp) -> EventId {
    // No `same_as` begins like this.
    let subject = format!("late/{same_as}");
    EventId::of(workspace, EventName::LinkConverted, &subject, status, at)
}

/// Returns the key of the clicks of a customer on `conversions`. A tombstone under the key
/// erases them.
#[must_use]
pub fn customer_key(workspace: &WorkspaceId, customer_id: &str) -> String {
    format!("{workspace}/customer/{}", digest(customer_id))
}

/// A hash in the place of a text that may name a person.
fn digest(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    digest[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The result of the search for the click of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attributed {
    /// The click was not found yet. No event tells of the report so far.
    Waiting,
    /// The click was not found while the report was held, or there is none.
    Unattributed,
    /// The click was found.
    Attributed,
}

/// The state of an order, or of another conversion: the value of an order's key on
/// `conversions`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderState {
    /// Version of the format: 1.
    pub v: u8,
    /// The id of the conversion: that of the first report.
    pub conversion: ConversionId,
    /// The click that a report of the order has named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub click_id: Option<ClickId>,
    /// The statuses that were reported, in the order of the reports.
    pub statuses: Vec<ReportedStatus>,
}

/// A status of an order that was reported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedStatus {
    /// The status; absent where the report has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// The time of the report, as the report says.
    pub at: Timestamp,
    /// The result of the search for its click.
    pub outcome: Attributed,
}

impl OrderState {
    /// Returns the entry of a status.
    #[must_use]
    pub fn status(&self, status: Option<&str>) -> Option<&ReportedStatus> {
        self.statuses.iter().find(|known| known.status.as_deref() == status)
    }

    /// Notes a status and its outcome, or the new outcome of a known status.
    pub fn note(&mut self, status: Option<&str>, at: Timestamp, outcome: Attributed) {
        match self.statuses.iter_mut().find(|known| known.status.as_deref() == status) {
            Some(known) => known.outcome = outcome,
            None => self.statuses.push(ReportedStatus { status: status.map(str::to_owned), at, outcome }),
        }
    }
}

/// The clicks of a customer: the value of a customer's key on `conversions`. Click ids
/// sort by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CustomerClicks {
    /// Version of the format: 1.
    pub v: u8,
    /// The first click that a conversion of the customer named.
    pub first: ClickId,
    /// The last one.
    pub last: ClickId,
}

impl CustomerClicks {
    /// Returns the clicks of a customer with one click.
    #[must_use]
    pub const fn of(click: ClickId) -> Self {
        Self { v: 1, first: click, last: click }
    }

    /// Returns the clicks of a customer that has these clicks and those of `other`.
    #[must_use]
    pub fn merged(self, other: Self) -> Self {
        Self { v: 1, first: self.first.min(other.first), last: self.last.max(other.last) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(same_as: &str, status: Option<&str>) -> RawConversion {
        RawConversion {
            v: 1,
            id: ConversionId::from_bits(1),
            workspace: WorkspaceId::new("acme"),
            received_at: Timestamp::from_millis(9),
            same_as: same_as.to_owned(),
            click_id: None,
            name: "purchase".to_owned(),
            order_id: None,
            product: None,
            amount: None,
            commission: None,
            affiliate_id: None,
            customer_id: None,
            status: status.map(str::to_owned),
            timestamp: Timestamp::from_millis(5),
            metadata: UserMap::default(),
        }
    }

    #[test]
    fn a_status_is_an_event_of_its_own_and_so_is_a_late_click() {
        let report = raw("order/purchase/7", Some("approved"));
        let same = RawConversion { id: ConversionId::from_bits(2), received_at: Timestamp::now(), ..report.clone() };
        assert_eq!(report.event_id(), same.event_id());
        let ids = [
            report.event_id(),
            raw("order/purchase/7", Some("refunded")).event_id(),
            raw("order/purchase/7", None).event_id(),
            raw("order/purchase/8", Some("approved")).event_id(),
            late_event_id("acme", "order/purchase/7", "approved", Timestamp::from_millis(5)),
        ];
        for (index, id) in ids.iter().enumerate() {
            assert!(!ids[..index].contains(id));
        }
    }

    #[test]
    fn shards_are_spread_and_statuses_of_an_order_stay_together() {
        let shards: std::collections::BTreeSet<u16> =
            (0..200).map(|n| raw(&format!("order/purchase/{n}"), None).shard() % 8).collect();
        assert_eq!(shards.len(), 8);
        let (first, update) = (raw("order/a/1", None), raw("order/a/1", Some("refunded")));
        assert_eq!((first.shard(), first.order_key()), (update.shard(), update.order_key()));
    }

    #[test]
    fn no_person_can_be_read_from_a_key() {
        let key = customer_key(&WorkspaceId::new("acme"), "jane@example.com");
        assert!(key.starts_with("acme/customer/") && !key.contains("jane"), "{key}");
    }

    #[test]
    fn a_customer_has_a_first_and_a_last_click() {
        let click = |at| ClickId::new(Timestamp::from_millis(at), 0, 0);
        let clicks =
            CustomerClicks::of(click(2)).merged(CustomerClicks::of(click(1))).merged(CustomerClicks::of(click(3)));
        assert_eq!((clicks.first, clicks.last), (click(1), click(3)));
    }
}
