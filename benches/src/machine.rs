//! The machine of a run, and whether other programs were busy on it.

use std::{fs, num::NonZero, thread};

use serde::Serialize;

/// The machine, as the report names it.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_bytes: u64,
    pub(crate) kernel: String,
    /// The load average of the minute before the start.
    pub(crate) load_before: f64,
}

impl Machine {
    pub(crate) fn look() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
            line.split_once(':').map(|(_, value)| value.trim().to_owned())
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
        let first = |text: &str| text.split_ascii_whitespace().next().unwrap_or_default().to_owned();
        Self {
            cpu: field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cores: thread::available_parallelism().map_or(1, NonZero::get),
            memory_bytes: first(&memory).parse::<u64>().unwrap_or_default() << 10,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_before: first(&read("/proc/loadavg")).parse().unwrap_or_default(),
        }
    }

    /// It in one line.
    pub(crate) fn title(&self) -> String {
        format!(
            "{}, {} cores, {:.1} GB, Linux {}; load average before: {:.2}",
            self.cpu,
            self.cores,
            self.memory_bytes as f64 / 1e9,
            self.kernel,
            self.load_before
        )
    }

    /// Whether others were at work on it right before.
    pub(crate) fn was_busy(&self) -> bool {
        self.load_before > 0.25 * self.cores as f64
    }
}
