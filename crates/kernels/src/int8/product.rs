//! Quantizing rows of activations, and multiplying them with a packed matrix.
//!
//! Quantized rows lie in tiles of as many rows as the register tile has, each `[k / 4, rows, 4]` bytes, so that the product
//! reads both operands from one end to the other.

use crate::elementwise::gelu_row;
use crate::int8::{Int8Matrix, PANEL};
use crate::scratch::as_bytes;
use crate::simd::Simd;
use crate::tile::{dispatch_rows, pack_panel, panel_start, panels};

/// How to read a row's bytes: `x = low + step * byte`, `byte` as it lies in memory (signed or not).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Scale {
    step: f32,
    low: f32,
    /// What the integer sums begin with: with two planes of bytes, what [`Simd::dot4`] leaves out.
    start: i32,
}

/// Words of four bytes that [`quantize_rows`] needs for `rows` rows of `k` values: the tiles, then one tile row by row.
pub(super) const fn quantized_len<S: Simd>(rows: usize, k: usize) -> usize {
    S::PLANES * (rows * k.div_ceil(4) + S::INT8_ROWS * staged_len(k))
}

/// Words from one staged row to the next: a cache line more than needed, so that rows of a power of two do not compete for
/// the same few lines of the cache, and room for a last whole vector.
const fn staged_len(k: usize) -> usize {
    k.div_ceil(4) + 16
}

/// Quantizes rows of `x`, `stride` values apart, for a product with `m`: `words` ([`quantized_len`] of them) gets the tiles,
/// `scales` (as many as rows) each row's scale.
///
/// A row that holds a NaN or an infinity gets a scale that makes every product with it NaN.
#[inline(always)]
pub(super) fn quantize_rows<S: Simd>(
    s: S,
    (x, stride): (&[f32], usize),
    m: &Int8Matrix<'_>,
    words: &mut [f32],
    scales: &mut [Scale],
) {
    let rows = scales.len();
    let width = m.k.div_ceil(4);
    let staged_width = staged_len(m.k);
    let (tiles, staged) = words.split_at_mut(S::PLANES * rows * width);
    let plane = S::INT8_ROWS * staged_width;
    assert!(staged.len() >= S::PLANES * plane);
    let count = panels(rows, S::INT8_ROWS);
    for tile in 0..count {
        let first = panel_start(tile, count, rows);
        let height = panel_start(tile + 1, count, rows) - first;
        for i in 0..height {
            let x = &x[(first + i) * stride..][..m.k];
            let (row, signs) = staged[i * staged_width..].split_at_mut(staged_width);
            let row = as_bytes(row);
            let scale = &mut scales[first + i];
            *scale = match m.smooth {
                Some(smooth) => quantize_row::<S, true>(s, x, &smooth[..m.k], row),
                None => quantize_row::<S, false>(s, x, &[], row),
            };
            if S::PLANES == 2 {
                let signs = as_bytes(&mut signs[plane - staged_width..][..width]);
                scale.start = split_signs(&mut row[..width * 4], signs);
            }
        }
        let tile = &mut tiles[S::PLANES * first * width..][..S::PLANES * height * width];
        for (staged, tile) in staged
            .chunks_exact(plane)
            .zip(tile.chunks_exact_mut(height * width))
        {
            // SAFETY: `height <= INT8_ROWS` rows of `width` words lie `staged_width` apart in the staged plane, and as many in
            // the tile's.
            unsafe {
                let staged = (staged.as_ptr(), staged_width);
                pack_panel(s, staged, (height, width), tile.as_mut_ptr());
            }
        }
    }
}

/// Takes signed bytes apart into magnitudes, left in `bytes`, and signs, 0 or -1; returns the negative ones' sum of magnitudes.
#[inline(always)]
fn split_signs(bytes: &mut [u8], signs: &mut [u8]) -> i32 {
    let mut sum = 0;
    for (byte, sign) in bytes.iter_mut().zip(signs) {
        let signed = byte.cast_signed();
        *byte = signed.unsigned_abs();
        *sign = (signed >> 7).cast_unsigned();
        sum += i32::from(*byte & *sign);
    }
    sum
}

/// A row, smoothed as it is read.
struct Row<'a, const SMOOTH: bool> {
    x: &'a [f32],
    smooth: &'a [f32],
}

impl<const SMOOTH: bool> Row<'_, SMOOTH> {
    #[inline(always)]
    fn at<S: Simd>(&self, s: S, at: usize) -> S::V {
        let v = s.load(&self.x[at..]);
        if SMOOTH {
            s.mul(v, s.load(&self.smooth[at..]))
        } else {
            v
        }
    }

    /// The values from `at` on, fewer than a vector but not none, then the last of them again and again, which changes neither
    /// extreme.
    #[inline(always)]
    fn last<S: Simd>(&self, s: S, at: usize) -> S::V {
        let mut lanes = [0.0; 16];
        for (lane, v) in lanes[..S::LANES].iter_mut().enumerate() {
            let at = (at + lane).min(self.x.len() - 1);
            *v = self.x[at];
            if SMOOTH {
                *v *= self.smooth[at];
            }
        }
        s.load(&lanes)
    }
}

