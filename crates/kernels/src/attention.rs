//! Softmax attention over packed sequences, without a matrix of all queries by all keys.
//!
//! An item of work is a run of queries of one head of one sequence. It goes through the keys block by block: packs the
//! block's keys and values once, and for each tile of queries (two vectors of them, a query a lane) computes the block's
//! logits, their exponentials relative to the running maximum, and the weighted sum of values, rescaling what it has when
//! the maximum grew (online softmax). With a query a lane, maximum, sum and rescaling are plain vector operations.
//!
//! The int8 engine's attention is the same on i16: queries, keys and values are quantized to 13 to 16 bits on the way in, the
//! weights once a block's are known, so that a dot product of pairs ([`Int8::dot2`]) does two multiply-adds a lane at once
//! and exactly. Its error is a hundredth of what int8 activations cost elsewhere.
//!
//! The blocks are fixed by the sequence's length and a lane never looks at its neighbours, so a query's result depends on
//! its own sequence only, to the bit. With a window the items are fixed as well, an item has the keys that its queries see and no
//! others, and a tile passes over those of them that it does not see: the cost is linear in the length. Scratch memory is a few hundred
//! KiB a thread at any length.
//!
//! What differs between the two is an [`Arithmetic`]: `floats.rs` and `words.rs`. A matrix unit goes its own way, in `unit.rs`.

mod floats;
mod kind;
mod unit;
mod words;

use std::cmp::Reverse;
use std::marker::PhantomData;
use std::ops::Range;

use crate::attention::floats::F32;
use crate::attention::kind::rotate_row;
use crate::attention::unit::AttendOnUnit;
use crate::attention::words::I16;
use crate::isa::Kernels;
use crate::parallel::{self, Shared};
use crate::scratch::{Buffer, Slot};
use crate::simd::{Int8, Kernel, transpose};
use crate::tile::{dispatch_rows, panel_start, panels};

pub use kind::{AttentionKind, RelativeBias, Rotary};

/// The most keys of a block: with the widest tile its logits take 32 KiB.
const KEYS: usize = 256;
/// The most queries of an item: the packing of the keys is spread over them.
const QUERIES: usize = 512;
/// The fewest queries an item is cut down to for the sake of idle threads.
const MIN_QUERIES: usize = 64;
/// The queries of an item with a window: with the usual 64 tokens on either side its keys are one block.
const WINDOW_QUERIES: usize = 128;
/// Rows that are rotated together, at least as many as a vector has lanes and a tile rows.
const TURNED: usize = 16;

impl Kernels {
    /// `softmax(q · kᵀ / sqrt(head_dim)) · v` for each head, each query over the keys of its own sequence. `kind` may rotate queries
    /// and keys by their positions, add a bias to the scaled logits, and leave out keys beyond a window.
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
    /// If `cu_seqlens` is not as described, or `qkv`, `out` or a table of `kind` does not fit.
    pub fn attention(
        self,
        qkv: &[f32],
        cu_seqlens: &[usize],
        heads: usize,
        head_dim: usize,
        kind: &AttentionKind<'_>,
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
        let lengths = cu_seqlens.windows(2).map(|bounds| bounds[1] - bounds[0]);
        kind.check("attention", heads, head_dim, lengths.max().unwrap_or(0));
        let items = items(cu_seqlens, heads, kind.window, false);
        let out = Shared::new(out);
        parallel::for_each(items.len(), |i| {
            let item = &items[i];
            let layout = Layout::rows(heads, head_dim);
            // SAFETY: `items` gives each query of each head to one item, and `out` has a row for every token.
            unsafe { self.attend(item, qkv, layout, kind, false, (out, hidden)) };
        });
    }

    /// One item of [`Kernels::attention`]; with `int16` on i16 where this instruction set gains by it.
    ///
    /// # Safety
    /// `out` must have a row of all heads for every token of the item, `stride` values from the last, and nothing else may
    /// touch the item's head of its queries' rows.
    pub(crate) unsafe fn attend(
        self,
        item: &Item,
        qkv: &[f32],
        layout: Layout,
        kind: &AttentionKind<'_>,
        int16: bool,
        (out, stride): (Shared, usize),
    ) {
        let attend = Attend {
            qkv,
            layout,
            kind,
            item,
            head_dim: layout.head_dim,
            out,
            stride,
        };
        if int16 && self.has_unit() && layout.head_dim.is_multiple_of(4) {
            self.dispatch_unit(AttendOnUnit(attend));
        } else if int16 && layout.head_dim.is_multiple_of(2) && self.dispatch(FastDot2) {
            self.dispatch(AttendIn::<I16>(attend, PhantomData));
        } else {
            self.dispatch_f32(AttendIn::<F32>(attend, PhantomData));
        }
    }
}

