//! The instruction set "none": arrays and loops in plain Rust, which the compiler vectorises as far as the target allows.
//! The fallback where detection finds nothing better.

use crate::int8::quads::{self, Quads};
use crate::simd::{Factors, Int8, Kernel, SPIN_COLUMNS, SPIN_ROWS, Simd};

const LANES: usize = 4;

/// Four f32, as x86-64 and AArch64 both have them in a register without asking.
#[derive(Clone, Copy)]
pub(crate) struct F32x4([f32; LANES]);

#[derive(Clone, Copy, Debug)]
pub(crate) struct Portable;

#[inline(always)]
fn map2(a: F32x4, b: F32x4, f: impl Fn(f32, f32) -> f32) -> F32x4 {
    F32x4(std::array::from_fn(|i| f(a.0[i], b.0[i])))
}

impl Simd for Portable {
    type V = F32x4;
    const LANES: usize = LANES;
    const TILE_ROWS: usize = 4;

    // A function of its own, as on the other sets: what several callers share is compiled once.
    #[inline(never)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> F32x4 {
        F32x4([x; LANES])
    }

    #[inline(always)]
    unsafe fn load_ptr(self, src: *const f32) -> F32x4 {
        // SAFETY: the caller promises `LANES` readable f32; an unaligned read needs no more.
        F32x4(unsafe { src.cast::<[f32; LANES]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store_ptr(self, dst: *mut f32, v: F32x4) {
        // SAFETY: the caller promises `LANES` writable f32; an unaligned write needs no more.
        unsafe { dst.cast::<[f32; LANES]>().write_unaligned(v.0) }
    }

    #[inline(always)]
    fn load_first(self, src: &[f32]) -> F32x4 {
        let mut v = [0.0; LANES];
        v[..src.len()].copy_from_slice(src);
        F32x4(v)
    }

    #[inline(always)]
    fn store_first(self, dst: &mut [f32], v: F32x4) {
        dst.copy_from_slice(&v.0[..dst.len()]);
    }

    #[inline(always)]
    fn keep_first(self, v: F32x4, n: usize) -> F32x4 {
        F32x4(std::array::from_fn(|i| if i < n { v.0[i] } else { 0.0 }))
    }

    #[inline(always)]
    fn add(self, a: F32x4, b: F32x4) -> F32x4 {
        map2(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: F32x4, b: F32x4) -> F32x4 {
        map2(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: F32x4, b: F32x4) -> F32x4 {
        map2(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: F32x4, b: F32x4) -> F32x4 {
        map2(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn mul_add(self, a: F32x4, b: F32x4, c: F32x4) -> F32x4 {
        // Without the instruction `f32::mul_add` is a library call, a hundred times slower than two roundings.
        if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
            F32x4(std::array::from_fn(|i| a.0[i].mul_add(b.0[i], c.0[i])))
        } else {
            F32x4(std::array::from_fn(|i| a.0[i] * b.0[i] + c.0[i]))
        }
    }

    // Not `f32::max`, which drops a NaN on either side: the comparison is false for NaN, so `b` comes out.
    #[inline(always)]
    fn max(self, a: F32x4, b: F32x4) -> F32x4 {
        map2(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, a: F32x4, b: F32x4) -> F32x4 {
        map2(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn round(self, x: F32x4) -> F32x4 {
        // At 1.5 * 2^23 the spacing of f32 is 1, so adding it rounds and subtracting it leaves the integer.
        const SHIFT: f32 = 12_582_912.0;
        F32x4(x.0.map(|x| (x + SHIFT) - SHIFT))
    }

    #[inline(always)]
    fn scale_pow2(self, v: F32x4, n: F32x4) -> F32x4 {
        map2(v, n, |v, n| {
            v * f32::from_bits(((n as i32).clamp(-126, 127) + 127).cast_unsigned() << 23)
        })
    }

    #[inline(always)]
    fn sum(self, v: F32x4) -> f32 {
        (v.0[0] + v.0[2]) + (v.0[1] + v.0[3])
    }

    #[inline(always)]
    fn prefetch(self, _: *const u8) {}

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
        for c in 0..LANES {
            let stored = if c < wide { LANES } else { rows };
            for r in 0..stored {
                // SAFETY: r < rows is read, r < LANES is written only in a wide column: both promised by the caller.
                unsafe {
                    *dst.add(c * dst_stride + r) = if r < rows {
                        *src.add(r * src_stride + c)
                    } else {
                        0.0
                    };
                }
            }
        }
    }
}

impl Int8 for Portable {
    type I = [i32; LANES];
    const SIGNED: bool = true;
    const PLANES: usize = 1;
    const INT8_ROWS: usize = 4;
    const INT8_VECTORS: usize = 1;
    const FAST_DOT2: bool = false;

    #[inline(always)]
    fn splat_int(self, x: i32) -> [i32; LANES] {
        [x; LANES]
    }

    #[inline(always)]
    unsafe fn load_bytes(self, src: *const u8) -> [i32; LANES] {
        // SAFETY: the caller promises 16 readable bytes; an unaligned read needs no more.
        unsafe { src.cast::<[i32; LANES]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store_bytes(self, dst: *mut u8, v: [i32; LANES]) {
        // SAFETY: the caller promises 16 writable bytes; an unaligned write needs no more.
        unsafe { dst.cast::<[i32; LANES]>().write_unaligned(v) }
    }

    #[inline(always)]
    fn dot2(self, sums: [i32; LANES], a: [i32; LANES], b: [i32; LANES]) -> [i32; LANES] {
        std::array::from_fn(|i| {
            let low = i32::from(a[i] as i16) * i32::from(b[i] as i16);
            sums[i] + low + (a[i] >> 16) * (b[i] >> 16)
        })
    }

    #[inline(always)]
    fn pair(self, low: [i32; LANES], high: [i32; LANES]) -> [i32; LANES] {
        std::array::from_fn(|i| (low[i] & 0xffff) | (high[i] << 16))
    }

    #[inline(always)]
    fn int_to_float(self, x: [i32; LANES]) -> F32x4 {
        F32x4(x.map(|x| x as f32))
    }

    #[inline(always)]
    fn float_to_int(self, x: F32x4) -> [i32; LANES] {
        x.0.map(|x| x.round_ties_even() as i32)
    }

    #[inline(always)]
    unsafe fn store_halves(self, dst: *mut i16, v: [i32; LANES]) {
        // SAFETY: the caller promises four writable i16.
        unsafe {
            dst.cast::<[i16; LANES]>()
                .write_unaligned(v.map(|x| x as i16))
        }
    }

    #[inline(always)]
    unsafe fn store_activations<const SIGNED: bool>(self, dst: *mut u8, v: F32x4) {
        let sign = if SIGNED { 0x80 } else { 0 };
        let quad = v.0.map(|x| (x.round_ties_even() as u8) ^ sign);
        // SAFETY: the caller promises four writable bytes.
        unsafe { dst.cast::<[u8; 4]>().write(quad) }
    }

    #[inline(always)]
    unsafe fn dot_rows<const DEPTH: usize, const ROWS: usize, const VECTORS: usize>(
        self,
        sums: [[[i32; LANES]; VECTORS]; ROWS],
        factors: Factors,
    ) -> [[[i32; LANES]; VECTORS]; ROWS] {
        // SAFETY: as promised.
        unsafe { quads::dot_rows(self, sums, factors) }
    }

    #[inline(always)]
    unsafe fn spin<const DEPTH: usize>(
        self,
        sums: &mut [[[i32; LANES]; SPIN_COLUMNS]; SPIN_ROWS],
        bytes: *const u8,
    ) {
        // SAFETY: as promised.
        unsafe { quads::spin(self, sums, bytes) };
    }
}

impl Quads for Portable {
    type Quad = [i8; 4];

    #[inline(always)]
    unsafe fn load_quad(self, src: *const u8, _: usize) -> [i8; 4] {
        // SAFETY: the caller promises four readable bytes.
        unsafe { src.cast::<[i8; 4]>().read() }
    }

    #[inline(always)]
    fn dot4(self, sums: [i32; LANES], quad: [i8; 4], weights: [i32; LANES]) -> [i32; LANES] {
        std::array::from_fn(|lane| {
            let weights = weights[lane].to_ne_bytes();
            let products = quad.iter().zip(weights);
            products.fold(sums[lane], |sum, (&a, w)| {
                sum + i32::from(a) * i32::from(w.cast_signed())
            })
        })
    }
}
