//! Attention in f32: a word is a value.

use crate::attention::{Arithmetic, Attend, Block, BlockRoom, TileState};
use crate::math::exp_negative;
use crate::simd::Int8;
use crate::tile::{pack_panel, panel_start, panels, product};

pub(super) struct F32;

impl Arithmetic for F32 {
    const PER_WORD: usize = 1;
    const LOGIT: f32 = 1.0;

    #[inline(always)]
    fn queries<S: Int8>(s: S, queries: &mut [f32], head_dim: usize, width: usize, _: &mut [f32]) {
        let scale = s.splat(1.0 / (head_dim as f32).sqrt());
        for q in queries[..head_dim * width].chunks_exact_mut(S::LANES) {
            s.store(q, s.mul(s.load(q), scale));
        }
    }

    #[inline(always)]
    fn pack<S: Int8>(
        attend: &Attend<'_>,
        s: S,
        start: usize,
        keys: usize,
        room: &mut BlockRoom<'_>,
    ) -> f32 {
        let d = attend.head_dim;
        let BlockRoom {
            packed_keys,
            values,
            turned,
            ..
        } = room;
        assert!(packed_keys.len() >= keys * d);
        let count = panels(keys, S::TILE_ROWS);
        for panel in 0..count {
            let row = panel_start(panel, count, keys);
            let height = panel_start(panel + 1, count, keys) - row;
            let token = attend.item.keys.start + start + row;
            let (rows, stride) = attend.rows(s, (token, height), 1, turned);
            // SAFETY: `rows` is `height` rows of `d` values `stride` apart; the panel takes `height * d` of the `keys * d` values
            // from `row * d` on.
            unsafe {
                pack_panel(
                    s,
                    (rows.as_ptr(), stride),
                    (height, d),
                    packed_keys.as_mut_ptr().add(row * d),
                );
            }
        }
        for (key, value) in values.chunks_exact_mut(d).take(keys).enumerate() {
            value.copy_from_slice(attend.part(attend.item.keys.start + start + key, 2));
        }
        1.0
    }

    #[inline(always)]
    fn logits<S: Int8, const ROWS: usize, const VECTORS: usize>(
        s: S,
        block: &Block<'_>,
        row: usize,
        state: &TileState<'_>,
    ) -> [[S::V; VECTORS]; ROWS] {
        let (steps, width) = (block.head_dim, VECTORS * S::LANES);
        assert!(state.queries.len() >= steps * width);
        let keys = &block.packed_keys[row * steps..][..ROWS * steps];
        let (keys, queries) = (keys.as_ptr(), state.queries.as_ptr());
        // SAFETY: `keys` is `steps` times ROWS values, `queries` at least `steps` times `width`.
        unsafe { product::<S, ROWS, VECTORS>(s, steps, (keys, ROWS), (queries, width)) }
    }

    #[inline(always)]
    fn weight<S: Int8>(s: S, distance: S::V) -> S::V {
        exp_negative(s, distance)
    }

    #[inline(always)]
    fn weights<S: Int8>(s: S, _: &mut [f32], _: usize, _: usize, _: S::V) -> S::V {
        s.splat(1.0)
    }

    #[inline(always)]
    unsafe fn values<S: Int8, const ROWS: usize, const VECTORS: usize>(
        s: S,
        steps: usize,
        values: (*const f32, usize),
        weights: *const f32,
        _: [S::V; VECTORS],
    ) -> [[S::V; VECTORS]; ROWS] {
        let weights = (weights, VECTORS * S::LANES);
        // SAFETY: as promised.
        unsafe { product::<S, ROWS, VECTORS>(s, steps, values, weights) }
    }
}
