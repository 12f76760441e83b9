//! Attention on i16 on a matrix unit: the same numbers as on the vector registers, to the bit.
//!
//! An i16 is `256 * upper + lower`, a signed and an unsigned byte, so that a product of i16 is four products of bytes. Keys are
//! the rows of one product, the head's dimensions those of the other; queries are the columns of both. Softmax between the two
//! has a query a lane, as on the vector registers, and does the same in the same order.

use std::ops::Range;

use crate::attention::words::{WEIGHT_SUM, pair_weights, quantize_lanes};
use crate::attention::{Attend, KEYS, TURNED, offset_logit};
use crate::math::exp2_negative;
use crate::matrix_unit::{
    BLOCK, Left, MatrixUnit, PlaneSums, ROWS, STEP, TileSums, UnitKernel, as_floats,
};
use crate::scratch::{Buffer, Slot, as_bytes, as_halves, as_words};
use crate::simd::{Int8, transpose};
use crate::tile::panel_start;

/// Queries of a tile: the columns of two products.
const WIDTH: usize = BLOCK;

/// One item, as [`crate::attention::AttendIn`] does it.
pub(super) struct AttendOnUnit<'a>(pub(super) Attend<'a>);

/// Two planes of rows of bytes, `stride` apart.
struct RowPlanes<'a> {
    upper: &'a mut [u8],
    lower: &'a mut [u8],
    stride: usize,
}

impl<'a> RowPlanes<'a> {
    fn new(memory: &'a mut [f32], stride: usize) -> Self {
        let (upper, lower) = memory.split_at_mut(memory.len() / 2);
        Self {
            upper: as_bytes(upper),
            lower: as_bytes(lower),
            stride,
        }
    }

    /// Takes a row of i16 apart; the rest of the row's bytes becomes 0.
    #[inline(always)]
    fn split(&mut self, row: usize, values: &[u16]) {
        let upper = &mut self.upper[row * self.stride..][..self.stride];
        let lower = &mut self.lower[row * self.stride..][..self.stride];
        upper[values.len()..].fill(0);
        lower[values.len()..].fill(0);
        for ((upper, lower), value) in upper.iter_mut().zip(lower).zip(values) {
            [*lower, *upper] = value.to_le_bytes();
        }
    }

    /// The rows from `row` on, without their first `skipped` bytes.
    fn left(&self, row: usize, skipped: usize) -> [Left; 2] {
        let (at, stride) = (row * self.stride + skipped, self.stride);
        let (upper, lower) = (self.upper[at..].as_ptr(), self.lower[at..].as_ptr());
        [
            Left {
                bytes: upper,
                stride,
            },
            Left {
                bytes: lower,
                stride,
            },
        ]
    }
}

/// Two planes of 32 columns, each for two products of 16: words of four bytes of a column.
struct ColumnPlanes<'a> {
    upper: &'a mut [u32],
    lower: &'a mut [u32],
}

impl<'a> ColumnPlanes<'a> {
    fn new(memory: &'a mut [f32]) -> Self {
        let (upper, lower) = memory.split_at_mut(memory.len() / 2);
        Self {
            upper: as_words(upper),
            lower: as_words(lower),
        }
    }

    /// Takes two rows of words of two i16 each apart into four bytes of each column, the number `quad` of them.
    #[inline(always)]
    fn split(&mut self, quad: usize, first: &[u32], second: &[u32]) {
        for product in 0..2 {
            let at = self.at(product) + quad * ROWS;
            let columns = product * ROWS;
            let words = first[columns..][..ROWS]
                .iter()
                .zip(&second[columns..][..ROWS]);
            let planes = self.upper[at..][..ROWS]
                .iter_mut()
                .zip(&mut self.lower[at..][..ROWS]);
            for ((upper, lower), (a, b)) in planes.zip(words) {
                *lower = (a & 0xff) | (a >> 8 & 0xff00) | (b & 0xff) << 16 | (b & 0xff_0000) << 8;
                *upper =
                    (a >> 8 & 0xff) | (a >> 16 & 0xff00) | (b & 0xff00) << 8 | (b & 0xff00_0000);
            }
        }
    }

    fn at(&self, product: usize) -> usize {
        product * (self.upper.len() / 2)
    }

    fn right(&self, product: usize) -> [*const u8; 2] {
        let at = self.at(product);
        [
            self.upper[at..].as_ptr().cast(),
            self.lower[at..].as_ptr().cast(),
        ]
    }
}

