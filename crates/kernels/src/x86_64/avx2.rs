//! AVX2 with FMA: eight lanes, 16 registers.
//!
//! Throughout this file: a value of [`Avx2`] exists only if [`Avx2::detect`] saw the CPU's features, so an intrinsic of
//! those features may run wherever `self` is at hand. The `SAFETY` comments call this "proven by `self`".

use std::arch::x86_64::*;

use crate::simd::{Kernel, Simd};

const LANES: usize = 8;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2(());

impl Avx2 {
    pub(crate) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Self(()))
    }
}

#[target_feature(enable = "avx2,fma")]
fn vectorize<K: Kernel>(s: Avx2, kernel: K) -> K::Output {
    kernel.run(s)
}

impl Simd for Avx2 {
    type V = __m256;
    const LANES: usize = LANES;
    // 6 rows of two vectors: 12 sums, two vectors of the other operand and a broadcast, of 16 registers.
    const TILE_ROWS: usize = 6;

    #[inline(always)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: the features are proven by `self`.
        unsafe { vectorize(self, kernel) }
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
