//! The scalar truth: every kernel once more in plain loops with f64 sums, no blocking and no vectors. It defines what the
//! kernels compute and is the oracle of their tests; it is not meant to be fast.

use std::f64::consts::{PI, SQRT_2};

use crate::attention::{AttentionKind, RelativeBias, Rotary};

/// `x[r, c] += bias[c]`; `x` is `[rows, bias.len()]`.
pub fn bias_add(x: &mut [f32], bias: &[f32]) {
    for row in x.chunks_exact_mut(bias.len()) {
        for (x, bias) in row.iter_mut().zip(bias) {
            *x += bias;
        }
    }
}

/// `x[r, c] = gelu(x[r, c] + bias[c])`; `x` is `[rows, bias.len()]`.
pub fn bias_gelu(x: &mut [f32], bias: &[f32]) {
    for row in x.chunks_exact_mut(bias.len()) {
        for (x, bias) in row.iter_mut().zip(bias) {
            *x = gelu(f64::from(*x) + f64::from(*bias)) as f32;
        }
    }
}

/// GELU with the exact error function.
pub fn gelu(x: f64) -> f64 {
    // For x < 0 written with erfc, which keeps the tail's digits.
    x * 0.5 * erfc(-x / SQRT_2)
}

/// The complementary error function to about 1e-15: the Taylor series of erf near 0, Lentz's evaluation of the continued
/// fraction beyond (Abramowitz and Stegun 7.1.6 and 7.1.14).
fn erfc(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    let z = x.abs();
    let upper = if z < 2.0 {
        let (mut term, mut sum) = (z, z);
        let mut n = 0.0;
        while term > sum * 1e-17 {
            n += 1.0;
            term *= 2.0 * z * z / (2.0 * n + 1.0);
            sum += term;
        }
        1.0 - 2.0 / PI.sqrt() * (-z * z).exp() * sum
    } else {
        // erfc(z) = e^(-z²)/√π · 1/(z + (1/2)/(z + (2/2)/(z + (3/2)/(z + …)))), from the inside out.
        let mut fraction = z;
        for n in (1..=120).rev() {
            fraction = z + f64::from(n) / 2.0 / fraction;
        }
        (-z * z).exp() / PI.sqrt() / fraction
    };
    if x < 0.0 { 2.0 - upper } else { upper }
}

/// Each row to mean 0 and (biased) variance 1, then `gamma`, `beta`; `x` is `[rows, gamma.len()]`.
pub fn layer_norm(x: &mut [f32], gamma: &[f32], beta: &[f32], eps: f32) {
    let zeros = vec![0.0; x.len()];
    bias_residual_layer_norm(x, &vec![0.0; gamma.len()], &zeros, gamma, beta, eps);
}

/// `x = layer_norm(x + bias + residual)`; `x` and `residual` are `[rows, gamma.len()]`, `bias` is a row.
pub fn bias_residual_layer_norm(
    x: &mut [f32],
    bias: &[f32],
    residual: &[f32],
    gamma: &[f32],
    beta: &[f32],
    eps: f32,
) {
    let n = gamma.len();
    for (row, residual) in x.chunks_exact_mut(n).zip(residual.chunks_exact(n)) {
        let sums: Vec<f64> = (0..n)
            .map(|c| f64::from(row[c]) + f64::from(bias[c]) + f64::from(residual[c]))
            .collect();
        let mean = sums.iter().sum::<f64>() / n as f64;
        let variance = sums.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64;
        let scale = 1.0 / (variance + f64::from(eps)).sqrt();
        for c in 0..n {
            row[c] = ((sums[c] - mean) * scale * f64::from(gamma[c]) + f64::from(beta[c])) as f32;
        }
    }
}

/// `out[m, n] = x[m, k] · w[n, k]ᵀ + bias[n]`, all row-major.
pub fn linear(x: &[f32], w: &[f32], k: usize, bias: &[f32], out: &mut [f32]) {
    let n = bias.len();
    for (i, out) in out.chunks_exact_mut(n.max(1)).enumerate() {
        for (j, out) in out.iter_mut().enumerate() {
            let products = (0..k).map(|c| f64::from(x[i * k + c]) * f64::from(w[j * k + c]));
            *out = (products.sum::<f64>() + f64::from(bias[j])) as f32;
        }
    }
}

