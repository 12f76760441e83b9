//! Rounding a matrix's weights so that their errors make up for each other on the inputs that were
//! seen.
//!
//! Rounding each weight to the nearest level minimizes its own error and not the product's. With
//! `H = XᵀX` of the inputs, the product's error of one channel is
//! `(w - q)ᵀ H (w - q) = |Lᵀ (w - q)|²`, where `H = L Lᵀ`. `Lᵀ` is upper triangular: from the last
//! input to the first each weight is rounded after what the later ones' errors did was added to it,
//! which is what GPTQ does (Frantar et al. 2023, there by the inverse of `H`) and what Babai's
//! nearest plane is for lattices.

use std::ops::Range;

use kernels::{Epilogue, Kernels, Levels, LinearShape};
use rayon::prelude::*;

/// Inputs that are rounded between two updates of the others in their span, and columns of the
/// factor between two of all others. So few because the updates are the kernels', which are fast in
/// builds for tests too.
const BLOCK: usize = 32;
const COLUMNS: usize = 64;
/// Inputs that are rounded between two updates of all before them: the more, the less often all of
/// these go through memory.
const SPAN: usize = 256;
/// Rows of `H` that are made together, each as far as the diagonal.
const STRIP: usize = 256;
/// What is added to `H`'s diagonal, of its mean: inputs that were not seen vary too.
const DAMPING: f64 = 0.02;

/// How the inputs of a matrix go together: `L` with each column divided by its diagonal, `[k, k]`,
/// of which the part below the diagonal counts.
pub(super) struct Correlation {
    unit: Vec<f32>,
    k: usize,
}

impl Correlation {
    /// Of rows of inputs as they are quantized, `[rows, k]`.
    pub(super) fn of(kernels: Kernels, x: &[f32], k: usize) -> Self {
        let rows = x.len() / k;
        let across = transposed(x, rows, k);
        let mut h = vec![0.0; k * k];
        // Nothing above the diagonal is ever read, so only what is below it, and a little more, is
        // computed.
        for begin in (0..k).step_by(STRIP) {
            let end = k.min(begin + STRIP);
            let mut strip = vec![0.0; (end - begin) * end];
            let shape = LinearShape {
                m: end - begin,
                k: rows,
                n: end,
            };
            let x = &across[begin * rows..end * rows];
            kernels.linear(x, &across[..end * rows], shape, Epilogue::None, &mut strip);
            h[begin * k..end * k]
                .par_chunks_mut(k)
                .zip(strip.par_chunks(end))
                .for_each(|(row, strip)| row[..end].copy_from_slice(strip));
        }
        drop(across);
        let trace: f64 = (0..k).map(|i| f64::from(h[i * k + i])).sum();
        // A matrix of f32.
        #[allow(clippy::cast_possible_truncation)]
        let damping = (trace / k as f64 * DAMPING).max(f64::from(f32::MIN_POSITIVE)) as f32;
        (0..k).for_each(|i| h[i * k + i] += damping);
        factor(kernels, &mut h, k);
        // Row by row, so that the diagonal is at hand.
        let diagonal: Vec<f32> = (0..k).map(|i| h[i * k + i]).collect();
        h.par_chunks_mut(k).enumerate().for_each(|(i, row)| {
            for (v, d) in row[..i].iter_mut().zip(&diagonal) {
                *v /= d;
            }
        });
        Self { unit: h, k }
    }

    /// Rounds the weights `w`, `[n, k]`, each channel to its own scale (its largest magnitude
    /// becomes the levels'): the rounded weights, and the scales. A channel without a scale that is
    /// a normal number is one of zeros.
    pub(super) fn round(&self, kernels: Kernels, w: &[f32], levels: Levels) -> (Vec<i8>, Vec<f32>) {
        let k = self.k;
        let n = w.len() / k;
        let most = f32::from(levels.weights);
        let scale = |row: &[f32]| {
            let largest = row.iter().fold(0f32, |largest, w| largest.max(w.abs()));
            let scale = largest / most;
            if scale < f32::MIN_POSITIVE {
                0.0
            } else {
                scale
            }
        };
        let scales: Vec<f32> = w.par_chunks(k).map(scale).collect();
        let mut target = w.to_vec();
        let mut rounded = vec![0i8; n * k];
        let mut end = k;
        while end > 0 {
            let begin = (end - 1) / SPAN * SPAN;
            let span = begin..end;
            let mut errors = vec![0.0; n * span.len()];
            while end > begin {
                let block = (end - 1) / BLOCK * BLOCK..end;
                let made =
                    self.round_block(&mut target, w, &scales, most, block.clone(), &mut rounded);
                let at = block.start - span.start;
                errors
                    .par_chunks_mut(span.len())
                    .zip(made.par_chunks(block.len()))
                    .for_each(|(errors, made)| errors[at..][..made.len()].copy_from_slice(made));
                self.shift(kernels, &made, block.clone(), begin, &mut target);
                end = block.start;
            }
            self.shift(kernels, &errors, span, 0, &mut target);
        }
        (rounded, scales)
    }