struct FastDot2;

impl Kernel for FastDot2 {
    type Output = bool;

    #[inline(always)]
    fn run<S: Int8>(self, _: S) -> bool {
        S::FAST_DOT2
    }
}

/// Where queries, keys and values lie: the distances from one token, head and part (queries, keys, values) to the next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) head_dim: usize,
    pub(crate) token: usize,
    pub(crate) head: usize,
    pub(crate) part: usize,
}

impl Layout {
    /// A row for each token.
    pub(crate) fn rows(heads: usize, head_dim: usize) -> Self {
        Self {
            head_dim,
            token: 3 * heads * head_dim,
            head: head_dim,
            part: heads * head_dim,
        }
    }

    /// A matrix of all tokens for each part and head.
    pub(crate) fn slabs(heads: usize, head_dim: usize, tokens: usize) -> Self {
        Self {
            head_dim,
            token: head_dim,
            head: tokens * head_dim,
            part: heads * tokens * head_dim,
        }
    }
}

/// A run of queries of one head over the keys of their sequence, or as many of them as a window lets them see; token ranges.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    /// The sequence's first token.
    start: usize,
    keys: Range<usize>,
    queries: Range<usize>,
    head: usize,
}

/// The items of packed sequences: all queries, or only each sequence's first.
pub(crate) fn items(
    cu_seqlens: &[usize],
    heads: usize,
    window: Option<usize>,
    first_only: bool,
) -> Vec<Item> {
    let sequences = || cu_seqlens.windows(2).map(|bounds| bounds[0]..bounds[1]);
    let queries = |sequence: &Range<usize>| {
        let most = if first_only { 1 } else { usize::MAX };
        sequence.start..sequence.end.min(sequence.start.saturating_add(most))
    };
    let count = |run| -> usize {
        sequences()
            .map(|s| queries(&s).len().div_ceil(run) * heads)
            .sum()
    };
    let mut run = if window.is_some() {
        WINDOW_QUERIES
    } else {
        QUERIES
    };
    while window.is_none() && run > MIN_QUERIES && count(run) < 4 * rayon::current_num_threads() {
        run /= 2;
    }
    let mut items = Vec::with_capacity(count(run));
    for sequence in sequences() {
        let queries = queries(&sequence);
        for first in queries.clone().step_by(run) {
            let queries = first..(first + run).min(queries.end);
            let keys = match window {
                Some(window) => {
                    let from = queries.start.saturating_sub(window).max(sequence.start);
                    from..queries.end.saturating_add(window).min(sequence.end)
                }
                None => sequence.clone(),
            };
            items.extend((0..heads).map(|head| Item {
                start: sequence.start,
                keys: keys.clone(),
                queries: queries.clone(),
                head,
            }));
        }
    }
    // The long ones first, so that no thread begins one when the others are done.
    items.sort_by_key(|item| Reverse(item.keys.len() * item.queries.len()));
    items
}

/// One item at work.
struct Attend<'a> {
    qkv: &'a [f32],
    layout: Layout,
    kind: &'a AttentionKind<'a>,
    item: &'a Item,
    head_dim: usize,
    out: Shared,
    /// From one token's row of `out` to the next.
    stride: usize,
}

/// The item in one arithmetic.
struct AttendIn<'a, A>(Attend<'a>, PhantomData<A>);

/// What the vector registers compute attention in. Queries, keys, values and weights lie in words of four bytes.
trait Arithmetic {
    /// Values that a word holds.
    const PER_WORD: usize;
    /// What logits are multiplied by, so that [`Arithmetic::weight`] makes weights of them.
    const LOGIT: f32;

    /// Makes words of a tile's queries, `[head_dim, width]` f32, in place; `scales` gets what brings each one's logits back, if that is
    /// not 1.
    fn queries<S: Int8>(
        s: S,
        queries: &mut [f32],
        head_dim: usize,
        width: usize,
        scales: &mut [f32],
    );

