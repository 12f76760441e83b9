//! The forward pass's heavy operations as candle custom ops over `kernels`.
//!
//! Activations are candle tensors on the CPU; weights are windows into mapped files that candle never copies.

use candle_core::{CpuStorage, CustomOp1, InplaceOp2, Layout, Result, Shape, bail};
use kernels::{AttentionKind, Epilogue, Kernels, LinearShape};

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
pub enum After {
    /// Nothing: the bias is added by the [`AddNorm`] that follows.
    Nothing,
    Bias,
    BiasGelu,
}

/// `x · Wᵀ` and what follows it: `[tokens, k]` to `[tokens, n]`. Several matrices give their outputs side by side, as the
/// query, key and value projections do.
pub struct Projection {
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
    /// Layers `names`, each with a weight of `[n, k]` as Hugging Face stores it, and a bias.
    pub fn load(
        weights: &Weights,
        names: &[String],
        n: usize,
        k: usize,
        after: After,
        kernels: Kernels,
    ) -> std::result::Result<Self, ModelError> {
        let part = |name: &String| {
            Ok::<_, ModelError>(Part {
                weight: weights.matrix(&format!("{name}.weight"), n, k)?,
                bias: weights.vector(&format!("{name}.bias"), n)?,
            })
        };
        Ok(Self {
            kernels,
            parts: names
                .iter()
                .map(part)
                .collect::<std::result::Result<_, _>>()?,
            k,
            n,
            after,
        })
    }

    /// Output channels of all matrices together, and inputs.
    pub fn shape(&self) -> (usize, usize) {
        (self.n * self.parts.len(), self.k)
    }

    /// The matrices below each other, `[n, k]` of [`Self::shape`].
    pub fn whole_weight(&self) -> Vec<f32> {
        let parts = self.parts.iter().flat_map(|part| part.weight.iter());
        parts.copied().collect()
    }

    /// The biases of all matrices.
    pub fn whole_bias(&self) -> Vec<f32> {
        let parts = self.parts.iter().flat_map(|part| part.bias.iter());
        parts.copied().collect()
    }

    /// Gives the weights' pages back; they are read again when touched.
    pub fn release(&self) {
        self.parts.iter().for_each(|part| part.weight.release());
    }

    /// The bias, for the op that adds it instead of this one.
    pub fn bias(&self) -> &Floats {
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

/// Parameters of a layer norm, and what computes it.
pub struct Norm {
    pub kernels: Kernels,
    pub gamma: Floats,
    pub beta: Floats,
    pub eps: f32,
}

/// The end of a sub-layer of a post-LN encoder, in place: `norm(x + bias + residual)`.
pub struct AddNorm {
    pub bias: Floats,
    pub norm: Norm,
}

impl InplaceOp2 for AddNorm {
    fn name(&self) -> &'static str {
        "add-norm"
    }

    fn cpu_fwd(
        &self,
        storage: &mut CpuStorage,
        layout: &Layout,
        residual: &CpuStorage,
        residual_layout: &Layout,
    ) -> Result<()> {
        self.norm.kernels.bias_residual_layer_norm(
            values_mut(storage, layout)?,
            &self.bias,
            values(residual, residual_layout)?,
            &self.norm.gamma,
            &self.norm.beta,
            self.norm.eps,
        );
        Ok(())
    }
}

/// Softmax attention within each sequence: `[tokens, 3 · hidden]` (queries, keys, values) to `[tokens, hidden]`.
pub struct Attention<'a> {
    pub kernels: Kernels,
    pub heads: usize,
    pub head_dim: usize,
    /// Start of each sequence and the end of the last.
    pub starts: &'a [usize],
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
        let kind = AttentionKind::default();
        self.kernels
            .attention(qkv, self.starts, self.heads, self.head_dim, &kind, &mut out);
        Ok((CpuStorage::F32(out), Shape::from((tokens, hidden))))
    }
}
