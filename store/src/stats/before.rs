//! People's clicks before a moment, to the millisecond.

use schemas::{Timestamp, WorkspaceId};

use crate::{
    Store, StoreError,
    roll_ups::RollUp,
    stats::{
        bounds::bounded,
        counts::rows,
        period::slices_until,
        subject::{ClickSource, StatsSubject},
    },
};

impl Store {
    /// Returns the clicks and scans by people of a link or campaign before a moment.
    ///
    /// # Errors
    /// When ClickHouse does not answer, or the question is beyond its bounds.
    pub async fn people_before(
        &self,
        workspace: &WorkspaceId,
        subject: &StatsSubject,
        at: Timestamp,
    ) -> Result<u64, StoreError> {
        let whole = subject.quarters().map_or(ClickSource::RollUp(RollUp::Totals), ClickSource::RollUp);
        let parts: Vec<String> = slices_until(at, whole)
            .iter()
            .map(|slice| {
                let settings = slice.source.settings();
                format!("SELECT countIf(NOT bot) AS people {}{settings}", rows(subject, slice))
            })
            .collect();
        let sql = format!("SELECT sum(people) FROM ({})", parts.join(" UNION ALL "));
        let query = bounded(subject.bind(workspace, self.query(&sql)));
        self.timed(query.fetch_one()).await
    }
}
