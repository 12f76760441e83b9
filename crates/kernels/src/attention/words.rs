//! Attention on i16: a word is a pair, whose products are added up exactly.
//!
//! Queries and keys have a scale each, the values of a block have one, and each query's weights of a block have one.

use crate::attention::{Arithmetic, Attend, Block, BlockRoom, TileState};
use crate::math::exp2_negative;
use crate::simd::Int8;
use crate::tile::{pack_panel, panel_start, panels, product_of_pairs};

pub(super) struct I16;

/// Quantized values of the weights of one query in one block add up to this: with values of 15 bits and the roundings of
/// [`KEYS`](crate::attention::KEYS) weights the sums stay within i32.
pub(super) const WEIGHT_SUM: f32 = 32767.0;
const VALUE_MAX: f32 = 32767.0;

/// The largest quantized query or key: `head_dim` products of two stay within i32, and it within i16.
fn key_max(head_dim: usize) -> f32 {
    (2147483647.0 / head_dim as f32).sqrt().min(32767.0).floor()
}

impl Arithmetic for I16 {
    const PER_WORD: usize = 2;
    // Weights are powers of two.
    const LOGIT: f32 = std::f32::consts::LOG2_E;

    #[inline(always)]
    fn queries<S: Int8>(
        s: S,
        queries: &mut [f32],
        head_dim: usize,
        width: usize,
        scales: &mut [f32],
    ) {
        quantize_lanes(s, queries, head_dim, width, scales);
    }

    #[inline(always)]
    fn pack<S: Int8>(
        attend: &Attend<'_>,
        s: S,
        start: usize,
        keys: usize,
        room: &mut BlockRoom<'_>,
    ) -> f32 {
        attend.quantize_keys(s, start, keys, room.rows, room.key_scales, room.turned);
        attend.pack_key_words(s, keys, room.rows, room.packed_keys);
        attend.quantize_values(s, start, keys, room.values)
    }

    #[inline(always)]
    fn logits<S: Int8, const ROWS: usize, const VECTORS: usize>(
        s: S,
        block: &Block<'_>,
        row: usize,
        state: &TileState<'_>,
    ) -> [[S::V; VECTORS]; ROWS] {
        let (steps, width) = (block.head_dim / 2, VECTORS * S::LANES);
        assert!(state.queries.len() >= steps * width);
        let keys = &block.packed_keys[row * steps..][..ROWS * steps];
        let (keys, queries) = (keys.as_ptr(), state.queries.as_ptr());
        // SAFETY: `keys` is `steps` times ROWS words, `queries` at least `steps` times `width`.
        let ints = unsafe {
            product_of_pairs::<S, ROWS, VECTORS>(s, steps, (keys, ROWS), (queries, width))
        };
        let key_scales = &block.key_scales[row..][..ROWS];
        let mut sums = [[s.splat(0.0); VECTORS]; ROWS];
        for i in 0..ROWS {
            for j in 0..VECTORS {
                let scale = s.mul(s.load(&state.scale[j * S::LANES..]), s.splat(key_scales[i]));
                sums[i][j] = s.mul(s.int_to_float(ints[i][j]), scale);
            }
        }
        sums
    }

    #[inline(always)]
    fn weight<S: Int8>(s: S, distance: S::V) -> S::V {
        exp2_negative(s, distance)
    }

    #[inline(always)]
    fn weights<S: Int8>(s: S, weights: &mut [f32], keys: usize, width: usize, sum: S::V) -> S::V {
        // The largest weight of a block is 1 unless an earlier one had a larger, then the sum may be tiny: at least 2^-126, whose
        // inverse is a number.
        pair_weights(s, weights, keys, width, s.div(s.splat(WEIGHT_SUM), sum));
        s.mul(sum, s.splat(1.0 / WEIGHT_SUM))
    }

    #[inline(always)]
    unsafe fn values<S: Int8, const ROWS: usize, const VECTORS: usize>(
        s: S,
        steps: usize,
        values: (*const f32, usize),
        weights: *const f32,
        unit: [S::V; VECTORS],
    ) -> [[S::V; VECTORS]; ROWS] {
        let weights = (weights, VECTORS * S::LANES);
        // SAFETY: as promised.
        let ints = unsafe { product_of_pairs::<S, ROWS, VECTORS>(s, steps, values, weights) };
        let mut new = [[s.splat(0.0); VECTORS]; ROWS];
        for i in 0..ROWS {
            for j in 0..VECTORS {
                new[i][j] = s.mul(s.int_to_float(ints[i][j]), unit[j]);
            }
        }
        new
    }
}

