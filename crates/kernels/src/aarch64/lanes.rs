//! Products whose rows are lanes of a vector: instructions multiply by one lane as fast as by a vector, so a tile's rows are loaded
//! together and not broadcast one by one.

use std::arch::aarch64::{float32x4_t, int32x4_t};

use crate::aarch64::neon::{I8MM, LANES, Neon};
use crate::int8::PANEL;
use crate::simd::{Factors, Int8, SPIN_COLUMNS, SPIN_ROWS, Simd};

/// Runs `$body` for each of the first `$ROWS` rows of a tile, with the constant `$I` that is the row's number: a loop would leave it to
/// the compiler whether lanes are constants.
macro_rules! for_rows {
    ($ROWS:ident, |$I:ident| $body:expr) => {
        for_rows!(@each $ROWS, $I, $body, 0 1 2 3 4 5 6 7 8 9 10 11)
    };
    (@each $ROWS:ident, $I:ident, $body:expr, $($n:literal)*) => {
        $(if $n < $ROWS {
            const $I: usize = $n;
            $body
        })*
    };
}

/// Vectors of four words for the rows of a tile, at most 12.
const STRIPS: usize = 3;

/// One word of each of `ROWS` rows that lie side by side: row `i` is lane `i % 4` of vector `i / 4`.
///
/// # Safety
/// `src` must be readable for `ROWS` words.
#[inline(always)]
unsafe fn load_words<const LEVEL: u8, const ROWS: usize>(
    s: Neon<LEVEL>,
    src: *const f32,
) -> [int32x4_t; STRIPS] {
    let mut words = [s.splat_int(0); STRIPS];
    for (strip, words) in words.iter_mut().enumerate() {
        let first = 4 * strip;
        if first < ROWS {
            // SAFETY: words first.. of the caller's.
            *words = unsafe { s.load_words(src.add(first), 4.min(ROWS - first)) };
        }
    }
    words
}

/// [`Simd::add_products`].
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn add_products<const LEVEL: u8, const ROWS: usize, const VECTORS: usize>(
    s: Neon<LEVEL>,
    sums: &mut [[float32x4_t; VECTORS]; ROWS],
    rows: *const f32,
    columns: [float32x4_t; VECTORS],
) {
    // SAFETY: as promised.
    let rows = unsafe { load_words::<LEVEL, ROWS>(s, rows) };
    for_rows!(ROWS, |I| {
        for (sum, column) in sums[I].iter_mut().zip(columns) {
            *sum = s.mul_add_lane::<{ I % 4 }>(rows[I / 4], column, *sum);
        }
    });
}

/// [`Int8::dot_rows`] by [`Neon::dot4_lane`].
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn dot_rows<const LEVEL: u8, const ROWS: usize, const VECTORS: usize>(
    s: Neon<LEVEL>,
    mut sums: [[int32x4_t; VECTORS]; ROWS],
    factors: Factors,
) -> [[int32x4_t; VECTORS]; ROWS] {
    let Factors {
        mut rows,
        mut weights,
        steps,
        mut ahead,
    } = factors;
    for _ in 0..steps {
        // SAFETY: within the step; the pointers step past the end by wrapping arithmetic only.
        unsafe {
            let mut columns = [s.splat_int(0); VECTORS];
            for (j, column) in columns.iter_mut().enumerate() {
                *column = s.load_bytes(weights.add(j * LANES * 4));
            }
            let words = load_words::<LEVEL, ROWS>(s, rows.cast());
            for_rows!(ROWS, |I| {
                for (sum, column) in sums[I].iter_mut().zip(columns) {
                    *sum = s.dot4_lane::<{ I % 4 }>(*sum, words[I / 4], column);
                }
            });
        }
        s.prefetch(ahead);
        ahead = ahead.wrapping_add(64);
        rows = rows.wrapping_add(4 * ROWS);
        weights = weights.wrapping_add(4 * PANEL);
    }
    sums
}

/// [`Int8::spin`].
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn spin<const LEVEL: u8>(
    s: Neon<LEVEL>,
    sums: &mut [[int32x4_t; SPIN_COLUMNS]; SPIN_ROWS],
    bytes: *const u8,
) {
    // SAFETY: SPIN_COLUMNS vectors, after them in 64 bytes each four words.
    unsafe {
        let mut weights = [s.splat_int(0); SPIN_COLUMNS];
        for (i, weights) in weights.iter_mut().enumerate() {
            *weights = s.load_bytes(bytes.add(64 * i));
        }
        for (i, sums) in sums.iter_mut().enumerate() {
            let words = s.load_words(bytes.add(64 * (SPIN_COLUMNS + i)).cast(), 4);
            for (sum, weights) in sums.iter_mut().zip(weights) {
                *sum = if LEVEL >= I8MM {
                    s.dot_blocks(*sum, words, weights)
                } else {
                    s.dot4_lane::<0>(*sum, words, weights)
                };
            }
        }
    }
}

/// Pairs of rows of the largest tile with blocks.
const PAIRS: usize = 2 * STRIPS;

/// [`Int8::pack_rows`] for [`dot_blocks`]: two quads of each row side by side, so that one load has those of two rows; of a last quad
/// alone the rows follow each other.
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn pack_rows(
    (src, stride): (*const f32, usize),
    (height, quads): (usize, usize),
    dst: *mut f32,
) {
    for row in 0..height {
        // SAFETY: quads of the caller's row, to places of its own among `height * quads` words.
        unsafe {
            let src = src.add(row * stride);
            for two in 0..quads / 2 {
                let both = src.add(2 * two).cast::<u64>().read_unaligned();
                let dst = dst.add(2 * (two * height + row)).cast::<u64>();
                dst.write_unaligned(both);
            }
            if !quads.is_multiple_of(2) {
                *dst.add((quads - 1) * height + row) = *src.add(quads - 1);
            }
        }
    }
}