/// What an item keeps of one tile of queries from block to block.
struct Queries<'a> {
    /// The quantized queries, for each of two products `[head_dim / 4, 16, 4]` bytes, filled up to whole steps.
    planes: ColumnPlanes<'a>,
    /// As in [`crate::attention::TileState`], of WIDTH lanes.
    sums: &'a mut [f32],
    max: &'a mut [f32],
    total: &'a mut [f32],
    scale: &'a mut [f32],
}

impl<'a> Queries<'a> {
    const fn len(d: usize) -> usize {
        2 * WIDTH * d.next_multiple_of(STEP) / 4 + (d + 3) * WIDTH
    }

    fn new(state: &'a mut [f32], d: usize) -> Self {
        let (planes, rest) = state.split_at_mut(2 * WIDTH * d.next_multiple_of(STEP) / 4);
        let (sums, rest) = rest.split_at_mut(d * WIDTH);
        let (max, rest) = rest.split_at_mut(WIDTH);
        let (total, scale) = rest.split_at_mut(WIDTH);
        Self {
            planes: ColumnPlanes::new(planes),
            sums,
            max,
            total,
            scale,
        }
    }
}

/// A block of keys and values.
struct Block<'a> {
    keys: usize,
    head_dim: usize,
    /// A row for each key.
    packed_keys: &'a RowPlanes<'a>,
    /// A row for each dimension.
    values: &'a RowPlanes<'a>,
    key_scales: &'a [f32],
    value_scale: f32,
    /// As in [`crate::attention::Block`], but in whole steps of the product over keys.
    first: bool,
    seen: Range<usize>,
    offsets: Option<&'a [f32]>,
}

impl UnitKernel for AttendOnUnit<'_> {
    #[inline(always)]
    fn run<S: Int8, U: MatrixUnit>(self, s: S, unit: U) {
        let attend = self.0;
        let tiles = unit.configure();
        let (keys, queries) = (attend.item.keys.len(), attend.item.queries.len());
        let d = attend.head_dim;
        let count = queries.div_ceil(WIDTH);
        let blocks = keys.div_ceil(KEYS);
        let largest = keys.div_ceil(blocks).next_multiple_of(STEP);
        let key_stride = d.next_multiple_of(STEP);
        let dimensions = d.next_multiple_of(ROWS);
        let mut scratch = Buffer::take(
            Slot::Thread,
            // States; logits, their planes; keys' planes; values' planes; scales of keys; keys' i16 or values' pairs; the same of
            // values with dimensions for rows, or a tile of queries; rows that are rotated; what is added to logits.
            count * Queries::len(d)
                + largest * WIDTH
                + largest * WIDTH / 2
                + largest * key_stride / 2
                + largest * dimensions / 2
                + largest
                + largest * d / 2
                + (largest * d / 2).max(d * WIDTH)
                + TURNED * d
                + attend.offsets_len(count * WIDTH),
        );
        let (states, rest) = scratch.split_at_mut(count * Queries::len(d));
        let (logits, rest) = rest.split_at_mut(largest * WIDTH);
        let (weights, rest) = rest.split_at_mut(largest * WIDTH / 2);
        let (packed_keys, rest) = rest.split_at_mut(largest * key_stride / 2);
        let (values, rest) = rest.split_at_mut(largest * dimensions / 2);
        let (key_scales, rest) = rest.split_at_mut(largest);
        let (rows, rest) = rest.split_at_mut(largest * d / 2);
        let (turned, rest) = rest.split_at_mut((largest * d / 2).max(d * WIDTH));
        let (rotated, offsets) = rest.split_at_mut(TURNED * d);
        let offsets = attend.offsets(std::f32::consts::LOG2_E, offsets);

        for (tile, state) in states.chunks_exact_mut(Queries::len(d)).enumerate() {
            let first = tile * WIDTH;
            let lanes = WIDTH.min(queries - first);
            let mut state = Queries::new(state, d);
            attend.queries_to_planes(s, first, lanes, (turned, rotated), &mut state);
        }
        let mut weights = ColumnPlanes::new(weights);
        let (mut sums, mut all) = (PlaneSums::ZERO, TileSums::ZERO);
        for block in 0..blocks {
            let start = panel_start(block, blocks, keys);
            let later = keys - panel_start(block + 1, blocks, keys);
            let keys = keys - later - start;
            attend.quantize_keys(s, start, keys, rows, key_scales, rotated);
            let mut key_planes = RowPlanes::new(packed_keys, key_stride);
            for (key, row) in as_halves(&mut rows[..keys * d / 2])
                .chunks_exact(d)
                .enumerate()
            {
                key_planes.split(key, row);
            }
            let value_scale = attend.quantize_values(s, start, keys, rows);
            let mut value_planes = RowPlanes::new(values, keys.next_multiple_of(STEP));
            turn_values(s, keys, d, rows, turned);
            let pairs = keys.div_ceil(2);
            let rows_of_pairs = as_halves(&mut turned[..pairs * d]);
            for (row, values) in rows_of_pairs.chunks_exact(2 * pairs).enumerate() {
                value_planes.split(row, values);
            }
            for (tile, state) in states.chunks_exact_mut(Queries::len(d)).enumerate() {
                let first = tile * WIDTH;
                let lanes = WIDTH.min(queries - first);
                let Some((seen, is_first)) = attend.seen(first, lanes, start, keys, STEP) else {
                    continue;
                };
                let block = Block {
                    keys,
                    head_dim: d,
                    packed_keys: &key_planes,
                    values: &value_planes,
                    key_scales: &key_scales[..keys],
                    value_scale,
                    first: is_first,
                    seen,
                    offsets: offsets.map(|offsets| &offsets[first + later..]),
                };
                let state = Queries::new(state, d);
                let columns = lanes.div_ceil(ROWS);
                attend_tile::<S, U>(
                    s,
                    &tiles,
                    &block,
                    state,
                    columns,
                    logits,
                    &mut weights,
                    (&mut sums, &mut all),
                );
            }
        }
        for (tile, state) in states.chunks_exact_mut(Queries::len(d)).enumerate() {
            let first = tile * WIDTH;
            let lanes = WIDTH.min(queries - first);
            let state = Queries::new(state, d);
            attend.finish(s, first, lanes, WIDTH, (state.sums, state.total));
        }
    }
}

