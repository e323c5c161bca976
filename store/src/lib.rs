//! ClickHouse, for the rest of the project: the only crate that speaks to it.
//!
//! It knows how to connect ([`StoreConfig`]), which tables there are
//! ([`Table`], `migrations/`), how a row is laid out ([`rows`]), how a block of
//! rows is inserted and looked for ([`Insertion`]), the clicks of conversions
//! ([`Store::clicks_by_id`]) and the conversions that have none
//! ([`Store::unattributed_conversions`]), the queries of the statistics
//! and limits (`stats/`, [`Store::link_totals`], [`Store::conversions`]), those of the watch
//! over links and campaigns (`watch.rs`), the log of deliveries ([`Store::attempts`]), the
//! audit log ([`Store::audit_log`]), how a person's rows are deleted ([`Store::erase`]), and how many rows came from which records
//! ([`Store::row_counts`]). It does not know Kafka:
//! `dispatcher/src/warehouse` decides which offsets a block holds and when the block
//! counts as stored.

mod attempts;
mod audit;
mod click_record;
mod clicks;
mod cluster;
mod config;
mod conversions;
mod erasure;
mod error;
mod http_client;
mod insert;
mod layout;
mod migrate;
mod native;
mod present;
mod roll_ups;
mod row_counts;
mod rowbinary;
pub mod rows;
mod stats;
mod table;
mod totals;
mod unattributed;
mod watch;

pub use attempts::{AttemptCursor, AttemptFilter, AttemptRow};
pub use audit::{AuditFilter, AuditRow};
pub use clicks::StoredClick;
pub use config::{Store, StoreConfig};
pub use conversions::{ConversionFilter, ConversionRow};
pub use erasure::{Erased, Person, PersonRows};
pub use error::StoreError;
pub use insert::Insertion;
pub use migrate::Migrated;
pub use present::Span;
pub use row_counts::{PartitionRange, RowCount};
pub use rowbinary::RowWriter;
pub use stats::{
    AdStats, ConversionCounts, Dimension, HourlyClicks, LinkClicks, Revenue, SeriesPoint, StatsPeriod, StatsSubject,
    SubjectCounts, TopEntry,
};
pub use table::Table;
pub use totals::LinkTotal;
pub use unattributed::UnattributedConversion;
pub use watch::{BurstRow, BusyLink, CampaignPeople, LINK_SLICES, LinkHistory, LinkPeople};