/// [`Int8::lay_out`] for [`dot_blocks`]: two quads of each channel side by side, a last quad beside zeros.
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn lay_out<const LEVEL: u8, const VECTORS: usize>(
    s: Neon<LEVEL>,
    weights: *const u8,
    steps: usize,
    room: &mut [f32],
) {
    assert!(room.len() >= steps.next_multiple_of(2) * VECTORS * LANES);
    let mut to = room.as_mut_ptr().cast::<u8>();
    for step in (0..steps).step_by(2) {
        for j in 0..VECTORS {
            // SAFETY: the step and the next one, if there is one, are among the caller's; of room there is as much for each.
            unsafe {
                let at = weights.add((step * PANEL + j * LANES) * 4);
                let first = s.load_bytes(at);
                let second = if step + 1 < steps {
                    s.load_bytes(at.add(PANEL * 4))
                } else {
                    s.splat_int(0)
                };
                for channels in s.interleave(first, second) {
                    s.store_bytes(to, channels);
                    to = to.add(4 * LANES);
                }
            }
        }
    }
}

/// [`Int8::dot_rows`] by [`Neon::dot_blocks`], two steps, two rows and two channels at a time, of what [`pack_rows`] and [`lay_out`]
/// made.
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn dot_blocks<const LEVEL: u8, const ROWS: usize, const VECTORS: usize>(
    s: Neon<LEVEL>,
    factors: Factors,
) -> [[int32x4_t; VECTORS]; ROWS] {
    let Factors {
        mut rows,
        mut weights,
        steps,
        mut ahead,
    } = factors;
    let mut blocks = [[[s.splat_int(0); 2]; VECTORS]; PAIRS];
    for _ in 0..steps / 2 {
        // SAFETY: within the rows and the weights; the pointers step past the end by wrapping arithmetic only.
        unsafe {
            let two = load_pairs::<LEVEL, ROWS>(s, rows);
            add_blocks(s, &mut blocks, two, weights, ROWS);
        }
        for _ in 0..2 {
            s.prefetch(ahead);
            ahead = ahead.wrapping_add(64);
        }
        rows = rows.wrapping_add(8 * ROWS);
        weights = weights.wrapping_add(8 * VECTORS * LANES);
    }
    if !steps.is_multiple_of(2) {
        // SAFETY: the last step is within the rows and, beside zeros, the weights.
        unsafe {
            let one = single::<LEVEL, ROWS>(s, rows);
            add_blocks(s, &mut blocks, one, weights, ROWS);
        }
    }
    let mut sums = [[s.splat_int(0); VECTORS]; ROWS];
    for (i, sums) in sums.iter_mut().enumerate() {
        for (sum, [first, last]) in sums.iter_mut().zip(blocks[i / 2]) {
            *sum = s.halves(first, last)[i % 2];
        }
    }
    sums
}

/// Adds the products of `count` rows, two a vector, with the channels of `VECTORS` vectors, two a vector.
///
/// # Safety
/// `weights` must be readable for the channels.
#[inline(always)]
// Vectors are the inner dimension: there is nothing of theirs alone to go through.
#[allow(clippy::needless_range_loop)]
unsafe fn add_blocks<const LEVEL: u8, const VECTORS: usize>(
    s: Neon<LEVEL>,
    blocks: &mut [[[int32x4_t; 2]; VECTORS]; PAIRS],
    rows: [int32x4_t; PAIRS],
    weights: *const u8,
    count: usize,
) {
    for j in 0..VECTORS {
        for half in 0..2 {
            // SAFETY: among the caller's.
            let channels = unsafe { s.load_bytes(weights.add((2 * j + half) * 4 * LANES)) };
            for pair in 0..count.div_ceil(2) {
                let block = &mut blocks[pair][j][half];
                *block = s.dot_blocks(*block, rows[pair], channels);
            }
        }
    }
}

/// Two quads of each of `ROWS` rows, two rows a vector.
///
/// # Safety
/// `src` must be readable for them.
#[inline(always)]
unsafe fn load_pairs<const LEVEL: u8, const ROWS: usize>(
    s: Neon<LEVEL>,
    src: *const u8,
) -> [int32x4_t; PAIRS] {
    let mut pairs = [s.splat_int(0); PAIRS];
    for (pair, vector) in pairs.iter_mut().enumerate() {
        let first = 2 * pair;
        if first < ROWS {
            // SAFETY: the quads of one row or two of the caller's.
            *vector = unsafe { s.load_words(src.add(8 * first).cast(), 2 * 2.min(ROWS - first)) };
        }
    }
    pairs
}

/// One quad of each of `ROWS` rows beside zeros, two rows a vector.
///
/// # Safety
/// `src` must be readable for them.
#[inline(always)]
unsafe fn single<const LEVEL: u8, const ROWS: usize>(
    s: Neon<LEVEL>,
    src: *const u8,
) -> [int32x4_t; PAIRS] {
    // SAFETY: as promised.
    let words = unsafe { load_words::<LEVEL, ROWS>(s, src.cast()) };
    let mut pairs = [s.splat_int(0); PAIRS];
    for (pairs, words) in pairs.chunks_exact_mut(2).zip(words) {
        pairs.copy_from_slice(&s.interleave(words, s.splat_int(0)));
    }
    pairs
}