impl Attend<'_> {
    /// Quantizes `lanes` queries from number `first` of the item on; `turned` is room for them, `[head_dim, WIDTH]`, `rotated` for
    /// [`Self::rows`].
    #[inline(always)]
    fn queries_to_planes<S: Int8>(
        &self,
        s: S,
        first: usize,
        lanes: usize,
        (turned, rotated): (&mut [f32], &mut [f32]),
        state: &mut Queries<'_>,
    ) {
        let d = self.head_dim;
        let turned = &mut turned[..d * WIDTH];
        turned.fill(0.0);
        for vector in (0..lanes).step_by(S::LANES) {
            let token = self.item.queries.start + first + vector;
            let rows = S::LANES.min(lanes - vector);
            let (values, stride) = self.rows(s, (token, rows), 0, rotated);
            // SAFETY: `values` is `rows` rows of `d` values `stride` apart; the destination is `d` rows of WIDTH, of which LANES
            // from `vector` on are written.
            unsafe {
                transpose(
                    s,
                    (values.as_ptr(), stride),
                    (rows, d),
                    (turned.as_mut_ptr().add(vector), WIDTH),
                    d,
                );
            }
        }
        quantize_lanes(s, turned, d, WIDTH, state.scale);
        let words = as_words(turned);
        for quad in 0..d / 4 {
            let (first, second) = words[2 * quad * WIDTH..].split_at(WIDTH);
            state.planes.split(quad, first, second);
        }
    }
}

/// Turns pairs of values, `[keys / 2 rounded up, d]` words, into `[d, keys / 2 rounded up]`.
#[inline(always)]
fn turn_values<S: Int8>(s: S, keys: usize, d: usize, pairs: &[f32], turned: &mut [f32]) {
    let count = keys.div_ceil(2);
    assert!(pairs.len() >= count * d && turned.len() >= count * d);
    for first in (0..count).step_by(S::LANES) {
        let rows = S::LANES.min(count - first);
        // SAFETY: `rows` of `count` rows of `d` words; of `d` rows of `count` words the `rows` from `first` on are written, no
        // store being wider than `rows`, unless `rows` is a vector.
        unsafe {
            transpose(
                s,
                (pairs.as_ptr().add(first * d), d),
                (rows, d),
                (turned.as_mut_ptr().add(first), count),
                if rows == S::LANES { d } else { 0 },
            );
        }
    }
}

