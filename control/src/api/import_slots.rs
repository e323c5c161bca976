//! The limit of concurrent imports, for the installation and for each workspace.

use std::time::Duration;

use parking_lot::Mutex;
use schemas::WorkspaceId;
use service::problem::Problem;

/// The most imports that run at once.
const SLOTS: usize = 4;
/// The most imports of one workspace that run at once.
const SLOTS_PER_WORKSPACE: usize = 2;
/// The pause that a caller is asked to make before the next attempt.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// The workspaces of the imports that run now, one entry for each import.
#[derive(Default)]
pub(crate) struct ImportSlots(Mutex<Vec<WorkspaceId>>);

/// The slot of a running import; dropping it frees its place.
pub(crate) struct ImportSlot<'s> {
    slots: &'s ImportSlots,
    workspace: WorkspaceId,
}

impl ImportSlots {
    /// Takes a slot for an import of the workspace.
    ///
    /// # Errors
    /// When all slots, or all slots of the workspace, are taken.
    pub(crate) fn take(&self, workspace: &WorkspaceId) -> Result<ImportSlot<'_>, Problem> {
        let mut running = self.0.lock();
        let of_workspace = running.iter().filter(|owner| *owner == workspace).count();
        if running.len() >= SLOTS || of_workspace >= SLOTS_PER_WORKSPACE {
            let detail = format!(
                "{} imports are running, {of_workspace} of them of this workspace, which may have \
                 {SLOTS_PER_WORKSPACE}: wait until one has ended",
                running.len()
            );
            return Err(Problem::limited(detail, RETRY_AFTER));
        }
        running.push(workspace.clone());
        Ok(ImportSlot { slots: self, workspace: workspace.clone() })
    }
}

impl Drop for ImportSlot<'_> {
    fn drop(&mut self) {
        let mut running = self.slots.0.lock();
        if let Some(at) = running.iter().position(|owner| *owner == self.workspace) {
            running.swap_remove(at);
        }
    }
}
