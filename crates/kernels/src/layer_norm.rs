//! Layer normalisation, alone or with the bias and residual addition before it.

use crate::int8::LayerNorm;
use crate::isa::Kernels;
use crate::parallel;
use crate::simd::{Kernel, Simd};

impl Kernels {
    /// `x = (x - mean) / sqrt(variance + eps) * gamma + beta` for each row of `gamma.len()` values, in place.
    ///
    /// Mean and (biased, as PyTorch's) variance are taken in two passes with f32 lanes; for rows of a few thousand values
    /// the result is within about 1e-6 of the largest output of the exact one, unless `|mean|` exceeds the standard
    /// deviation by orders of magnitude.
    ///
    /// # Panics
    /// If `gamma` and `beta` differ in length or `x` is no whole number of rows.
    pub fn layer_norm(self, x: &mut [f32], gamma: &[f32], beta: &[f32], eps: f32) {
        self.normalize(x, None, gamma, beta, eps, "layer_norm");
    }

    /// `x = layer_norm(x + bias + residual)` for each row of `gamma.len()` values, in place; `residual` has the shape of
    /// `x`. Precision as [`Kernels::layer_norm`].
    ///
    /// # Panics
    /// If `bias`, `gamma` and `beta` differ in length, `residual` and `x` differ in length, or `x` is no whole number of
    /// rows.
    pub fn bias_residual_layer_norm(
        self,
        x: &mut [f32],
        bias: &[f32],
        residual: &[f32],
        gamma: &[f32],
        beta: &[f32],
        eps: f32,
    ) {
        const NAME: &str = "bias_residual_layer_norm";
        assert!(
            bias.len() == gamma.len(),
            "{NAME}: bias of {} values, gamma of {}",
            bias.len(),
            gamma.len(),
        );
        assert!(
            residual.len() == x.len(),
            "{NAME}: residual of {} values, x of {}",
            residual.len(),
            x.len(),
        );
        self.normalize(x, Some((bias, residual)), gamma, beta, eps, NAME);
    }

    fn normalize(
        self,
        x: &mut [f32],
        add: Option<(&[f32], &[f32])>,
        gamma: &[f32],
        beta: &[f32],
        eps: f32,
        name: &str,
    ) {
        let n = gamma.len();
        assert!(
            beta.len() == n,
            "{name}: beta of {} values, gamma of {n}",
            beta.len(),
        );
        if x.is_empty() {
            return;
        }
        assert!(
            n > 0 && x.len().is_multiple_of(n),
            "{name}: x of {} values is no whole number of rows of {n}",
            x.len(),
        );
        parallel::for_each_rows(x, n, |first, x| {
            let add = add.map(|(bias, residual)| (bias, &residual[first * n..][..x.len()]));
            self.dispatch_f32(Normalize {
                x,
                add,
                norm: LayerNorm { gamma, beta, eps },
            });
        });
    }
}

struct Normalize<'a> {
    x: &'a mut [f32],
    add: Option<(&'a [f32], &'a [f32])>,
    norm: LayerNorm<'a>,
}

impl Kernel for Normalize<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.norm.gamma.len();
        for (i, row) in self.x.chunks_exact_mut(n).enumerate() {
            let sum = match self.add {
                Some((bias, residual)) => add_and_sum(s, row, bias, &residual[i * n..][..n]),
                None => sum_row::<S, false>(s, row, s.splat(0.0)),
            };
            norm_row(s, row, sum / n as f32, &self.norm);
        }
    }
}

/// Rows of values, so many apart.
pub(crate) struct RowsMut<'a> {
    pub(crate) values: &'a mut [f32],
    pub(crate) stride: usize,
}

/// What stands between two products of an encoder's layer, row by row; rows are as long as the norm.
///
/// A kernel, so that the callers share what is compiled.
pub(crate) enum Between<'a> {
    /// `x = layer_norm(x + residual)`.
    AddNorm {
        x: RowsMut<'a>,
        residual: (&'a [f32], usize),
        norm: &'a LayerNorm<'a>,
    },
    /// `to = layer_norm(from)`.
    Norm {
        from: (&'a [f32], usize),
        to: RowsMut<'a>,
        norm: &'a LayerNorm<'a>,
    },
    /// `x = x + other`, of rows of so many values.
    Add {
        x: RowsMut<'a>,
        other: (&'a [f32], usize),
        width: usize,
    },
}

impl Kernel for Between<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self {
            Between::AddNorm { x, residual, norm } => {
                let width = norm.gamma.len();
                let residuals = residual.0.chunks(residual.1);
                for (x, residual) in x.values.chunks_mut(x.stride).zip(residuals) {
                    add_norm_row(s, &mut x[..width], &residual[..width], norm);
                }
            }
            Between::Norm { from, to, norm } => {
                let width = norm.gamma.len();
                for (to, from) in to.values.chunks_mut(to.stride).zip(from.0.chunks(from.1)) {
                    let to = &mut to[..width];
                    to.copy_from_slice(&from[..width]);
                    let sum = sum_row::<S, false>(s, to, s.splat(0.0));
                    norm_row(s, to, sum / width as f32, norm);
                }
            }
            Between::Add { x, other, width } => {
                for (x, other) in x.values.chunks_mut(x.stride).zip(other.0.chunks(other.1)) {
                    add_row(s, &mut x[..width], &other[..width]);
                }
            }
        }
    }
}