impl Attend<'_> {
    /// Quantizes `keys` keys from number `start` of the sequence on, each to its own scale: `rows` gets their i16,
    /// `[keys, head_dim]`.
    #[inline(always)]
    pub(super) fn quantize_keys<S: Int8>(
        &self,
        s: S,
        start: usize,
        keys: usize,
        rows: &mut [f32],
        scales: &mut [f32],
        turned: &mut [f32],
    ) {
        let d = self.head_dim;
        let most = key_max(d);
        let rows = &mut rows[..keys * d / 2];
        for (key, (row, scale)) in rows.chunks_exact_mut(d / 2).zip(scales).enumerate() {
            let token = self.item.keys.start + start + key;
            let (values, _) = self.rows(s, (token, 1), 1, turned);
            let largest = largest(s, values);
            let factor;
            (factor, *scale) = quantizer(largest, most);
            quantize_words(s, values, factor, row);
        }
    }

    /// Packs the rows of words that [`Self::quantize_keys`] made.
    #[inline(always)]
    fn pack_key_words<S: Int8>(&self, s: S, keys: usize, rows: &[f32], packed_keys: &mut [f32]) {
        let words = self.head_dim / 2;
        assert!(rows.len() >= keys * words && packed_keys.len() >= keys * words);
        let count = panels(keys, S::TILE_ROWS);
        for panel in 0..count {
            let row = panel_start(panel, count, keys);
            let height = panel_start(panel + 1, count, keys) - row;
            // SAFETY: `height` rows of `words` words lie in `rows`, and as many words in the panel; both asserted.
            unsafe {
                pack_panel(
                    s,
                    (rows.as_ptr().add(row * words), words),
                    (height, words),
                    packed_keys.as_mut_ptr().add(row * words),
                );
            }
        }
    }

    /// Quantizes `keys` values from number `start` of the sequence on to one scale, which it returns, and pairs each with the
    /// next: word `[key / 2, i]` holds element `i` of both.
    #[inline(always)]
    pub(super) fn quantize_values<S: Int8>(
        &self,
        s: S,
        start: usize,
        keys: usize,
        values: &mut [f32],
    ) -> f32 {
        let d = self.head_dim;
        let row = |key: usize| self.part(self.item.keys.start + start + key, 2);
        let zero = s.splat(0.0);
        let mut seen = (zero, zero);
        for key in 0..keys {
            seen = magnitudes(s, seen, row(key));
        }
        let (factor, scale) = quantizer(s.largest(seen.0) + s.sum(seen.1), VALUE_MAX);
        let factor = s.splat(factor);
        for (pair, values) in values
            .chunks_exact_mut(d)
            .take(keys.div_ceil(2))
            .enumerate()
        {
            let even = row(2 * pair);
            let odd = (2 * pair + 1 < keys).then(|| row(2 * pair + 1));
            for at in (0..d).step_by(S::LANES) {
                let low = quantize_vector(s, &even[at..], factor);
                let high = match odd {
                    Some(row) => quantize_vector(s, &row[at..], factor),
                    None => s.splat_int(0),
                };
                store_words(s, &mut values[at..], s.pair(low, high));
            }
        }
        scale
    }
}

/// The factor that takes magnitudes up to `largest` to at most `most`, and what takes them back. A NaN or an infinity makes the
/// latter NaN, so that what was quantized with it cannot pass for a number.
fn quantizer(largest: f32, most: f32) -> (f32, f32) {
    if largest.is_finite() {
        // Below it the factor would overflow; such values are zeros beside any others.
        let largest = largest.max(1e-30);
        (most / largest, largest / most)
    } else {
        (0.0, f32::NAN)
    }
}

/// The largest magnitude; NaN if there is one among the values, or an infinity.
#[inline(always)]
fn largest<S: Int8>(s: S, values: &[f32]) -> f32 {
    let zero = s.splat(0.0);
    let seen = magnitudes(s, (zero, zero), values);
    s.largest(seen.0) + s.sum(seen.1)
}

/// [`magnitude`] of a row of values.
#[inline(always)]
fn magnitudes<S: Int8>(s: S, mut seen: (S::V, S::V), values: &[f32]) -> (S::V, S::V) {
    let mut chunks = values.chunks_exact(S::LANES);
    for v in &mut chunks {
        seen = magnitude(s, seen, s.load(v));
    }
    if !chunks.remainder().is_empty() {
        seen = magnitude(s, seen, s.load_first(chunks.remainder()));
    }
    seen
}

/// Each lane's largest magnitude so far, and 0, or NaN once there was a NaN or an infinity. (A function, as all of these: what
/// a closure is made of would not be compiled for the instruction set.)
#[inline(always)]
fn magnitude<S: Int8>(s: S, (most, poison): (S::V, S::V), v: S::V) -> (S::V, S::V) {
    let zero = s.splat(0.0);
    (
        s.max(most, s.max(v, s.sub(zero, v))),
        s.mul_add(v, zero, poison),
    )
}