    /// Packs `keys` keys and values of an item from number `start` on; returns what one of a value counts.
    fn pack<S: Int8>(
        attend: &Attend<'_>,
        s: S,
        start: usize,
        keys: usize,
        room: &mut BlockRoom<'_>,
    ) -> f32;

    /// The logits of `ROWS` keys from `row` of the block on.
    fn logits<S: Int8, const ROWS: usize, const VECTORS: usize>(
        s: S,
        block: &Block<'_>,
        row: usize,
        state: &TileState<'_>,
    ) -> [[S::V; VECTORS]; ROWS];

    /// The weight of a logit, by its distance from the largest.
    fn weight<S: Int8>(s: S, distance: S::V) -> S::V;

    /// Makes words of the weights of one vector of queries, rows `width` apart, in place; returns what one of a weight counts. `sum` is
    /// theirs.
    fn weights<S: Int8>(s: S, weights: &mut [f32], keys: usize, width: usize, sum: S::V) -> S::V;

    /// The weighted values of `ROWS` of the head's dimensions: `steps` rows of `values`, `head_dim` words apart, and of `weights`. `unit`
    /// is what one of a weight and value counts.
    ///
    /// # Safety
    /// `values` must be readable for `ROWS` words and `weights` for `VECTORS * LANES` at each step.
    unsafe fn values<S: Int8, const ROWS: usize, const VECTORS: usize>(
        s: S,
        steps: usize,
        values: (*const f32, usize),
        weights: *const f32,
        unit: [S::V; VECTORS],
    ) -> [[S::V; VECTORS]; ROWS];
}

/// Where a block is packed.
struct BlockRoom<'a> {
    packed_keys: &'a mut [f32],
    values: &'a mut [f32],
    key_scales: &'a mut [f32],
    /// On i16, keys' rows of words before they are packed.
    rows: &'a mut [f32],
    turned: &'a mut [f32],
}

/// What an item keeps of one tile of queries from block to block. `width` is the tile's number of lanes.
struct TileState<'a> {
    /// The queries, scaled, `[head_dim, width]`; on i16 pairs of them, `[head_dim / 2, width]` words.
    queries: &'a mut [f32],
    /// The weighted sum of values so far, `[head_dim, width]`.
    sums: &'a mut [f32],
    /// The largest logit so far, `[width]`.
    max: &'a mut [f32],
    /// The sum of the weights so far, `[width]`.
    total: &'a mut [f32],
    /// On i16, what a query's logits are multiplied by, `[width]`.
    scale: &'a mut [f32],
}

/// A block of keys and values, packed.
struct Block<'a> {
    keys: usize,
    head_dim: usize,
    /// Panels of tile rows one after the other, each `[head_dim, rows of the panel]`; on i16 `[head_dim / 2, …]` words.
    packed_keys: &'a [f32],
    /// `[keys, head_dim]`; on i16 pairs of keys, `[keys / 2 rounded up, head_dim]` words.
    values: &'a [f32],
    /// On i16, what one of a key's logits is multiplied by, `[keys]`.
    key_scales: &'a [f32],
    /// On i16, what a quantized value is multiplied by.
    value_scale: f32,
    /// Whether there was no block before that the tile sees.
    first: bool,
    /// The keys that the tile sees. On i16 they begin with an even number.
    seen: Range<usize>,
    /// What is added to logits: element `(last key - key) + lane`.
    offsets: Option<&'a [f32]>,
}

