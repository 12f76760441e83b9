//! The transcendental functions of the kernels, on vectors.
//!
//! The polynomials are minimax fits made for this crate: least squares on 2-3 thousand Chebyshev points of a target
//! computed to 40 digits, the points reweighted by their error until the largest error stopped falling (Lawson's
//! iteration), the coefficients then rounded to f32. The tests measure the error of the whole functions.

use crate::simd::Simd;

/// Below this `exp` is held constant: it keeps 2^n a normal number. e^-87 is 1.6e-38.
const EXP_MIN: f32 = -87.0;

/// `e^x` for `x <= 0`, relative error below 1.5e-7; for `x < -87` the value at -87, 1.6e-38. NaN stays NaN.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`, `e^x = 2^n e^r`, `e^r = 1 + r + r^2 q(r)` (q fits to 3.1e-9).
#[inline(always)]
pub(crate) fn exp_negative<S: Simd>(s: S, x: S::V) -> S::V {
    // ln 2 in two parts, the first of 10 bits so that its product with n is exact even without FMA (as in Cephes).
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    const Q: [f32; 5] = [
        0.499_999_94,
        0.166_665_21,
        0.041_668_39,
        0.008_368_745,
        0.001_381_454,
    ];
    let x = s.max(s.splat(EXP_MIN), x);
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    let r = s.mul_add(n, s.splat(-LN2_HI), x);
    let r = s.mul_add(n, s.splat(-LN2_LO), r);
    let q = polynomial(s, r, &Q);
    let e = s.add(s.mul_add(s.mul(r, r), q, r), s.splat(1.0));
    s.scale_pow2(e, n)
}

/// `2^x` for `x <= 0`, relative error below 4e-6, which is enough where the result is quantized to 15 bits; for `x < -126` the
/// value at -126. NaN stays NaN.
#[inline(always)]
pub(crate) fn exp2_negative<S: Simd>(s: S, x: S::V) -> S::V {
    // Fits 2^r on |r| <= 1/2 in relative error, by the exchange described above.
    const P: [f32; 5] = [0.9999993, 0.6931218, 0.24024744, 0.055917863, 0.009570102];
    let x = s.max(s.splat(-126.0), x);
    let n = s.round(x);
    s.scale_pow2(polynomial(s, s.sub(x, n), &P), n)
}

/// GELU with the exact error function, `x/2 (1 + erf(x / √2))`; absolute error below `1.2e-7 max(1, |x|)`. NaN stays NaN.
///
/// With `t = |x|` and the normal tail `Q(t) = erfc(t / √2) / 2` it is `max(x, 0) - t Q(t)`. The logarithm of `2 Q` is so
/// smooth that one polynomial without branches serves all `t`: `ln 2Q(t) = t p(t)` on 0..=14, fitted for the error of
/// `t Q(t)`; at 14, where `t Q(t)` has fallen to 1e-43, it is held constant.
#[inline(always)]
pub(crate) fn gelu<S: Simd>(s: S, x: S::V) -> S::V {
    const T_MAX: f32 = 14.0;
    const P: [f32; 12] = [
        -0.797_885_06,
        -0.318_305_34,
        -0.036_351_293,
        0.004_807_889_5,
        1.687_321_5e-5,
        -2.093_757_5e-4,
        6.081_168_2e-5,
        -9.948_444e-6,
        1.021_284e-6,
        -6.443_972_5e-8,
        2.272_429_4e-9,
        -3.416_713e-11,
    ];
    let zero = s.splat(0.0);
    let t = s.min(s.splat(T_MAX), s.max(s.sub(zero, x), x));
    let tail = exp_negative(s, s.mul(t, polynomial(s, t, &P)));
    s.sub(s.max(zero, x), s.mul(s.mul(t, s.splat(0.5)), tail))
}

/// GELU for values that will be quantized to 8 bits: absolute error below `1.3e-5 + 1e-7 |x|`, at half the price. NaN stays
/// NaN.
///
/// It is `x (1/2 + c q(v))` with `c` the value clamped to ±4.625, where the normal distribution is 2e-6 from its end, and `q` a
/// polynomial in `v = 2 (c / 4.625)^2 - 1`, fitted for the error of the whole and to reach 0 and 1 exactly at the ends.
#[inline(always)]
pub(crate) fn gelu_rough<S: Simd>(s: S, x: S::V) -> S::V {
    const END: f32 = 4.625;
    const Q: [f32; 10] = [
        0.152_724_09,
        -0.075_402_09,
        0.053_990_327,
        -0.040_666_495,
        0.029_754_667,
        -0.019_272_234,
        0.011_106_86,
        -0.008_064_837,
        0.005_905_007,
        -0.001_967_186_6,
    ];
    let c = s.min(s.splat(END), s.max(s.splat(-END), x));
    let v = s.mul_add(s.mul(c, s.splat(2.0 / (END * END))), c, s.splat(-1.0));
    let q = polynomial(s, v, &Q);
    s.mul(x, s.mul_add(c, q, s.splat(0.5)))
}

