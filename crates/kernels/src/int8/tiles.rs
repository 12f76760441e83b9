//! Quantized rows times a packed matrix on a matrix unit.
//!
//! Rows of bytes lie as they are, one after the other, and a panel of weights is a column of tiles as it lies in the file. Of
//! each panel all rows' products are taken before the next one's, so that it comes from far away once; while they are, the
//! next panel is asked for. The residual rows of high-precision rows come first, as they do in `product.rs`.

use std::ops::Range;

use crate::int8::means::Means;
use crate::int8::product::{
    Out, Rows, Scale, quantize_numbered, quantize_residual, quantize_smoothed, residual_into,
};
use crate::int8::{Int8Matrix, PANEL};
use crate::math::gelu_rough;
use crate::matrix_unit::{self, Ahead, BLOCK, Left, MatrixUnit, STEP, Sums, as_floats};
use crate::parallel::Shared;
use crate::scratch::as_bytes;
use crate::simd::Int8;

/// On the tiles that a unit has configured.
pub(super) struct OnTiles<'a, U: MatrixUnit>(pub(super) &'a U::Tiles);

impl<U: MatrixUnit> Clone for OnTiles<'_, U> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<U: MatrixUnit> Copy for OnTiles<'_, U> {}

const _: () = assert!(PANEL == BLOCK && PANEL * 4 == 2 * STEP);

/// Floats' worth of bytes from one row to the next: whole steps, and a cache line more, because rows at a distance of a power
/// of two would compete for the same few lines of the cache.
const fn row_words(k: usize) -> usize {
    (k.next_multiple_of(STEP) + STEP) / 4
}

/// Floats' worth of a panel that had to be filled up to whole steps: none where it is whole.
const fn filled_words(k: usize) -> usize {
    if k.next_multiple_of(4).is_multiple_of(STEP) {
        0
    } else {
        k.next_multiple_of(STEP) * PANEL / 4
    }
}

/// Floats' worth of the bytes of so many rows: of whole tiles.
pub(super) const fn rows_words(rows: usize, k: usize) -> usize {
    rows.next_multiple_of(matrix_unit::ROWS) * row_words(k)
}

/// Floats of scratch memory for a product of rows that are quantized already, `residuals` of them residual rows: the products of
/// those with one panel, and a panel filled up.
pub(super) const fn product_len(residuals: usize, k: usize) -> usize {
    residuals * PANEL + filled_words(k)
}

/// Rows of bytes and their scales, where the rows' threads write them.
#[derive(Clone, Copy)]
pub(super) struct SharedRows {
    pub(super) bytes: Shared,
    pub(super) scales: Shared<Scale>,
    /// So many residual rows come first.
    pub(super) residuals: usize,
}

impl SharedRows {
    /// Quantizes row `row` for a product with `m`, and as row number `residual_row` its residual; `room` has `k` values.
    ///
    /// # Safety
    /// Both rows must be within the bytes and scales, and nothing else may touch them meanwhile.
    #[inline(always)]
    pub(super) unsafe fn quantize<S: Int8>(
        self,
        s: S,
        x: &[f32],
        m: &Int8Matrix<'_>,
        (row, residual_row): (usize, Option<usize>),
        room: &mut [f32],
    ) {
        let words = row_words(m.k);
        let x = &x[..m.k];
        let row = self.residuals + row;
        // SAFETY: as promised.
        let (bytes, place) = unsafe {
            let bytes = self.bytes.write(row * words, words);
            (as_bytes(bytes), self.scales.write(row, 1))
        };
        let scale = quantize_smoothed(s, x, m, bytes);
        place[0] = scale;
        let Some(residual_row) = residual_row else {
            return;
        };
        place[0].residual = 1 + residual_row;
        let residual = &mut room[..m.k];
        residual_into::<S>(s, x, m, scale, bytes, residual);
        // SAFETY: as promised.
        let (bytes, place) = unsafe {
            let bytes = self.bytes.write(residual_row * words, words);
            (as_bytes(bytes), self.scales.write(residual_row, 1))
        };
        place[0] = quantize_residual(s, residual, m, bytes);
    }
}

