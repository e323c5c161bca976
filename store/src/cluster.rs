//! A ClickHouse of several replicas: `clickhouse.cluster`. The migrations are those of one
//! server, made for all replicas; inserts wait for a quorum, and what decides whether a row
//! is there is asked so that a replica which lacks acknowledged rows does not answer.
//!
//! `dispatcher/src/warehouse` finds out by looking whether an insert has happened. That is
//! right only if whoever is asked knows of every acknowledged insert. So an insert is
//! acknowledged when a majority has it and the one before it (`insert_quorum`, not
//! parallel), and a replica that is behind refuses to be asked
//! (`select_sequential_consistency`): the question is asked again later, like after any
//! other error.

use clickhouse::query::Query;

use crate::{Store, StoreConfig};

/// The places of the tables in Keeper, and the names of replicas, by the servers' macros
/// `{shard}` and `{replica}`. ClickHouse fills in the database and the table.
const REPLICATED: &str = "('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')";

/// The beginnings of statements that are made on every replica. The name of a database, a
/// table or a view follows.
const ON_EACH: [&str; 5] = [
    "CREATE DATABASE IF NOT EXISTS ",
    "CREATE TABLE IF NOT EXISTS ",
    "CREATE VIEW IF NOT EXISTS ",
    "CREATE OR REPLACE VIEW ",
    "ALTER TABLE ",
];

impl StoreConfig {
    /// Returns a statement that makes or alters a database, table or view as this
    /// installation needs it: on one server as it is, in a cluster on each replica.
    pub(crate) fn statement(&self, sql: &str) -> String {
        if self.cluster.is_empty() {
            return sql.to_owned();
        }
        let sql = sql
            .replace("ENGINE = MergeTree", &format!("ENGINE = ReplicatedMergeTree{REPLICATED}"))
            .replace("ENGINE = ReplacingMergeTree", &format!("ENGINE = ReplicatedReplacingMergeTree{REPLICATED}"))
            .replace("non_replicated_deduplication_window", "replicated_deduplication_window");
        let begins = ON_EACH.iter().find_map(|begin| Some((*begin, sql.strip_prefix(begin)?)));
        let Some((begin, rest)) = begins else { return sql };
        let name_ends = rest.find(char::is_whitespace).unwrap_or(rest.len());
        let (name, rest) = rest.split_at(name_ends);
        format!("{begin}{name} ON CLUSTER `{}`{rest}", self.cluster)
    }

    /// Returns where the queries are listed that run on any server that may have an insert.
    pub(crate) fn processes(&self) -> String {
        match self.cluster.as_str() {
            "" => "system.processes".to_owned(),
            cluster => format!("clusterAllReplicas('{cluster}', system.processes)"),
        }
    }

    /// Returns the beginning of a statement that ends queries, wherever they run.
    pub(crate) fn kill_query(&self) -> String {
        match self.cluster.as_str() {
            "" => "KILL QUERY".to_owned(),
            cluster => format!("KILL QUERY ON CLUSTER `{cluster}`"),
        }
    }

    /// Returns the settings of an insert that no acknowledged row is lost by.
    pub(crate) fn insert_settings(&self) -> Vec<(&'static str, String)> {
        if self.cluster.is_empty() {
            return Vec::new();
        }
        vec![
            ("insert_quorum", "auto".to_owned()),
            ("insert_quorum_parallel", "0".to_owned()),
            ("insert_quorum_timeout", self.insert_timeout_ms.to_string()),
        ]
    }
}

impl Store {
    /// Returns a question whose answer has every acknowledged row.
    pub(crate) fn exact_query(&self, sql: &str) -> Query {
        let query = self.query(sql);
        if self.config().cluster.is_empty() {
            return query;
        }
        query.with_setting("select_sequential_consistency", "1")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clustered() -> StoreConfig {
        StoreConfig { cluster: "eu".to_owned(), ..StoreConfig::default() }
    }

    #[test]
    fn one_server_gets_statements_as_they_are() {
        let config = StoreConfig::default();
        let table = "CREATE TABLE IF NOT EXISTS clicks (id String) ENGINE = MergeTree ORDER BY id";
        assert_eq!(config.statement(table), table);
        assert_eq!(config.processes(), "system.processes");
        assert_eq!(config.kill_query(), "KILL QUERY");
        assert!(config.insert_settings().is_empty());
    }

    #[test]
    fn a_cluster_gets_replicated_tables_on_each_of_its_replicas() {
        let statement = |sql: &str| clustered().statement(sql);
        assert_eq!(
            statement(
                "CREATE TABLE IF NOT EXISTS clicks\n(\n    id String\n)\nENGINE = MergeTree\nORDER BY id\nSETTINGS non_replicated_deduplication_window = 5"
            ),
            "CREATE TABLE IF NOT EXISTS clicks ON CLUSTER `eu`\n(\n    id String\n)\nENGINE = \
             ReplicatedMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')\nORDER BY id\nSETTINGS \
             replicated_deduplication_window = 5"
        );
        assert_eq!(
            statement("ALTER TABLE clicks\n    ADD COLUMN IF NOT EXISTS a String"),
            "ALTER TABLE clicks ON CLUSTER `eu`\n    ADD COLUMN IF NOT EXISTS a String"
        );
        assert_eq!(
            statement("CREATE VIEW IF NOT EXISTS current AS SELECT 1"),
            "CREATE VIEW IF NOT EXISTS current ON CLUSTER `eu` AS SELECT 1"
        );
        assert_eq!(statement("CREATE DATABASE IF NOT EXISTS `a`"), "CREATE DATABASE IF NOT EXISTS `a` ON CLUSTER `eu`");
    }

    #[test]
    fn running_inserts_are_looked_for_on_every_replica() {
        assert_eq!(clustered().processes(), "clusterAllReplicas('eu', system.processes)");
        assert_eq!(clustered().kill_query(), "KILL QUERY ON CLUSTER `eu`");
    }

    #[test]
    fn an_insert_waits_for_a_majority_within_its_time() {
        let settings = clustered().insert_settings();
        assert!(settings.contains(&("insert_quorum", "auto".to_owned())), "{settings:?}");
        assert!(settings.contains(&("insert_quorum_parallel", "0".to_owned())), "{settings:?}");
        assert!(settings.contains(&("insert_quorum_timeout", "30000".to_owned())), "{settings:?}");
    }
}
