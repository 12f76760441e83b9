//! AVX2 with FMA: eight lanes, 16 registers.
//!
//! Throughout this file: a value of [`Avx2`] exists only if [`Avx2::detect`] saw the CPU's features, so an intrinsic of
//! those features may run wherever `self` is at hand. The `SAFETY` comments call this "proven by `self`".

use std::arch::x86_64::*;

use crate::int8::quads::{self, Quads};
use crate::simd::{Factors, Int8, Kernel, SPIN_COLUMNS, SPIN_ROWS, Simd};
use crate::x86_64::narrow::{self, Narrow};

const LANES: usize = 8;

/// With `VNNI` also the dot product of four bytes at a time (AVX-VNNI, of chips without AVX-512).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2<const VNNI: bool>(());

impl<const VNNI: bool> Avx2<VNNI> {
    pub(crate) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && (!VNNI || is_x86_feature_detected!("avxvnni"));
        found.then_some(Self(()))
    }

    /// The set without its byte dot product.
    pub(crate) fn base(self) -> Avx2<false> {
        Avx2(())
    }
}

#[target_feature(enable = "avx2,fma")]
fn vectorize<K: Kernel>(s: Avx2<false>, kernel: K) -> K::Output {
    kernel.run(s)
}

#[target_feature(enable = "avxvnni,avx2,fma")]
fn vectorize_vnni<K: Kernel>(s: Avx2<true>, kernel: K) -> K::Output {
    kernel.run(s)
}

/// Each lane rounded to the nearest of 0..=255, in the lower half.
///
/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn bytes(v: __m256) -> __m128i {
    // SAFETY: as promised.
    unsafe {
        // Both packings saturate, the second at 0 and 255. The quantized value is at most a little beyond.
        let ints = _mm256_cvtps_epi32(v);
        let low = _mm256_castsi256_si128(ints);
        let words = _mm_packs_epi32(low, _mm256_extracti128_si256::<1>(ints));
        _mm_packus_epi16(words, words)
    }
}

impl<const VNNI: bool> Simd for Avx2<VNNI> {
    type V = __m256;
    const LANES: usize = LANES;
    // 6 rows of two vectors: 12 sums, two vectors of the other operand and a broadcast, of 16 registers.
    const TILE_ROWS: usize = 6;

    #[inline(always)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: the features are proven by `self`; so they are for the token made anew, whose constant is `self`'s own.
        unsafe {
            if VNNI {
                vectorize_vnni(Avx2::<true>(()), kernel)
            } else {
                vectorize(Avx2::<false>(()), kernel)
            }
        }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        // SAFETY: proven by `self`.
        unsafe { _mm256_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load_ptr(self, src: *const f32) -> __m256 {
        // SAFETY: proven by `self`; the caller promises `LANES` readable f32.
        unsafe { _mm256_loadu_ps(src) }
    }

    #[inline(always)]
    unsafe fn store_ptr(self, dst: *mut f32, v: __m256) {
        // SAFETY: proven by `self`; the caller promises `LANES` writable f32.
        unsafe { _mm256_storeu_ps(dst, v) }
    }

    // Through the stack: masked stores are microcoded on several chips, and tails are rare.
    #[inline(always)]
    fn load_first(self, src: &[f32]) -> __m256 {
        let mut lanes = [0.0; LANES];
        lanes[..src.len()].copy_from_slice(src);
        self.load(&lanes)
    }

    #[inline(always)]
    fn store_first(self, dst: &mut [f32], v: __m256) {
        let mut lanes = [0.0; LANES];
        self.store(&mut lanes, v);
        dst.copy_from_slice(&lanes[..dst.len()]);
    }

    #[inline(always)]
    fn keep_first(self, v: __m256, n: usize) -> __m256 {
        // SAFETY: proven by `self`.
        unsafe {
            let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let keep = _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), lane);
            _mm256_and_ps(v, _mm256_castsi256_ps(keep))
        }
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: proven by `self`.
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: proven by `self`.
        unsafe { _mm256_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: proven by `self`.
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: proven by `self`.
        unsafe { _mm256_div_ps(a, b) }
    }

