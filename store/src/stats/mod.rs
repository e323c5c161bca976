//! The statistics: the clicks, scans and conversions of a link, a campaign, a product, a tag, a
//! domain or a workspace, over any time.
//!
//! `subject.rs` says which rows belong to a subject, `period.rs` cuts a time into slices that
//! roll-ups answer and slices for which rows are read. `counts.rs`, `conversions.rs`, `series.rs`
//! and `top.rs` have one question each, `fresh.rs` tells how new the answers are, `before.rs` what
//! was counted before a moment. Every question
//! is bounded (`bounds.rs`).

mod before;
mod bounds;
mod conversions;
mod counts;
mod fresh;
mod period;
mod series;
mod subject;
mod top;

pub use conversions::{AdStats, ConversionCounts, Revenue};
pub use counts::{HourlyClicks, LinkClicks, SubjectCounts};
pub use period::StatsPeriod;
pub use series::SeriesPoint;
pub use subject::StatsSubject;
pub use top::{Dimension, TopEntry};
