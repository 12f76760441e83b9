//! AVX-512: sixteen lanes, 32 registers.
//!
//! Throughout this file: a value of [`Avx512`] exists only if [`Avx512::detect`] saw the CPU's features, so an intrinsic
//! of those features may run wherever `self` is at hand. The `SAFETY` comments call this "proven by `self`".

use std::arch::x86_64::*;

use crate::int8::quads::{self, Quads};
use crate::simd::{Factors, Int8, Kernel, SPIN_COLUMNS, SPIN_ROWS, Simd};
use crate::x86_64::narrow::{self, Narrow};

const LANES: usize = 16;

/// With `VNNI` also the dot product of four bytes at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512<const VNNI: bool>(());

impl<const VNNI: bool> Avx512<VNNI> {
    pub(crate) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && (!VNNI || is_x86_feature_detected!("avx512vnni"));
        found.then_some(Self(()))
    }

    /// The set without its byte dot product.
    pub(crate) fn base(self) -> Avx512<false> {
        Avx512(())
    }
}

#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
fn vectorize<K: Kernel>(s: Avx512<false>, kernel: K) -> K::Output {
    kernel.run(s)
}

#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx512vnni,avx2,fma")]
fn vectorize_vnni<K: Kernel>(s: Avx512<true>, kernel: K) -> K::Output {
    kernel.run(s)
}

/// The mask of the first `n` lanes.
#[inline(always)]
fn first(n: usize) -> __mmask16 {
    debug_assert!(n <= LANES);
    ((1u32 << n) - 1) as __mmask16
}

/// Each lane rounded to the nearest of 0..=255.
///
/// # Safety
/// The CPU must have AVX-512 F.
#[inline(always)]
unsafe fn bytes(v: __m512) -> __m128i {
    // SAFETY: as promised. Conversion saturates above, the maximum below.
    unsafe {
        let ints = _mm512_cvtps_epi32(_mm512_max_ps(v, _mm512_setzero_ps()));
        _mm512_cvtusepi32_epi8(ints)
    }
}

impl<const VNNI: bool> Simd for Avx512<VNNI> {
    type V = __m512;
    const LANES: usize = LANES;
    // 12 rows of two vectors: 24 sums, two vectors of the other operand and a broadcast, of 32 registers.
    const TILE_ROWS: usize = 12;

    #[inline(always)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: the features are proven by `self`; so they are for the token made anew, whose constant is `self`'s own.
        unsafe {
            if VNNI {
                vectorize_vnni(Avx512::<true>(()), kernel)
            } else {
                vectorize(Avx512::<false>(()), kernel)
            }
        }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: proven by `self`.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load_ptr(self, src: *const f32) -> __m512 {
        // SAFETY: proven by `self`; the caller promises `LANES` readable f32.
        unsafe { _mm512_loadu_ps(src) }
    }

    #[inline(always)]
    unsafe fn store_ptr(self, dst: *mut f32, v: __m512) {
        // SAFETY: proven by `self`; the caller promises `LANES` writable f32.
        unsafe { _mm512_storeu_ps(dst, v) }
    }

    #[inline(always)]
    fn load_first(self, src: &[f32]) -> __m512 {
        assert!(src.len() < LANES);
        // SAFETY: proven by `self`; the mask keeps the access within the slice, masked lanes are not touched.
        unsafe { _mm512_maskz_loadu_ps(first(src.len()), src.as_ptr()) }
    }

    #[inline(always)]
    fn store_first(self, dst: &mut [f32], v: __m512) {
        assert!(dst.len() < LANES);
        // SAFETY: proven by `self`; the mask keeps the access within the slice, masked lanes are not touched.
        unsafe { _mm512_mask_storeu_ps(dst.as_mut_ptr(), first(dst.len()), v) }
    }

    #[inline(always)]
    fn keep_first(self, v: __m512, n: usize) -> __m512 {
        // SAFETY: proven by `self`.
        unsafe { _mm512_maskz_mov_ps(first(n), v) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: proven by `self`.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: proven by `self`.
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: proven by `self`.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: proven by `self`.
        unsafe { _mm512_div_ps(a, b) }
    }

    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: proven by `self`.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: proven by `self`. The instruction returns its second operand if either is NaN.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: proven by `self`. The instruction returns its second operand if either is NaN.
        unsafe { _mm512_min_ps(a, b) }
    }

    #[inline(always)]
    fn round(self, x: __m512) -> __m512 {
        // SAFETY: proven by `self`.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x) }
    }

