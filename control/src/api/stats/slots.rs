//! The bounds of the statistics of each workspace: how many questions it asks at once, and how
//! often the time of its newest click is looked up.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use schemas::{Timestamp, WorkspaceId};
use service::problem::Problem;

/// The most questions of one workspace that are asked at once. Each has a time limit in ClickHouse.
const SLOTS_PER_WORKSPACE: usize = 8;
/// The pause that a caller is asked to make before the next attempt.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// The time for which the newest click is remembered.
const NEWEST_FOR: Duration = Duration::from_secs(1);

/// The questions that are asked now, by workspace.
#[derive(Default)]
pub(crate) struct StatsSlots {
    running: Mutex<HashMap<WorkspaceId, usize>>,
    newest: Mutex<HashMap<WorkspaceId, (Instant, Option<Timestamp>)>>,
}

/// The slot of a question; dropping it frees its place.
pub(crate) struct StatsSlot<'s> {
    slots: &'s StatsSlots,
    workspace: WorkspaceId,
}

impl StatsSlots {
    /// Takes a slot for a question of the workspace.
    ///
    /// # Errors
    /// When all slots of the workspace are taken.
    pub(crate) fn take(&self, workspace: &WorkspaceId) -> Result<StatsSlot<'_>, Problem> {
        let mut running = self.running.lock();
        let of_workspace = running.entry(workspace.clone()).or_default();
        if *of_workspace >= SLOTS_PER_WORKSPACE {
            let detail = format!(
                "{SLOTS_PER_WORKSPACE} questions of this workspace are being answered: wait until one has its answer"
            );
            return Err(Problem::limited(detail, RETRY_AFTER));
        }
        *of_workspace += 1;
        Ok(StatsSlot { slots: self, workspace: workspace.clone() })
    }

    /// Returns the time of the newest click, if it was looked up just now.
    pub(crate) fn newest(&self, workspace: &WorkspaceId) -> Option<Option<Timestamp>> {
        let newest = self.newest.lock();
        newest.get(workspace).filter(|(at, _)| at.elapsed() < NEWEST_FOR).map(|(_, newest)| *newest)
    }

    /// Remembers the time of the newest click, and forgets what is out of date.
    pub(crate) fn set_newest(&self, workspace: &WorkspaceId, newest: Option<Timestamp>) {
        let mut known = self.newest.lock();
        known.retain(|_, (at, _)| at.elapsed() < NEWEST_FOR);
        known.insert(workspace.clone(), (Instant::now(), newest));
    }
}

impl Drop for StatsSlot<'_> {
    fn drop(&mut self) {
        let mut running = self.slots.running.lock();
        if let Some(of_workspace) = running.get_mut(&self.workspace) {
            *of_workspace -= 1;
            if *of_workspace == 0 {
                running.remove(&self.workspace);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workspace_has_slots_of_its_own_and_gets_them_back() {
        let slots = StatsSlots::default();
        let workspace = WorkspaceId::default();
        let taken: Vec<_> = (0..SLOTS_PER_WORKSPACE).map(|_| slots.take(&workspace).unwrap()).collect();
        assert!(slots.take(&workspace).is_err());
        assert!(slots.take(&WorkspaceId::new("other")).is_ok());
        drop(taken);
        assert!(slots.take(&workspace).is_ok());
        assert!(slots.running.lock().is_empty());
    }
}
