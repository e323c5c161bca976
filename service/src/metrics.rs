//! Metrics in the Prometheus exposition format (OpenMetrics 1.0). Names are
//! `clickhook_<service>_<thing>_<unit>`; label sets are bounded.

use std::{any::Any, collections::HashMap, fmt, sync::Arc};

use parking_lot::Mutex;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Metric, Registry},
};

/// The metrics of a process. Cheap to clone. A name that was registered before,
/// as by a role that is started again, gives the same metric.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    registry: Registry,
    known: HashMap<String, Box<dyn Any + Send>>,
}

impl Metrics {
    fn metric<M: Metric + Clone>(&self, name: &str, help: &str, make: impl FnOnce() -> M) -> M {
        let mut inner = self.inner.lock();
        if let Some(known) = inner.known.get(name).and_then(|known| known.downcast_ref::<M>()) {
            return known.clone();
        }
        let metric = make();
        inner.registry.register(name, help, metric.clone());
        inner.known.insert(name.to_owned(), Box::new(metric.clone()));
        metric
    }

    /// A counter; `_total` is added to `name`.
    #[must_use]
    pub fn counter(&self, name: &str, help: &str) -> Counter {
        self.metric(name, help, Counter::default)
    }

    /// A counter for each label set.
    #[must_use]
    pub fn family_counter<L>(&self, name: &str, help: &str) -> Family<L, Counter>
    where
        L: Clone + std::hash::Hash + Eq + EncodeLabelSet + fmt::Debug + Send + Sync + 'static,
    {
        self.metric(name, help, Family::<L, Counter>::default)
    }

    /// A gauge.
    #[must_use]
    pub fn gauge(&self, name: &str, help: &str) -> Gauge {
        self.metric(name, help, Gauge::default)
    }

    /// A gauge for each label set.
    #[must_use]
    pub fn family_gauge<L>(&self, name: &str, help: &str) -> Family<L, Gauge>
    where
        L: Clone + std::hash::Hash + Eq + EncodeLabelSet + fmt::Debug + Send + Sync + 'static,
    {
        self.metric(name, help, Family::<L, Gauge>::default)
    }

    /// A histogram with these upper bounds.
    #[must_use]
    pub fn histogram(&self, name: &str, help: &str, buckets: impl IntoIterator<Item = f64>) -> Histogram {
        self.metric(name, help, || Histogram::new(buckets))
    }

    /// Everything, as text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.inner.lock().registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_that_is_started_again_goes_on_counting() {
        let metrics = Metrics::default();
        metrics.counter("clickhook_test_starts", "Starts").inc();
        metrics.counter("clickhook_test_starts", "Starts").inc();
        let text = metrics.text();
        assert_eq!(text.matches("# TYPE clickhook_test_starts counter").count(), 1, "{text}");
        assert!(text.contains("clickhook_test_starts_total 2"), "{text}");
    }
}
