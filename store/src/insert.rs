//! Inserting a block of rows.
//!
//! One insert is one block, and so one part for each month that it touches. A part is
//! inserted whole or not at all, but of a block that touches two months only one part
//! may be there. After an uncertain insert, look for rows and not for blocks.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tracing::debug;

use crate::{Store, StoreError, Table, layout::TypedColumn, native};

/// More rows, and more bytes, than a block of ours ever has.
const ONE_BLOCK: &str = "10000000";

/// A block of rows to be inserted.
#[derive(Clone, Debug)]
pub struct Insertion {
    /// The table that the rows go to.
    pub table: Table,
    /// The rows, as [`rows`](crate::rows) writes them, in pieces of one or more.
    pub rows: Vec<Bytes>,
    /// The deduplication token. ClickHouse takes a block with the same token once, as
    /// long as it remembers the token.
    pub token: String,
    /// The id of the query in `system.processes`.
    pub query_id: String,
}

impl Store {
    /// Inserts a block. When this returns without error, its rows are there, or
    /// a block with its token was there before.
    ///
    /// # Errors
    /// When ClickHouse refused the block, or did not answer: then the block may be
    /// there, or still on its way. When the table has been altered: then nothing is sent.
    pub async fn insert(&self, insertion: Insertion) -> Result<(), StoreError> {
        let table = insertion.table;
        let inserted = self.insert_block(insertion).await;
        if inserted.is_err() {
            self.layouts().lock().remove(&table);
        }
        inserted
    }

    async fn insert_block(&self, insertion: Insertion) -> Result<(), StoreError> {
        let table = insertion.table;
        let known = self.layouts().lock().get(&table).cloned();
        let columns = match known {
            Some(columns) => columns,
            None => {
                let columns: Arc<[TypedColumn]> = self.layout(table).await?.into();
                self.layouts().lock().insert(table, Arc::clone(&columns));
                columns
            }
        };
        let block = native::block(&columns, &insertion.rows)
            .map_err(|error| StoreError::NotRows { table: table.name(), reason: error.to_string() })?;
        let names: Vec<&str> = table.column_names().collect();
        let sql = format!("INSERT INTO {} ({}) FORMAT Native", table.name(), names.join(", "));
        let mut insert = self
            .inside()
            .insert_formatted_with(sql)
            // On by default since 26.x; it would cut and join blocks.
            .with_setting("async_insert", "0")
            .with_setting("insert_deduplicate", "1")
            .with_setting("insert_deduplication_token", insertion.token)
            .with_setting("query_id", insertion.query_id)
            // A column that has been altered since is an error, and not converted.
            .with_setting("input_format_native_allow_types_conversion", "0")
            // One insert, one block.
            .with_setting("max_insert_block_size", ONE_BLOCK)
            .with_setting("min_insert_block_size_rows", ONE_BLOCK)
            .with_setting("min_insert_block_size_bytes", "0")
            // Rows that waited long may touch many months.
            .with_setting("max_partitions_per_insert_block", "0");
        for (setting, value) in self.config().insert_settings() {
            insert = insert.with_setting(setting, value);
        }
        let limit = Duration::from_millis(self.config().insert_timeout_ms);
        self.within(limit, async {
            insert.send(block.into()).await?;
            insert.end().await
        })
        .await
    }

    /// Ends the queries whose id begins with `prefix`, and returns when none is left, so
    /// that they can insert nothing later.
    ///
    /// # Errors
    /// When ClickHouse does not answer, or one is left after the time of an insert.
    pub async fn quiesce(&self, prefix: &str) -> Result<(), StoreError> {
        let limit = Duration::from_millis(self.config().insert_timeout_ms);
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            let running = format!(
                "SELECT count() FROM {} WHERE startsWith(query_id, {{prefix:String}})",
                self.config().processes()
            );
            let running = self.query(&running).param("prefix", prefix);
            if self.timed(running.fetch_one::<u64>()).await? == 0 {
                return Ok(());
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(StoreError::Silent { url: self.config().url.clone(), limit });
            }
            let kill = format!(
                "{} WHERE startsWith(query_id, {{prefix:String}}) ASYNC FORMAT Null",
                self.config().kill_query()
            );
            let kill = self.query(&kill).param("prefix", prefix);
            // A user without the right to kill waits for the query instead.
            if let Err(error) = self.timed(kill.execute()).await {
                debug!(%error, "a query cannot be ended: it is waited for");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