    /// Rounds the weights of some inputs to levels up to `most`, the last input's first; returns
    /// their errors, `[n, inputs]`.
    fn round_block(
        &self,
        target: &mut [f32],
        w: &[f32],
        scales: &[f32],
        most: f32,
        inputs: Range<usize>,
        rounded: &mut [i8],
    ) -> Vec<f32> {
        let (k, begin) = (self.k, inputs.start);
        let mut errors = vec![0.0; scales.len() * inputs.len()];
        target
            .par_chunks_mut(k)
            .zip(rounded.par_chunks_mut(k))
            .zip(errors.par_chunks_mut(inputs.len()))
            .zip(w.par_chunks(k).zip(scales))
            .for_each(|(((target, rounded), errors), (w, &scale))| {
                for at in inputs.clone().rev() {
                    let mut q = 0.0;
                    if scale > 0.0 {
                        q = (target[at] / scale).round_ties_even().clamp(-most, most);
                    }
                    // Within the levels; a NaN, which no weight is, would become 0.
                    #[allow(clippy::cast_possible_truncation)]
                    let level = q as i8;
                    rounded[at] = level;
                    let error = w[at] - q * scale;
                    errors[at - begin] = error;
                    let unit = &self.unit[at * k + begin..at * k + at];
                    for (t, u) in target[begin..at].iter_mut().zip(unit) {
                        *t += error * u;
                    }
                }
            });
        errors
    }

    /// Adds to the targets of the inputs from `to` up to these what the errors of these,
    /// `[n, inputs]`, do to them.
    fn shift(
        &self,
        kernels: Kernels,
        errors: &[f32],
        inputs: Range<usize>,
        to: usize,
        target: &mut [f32],
    ) {
        let (k, width, before) = (self.k, inputs.len(), inputs.start - to);
        if before == 0 {
            return;
        }
        let block = &self.unit[inputs.start * k..inputs.end * k];
        let mut units = vec![0.0; before * width];
        units
            .par_chunks_mut(width)
            .enumerate()
            .for_each(|(input, row)| {
                for (v, unit) in row.iter_mut().zip(block.chunks_exact(k)) {
                    *v = unit[to + input];
                }
            });
        let n = errors.len() / width;
        let mut shift = vec![0.0; n * before];
        let shape = LinearShape {
            m: n,
            k: width,
            n: before,
        };
        kernels.linear(errors, &units, shape, Epilogue::None, &mut shift);
        target
            .par_chunks_mut(k)
            .zip(shift.par_chunks(before))
            .for_each(|(target, shift)| {
                let target = &mut target[to..inputs.start];
                target.iter_mut().zip(shift).for_each(|(t, s)| *t += s);
            });
    }
}

fn transposed(x: &[f32], rows: usize, k: usize) -> Vec<f32> {
    let mut across = vec![0.0; rows * k];
    across
        .par_chunks_mut(rows.max(1))
        .enumerate()
        .for_each(|(column, out)| {
            for (v, row) in out.iter_mut().zip(x.chunks_exact(k)) {
                *v = row[column];
            }
        });
    across
}

