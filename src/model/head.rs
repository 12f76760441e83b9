//! The classification head: `dense → tanh → one output` on each sequence's first token.
//!
//! RoBERTa's two-layer head and BERT's pooler with its classifier are the same computation under other names.

use candle_core::Tensor;
use kernels::Kernels;

use super::config::{Family, ModelConfig};
use super::ops::{After, Projection};
use crate::error::ModelError;
use crate::weights::{Floats, Weights};

pub struct Head {
    names: [&'static str; 2],
    dense: Projection,
    out: Floats,
    out_bias: f32,
}

impl Head {
    /// Of its two layers, without `.weight` and `.bias`.
    pub fn names(family: Family) -> (&'static str, &'static str) {
        match family {
            Family::Bert => ("bert.pooler.dense", "classifier"),
            _ => ("classifier.dense", "classifier.out_proj"),
        }
    }

    pub fn load(
        config: &ModelConfig,
        weights: &Weights,
        kernels: Kernels,
    ) -> Result<Self, ModelError> {
        let (dense, out) = Self::names(config.family);
        let hidden = config.hidden_size;
        Ok(Self {
            names: [dense, out],
            dense: Projection::load(
                weights,
                &[dense.to_owned()],
                hidden,
                hidden,
                After::Bias,
                kernels,
            )?,
            out: weights.matrix(&format!("{out}.weight"), 1, hidden)?,
            out_bias: weights.vector(&format!("{out}.bias"), 1)?[0],
        })
    }

    /// Names of the head's two layers, without `.weight` and `.bias`, and the rows of each.
    pub fn tensors(&self, config: &ModelConfig) -> [(&'static str, usize); 2] {
        [(self.names[0], config.hidden_size), (self.names[1], 1)]
    }

    /// `[sequences, hidden]`, the first token of each, to one logit each.
    pub fn forward(&self, first_tokens: &Tensor) -> Result<Vec<f32>, ModelError> {
        let dense = first_tokens.apply_op1_no_bwd(&self.dense)?;
        let rows: Vec<Vec<f32>> = dense.to_vec2()?;
        Ok(rows
            .iter()
            .map(|row| {
                let sum: f64 = row
                    .iter()
                    .zip(self.out.iter())
                    .map(|(x, w)| f64::from(x.tanh()) * f64::from(*w))
                    .sum();
                // The sum is in f64 because it is short; the logit is f32 like everything the reference computes.
                #[allow(clippy::cast_possible_truncation)]
                let sum = sum as f32;
                sum + self.out_bias
            })
            .collect())
    }
}
