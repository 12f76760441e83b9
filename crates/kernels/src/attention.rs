//! Softmax attention over packed sequences, without a matrix of all queries by all keys.
//!
//! An item of work is a run of queries of one head of one sequence. It goes through the keys block by block: packs the
//! block's keys and values once, and for each tile of queries (two vectors of them, a query a lane) computes the block's
//! logits, their exponentials relative to the running maximum, and the weighted sum of values, rescaling what it has when
//! the maximum grew (online softmax). With a query a lane, maximum, sum and rescaling are plain vector operations.
//!
//! The blocks are fixed by the sequence's length and a lane never looks at its neighbours, so a query's result depends on
//! its own sequence only, to the bit. Scratch memory is a few hundred KiB a thread at any length.

use std::cmp::Reverse;
use std::ops::Range;

use crate::isa::Kernels;
use crate::math::exp_negative;
use crate::parallel::{self, Shared};
use crate::scratch::{Buffer, Slot};
use crate::simd::{Kernel, Simd, transpose};
use crate::tile::{dispatch_rows, pack_panel, panel_start, panels, product};

/// The most keys of a block: with the widest tile its logits take 32 KiB.
const KEYS: usize = 256;
/// The most queries of an item: the packing of the keys is spread over them.
const QUERIES: usize = 512;
/// The fewest queries an item is cut down to for the sake of idle threads.
const MIN_QUERIES: usize = 64;

impl Kernels {
    /// `softmax(q · kᵀ / sqrt(head_dim)) · v` for each head, each query over the keys of its own sequence.
    ///
    /// `qkv` is `[tokens, 3 * hidden]` with `hidden = heads * head_dim`: a token's queries, keys and values follow each
    /// other, in each the heads (biases already added: [`crate::Epilogue::Bias`] does it on the way). Sequence `i` is the
    /// tokens `cu_seqlens[i]..cu_seqlens[i + 1]`, with any number of tokens; `cu_seqlens` begins with 0 and ends with
    /// `tokens`. `out` is `[tokens, hidden]`; what it held before does not matter.
    ///
    /// Exponentials have a relative error below 1.5e-7 and are taken relative to the largest logit, so nothing overflows;
    /// the logits themselves are f32 sums. A weight below e^-87 of the largest counts as that.
    ///
    /// # Panics
    /// If `cu_seqlens` is not as described, or `qkv` or `out` does not fit.
    pub fn attention(
        self,
        qkv: &[f32],
        cu_seqlens: &[usize],
        heads: usize,
        head_dim: usize,
        out: &mut [f32],
    ) {
        assert!(
            cu_seqlens.first() == Some(&0) && cu_seqlens.is_sorted(),
            "attention: cu_seqlens must rise from 0, got {cu_seqlens:?}"
        );
        let tokens = cu_seqlens[cu_seqlens.len() - 1];
        let hidden = heads
            .checked_mul(head_dim)
            .expect("attention: heads * head_dim overflows");
        for (name, got, want) in [
            (
                "qkv",
                qkv.len(),
                hidden
                    .checked_mul(3)
                    .and_then(|row| row.checked_mul(tokens)),
            ),
            ("out", out.len(), hidden.checked_mul(tokens)),
        ] {
            assert!(
                Some(got) == want,
                "attention: {name} of {got} values does not fit {tokens} tokens of {heads} heads of {head_dim}"
            );
        }
        if hidden == 0 {
            return;
        }
        let sequences = || cu_seqlens.windows(2).map(|bounds| bounds[0]..bounds[1]);
        let mut run = QUERIES;
        let count = |run| -> usize { sequences().map(|s| s.len().div_ceil(run) * heads).sum() };
        while run > MIN_QUERIES && count(run) < 4 * rayon::current_num_threads() {
            run /= 2;
        }
        let mut items = Vec::with_capacity(count(run));
        for sequence in sequences() {
            for first in sequence.clone().step_by(run) {
                let queries = first..(first + run).min(sequence.end);
                items.extend((0..heads).map(|head| (sequence.clone(), queries.clone(), head)));
            }
        }
        // The long ones first, so that no thread begins one when the others are done.
        items.sort_by_key(|(keys, queries, _)| Reverse(keys.len() * queries.len()));
        let out = Shared::new(out);
        parallel::for_each(items.len(), |i| {
            let (keys, queries, head) = items[i].clone();
            self.dispatch(Attend {
                qkv,
                keys,
                queries,
                hidden,
                head_dim,
                head,
                out,
            });
        });
    }
}

