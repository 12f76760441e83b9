//! What a kernel may ask of an instruction set: a vector of `LANES` f32 and a handful of operations on it.
//!
//! A value of a type implementing [`Simd`] is a token: it can only be had from that type's detection, so it proves that
//! the CPU has the instructions, and arithmetic through it is safe. Only access through raw pointers is `unsafe`.
//!
//! For the instructions to be *inlined* the code has to sit in a function compiled for the set. [`Simd::vectorize`] is
//! that function: it runs a [`Kernel`], whose `run` and everything below it is `#[inline(always)]`.

/// A piece of work, generic over the instruction set. `run` must be `#[inline(always)]` and must do its own looping.
pub(crate) trait Kernel {
    type Output;
    fn run<S: Simd>(self, s: S) -> Self::Output;
}

/// One instruction set.
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

    /// A vector of `LANES` i32, also read as `4 * LANES` bytes or `2 * LANES` i16.
    type I: Copy;
    /// Four activation bytes of a row, ready to be multiplied with the weights of many columns.
    type Quad: Copy;
    /// Whether activation bytes are signed, 128 less than the quantized value 0..=255.
    const SIGNED: bool;
    /// In how many planes of bytes activations lie: one, or two of (signed) activations' magnitudes and of their signs, 0 or
    /// -1 each.
    const PLANES: usize;
    /// Rows and vectors of the largest register tile of the int8 product; the vectors make up a whole part of 32 columns.
    const INT8_ROWS: usize;
    const INT8_VECTORS: usize;
    /// Whether [`Simd::dot2`] beats two f32 multiply-adds.
    const FAST_DOT2: bool;

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

    /// Loads four activation bytes, with two planes the second's `plane` bytes further on.
    ///
    /// # Safety
    /// `src` must be readable for four bytes, there and in each plane.
    unsafe fn load_quad(self, src: *const u8, plane: usize) -> Self::Quad;

    /// Adds to each lane of `sums` the dot product of the four activations with the lane's four weights (signed bytes above
    /// -128); with two planes less the sum of the negative activations' magnitudes. Exact as long as the sums stay within i32.
    fn dot4(self, sums: Self::I, activations: Self::Quad, weights: Self::I) -> Self::I;

    /// Whether a vector has four lanes, and instructions multiply by one of them as fast as by all, so that a tile's rows are loaded
    /// together and not broadcast one by one.
    const LANED: bool = false;

    /// Loads `n` words, one to four, to the first lanes; the others are 0.
    ///
    /// # Safety
    /// `src` must be readable for `n` words.
    unsafe fn load_words(self, _src: *const f32, _n: usize) -> Self::I {
        unreachable!("an instruction set without LANED")
    }

    /// [`Simd::mul_add`] with the f32 in lane `LANE` of `words`, read as such.
    fn mul_add_lane<const LANE: usize>(self, _words: Self::I, _b: Self::V, _c: Self::V) -> Self::V {
        unreachable!("an instruction set without LANED")
    }

    /// [`Simd::dot4`] with the four activations in lane `LANE` of `words`.
    fn dot4_lane<const LANE: usize>(
        self,
        _sums: Self::I,
        _words: Self::I,
        _weights: Self::I,
    ) -> Self::I {
        unreachable!("an instruction set without LANED")
    }

    /// Whether [`Simd::dot_narrow`] beats [`Simd::dot4`] where operands are small enough for it.
    const NARROW: bool = false;

    /// Adds to each lane of `sums` the dot products of `DEPTH` times four activations, unsigned bytes, with as many weights. Exact if
    /// `2 * DEPTH` products of the largest bytes fit 16 bits, and the sums i32.
    fn dot_narrow<const DEPTH: usize>(
        self,
        _sums: Self::I,
        _activations: [Self::I; DEPTH],
        _weights: [Self::I; DEPTH],
    ) -> Self::I {
        unreachable!("an instruction set without NARROW")
    }

    /// [`Simd::store_activations`] for [`Simd::dot_narrow`]: the bytes are unsigned.
    ///
    /// # Safety
    /// As [`Simd::store_activations`].
    unsafe fn store_narrow(self, _dst: *mut u8, _v: Self::V) {
        unreachable!("an instruction set without NARROW")
    }

    /// Whether the int8 product is made of [`Simd::dot_blocks`] instead of [`Simd::dot4`]; the set is
    /// [`Simd::LANED`] then.
    const BLOCKS: bool = false;

    /// Adds to the lanes of `sums` the dot products of eight bytes of two rows, halves of `rows`, with eight of two channels,
    /// halves of `channels`: `[row 0 · channel 0, row 0 · channel 1, row 1 · channel 0, row 1 · channel 1]`. Exact within i32.
    fn dot_blocks(self, _sums: Self::I, _rows: Self::I, _channels: Self::I) -> Self::I {
        unreachable!("an instruction set without BLOCKS")
    }

    /// The lower and the upper 32-bit lanes of two vectors, in turns.
    fn interleave(self, _a: Self::I, _b: Self::I) -> [Self::I; 2] {
        unreachable!("an instruction set without BLOCKS")
    }

    /// The lower halves of two vectors, and the upper halves.
    fn halves(self, _a: Self::I, _b: Self::I) -> [Self::I; 2] {
        unreachable!("an instruction set without BLOCKS")
    }

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

    /// Rounds each lane to the nearest of 0..=255 and stores it as an activation byte. NaN gives any byte.
    ///
    /// # Safety
    /// `dst` must be writable for `LANES` bytes.
    unsafe fn store_activations(self, dst: *mut u8, v: Self::V);

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
