//! What a kernel may ask of an instruction set: a vector of `LANES` f32 and a handful of operations on it ([`Simd`]), and the same of
//! integers and bytes ([`Int8`]).
//!
//! A value of a type implementing [`Simd`] is a token: it can only be had from that type's detection, so it proves that
//! the CPU has the instructions, and arithmetic through it is safe. Only access through raw pointers is `unsafe`.
//!
//! For the instructions to be *inlined* the code has to sit in a function compiled for the set. [`Simd::vectorize`] is
//! that function: it runs a [`Kernel`], whose `run` and everything below it is `#[inline(always)]`.

use crate::tile::pack_panel;

/// A piece of work, generic over the instruction set. `run` must be `#[inline(always)]` and must do its own looping.
pub(crate) trait Kernel {
    type Output;
    fn run<S: Int8>(self, s: S) -> Self::Output;
}

/// One instruction set, on f32.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// A vector of `LANES` f32.
    type V: Copy;
    const LANES: usize;
    /// Rows of the largest register tile; with two vectors a row it must leave room for two operands and one broadcast.
    const TILE_ROWS: usize;

    /// Runs `kernel` inside a function compiled for this instruction set.
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output;

    fn splat(self, x: f32) -> Self::V;

    /// Loads `LANES` values, unaligned.
    ///
    /// # Safety
    /// `src` must be readable for `LANES` f32.
    unsafe fn load_ptr(self, src: *const f32) -> Self::V;

    /// Stores `LANES` values, unaligned.
    ///
    /// # Safety
    /// `dst` must be writable for `LANES` f32.
    unsafe fn store_ptr(self, dst: *mut f32, v: Self::V);

    /// Loads the first `LANES` values of `src`; panics if there are fewer.
    #[inline(always)]
    fn load(self, src: &[f32]) -> Self::V {
        assert!(src.len() >= Self::LANES);
        // SAFETY: the slice holds at least `LANES` values.
        unsafe { self.load_ptr(src.as_ptr()) }
    }

    /// Stores to the first `LANES` values of `dst`; panics if there are fewer.
    #[inline(always)]
    fn store(self, dst: &mut [f32], v: Self::V) {
        assert!(dst.len() >= Self::LANES);
        // SAFETY: the slice holds at least `LANES` values.
        unsafe { self.store_ptr(dst.as_mut_ptr(), v) }
    }

    /// Loads a slice shorter than a vector; the lanes after it are 0.
    fn load_first(self, src: &[f32]) -> Self::V;

    /// Stores the leading lanes into a slice shorter than a vector.
    fn store_first(self, dst: &mut [f32], v: Self::V);

    /// `v` with every lane from `n` on set to 0.
    fn keep_first(self, v: Self::V, n: usize) -> Self::V;

    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, with one rounding where the set has it, with two on x86-64's baseline.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger; a NaN in `b` comes out, a NaN in `a` may be lost.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller; a NaN in `b` comes out, a NaN in `a` may be lost.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// The nearest integer of `|x| < 2^22`.
    fn round(self, x: Self::V) -> Self::V;
    /// `v * 2^n` for integral `n` in -126..=127. Any finite result for `n` out of range; NaN in `v` comes out.
    fn scale_pow2(self, v: Self::V, n: Self::V) -> Self::V;
    /// The largest lane.
    #[inline(always)]
    fn largest(self, v: Self::V) -> f32 {
        let mut lanes = [f32::NEG_INFINITY; 16];
        self.store(&mut lanes, v);
        lanes.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b))
    }

    /// The sum of the lanes, in an order fixed per instruction set.
    fn sum(self, v: Self::V) -> f32;

    /// `sums[i][j] += rows[i] * columns[j]`, one multiply-add each.
    ///
    /// # Safety
    /// `rows` must be readable for `ROWS` f32.
    #[inline(always)]
    unsafe fn add_products<const ROWS: usize, const VECTORS: usize>(
        self,
        sums: &mut [[Self::V; VECTORS]; ROWS],
        rows: *const f32,
        columns: [Self::V; VECTORS],
    ) {
        for (i, sums) in sums.iter_mut().enumerate() {
            // SAFETY: one of the caller's.
            let row = self.splat(unsafe { *rows.add(i) });
            for (sum, column) in sums.iter_mut().zip(columns) {
                *sum = self.mul_add(row, column, *sum);
            }
        }
    }

    /// Asks for the cache line of `address` to be brought into the second-level cache. Any address will do.
    fn prefetch(self, address: *const u8);

    /// Transposes one block: `dst[c * dst_stride + r] = src[r * src_stride + c]` for `r < rows`, `c < LANES`, where
    /// `rows <= LANES`. For the first `wide` columns it stores whole vectors (zeros after `rows`), in ascending order,
    /// for the rest exactly `rows` values.
    ///
    /// # Safety
    /// `src` must be readable for `LANES` f32 at each of `rows` row starts, `dst` writable for `LANES` (column below
    /// `wide`) or `rows` f32 at each of `LANES` column starts, and the two must not overlap.
    unsafe fn transpose_block(
        self,
        src: *const f32,
        src_stride: usize,
        rows: usize,
        dst: *mut f32,
        dst_stride: usize,
        wide: usize,
    );
}