/// The extremes of what it saw.
struct Extremes<V> {
    low: V,
    high: V,
    /// 0, or NaN if a value was not finite: the extremes may lose a NaN.
    poison: V,
}

impl<V: Copy> Extremes<V> {
    #[inline(always)]
    fn new<S: Simd<V = V>>(s: S) -> Self {
        Self {
            low: s.splat(f32::INFINITY),
            high: s.splat(f32::NEG_INFINITY),
            poison: s.splat(0.0),
        }
    }

    #[inline(always)]
    fn see<S: Simd<V = V>>(&mut self, s: S, v: V) {
        self.low = s.min(self.low, v);
        self.high = s.max(self.high, v);
        self.poison = s.mul_add(v, s.splat(0.0), self.poison);
    }
}

/// Quantizes one row to `bytes`, which have room for a whole last vector.
#[inline(always)]
fn quantize_row<S: Simd, const SMOOTH: bool>(
    s: S,
    x: &[f32],
    smooth: &[f32],
    bytes: &mut [u8],
) -> Scale {
    let row = Row::<SMOOTH> { x, smooth };
    let whole = x.len() / S::LANES * S::LANES;
    let mut seen = [Extremes::new(s), Extremes::new(s)];
    let mut at = 0;
    while at + 2 * S::LANES <= whole {
        seen[0].see(s, row.at(s, at));
        seen[1].see(s, row.at(s, at + S::LANES));
        at += 2 * S::LANES;
    }
    if at < whole {
        seen[0].see(s, row.at(s, at));
    }
    if whole < x.len() {
        seen[1].see(s, row.last(s, whole));
    }
    let [a, b] = seen;
    let low = -s.largest(s.sub(s.splat(0.0), s.min(a.low, b.low)));
    let range = s.largest(s.max(a.high, b.high)) - low;
    let poison = s.sum(s.add(a.poison, b.poison));
    // Of a constant row every byte is 0 and `low` says it all; the same where the range is no normal number.
    let (step, inverse) = if range > f32::MIN_POSITIVE * 256.0 {
        (range / 255.0, 255.0 / range)
    } else {
        (0.0, 0.0)
    };

    let (factor, offset) = (s.splat(inverse), s.splat(-low * inverse));
    assert!(bytes.len() >= whole + S::LANES);
    let mut at = 0;
    while at < whole {
        let v = s.mul_add(row.at(s, at), factor, offset);
        // SAFETY: LANES bytes from `at < whole` on are within `bytes`, by the assertion.
        unsafe { s.store_activations(bytes.as_mut_ptr().add(at), v) };
        at += S::LANES;
    }
    if whole < x.len() {
        let v = s.mul_add(row.last(s, whole), factor, offset);
        // SAFETY: as above, from `whole` on.
        unsafe { s.store_activations(bytes.as_mut_ptr().add(whole), v) };
    }
    let low = if S::SIGNED { low + 128.0 * step } else { low };
    Scale {
        step: step + poison,
        low: low + poison,
        start: 0,
    }
}

/// Where a product goes: rows `stride` values apart.
pub(super) struct Out {
    pub(super) values: *mut f32,
    pub(super) stride: usize,
    /// So many columns, a multiple of [`PANEL`], lie side by side; the next ones begin `slab_stride` values further on.
    pub(super) slab: usize,
    pub(super) slab_stride: usize,
}

impl Out {
    pub(super) fn rows(values: &mut [f32], stride: usize) -> Self {
        Self {
            values: values.as_mut_ptr(),
            stride,
            slab: usize::MAX,
            slab_stride: 0,
        }
    }
}