/// `gelu` of a row's first half, times its second half; `up` is `[rows, 2 * inner]`, `out` `[rows, inner]`.
pub fn gated_gelu(up: &[f32], inner: usize, out: &mut [f32]) {
    for (up, out) in up.chunks_exact(2 * inner).zip(out.chunks_exact_mut(inner)) {
        for (i, out) in out.iter_mut().enumerate() {
            *out = (gelu(f64::from(up[i])) * f64::from(up[inner + i])) as f32;
        }
    }
}

/// Softmax attention within each sequence of `cu_seqlens`; `qkv` is `[tokens, 3 * hidden]`, `out` `[tokens, hidden]`.
pub fn attention(
    qkv: &[f32],
    cu_seqlens: &[usize],
    heads: usize,
    head_dim: usize,
    kind: &AttentionKind<'_>,
    out: &mut [f32],
) {
    let hidden = heads * head_dim;
    let at = |token: usize, part: usize, head: usize, c: usize| {
        f64::from(qkv[token * 3 * hidden + part * hidden + head * head_dim + c])
    };
    // A query's or a key's element, rotated by its token's position.
    let turned = |token: usize, start: usize, part: usize, head: usize, c: usize| {
        let Some(Rotary { cos, sin }) = kind.rotary else {
            return at(token, part, head, c);
        };
        let half = head_dim / 2;
        let place = (token - start) * half + c % half;
        let (cos, sin) = (f64::from(cos[place]), f64::from(sin[place]));
        if c < half {
            at(token, part, head, c) * cos - at(token, part, head, c + half) * sin
        } else {
            at(token, part, head, c) * cos + at(token, part, head, c - half) * sin
        }
    };
    let bias = |query: usize, key: usize, head: usize| {
        kind.bias.map_or(0.0, |RelativeBias { table, reach }| {
            let distance = (key + reach).saturating_sub(query).min(2 * reach);
            f64::from(table[head * (2 * reach + 1) + distance])
        })
    };
    for bounds in cu_seqlens.windows(2) {
        let tokens = bounds[0]..bounds[1];
        for head in 0..heads {
            for query in tokens.clone() {
                let keys = tokens
                    .clone()
                    .filter(|key| kind.window.is_none_or(|w| key.abs_diff(query) <= w));
                let start = tokens.start;
                let logits: Vec<f64> = keys
                    .clone()
                    .map(|key| {
                        let products = (0..head_dim).map(|c| {
                            turned(query, start, 0, head, c) * turned(key, start, 1, head, c)
                        });
                        products.sum::<f64>() / (head_dim as f64).sqrt() + bias(query, key, head)
                    })
                    .collect();
                let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = logits.iter().map(|x| (x - largest).exp()).collect();
                let total = weights.iter().sum::<f64>();
                for c in 0..head_dim {
                    let products = keys
                        .clone()
                        .zip(&weights)
                        .map(|(key, weight)| weight * at(key, 2, head, c));
                    out[query * hidden + head * head_dim + c] =
                        (products.sum::<f64>() / total) as f32;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erfc_matches_tabulated_values() {
        // NIST DLMF tables and mpmath, 16 digits.
        for (x, exact) in [
            (0.0, 1.0),
            (0.5, 0.479_500_122_186_953_5),
            (1.0, 0.157_299_207_050_285_13),
            (2.0, 4.677_734_981_047_266e-3),
            (3.0, 2.209_049_699_858_544e-5),
            (5.0, 1.537_459_794_428_035e-12),
            (-1.5, 1.966_105_146_475_310_7),
        ] {
            assert!((erfc(x) / exact - 1.0).abs() < 1e-13, "erfc({x})");
        }
        assert!((erfc(2.0 - 1e-12) / erfc(2.0) - 1.0).abs() < 1e-10);
    }
}
