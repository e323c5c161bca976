//! The deletion of a person's rows, and the count that proves it. Only `clicks` and
//! `conversions` tell of persons.
//!
//! A lightweight delete masks the rows at once, and drops the projections of the parts
//! that held them: ClickHouse does not take masked rows out of a projection that has rows
//! (its issue 111791), which would answer with them. Then, in the background, the masked
//! rows are taken off the disk and the projections are built again.

use std::time::Duration;

use clickhouse::query::Query;
use schemas::WorkspaceId;
use tracing::{info, warn};

use crate::{Store, StoreError, config::limited};

/// The fact by which a person's rows are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Person<'a> {
    /// The id that the shop has for the customer: the rows of the customer's conversions,
    /// and those of the clicks that led to them.
    Customer(&'a str),
    /// A session: the clicks of one address and user agent on one day, and their
    /// conversions.
    Session(&'a str),
    /// A click, and its conversions.
    Click(&'a str),
}

/// The numbers of a person's rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PersonRows {
    /// Rows of `clicks`.
    pub clicks: u64,
    /// Rows of `conversions`.
    pub conversions: u64,
}

/// The result of an erasure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Erased {
    /// The rows that were there before.
    pub erased: PersonRows,
    /// The rows that a count finds afterwards.
    pub remaining: PersonRows,
}

impl<'a> Person<'a> {
    /// Returns the condition of the person's rows of `clicks`. The database is named, since
    /// a delete is carried out by another thread of ClickHouse, which has no current one.
    fn clicks(self, database: &str) -> String {
        match self {
            Self::Customer(_) => format!(
                "id IN (SELECT click_id FROM {database}.conversions WHERE workspace = {{workspace:String}} \
                 AND customer_id = {{person:String}})"
            ),
            Self::Session(_) => "session_id = {person:String}".to_owned(),
            Self::Click(_) => "id = {person:String}".to_owned(),
        }
    }

    /// Returns the condition of the person's rows of `conversions`.
    fn conversions(self) -> String {
        let column = match self {
            Self::Customer(_) => "customer_id",
            Self::Session(_) => "session_id",
            Self::Click(_) => "click_id",
        };
        format!("{column} = {{person:String}}")
    }

    const fn text(self) -> &'a str {
        match self {
            Self::Customer(text) | Self::Session(text) | Self::Click(text) => text,
        }
    }
}

impl Store {
    /// Deletes the rows of a person in a workspace, and counts what is left of them.
    ///
    /// # Errors
    /// When ClickHouse does not answer, or refuses. A part of the rows may be deleted then;
    /// the call can be repeated.
    pub async fn erase(&self, workspace: &WorkspaceId, person: Person<'_>) -> Result<Erased, StoreError> {
        // A customer's clicks are found by the conversions, so the clicks are deleted first.
        let condition = person.clicks(&self.config().database);
        let clicks = self.delete_rows("clicks", &condition, workspace, person).await?;
        let conversions = self.delete_rows("conversions", &person.conversions(), workspace, person).await?;
        info!(%workspace, clicks = clicks.0, conversions = conversions.0, "rows of a person deleted");
        Ok(Erased {
            erased: PersonRows { clicks: clicks.0, conversions: conversions.0 },
            remaining: PersonRows { clicks: clicks.1, conversions: conversions.1 },
        })
    }

    /// Deletes rows of a table. Returns their number before and after.
    async fn delete_rows(
        &self,
        table: &str,
        condition: &str,
        workspace: &WorkspaceId,
        person: Person<'_>,
    ) -> Result<(u64, u64), StoreError> {
        let rows = format!("FROM {table} WHERE workspace = {{workspace:String}} AND {condition}");
        let query = |begin: &str| -> Query {
            let query = self.query(&format!("{begin} {rows}"));
            query.param("workspace", workspace.as_str()).param("person", person.text())
        };
        let limit = Duration::from_millis(self.config().insert_timeout_ms);
        let query = |begin: &str| limited(query(begin), limit);
        let before = self.within(limit, query("SELECT count()").fetch_one()).await?;
        if before == 0 {
            return Ok((0, 0));
        }
        self.within(limit, query("DELETE").execute()).await?;
        if let Err(error) = self.purge(table).await {
            warn!(table, %error, "deleted rows not purged: they leave the disk when ClickHouse merges their parts");
        }
        let after = self.within(limit, query("SELECT count()").fetch_one()).await?;
        Ok((before, after))
    }

    /// Lets ClickHouse take masked rows of a table off the disk, and build the projections
    /// of their parts. Returns without waiting for it.
    async fn purge(&self, table: &str) -> Result<(), StoreError> {
        let names = "SELECT name FROM system.projections WHERE database = currentDatabase() AND table = ?";
        let projections: Vec<String> = self.timed(self.query(names).bind(table).fetch_all()).await?;
        let built = projections.iter().map(|name| format!(", MATERIALIZE PROJECTION {name}"));
        let statement = format!("ALTER TABLE {table} APPLY DELETED MASK{}", built.collect::<String>());
        self.timed(self.query(&statement).with_setting("mutations_sync", "0").execute()).await
    }
}