/// `c[0] + c[1] x + c[2] x^2 + …` by Horner's rule.
#[inline(always)]
fn polynomial<S: Simd, const N: usize>(s: S, x: S::V, c: &[f32; N]) -> S::V {
    let mut sum = s.splat(c[N - 1]);
    for &c in c.iter().rev().skip(1) {
        sum = s.mul_add(sum, x, s.splat(c));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::{Isa, Kernels};
    use crate::reference;
    use crate::simd::Kernel;

    #[derive(Clone, Copy)]
    enum Function {
        Exp,
        Exp2,
        Gelu,
        GeluRough,
    }

    struct Map<'a> {
        x: &'a mut [f32],
        function: Function,
    }

    impl Kernel for Map<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            for x in self.x.chunks_exact_mut(S::LANES) {
                let v = s.load(x);
                let y = match self.function {
                    Function::Exp => exp_negative(s, v),
                    Function::Exp2 => exp2_negative(s, v),
                    Function::Gelu => gelu(s, v),
                    Function::GeluRough => gelu_rough(s, v),
                };
                s.store(x, y);
            }
        }
    }

    fn map(isa: Isa, mut x: Vec<f32>, function: Function) -> Vec<f32> {
        x.resize(x.len().next_multiple_of(16), 0.0);
        let kernels = Kernels::with(isa).expect("the set is available");
        kernels.dispatch_f32(Map {
            x: &mut x,
            function,
        });
        x
    }

    /// Every 1009th f32 of both signs up to `limit`, from the denormals on, and the special points.
    fn sweep(limit: f32) -> Vec<f32> {
        let positive = (0..=limit.to_bits()).step_by(1009).map(f32::from_bits);
        positive.flat_map(|x| [x, -x]).collect()
    }

    #[test]
    fn exp_is_within_its_bound_over_the_whole_range() {
        let x: Vec<f32> = sweep(87.0).into_iter().filter(|x| *x <= 0.0).collect();
        for isa in Isa::available() {
            let mut worst = 0f64;
            for (x, y) in x.iter().zip(map(isa, x.clone(), Function::Exp)) {
                let exact = f64::from(*x).exp();
                worst = worst.max((f64::from(y) / exact - 1.0).abs());
            }
            println!("exp on {isa}: largest relative error {worst:.3e}");
            assert!(worst < 1.5e-7, "{isa}: {worst:e}");
            let special = map(
                isa,
                vec![0.0, -88.0, -1e4, f32::NEG_INFINITY, f32::NAN],
                Function::Exp,
            );
            assert_eq!(special[0], 1.0);
            assert!(special[1..4].iter().all(|y| (0.0..2e-38).contains(y)));
            assert!(special[4].is_nan());
        }
    }

    #[test]
    fn gelu_is_within_its_bound_over_the_whole_range() {
        let x = sweep(20.0);
        let exact: Vec<f64> = x.iter().map(|&x| reference::gelu(f64::from(x))).collect();
        for isa in Isa::available() {
            let mut worst = 0f64;
            for ((&x, &exact), y) in x
                .iter()
                .zip(&exact)
                .zip(map(isa, x.clone(), Function::Gelu))
            {
                let error = (f64::from(y) - exact).abs() / f64::from(x.abs()).max(1.0);
                worst = worst.max(error);
            }
            println!("gelu on {isa}: largest error over max(1, |x|) {worst:.3e}");
            assert!(worst < 1.2e-7, "{isa}: {worst:e}");
            let large = map(isa, vec![1e4, -1e4, 3e38, -3e38, f32::NAN], Function::Gelu);
            assert_eq!((large[0], large[2]), (1e4, 3e38));
            assert!(large[1].abs() < 1e-30 && large[3].abs() < 1e-30);
            assert!(large[4].is_nan());
        }
    }

    #[test]
    fn exp2_is_within_its_bound_over_the_whole_range() {
        let x: Vec<f32> = sweep(126.0).into_iter().filter(|x| *x <= 0.0).collect();
        for isa in Isa::available() {
            let mut worst = 0f64;
            for (x, y) in x.iter().zip(map(isa, x.clone(), Function::Exp2)) {
                worst = worst.max((f64::from(y) / f64::from(*x).exp2() - 1.0).abs());
            }
            println!("exp2 on {isa}: largest relative error {worst:.3e}");
            assert!(worst < 4e-6, "{isa}: {worst:e}");
            let special = map(isa, vec![-1e4, f32::NEG_INFINITY, f32::NAN], Function::Exp2);
            assert!(special[..2].iter().all(|y| (0.0..2e-38).contains(y)));
            assert!(special[2].is_nan());
        }
    }

    #[test]
    fn rough_gelu_is_within_its_bound_over_the_whole_range() {
        let x = sweep(1000.0);
        let exact: Vec<f64> = x.iter().map(|&x| reference::gelu(f64::from(x))).collect();
        for isa in Isa::available() {
            let mut worst = 0f64;
            for ((&x, &exact), y) in
                x.iter()
                    .zip(&exact)
                    .zip(map(isa, x.clone(), Function::GeluRough))
            {
                worst = worst.max((f64::from(y) - exact).abs() - 1e-7 * f64::from(x.abs()));
            }
            println!("rough gelu on {isa}: largest error {worst:.3e}");
            assert!(worst < 1.3e-5, "{isa}: {worst:e}");
            let special = map(isa, vec![0.0, 3e38, f32::NAN], Function::GeluRough);
            assert_eq!(special[0], 0.0);
            assert!((special[1] / 3e38 - 1.0).abs() < 1e-6 && special[2].is_nan());
        }
    }
}
