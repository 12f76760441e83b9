//! The register tile that linear layer and attention are made of: a few rows times two vectors of columns, summed over k
//! in registers.

use crate::simd::{Int8, Simd, transpose};

/// Runs `$call` with the constant `$R` that equals `$rows`, so that the tile's loops unroll into registers. Row counts beyond
/// the instruction set's tile, the constant `$most`, fold away.
macro_rules! dispatch_rows {
    ($rows:expr, $S:ty, $most:ident, |$R:ident| $call:expr) => {
        dispatch_rows!(@arms $rows, $S, $most, $R, $call, 1 2 3 4 5 6 7 8 9 10 11 12)
    };
    (@arms $rows:expr, $S:ty, $most:ident, $R:ident, $call:expr, $($n:literal)*) => {
        match $rows {
            $($n if $n <= <$S>::$most => {
                const $R: usize = $n;
                $call
            })*
            rows => unreachable!("a tile of {rows} rows"),
        }
    };
}
pub(crate) use dispatch_rows;

/// Splits `rows` as evenly as possible into the fewest panels of at most `most` rows; returns how many.
#[inline(always)]
pub(crate) fn panels(rows: usize, most: usize) -> usize {
    rows.div_ceil(most)
}

/// The first row of panel `i` of `panels`; that of panel `panels` is `rows`.
#[inline(always)]
pub(crate) fn panel_start(i: usize, panels: usize, rows: usize) -> usize {
    i * rows / panels
}

/// Packs `height <= TILE_ROWS` rows of `k` values as `[k, height]`, the layout in which [`product`] walks them.
///
/// # Safety
/// `src` must be readable for `k` f32 at each of `height` row starts, `dst` writable for `height * k`, and the two must not
/// overlap.
#[inline(always)]
pub(crate) unsafe fn pack_panel<S: Simd>(
    s: S,
    (src, src_stride): (*const f32, usize),
    (height, k): (usize, usize),
    dst: *mut f32,
) {
    // A tile may be higher than a vector is long (NEON): then the panel is transposed in strips of rows.
    for strip in (0..height).step_by(S::LANES) {
        let rows = S::LANES.min(height - strip);
        // A whole vector may be stored where the part beyond `rows` is overwritten by later columns, that is in a panel
        // of one strip, and does not reach beyond the panel.
        let wide = if rows == S::LANES {
            k
        } else if rows == height {
            k.saturating_sub((S::LANES - height).div_ceil(height))
        } else {
            0
        };
        // SAFETY: the strip's rows are among the caller's. A wide store of column c ends at c * height + LANES, which is
        // within height * k because c + 1 <= k - (LANES - height) / height, rounded up; any other store writes `rows`
        // values of column c from `strip` on.
        unsafe {
            transpose(
                s,
                (src.add(strip * src_stride), src_stride),
                (rows, k),
                (dst.add(strip), height),
                wide,
            );
        }
    }
}

/// `sum over c < k of a[c * a_stride + i] * b[c * b_stride + j]` for `i < ROWS` and the `VECTORS * LANES` values `j`.
///
/// Each sum starts at 0 and takes its terms in ascending order, one multiply-add each, whatever `ROWS` is: the result for
/// one `i` does not depend on the others.
///
/// # Safety
/// `a` must be readable for `ROWS` and `b` for `VECTORS * LANES` f32 at each of `k` steps.
#[inline(always)]
pub(crate) unsafe fn product<S: Simd, const ROWS: usize, const VECTORS: usize>(
    s: S,
    k: usize,
    (mut a, a_stride): (*const f32, usize),
    (mut b, b_stride): (*const f32, usize),
) -> [[S::V; VECTORS]; ROWS] {
    let mut sums = [[s.splat(0.0); VECTORS]; ROWS];
    for _ in 0..k {
        // SAFETY: within the step's `VECTORS * LANES` and `ROWS` values; stepping past the last one is done with
        // wrapping arithmetic, which only forms the address.
        unsafe {
            let mut columns = [s.splat(0.0); VECTORS];
            for (j, column) in columns.iter_mut().enumerate() {
                *column = s.load_ptr(b.add(j * S::LANES));
            }
            s.add_products(&mut sums, a, columns);
        }
        a = a.wrapping_add(a_stride);
        b = b.wrapping_add(b_stride);
    }
    sums
}

/// [`product`] of words that hold two i16 each: the terms are the dot products of two words, and the sums exact.
///
/// # Safety
/// As [`product`].
#[inline(always)]
pub(crate) unsafe fn product_of_pairs<S: Int8, const ROWS: usize, const VECTORS: usize>(
    s: S,
    k: usize,
    (mut a, a_stride): (*const f32, usize),
    (mut b, b_stride): (*const f32, usize),
) -> [[S::I; VECTORS]; ROWS] {
    let mut sums = [[s.splat_int(0); VECTORS]; ROWS];
    for _ in 0..k {
        // SAFETY: as in `product`.
        unsafe {
            let mut columns = [s.splat_int(0); VECTORS];
            for (j, column) in columns.iter_mut().enumerate() {
                *column = s.load_bytes(b.add(j * S::LANES).cast());
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let row = s.splat_int(a.add(i).cast::<i32>().read());
                for (sum, column) in sums.iter_mut().zip(columns) {
                    *sum = s.dot2(*sum, row, column);
                }
            }
        }
        a = a.wrapping_add(a_stride);
        b = b.wrapping_add(b_stride);
    }
    sums
}
