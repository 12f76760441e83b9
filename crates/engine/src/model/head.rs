//! The classification head: layers, activations and norms on a vector of each sequence, down to one
//! output.
//!
//! RoBERTa's two layers, BERT's pooler with its classifier, ModernBERT's prediction head and
//! sentence-transformers' modules are the same computation under other names and with other
//! activations.

use candle_core::Tensor;
use kernels::Kernels;

use super::config::Activation;
use super::description::{Description, HeadStep};
use super::ops::{After, Norm, Projection};
use crate::error::ModelError;
use crate::weights::Floats;

pub(crate) struct Head {
    steps: Vec<Step>,
    /// The layer with one output.
    out: Floats,
    out_bias: f32,
}

enum Step {
    Dense(Projection, Activation),
    Norm(Norm),
}

impl Head {
    pub(crate) fn load(description: &Description, kernels: Kernels) -> Result<Self, ModelError> {
        let weights = description.weights();
        let mut specs = description.head();
        let Some(HeadStep::Dense(out, _)) = specs.pop() else {
            return Err(ModelError::Compute("a head without an output".into()));
        };
        let step = |spec: &HeadStep| {
            Ok::<_, ModelError>(match spec {
                HeadStep::Dense(spec, activation) => {
                    let after = match activation {
                        Activation::Gelu => After::BiasGelu,
                        _ => After::Bias,
                    };
                    let dense = Projection::load(weights, spec, after, kernels)?;
                    Step::Dense(dense, *activation)
                }
                HeadStep::Norm(spec) => Step::Norm(Norm::load(weights, spec, kernels)?),
            })
        };
        let (out, out_bias) = out.load(weights)?.swap_remove(0);
        Ok(Self {
            steps: specs.iter().map(step).collect::<Result<_, _>>()?,
            out,
            out_bias: out_bias[0],
        })
    }

    /// `[sequences, hidden]`, what the encoder gives of each, to one logit each.
    pub(crate) fn forward(&self, pooled: &Tensor) -> Result<Vec<f32>, ModelError> {
        let mut x = pooled.clone();
        for step in &self.steps {
            x = match step {
                Step::Dense(dense, _) => x.apply_op1_no_bwd(dense)?,
                Step::Norm(norm) => x.apply_op1_no_bwd(norm)?,
            };
            x = match step {
                Step::Dense(_, Activation::Relu) => x.relu()?,
                Step::Dense(_, Activation::Tanh) => x.tanh()?,
                _ => x,
            };
        }
        let rows: Vec<Vec<f32>> = x.to_vec2()?;
        Ok(rows
            .iter()
            .map(|row| {
                let sum: f64 = row
                    .iter()
                    .zip(self.out.iter())
                    .map(|(x, w)| f64::from(*x) * f64::from(*w))
                    .sum();
                // The sum is in f64 because it is short; the logit is f32 like everything the
                // reference computes.
                #[allow(clippy::cast_possible_truncation)]
                let sum = sum as f32;
                sum + self.out_bias
            })
            .collect())
    }
}