impl<A: Arithmetic> Kernel for AttendIn<'_, A> {
    type Output = ();

    #[inline(always)]
    fn run<S: Int8>(self, s: S) {
        let attend = self.0;
        let (keys, queries) = (attend.item.keys.len(), attend.item.queries.len());
        let d = attend.head_dim;
        let width = 2 * S::LANES;
        let tiles = queries.div_ceil(width);
        let blocks = keys.div_ceil(KEYS);
        let largest = keys.div_ceil(blocks).next_multiple_of(2);
        let state_len = (2 * d + 3) * width;
        let mut scratch = Buffer::take(
            Slot::Thread,
            tiles * state_len
                + largest * (2 * d + width + 1)
                + KEYS.max(largest) * d
                + TURNED * d
                + attend.offsets_len(tiles * width),
        );
        let (states, rest) = scratch.split_at_mut(tiles * state_len);
        let (logits, rest) = rest.split_at_mut(largest * width);
        let (packed_keys, rest) = rest.split_at_mut(largest * d);
        let (values, rest) = rest.split_at_mut(largest * d);
        let (key_scales, rest) = rest.split_at_mut(largest);
        let (rows, rest) = rest.split_at_mut(KEYS.max(largest) * d);
        let (turned, offsets) = rest.split_at_mut(TURNED * d);
        let offsets = attend.offsets(A::LOGIT, offsets);

        for (tile, state) in states.chunks_exact_mut(state_len).enumerate() {
            let first = tile * width;
            let lanes = width.min(queries - first);
            let mut state = TileState::new(state, d, width);
            attend.pack_queries::<S, A>(s, first, lanes, &mut state, turned);
        }
        for block in 0..blocks {
            let start = panel_start(block, blocks, keys);
            let later = keys - panel_start(block + 1, blocks, keys);
            let keys = keys - later - start;
            let mut room = BlockRoom {
                packed_keys: &mut *packed_keys,
                values: &mut *values,
                key_scales: &mut *key_scales,
                rows: &mut *rows,
                turned: &mut *turned,
            };
            let value_scale = A::pack(&attend, s, start, keys, &mut room);
            let words = d / A::PER_WORD;
            let value_rows = keys.div_ceil(A::PER_WORD);
            for (tile, state) in states.chunks_exact_mut(state_len).enumerate() {
                let first = tile * width;
                let lanes = width.min(queries - first);
                let Some((seen, is_first)) = attend.seen(first, lanes, start, keys, 2) else {
                    continue;
                };
                let block = Block {
                    keys,
                    head_dim: d,
                    packed_keys: &packed_keys[..keys * words],
                    values: &values[..value_rows * d],
                    key_scales: &key_scales[..keys],
                    value_scale,
                    first: is_first,
                    seen,
                    offsets: offsets.map(|offsets| &offsets[first + later..]),
                };
                let (block, state) = (&block, TileState::new(state, d, width));
                if lanes > S::LANES {
                    s.vectorize(AttendTile::<A, 2> {
                        block,
                        state,
                        logits,
                        arithmetic: self.1,
                    });
                } else {
                    s.vectorize(AttendTile::<A, 1> {
                        block,
                        state,
                        logits,
                        arithmetic: self.1,
                    });
                }
            }
        }
        for (tile, state) in states.chunks_exact_mut(state_len).enumerate() {
            let first = tile * width;
            let lanes = width.min(queries - first);
            let state = TileState::new(state, d, width);
            let width = tile_width::<S>(lanes);
            attend.finish(s, first, lanes, width, (state.sums, state.total));
        }
    }
}

impl<'a> TileState<'a> {
    fn new(state: &'a mut [f32], head_dim: usize, width: usize) -> Self {
        let (queries, rest) = state.split_at_mut(head_dim * width);
        let (sums, rest) = rest.split_at_mut(head_dim * width);
        let (max, rest) = rest.split_at_mut(width);
        let (total, scale) = rest.split_at_mut(width);
        Self {
            queries,
            sums,
            max,
            total,
            scale,
        }
    }
}

/// The lanes a tile of `lanes` queries works with: one vector if they fit, two if not.
#[inline(always)]
fn tile_width<S: Int8>(lanes: usize) -> usize {
    lanes.next_multiple_of(S::LANES)
}