/// An instruction set on integers and bytes.
pub(crate) trait Int8: Simd {
    /// A vector of `LANES` i32, also read as `4 * LANES` bytes or `2 * LANES` i16.
    type I: Copy;
    /// Whether activation bytes are signed, 128 less than the quantized value 0..=255.
    const SIGNED: bool;
    /// In how many planes of bytes activations lie: one, or two of (signed) activations' magnitudes and of their signs, 0 or
    /// -1 each.
    const PLANES: usize;
    /// Rows and vectors of the largest register tile of the int8 product; the vectors make up a whole part of 32 columns.
    const INT8_ROWS: usize;
    const INT8_VECTORS: usize;
    /// Whether [`Int8::dot2`] beats two f32 multiply-adds.
    const FAST_DOT2: bool;
    /// Whether products are faster where operands are so small that several of them fit 16 bits.
    const NARROW: bool = false;

    fn splat_int(self, x: i32) -> Self::I;

    /// Loads `4 * LANES` bytes, unaligned.
    ///
    /// # Safety
    /// `src` must be readable for them.
    unsafe fn load_bytes(self, src: *const u8) -> Self::I;

    /// Stores `4 * LANES` bytes, unaligned.
    ///
    /// # Safety
    /// `dst` must be writable for them.
    unsafe fn store_bytes(self, dst: *mut u8, v: Self::I);

    /// Adds to each lane of `sums` the dot product of two pairs of i16 above -32768. Exact within i32.
    fn dot2(self, sums: Self::I, a: Self::I, b: Self::I) -> Self::I;

    /// Lanes that hold `low` in their lower and `high` in their upper half; both in -32768..=32767.
    fn pair(self, low: Self::I, high: Self::I) -> Self::I;

    fn int_to_float(self, x: Self::I) -> Self::V;

    /// To the nearest integer, ties to even; `x` within i32, else (and for NaN) any value.
    fn float_to_int(self, x: Self::V) -> Self::I;

    /// Stores the lanes, each within i16, as `LANES` i16 side by side.
    ///
    /// # Safety
    /// `dst` must be writable for `LANES` i16.
    unsafe fn store_halves(self, dst: *mut i16, v: Self::I);

    /// Rounds each lane to the nearest of 0..=255 and stores it as an activation byte, with `SIGNED` 128 less. NaN gives any byte.
    ///
    /// # Safety
    /// `dst` must be writable for `LANES` bytes.
    unsafe fn store_activations<const SIGNED: bool>(self, dst: *mut u8, v: Self::V);

    /// The dot products of `ROWS` rows of activations with the weights of `VECTORS * LANES` columns, exact as long as the sums stay
    /// within i32. `sums` are zeros; with two planes, what the products leave out: the negative activations' sums of magnitudes.
    ///
    /// Sets that are [`Int8::NARROW`] may be asked for a `DEPTH`: `2 * DEPTH` products of the largest bytes fit 16 bits then, and
    /// activations are unsigned, in one plane. Others are asked for 0.
    ///
    /// # Safety
    /// As [`Factors`] says.
    unsafe fn dot_rows<const DEPTH: usize, const ROWS: usize, const VECTORS: usize>(
        self,
        sums: [[Self::I; VECTORS]; ROWS],
        factors: Factors,
    ) -> [[Self::I; VECTORS]; ROWS];

