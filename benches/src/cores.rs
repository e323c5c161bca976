//! Which cores something may use: a server that is measured on one core gets that
//! core, and everything else keeps off it.

use std::{fs, io, thread};

use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};

/// Cores of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cores {
    All,
    First,
    AllButFirst,
}

impl Cores {
    fn set(self) -> CpuSet {
        let mut set = CpuSet::new();
        let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        for core in 0..cores.max(2) {
            let wanted = match self {
                Self::All => true,
                Self::First => core == 0,
                Self::AllButFirst => core > 0,
            };
            if wanted {
                set.set(core);
            }
        }
        set
    }
}

/// Does something on a thread that may only use these cores: so may the threads
/// and the processes that it starts.
pub(crate) fn on<T>(cores: Cores, work: impl FnOnce() -> T) -> io::Result<T> {
    let before = sched_getaffinity(None)?;
    sched_setaffinity(None, &cores.set())?;
    let done = work();
    sched_setaffinity(None, &before)?;
    Ok(done)
}

/// Moves a process that runs, all its threads, to these cores.
pub(crate) fn move_to(pid: u32, cores: Cores) -> io::Result<()> {
    let set = cores.set();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let thread = task?.file_name().to_string_lossy().parse().ok().and_then(Pid::from_raw);
        match sched_setaffinity(thread, &set) {
            // A thread may have ended meanwhile.
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_stays_where_it_is_put() {
        let one = on(Cores::First, || sched_getaffinity(None).unwrap().count()).unwrap();
        assert_eq!(one, 1);
    }
}