/// Adds one block of keys to what a tile of `columns` times 16 queries has so far.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn attend_tile<S: Int8, U: MatrixUnit>(
    s: S,
    tiles: &U::Tiles,
    block: &Block<'_>,
    state: Queries<'_>,
    columns: usize,
    logits: &mut [f32],
    weights: &mut ColumnPlanes<'_>,
    (sums, all): (&mut PlaneSums, &mut TileSums),
) {
    let used = columns * ROWS;
    let mut before = [f32::NEG_INFINITY; WIDTH];
    if !block.first {
        before.copy_from_slice(&state.max[..WIDTH]);
    }
    state.max[..WIDTH].copy_from_slice(&before);
    let seen = block.seen.clone();
    for row in seen.clone().step_by(ROWS) {
        let count = ROWS.min(block.keys - row);
        for column in 0..columns {
            let left = block.packed_keys.left(row, 0);
            let right = state.planes.right(column);
            // SAFETY: rows of their stride, 16 of them because the planes have room for whole steps of keys; columns of as
            // many bytes.
            unsafe {
                let steps = block.packed_keys.stride / STEP;
                U::product_of_planes(tiles, left, right, steps, sums);
            }
            sums.combine(all);
            for first in (column * ROWS..(column + 1) * ROWS).step_by(S::LANES) {
                let scale = s.load(&state.scale[first..]);
                let mut max = s.load(&state.max[first..]);
                for (i, sums) in all.0[..count].iter().enumerate() {
                    let product = as_floats(s, &sums[first % ROWS..]);
                    let scale = s.mul(scale, s.splat(block.key_scales[row + i]));
                    let logit = s.mul(product, scale);
                    max = s.max(max, logit);
                    s.store(&mut logits[(row + i) * WIDTH + first..], logit);
                }
                s.store(&mut state.max[first..], max);
            }
        }
    }

    if let Some(offsets) = block.offsets {
        for first in (0..used).step_by(S::LANES) {
            let mut max = s.load(&before[first..]);
            for key in seen.clone() {
                let offsets = &offsets[block.keys - 1 - key + first..];
                max = offset_logit(s, &mut logits[key * WIDTH + first..], offsets, max);
            }
            s.store(&mut state.max[first..], max);
        }
    }
    let (keys, logits) = (seen.len(), &mut logits[seen.start * WIDTH..]);

    // As on the vector registers: the weights, what was summed before, and what a quantized weight counts.
    let mut decay = [0.0; WIDTH];
    let mut unit = [0.0; WIDTH];
    for first in (0..used).step_by(S::LANES) {
        let max = s.load(&state.max[first..]);
        let total = &mut state.total[first..];
        let mut sum = s.splat(0.0);
        let logits = &mut logits[first..];
        for key in 0..keys {
            let logit = &mut logits[key * WIDTH..];
            let weight = exp2_negative(s, s.sub(s.load(logit), max));
            s.store(logit, weight);
            sum = s.add(sum, weight);
        }
        let one = s.mul(sum, s.splat(1.0 / WEIGHT_SUM));
        let factor = s.div(s.splat(WEIGHT_SUM), sum);
        pair_weights(s, logits, keys, WIDTH, factor);
        if !block.first {
            let weight = exp2_negative(s, s.sub(s.load(&before[first..]), max));
            sum = s.mul_add(s.load(total), weight, sum);
            s.store(&mut decay[first..], weight);
        }
        s.store(total, sum);
        let one = s.mul(one, s.splat(block.value_scale));
        s.store(&mut unit[first..], one);
    }
    let words = as_words(logits);
    for quad in 0..keys.div_ceil(4) {
        let (first, second) = words[2 * quad * WIDTH..].split_at(WIDTH);
        weights.split(quad, first, second);
    }

    for row in (0..block.head_dim).step_by(ROWS) {
        let count = ROWS.min(block.head_dim - row);
        for column in 0..columns {
            let left = block.values.left(row, seen.start);
            let right = weights.right(column);
            // SAFETY: the seen part of rows of their stride, which is whole steps because it begins with one and ends with one or
            // the block, 16 of them because the planes have room for whole tiles of dimensions; columns of as many bytes.
            unsafe {
                let steps = keys.div_ceil(STEP);
                U::product_of_planes(tiles, left, right, steps, sums);
            }
            sums.combine(all);
            for first in (column * ROWS..(column + 1) * ROWS).step_by(S::LANES) {
                let (decay, unit) = (s.load(&decay[first..]), s.load(&unit[first..]));
                for (i, sums) in all.0[..count].iter().enumerate() {
                    let product = as_floats(s, &sums[first % ROWS..]);
                    let new = s.mul(product, unit);
                    let sum = &mut state.sums[(row + i) * WIDTH + first..];
                    let v = if block.first {
                        new
                    } else {
                        s.mul_add(s.load(sum), decay, new)
                    };
                    s.store(sum, v);
                }
            }
        }
    }
}
