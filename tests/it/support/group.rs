//! A control group with a limit on memory, of whichever version this machine has, for as long as the value lives.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub struct MemoryGroup {
    folder: PathBuf,
}

impl MemoryGroup {
    /// Nothing where this machine lets us make none.
    pub fn new(bytes: u64) -> Option<Self> {
        let name = format!("reranker-test-{}-{bytes}", std::process::id());
        let versions = [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
        ];
        versions.into_iter().find_map(|(root, limit)| {
            let folder = Path::new(root).join(&name);
            std::fs::create_dir(&folder).ok()?;
            let group = Self { folder };
            // Where memory is not governed here, the file is not there.
            let is_there = group.folder.join(limit).is_file();
            (is_there && std::fs::write(group.folder.join(limit), bytes.to_string()).is_ok())
                .then_some(group)
        })
    }

    pub fn processes(&self) -> PathBuf {
        self.folder.join("cgroup.procs")
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // Only once the last process has left it.
        let begun = Instant::now();
        while std::fs::remove_dir(&self.folder).is_err() && begun.elapsed() < Duration::from_secs(5)
        {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
