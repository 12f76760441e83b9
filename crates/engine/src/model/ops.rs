//! The forward pass's heavy operations as candle custom ops over `kernels`.
//!
//! Activations are candle tensors on the CPU; weights are windows into mapped files that candle
//! never copies.

use candle_core::{CpuStorage, CustomOp1, InplaceOp2, Layout, Result, Shape, bail};
use kernels::{AttentionKind, Epilogue, Kernels, LinearShape};
use rayon::prelude::*;

use super::description::{LinearSpec, NormSpec};
use crate::error::ModelError;
use crate::weights::{Floats, Weights};

impl From<candle_core::Error> for ModelError {
    fn from(error: candle_core::Error) -> Self {
        Self::Compute(error.to_string())
    }
}

/// The tensor's values; every tensor of the forward pass is contiguous f32.
fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((from, to)) => Ok(&storage.as_slice::<f32>()?[from..to]),
        None => bail!("expected a contiguous tensor, found {layout:?}"),
    }
}

fn values_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((from, to))) => Ok(&mut values[from..to]),
        (_, offsets) => bail!("expected a contiguous f32 tensor, found offsets {offsets:?}"),
    }
}

/// What follows the matrix product, on the way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// Nothing: the bias is added by the [`Join`] that follows.
    Nothing,
    Bias,
    BiasGelu,
}

/// `x · Wᵀ` and what follows it: `[tokens, k]` to `[tokens, n]`. Several matrices give their
/// outputs side by side, as the query, key and value projections do.
pub(crate) struct Projection {
    kernels: Kernels,
    parts: Vec<Part>,
    k: usize,
    /// Width of one matrix's output.
    n: usize,
    after: After,
}

struct Part {
    weight: Floats,
    bias: Floats,
}

impl Projection {
    /// Weights of `[n, k]` as Hugging Face stores them.
    pub(crate) fn load(
        weights: &Weights,
        spec: &LinearSpec,
        after: After,
        kernels: Kernels,
    ) -> std::result::Result<Self, ModelError> {
        let parts = spec.load(weights)?;
        let part = |(weight, bias)| Part { weight, bias };
        Ok(Self {
            kernels,
            parts: parts.into_iter().map(part).collect(),
            k: spec.k,
            n: spec.n,
            after,
        })
    }

    /// Output channels of all matrices together, and inputs.
    pub(crate) fn shape(&self) -> (usize, usize) {
        (self.n * self.parts.len(), self.k)
    }

    /// The matrices below each other, `[n, k]` of [`Self::shape`].
    pub(crate) fn whole_weight(&self) -> Vec<f32> {
        let parts = self.parts.iter().flat_map(|part| part.weight.iter());
        parts.copied().collect()
    }

    /// The biases of all matrices.
    pub(crate) fn whole_bias(&self) -> Vec<f32> {
        let parts = self.parts.iter().flat_map(|part| part.bias.iter());
        parts.copied().collect()
    }

    /// Gives the weights' pages back; they are read again when touched.
    pub(crate) fn release(&self) {
        self.parts.iter().for_each(|part| part.weight.release());
    }

    /// The bias of the only matrix, for the op that adds it instead of this one.
    pub(crate) fn bias(&self) -> &Floats {
        &self.parts[0].bias
    }
}

impl CustomOp1 for Projection {
    fn name(&self) -> &'static str {
        "projection"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(storage, layout)?;
        let tokens = x.len() / self.k;
        let width = self.n * self.parts.len();
        let mut out = vec![0.0; tokens * width];
        for (index, part) in self.parts.iter().enumerate() {
            let shape = LinearShape {
                m: tokens,
                k: self.k,
                n: self.n,
            };
            let epilogue = match self.after {
                After::Nothing => Epilogue::None,
                After::Bias => Epilogue::Bias(&part.bias),
                After::BiasGelu => Epilogue::BiasGelu(&part.bias),
            };
            let out = &mut out[index * self.n..];
            self.kernels
                .linear_columns(x, &part.weight, shape, epilogue, out, width);
        }
        Ok((CpuStorage::F32(out), Shape::from((tokens, width))))
    }
}

