//! Whether every click that was answered is in ClickHouse, once.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    time::{Duration, Instant},
};

use anyhow::Context;
use serde::Serialize;

use super::rig::Rig;

/// How long clicks may take to come, and for how long nothing must come then.
const CATCH_UP: Duration = Duration::from_secs(180);
const QUIET: Duration = Duration::from_secs(3);

/// The clicks of a trial that are in ClickHouse.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Proof {
    /// Clicks that were answered and are not there.
    pub(crate) lost: usize,
    /// Clicks that are there more than once.
    pub(crate) doubled: usize,
    /// Clicks that are there and were not answered: their visitors were cut off.
    pub(crate) unanswered: usize,
}

/// The rows of the table in the end.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Rows {
    pub(crate) rows: u64,
    pub(crate) ids: u64,
    pub(crate) markers: u64,
}

/// The proof, once nothing more comes; and when the last answered click came. As many
/// answered clicks as are `missing` do not come.
pub(crate) async fn of(
    rig: &mut Rig,
    answered: &BTreeSet<u32>,
    markers: Range<u32>,
    missing: usize,
) -> anyhow::Result<(Proof, Instant)> {
    let begun = Instant::now();
    let (mut complete, mut before, mut changed) = (None, 0, Instant::now());
    let found = loop {
        let found = look(rig, &markers).await?;
        let all = found.values().sum::<usize>();
        if all != before {
            (before, changed) = (all, Instant::now());
        }
        let lost = answered.iter().filter(|marker| !found.contains_key(marker)).count();
        if lost <= missing {
            complete.get_or_insert_with(Instant::now);
        }
        let spooled = rig.ingest("clickhook_ingest_spool_bundles").await;
        let settled = lost <= missing && spooled == Some(0.0) && changed.elapsed() >= QUIET;
        if settled || begun.elapsed() > CATCH_UP {
            break found;
        }
        rig.pass(Duration::from_millis(500)).await?;
    };
    let proof = Proof {
        lost: answered.iter().filter(|marker| !found.contains_key(marker)).count(),
        doubled: found.values().filter(|times| **times > 1).count(),
        unanswered: found.keys().filter(|marker| !answered.contains(marker)).count(),
    };
    Ok((proof, complete.unwrap_or_else(Instant::now)))
}

/// How often each marker is there.
async fn look(rig: &Rig, markers: &Range<u32>) -> anyhow::Result<BTreeMap<u32, usize>> {
    let sql = format!(
        "SELECT toUInt32OrZero(gclid) AS marker, count() FROM clicks WHERE marker >= {} AND marker < {} GROUP BY marker",
        markers.start, markers.end
    );
    let number =
        |text: Option<&str>| text.and_then(|text| text.parse::<u32>().ok()).context("ClickHouse answers numbers");
    rig.query(sql)
        .await?
        .lines()
        .map(|line| {
            let mut fields = line.split('\t');
            Ok((number(fields.next())?, number(fields.next())? as usize))
        })
        .collect()
}

/// Reads the rows of the table.
pub(crate) async fn rows(rig: &Rig) -> anyhow::Result<Rows> {
    let text = rig.query("SELECT count(), uniqExact(id), uniqExact(gclid) FROM clicks".to_owned()).await?;
    let numbers: Vec<u64> = text.split_whitespace().filter_map(|number| number.parse().ok()).collect();
    let [rows, ids, markers] = numbers[..] else { anyhow::bail!("ClickHouse answered {text}") };
    Ok(Rows { rows, ids, markers })
}