impl Attend<'_> {
    /// Where the head's part `part` (0 queries, 1 keys, 2 values) of token `token` begins.
    #[inline(always)]
    fn part_start(&self, token: usize, part: usize) -> usize {
        let Layout {
            token: row,
            head,
            part: third,
            ..
        } = self.layout;
        token * row + part * third + self.item.head * head
    }

    #[inline(always)]
    fn part(&self, token: usize, part: usize) -> &[f32] {
        &self.qkv[self.part_start(token, part)..][..self.head_dim]
    }

    /// `count` rows of part `part` from token `token` on, and how far apart they are: as they lie in `qkv`, or queries and keys
    /// rotated, in `turned`.
    #[inline(always)]
    fn rows<'b, S: Int8>(
        &'b self,
        s: S,
        (token, count): (usize, usize),
        part: usize,
        turned: &'b mut [f32],
    ) -> (&'b [f32], usize) {
        let d = self.head_dim;
        let Some(rotary) = &self.kind.rotary else {
            let len = (count - 1) * self.layout.token + d;
            let start = self.part_start(token, part);
            return (&self.qkv[start..][..len], self.layout.token);
        };
        let turned = &mut turned[..count * d];
        for (i, out) in turned.chunks_exact_mut(d).enumerate() {
            let position = token + i - self.item.start;
            rotate_row(s, self.part(token + i, part), rotary, position, out);
        }
        (turned, d)
    }

    /// Of the keys `start..start + keys` of the item, as numbers from `start` on, those that `lanes` queries from number `first` on
    /// see, from a multiple of `unit` on and up to one or the last; and whether they see none before. Nothing if they see none.
    #[inline(always)]
    fn seen(
        &self,
        first: usize,
        lanes: usize,
        start: usize,
        keys: usize,
        unit: usize,
    ) -> Option<(Range<usize>, bool)> {
        let Some(window) = self.kind.window else {
            return Some((0..keys, start == 0));
        };
        let query = self.item.queries.start + first - self.item.keys.start;
        let earliest = query.saturating_sub(window);
        let from = earliest.saturating_sub(start) / unit * unit;
        let end = (query + lanes).saturating_add(window);
        let to = end.saturating_sub(start).min(keys);
        let to = to.next_multiple_of(unit).min(keys);
        (from < to).then_some((from..to, earliest >= start))
    }

    /// Length of [`Self::offsets`] for tiles of so many lanes in all.
    fn offsets_len(&self, lanes: usize) -> usize {
        if self.kind.offsets_logits() {
            lanes + self.item.keys.len()
        } else {
            0
        }
    }

    /// What is added to logits, if anything is ([`AttentionKind::offsets`]), in the first values of `room`.
    fn offsets<'b>(&self, factor: f32, room: &'b mut [f32]) -> Option<&'b [f32]> {
        if !self.kind.offsets_logits() {
            return None;
        }
        self.kind.offsets(self.item, factor, room);
        Some(room)
    }

    /// Packs `lanes` queries from number `first` of the item on, a query a lane, zeros in lanes without one.
    #[inline(always)]
    fn pack_queries<S: Int8, A: Arithmetic>(
        &self,
        s: S,
        first: usize,
        lanes: usize,
        state: &mut TileState<'_>,
        turned: &mut [f32],
    ) {
        let d = self.head_dim;
        let width = tile_width::<S>(lanes);
        assert!(state.queries.len() >= d * width);
        for vector in (0..lanes).step_by(S::LANES) {
            let token = self.item.queries.start + first + vector;
            let rows = S::LANES.min(lanes - vector);
            let (values, stride) = self.rows(s, (token, rows), 0, turned);
            // SAFETY: `values` is `rows` rows of `d` values `stride` apart; the destination is `d` rows of `width`, of which LANES
            // from `vector` on are written.
            unsafe {
                transpose(
                    s,
                    (values.as_ptr(), stride),
                    (rows, d),
                    (state.queries.as_mut_ptr().add(vector), width),
                    d,
                );
            }
        }
        A::queries(s, state.queries, d, width, state.scale);
    }

    /// Divides the sums of `lanes` queries from number `first` of the item on by their total weight and writes them out. The sums
    /// are `[head_dim, width]`.
    #[inline(always)]
    fn finish<S: Int8>(
        &self,
        s: S,
        first: usize,
        lanes: usize,
        width: usize,
        (sums, total): (&mut [f32], &[f32]),
    ) {
        let d = self.head_dim;
        assert!(sums.len() >= d * width && width >= lanes);
        for vector in (0..lanes).step_by(S::LANES) {
            let inverse = s.div(s.splat(1.0), s.load(&total[vector..]));
            for sums in sums[..d * width].chunks_exact_mut(width) {
                let sums = &mut sums[vector..];
                s.store(sums, s.mul(s.load(sums), inverse));
            }
        }
        let token = self.item.queries.start + first;
        for strip in (0..d).step_by(S::LANES) {
            let rows = S::LANES.min(d - strip);
            // SAFETY: `sums` is `d` rows of `width >= lanes` values (asserted), of which this reads `rows` from `strip` on.
            // The destination is `rows` values of this head, from `strip` on, in each of `lanes` tokens of this item, all
            // within `out`; no other item has this head of these tokens. No store is wider than `rows`, unless `rows` is a
            // vector.
            unsafe {
                transpose(
                    s,
                    (sums.as_ptr().add(strip * width), width),
                    (rows, lanes),
                    (
                        self.out
                            .at(token * self.stride + self.item.head * d + strip),
                        self.stride,
                    ),
                    if rows == S::LANES { lanes } else { 0 },
                );
            }
        }
    }
}