impl<U: MatrixUnit> Means for OnTiles<'_, U> {
    /// The rows of bytes, as many as whole tiles have; one row of values; the products of the residual rows with one panel; a
    /// panel filled up.
    fn scratch_len<S: Int8>(count: usize, residuals: usize, k: usize) -> usize {
        rows_words(count + residuals, k) + k + product_len(residuals, k)
    }

    #[inline(always)]
    fn quantize_rows<S: Int8>(
        self,
        s: S,
        (x, stride): (&[f32], usize),
        m: &Int8Matrix<'_>,
        rows: Rows<'_>,
        scratch: &mut [f32],
        scales: &mut [Scale],
    ) {
        let total = rows.total();
        let residuals = rows.high_precision.len();
        let (bytes, rest) = scratch.split_at_mut(rows_words(total, m.k));
        let room = &mut rest[..m.k];
        for (number, (row, scale)) in bytes
            .chunks_exact_mut(row_words(m.k))
            .zip(&mut scales[..total])
            .enumerate()
        {
            *scale = quantize_numbered(s, (x, stride), m, rows, number, as_bytes(row), room);
        }
        for (residual, &row) in rows.high_precision.iter().enumerate() {
            scales[residuals + row].residual = 1 + residual;
        }
    }

    #[inline(always)]
    unsafe fn multiply_rows<S: Int8>(
        self,
        s: S,
        (scratch, scales): (&mut [f32], &[Scale]),
        m: &Int8Matrix<'_>,
        rows: Rows<'_>,
        gelu: bool,
        out: &Out,
    ) {
        let (bytes, rest) = scratch.split_at_mut(rows_words(rows.total(), m.k));
        let operands = Operands {
            bytes,
            scales,
            residuals: rows.high_precision.len(),
            total: rows.total(),
        };
        let panels = 0..m.n.div_ceil(PANEL);
        // SAFETY: as promised.
        unsafe { multiply::<S, U>(s, self.0, operands, m, panels, gelu, out, &mut rest[m.k..]) };
    }
}

/// Quantized rows.
#[derive(Clone, Copy)]
pub(super) struct Operands<'a> {
    /// [`rows_words`] of them.
    pub(super) bytes: &'a [f32],
    pub(super) scales: &'a [Scale],
    /// So many rows of all, the first, are residual rows.
    pub(super) residuals: usize,
    pub(super) total: usize,
}

