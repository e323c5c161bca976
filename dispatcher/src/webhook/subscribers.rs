//! The endpoints of a workspace that ask for one event, found by one of their filters: an
//! event costs what the endpoints cost that may match it, and not those that exist.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use schemas::{Event, filter::FilterKey};

use super::endpoints::Recipient;

/// The endpoints that ask for an event.
#[derive(Default)]
pub(super) struct SubscriberIndex {
    /// Endpoints whose filters name no fact that an event must have.
    of_any_fact: Vec<Arc<Recipient>>,
    /// The others, by the fact that few events have, as far as its kind tells.
    by_fact: BTreeMap<FilterKey, HashMap<String, Vec<Arc<Recipient>>>>,
}

impl SubscriberIndex {
    /// Adds an endpoint.
    pub(super) fn insert(&mut self, recipient: &Arc<Recipient>) {
        match recipient.filters.narrowest() {
            None => self.of_any_fact.push(Arc::clone(recipient)),
            Some((key, values)) => {
                let by_value = self.by_fact.entry(key).or_default();
                for value in values {
                    let recipients = by_value.entry(value.clone()).or_default();
                    // A value may stand twice in the list.
                    if recipients.last().is_none_or(|last| last.id != recipient.id) {
                        recipients.push(Arc::clone(recipient));
                    }
                }
            }
        }
    }

    /// Removes an endpoint.
    pub(super) fn remove(&mut self, recipient: &Recipient) {
        let others = |other: &Arc<Recipient>| other.id != recipient.id;
        let Some((key, values)) = recipient.filters.narrowest() else {
            self.of_any_fact.retain(others);
            return;
        };
        let Some(by_value) = self.by_fact.get_mut(&key) else { return };
        for value in values {
            let Some(recipients) = by_value.get_mut(value) else { continue };
            recipients.retain(others);
            if recipients.is_empty() {
                by_value.remove(value);
            }
        }
        if by_value.is_empty() {
            self.by_fact.remove(&key);
        }
    }

    /// Whether nobody asks for the event.
    pub(super) fn is_empty(&self) -> bool {
        self.of_any_fact.is_empty() && self.by_fact.is_empty()
    }

    /// Returns the endpoints whose filters `event` passes, each once.
    pub(super) fn matching(&self, event: &Event<'_>) -> Vec<Arc<Recipient>> {
        let mut found: Vec<Arc<Recipient>> = Vec::new();
        let mut add = |recipients: &[Arc<Recipient>]| {
            found.extend(recipients.iter().filter(|recipient| recipient.filters.pass(event)).cloned());
        };
        add(&self.of_any_fact);
        for (key, by_value) in &self.by_fact {
            key.facts(event, |fact| {
                if let Some(recipients) = by_value.get(fact) {
                    add(recipients);
                }
            });
        }
        // An event has several tags, and an endpoint may ask for more than one of them.
        if self.by_fact.contains_key(&FilterKey::Tags) {
            found.sort_unstable_by_key(|recipient| recipient.id);
            found.dedup_by_key(|recipient| recipient.id);
        }
        found
    }
}
