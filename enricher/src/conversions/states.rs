//! The states of orders and the clicks of customers: as the topic `conversions` has
//! them, and above that as this member has changed them since its last reset.

use std::collections::HashMap;

use schemas::conversion::{CustomerClicks, OrderState};

/// The states that decide on reports.
#[derive(Default)]
pub(super) struct States {
    orders: Layered<OrderState>,
    customers: Layered<CustomerClicks>,
}

/// Committed values, and own values that may be uncommitted.
struct Layered<T> {
    committed: HashMap<String, T>,
    own: HashMap<String, T>,
}

impl<T> Default for Layered<T> {
    fn default() -> Self {
        Self { committed: HashMap::new(), own: HashMap::new() }
    }
}

impl<T: Clone + PartialEq> Layered<T> {
    fn get(&self, key: &str) -> Option<&T> {
        self.own.get(key).or_else(|| self.committed.get(key))
    }

    fn commit(&mut self, key: &str, value: T) {
        if self.own.get(key) == Some(&value) {
            self.own.remove(key);
        }
        self.committed.insert(key.to_owned(), value);
    }

    fn remove(&mut self, key: &str) {
        self.committed.remove(key);
        self.own.remove(key);
    }
}

impl States {
    /// Forgets own changes, which may never be committed. Returns the keys of the orders
    /// that were changed.
    pub(super) fn reset(&mut self) -> Vec<String> {
        self.customers.own.clear();
        self.orders.own.drain().map(|(key, _)| key).collect()
    }

    /// Applies a committed record of the topic.
    pub(super) fn apply(&mut self, key: &str, value: Option<&[u8]>) {
        let is_customer = key.split('/').nth(1) == Some("customer");
        match value {
            None if is_customer => self.customers.remove(key),
            None => self.orders.remove(key),
            // A record of a newer version is no state that this member can use.
            Some(value) if is_customer => {
                if let Ok(clicks) = serde_json::from_slice(value) {
                    self.customers.commit(key, clicks);
                }
            }
            Some(value) => {
                if let Ok(order) = serde_json::from_slice(value) {
                    self.orders.commit(key, order);
                }
            }
        }
    }

    /// Returns the state of an order.
    pub(super) fn order(&self, key: &str) -> Option<&OrderState> {
        self.orders.get(key)
    }

    /// Notes the changed state of an order.
    pub(super) fn set_order(&mut self, key: String, order: OrderState) {
        self.orders.own.insert(key, order);
    }

    /// Returns the clicks of a customer. Other members change them too.
    pub(super) fn customer(&self, key: &str) -> Option<CustomerClicks> {
        let committed = self.customers.committed.get(key).copied();
        let own = self.customers.own.get(key).copied();
        match (committed, own) {
            (Some(committed), Some(own)) => Some(committed.merged(own)),
            (committed, own) => committed.or(own),
        }
    }

    /// Notes the changed clicks of a customer.
    pub(super) fn set_customer(&mut self, key: String, clicks: CustomerClicks) {
        self.customers.own.insert(key, clicks);
    }
}

#[cfg(test)]
mod tests {
    use schemas::{
        ClickId, ConversionId, Timestamp,
        conversion::{Attributed, ReportedStatus},
    };

    use super::*;

    fn order(outcome: Attributed) -> OrderState {
        let status = ReportedStatus { status: None, at: Timestamp::from_millis(1), outcome, unattributed_at: None };
        let conversion = ConversionId::from_bits(1);
        OrderState { v: 1, conversion, click_id: None, shard: None, traceparent: None, statuses: vec![status] }
    }

    #[test]
    fn own_changes_go_before_older_records_and_a_reset_forgets_them() {
        let mut states = States::default();
        let key = "acme/order/1".to_owned();
        let (waiting, found) = (order(Attributed::Waiting), order(Attributed::Attributed));
        states.set_order(key.clone(), found.clone());
        states.apply(&key, Some(&serde_json::to_vec(&waiting).unwrap()));
        assert_eq!(states.order(&key), Some(&found));
        assert_eq!(states.reset(), std::slice::from_ref(&key));
        assert_eq!(states.order(&key), Some(&waiting));
        states.apply(&key, None);
        assert_eq!(states.order(&key), None);
    }

    #[test]
    fn the_clicks_that_several_members_know_of_a_customer_are_merged() {
        let mut states = States::default();
        let key = "acme/customer/1".to_owned();
        let click = |at| ClickId::new(Timestamp::from_millis(at), 0, 0);
        states.set_customer(key.clone(), CustomerClicks::of(click(5)));
        states.apply(&key, Some(&serde_json::to_vec(&CustomerClicks::of(click(2))).unwrap()));
        let clicks = states.customer(&key).unwrap();
        assert_eq!((clicks.first, clicks.last), (click(2), click(5)));
        states.apply(&key, None);
        assert_eq!(states.customer(&key), None);
    }
}