/// What [`Means::multiply_rows`] does, of some panels of the matrix; `scratch` is [`product_len`] floats.
///
/// # Safety
/// As there, of the panels' columns.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn multiply<S: Int8, U: MatrixUnit>(
    s: S,
    tiles: &U::Tiles,
    operands: Operands<'_>,
    m: &Int8Matrix<'_>,
    panels: Range<usize>,
    gelu: bool,
    out: &Out,
    scratch: &mut [f32],
) {
    let Operands {
        bytes,
        scales,
        residuals,
        total,
    } = operands;
    let stride = row_words(m.k) * 4;
    let whole = total.next_multiple_of(matrix_unit::ROWS);
    let (residual_products, rest) = scratch.split_at_mut(residuals * PANEL);
    let filled = as_bytes(&mut rest[..filled_words(m.k)]);
    let panel_bytes = m.k.next_multiple_of(4) * PANEL;
    if let Some(beyond) = filled.get_mut(panel_bytes..) {
        beyond.fill(0);
    }
    let steps = m.k.div_ceil(STEP);
    let blocks = total.div_ceil(BLOCK);
    assert!(out.slab >= PANEL && scales.len() >= total && bytes.len() >= whole * row_words(m.k));
    let lines = BLOCK.div_ceil(blocks.max(1));
    let mut sums = Sums::ZERO;
    for column in panels.map(|panel| panel * PANEL) {
        let panel = &m.panels[column * m.k.next_multiple_of(4)..][..panel_bytes];
        let next = panel.as_ptr_range().end.cast::<u8>();
        let panel = if filled.is_empty() {
            panel.as_ptr().cast::<u8>()
        } else {
            for (to, from) in filled.iter_mut().zip(panel) {
                *to = from.cast_unsigned();
            }
            filled.as_ptr()
        };
        let place = column / out.slab * out.slab_stride + column % out.slab;
        for block in 0..blocks {
            let row = block * BLOCK;
            let left = Left {
                bytes: bytes[row * row_words(m.k)..].as_ptr().cast(),
                stride,
            };
            let ahead = Ahead {
                address: next.wrapping_add(block * lines * steps * 64),
                lines,
            };
            // SAFETY: `bytes` has whole tiles of rows of `stride` bytes, `64 * steps` and more; the panel has `steps` times
            // 2048 bytes, of its own or filled up.
            unsafe {
                if whole - row >= BLOCK {
                    U::product::<S, true>(tiles, left, panel, steps, ahead, &mut sums);
                } else {
                    U::product::<S, false>(tiles, left, panel, steps, ahead, &mut sums);
                }
            }
            let scales = &scales[row..total.min(row + BLOCK)];
            let here = Block {
                row,
                residuals,
                column,
            };
            // SAFETY: rows row.. of this block, residual rows not counted, are among the caller's, from `place` on.
            unsafe {
                let values = out.values.add(place);
                let out = (values, out.stride);
                if gelu {
                    finish::<S, true>(s, &sums, scales, m, here, residual_products, out);
                } else {
                    finish::<S, false>(s, &sums, scales, m, here, residual_products, out);
                }
            }
        }
    }
}

struct Block {
    /// Number of its first row, residual rows counted.
    row: usize,
    /// So many rows of all, the first, are residual rows.
    residuals: usize,
    column: usize,
}

/// What `multiply_tile` does with the sums: scales, bias, residual products, GELU, in the same order and so to the same bits.
///
/// # Safety
/// `out` must be writable for the panel's columns within `m.n` at each of the block's rows that are no residual rows, `stride`
/// apart and counted from 0 after all residual rows.
#[inline(always)]
unsafe fn finish<S: Int8, const GELU: bool>(
    s: S,
    sums: &Sums,
    scales: &[Scale],
    m: &Int8Matrix<'_>,
    block: Block,
    residual_products: &mut [f32],
    (out, stride): (*mut f32, usize),
) {
    let Block {
        row,
        residuals,
        column,
    } = block;
    let columns = PANEL.min(m.n - column);
    for first in (0..PANEL).step_by(S::LANES) {
        let weight_sums = s.load(&m.sums[column + first..]);
        let weight_scales = s.load(&m.scales[column + first..]);
        let bias = s.load(&m.bias[column + first..]);
        for (i, (sums, scale)) in sums.0.iter().zip(scales).enumerate() {
            let sums = as_floats(s, &sums[first..]);
            let v = s.mul(sums, s.splat(scale.step));
            let v = s.mul_add(weight_sums, s.splat(scale.low), v);
            if row + i < residuals {
                let v = s.mul(v, weight_scales);
                s.store(&mut residual_products[(row + i) * PANEL + first..], v);
                continue;
            }
            let mut v = s.mul_add(v, weight_scales, bias);
            if scale.residual > 0 {
                let residual = &residual_products[(scale.residual - 1) * PANEL + first..];
                v = s.add(v, s.load(residual));
            }
            if GELU {
                v = gelu_rough(s, v);
            }
            // Of a panel's last vectors all may lie beyond the columns, and beyond what the caller owns.
            let out = out.wrapping_add((row + i - residuals) * stride + first);
            // SAFETY: the vector's columns within `columns`, in a row of the caller's.
            unsafe {
                if first + S::LANES <= columns {
                    s.store_ptr(out, v);
                } else if first < columns {
                    s.store_first(std::slice::from_raw_parts_mut(out, columns - first), v);
                }
            }
        }
    }
}