/// One item: the queries `queries` of head `head` over the keys `keys`, both token ranges.
struct Attend<'a> {
    qkv: &'a [f32],
    keys: Range<usize>,
    queries: Range<usize>,
    hidden: usize,
    head_dim: usize,
    head: usize,
    out: Shared,
}

/// What an item keeps of one tile of queries from block to block. `width` is the tile's number of lanes.
struct TileState<'a> {
    /// The queries, scaled, `[head_dim, width]`.
    queries: &'a mut [f32],
    /// The weighted sum of values so far, `[head_dim, width]`.
    sums: &'a mut [f32],
    /// The largest logit so far, `[width]`.
    max: &'a mut [f32],
    /// The sum of the weights so far, `[width]`.
    total: &'a mut [f32],
}

/// A block of keys and values, packed.
struct Block<'a> {
    keys: usize,
    head_dim: usize,
    /// Panels of tile rows one after the other, each `[head_dim, rows of the panel]`.
    packed_keys: &'a [f32],
    /// `[keys, head_dim]`.
    values: &'a [f32],
    /// Whether there was no block before.
    first: bool,
}

impl Kernel for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let d = self.head_dim;
        let width = 2 * S::LANES;
        let tiles = self.queries.len().div_ceil(width);
        let blocks = self.keys.len().div_ceil(KEYS);
        let largest = self.keys.len().div_ceil(blocks);
        let state_len = (2 * d + 2) * width;
        let mut scratch = Buffer::take(Slot::Thread, tiles * state_len + largest * (2 * d + width));
        let (states, rest) = scratch.split_at_mut(tiles * state_len);
        let (logits, rest) = rest.split_at_mut(largest * width);
        let (packed_keys, values) = rest.split_at_mut(largest * d);

        for (tile, state) in states.chunks_exact_mut(state_len).enumerate() {
            let first = tile * width;
            let lanes = width.min(self.queries.len() - first);
            let mut state = TileState::new(state, d, width);
            self.pack_queries(s, first, lanes, &mut state);
        }
        for block in 0..blocks {
            let start = panel_start(block, blocks, self.keys.len());
            let keys = panel_start(block + 1, blocks, self.keys.len()) - start;
            self.pack_keys(s, start, keys, packed_keys, values);
            let block = Block {
                keys,
                head_dim: d,
                packed_keys: &packed_keys[..keys * d],
                values: &values[..keys * d],
                first: block == 0,
            };
            for (tile, state) in states.chunks_exact_mut(state_len).enumerate() {
                let state = TileState::new(state, d, width);
                if self.queries.len() - tile * width > S::LANES {
                    attend_tile::<S, 2>(s, &block, state, logits);
                } else {
                    attend_tile::<S, 1>(s, &block, state, logits);
                }
            }
        }
        for (tile, state) in states.chunks_exact_mut(state_len).enumerate() {
            let first = tile * width;
            let lanes = width.min(self.queries.len() - first);
            let mut state = TileState::new(state, d, width);
            self.finish(s, first, lanes, &mut state);
        }
    }
}

impl<'a> TileState<'a> {
    fn new(state: &'a mut [f32], head_dim: usize, width: usize) -> Self {
        let (queries, rest) = state.split_at_mut(head_dim * width);
        let (sums, rest) = rest.split_at_mut(head_dim * width);
        let (max, total) = rest.split_at_mut(width);
        Self {
            queries,
            sums,
            max,
            total,
        }
    }
}

/// The lanes a tile of `lanes` queries works with: one vector if they fit, two if not.
#[inline(always)]
fn tile_width<S: Simd>(lanes: usize) -> usize {
    lanes.next_multiple_of(S::LANES)
}

