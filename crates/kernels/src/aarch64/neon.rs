//! NEON: four lanes, 32 registers. Every AArch64 target of Rust with a standard library guarantees it, so the detection
//! cannot fail on them; it is asked all the same, as on the other architectures.
//!
//! Throughout this file: a value of [`Neon`] exists only if [`Neon::detect`] saw the feature, so an intrinsic of it may
//! run wherever `self` is at hand. The `SAFETY` comments call this "proven by `self`".

use std::arch::aarch64::*;
use std::arch::is_aarch64_feature_detected;

use crate::simd::{Kernel, Simd};

const LANES: usize = 4;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Neon(());

impl Neon {
    pub(crate) fn detect() -> Option<Self> {
        is_aarch64_feature_detected!("neon").then_some(Self(()))
    }
}

#[target_feature(enable = "neon")]
fn vectorize<K: Kernel>(s: Neon, kernel: K) -> K::Output {
    kernel.run(s)
}

impl Simd for Neon {
    type V = float32x4_t;
    const LANES: usize = LANES;
    // 12 rows of two vectors: 24 sums, two vectors of the other operand and a broadcast, of 32 registers.
    const TILE_ROWS: usize = 12;

    #[inline(always)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: the feature is proven by `self`.
        unsafe { vectorize(self, kernel) }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> float32x4_t {
        // SAFETY: proven by `self`.
        unsafe { vdupq_n_f32(x) }
    }

    #[inline(always)]
    unsafe fn load_ptr(self, src: *const f32) -> float32x4_t {
        // SAFETY: proven by `self`; the caller promises `LANES` readable f32.
        unsafe { vld1q_f32(src) }
    }

    #[inline(always)]
    unsafe fn store_ptr(self, dst: *mut f32, v: float32x4_t) {
        // SAFETY: proven by `self`; the caller promises `LANES` writable f32.
        unsafe { vst1q_f32(dst, v) }
    }

    #[inline(always)]
    fn load_first(self, src: &[f32]) -> float32x4_t {
        let mut lanes = [0.0; LANES];
        lanes[..src.len()].copy_from_slice(src);
        self.load(&lanes)
    }

    #[inline(always)]
    fn store_first(self, dst: &mut [f32], v: float32x4_t) {
        let mut lanes = [0.0; LANES];
        self.store(&mut lanes, v);
        dst.copy_from_slice(&lanes[..dst.len()]);
    }

    #[inline(always)]
    fn keep_first(self, v: float32x4_t, n: usize) -> float32x4_t {
        let mut lanes = [0.0; LANES];
        self.store(&mut lanes, v);
        lanes[n.min(LANES)..].fill(0.0);
        self.load(&lanes)
    }

    #[inline(always)]
    fn add(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: proven by `self`.
        unsafe { vaddq_f32(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: proven by `self`.
        unsafe { vsubq_f32(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: proven by `self`.
        unsafe { vmulq_f32(a, b) }
    }

    #[inline(always)]
    fn div(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: proven by `self`.
        unsafe { vdivq_f32(a, b) }
    }

    #[inline(always)]
    fn mul_add(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        // SAFETY: proven by `self`.
        unsafe { vfmaq_f32(c, a, b) }
    }

    #[inline(always)]
    fn max(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: proven by `self`. The instruction returns NaN if either operand is NaN.
        unsafe { vmaxq_f32(a, b) }
    }

    #[inline(always)]
    fn min(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: proven by `self`. The instruction returns NaN if either operand is NaN.
        unsafe { vminq_f32(a, b) }
    }

    #[inline(always)]
    fn round(self, x: float32x4_t) -> float32x4_t {
        // SAFETY: proven by `self`.
        unsafe { vrndnq_f32(x) }
    }

    #[inline(always)]
    fn scale_pow2(self, v: float32x4_t, n: float32x4_t) -> float32x4_t {
        // SAFETY: proven by `self`.
        unsafe {
            let n = vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127));
            vmulq_f32(v, vreinterpretq_f32_s32(vshlq_n_s32::<23>(n)))
        }
    }

    #[inline(always)]
    fn sum(self, v: float32x4_t) -> f32 {
        // SAFETY: proven by `self`.
        unsafe { vaddvq_f32(v) }
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
            let mut r = [vdupq_n_f32(0.0); LANES];
            for (i, r) in r.iter_mut().enumerate() {
                if i < rows {
                    *r = vld1q_f32(src.add(i * src_stride));
                }
            }
            let a = vzip1q_f32(r[0], r[2]);
            let b = vzip2q_f32(r[0], r[2]);
            let c = vzip1q_f32(r[1], r[3]);
            let d = vzip2q_f32(r[1], r[3]);
            let out = [
                vzip1q_f32(a, c),
                vzip2q_f32(a, c),
                vzip1q_f32(b, d),
                vzip2q_f32(b, d),
            ];
            for (c, v) in out.into_iter().enumerate() {
                let dst = dst.add(c * dst_stride);
                if c < wide || rows == LANES {
                    vst1q_f32(dst, v);
                } else {
                    let mut lanes = [0.0f32; LANES];
                    vst1q_f32(lanes.as_mut_ptr(), v);
                    std::ptr::copy_nonoverlapping(lanes.as_ptr(), dst, rows);
                }
            }
        }
    }
}