/// Adds one block of keys to what a tile of `VECTORS` vectors of queries has so far.
///
/// The tile and its two products are functions of their own on each instruction set (through [`crate::simd::Simd::vectorize`]). Inlined into one
/// another, with a loop for every height of a panel, they would take the compiler more than twice as long.
struct AttendTile<'a, A, const VECTORS: usize> {
    block: &'a Block<'a>,
    state: TileState<'a>,
    logits: &'a mut [f32],
    arithmetic: PhantomData<A>,
}

impl<A: Arithmetic, const VECTORS: usize> Kernel for AttendTile<'_, A, VECTORS> {
    type Output = ();

    #[inline(always)]
    fn run<S: Int8>(self, s: S) {
        let Self {
            block,
            mut state,
            logits,
            arithmetic,
        } = self;
        let width = VECTORS * S::LANES;
        let mut before = [s.splat(f32::NEG_INFINITY); VECTORS];
        if !block.first {
            for (j, before) in before.iter_mut().enumerate() {
                *before = s.load(&state.max[j * S::LANES..]);
            }
        }
        s.vectorize(LogitPanels::<A, VECTORS> {
            block,
            state: &mut state,
            logits,
            arithmetic,
        });
        let seen = block.seen.clone();
        if let Some(offsets) = block.offsets {
            for (j, before) in before.iter().enumerate() {
                let first = j * S::LANES;
                let mut max = *before;
                for key in seen.clone() {
                    let offsets = &offsets[block.keys - 1 - key + first..];
                    max = offset_logit(s, &mut logits[key * width + first..], offsets, max);
                }
                s.store(&mut state.max[first..], max);
            }
        }
        let (keys, logits) = (seen.len(), &mut logits[seen.start * width..]);

        // The weight of what was summed before, now that the maximum may have grown, and what a quantized weight counts.
        let (mut decays, mut units) = ([0.0; MOST_LANES], [0.0; MOST_LANES]);
        for (j, before) in before.into_iter().enumerate() {
            let first = j * S::LANES;
            let max = s.load(&state.max[first..]);
            let total = &mut state.total[first..];
            let mut sum = s.splat(0.0);
            let weights = &mut logits[first..];
            for key in 0..keys {
                let logit = &mut weights[key * width..];
                let weight = A::weight(s, s.sub(s.load(logit), max));
                s.store(logit, weight);
                sum = s.add(sum, weight);
            }
            let unit = A::weights(s, weights, keys, width, sum);
            if !block.first {
                let decay = A::weight(s, s.sub(before, max));
                s.store(&mut decays[first..], decay);
                sum = s.mul_add(s.load(total), decay, sum);
            }
            s.store(total, sum);
            let unit = s.mul(unit, s.splat(block.value_scale));
            s.store(&mut units[first..], unit);
        }

        s.vectorize(ValuePanels::<A, VECTORS> {
            arithmetic,
            block,
            weights: logits,
            decays: &decays,
            units: &units,
            sums: state.sums,
        });
    }
}

/// The most lanes of a tile: two vectors of 16.
const MOST_LANES: usize = 32;

/// The logits of a block's keys, at least of those seen, and a tile's queries, `[keys, width]`, and each query's largest so far.
struct LogitPanels<'a, 'b, A, const VECTORS: usize> {
    block: &'a Block<'a>,
    state: &'a mut TileState<'b>,
    logits: &'a mut [f32],
    arithmetic: PhantomData<A>,
}

impl<A: Arithmetic, const VECTORS: usize> Kernel for LogitPanels<'_, '_, A, VECTORS> {
    type Output = ();