/// A layer norm: its parameters, and what computes it.
pub(crate) struct Norm {
    pub kernels: Kernels,
    pub gamma: Floats,
    pub beta: Floats,
    pub eps: f32,
}

impl Norm {
    pub(crate) fn load(
        weights: &Weights,
        spec: &NormSpec,
        kernels: Kernels,
    ) -> std::result::Result<Self, ModelError> {
        let (gamma, beta) = spec.load(weights)?;
        Ok(Self {
            kernels,
            gamma,
            beta,
            eps: spec.eps,
        })
    }

    pub(crate) fn apply(&self, rows: &mut [f32]) {
        self.kernels
            .layer_norm(rows, &self.gamma, &self.beta, self.eps);
    }
}

impl CustomOp1 for Norm {
    fn name(&self) -> &'static str {
        "norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut rows = values(storage, layout)?.to_vec();
        self.apply(&mut rows);
        Ok((CpuStorage::F32(rows), layout.shape().clone()))
    }
}

/// The end of a sub-layer, in place: `x + bias + residual`, normalised where the norm is behind it.
pub(crate) struct Join {
    pub bias: Floats,
    pub norm: Option<Norm>,
}

impl InplaceOp2 for Join {
    fn name(&self) -> &'static str {
        "join"
    }

    fn cpu_fwd(
        &self,
        storage: &mut CpuStorage,
        layout: &Layout,
        residual: &CpuStorage,
        residual_layout: &Layout,
    ) -> Result<()> {
        let x = values_mut(storage, layout)?;
        let residual = values(residual, residual_layout)?;
        match &self.norm {
            Some(norm) => norm.kernels.bias_residual_layer_norm(
                x,
                &self.bias,
                residual,
                &norm.gamma,
                &norm.beta,
                norm.eps,
            ),
            None => {
                let width = self.bias.len();
                x.par_chunks_mut(width)
                    .zip(residual.par_chunks(width))
                    .for_each(|(x, residual)| {
                        for ((x, r), b) in x.iter_mut().zip(residual).zip(self.bias.iter()) {
                            *x += b + r;
                        }
                    });
            }
        }
        Ok(())
    }
}

/// `gelu(a) · b` of rows that hold `a` and then `b`: `[tokens, 2 · inner]` to `[tokens, inner]`.
pub(crate) struct Gate {
    pub kernels: Kernels,
    pub inner: usize,
}

impl CustomOp1 for Gate {
    fn name(&self) -> &'static str {
        "gate"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let up = values(storage, layout)?;
        let tokens = up.len() / (2 * self.inner);
        let mut out = vec![0.0; tokens * self.inner];
        self.kernels.gated_gelu(up, self.inner, &mut out);
        Ok((CpuStorage::F32(out), Shape::from((tokens, self.inner))))
    }
}

/// Softmax attention within each sequence: `[tokens, 3 · hidden]` (queries, keys, values) to
/// `[tokens, hidden]`.
pub(crate) struct Attention<'a> {
    pub kernels: Kernels,
    pub heads: usize,
    pub head_dim: usize,
    /// Start of each sequence and the end of the last.
    pub starts: &'a [usize],
    /// What it sees of positions.
    pub kind: AttentionKind<'a>,
}

impl CustomOp1 for Attention<'_> {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let qkv = values(storage, layout)?;
        let hidden = self.heads * self.head_dim;
        let tokens = qkv.len() / (3 * hidden);
        let mut out = vec![0.0; tokens * hidden];
        self.kernels.attention(
            qkv,
            self.starts,
            self.heads,
            self.head_dim,
            &self.kind,
            &mut out,
        );
        Ok((CpuStorage::F32(out), Shape::from((tokens, hidden))))
    }
}