/// `x += other` of one row.
#[inline(always)]
fn add_row<S: Simd>(s: S, x: &mut [f32], other: &[f32]) {
    let mut xs = x.chunks_exact_mut(S::LANES);
    let mut others = other.chunks_exact(S::LANES);
    for (x, other) in (&mut xs).zip(&mut others) {
        s.store(x, s.add(s.load(x), s.load(other)));
    }
    let x = xs.into_remainder();
    if !x.is_empty() {
        s.store_first(x, s.add(s.load_first(x), s.load_first(others.remainder())));
    }
}

/// `x = layer_norm(x + residual)` of one row.
#[inline(always)]
fn add_norm_row<S: Simd>(s: S, x: &mut [f32], residual: &[f32], norm: &LayerNorm<'_>) {
    let n = x.len();
    let mut sums = [s.splat(0.0); 2];
    let mut xs = x.chunks_exact_mut(S::LANES);
    let mut residuals = residual.chunks_exact(S::LANES);
    for (i, (x, residual)) in (&mut xs).zip(&mut residuals).enumerate() {
        let v = s.add(s.load(x), s.load(residual));
        s.store(x, v);
        sums[i % 2] = s.add(sums[i % 2], v);
    }
    let tail = xs.into_remainder();
    if !tail.is_empty() {
        let v = s.add(s.load_first(tail), s.load_first(residuals.remainder()));
        s.store_first(tail, v);
        sums[0] = s.add(sums[0], v);
    }
    let sum = s.sum(s.add(sums[0], sums[1]));
    norm_row(s, x, sum / n as f32, norm);
}

/// `x = (x - mean) / sqrt(variance + eps) * gamma + beta` of one row.
#[inline(always)]
fn norm_row<S: Simd>(s: S, x: &mut [f32], mean: f32, norm: &LayerNorm<'_>) {
    let n = x.len() as f32;
    let mean = s.splat(mean);
    let squares = sum_row::<S, true>(s, x, mean);
    let scale = s.splat(1.0 / (squares / n + norm.eps).sqrt());
    scale_row(s, x, mean, scale, norm.gamma, norm.beta);
}

/// The sum over a row of its values, or with `SQUARES` of `(x - mean)^2`: four running vectors hide the latency of the
/// addition.
#[inline(always)]
fn sum_row<S: Simd, const SQUARES: bool>(s: S, row: &[f32], mean: S::V) -> f32 {
    let mut sums = [s.splat(0.0); 4];
    let mut fours = row.chunks_exact(4 * S::LANES);
    for four in &mut fours {
        for (sum, x) in sums.iter_mut().zip(four.chunks_exact(S::LANES)) {
            let v = term::<S, SQUARES>(s, s.load(x), mean, S::LANES);
            *sum = s.add(*sum, v);
        }
    }
    let mut ones = fours.remainder().chunks_exact(S::LANES);
    for x in &mut ones {
        let v = term::<S, SQUARES>(s, s.load(x), mean, S::LANES);
        sums[0] = s.add(sums[0], v);
    }
    let tail = ones.remainder();
    if !tail.is_empty() {
        let v = term::<S, SQUARES>(s, s.load_first(tail), mean, tail.len());
        sums[1] = s.add(sums[1], v);
    }
    s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])))
}

/// What the first `used` lanes of `v` add to [`sum_row`]. Unused lanes hold 0, which only a mean would turn into a term.
#[inline(always)]
fn term<S: Simd, const SQUARES: bool>(s: S, v: S::V, mean: S::V, used: usize) -> S::V {
    if !SQUARES {
        return v;
    }
    let d = s.sub(v, mean);
    let d = if used < S::LANES {
        s.keep_first(d, used)
    } else {
        d
    };
    s.mul(d, d)
}

/// `row += bias + residual`; returns the sum of the new row.
#[inline(always)]
fn add_and_sum<S: Simd>(s: S, row: &mut [f32], bias: &[f32], residual: &[f32]) -> f32 {
    let mut xs = row.chunks_exact_mut(S::LANES);
    let mut biases = bias.chunks_exact(S::LANES);
    let mut residuals = residual.chunks_exact(S::LANES);
    for ((x, bias), residual) in (&mut xs).zip(&mut biases).zip(&mut residuals) {
        let v = s.add(s.load(x), s.load(bias));
        s.store(x, s.add(v, s.load(residual)));
    }
    let x = xs.into_remainder();
    if !x.is_empty() {
        let v = s.add(s.load_first(x), s.load_first(biases.remainder()));
        s.store_first(x, s.add(v, s.load_first(residuals.remainder())));
    }
    sum_row::<S, false>(s, row, s.splat(0.0))
}

#[inline(always)]
fn scale_row<S: Simd>(s: S, row: &mut [f32], mean: S::V, scale: S::V, gamma: &[f32], beta: &[f32]) {
    let mut xs = row.chunks_exact_mut(S::LANES);
    let mut gammas = gamma.chunks_exact(S::LANES);
    let mut betas = beta.chunks_exact(S::LANES);
    for ((x, gamma), beta) in (&mut xs).zip(&mut gammas).zip(&mut betas) {
        let v = s.mul(s.sub(s.load(x), mean), scale);
        s.store(x, s.mul_add(v, s.load(gamma), s.load(beta)));
    }
    let x = xs.into_remainder();
    if !x.is_empty() {
        let v = s.mul(s.sub(s.load_first(x), mean), scale);
        let v = s.mul_add(
            v,
            s.load_first(gammas.remainder()),
            s.load_first(betas.remainder()),
        );
        s.store_first(x, v);
    }
}
