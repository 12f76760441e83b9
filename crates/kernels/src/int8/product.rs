//! Quantizing rows of activations, and multiplying them with a packed matrix.
//!
//! Quantized rows lie in tiles of as many rows as the register tile has, each `[k / 4, rows, 4]` bytes, so that the product
//! reads both operands from one end to the other.

use crate::elementwise::gelu_row;
use crate::int8::{Int8Matrix, PANEL};
use crate::simd::Simd;
use crate::tile::{dispatch_rows, panel_start, panels};

/// How to read a row's bytes: `x = low + step * byte`, `byte` as it lies in memory (signed or not).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Scale {
    step: f32,
    low: f32,
}

/// Bytes that `rows` quantized rows of `k` values take.
pub(super) const fn quantized_len(rows: usize, k: usize) -> usize {
    rows * k.next_multiple_of(4)
}

/// Quantizes rows of `x`, `stride` values apart, for a product with `m`: `bytes` gets the tiles, `scales` (as many as rows)
/// each row's scale.
///
/// A row that holds a NaN or an infinity gets a scale that makes every product with it NaN.
#[inline(always)]
pub(super) fn quantize_rows<S: Simd>(
    s: S,
    x: &[f32],
    stride: usize,
    m: &Int8Matrix<'_>,
    bytes: &mut [u8],
    scales: &mut [Scale],
) {
    let rows = scales.len();
    let width = m.k.next_multiple_of(4);
    let tiles = panels(rows, S::INT8_ROWS);
    for tile in 0..tiles {
        let first = panel_start(tile, tiles, rows);
        let height = panel_start(tile + 1, tiles, rows) - first;
        let tile = &mut bytes[first * width..][..height * width];
        for i in 0..height {
            let x = &x[(first + i) * stride..][..m.k];
            scales[first + i] = match m.smooth {
                Some(smooth) => quantize_row::<S, true>(s, x, &smooth[..m.k], tile, (i, height)),
                None => quantize_row::<S, false>(s, x, &[], tile, (i, height)),
            };
        }
    }
}

/// Quantizes one row to place `i` of `height` in a tile.
#[inline(always)]
fn quantize_row<S: Simd, const SMOOTH: bool>(
    s: S,
    x: &[f32],
    smooth: &[f32],
    tile: &mut [u8],
    (i, height): (usize, usize),
) -> Scale {
    let whole = x.len() / S::LANES * S::LANES;
    let tail = x.len() - whole;
    let value = |at: usize| {
        let v = s.load(&x[at..]);
        if SMOOTH {
            s.mul(v, s.load(&smooth[at..]))
        } else {
            v
        }
    };
    // Repeats the last value in the lanes beyond, which changes neither extreme.
    let last = || {
        let mut lanes = [0.0; 16];
        for (lane, v) in lanes[..S::LANES].iter_mut().enumerate() {
            let at = whole + lane.min(tail - 1);
            *v = if SMOOTH { x[at] * smooth[at] } else { x[at] };
        }
        s.load(&lanes)
    };
    let mut low = [s.splat(f32::INFINITY); 2];
    let mut high = [s.splat(f32::NEG_INFINITY); 2];
    // Becomes NaN if a value is not finite: the extremes may lose a NaN.
    let mut poison = [s.splat(0.0); 2];
    let mut see = |half: usize, v: S::V| {
        low[half] = s.min(low[half], v);
        high[half] = s.max(high[half], v);
        poison[half] = s.mul_add(v, s.splat(0.0), poison[half]);
    };
    let mut at = 0;
    while at + 2 * S::LANES <= whole {
        see(0, value(at));
        see(1, value(at + S::LANES));
        at += 2 * S::LANES;
    }
    if at < whole {
        see(0, value(at));
    }
    if tail > 0 {
        see(1, last());
    }
    let low = least(s, s.min(low[0], low[1]));
    let high = -least(s, s.sub(s.splat(0.0), s.max(high[0], high[1])));
    let poison = s.sum(s.add(poison[0], poison[1]));
    let range = high - low;
    // Of a constant row every byte is 0 and `low` says it all; the same where the range is no normal number.
    let (step, inverse) = if range > f32::MIN_POSITIVE * 256.0 {
        (range / 255.0, 255.0 / range)
    } else {
        (0.0, 0.0)
    };

    let (factor, offset) = (s.splat(inverse), s.splat(-low * inverse));
    let quads = S::LANES / 4;
    let stride = 4 * height;
    assert!(tile.len() >= height * x.len().next_multiple_of(4) && i < height);
    let mut at = 0;
    while at < whole {
        let v = s.mul_add(value(at), factor, offset);
        // SAFETY: quads at/4 .. at/4 + LANES/4 of a row of at least `whole` values lie in the tile, each at
        // (quad * height + i) * 4.
        unsafe {
            let dst = tile.as_mut_ptr().add((at / 4 * height + i) * 4);
            s.store_quads(dst, stride, v);
        }
        at += S::LANES;
    }
    if tail > 0 {
        let v = s.mul_add(last(), factor, offset);
        let mut bytes = [0u8; 16];
        // SAFETY: LANES / 4 quads side by side in LANES <= 16 bytes.
        unsafe { s.store_quads(bytes.as_mut_ptr(), 4, v) };
        for quad in 0..tail.div_ceil(4).min(quads) {
            let dst = ((whole / 4 + quad) * height + i) * 4;
            tile[dst..dst + 4].copy_from_slice(&bytes[quad * 4..][..4]);
        }
    }
    let low = if S::SIGNED { low + 128.0 * step } else { low };
    Scale {
        step: step + poison,
        low: low + poison,
    }
}