    #[inline(always)]
    fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: proven by `self`.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: proven by `self`. The instruction returns its second operand if either is NaN.
        unsafe { _mm256_max_ps(a, b) }
    }

    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: proven by `self`. The instruction returns its second operand if either is NaN.
        unsafe { _mm256_min_ps(a, b) }
    }

    #[inline(always)]
    fn round(self, x: __m256) -> __m256 {
        // SAFETY: proven by `self`.
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x) }
    }

    #[inline(always)]
    fn scale_pow2(self, v: __m256, n: __m256) -> __m256 {
        // SAFETY: proven by `self`.
        unsafe {
            let n = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_mul_ps(v, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(n)))
        }
    }

    #[inline(always)]
    fn sum(self, v: __m256) -> f32 {
        // SAFETY: proven by `self`.
        unsafe {
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
        }
    }

    #[inline(always)]
    fn prefetch(self, address: *const u8) {
        // SAFETY: a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
    }

    #[inline(always)]
    unsafe fn transpose_block(
        self,
        src: *const f32,
        src_stride: usize,
        rows: usize,
        dst: *mut f32,
        dst_stride: usize,
        wide: usize,
    ) {
        debug_assert!(rows <= LANES);
        // SAFETY: proven by `self`; loads are `LANES` wide at the `rows` row starts, stores `LANES` wide in wide columns
        // and `rows` long elsewhere, exactly what the caller promises.
        unsafe {
            let mut r = [_mm256_setzero_ps(); LANES];
            for (i, r) in r.iter_mut().enumerate() {
                if i < rows {
                    *r = _mm256_loadu_ps(src.add(i * src_stride));
                }
            }
            // Within 128-bit halves: 4x4 transposes of each group of four rows, then the halves change places.
            let mut q = [_mm256_setzero_ps(); LANES];
            for g in 0..2 {
                let a = _mm256_unpacklo_ps(r[4 * g], r[4 * g + 1]);
                let b = _mm256_unpackhi_ps(r[4 * g], r[4 * g + 1]);
                let c = _mm256_unpacklo_ps(r[4 * g + 2], r[4 * g + 3]);
                let d = _mm256_unpackhi_ps(r[4 * g + 2], r[4 * g + 3]);
                q[4 * g] = _mm256_shuffle_ps::<0x44>(a, c);
                q[4 * g + 1] = _mm256_shuffle_ps::<0xee>(a, c);
                q[4 * g + 2] = _mm256_shuffle_ps::<0x44>(b, d);
                q[4 * g + 3] = _mm256_shuffle_ps::<0xee>(b, d);
            }
            let mut out = [_mm256_setzero_ps(); LANES];
            for j in 0..4 {
                out[j] = _mm256_permute2f128_ps::<0x20>(q[j], q[4 + j]);
                out[4 + j] = _mm256_permute2f128_ps::<0x31>(q[j], q[4 + j]);
            }
            for (c, v) in out.into_iter().enumerate() {
                let dst = dst.add(c * dst_stride);
                if c < wide || rows == LANES {
                    _mm256_storeu_ps(dst, v);
                } else {
                    let mut lanes = [0.0f32; LANES];
                    _mm256_storeu_ps(lanes.as_mut_ptr(), v);
                    std::ptr::copy_nonoverlapping(lanes.as_ptr(), dst, rows);
                }
            }
        }
    }
}

impl<const VNNI: bool> Int8 for Avx2<VNNI> {
    type I = __m256i;
    const SIGNED: bool = !VNNI;
    const PLANES: usize = if VNNI { 1 } else { 2 };
    // With VNNI 12 sums, two vectors of weights and the quad; without, eight sums, two of weights, two of the quad, the ones
    // and a product.
    const INT8_ROWS: usize = if VNNI { 6 } else { 4 };
    const INT8_VECTORS: usize = 2;
    const FAST_DOT2: bool = true;
    const NARROW: bool = !VNNI;

    #[inline(always)]
    fn splat_int(self, x: i32) -> __m256i {
        // SAFETY: proven by `self`.
        unsafe { _mm256_set1_epi32(x) }
    }

    #[inline(always)]
    unsafe fn load_bytes(self, src: *const u8) -> __m256i {
        // SAFETY: proven by `self`; the caller promises 32 readable bytes.
        unsafe { _mm256_loadu_si256(src.cast()) }
    }

    #[inline(always)]
    unsafe fn store_bytes(self, dst: *mut u8, v: __m256i) {
        // SAFETY: proven by `self`; the caller promises 32 writable bytes.
        unsafe { _mm256_storeu_si256(dst.cast(), v) }
    }

    #[inline(always)]
    fn dot2(self, sums: __m256i, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: proven by `self`, VNNI by its constant.
        unsafe {
            if VNNI {
                _mm256_dpwssd_avx_epi32(sums, a, b)
            } else {
                _mm256_add_epi32(sums, _mm256_madd_epi16(a, b))
            }
        }
    }

    #[inline(always)]
    fn pair(self, low: __m256i, high: __m256i) -> __m256i {
        // SAFETY: proven by `self`.
        unsafe { _mm256_blend_epi16::<0xaa>(low, _mm256_slli_epi32::<16>(high)) }
    }