impl Attend<'_> {
    /// The head's part `part` (0 queries, 1 keys, 2 values) of token `token`.
    #[inline(always)]
    fn part(&self, token: usize, part: usize) -> &[f32] {
        let start = (3 * token + part) * self.hidden + self.head * self.head_dim;
        &self.qkv[start..][..self.head_dim]
    }

    /// Packs `lanes` queries from number `first` of the item on, a query a lane, zeros in lanes without one.
    #[inline(always)]
    fn pack_queries<S: Simd>(&self, s: S, first: usize, lanes: usize, state: &mut TileState<'_>) {
        let d = self.head_dim;
        let width = tile_width::<S>(lanes);
        assert!(state.queries.len() >= d * width);
        for vector in (0..lanes).step_by(S::LANES) {
            let token = self.queries.start + first + vector;
            let rows = S::LANES.min(lanes - vector);
            // The last row's bounds; the rows before it end earlier.
            self.part(token + rows - 1, 0);
            // SAFETY: `rows` rows of `d` values a token apart lie within `qkv` (just checked); the destination is `d` rows of
            // `width`, of which LANES from `vector` on are written.
            unsafe {
                transpose(
                    s,
                    (self.part(token, 0).as_ptr(), 3 * self.hidden),
                    (rows, d),
                    (state.queries.as_mut_ptr().add(vector), width),
                    d,
                );
            }
        }
        let scale = s.splat(1.0 / (d as f32).sqrt());
        for q in state.queries[..d * width].chunks_exact_mut(S::LANES) {
            s.store(q, s.mul(s.load(q), scale));
        }
    }

    /// Packs `keys` keys and values from number `start` of the sequence on.
    #[inline(always)]
    fn pack_keys<S: Simd>(
        &self,
        s: S,
        start: usize,
        keys: usize,
        packed_keys: &mut [f32],
        values: &mut [f32],
    ) {
        let d = self.head_dim;
        assert!(packed_keys.len() >= keys * d);
        let count = panels(keys, S::TILE_ROWS);
        for panel in 0..count {
            let row = panel_start(panel, count, keys);
            let height = panel_start(panel + 1, count, keys) - row;
            let token = self.keys.start + start + row;
            // The last row's bounds; the rows before it end earlier.
            self.part(token + height - 1, 1);
            // SAFETY: `height` rows of `d` values a token apart lie within `qkv` (just checked); the panel takes
            // `height * d` of the `keys * d` values from `row * d` on.
            unsafe {
                pack_panel(
                    s,
                    (self.part(token, 1).as_ptr(), 3 * self.hidden),
                    (height, d),
                    packed_keys.as_mut_ptr().add(row * d),
                );
            }
        }
        for (key, value) in values.chunks_exact_mut(d).take(keys).enumerate() {
            value.copy_from_slice(self.part(self.keys.start + start + key, 2));
        }
    }

    /// Divides the sums of `lanes` queries from number `first` of the item on by their total weight and writes them out.
    #[inline(always)]
    fn finish<S: Simd>(&self, s: S, first: usize, lanes: usize, state: &mut TileState<'_>) {
        let d = self.head_dim;
        let width = tile_width::<S>(lanes);
        assert!(state.sums.len() >= d * width);
        for vector in (0..width).step_by(S::LANES) {
            let inverse = s.div(s.splat(1.0), s.load(&state.total[vector..]));
            for sums in state.sums[..d * width].chunks_exact_mut(width) {
                let sums = &mut sums[vector..];
                s.store(sums, s.mul(s.load(sums), inverse));
            }
        }
        let token = self.queries.start + first;
        for strip in (0..d).step_by(S::LANES) {
            let rows = S::LANES.min(d - strip);
            // SAFETY: `sums` is `d` rows of `width >= lanes` values (asserted), of which this reads `rows` from `strip` on.
            // The destination is `rows` values of this head, from `strip` on, in each of `lanes` tokens of this item, all
            // within `out`; no other item has this head of these tokens. No store is wider than `rows`, unless `rows` is a
            // vector.
            unsafe {
                transpose(
                    s,
                    (state.sums.as_ptr().add(strip * width), width),
                    (rows, lanes),
                    (
                        self.out.at(token * self.hidden + self.head * d + strip),
                        self.hidden,
                    ),
                    if rows == S::LANES { lanes } else { 0 },
                );
            }
        }
    }
}

