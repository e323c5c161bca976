//! The context of a handler: the leader of the moment, and the clients and settings that handlers use.

use std::sync::Arc;

use bus::Producer;
use service::{problem::Problem, vault::Vault};
use store::Store;

use crate::{
    api::{import_slots::ImportSlots, stats::slots::StatsSlots},
    dns::Dns,
    leading::{forward::Forwarder, leadership::Leadership, writer::ActiveLeader},
    metrics::ControlMetrics,
    rate::RequestRates,
    rules::ApiRules,
};

/// The context that all handlers share.
pub(crate) struct Api {
    pub(crate) leadership: Arc<Leadership>,
    pub(crate) forwarder: Forwarder,
    pub(crate) producer: Producer,
    pub(crate) vault: Arc<Vault>,
    pub(crate) store: Store,
    pub(crate) dns: Dns,
    pub(crate) rules: Arc<ApiRules>,
    /// The request rates of keys and workspaces.
    pub(crate) rates: RequestRates,
    pub(crate) metrics: ControlMetrics,
    pub(crate) import_slots: ImportSlots,
    pub(crate) stats_slots: StatsSlots,
}

impl Api {
    /// Returns the leader, which is this instance.
    ///
    /// # Errors
    /// When this instance does not lead.
    pub(crate) fn leader(&self) -> Result<Arc<ActiveLeader>, Problem> {
        self.leadership.leader().ok_or_else(|| {
            Problem::unavailable("This instance does not lead (yet): try again in a moment, or ask another instance")
        })
    }
}