    #[inline(always)]
    fn int_to_float(self, x: __m256i) -> __m256 {
        // SAFETY: proven by `self`.
        unsafe { _mm256_cvtepi32_ps(x) }
    }

    #[inline(always)]
    fn float_to_int(self, x: __m256) -> __m256i {
        // SAFETY: proven by `self`.
        unsafe { _mm256_cvtps_epi32(x) }
    }

    #[inline(always)]
    unsafe fn store_halves(self, dst: *mut i16, v: __m256i) {
        // SAFETY: proven by `self`; the caller promises 16 writable bytes.
        unsafe {
            let high = _mm256_extracti128_si256::<1>(v);
            let halves = _mm_packs_epi32(_mm256_castsi256_si128(v), high);
            _mm_storeu_si128(dst.cast(), halves);
        }
    }

    #[inline(always)]
    unsafe fn store_activations<const SIGNED: bool>(self, dst: *mut u8, v: __m256) {
        // SAFETY: proven by `self`; the caller promises eight writable bytes.
        unsafe {
            let mut bytes = bytes(v);
            if SIGNED {
                bytes = _mm_xor_si128(bytes, _mm_set1_epi8(-128));
            }
            _mm_storel_epi64(dst.cast(), bytes);
        }
    }

    #[inline(always)]
    unsafe fn dot_rows<const DEPTH: usize, const ROWS: usize, const VECTORS: usize>(
        self,
        sums: [[__m256i; VECTORS]; ROWS],
        factors: Factors,
    ) -> [[__m256i; VECTORS]; ROWS] {
        // SAFETY: as promised.
        unsafe {
            if DEPTH > 0 {
                narrow::dot_rows::<Self, DEPTH, ROWS, VECTORS>(self, sums, factors)
            } else {
                quads::dot_rows(self, sums, factors)
            }
        }
    }

    #[inline(always)]
    unsafe fn spin<const DEPTH: usize>(
        self,
        sums: &mut [[__m256i; SPIN_COLUMNS]; SPIN_ROWS],
        bytes: *const u8,
    ) {
        // SAFETY: as promised.
        unsafe {
            if DEPTH > 0 {
                narrow::spin::<Self, DEPTH>(self, sums, bytes);
            } else {
                quads::spin(self, sums, bytes);
            }
        }
    }
}

impl<const VNNI: bool> Quads for Avx2<VNNI> {
    // The bytes; without VNNI their magnitudes and their signs, because the chip finds either more slowly than it loads it.
    type Quad = (__m256i, __m256i);

    #[inline(always)]
    unsafe fn load_quad(self, src: *const u8, plane: usize) -> Self::Quad {
        // SAFETY: proven by `self`; the caller promises four readable bytes in each plane.
        unsafe {
            let quad = _mm256_set1_epi32(src.cast::<i32>().read_unaligned());
            if VNNI {
                (quad, quad)
            } else {
                let signs = src.add(plane).cast::<i32>().read_unaligned();
                (quad, _mm256_set1_epi32(signs))
            }
        }
    }

    #[inline(always)]
    fn dot4(self, sums: __m256i, (quad, signs): Self::Quad, weights: __m256i) -> __m256i {
        // SAFETY: proven by `self`, VNNI by its constant.
        unsafe {
            if VNNI {
                return _mm256_dpbusd_avx_epi32(sums, quad, weights);
            }
            // Where the activation is negative all bits of the weight are flipped, which makes it -w - 1: what is missing is
            // the activation's magnitude. Magnitudes are at most 128 (then the other factor is below 127), so that the sum of
            // two products is within -32768..=32767 and nothing saturates.
            let pairs = _mm256_maddubs_epi16(quad, _mm256_xor_si256(weights, signs));
            _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
    }
}

impl<const VNNI: bool> Narrow for Avx2<VNNI> {
    #[inline(always)]
    fn dot_narrow<const DEPTH: usize>(
        self,
        sums: __m256i,
        quads: [__m256i; DEPTH],
        weights: [__m256i; DEPTH],
    ) -> __m256i {
        // SAFETY: proven by `self`.
        unsafe {
            // The caller knows operands for which no sum of 16 bits saturates or wraps.
            let mut pairs = _mm256_maddubs_epi16(quads[0], weights[0]);
            // By index, which unrolls into registers; an iterator over the arrays would put them into memory.
            let mut step = 1;
            while step < DEPTH {
                let next = _mm256_maddubs_epi16(quads[step], weights[step]);
                pairs = _mm256_add_epi16(pairs, next);
                step += 1;
            }
            _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
    }
}
