//! The table of links by itself: how many lookups a second one core does, and
//! all of them at once, while links go on changing.

use std::{
    hint::black_box,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use ingest::probe::{LinkTable, LinkTableReader};
use serde::Serialize;

use crate::catalogue;

/// How many lookups are made between two looks at the clock.
const BLOCK: u64 = 1000;
/// How often a link changes meanwhile: two hundred times a second.
const CHANGE: Duration = Duration::from_millis(5);

/// Lookups of random links, millions a second.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Lookups {
    pub(crate) one_core_m_per_s: f64,
    pub(crate) all_cores_m_per_s: f64,
}

/// Measures a table of so many links. Blocks.
pub(crate) fn measure(links: u64, time: Duration) -> anyhow::Result<Lookups> {
    let mut table = LinkTable::default();
    for number in 0..links {
        table.put(&catalogue::link(number)).map_err(anyhow::Error::msg)?;
    }
    let cores = thread::available_parallelism().context("count the cores")?.get();
    let one_core_m_per_s = rate(&mut table, links, 1, time)?;
    let all_cores_m_per_s = if cores == 1 { one_core_m_per_s } else { rate(&mut table, links, cores, time)? };
    Ok(Lookups { one_core_m_per_s, all_cores_m_per_s })
}

fn rate(table: &mut LinkTable, links: u64, cores: usize, time: Duration) -> anyhow::Result<f64> {
    let (done, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let began = Instant::now();
    let elapsed = thread::scope(|scope| {
        for core in 0..cores {
            let (reader, done, stop) = (table.reader(), &done, &stop);
            scope.spawn(move || done.fetch_add(look_up(&reader, links, core as u64, stop), Ordering::Relaxed));
        }
        let mut number = 0;
        while began.elapsed() < time {
            thread::sleep(CHANGE);
            number = (number + 7919) % links;
            table.put(&catalogue::link(number)).map_err(anyhow::Error::msg)?;
        }
        stop.store(true, Ordering::Relaxed);
        anyhow::Ok(began.elapsed())
    });
    // Threads have ended with the scope, also where a change failed.
    Ok(done.load(Ordering::Relaxed) as f64 / elapsed?.as_secs_f64() / 1e6)
}

/// Looks up random links until told to stop; says how many.
fn look_up(reader: &LinkTableReader, links: u64, core: u64, stop: &AtomicBool) -> u64 {
    let (mut done, mut state) = (0, core.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..BLOCK {
            // Xorshift: costs less than what is measured.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let slug = catalogue::slug(state % links);
            black_box(reader.location_bytes(str::from_utf8(&slug).unwrap_or_default()));
        }
        done += BLOCK;
    }
    done
}
