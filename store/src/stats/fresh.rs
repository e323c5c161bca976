//! How new the statistics are.

use schemas::{Timestamp, WorkspaceId};

use crate::{Store, StoreError, roll_ups::RollUp, stats::bounds::bounded};

impl Store {
    /// Returns the time of the workspace's newest click that is counted.
    ///
    /// # Errors
    /// When ClickHouse does not answer.
    pub async fn newest_click(&self, workspace: &WorkspaceId) -> Result<Option<Timestamp>, StoreError> {
        let sql = format!(
            "SELECT toUnixTimestamp64Milli(max(timestamp)) FROM clicks WHERE workspace = {{workspace:String}}{}",
            RollUp::Totals.settings()
        );
        let query = bounded(self.query(&sql).param("workspace", workspace.as_str()));
        let newest: i64 = self.timed(query.fetch_one()).await?;
        Ok((newest > 0).then(|| Timestamp::from_millis(newest)))
    }
}
