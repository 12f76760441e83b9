//! The element-wise operations: bias addition, GELU and gates.

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

    /// `out[r, c] = gelu(up[r, c]) * up[r, inner + c]`, with the GELU of [`Kernels::bias_gelu`]; `up` is `[rows, 2 * inner]`, `out`
    /// `[rows, inner]`.
    ///
    /// # Panics
    /// If `out` is no whole number of rows of `inner`, or `up` not twice as long.
    pub fn gated_gelu(self, up: &[f32], inner: usize, out: &mut [f32]) {
        if out.is_empty() && up.is_empty() {
            return;
        }
        assert!(
            inner > 0 && out.len().is_multiple_of(inner) && up.len() == 2 * out.len(),
            "gated_gelu: up of {} and out of {} values do not fit rows of {inner}",
            up.len(),
            out.len(),
        );
        parallel::for_each_rows(out, inner, |first, out| {
            let up = &up[first * 2 * inner..][..2 * out.len()];
            self.dispatch_f32(Gated { up, inner, out });
        });
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

/// The gates of whole rows.
struct Gated<'a> {
    up: &'a [f32],
    inner: usize,
    out: &'a mut [f32],
}

impl Kernel for Gated<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let rows = self.up.chunks_exact(2 * self.inner);
        for (up, out) in rows.zip(self.out.chunks_exact_mut(self.inner)) {
            let (up, gate) = up.split_at(self.inner);
            let mut outs = out.chunks_exact_mut(S::LANES);
            let mut ups = up.chunks_exact(S::LANES);
            let mut gates = gate.chunks_exact(S::LANES);
            for ((out, up), gate) in (&mut outs).zip(&mut ups).zip(&mut gates) {
                s.store(out, s.mul(math::gelu(s, s.load(up)), s.load(gate)));
            }
            let (up, gate) = (ups.remainder(), gates.remainder());
            if !up.is_empty() {
                let v = s.mul(math::gelu(s, s.load_first(up)), s.load_first(gate));
                s.store_first(outs.into_remainder(), v);
            }
        }
    }
}

/// Gates of a product's rows, so many values apart, in place: `row[c] = gelu(row[c]) * row[inner + c]`, with the GELU of
/// [`math::gelu_rough`].
pub(crate) struct GateRows<'a> {
    pub(crate) values: &'a mut [f32],
    pub(crate) stride: usize,
    pub(crate) inner: usize,
}

impl Kernel for GateRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for row in self.values.chunks_mut(self.stride) {
            let (row, gate) = row.split_at_mut(self.inner);
            let mut xs = row.chunks_exact_mut(S::LANES);
            let mut gates = gate[..self.inner].chunks_exact(S::LANES);
            for (x, gate) in (&mut xs).zip(&mut gates) {
                s.store(x, s.mul(math::gelu_rough(s, s.load(x)), s.load(gate)));
            }
            let (x, gate) = (xs.into_remainder(), gates.remainder());
            if !x.is_empty() {
                let v = s.mul(math::gelu_rough(s, s.load_first(x)), s.load_first(gate));
                s.store_first(x, v);
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