/// The Cholesky factor `L` of a symmetric, positive definite matrix `[k, k]`, in its place; what is
/// above the diagonal is of no use afterwards.
fn factor(kernels: Kernels, h: &mut [f32], k: usize) {
    for begin in (0..k).step_by(COLUMNS) {
        let end = k.min(begin + COLUMNS);
        let width = end - begin;
        let (above, below) = h.split_at_mut(end * k);
        let mut block: Vec<f32> = above[begin * k..]
            .chunks_exact(k)
            .flat_map(|row| row[begin..end].iter().copied())
            .collect();
        for j in 0..width {
            // Positive but for rounding, as the diagonal was damped.
            let pivot = block[j * width + j].max(f32::MIN_POSITIVE).sqrt();
            block[j * width + j] = pivot;
            for i in j + 1..width {
                block[i * width + j] /= pivot;
            }
            for i in j + 1..width {
                let by = block[i * width + j];
                for t in j + 1..=i {
                    block[i * width + t] -= by * block[t * width + j];
                }
            }
        }
        for (row, block) in above[begin * k..]
            .chunks_exact_mut(k)
            .zip(block.chunks_exact(width))
        {
            row[begin..end].copy_from_slice(block);
        }
        if end == k {
            break;
        }
        let columns = transposed(&block, width, width);
        let rest = k - end;
        let mut left = vec![0.0; rest * width];
        below
            .par_chunks_mut(k)
            .zip(left.par_chunks_mut(width))
            .for_each(|(row, left)| {
                let row = &mut row[begin..end];
                for j in 0..width {
                    let v = row[j] / columns[j * width + j];
                    row[j] = v;
                    let column = &columns[j * width + j + 1..(j + 1) * width];
                    for (t, c) in row[j + 1..].iter_mut().zip(column) {
                        *t -= v * c;
                    }
                }
                left.copy_from_slice(row);
            });
        // Some rows at a time, each as far as the diagonal, which bounds the memory.
        for first in (0..rest).step_by(8 * COLUMNS) {
            let last = rest.min(first + 8 * COLUMNS);
            let rows = last - first;
            let mut product = vec![0.0; rows * last];
            let shape = LinearShape {
                m: rows,
                k: width,
                n: last,
            };
            let x = &left[first * width..last * width];
            kernels.linear(
                x,
                &left[..last * width],
                shape,
                Epilogue::None,
                &mut product,
            );
            below[first * k..last * k]
                .par_chunks_mut(k)
                .zip(product.par_chunks(last))
                .for_each(|(row, product)| {
                    for (v, p) in row[end..end + last].iter_mut().zip(product) {
                        *v -= p;
                    }
                });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(len: usize, mut state: u64) -> Vec<f32> {
        let next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        std::iter::repeat_with(next).take(len).collect()
    }

    /// Inputs that go together: a few sources, mixed.
    fn inputs(rows: usize, k: usize) -> Vec<f32> {
        let (sources, mix) = (values(rows * 8, 1), values(8 * k, 2));
        let noise = values(rows * k, 3);
        let value = |at: usize| {
            let (row, input) = (at / k, at % k);
            let mixed = (0..8).map(|s| sources[row * 8 + s] * mix[s * k + input]);
            mixed.sum::<f32>() + 0.2 * noise[at]
        };
        (0..rows * k).map(value).collect()
    }

    #[test]
    fn the_factor_multiplied_with_itself_is_the_matrix() {
        let kernels = Kernels::detect();
        for k in [1, 7, 128, 129, 300, 700] {
            let x = inputs(40, k);
            let mut h = vec![0.0; k * k];
            for row in x.chunks_exact(k) {
                for i in 0..k {
                    for j in 0..k {
                        h[i * k + j] += row[i] * row[j];
                    }
                }
            }
            (0..k).for_each(|i| h[i * k + i] += 1.0);
            let mut l = h.clone();
            factor(kernels, &mut l, k);
            for i in 0..k {
                for j in 0..=i {
                    let product: f32 = (0..=j).map(|t| l[i * k + t] * l[j * k + t]).sum();
                    let want = h[i * k + j];
                    assert!((product - want).abs() < 1e-2, "{k}: {product} for {want}");
                }
            }
        }
    }

    #[test]
    fn products_of_compensated_weights_are_nearer_than_of_the_nearest() {
        let kernels = Kernels::detect();
        for (n, k) in [(3, 5), (40, 200), (33, 300)] {
            let x = inputs(500, k);
            let w = values(n * k, 4);
            for levels in [Levels::of_bits(6, 7), Levels::of_bits(7, 7)] {
                let most = f32::from(levels.weights);
                let (rounded, scales) = Correlation::of(kernels, &x, k).round(kernels, &w, levels);
                let error = |weight: &dyn Fn(usize) -> f32| {
                    let errors = (0..n).map(|channel| {
                        let at = channel * k..(channel + 1) * k;
                        let difference: Vec<f32> = at.map(|at| w[at] - weight(at)).collect();
                        let rows = x.chunks_exact(k);
                        let row = |row: &[f32]| {
                            let terms = row.iter().zip(&difference).map(|(x, d)| x * d);
                            f64::from(terms.sum::<f32>()).powi(2)
                        };
                        rows.map(row).sum::<f64>()
                    });
                    errors.sum::<f64>()
                };
                assert!(rounded.iter().all(|q| q.unsigned_abs() <= levels.weights));
                let compensated = error(&|at| f32::from(rounded[at]) * scales[at / k]);
                let nearest = error(&|at| {
                    let scale = scales[at / k];
                    (w[at] / scale).round_ties_even().clamp(-most, most) * scale
                });
                if k > 8 {
                    assert!(
                        compensated < nearest / 2.0,
                        "{n} x {k}: {compensated} for {nearest}"
                    );
                }
            }
        }
    }
}