/// The least lane.
#[inline(always)]
fn least<S: Simd>(s: S, v: S::V) -> f32 {
    let mut lanes = [0.0; 16];
    s.store(&mut lanes, v);
    lanes[..S::LANES]
        .iter()
        .fold(f32::INFINITY, |a, &b| a.min(b))
}

/// Where a product goes: rows `stride` values apart.
pub(super) struct Out {
    pub(super) values: *mut f32,
    pub(super) stride: usize,
}

impl Out {
    pub(super) fn rows(values: &mut [f32], stride: usize) -> Self {
        Self {
            values: values.as_mut_ptr(),
            stride,
        }
    }
}

/// `rows` quantized rows times the matrix, plus bias, then GELU if asked.
///
/// # Safety
/// `out.values` must be writable for `m.n` f32 at each of `rows` row starts, and nothing else may refer to them meanwhile.
#[inline(always)]
pub(super) unsafe fn multiply_rows<S: Simd>(
    s: S,
    bytes: &[u8],
    scales: &[Scale],
    m: &Int8Matrix<'_>,
    gelu: bool,
    out: &Out,
) {
    let rows = scales.len();
    let width = m.k.next_multiple_of(4);
    assert!(bytes.len() >= rows * width);
    let part = S::INT8_VECTORS * S::LANES;
    let tiles = panels(rows, S::INT8_ROWS);
    for column in (0..m.n).step_by(part) {
        for tile in 0..tiles {
            let row = panel_start(tile, tiles, rows);
            let height = panel_start(tile + 1, tiles, rows) - row;
            // The next part's weights come from far away while this part's are in use: the first two tiles ask for a line a
            // step, which for two vectors of 64 bytes is all of them.
            let ahead = (column + part) / PANEL * width * PANEL + tile.min(1) * width / 4 * 64;
            let tile = Tile {
                bytes: &bytes[row * width..][..height * width],
                scales: &scales[row..row + height],
                column,
                ahead: m.panels.as_ptr().cast::<u8>().wrapping_add(ahead),
                gelu,
            };
            // SAFETY: rows row..row + height are among the caller's.
            unsafe {
                let values = out.values.add(row * out.stride + column);
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
    bytes: &'a [u8],
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
        tile.bytes.len() == ROWS * steps * 4
            && tile.scales.len() == ROWS
            && PANEL.is_multiple_of(width)
            && m.panels.len() >= panel + ((steps.max(1) - 1) * PANEL + width) * 4 * steps.min(1)
    );
    // SAFETY: the tile is `steps` quads of ROWS rows; the weights are `steps` times `width` lanes, PANEL lanes apart; both
    // asserted.
    let sums = unsafe {
        product::<S, ROWS, VECTORS>(
            s,
            steps,
            tile.bytes.as_ptr(),
            m.panels.as_ptr().cast::<u8>().add(panel),
            tile.ahead,
        )
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
            gelu_row(s, unsafe {
                std::slice::from_raw_parts_mut(out.add(i * stride), columns)
            });
        }
    }
}

/// `Σ over steps of the dot products of quads` for each row and lane.
///
/// # Safety
/// `rows` must be readable for `4 * ROWS` bytes a step, `weights` for `VECTORS * LANES` quads every [`PANEL`] quads.
#[inline(always)]
unsafe fn product<S: Simd, const ROWS: usize, const VECTORS: usize>(
    s: S,
    steps: usize,
    mut rows: *const u8,
    mut weights: *const u8,
    mut ahead: *const u8,
) -> [[S::I; VECTORS]; ROWS] {
    let mut sums = [[s.splat_int(0); VECTORS]; ROWS];
    for _ in 0..steps {
        // SAFETY: within the step; the pointers step past the end by wrapping arithmetic only.
        unsafe {
            let mut columns = [s.splat_int(0); VECTORS];
            for (j, column) in columns.iter_mut().enumerate() {
                *column = s.load_bytes(weights.add(j * S::LANES * 4));
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let quad = s.load_quad(rows.add(i * 4));
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