/// The first values of a row, a vector if there are so many, times `factor`, as integers.
#[inline(always)]
fn quantize_vector<S: Int8>(s: S, row: &[f32], factor: S::V) -> S::I {
    let v = if row.len() >= S::LANES {
        s.load(row)
    } else {
        s.load_first(row)
    };
    s.float_to_int(s.mul(v, factor))
}

/// Rounds `values * factor` to i16, two a word, in order.
#[inline(always)]
fn quantize_words<S: Int8>(s: S, values: &[f32], factor: f32, words: &mut [f32]) {
    let factor = s.splat(factor);
    let mut chunks = values.chunks_exact(S::LANES);
    let mut outs = words.chunks_exact_mut(S::LANES / 2);
    for (v, out) in (&mut chunks).zip(&mut outs) {
        // SAFETY: LANES i16 fill LANES / 2 words, which `out` has.
        unsafe {
            s.store_halves(
                out.as_mut_ptr().cast(),
                s.float_to_int(s.mul(s.load(v), factor)),
            )
        };
    }
    let v = chunks.remainder();
    if !v.is_empty() {
        let mut last = [0.0; 8];
        let ints = s.float_to_int(s.mul(s.load_first(v), factor));
        // SAFETY: LANES i16 fill LANES / 2 <= 8 words.
        unsafe { s.store_halves(last.as_mut_ptr().cast(), ints) };
        let out = outs.into_remainder();
        out.copy_from_slice(&last[..out.len()]);
    }
}

/// Stores the leading words of a vector, as many as `words` has.
#[inline(always)]
fn store_words<S: Int8>(s: S, words: &mut [f32], v: S::I) {
    let dst = words.as_mut_ptr().cast::<u8>();
    if words.len() >= S::LANES {
        // SAFETY: LANES words of four bytes.
        unsafe { s.store_bytes(dst, v) };
    } else {
        let mut all = [0.0f32; 16];
        // SAFETY: LANES <= 16 words.
        unsafe { s.store_bytes(all.as_mut_ptr().cast(), v) };
        words.copy_from_slice(&all[..words.len()]);
    }
}

/// Quantizes queries, a query a lane, `[d, width]`, each to its own scale, and pairs element `2i` with `2i + 1`: words
/// `[d / 2, width]` in the same memory. `scales` gets what brings a logit back, divided by the root of `d`, for powers of two.
#[inline(always)]
pub(super) fn quantize_lanes<S: Int8>(
    s: S,
    queries: &mut [f32],
    d: usize,
    width: usize,
    scales: &mut [f32],
) {
    let most = key_max(d);
    let root = std::f32::consts::LOG2_E / (d as f32).sqrt();
    let zero = s.splat(0.0);
    for vector in (0..width).step_by(S::LANES) {
        let mut seen = (zero, zero);
        for row in queries[..d * width].chunks_exact(width) {
            seen = magnitude(s, seen, s.load(&row[vector..]));
        }
        let (largest, poison) = seen;
        // As in `quantizer`, a query a lane.
        let largest = s.max(largest, s.splat(1e-30));
        let factor = s.div(s.splat(most), largest);
        let scale = s.mul_add(largest, s.splat(root / most), poison);
        s.store(&mut scales[vector..], scale);
        for pair in 0..d / 2 {
            let low = quantize_vector(s, &queries[2 * pair * width + vector..], factor);
            let high = quantize_vector(s, &queries[(2 * pair + 1) * width + vector..], factor);
            store_words(s, &mut queries[pair * width + vector..], s.pair(low, high));
        }
    }
}

/// Quantizes the weights of one vector of queries, rows `width` apart, in place: row `i` gets those of keys `2i` and `2i + 1`.
#[inline(always)]
pub(super) fn pair_weights<S: Int8>(
    s: S,
    weights: &mut [f32],
    keys: usize,
    width: usize,
    factor: S::V,
) {
    for pair in 0..keys.div_ceil(2) {
        let low = quantize_vector(s, &weights[2 * pair * width..], factor);
        let high = if 2 * pair + 1 < keys {
            quantize_vector(s, &weights[(2 * pair + 1) * width..], factor)
        } else {
            s.splat_int(0)
        };
        let word = s.pair(low, high);
        // SAFETY: a vector of words, which slicing would have found.
        unsafe {
            s.store_bytes(
                weights[pair * width..][..S::LANES].as_mut_ptr().cast(),
                word,
            )
        };
    }
}
