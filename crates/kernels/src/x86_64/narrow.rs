//! The int8 product of operands so small that several products of bytes fit 16 bits: they are added up before they are widened.

use crate::int8::PANEL;
use crate::simd::{Factors, Int8, SPIN_COLUMNS, SPIN_ROWS};

pub(super) trait Narrow: Int8 {
    /// Adds to each lane of `sums` the dot products of `DEPTH` times four activations, unsigned bytes, with as many weights. Exact if
    /// `2 * DEPTH` products of the largest bytes fit 16 bits, and the sums i32.
    fn dot_narrow<const DEPTH: usize>(
        self,
        sums: Self::I,
        activations: [Self::I; DEPTH],
        weights: [Self::I; DEPTH],
    ) -> Self::I;
}

/// [`Int8::dot_rows`], `DEPTH` steps at a time.
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn dot_rows<
    S: Narrow,
    const DEPTH: usize,
    const ROWS: usize,
    const VECTORS: usize,
>(
    s: S,
    mut sums: [[S::I; VECTORS]; ROWS],
    factors: Factors,
) -> [[S::I; VECTORS]; ROWS] {
    let Factors {
        rows,
        weights,
        steps,
        ahead,
    } = factors;
    let (whole, last) = (steps / DEPTH, steps % DEPTH);
    // SAFETY: as promised, the whole groups of steps and then those that are left, one by one.
    unsafe {
        let mut at = (rows, weights, ahead);
        groups_of_steps::<S, DEPTH, ROWS, VECTORS>(s, whole, &mut at, &mut sums);
        groups_of_steps::<S, 1, ROWS, VECTORS>(s, last, &mut at, &mut sums);
    }
    sums
}

/// `groups` times `DEPTH` steps from `at` on: rows, weights and where to prefetch.
///
/// # Safety
/// As [`Int8::dot_rows`], for so many steps.
#[inline(always)]
unsafe fn groups_of_steps<
    S: Narrow,
    const DEPTH: usize,
    const ROWS: usize,
    const VECTORS: usize,
>(
    s: S,
    groups: usize,
    (rows, weights, ahead): &mut (*const u8, *const u8, *const u8),
    sums: &mut [[S::I; VECTORS]; ROWS],
) {
    for _ in 0..groups {
        // SAFETY: within the steps; the pointers step past the end by wrapping arithmetic only.
        unsafe {
            for (i, sums) in sums.iter_mut().enumerate() {
                let mut quads = [s.splat_int(0); DEPTH];
                for (step, quad) in quads.iter_mut().enumerate() {
                    let quad_at = rows.add(4 * (step * ROWS + i)).cast::<i32>();
                    *quad = s.splat_int(quad_at.read_unaligned());
                }
                for (j, sum) in sums.iter_mut().enumerate() {
                    let mut columns = [s.splat_int(0); DEPTH];
                    for (step, column) in columns.iter_mut().enumerate() {
                        *column = s.load_bytes(weights.add(4 * (step * PANEL + j * S::LANES)));
                    }
                    *sum = s.dot_narrow(*sum, quads, columns);
                }
            }
        }
        for _ in 0..DEPTH {
            s.prefetch(*ahead);
            *ahead = ahead.wrapping_add(64);
        }
        *rows = rows.wrapping_add(4 * ROWS * DEPTH);
        *weights = weights.wrapping_add(4 * PANEL * DEPTH);
    }
}

/// [`Int8::spin`], with as many rows as the register tile has.
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn spin<S: Narrow, const DEPTH: usize>(
    s: S,
    sums: &mut [[S::I; SPIN_COLUMNS]; SPIN_ROWS],
    bytes: *const u8,
) {
    for (i, sums) in sums.iter_mut().enumerate() {
        let mut quads = [s.splat_int(0); DEPTH];
        for (step, quad) in quads.iter_mut().enumerate() {
            // SAFETY: at most four quads, after four times SPIN_COLUMNS vectors of at most 64 bytes.
            *quad = s.splat_int(unsafe {
                let quad = bytes.add(64 * (4 * SPIN_COLUMNS + i) + 4 * step);
                quad.cast::<i32>().read_unaligned()
            });
        }
        for (j, sum) in sums.iter_mut().enumerate() {
            let mut weights = [s.splat_int(0); DEPTH];
            for (step, weights) in weights.iter_mut().enumerate() {
                // SAFETY: one of four times SPIN_COLUMNS vectors of at most 64 bytes.
                *weights = unsafe { s.load_bytes(bytes.add(64 * (step * SPIN_COLUMNS + j))) };
            }
            *sum = s.dot_narrow(*sum, quads, weights);
        }
    }
}