    #[inline(always)]
    fn run<S: Int8>(self, s: S) {
        let Self {
            block,
            state,
            logits,
            ..
        } = self;
        let mut max = [s.splat(f32::NEG_INFINITY); VECTORS];
        if !block.first {
            for (j, max) in max.iter_mut().enumerate() {
                *max = s.load(&state.max[j * S::LANES..]);
            }
        }
        let count = panels(block.keys, S::TILE_ROWS);
        for panel in 0..count {
            let row = panel_start(panel, count, block.keys);
            let height = panel_start(panel + 1, count, block.keys) - row;
            if row + height <= block.seen.start || row >= block.seen.end {
                continue;
            }
            dispatch_rows!(height, S, TILE_ROWS, |ROWS| logit_panel::<
                S,
                A,
                ROWS,
                VECTORS,
            >(
                s, block, row, state, logits, &mut max
            ));
        }
        for (j, max) in max.into_iter().enumerate() {
            s.store(&mut state.max[j * S::LANES..], max);
        }
    }
}

/// Adds a block's weighted values to a tile's sums, `[head_dim, width]`.
struct ValuePanels<'a, A, const VECTORS: usize> {
    arithmetic: PhantomData<A>,
    block: &'a Block<'a>,
    /// Of the keys that are seen, `[keys, width]`; on i16 pairs of them.
    weights: &'a [f32],
    /// What the sums so far count, a query a lane.
    decays: &'a [f32; MOST_LANES],
    /// On i16, what one of a quantized weight and value counts, a query a lane.
    units: &'a [f32; MOST_LANES],
    sums: &'a mut [f32],
}

impl<A: Arithmetic, const VECTORS: usize> Kernel for ValuePanels<'_, A, VECTORS> {
    type Output = ();

    #[inline(always)]
    fn run<S: Int8>(self, s: S) {
        let Self {
            block,
            weights,
            sums,
            ..
        } = self;
        let (mut decays, mut units) = ([s.splat(0.0); VECTORS], [s.splat(0.0); VECTORS]);
        for j in 0..VECTORS {
            decays[j] = s.load(&self.decays[j * S::LANES..]);
            units[j] = s.load(&self.units[j * S::LANES..]);
        }
        // Of the values those that are seen.
        let values = &block.values[block.seen.start / A::PER_WORD * block.head_dim..];
        let values = &values[..block.seen.len().div_ceil(A::PER_WORD) * block.head_dim];
        let count = panels(block.head_dim, S::TILE_ROWS);
        for panel in 0..count {
            let row = panel_start(panel, count, block.head_dim);
            let height = panel_start(panel + 1, count, block.head_dim) - row;
            dispatch_rows!(height, S, TILE_ROWS, |ROWS| value_panel::<
                S,
                A,
                ROWS,
                VECTORS,
            >(
                s,
                block,
                (row, values),
                weights,
                (decays, units),
                sums
            ));
        }
    }
}

/// Adds offsets to a vector of logits; returns the larger of `max` and what came out.
#[inline(always)]
fn offset_logit<S: Int8>(s: S, logits: &mut [f32], offsets: &[f32], max: S::V) -> S::V {
    let v = s.add(s.load(logits), s.load(offsets));
    s.store(logits, v);
    s.max(max, v)
}