    #[inline(always)]
    fn scale_pow2(self, v: __m512, n: __m512) -> __m512 {
        // SAFETY: proven by `self`.
        unsafe { _mm512_scalef_ps(v, n) }
    }

    #[inline(always)]
    fn sum(self, v: __m512) -> f32 {
        // SAFETY: proven by `self`. Written out, because the compiler may choose the order of `_mm512_reduce_add_ps`.
        unsafe {
            let v = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
        }
    }

    #[inline(always)]
    fn largest(self, v: __m512) -> f32 {
        // SAFETY: proven by `self`. The order does not matter to a maximum.
        unsafe { _mm512_reduce_max_ps(v) }
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
        // and masked to `rows` elsewhere, exactly what the caller promises.
        unsafe {
            let mut r = [_mm512_setzero_ps(); LANES];
            if rows == LANES {
                for (i, r) in r.iter_mut().enumerate() {
                    *r = _mm512_loadu_ps(src.add(i * src_stride));
                }
            } else {
                for (i, r) in r.iter_mut().enumerate() {
                    if i < rows {
                        *r = _mm512_loadu_ps(src.add(i * src_stride));
                    }
                }
            }
            // Within 128-bit quarters: 4x4 transposes of each group of four rows.
            let mut q = [_mm512_setzero_ps(); LANES];
            for g in 0..4 {
                let a = _mm512_unpacklo_ps(r[4 * g], r[4 * g + 1]);
                let b = _mm512_unpackhi_ps(r[4 * g], r[4 * g + 1]);
                let c = _mm512_unpacklo_ps(r[4 * g + 2], r[4 * g + 3]);
                let d = _mm512_unpackhi_ps(r[4 * g + 2], r[4 * g + 3]);
                q[4 * g] = _mm512_shuffle_ps::<0x44>(a, c);
                q[4 * g + 1] = _mm512_shuffle_ps::<0xee>(a, c);
                q[4 * g + 2] = _mm512_shuffle_ps::<0x44>(b, d);
                q[4 * g + 3] = _mm512_shuffle_ps::<0xee>(b, d);
            }
            // q[4g + j] holds, in quarter t, rows 4g..4g + 4 of column 4t + j. Now a 4x4 transpose of the quarters.
            let mut out = [_mm512_setzero_ps(); LANES];
            for j in 0..4 {
                let a = _mm512_shuffle_f32x4::<0x88>(q[j], q[4 + j]);
                let b = _mm512_shuffle_f32x4::<0xdd>(q[j], q[4 + j]);
                let c = _mm512_shuffle_f32x4::<0x88>(q[8 + j], q[12 + j]);
                let d = _mm512_shuffle_f32x4::<0xdd>(q[8 + j], q[12 + j]);
                out[j] = _mm512_shuffle_f32x4::<0x88>(a, c);
                out[4 + j] = _mm512_shuffle_f32x4::<0x88>(b, d);
                out[8 + j] = _mm512_shuffle_f32x4::<0xdd>(a, c);
                out[12 + j] = _mm512_shuffle_f32x4::<0xdd>(b, d);
            }
            if wide >= LANES {
                for (c, v) in out.into_iter().enumerate() {
                    _mm512_storeu_ps(dst.add(c * dst_stride), v);
                }
            } else {
                for (c, v) in out.into_iter().enumerate() {
                    let mask = first(if c < wide { LANES } else { rows });
                    _mm512_mask_storeu_ps(dst.add(c * dst_stride), mask, v);
                }
            }
        }
    }
}

impl<const VNNI: bool> Int8 for Avx512<VNNI> {
    type I = __m512i;
    const SIGNED: bool = !VNNI;
    const PLANES: usize = if VNNI { 1 } else { 2 };
    const INT8_ROWS: usize = if VNNI { 12 } else { 6 };
    const INT8_VECTORS: usize = 2;
    const FAST_DOT2: bool = true;
    const NARROW: bool = !VNNI;

    #[inline(always)]
    fn splat_int(self, x: i32) -> __m512i {
        // SAFETY: proven by `self`.
        unsafe { _mm512_set1_epi32(x) }
    }

    #[inline(always)]
    unsafe fn load_bytes(self, src: *const u8) -> __m512i {
        // SAFETY: proven by `self`; the caller promises 64 readable bytes.
        unsafe { _mm512_loadu_si512(src.cast()) }
    }

