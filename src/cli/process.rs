//! What the operating system knows of this process: when it began, what it has used, and what it
//! may.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// When this process began, from before its libraries were linked.
///
/// The kernel notes it in ticks of ten milliseconds, rounded down. The processor time used so far
/// tells the rest: until the program's first line a process does nothing but compute and wait for
/// its own file, so it began no later than that long ago. Called later than on the first line, it
/// still is at most a tick off.
pub fn began() -> Instant {
    let now = Instant::now();
    let used = used();
    let age = std::fs::read_to_string("/proc/self/stat")
        .ok()
        .and_then(|stat| start_ticks(&stat))
        .and_then(|ticks| {
            let per_s = rustix::param::clock_ticks_per_second();
            // The end of the tick in which it began.
            let began = Duration::from_secs_f64((ticks + 1) as f64 / per_s as f64);
            duration(clock_gettime(ClockId::Boottime)).checked_sub(began)
        })
        .unwrap_or_default();
    now.checked_sub(age.max(used)).unwrap_or(now)
}

/// Processor time that all threads of this process have used.
pub fn used() -> Duration {
    duration(clock_gettime(ClockId::ProcessCPUTime))
}

fn duration(time: rustix::time::Timespec) -> Duration {
    let nanos = u32::try_from(time.tv_nsec).unwrap_or_default();
    Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), nanos)
}

/// The 22nd field of `/proc/PID/stat`; the second, in parentheses, may hold spaces and parentheses
/// of its own.
fn start_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(19)?.parse().ok()
}

/// Memory that this process has in use now; 0 where the system does not tell.
pub fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: Option<u64> = statm.split_whitespace().nth(1).and_then(|n| n.parse().ok());
    pages.unwrap_or_default() * rustix::param::page_size() as u64
}

/// A limit that the kernel holds this process to, by its name in `/proc/self/limits`; nothing where
/// there is none.
pub fn limit(name: &str) -> Option<u64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Files that are open besides connections: the model's, and those of the runtime and its threads.
const OWN_FILES: u64 = 64;
/// With fewer files than this not even one connection is sure to be served.
const LEAST_FILES: u64 = 24;

/// Refuses a limit of open files under which nothing could be served.
pub fn check_files() -> anyhow::Result<()> {
    check_file_limit(limit("Max open files"))
}

fn check_file_limit(limit: Option<u64>) -> anyhow::Result<()> {
    match limit.filter(|files| *files < LEAST_FILES) {
        Some(files) => anyhow::bail!(
            "the limit of open files is {files}, and at least {LEAST_FILES} are needed for one connection: raise it (ulimit -n)"
        ),
        None => Ok(()),
    }
}

/// Refuses a clock that the dates of answers cannot be written by.
pub fn check_clock(now: SystemTime) -> anyhow::Result<()> {
    anyhow::ensure!(
        now >= UNIX_EPOCH,
        "this machine's clock says a time before 1970: set it"
    );
    Ok(())
}

/// How many of `wanted` connections this process can have open.
pub fn room_for_connections(wanted: usize) -> usize {
    let files = limit("Max open files").unwrap_or(u64::MAX);
    let room = files.saturating_sub(OWN_FILES).max(1);
    usize::try_from(room).map_or(wanted, |room| room.min(wanted))
}

/// A core file would hold the texts and keys of requests, so none of this process's memory goes
/// into one. Where that cannot be said (no `/proc`), there is no more to do.
pub fn keep_out_of_cores() {
    let _ = std::fs::write("/proc/self/coredump_filter", "0");
}

/// What this process has used so far; nothing where the system does not tell.
#[derive(Debug, Clone, Copy, Default, serde::Serialize, serde::Deserialize)]
pub struct Usage {
    pub peak_rss_bytes: u64,
    /// Bytes that had to be fetched from storage for this process.
    pub read_bytes: u64,
    /// Page faults that waited for storage, and those that found the page in memory.
    pub major_faults: u64,
    pub minor_faults: u64,
}

impl Usage {
    pub fn now() -> Self {
        let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
        let (status, io, stat) = (
            read("/proc/self/status"),
            read("/proc/self/io"),
            read("/proc/self/stat"),
        );
        let fault = |place| {
            let (_, after_name) = stat.rsplit_once(')')?;
            after_name.split_whitespace().nth(place)?.parse().ok()
        };
        Self {
            peak_rss_bytes: field(&status, "VmHWM:").unwrap_or_default() * 1024,
            read_bytes: field(&io, "read_bytes:").unwrap_or_default(),
            major_faults: fault(9).unwrap_or_default(),
            minor_faults: fault(7).unwrap_or_default(),
        }
    }
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_of_any_kind_does_not_shift_the_fields() {
        let fields = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        for name in ["sh", "a b", "a) 1 2 (b", ")"] {
            assert_eq!(start_ticks(&format!("77 ({name}) {fields}")), Some(4711));
        }
        assert_eq!(start_ticks("77 (sh"), None);
    }

    #[test]
    fn no_more_connections_than_files() {
        let files = limit("Max open files").unwrap_or(u64::MAX);
        assert_eq!(room_for_connections(1), 1);
        let most = room_for_connections(usize::MAX) as u64;
        assert!(most >= 1 && most < files, "{most} of {files}");
        assert_eq!(limit("Max of nothing"), None);
        assert!(check_file_limit(None).is_ok() && check_file_limit(Some(LEAST_FILES)).is_ok());
        let error = check_file_limit(Some(10)).expect_err("refused").to_string();
        assert!(error.contains("is 10,") && error.contains("24"), "{error}");
    }

    #[test]
    fn a_clock_before_1970_is_refused() {
        assert!(check_clock(UNIX_EPOCH).is_ok());
        assert!(check_clock(UNIX_EPOCH - Duration::from_secs(1)).is_err());
    }

    #[test]
    fn this_process_began_a_little_ago_and_has_used_memory() {
        let began = began();
        // Of this thread alone: all together may use more than the time that has passed.
        let used = duration(clock_gettime(ClockId::ThreadCPUTime));
        assert!(began.elapsed() >= used);
        assert!(began.elapsed() < Duration::from_secs(3600));
        let usage = Usage::now();
        assert!(usage.peak_rss_bytes > 1 << 20, "{usage:?}");
        assert!(usage.minor_faults > 100, "{usage:?}");
    }
}
