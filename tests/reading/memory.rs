//! Counts what is allocated, for programs that make this their global allocator: this test, and the fuzz target `dialects`.

// Each program uses a part of it.
#![allow(dead_code)]
#![allow(
    unsafe_code,
    reason = "an allocator is unsafe; this one hands every call to the system's"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

pub struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static CALLS: AtomicUsize = AtomicUsize::new(0);

fn grown(bytes: usize) {
    CALLS.fetch_add(1, Relaxed);
    let live = LIVE.fetch_add(bytes, Relaxed) + bytes;
    PEAK.fetch_max(live, Relaxed);
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: the caller's promises are the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above; the memory is the system's.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LIVE.fetch_sub(layout.size(), Relaxed);
        grown(size);
        // SAFETY: as above.
        unsafe { System.realloc(memory, layout, size) }
    }
}

/// What has been allocated since [`start`].
#[derive(Debug, Clone, Copy)]
pub struct Used {
    /// Most bytes at a time, besides those that were there before.
    pub peak: usize,
    /// Calls of the allocator.
    pub calls: usize,
}

pub struct Before {
    live: usize,
    calls: usize,
}

/// Counts from now on. What other threads allocate counts too.
pub fn start() -> Before {
    let live = LIVE.load(Relaxed);
    PEAK.store(live, Relaxed);
    let calls = CALLS.load(Relaxed);
    Before { live, calls }
}

impl Before {
    pub fn used(&self) -> Used {
        Used {
            peak: PEAK.load(Relaxed).saturating_sub(self.live),
            calls: CALLS.load(Relaxed) - self.calls,
        }
    }
}
