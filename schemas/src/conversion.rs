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

/// Returns the id of the event by which a conversion that had no click is told again with
/// its click, once. `at` is the time of the status that is told again.
#[must_use]
pub fn late_event_id(workspace: &str, conversion: ConversionId, at: Timestamp) -> EventId {
    // No `same_as` begins like this.
    let subject = format!("late/{conversion}");
    EventId::of(workspace, EventName::LinkConverted, &subject, "", at)
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
    /// The shard of the order's reports ([`RawConversion::shard`]), which tells the member
    /// that decides on the order. A state that has none is followed by no late click.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<u16>,
    /// The trace of the last report, where it was told without its click: the event that
    /// tells it with the click continues the trace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
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
    /// The time at which the report was told without its click, where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unattributed_at: Option<Timestamp>,
}

/// An order that was told without its click, which may still show up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingClick {
    /// The click.
    pub click: ClickId,
    /// The shard of the order's reports.
    pub shard: u16,
    /// The time at which the order was first told without the click.
    pub since: Timestamp,
}

impl OrderState {
    /// Returns the entry of a status.
    #[must_use]
    pub fn status(&self, status: Option<&str>) -> Option<&ReportedStatus> {
        self.statuses.iter().find(|known| known.status.as_deref() == status)
    }

    /// Notes a status and its outcome, or the new outcome of a known status. `at` is the
    /// report's own time, `now` the time of the outcome.
    pub fn note(&mut self, status: Option<&str>, at: Timestamp, outcome: Attributed, now: Timestamp) {
        let unattributed_at = (outcome == Attributed::Unattributed).then_some(now);
        match self.statuses.iter_mut().find(|known| known.status.as_deref() == status) {
            Some(known) => {
                known.outcome = outcome;
                known.unattributed_at = unattributed_at;
            }
            None => {
                let status = status.map(str::to_owned);
                self.statuses.push(ReportedStatus { status, at, outcome, unattributed_at });
            }
        }
    }

    /// Returns the click that the order was told without, if no status of the order has a
    /// click or still waits for one.
    #[must_use]
    pub fn missing_click(&self) -> Option<MissingClick> {
        let is_open = self.statuses.iter().all(|known| known.outcome == Attributed::Unattributed);
        let since = self.statuses.iter().filter_map(|known| known.unattributed_at).min();
        Some(MissingClick { click: self.click_id?, shard: self.shard?, since: since.filter(|_| is_open)? })
    }

    /// Notes that the click of the whole order was found.
    pub fn note_late_click(&mut self) {
        self.traceparent = None;
        for known in &mut self.statuses {
            known.outcome = Attributed::Attributed;
            known.unattributed_at = None;
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
            late_event_id("acme", report.id, Timestamp::from_millis(5)),
        ];
        for (index, id) in ids.iter().enumerate() {
            assert!(!ids[..index].contains(id));
        }
    }

    #[test]
    fn an_order_awaits_its_click_once_all_its_statuses_were_told_without() {
        let (click, at) = (ClickId::new(Timestamp::from_millis(1), 0, 0), Timestamp::from_millis);
        let id = ConversionId::from_bits(1);
        let mut order = OrderState {
            v: 1,
            conversion: id,
            click_id: Some(click),
            shard: Some(7),
            traceparent: None,
            statuses: Vec::new(),
        };
        order.note(Some("pending"), at(5), Attributed::Waiting, at(6));
        assert_eq!(order.missing_click(), None);
        order.note(Some("pending"), at(5), Attributed::Unattributed, at(7));
        assert_eq!(order.missing_click(), Some(MissingClick { click, shard: 7, since: at(7) }));
        order.note(Some("approved"), at(8), Attributed::Waiting, at(8));
        assert_eq!(order.missing_click(), None, "the new status may find the click");
        order.note(Some("approved"), at(8), Attributed::Unattributed, at(9));
        assert_eq!(order.missing_click(), Some(MissingClick { click, shard: 7, since: at(7) }));
        assert_eq!(OrderState { click_id: None, ..order.clone() }.missing_click(), None);
        order.note_late_click();
        assert_eq!(order.missing_click(), None);
        assert_eq!(order.status(Some("pending")).unwrap().outcome, Attributed::Attributed);
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