/// Adds one block of keys to what a tile of `VECTORS` vectors of queries has so far.
#[inline(always)]
fn attend_tile<S: Simd, const VECTORS: usize>(
    s: S,
    block: &Block<'_>,
    state: TileState<'_>,
    logits: &mut [f32],
) {
    let width = VECTORS * S::LANES;
    let logits = &mut logits[..block.keys * width];

    let mut max = [s.splat(f32::NEG_INFINITY); VECTORS];
    if !block.first {
        for (j, max) in max.iter_mut().enumerate() {
            *max = s.load(&state.max[j * S::LANES..]);
        }
    }
    let before = max;
    let count = panels(block.keys, S::TILE_ROWS);
    for panel in 0..count {
        let row = panel_start(panel, count, block.keys);
        let height = panel_start(panel + 1, count, block.keys) - row;
        dispatch_rows!(height, S, |ROWS| logit_panel::<S, ROWS, VECTORS>(
            s,
            block,
            row,
            state.queries,
            logits,
            &mut max
        ));
    }

    // The weight of what was summed before, now that the maximum may have grown.
    let mut decay = [s.splat(0.0); VECTORS];
    for j in 0..VECTORS {
        let total = &mut state.total[j * S::LANES..];
        let mut sum = s.splat(0.0);
        if !block.first {
            decay[j] = exp_negative(s, s.sub(before[j], max[j]));
            sum = s.mul(s.load(total), decay[j]);
        }
        for logits in logits.chunks_exact_mut(width) {
            let logit = &mut logits[j * S::LANES..];
            let weight = exp_negative(s, s.sub(s.load(logit), max[j]));
            s.store(logit, weight);
            sum = s.add(sum, weight);
        }
        s.store(total, sum);
        s.store(&mut state.max[j * S::LANES..], max[j]);
    }

    let count = panels(block.head_dim, S::TILE_ROWS);
    for panel in 0..count {
        let row = panel_start(panel, count, block.head_dim);
        let height = panel_start(panel + 1, count, block.head_dim) - row;
        dispatch_rows!(height, S, |ROWS| value_panel::<S, ROWS, VECTORS>(
            s, block, row, logits, decay, state.sums
        ));
    }
}

/// The logits of `ROWS` keys from `row` of the block on, and their maximum.
#[inline(always)]
fn logit_panel<S: Simd, const ROWS: usize, const VECTORS: usize>(
    s: S,
    block: &Block<'_>,
    row: usize,
    queries: &[f32],
    logits: &mut [f32],
    max: &mut [S::V; VECTORS],
) {
    let (d, width) = (block.head_dim, VECTORS * S::LANES);
    assert!(queries.len() >= d * width);
    let keys = &block.packed_keys[row * d..][..ROWS * d];
    // SAFETY: `keys` is `d` steps of ROWS values, `queries` at least `d` steps of `width`.
    let sums = unsafe {
        product::<S, ROWS, VECTORS>(s, d, (keys.as_ptr(), ROWS), (queries.as_ptr(), width))
    };
    let logits = &mut logits[row * width..][..ROWS * width];
    for i in 0..ROWS {
        for j in 0..VECTORS {
            max[j] = s.max(max[j], sums[i][j]);
            s.store(&mut logits[i * width + j * S::LANES..], sums[i][j]);
        }
    }
}

/// Adds the block's weighted values to `ROWS` of the head's dimensions from `row` on.
#[inline(always)]
fn value_panel<S: Simd, const ROWS: usize, const VECTORS: usize>(
    s: S,
    block: &Block<'_>,
    row: usize,
    weights: &[f32],
    decay: [S::V; VECTORS],
    sums: &mut [f32],
) {
    let (d, width) = (block.head_dim, VECTORS * S::LANES);
    assert!(row + ROWS <= d && block.values.len() == block.keys * d);
    assert!(weights.len() == block.keys * width);
    // SAFETY: `values` is `keys` steps of `d` values, of which ROWS from `row` on are read; `weights` `keys` steps of `width`.
    let new = unsafe {
        let values = block.values.as_ptr().add(row);
        product::<S, ROWS, VECTORS>(s, block.keys, (values, d), (weights.as_ptr(), width))
    };
    let sums = &mut sums[row * width..][..ROWS * width];
    for i in 0..ROWS {
        for j in 0..VECTORS {
            let sum = &mut sums[i * width + j * S::LANES..];
            let v = if block.first {
                new[i][j]
            } else {
                s.mul_add(s.load(sum), decay[j], new[i][j])
            };
            s.store(sum, v);
        }
    }
}
