//! NEON: four lanes, 32 registers. Every AArch64 target of Rust with a standard library guarantees it, so the detection
//! cannot fail on them; it is asked all the same, as on the other architectures.
//!
//! Throughout this file: a value of [`Neon`] exists only if [`Neon::detect`] saw the feature, so an intrinsic of it may
//! run wherever `self` is at hand. The `SAFETY` comments call this "proven by `self`".

use std::arch::aarch64::*;
use std::arch::is_aarch64_feature_detected;

use crate::aarch64::lanes;
use crate::simd::{Factors, Int8, Kernel, SPIN_COLUMNS, SPIN_ROWS, Simd};
use crate::tile::pack_panel;

pub(super) const LANES: usize = 4;
const INT8_VECTORS: usize = 2;

/// The base set.
pub(crate) const BASE: u8 = 0;
/// With the dot product of four bytes at a time (Armv8.2's `dotprod`: Graviton2 and later).
pub(crate) const DOT: u8 = 1;
/// With that and the product of two by eight and eight by two bytes (Armv8.6's `i8mm`: Graviton3 and later).
pub(crate) const I8MM: u8 = 2;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Neon<const LEVEL: u8>(());

impl<const LEVEL: u8> Neon<LEVEL> {
    pub(crate) fn detect() -> Option<Self> {
        let found = is_aarch64_feature_detected!("neon")
            && (LEVEL < DOT || is_aarch64_feature_detected!("dotprod"))
            && (LEVEL < I8MM || is_aarch64_feature_detected!("i8mm"));
        found.then_some(Self(()))
    }

    /// The set without its products of bytes.
    pub(crate) fn base(self) -> Neon<BASE> {
        Neon(())
    }
}

#[target_feature(enable = "neon")]
fn vectorize<K: Kernel>(s: Neon<BASE>, kernel: K) -> K::Output {
    kernel.run(s)
}

#[target_feature(enable = "neon,dotprod")]
fn vectorize_dot<K: Kernel>(s: Neon<DOT>, kernel: K) -> K::Output {
    kernel.run(s)
}

#[target_feature(enable = "neon,dotprod,i8mm")]
fn vectorize_i8mm<K: Kernel>(s: Neon<I8MM>, kernel: K) -> K::Output {
    kernel.run(s)
}

