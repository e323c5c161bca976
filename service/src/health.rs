//! The readiness of a process for traffic: it is ready when all its parts are. A part
//! that is not ready gives the reason.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::watch;

/// The readiness of a process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Health {
    parts: Arc<Mutex<BTreeMap<String, Option<String>>>>,
    changed: Arc<watch::Sender<()>>,
}

impl Default for Health {
    fn default() -> Self {
        Self { parts: Arc::default(), changed: Arc::new(watch::channel(()).0) }
    }
}

/// One part of a process: ready, or waiting for something.
#[derive(Clone, Debug)]
pub struct Part {
    name: String,
    health: Health,
}

impl Health {
    /// Adds a part named `name`, which is starting.
    #[must_use]
    pub fn part(&self, name: &str) -> Part {
        let part = Part { name: name.to_owned(), health: self.clone() };
        part.not_ready("starting");
        part
    }

    /// Returns the reasons of the parts that are not ready; none when all are ready.
    #[must_use]
    pub fn waiting(&self) -> BTreeMap<String, String> {
        self.parts.lock().iter().filter_map(|(name, why)| Some((name.clone(), why.clone()?))).collect()
    }

    /// Returns whether every part is ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.parts.lock().values().all(Option::is_none)
    }

    /// Waits until every part is ready.
    pub async fn ready(&self) {
        let mut changed = self.changed.subscribe();
        while !self.is_ready() {
            // The sender lives in self, so the channel cannot close.
            let _ = changed.changed().await;
        }
    }

    /// Waits until there are `count` parts, ready or not.
    pub async fn has_parts(&self, count: usize) {
        let mut changed = self.changed.subscribe();
        while self.parts.lock().len() < count {
            // The sender lives in self, so the channel cannot close.
            let _ = changed.changed().await;
        }
    }

    fn set(&self, name: &str, why: Option<String>) {
        self.parts.lock().insert(name.to_owned(), why);
        self.changed.send_replace(());
    }
}

impl Part {
    /// Marks the part as ready.
    pub fn ready(&self) {
        self.health.set(&self.name, None);
    }

    /// Marks the part as not ready because of `why`.
    pub fn not_ready(&self, why: &str) {
        self.health.set(&self.name, Some(why.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ready_when_all_its_parts_are() {
        let health = Health::default();
        let (links, kafka) = (health.part("links"), health.part("kafka"));
        links.ready();
        assert_eq!(health.waiting(), BTreeMap::from([("kafka".to_owned(), "starting".to_owned())]));
        kafka.ready();
        assert!(health.is_ready());
        links.not_ready("draining");
        assert!(!health.is_ready());
    }
}
