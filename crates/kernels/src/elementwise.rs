//! The element-wise operations: bias addition and GELU.

use crate::isa::Kernels;
use crate::math;
use crate::parallel;
use crate::simd::{Kernel, Simd};

impl Kernels {
    /// `x[r, c] += bias[c]` in place; `x` is `[rows, bias.len()]`.
    ///
    /// # Panics
    /// If `x` is no whole number of rows.
    pub fn bias_add(self, x: &mut [f32], bias: &[f32]) {
        self.biased(x, bias, "bias_add", false);
    }

    /// `x[r, c] = gelu(x[r, c] + bias[c])` in place; `x` is `[rows, bias.len()]`.
    ///
    /// GELU with the exact error function, `x/2 (1 + erf(x / √2))`, not the tanh approximation; absolute error below
    /// `2e-7 max(1, |x|)`. Plus infinity stays, minus infinity gives (nearly) 0.
    ///
    /// # Panics
    /// If `x` is no whole number of rows.
    pub fn bias_gelu(self, x: &mut [f32], bias: &[f32]) {
        self.biased(x, bias, "bias_gelu", true);
    }

    fn biased(self, x: &mut [f32], bias: &[f32], name: &str, gelu: bool) {
        if x.is_empty() {
            return;
        }
        let n = bias.len();
        assert!(
            n > 0 && x.len().is_multiple_of(n),
            "{name}: x of {} values is no whole number of rows of the bias's {n}",
            x.len(),
        );
        parallel::for_each_rows(x, n, |_, x| self.dispatch_f32(Biased { x, bias, gelu }));
    }
}

/// `x + bias`, then GELU if asked, on whole rows.
struct Biased<'a> {
    x: &'a mut [f32],
    bias: &'a [f32],
    gelu: bool,
}

impl Kernel for Biased<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for row in self.x.chunks_exact_mut(self.bias.len()) {
            if self.gelu {
                bias_row::<S, true>(s, row, self.bias);
            } else {
                bias_row::<S, false>(s, row, self.bias);
            }
        }
    }
}

#[inline(always)]
fn bias_row<S: Simd, const GELU: bool>(s: S, row: &mut [f32], bias: &[f32]) {
    let mut xs = row.chunks_exact_mut(S::LANES);
    let mut biases = bias.chunks_exact(S::LANES);
    for (x, bias) in (&mut xs).zip(&mut biases) {
        let v = s.add(s.load(x), s.load(bias));
        s.store(x, if GELU { math::gelu(s, v) } else { v });
    }
    let (x, bias) = (xs.into_remainder(), biases.remainder());
    if !x.is_empty() {
        let v = s.add(s.load_first(x), s.load_first(bias));
        s.store_first(x, if GELU { math::gelu(s, v) } else { v });
    }
}

/// GELU of one row, for the linear layers' epilogues; with `ROUGH` that of [`math::gelu_rough`].
#[inline(always)]
pub(crate) fn gelu_row<S: Simd, const ROUGH: bool>(s: S, row: &mut [f32]) {
    let mut xs = row.chunks_exact_mut(S::LANES);
    for x in &mut xs {
        let v = s.load(x);
        let v = if ROUGH {
            math::gelu_rough(s, v)
        } else {
            math::gelu(s, v)
        };
        s.store(x, v);
    }
    let x = xs.into_remainder();
    if !x.is_empty() {
        let v = s.load_first(x);
        let v = if ROUGH {
            math::gelu_rough(s, v)
        } else {
            math::gelu(s, v)
        };
        s.store_first(x, v);
    }
}
