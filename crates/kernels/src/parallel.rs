//! How work is spread over rayon's current pool: numbered items, taken in order by whoever is free.
//!
//! Compared with a parallel iterator's recursive halving this starts the first (by convention the largest) items first
//! and costs one task per thread, not per item.

use std::sync::atomic::{AtomicUsize, Ordering};

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

/// A pointer that the items of one [`for_each`] share to write disjoint parts of one slice.
#[derive(Clone, Copy)]
pub(crate) struct Shared(*mut f32);

// SAFETY: a plain address. Whoever dereferences it (in an `unsafe` block) proves that no other item touches the place.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub(crate) fn new(slice: &mut [f32]) -> Self {
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

    /// The address of element `i`.
    ///
    /// # Safety
    /// `i` must be within the slice.
    #[inline(always)]
    pub(crate) unsafe fn at(self, i: usize) -> *mut f32 {
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