    /// Packs a tile's rows of quads for [`Int8::dot_rows`]: `quads` of them in each of `height` rows, `stride` words apart.
    ///
    /// # Safety
    /// `src` must be readable for `quads` words at each row start, `dst` writable for `height * quads`, and the two must not overlap.
    #[inline(always)]
    unsafe fn pack_rows(
        self,
        (src, stride): (*const f32, usize),
        (height, quads): (usize, usize),
        dst: *mut f32,
    ) {
        // SAFETY: as promised.
        unsafe { pack_panel(self, (src, stride), (height, quads), dst) };
    }

    /// Whether [`Int8::dot_rows`] takes weights as [`Int8::lay_out`] has them, and not as they lie in panels.
    const LAYS_OUT: bool = false;

    /// Lays out the weights of a tile's columns anew for [`Int8::dot_rows`], once for all tiles of rows. `room` must hold those of an
    /// even number of steps.
    ///
    /// # Safety
    /// `weights` must be readable for a tile's columns at each of `steps` steps, [`PANEL`](crate::int8::PANEL) quads apart.
    #[inline(always)]
    unsafe fn lay_out(self, weights: *const u8, steps: usize, room: &mut [f32]) {
        let _ = (weights, steps, room);
    }

    /// The instruction of [`Int8::dot_rows`] alone: one for each of a few sums, with operands from memory.
    ///
    /// # Safety
    /// `bytes` must be readable for [`SPIN_BYTES`], on a cache line.
    unsafe fn spin<const DEPTH: usize>(
        self,
        sums: &mut [[Self::I; SPIN_COLUMNS]; SPIN_ROWS],
        bytes: *const u8,
    );

    /// Products that one instruction of [`Int8::dot_rows`] adds to a lane, without a `DEPTH`.
    const PRODUCTS: usize = 4;
}

/// A tile of independent sums: enough to hide the latency of the dot product on every chip, few enough for the registers.
pub(crate) const SPIN_ROWS: usize = 4;
pub(crate) const SPIN_COLUMNS: usize = 2;
/// Four times as many vectors of at most 64 bytes as there are columns, then 64 bytes for each row.
pub(crate) const SPIN_BYTES: usize = 64 * (4 * SPIN_COLUMNS + SPIN_ROWS);

/// What [`Int8::dot_rows`] multiplies: quads, four bytes each, of rows and columns.
#[derive(Clone, Copy)]
pub(crate) struct Factors {
    /// A quad of every row for each step, as [`Int8::pack_rows`] packs them; of two planes the magnitudes come first, then as many
    /// signs.
    pub(crate) rows: *const u8,
    /// `VECTORS * LANES` quads of weights for each step, signed bytes above -128: [`PANEL`](crate::int8::PANEL) quads apart, or as
    /// [`Int8::lay_out`] has them.
    pub(crate) weights: *const u8,
    pub(crate) steps: usize,
    /// Where to prefetch, a cache line for each step. Any address will do.
    pub(crate) ahead: *const u8,
}

/// Transposes `rows <= LANES` rows of `cols` values: `dst[c * dst_stride + r] = src[r * src_stride + c]`, storing whole
/// vectors (zeros after `rows`) for the first `wide` columns, as [`Simd::transpose_block`] does.
///
/// # Safety
/// `src` must be readable for `cols` f32 at each of `rows` row starts, `dst` writable for `LANES` (column below `wide`)
/// or `rows` f32 at each of `cols` column starts, and the two must not overlap.
#[inline(always)]
pub(crate) unsafe fn transpose<S: Simd>(
    s: S,
    (src, src_stride): (*const f32, usize),
    (rows, cols): (usize, usize),
    (dst, dst_stride): (*mut f32, usize),
    wide: usize,
) {
    debug_assert!(rows <= S::LANES);
    let mut c = 0;
    while c + S::LANES <= cols {
        // SAFETY: columns c..c + LANES lie within `cols`, so the caller's promise covers them.
        unsafe {
            s.transpose_block(
                // Wrapping, because with no rows the address may be past the end; then it is not used.
                src.wrapping_add(c),
                src_stride,
                rows,
                dst.add(c * dst_stride),
                dst_stride,
                wide.saturating_sub(c),
            );
        }
        c += S::LANES;
    }
    while c < cols {
        let stored = if c < wide { S::LANES } else { rows };
        for r in 0..stored {
            // SAFETY: r < rows is read, r < LANES is written only for a wide column: both promised by the caller.
            unsafe {
                *dst.add(c * dst_stride + r) = if r < rows {
                    *src.add(r * src_stride + c)
                } else {
                    0.0
                };
            }
        }
        c += 1;
    }
}
