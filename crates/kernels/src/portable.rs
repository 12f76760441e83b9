//! The instruction set "none": arrays and loops in plain Rust, which the compiler vectorises as far as the target allows.
//! The fallback where detection finds nothing better.

use crate::simd::{Kernel, Simd};

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

    #[inline(always)]
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
