//! What quantized rows are multiplied with: the vector registers' dot products, or a matrix unit's tiles.

use crate::int8::Int8Matrix;
use crate::int8::product::{self, Out, Rows, Scale};
use crate::simd::Int8;

pub(super) trait Means: Copy {
    /// Floats of scratch memory for `count` rows of `k` values and `residuals` residual rows.
    fn scratch_len<S: Int8>(count: usize, residuals: usize, k: usize) -> usize;

    /// Quantizes rows of `x`, `stride` values apart, for a product with `m`: `scratch` ([`Means::scratch_len`] floats of it) gets
    /// the bytes, `scales` (at least as many as rows in total) each row's scale.
    ///
    /// A row that holds a NaN or an infinity gets a scale that makes every product with it NaN.
    fn quantize_rows<S: Int8>(
        self,
        s: S,
        x: (&[f32], usize),
        m: &Int8Matrix<'_>,
        rows: Rows<'_>,
        scratch: &mut [f32],
        scales: &mut [Scale],
    );

    /// Quantized rows times the matrix, plus bias, then GELU if asked. `operands` are scratch memory and scales as
    /// [`Means::quantize_rows`] left them with the same rows.
    ///
    /// # Safety
    /// `out.values` must be writable for `m.n` f32 at each of `rows.count` row starts (for each slab's columns, in slabs), and
    /// nothing else may refer to them meanwhile.
    unsafe fn multiply_rows<S: Int8>(
        self,
        s: S,
        operands: (&mut [f32], &[Scale]),
        m: &Int8Matrix<'_>,
        rows: Rows<'_>,
        gelu: bool,
        out: &Out,
    );
}

/// By the dot products of `product.rs`.
#[derive(Clone, Copy)]
pub(super) struct Dots;

impl Means for Dots {
    fn scratch_len<S: Int8>(count: usize, residuals: usize, k: usize) -> usize {
        product::scratch_len::<S>(count, residuals, k)
    }

    #[inline(always)]
    fn quantize_rows<S: Int8>(
        self,
        s: S,
        x: (&[f32], usize),
        m: &Int8Matrix<'_>,
        rows: Rows<'_>,
        scratch: &mut [f32],
        scales: &mut [Scale],
    ) {
        product::quantize_rows(s, x, m, rows, scratch, scales);
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
        // SAFETY: as promised.
        unsafe { product::multiply_rows(s, scratch, scales, m, rows, gelu, out) };
    }
}