/// `rows` quantized rows times the matrix, plus bias, then GELU if asked.
///
/// # Safety
/// `out.values` must be writable for `m.n` f32 at each of `rows` row starts (for each slab's columns, in slabs), and nothing
/// else may refer to them meanwhile.
#[inline(always)]
pub(super) unsafe fn multiply_rows<S: Simd>(
    s: S,
    words: &[f32],
    scales: &[Scale],
    m: &Int8Matrix<'_>,
    gelu: bool,
    out: &Out,
) {
    let rows = scales.len();
    let width = m.k.div_ceil(4);
    assert!(words.len() >= S::PLANES * rows * width && out.slab >= PANEL);
    let part = S::INT8_VECTORS * S::LANES;
    let tiles = panels(rows, S::INT8_ROWS);
    for column in (0..m.n).step_by(part) {
        let place = column / out.slab * out.slab_stride + column % out.slab;
        for tile in 0..tiles {
            let row = panel_start(tile, tiles, rows);
            let height = panel_start(tile + 1, tiles, rows) - row;
            // The next part's weights come from far away while this part's are in use: the first two tiles ask for a line a
            // step, which for two vectors of 64 bytes is all of them.
            let ahead = ((column + part) / PANEL * PANEL * 4 + tile.min(1) * 64) * width;
            let tile = Tile {
                words: &words[S::PLANES * row * width..][..S::PLANES * height * width],
                scales: &scales[row..row + height],
                column,
                ahead: m.panels.as_ptr().cast::<u8>().wrapping_add(ahead),
                gelu,
            };
            // SAFETY: rows row..row + height are among the caller's.
            unsafe {
                let values = out.values.add(row * out.stride + place);
                dispatch_rows!(height, S, INT8_ROWS, |ROWS| match S::INT8_VECTORS {
                    1 => multiply_tile::<S, ROWS, 1>(s, &tile, m, values, out.stride),
                    2 => multiply_tile::<S, ROWS, 2>(s, &tile, m, values, out.stride),
                    4 => multiply_tile::<S, ROWS, 4>(s, &tile, m, values, out.stride),
                    vectors => unreachable!("a tile of {vectors} vectors"),
                });
            }
        }
    }
}

struct Tile<'a> {
    words: &'a [f32],
    scales: &'a [Scale],
    column: usize,
    /// Where to prefetch, a cache line for each step of the product.
    ahead: *const u8,
    gelu: bool,
}

/// # Safety
/// `out` must be writable for the tile's columns within `m.n`, at each of `ROWS` rows `stride` apart.
#[inline(always)]
unsafe fn multiply_tile<S: Simd, const ROWS: usize, const VECTORS: usize>(
    s: S,
    tile: &Tile<'_>,
    m: &Int8Matrix<'_>,
    out: *mut f32,
    stride: usize,
) {
    let steps = m.k.div_ceil(4);
    let width = VECTORS * S::LANES;
    let column = tile.column;
    let panel = column / PANEL * steps * PANEL * 4 + column % PANEL * 4;
    assert!(
        tile.words.len() == S::PLANES * ROWS * steps
            && tile.scales.len() == ROWS
            && PANEL.is_multiple_of(width)
            && m.panels.len() >= panel + ((steps.max(1) - 1) * PANEL + width) * 4 * steps.min(1)
    );
    // SAFETY: the tile is `steps` quads of ROWS rows; the weights are `steps` times `width` lanes, PANEL lanes apart; both
    // asserted.
    let sums = unsafe {
        product::<S, ROWS, VECTORS>(s, steps, tile, m.panels.as_ptr().cast::<u8>().add(panel))
    };
    let columns = width.min(m.n - column);
    for j in 0..VECTORS {
        let first = j * S::LANES;
        let weight_sums = s.load(&m.sums[column + first..]);
        let weight_scales = s.load(&m.scales[column + first..]);
        let bias = s.load(&m.bias[column + first..]);
        for (i, (sums, scale)) in sums.iter().zip(tile.scales).enumerate() {
            let v = s.mul(s.int_to_float(sums[j]), s.splat(scale.step));
            let v = s.mul_add(weight_sums, s.splat(scale.low), v);
            let v = s.mul_add(v, weight_scales, bias);
            // SAFETY: the vector's columns within `columns`, in row i of the caller's ROWS.
            unsafe {
                let out = out.add(i * stride + first);
                if first + S::LANES <= columns {
                    s.store_ptr(out, v);
                } else if first < columns {
                    s.store_first(std::slice::from_raw_parts_mut(out, columns - first), v);
                }
            }
        }
    }
    if tile.gelu {
        for i in 0..ROWS {
            // SAFETY: the row's columns, just written.
            gelu_row::<S, true>(s, unsafe {
                std::slice::from_raw_parts_mut(out.add(i * stride), columns)
            });
        }
    }
}

/// `Σ over steps of the dot products of quads` for each row and lane.
///
/// # Safety
/// The tile must have ROWS rows of `steps` words (in each plane), `weights` be readable for `VECTORS * LANES` quads every [`PANEL`] quads.
#[inline(always)]
unsafe fn product<S: Simd, const ROWS: usize, const VECTORS: usize>(
    s: S,
    steps: usize,
    tile: &Tile<'_>,
    mut weights: *const u8,
) -> [[S::I; VECTORS]; ROWS] {
    let mut sums = [[s.splat_int(0); VECTORS]; ROWS];
    if S::PLANES == 2 {
        for (sums, scale) in sums.iter_mut().zip(tile.scales) {
            *sums = [s.splat_int(scale.start); VECTORS];
        }
    }
    let mut rows = tile.words.as_ptr().cast::<u8>();
    let mut ahead = tile.ahead;
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