/// The logits of `ROWS` keys from `row` of the block on, and their maximum.
#[inline(always)]
fn logit_panel<S: Int8, A: Arithmetic, const ROWS: usize, const VECTORS: usize>(
    s: S,
    block: &Block<'_>,
    row: usize,
    state: &TileState<'_>,
    logits: &mut [f32],
    max: &mut [S::V; VECTORS],
) {
    let width = VECTORS * S::LANES;
    let sums = A::logits::<S, ROWS, VECTORS>(s, block, row, state);
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
fn value_panel<S: Int8, A: Arithmetic, const ROWS: usize, const VECTORS: usize>(
    s: S,
    block: &Block<'_>,
    (row, values): (usize, &[f32]),
    weights: &[f32],
    (decay, unit): ([S::V; VECTORS], [S::V; VECTORS]),
    sums: &mut [f32],
) {
    let (d, width) = (block.head_dim, VECTORS * S::LANES);
    let steps = values.len() / d;
    assert!(row + ROWS <= d && weights.len() >= steps * width);
    let (values, weights) = (values[row..].as_ptr(), weights.as_ptr());
    // SAFETY: `values` is `steps` times `d` words, of which ROWS from `row` on are read; `weights` `steps` times `width`.
    let new = unsafe { A::values::<S, ROWS, VECTORS>(s, steps, (values, d), weights, unit) };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;
    use crate::reference;

    /// On i16, in both layouts, against f64: lengths around the borders of vectors, tiles and blocks, and logits up to about 15.
    #[test]
    fn attention_on_i16_is_near_the_exact_one_at_every_length() {
        const SPREAD: f32 = 6.0;
        let (heads, head_dim) = (2, 64);
        let hidden = heads * head_dim;
        let lengths = [1, 2, 3, 15, 16, 17, 33, 64, 255, 256, 257, 511, 600, 1100];
        let mut cu_seqlens = vec![0];
        for length in lengths {
            cu_seqlens.push(cu_seqlens[cu_seqlens.len() - 1] + length);
        }
        let tokens = cu_seqlens[lengths.len()];
        let mut state = 3u64;
        let qkv: Vec<f32> = (0..tokens * 3 * hidden)
            .map(|i| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let uniform = (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
                let queries = i % (3 * hidden) < hidden;
                if queries { uniform * SPREAD } else { uniform }
            })
            .collect();
        let mut slabs = vec![0.0; qkv.len()];
        let layout = Layout::slabs(heads, head_dim, tokens);
        for (i, &v) in qkv.iter().enumerate() {
            let (token, part) = (i / (3 * hidden), i % (3 * hidden) / hidden);
            let (head, c) = (i % hidden / head_dim, i % head_dim);
            slabs[token * layout.token + part * layout.part + head * layout.head + c] = v;
        }
        let angles = (0..1100 * head_dim / 2).map(|i| i as f32 / 77.0);
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles.map(|x| (x.cos(), x.sin())).unzip();
        let rotary = Some(Rotary {
            cos: &cos,
            sin: &sin,
        });
        let (table, reach) = (&qkv[..heads * 257], 128);
        let bias = Some(RelativeBias { table, reach });
        let plain = AttentionKind::default();
        for kind in [
            plain,
            AttentionKind {
                rotary,
                window: Some(64),
                bias: None,
            },
            AttentionKind {
                rotary,
                window: Some(150),
                bias,
            },
        ] {
            let mut exact = vec![0.0; tokens * hidden];
            reference::attention(&qkv, &cu_seqlens, heads, head_dim, &kind, &mut exact);
            on_i16(&qkv, (&slabs, layout), &cu_seqlens, heads, &kind, &exact);
        }
    }

    /// Every instruction set, in both layouts, against `exact`.
    fn on_i16(
        qkv: &[f32],
        (slabs, layout): (&[f32], Layout),
        cu_seqlens: &[usize],
        heads: usize,
        kind: &AttentionKind<'_>,
        exact: &[f32],
    ) {
        let head_dim = layout.head_dim;
        let hidden = heads * head_dim;
        let model = Kernels::modelled_unit();
        let mut on_vectors = None;
        for kernels in Isa::ALL
            .into_iter()
            .filter_map(Kernels::with)
            .chain([model])
        {
            let run = |qkv: &[f32], layout: Layout| {
                let mut out = vec![f32::NAN; exact.len()];
                let shared = Shared::new(&mut out);
                for item in &items(cu_seqlens, heads, kind.window, false) {
                    // SAFETY: one item after the other, and `out` has a row for every token.
                    unsafe { kernels.attend(item, qkv, layout, kind, true, (shared, hidden)) };
                }
                out
            };
            let out = run(qkv, Layout::rows(heads, head_dim));
            let worst = out.iter().zip(exact).fold(0f32, |worst, (a, b)| {
                if (a - b).abs() <= worst {
                    worst
                } else {
                    (a - b).abs()
                }
            });
            println!(
                "attention on i16, {}, window {:?}: largest error {worst:.2e}",
                kernels.isa(),
                kind.window
            );
            assert!(worst < 1e-3, "{}: {worst:e}", kernels.isa());
            assert_eq!(run(slabs, layout), out, "{} in slabs", kernels.isa());
            // A matrix unit beside the same vectors gives the same bits.
            match (kernels.isa(), &on_vectors) {
                (Isa::Avx512Vnni, _) => on_vectors = Some(out),
                (Isa::Amx, Some(want)) if kernels.has_real_unit() => {
                    assert!(out == *want, "on the unit other bits")
                }
                _ => {}
            }
        }
    }
}