    #[inline(always)]
    unsafe fn store_bytes(self, dst: *mut u8, v: __m512i) {
        // SAFETY: proven by `self`; the caller promises 64 writable bytes.
        unsafe { _mm512_storeu_si512(dst.cast(), v) }
    }

    #[inline(always)]
    fn dot2(self, sums: __m512i, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: proven by `self`, VNNI by its constant.
        unsafe {
            if VNNI {
                _mm512_dpwssd_epi32(sums, a, b)
            } else {
                _mm512_add_epi32(sums, _mm512_madd_epi16(a, b))
            }
        }
    }

    #[inline(always)]
    fn pair(self, low: __m512i, high: __m512i) -> __m512i {
        // SAFETY: proven by `self`.
        unsafe { _mm512_mask_blend_epi16(0xaaaa_aaaa, low, _mm512_slli_epi32::<16>(high)) }
    }

    #[inline(always)]
    fn int_to_float(self, x: __m512i) -> __m512 {
        // SAFETY: proven by `self`.
        unsafe { _mm512_cvtepi32_ps(x) }
    }

    #[inline(always)]
    fn float_to_int(self, x: __m512) -> __m512i {
        // SAFETY: proven by `self`.
        unsafe { _mm512_cvtps_epi32(x) }
    }

    #[inline(always)]
    unsafe fn store_halves(self, dst: *mut i16, v: __m512i) {
        // SAFETY: proven by `self`; the caller promises 32 writable bytes.
        unsafe { _mm256_storeu_si256(dst.cast(), _mm512_cvtepi32_epi16(v)) }
    }

    #[inline(always)]
    unsafe fn store_activations<const SIGNED: bool>(self, dst: *mut u8, v: __m512) {
        // SAFETY: proven by `self`; the caller promises 16 writable bytes.
        unsafe {
            let mut bytes = bytes(v);
            if SIGNED {
                bytes = _mm_xor_si128(bytes, _mm_set1_epi8(-128));
            }
            _mm_storeu_si128(dst.cast(), bytes);
        }
    }

    #[inline(always)]
    unsafe fn dot_rows<const DEPTH: usize, const ROWS: usize, const VECTORS: usize>(
        self,
        sums: [[__m512i; VECTORS]; ROWS],
        factors: Factors,
    ) -> [[__m512i; VECTORS]; ROWS] {
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
        sums: &mut [[__m512i; SPIN_COLUMNS]; SPIN_ROWS],
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

impl<const VNNI: bool> Quads for Avx512<VNNI> {
    // The bytes; without VNNI their magnitudes and their signs, because the chip finds either more slowly than it loads it.
    type Quad = (__m512i, __m512i);

    #[inline(always)]
    unsafe fn load_quad(self, src: *const u8, plane: usize) -> Self::Quad {
        // SAFETY: proven by `self`; the caller promises four readable bytes in each plane.
        unsafe {
            let quad = _mm512_set1_epi32(src.cast::<i32>().read_unaligned());
            if VNNI {
                (quad, quad)
            } else {
                let signs = src.add(plane).cast::<i32>().read_unaligned();
                (quad, _mm512_set1_epi32(signs))
            }
        }
    }

    #[inline(always)]
    fn dot4(self, sums: __m512i, (quad, signs): Self::Quad, weights: __m512i) -> __m512i {
        // SAFETY: proven by `self`, VNNI by its constant.
        unsafe {
            if VNNI {
                return _mm512_dpbusd_epi32(sums, quad, weights);
            }
            // As in AVX2: -w - 1 for a negative activation's weights, and nothing saturates.
            let pairs = _mm512_maddubs_epi16(quad, _mm512_xor_si512(weights, signs));
            _mm512_add_epi32(sums, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
        }
    }
}

impl<const VNNI: bool> Narrow for Avx512<VNNI> {
    #[inline(always)]
    fn dot_narrow<const DEPTH: usize>(
        self,
        sums: __m512i,
        quads: [__m512i; DEPTH],
        weights: [__m512i; DEPTH],
    ) -> __m512i {
        // SAFETY: proven by `self`.
        unsafe {
            // The caller knows operands for which no sum of 16 bits saturates or wraps.
            let mut pairs = _mm512_maddubs_epi16(quads[0], weights[0]);
            // By index, which unrolls into registers; an iterator over the arrays would put them into memory.
            let mut step = 1;
            while step < DEPTH {
                let next = _mm512_maddubs_epi16(quads[step], weights[step]);
                pairs = _mm512_add_epi16(pairs, next);
                step += 1;
            }
            _mm512_add_epi32(sums, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
        }
    }
}
