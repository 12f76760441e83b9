//! What an attention may have beside its products: rotated positions, a window, a bias by distance.

use crate::attention::Item;
use crate::simd::Simd;

/// Positions as rotations of queries and keys: elements `i` and `i + head_dim / 2` are a point that is turned. A token's position is
/// its number in its own sequence.
#[derive(Clone, Copy, Debug)]
pub struct Rotary<'a> {
    /// The cosine of each position's angles, `[positions, head_dim / 2]`, for no fewer positions than the longest sequence has tokens.
    pub cos: &'a [f32],
    /// Their sine, as many.
    pub sin: &'a [f32],
}

/// What is added to scaled logits by the distance from query to key.
#[derive(Clone, Copy, Debug)]
pub struct RelativeBias<'a> {
    /// `[heads, 2 * reach + 1]`: of each head the biases of distances `-reach` to `reach`.
    pub table: &'a [f32],
    /// Larger distances have the bias of this one.
    pub reach: usize,
}

/// What an attention has beside its products. The default has nothing: every query sees its whole sequence.
#[derive(Clone, Copy, Debug, Default)]
pub struct AttentionKind<'a> {
    /// How queries and keys are rotated by their positions.
    pub rotary: Option<Rotary<'a>>,
    /// A query sees the keys that are at most so many tokens away.
    pub window: Option<usize>,
    /// What is added to scaled logits.
    pub bias: Option<RelativeBias<'a>>,
}

/// What a key outside the window gets for a bias: less than any logit, and a number even when a logit is added. Its weight is then as
/// small as weights become.
const OUTSIDE: f32 = -1e38;

impl AttentionKind<'_> {
    /// # Panics
    /// If a table does not fit so many heads or a sequence of `longest` tokens.
    pub(crate) fn check(&self, name: &str, heads: usize, head_dim: usize, longest: usize) {
        if let Some(Rotary { cos, sin }) = self.rotary {
            assert!(
                head_dim.is_multiple_of(2),
                "{name}: rotated positions need an even head_dim, got {head_dim}"
            );
            let half = head_dim / 2;
            assert!(
                cos.len() == sin.len() && cos.len() / half.max(1) >= longest,
                "{name}: cos of {} and sin of {} values do not fit {longest} positions of {half}",
                cos.len(),
                sin.len()
            );
        }
        if let Some(RelativeBias { table, reach }) = self.bias {
            let row = reach.checked_mul(2).and_then(|reach| reach.checked_add(1));
            assert!(
                row.and_then(|row| row.checked_mul(heads)) == Some(table.len()),
                "{name}: bias of {} values does not fit {heads} heads of a reach of {reach}",
                table.len()
            );
        }
    }

    /// Whether logits are changed after the product.
    pub(super) fn offsets_logits(&self) -> bool {
        self.window.is_some() || self.bias.is_some()
    }

    /// What is added to an item's logits, times `factor`: element `(query - first query) + (last key - key)` is for all pairs of that
    /// distance, so that neighbouring queries of one key are neighbours.
    pub(super) fn offsets(&self, item: &Item, factor: f32, offsets: &mut [f32]) {
        // At least 0: a query is a key of its sequence.
        let origin = item.keys.end - 1 - item.queries.start;
        for (i, offset) in offsets.iter_mut().enumerate() {
            let (ahead, distance) = (i < origin, i.abs_diff(origin));
            *offset = if self.window.is_some_and(|window| distance > window) {
                OUTSIDE
            } else {
                self.bias.map_or(0.0, |RelativeBias { table, reach }| {
                    let middle = item.head * (2 * reach + 1) + reach;
                    let distance = distance.min(reach);
                    let place = if ahead {
                        middle + distance
                    } else {
                        middle - distance
                    };
                    factor * table[place]
                })
            };
        }
    }
}

/// Turns the row of the token at `position`.
#[inline(always)]
pub(super) fn rotate_row<S: Simd>(
    s: S,
    x: &[f32],
    rotary: &Rotary<'_>,
    position: usize,
    out: &mut [f32],
) {
    let half = x.len() / 2;
    let (low, high) = x.split_at(half);
    let (out_low, out_high) = out.split_at_mut(half);
    let cos = &rotary.cos[position * half..][..half];
    let sin = &rotary.sin[position * half..][..half];
    let whole = half / S::LANES * S::LANES;
    for at in (0..whole).step_by(S::LANES) {
        let (a, b) = (s.load(&low[at..]), s.load(&high[at..]));
        let [a, b] = rotate(s, a, b, s.load(&cos[at..]), s.load(&sin[at..]));
        s.store(&mut out_low[at..], a);
        s.store(&mut out_high[at..], b);
    }
    if whole < half {
        let (a, b) = (s.load_first(&low[whole..]), s.load_first(&high[whole..]));
        let (cos, sin) = (s.load_first(&cos[whole..]), s.load_first(&sin[whole..]));
        let [a, b] = rotate(s, a, b, cos, sin);
        s.store_first(&mut out_low[whole..], a);
        s.store_first(&mut out_high[whole..half], b);
    }
}

#[inline(always)]
fn rotate<S: Simd>(s: S, a: S::V, b: S::V, cos: S::V, sin: S::V) -> [S::V; 2] {
    [
        s.sub(s.mul(a, cos), s.mul(b, sin)),
        s.add(s.mul(b, cos), s.mul(a, sin)),
    ]
}
