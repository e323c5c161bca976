//! The tables, made by versioned statements that are part of the program. Every
//! statement may run again and at the same time elsewhere (`IF NOT EXISTS`), so
//! replicas that start together need no lock, and a version is recorded only
//! after its last statement. A statement that rewrites rows is a mutation that nobody
//! waits for (`mutations_sync = 0`): ClickHouse carries it out in the background, resumes
//! it after a restart, and skips the parts that need nothing.

use std::time::Duration;

use clickhouse::sql::Identifier;
use tracing::info;

use crate::{Store, StoreError, Table};

struct Migration {
    version: u32,
    name: &'static str,
    /// Statements, separated by a semicolon at the end of a line.
    sql: &'static str,
}

const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "clicks", sql: include_str!("../migrations/0001_clicks.sql") },
    Migration { version: 2, name: "link_events", sql: include_str!("../migrations/0002_link_events.sql") },
    Migration { version: 3, name: "deliveries", sql: include_str!("../migrations/0003_deliveries.sql") },
    Migration { version: 4, name: "click_facts", sql: include_str!("../migrations/0004_click_facts.sql") },
    Migration { version: 5, name: "conversions", sql: include_str!("../migrations/0005_conversions.sql") },
    Migration { version: 6, name: "rows_by_id", sql: include_str!("../migrations/0006_rows_by_id.sql") },
    Migration { version: 7, name: "roll_ups", sql: include_str!("../migrations/0007_roll_ups.sql") },
    Migration { version: 8, name: "batches", sql: include_str!("../migrations/0008_batches.sql") },
    Migration { version: 9, name: "audit", sql: include_str!("../migrations/0009_audit.sql") },
];

/// The newest version that this program knows.
const NEWEST: u32 = MIGRATIONS[MIGRATIONS.len() - 1].version;

/// The changes that a migration made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// Names of the migrations that were applied now.
    pub applied: Vec<&'static str>,
    /// Tables whose retention was changed to what is configured.
    pub retained: Vec<&'static str>,
}

/// The codes for a table that another process has just made: `TABLE_ALREADY_EXISTS`, `DATABASE_ALREADY_EXISTS`.
const ALREADY: [u32; 2] = [57, 82];

impl Store {
    /// Makes the database and its tables, and sets how long they keep rows.
    /// Existing tables are left as they are. Safe to run from several processes
    /// at once.
    ///
    /// # Errors
    /// When ClickHouse does not answer or refuses, or the database was made by a
    /// newer program.
    pub async fn migrate(&self) -> Result<Migrated, StoreError> {
        let database = self.config().database.clone();
        // In a cluster, a statement waits until every replica has carried it out.
        let limit = Duration::from_millis(self.config().query_timeout_ms.max(self.config().insert_timeout_ms));
        let create = self.config().statement("CREATE DATABASE IF NOT EXISTS ?");
        made(self.within(limit, self.anywhere().query(&create).bind(Identifier(&database)).execute()).await)?;
        let versions = "CREATE TABLE IF NOT EXISTS migrations (version UInt32 COMMENT 'Number of the version', name String COMMENT 'Name of the migration', \
                        applied_at DateTime DEFAULT now() COMMENT 'Time at which it was applied') ENGINE = ReplacingMergeTree ORDER BY version \
                        COMMENT 'Versions of this schema that were applied'";
        made(self.within(limit, self.inside().query_raw(&self.config().statement(versions)).execute()).await)?;
        let found: u32 = self.timed(self.query("SELECT max(version) FROM migrations").fetch_one()).await?;
        if found > NEWEST {
            return Err(StoreError::Newer { database, found, known: NEWEST });
        }
        let mut applied = Vec::new();
        for migration in MIGRATIONS.iter().filter(|migration| migration.version > found) {
            for statement in migration.sql.split(";\n").map(str::trim).filter(|statement| !statement.is_empty()) {
                let statement = self.config().statement(statement);
                made(self.within(limit, self.inside().query_raw(&statement).execute()).await)?;
            }
            let record = self
                .query("INSERT INTO migrations (version, name) SETTINGS async_insert = 0 VALUES (?, ?)")
                .bind(migration.version)
                .bind(migration.name);
            self.timed(record.execute()).await?;
            info!(database, version = migration.version, name = migration.name, "migration applied");
            applied.push(migration.name);
        }
        Ok(Migrated { applied, retained: self.retain().await? })
    }

    /// Sets the retention of tables where it differs from the configured one.
    async fn retain(&self) -> Result<Vec<&'static str>, StoreError> {
        let mut retained = Vec::new();
        for table in Table::ALL {
            let days = match table {
                Table::Clicks | Table::LinkEvents | Table::Conversions | Table::Audit => self.config().clicks_days,
                Table::Deliveries => self.config().deliveries_days,
            };
            let name = table.name();
            let engine: String = self
                .timed(
                    self.query("SELECT engine_full FROM system.tables WHERE database = currentDatabase() AND name = ?")
                        .bind(name)
                        .fetch_one(),
                )
                .await?;
            let statement = match (days, engine.contains(" TTL ")) {
                (0, false) => continue,
                (0, true) => format!("ALTER TABLE {name} REMOVE TTL"),
                (days, _) if engine.contains(&format!("toIntervalDay({days})")) => continue,
                (days, _) => {
                    format!("ALTER TABLE {name} MODIFY TTL toDateTime(timestamp) + toIntervalDay({days})")
                }
            };
            let statement = self.config().statement(&statement);
            let altered = self.timed(self.inside().query_raw(&statement).execute()).await;
            if let Err(error) = altered {
                // Where two processes remove the same TTL, the second finds none.
                let gone = days == 0 && error.code().is_some();
                if !gone {
                    return Err(error);
                }
            }
            retained.push(name);
        }
        Ok(retained)
    }
}

fn made(outcome: Result<(), StoreError>) -> Result<(), StoreError> {
    match outcome {
        Err(error) if error.code().is_some_and(|code| ALREADY.contains(&code)) => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_count_up_and_every_statement_may_run_again() {
        for (at, migration) in MIGRATIONS.iter().enumerate() {
            assert_eq!(migration.version as usize, at + 1);
            for statement in migration.sql.split(";\n").filter(|statement| !statement.trim().is_empty()) {
                let repeatable =
                    [" IF NOT EXISTS ", " IF EXISTS ", " MODIFY SETTING ", " MODIFY COMMENT ", " APPLY DELETED MASK "];
                assert!(repeatable.iter().any(|words| statement.contains(words)), "{statement}");
            }
        }
    }
}
