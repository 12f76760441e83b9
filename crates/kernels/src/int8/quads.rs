//! The int8 product of instruction sets that multiply a quad of activations, the same in every lane, with the quads of a vector's
//! columns.

use crate::int8::PANEL;
use crate::simd::{Factors, Int8, SPIN_COLUMNS, SPIN_ROWS};

pub(crate) trait Quads: Int8 {
    /// Four activation bytes of a row, ready to be multiplied with the weights of many columns.
    type Quad: Copy;

    /// Loads four activation bytes, with two planes the second's `plane` bytes further on.
    ///
    /// # Safety
    /// `src` must be readable for four bytes, there and in each plane.
    unsafe fn load_quad(self, src: *const u8, plane: usize) -> Self::Quad;

    /// Adds to each lane of `sums` the dot product of the four activations with the lane's four weights (signed bytes above
    /// -128); with two planes less the sum of the negative activations' magnitudes. Exact as long as the sums stay within i32.
    fn dot4(self, sums: Self::I, activations: Self::Quad, weights: Self::I) -> Self::I;
}

/// [`Int8::dot_rows`] without a depth.
///
/// # Safety
/// As there.
#[inline(always)]
pub(crate) unsafe fn dot_rows<S: Quads, const ROWS: usize, const VECTORS: usize>(
    s: S,
    mut sums: [[S::I; VECTORS]; ROWS],
    factors: Factors,
) -> [[S::I; VECTORS]; ROWS] {
    let Factors {
        mut rows,
        mut weights,
        steps,
        mut ahead,
    } = factors;
    let plane = 4 * ROWS * steps;
    for _ in 0..steps {
        // SAFETY: within the step; the pointers step past the end by wrapping arithmetic only.
        unsafe {
            let mut columns = [s.splat_int(0); VECTORS];
            for (j, column) in columns.iter_mut().enumerate() {
                *column = s.load_bytes(weights.add(j * S::LANES * 4));
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let quad = s.load_quad(rows.add(i * 4), plane);
                for (sum, column) in sums.iter_mut().zip(columns) {
                    *sum = s.dot4(*sum, quad, column);
                }
            }
        }
        s.prefetch(ahead);
        ahead = ahead.wrapping_add(64);
        rows = rows.wrapping_add(4 * ROWS);
        weights = weights.wrapping_add(4 * PANEL);
    }
    sums
}

/// [`Int8::spin`] without a depth.
///
/// # Safety
/// As there.
#[inline(always)]
pub(crate) unsafe fn spin<S: Quads>(
    s: S,
    sums: &mut [[S::I; SPIN_COLUMNS]; SPIN_ROWS],
    bytes: *const u8,
) {
    // SAFETY: SPIN_COLUMNS vectors of at most 64 bytes, after them in as many bytes each a quad in two planes.
    unsafe {
        let mut weights = [s.splat_int(0); SPIN_COLUMNS];
        for (i, weights) in weights.iter_mut().enumerate() {
            *weights = s.load_bytes(bytes.add(64 * i));
        }
        for (i, sums) in sums.iter_mut().enumerate() {
            let quad = s.load_quad(bytes.add(64 * (SPIN_COLUMNS + i)), 4);
            for (sum, weights) in sums.iter_mut().zip(weights) {
                *sum = s.dot4(*sum, quad, weights);
            }
        }
    }
}
