//! The resources that a process has used, by the kernel's own accounting
//! (proc(5)).

use std::{collections::BTreeMap, fs, io, time::Duration};

use rustix::{
    param::clock_ticks_per_second,
    time::{ClockId, clock_gettime},
};
use serde::Serialize;

/// Who is measured: a process, or a thread of this one.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Who {
    /// A process: all its threads, those that have ended too.
    Process(u32),
    /// A thread of this process.
    Thread(i32),
}

/// CPU time by the name of whose it is.
pub(crate) type CpuTimes = BTreeMap<&'static str, Duration>;

/// The CPU times of all of `meters` up to now.
pub(crate) fn cpu_times(meters: &[(&'static str, Who)]) -> io::Result<CpuTimes> {
    meters.iter().map(|(name, who)| Ok((*name, cpu_time(*who)?))).collect()
}

/// CPU time up to now, to a tick (mostly 10 ms).
pub(crate) fn cpu_time(who: Who) -> io::Result<Duration> {
    let path = match who {
        Who::Process(pid) => format!("/proc/{pid}/stat"),
        Who::Thread(id) => format!("/proc/self/task/{id}/stat"),
    };
    let ticks = cpu_ticks(&fs::read_to_string(&path)?).ok_or_else(|| io::Error::other(format!("{path} is odd")))?;
    Ok(ticks_to_time(ticks))
}

/// Fields 14 and 15, user and system time. Field 2, the name, may hold blanks
/// and brackets.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let mut times = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let (user, system): (u64, u64) = (times.next()?.parse().ok()?, times.next()?.parse().ok()?);
    Some(user + system)
}

fn ticks_to_time(ticks: u64) -> Duration {
    Duration::from_nanos(ticks * 1_000_000_000 / clock_ticks_per_second())
}

/// CPU time of all of `whose` together.
pub(crate) fn cpu_of(whose: &[Who]) -> io::Result<Duration> {
    whose.iter().map(|who| cpu_time(*who)).sum()
}

/// The processes that a process with one thread has started.
pub(crate) fn children(pid: u32) -> io::Result<Vec<u32>> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    Ok(children.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect())
}

/// CPU time of the calling thread.
pub(crate) fn cpu_of_this_thread() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// CPU time of all processes together, and what the host took away.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Whole {
    /// In which the machine's cores worked.
    pub(crate) busy: Duration,
    /// In which they wanted to and the host did not let them.
    pub(crate) stolen: Duration,
}

/// The machine's CPU times up to now.
pub(crate) fn whole() -> io::Result<Whole> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line.split_ascii_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal
    let at = |field: usize| ticks.get(field).copied().unwrap_or_default();
    let busy = [0, 1, 2, 5, 6].into_iter().map(at).sum();
    Ok(Whole { busy: ticks_to_time(busy), stolen: ticks_to_time(at(7)) })
}

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Memory {
    /// Its own, and its share of what it shares with others. These add up.
    pub(crate) pss_bytes: u64,
    /// Everything that it has mapped and that is in memory.
    pub(crate) rss_bytes: u64,
}

impl std::ops::Add for Memory {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { pss_bytes: self.pss_bytes + other.pss_bytes, rss_bytes: self.rss_bytes + other.rss_bytes }
    }
}

/// The memory of a process now.
pub(crate) fn memory(pid: u32) -> io::Result<Memory> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let bytes = |field: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
        line.split_ascii_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default() << 10
    };
    Ok(Memory { pss_bytes: bytes("Pss:"), rss_bytes: bytes("Rss:") })
}

/// The most memory that a process has had, in bytes.
pub(crate) fn peak(pid: u32) -> io::Result<u64> {
    kibibytes(&format!("/proc/{pid}/status"), "VmHWM:")
}

/// Memory that new processes can have without swapping, in bytes.
pub(crate) fn memory_available() -> io::Result<u64> {
    kibibytes("/proc/meminfo", "MemAvailable:")
}

fn kibibytes(path: &str, field: &str) -> io::Result<u64> {
    let text = fs::read_to_string(path)?;
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.split_ascii_whitespace().next()?.parse().ok());
    value.map(|kib: u64| kib << 10).ok_or_else(|| io::Error::other(format!("{path} has no {field}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_past_any_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 1 2 3 4 250 50 9 9 20 0 1 0 100 1 1";
        assert_eq!(cpu_ticks(stat), Some(300));
    }

    #[test]
    fn this_process_has_memory() {
        let memory = memory(std::process::id()).unwrap();
        assert!(memory.pss_bytes > 100_000 && memory.rss_bytes >= memory.pss_bytes, "{memory:?}");
    }
}