/// `sdot` by one lane of `b`, whose intrinsic is not stable yet.
///
/// # Safety
/// The CPU must have `dotprod`.
#[inline(always)]
unsafe fn dot<const LANE: usize>(mut sums: int32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t {
    // SAFETY: the caller promises the feature; the instruction touches registers alone.
    unsafe {
        std::arch::asm!(
            ".arch_extension dotprod",
            "sdot {0:v}.4s, {1:v}.16b, {2:v}.4b[{lane}]",
            inout(vreg) sums, in(vreg) a, in(vreg) b, lane = const LANE,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

/// `smmla`, whose intrinsic is not stable yet.
///
/// # Safety
/// The CPU must have `i8mm`.
#[inline(always)]
unsafe fn multiply_blocks(mut sums: int32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t {
    // SAFETY: the caller promises the feature; the instruction touches registers alone.
    unsafe {
        std::arch::asm!(
            ".arch_extension i8mm",
            "smmla {0:v}.4s, {1:v}.16b, {2:v}.16b",
            inout(vreg) sums, in(vreg) a, in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

impl<const LEVEL: u8> Simd for Neon<LEVEL> {
    type V = float32x4_t;
    const LANES: usize = LANES;
    // 12 rows of two vectors: 24 sums, two vectors of the other operand and a broadcast, of 32 registers.
    const TILE_ROWS: usize = 12;

    #[inline(always)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: the features are proven by `self`; so they are for the token made anew, whose constant is `self`'s own.
        unsafe {
            match LEVEL {
                BASE => vectorize(Neon::<BASE>(()), kernel),
                DOT => vectorize_dot(Neon::<DOT>(()), kernel),
                _ => vectorize_i8mm(Neon::<I8MM>(()), kernel),
            }
        }
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
    fn prefetch(self, address: *const u8) {
        // SAFETY: a prefetch never faults and changes nothing.
        unsafe {
            std::arch::asm!("prfm pldl2keep, [{0}]", in(reg) address, options(nostack, readonly, preserves_flags));
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

    #[inline(always)]
    unsafe fn add_products<const ROWS: usize, const VECTORS: usize>(
        self,
        sums: &mut [[float32x4_t; VECTORS]; ROWS],
        rows: *const f32,
        columns: [float32x4_t; VECTORS],
    ) {
        // SAFETY: as promised.
        unsafe { lanes::add_products(self, sums, rows, columns) };
    }
}

impl<const LEVEL: u8> Int8 for Neon<LEVEL> {
    type I = int32x4_t;
    const SIGNED: bool = true;
    const PLANES: usize = 1;
    // With a dot product 24 sums, two vectors of weights and three of quads, of 32 registers. Else 16: with blocks there are four vectors
    // of weights and as many of rows, and plain products are widened in registers too.
    const INT8_ROWS: usize = if LEVEL == DOT { 12 } else { 8 };
    const INT8_VECTORS: usize = INT8_VECTORS;
    const FAST_DOT2: bool = false;
    const PRODUCTS: usize = if LEVEL >= I8MM { 8 } else { 4 };

    #[inline(always)]
    fn splat_int(self, x: i32) -> int32x4_t {
        // SAFETY: proven by `self`.
        unsafe { vdupq_n_s32(x) }
    }

    #[inline(always)]
    unsafe fn load_bytes(self, src: *const u8) -> int32x4_t {
        // SAFETY: proven by `self`; the caller promises 16 readable bytes.
        unsafe { vreinterpretq_s32_u8(vld1q_u8(src)) }
    }

    #[inline(always)]
    unsafe fn store_bytes(self, dst: *mut u8, v: int32x4_t) {
        // SAFETY: proven by `self`; the caller promises 16 writable bytes.
        unsafe { vst1q_u8(dst, vreinterpretq_u8_s32(v)) }
    }

    #[inline(always)]
    fn dot2(self, sums: int32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t {
        // SAFETY: proven by `self`.
        unsafe {
            let (a, b) = (vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b));
            let low = vmull_s16(vget_low_s16(a), vget_low_s16(b));
            vaddq_s32(sums, vpaddq_s32(low, vmull_high_s16(a, b)))
        }
    }

    #[inline(always)]
    fn pair(self, low: int32x4_t, high: int32x4_t) -> int32x4_t {
        // SAFETY: proven by `self`.
        unsafe { vsliq_n_s32::<16>(low, high) }
    }

    #[inline(always)]
    fn int_to_float(self, x: int32x4_t) -> float32x4_t {
        // SAFETY: proven by `self`.
        unsafe { vcvtq_f32_s32(x) }
    }

    #[inline(always)]
    fn float_to_int(self, x: float32x4_t) -> int32x4_t {
        // SAFETY: proven by `self`.
        unsafe { vcvtnq_s32_f32(x) }
    }

    #[inline(always)]
    unsafe fn store_halves(self, dst: *mut i16, v: int32x4_t) {
        // SAFETY: proven by `self`; the caller promises four writable i16.
        unsafe { vst1_s16(dst, vmovn_s32(v)) }
    }

    #[inline(always)]
    unsafe fn store_activations<const SIGNED: bool>(self, dst: *mut u8, v: float32x4_t) {
        // SAFETY: proven by `self`; the caller promises four writable bytes.
        unsafe {
            // Both narrowings saturate, the second at 0 and 255.
            let words = vqmovn_s32(vcvtnq_s32_f32(v));
            let bytes = vqmovun_s16(vcombine_s16(words, words));
            let bytes = if SIGNED {
                veor_u8(bytes, vdup_n_u8(0x80))
            } else {
                bytes
            };
            let quad = vget_lane_s32::<0>(vreinterpret_s32_u8(bytes));
            dst.cast::<i32>().write_unaligned(quad);
        }
    }

    #[inline(always)]
    unsafe fn dot_rows<const DEPTH: usize, const ROWS: usize, const VECTORS: usize>(
        self,
        sums: [[int32x4_t; VECTORS]; ROWS],
        factors: Factors,
    ) -> [[int32x4_t; VECTORS]; ROWS] {
        // SAFETY: as promised.
        unsafe {
            if LEVEL >= I8MM {
                lanes::dot_blocks(self, factors)
            } else {
                lanes::dot_rows(self, sums, factors)
            }
        }
    }

    #[inline(always)]
    unsafe fn pack_rows(
        self,
        rows: (*const f32, usize),
        (height, quads): (usize, usize),
        dst: *mut f32,
    ) {
        // SAFETY: as promised.
        unsafe {
            if LEVEL >= I8MM {
                lanes::pack_rows(rows, (height, quads), dst);
            } else {
                pack_panel(self, rows, (height, quads), dst);
            }
        }
    }

    const LAYS_OUT: bool = LEVEL >= I8MM;

    #[inline(always)]
    unsafe fn lay_out(self, weights: *const u8, steps: usize, room: &mut [f32]) {
        // SAFETY: as promised.
        unsafe { lanes::lay_out::<LEVEL, { INT8_VECTORS }>(self, weights, steps, room) };
    }

    #[inline(always)]
    unsafe fn spin<const DEPTH: usize>(
        self,
        sums: &mut [[int32x4_t; SPIN_COLUMNS]; SPIN_ROWS],
        bytes: *const u8,
    ) {
        // SAFETY: as promised.
        unsafe { lanes::spin(self, sums, bytes) };
    }
}

impl<const LEVEL: u8> Neon<LEVEL> {
    /// Loads `n` words, one to four, to the first lanes; the others are 0.
    ///
    /// # Safety
    /// `src` must be readable for `n` words.
    #[inline(always)]
    pub(super) unsafe fn load_words(self, src: *const f32, n: usize) -> int32x4_t {
        let src = src.cast::<i32>();
        // SAFETY: proven by `self`; the caller promises `n` readable words.
        unsafe {
            match n {
                1 => vld1q_lane_s32::<0>(src, vdupq_n_s32(0)),
                2 => vcombine_s32(vld1_s32(src), vdup_n_s32(0)),
                3 => {
                    let two = vcombine_s32(vld1_s32(src), vdup_n_s32(0));
                    vld1q_lane_s32::<2>(src.add(2), two)
                }
                4 => vld1q_s32(src),
                n => unreachable!("{n} words in a vector of four"),
            }
        }
    }

    /// [`Simd::mul_add`] with the f32 in lane `LANE` of `words`, read as such.
    #[inline(always)]
    pub(super) fn mul_add_lane<const LANE: usize>(
        self,
        words: int32x4_t,
        b: float32x4_t,
        c: float32x4_t,
    ) -> float32x4_t {
        const { assert!(LANE < LANES) }
        // SAFETY: proven by `self`.
        unsafe {
            let words = vreinterpretq_f32_s32(words);
            match LANE {
                0 => vfmaq_laneq_f32::<0>(c, b, words),
                1 => vfmaq_laneq_f32::<1>(c, b, words),
                2 => vfmaq_laneq_f32::<2>(c, b, words),
                _ => vfmaq_laneq_f32::<3>(c, b, words),
            }
        }
    }

    /// Adds to each lane of `sums` the dot product of the four activations in lane `LANE` of `words`, signed bytes, with the lane's
    /// four weights, signed bytes above -128.
    #[inline(always)]
    pub(super) fn dot4_lane<const LANE: usize>(
        self,
        sums: int32x4_t,
        words: int32x4_t,
        weights: int32x4_t,
    ) -> int32x4_t {
        const { assert!(LANE < LANES) }
        // SAFETY: proven by `self`, the dot product by its level.
        unsafe {
            if LEVEL >= DOT {
                return dot::<LANE>(sums, weights, words);
            }
            let quad = match LANE {
                0 => vdupq_laneq_s32::<0>(words),
                1 => vdupq_laneq_s32::<1>(words),
                2 => vdupq_laneq_s32::<2>(words),
                _ => vdupq_laneq_s32::<3>(words),
            };
            self.dot4(sums, vreinterpretq_s8_s32(quad), weights)
        }
    }

    /// The same of activations that are in every lane, without the instruction.
    #[inline(always)]
    fn dot4(self, sums: int32x4_t, quad: int8x16_t, weights: int32x4_t) -> int32x4_t {
        // SAFETY: proven by `self`.
        unsafe {
            let weights = vreinterpretq_s8_s32(weights);
            // A product is at most 128 * 127, the sum of two fits i16.
            let low = vmull_s8(vget_low_s8(quad), vget_low_s8(weights));
            let high = vmull_high_s8(quad, weights);
            vpadalq_s16(sums, vpaddq_s16(low, high))
        }
    }

    /// Adds to the lanes of `sums` the dot products of eight bytes of two rows, halves of `rows`, with eight of two channels,
    /// halves of `channels`: `[row 0 · channel 0, row 0 · channel 1, row 1 · channel 0, row 1 · channel 1]`. Exact within i32.
    #[inline(always)]
    pub(super) fn dot_blocks(
        self,
        sums: int32x4_t,
        rows: int32x4_t,
        channels: int32x4_t,
    ) -> int32x4_t {
        assert!(LEVEL >= I8MM);
        // SAFETY: proven by `self`, if the level has the instruction.
        unsafe { multiply_blocks(sums, rows, channels) }
    }

    /// The lower and the upper 32-bit lanes of two vectors, in turns.
    #[inline(always)]
    pub(super) fn interleave(self, a: int32x4_t, b: int32x4_t) -> [int32x4_t; 2] {
        // SAFETY: proven by `self`.
        unsafe { [vzip1q_s32(a, b), vzip2q_s32(a, b)] }
    }

    /// The lower halves of two vectors, and the upper halves.
    #[inline(always)]
    pub(super) fn halves(self, a: int32x4_t, b: int32x4_t) -> [int32x4_t; 2] {
        // SAFETY: proven by `self`.
        unsafe {
            let (a, b) = (vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b));
            [
                vreinterpretq_s32_s64(vzip1q_s64(a, b)),
                vreinterpretq_s32_s64(vzip2q_s64(a, b)),
            ]
        }
    }
}
