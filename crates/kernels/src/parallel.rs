//! How work is spread over rayon's current pool: numbered items, taken in order by whoever is free.
//!
//! Compared with a parallel iterator's recursive halving this starts the first (by convention the largest) items first
//! and costs one task per thread, not per item.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Calls `work(i)` once for every `i < items`, on the current pool's threads, the caller's among them. Returns when all
/// are done.
pub(crate) fn for_each(items: usize, work: impl Fn(usize) + Sync) {
    let threads = rayon::current_num_threads().min(items);
    if threads <= 1 {
        (0..items).for_each(work);
        return;
    }
    let next = AtomicUsize::new(0);
    let take = || {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= items {
                return;
            }
            work(i);
        }
    };
    rayon::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|_| take());
        }
        take();
    });
}

/// Calls `work(phase, i)` once for every `i < phases[phase]`, phase after phase: none begins before all of the one before it
/// is done, and sees what that wrote. As [`for_each`], but the threads stay together from phase to phase: waking a sleeping
/// thread takes longer than a small phase does.
///
/// # Panics
/// If an item does.
pub(crate) fn for_each_phase(phases: &[usize], work: impl Fn(usize, usize) + Sync) {
    let Some(&widest) = phases.iter().max() else {
        return;
    };
    // Items are numbered through all phases and taken in this order. Whoever waits holds a later number than all that it
    // waits for, and those are at work: the wait ends, however many threads take part and whenever they come.
    let next = AtomicUsize::new(0);
    let done = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let take = || {
        let guard = Failing(&failed);
        let (mut phase, mut start) = (0, 0);
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            while phase < phases.len() && i >= start + phases[phase] {
                start += phases[phase];
                phase += 1;
            }
            if phase == phases.len() || !wait_for(&done, start, &failed) {
                break;
            }
            work(phase, i - start);
            // Pairs with the acquiring load in `wait_for`: later phases see what this item wrote.
            done.fetch_add(1, Ordering::Release);
        }
        std::mem::forget(guard);
    };
    let threads = rayon::current_num_threads().min(widest);
    if threads <= 1 {
        take();
        return;
    }
    rayon::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|_| take());
        }
        take();
    });
}

/// Dropped by a panic only, and then tells the other threads not to wait for what will not be done.
struct Failing<'a>(&'a AtomicBool);

impl Drop for Failing<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Waits until `count` items are done; false if that will never be. Spins for some ten microseconds, which is what a
/// balanced phase ends within, then lets other threads have the core between looks.
fn wait_for(done: &AtomicUsize, count: usize, failed: &AtomicBool) -> bool {
    let mut looks = 0;
    while done.load(Ordering::Acquire) < count {
        if failed.load(Ordering::Relaxed) {
            return false;
        }
        if looks < 1000 {
            looks += 1;
            std::hint::spin_loop();
        } else {
            std::thread::yield_now();
        }
    }
    true
}

/// A pointer that the items of one [`for_each`] share to write disjoint parts of one slice.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T = f32>(*mut T);

// SAFETY: a plain address. Whoever dereferences it (in an `unsafe` block) proves that no other item touches the place.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Shared<T> {}

impl<T: Copy> Shared<T> {
    pub(crate) fn new(slice: &mut [T]) -> Self {
        Self(slice.as_mut_ptr())
    }

    /// The part of the slice from element `i` on.
    ///
    /// # Safety
    /// `i` must be within the slice.
    pub(crate) unsafe fn skip(self, i: usize) -> Self {
        // SAFETY: the caller keeps `i` within the slice the pointer was made from.
        Self(unsafe { self.0.add(i) })
    }

    /// `len` values from element `i` on.
    ///
    /// # Safety
    /// They must be within the slice, which must outlive `'a`, and nothing may write them during `'a`.
    pub(crate) unsafe fn read<'a>(self, i: usize, len: usize) -> &'a [T] {
        // SAFETY: promised by the caller.
        unsafe { std::slice::from_raw_parts(self.0.add(i), len) }
    }

    /// `len` values from element `i` on, to write.
    ///
    /// # Safety
    /// They must be within the slice, which must outlive `'a`, and nothing else may touch them during `'a`.
    pub(crate) unsafe fn write<'a>(self, i: usize, len: usize) -> &'a mut [T] {
        // SAFETY: promised by the caller.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(i), len) }
    }

    /// The address of element `i`.
    ///
    /// # Safety
    /// `i` must be within the slice.
    #[inline(always)]
    pub(crate) unsafe fn at(self, i: usize) -> *mut T {
        // SAFETY: the caller keeps `i` within the slice the pointer was made from.
        unsafe { self.0.add(i) }
    }
}

/// Calls `work(first_row, rows)` on runs of whole rows of `x` (each `n` long), in parallel where there is enough of it.
pub(crate) fn for_each_rows(x: &mut [f32], n: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
    /// Values an item should have: 128 KiB, some ten microseconds, so that the sharing costs little.
    const ITEM: usize = 32 * 1024;
    let rows_per_item = (ITEM / n).max(1);
    let rows = x.len() / n;
    let shared = Shared::new(x);
    for_each(rows.div_ceil(rows_per_item), |item| {
        let first = item * rows_per_item;
        let count = rows_per_item.min(rows - first);
        // SAFETY: rows first..first + count lie within `x`, which is borrowed for as long as this runs, and belong to
        // this item alone.
        let run = unsafe { std::slice::from_raw_parts_mut(shared.at(first * n), count * n) };
        work(first, run);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_runs_once_on_any_number_of_threads() {
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .expect("a pool");
            for items in [0, 1, 3, 100] {
                let counts: Vec<_> = (0..items).map(|_| AtomicUsize::new(0)).collect();
                pool.install(|| {
                    for_each(items, |i| {
                        counts[i].fetch_add(1, Ordering::Relaxed);
                    });
                });
                assert!(counts.into_iter().all(|count| count.into_inner() == 1));
            }
        }
    }

    #[test]
    fn a_phase_begins_when_all_of_the_one_before_is_done() {
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .expect("a pool");
            let phases = [3, 0, 1, 50, 2, 7];
            let counts: Vec<_> = phases.iter().map(|_| AtomicUsize::new(0)).collect();
            pool.install(|| {
                for_each_phase(&phases, |phase, _| {
                    for (count, &whole) in counts[..phase].iter().zip(&phases) {
                        assert_eq!(count.load(Ordering::Relaxed), whole);
                    }
                    counts[phase].fetch_add(1, Ordering::Relaxed);
                });
            });
            let counts: Vec<_> = counts.into_iter().map(AtomicUsize::into_inner).collect();
            assert_eq!(counts, phases);
        }
    }

    #[test]
    fn a_panic_in_a_phase_comes_out_and_leaves_nobody_waiting() {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(3)
            .build()
            .expect("a pool");
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            pool.install(|| for_each_phase(&[4, 4], |phase, i| assert!((phase, i) != (0, 2))));
        }));
        assert!(result.is_err());
    }

    #[test]
    fn runs_of_rows_cover_the_slice_without_overlap() {
        for (rows, n) in [(1, 5), (7, 3), (100, 1000), (3, 100_000)] {
            let mut x = vec![0.0; rows * n];
            for_each_rows(&mut x, n, |first, run| {
                for (i, x) in run.iter_mut().enumerate() {
                    *x += (first * n + i) as f32 + 1.0;
                }
            });
            assert!(x.iter().enumerate().all(|(i, x)| *x == i as f32 + 1.0));
        }
    }
}
