//! Where files go that live for one execution.

use std::path::{Path, PathBuf};

/// A new folder, in memory where the system offers that.
pub fn in_memory() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    };
    let folder = parent.join(format!("reranker-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}
