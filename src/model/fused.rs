//! The encoder and the head on a GPU by the kernels in `crates/cuda`: our tensors, by their names, for what that crate calls them.

use cuda_kernels::{Encoder as Kernels, Error, Half, Layer, Linear, Norm, Shape, Work};

use super::config::ModelConfig;
use super::head::Head;
use super::{Packed, gpu};
use crate::error::ModelError;
use crate::rerank::Precision;
use crate::weights::{Floats, Weights};

impl From<Error> for ModelError {
    fn from(error: Error) -> Self {
        Self::Compute(error.to_string())
    }
}

pub struct Encoder {
    kernels: Kernels,
}

/// What the kernels have to be made for.
pub fn shape(config: &ModelConfig) -> Shape {
    Shape {
        hidden: config.hidden_size,
        inner: config.intermediate_size,
        heads: config.heads,
        eps: config.layer_norm_eps,
    }
}

/// A layer's weight and bias, where the file has them.
struct Pair(Floats, Floats);

impl Pair {
    fn linear(&self) -> Linear<'_> {
        Linear {
            weight: &self.0,
            bias: &self.1,
        }
    }

    fn norm(&self) -> Norm<'_> {
        Norm {
            gamma: &self.0,
            beta: &self.1,
        }
    }
}

impl Encoder {
    /// Of a shape that there are kernels for, in 16 bits.
    pub fn load(
        config: &ModelConfig,
        weights: &Weights,
        precision: Precision,
    ) -> Result<Self, ModelError> {
        let prefix = config.family.prefix();
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let linear = |name: &str, n, k| {
            let weight = weights.matrix(&format!("{name}.weight"), n, k)?;
            Ok::<_, ModelError>(Pair(weight, weights.vector(&format!("{name}.bias"), n)?))
        };
        let norm = |name: &str| {
            let part = |part| weights.vector(&format!("{name}.LayerNorm.{part}"), hidden);
            Ok::<_, ModelError>(Pair(part("weight")?, part("bias")?))
        };
        let table = |name: &str, rows| {
            weights.matrix(&format!("{prefix}.embeddings.{name}.weight"), rows, hidden)
        };
        let tables = [
            table("word_embeddings", config.vocab_size)?,
            table("position_embeddings", config.position_rows)?,
            table("token_type_embeddings", config.type_vocab_size)?,
        ];
        let (dense, out) = Head::names(config.family);
        let (dense, out) = (linear(dense, hidden, hidden)?, linear(out, 1, hidden)?);
        let half = match precision {
            Precision::Bf16 => Half::Bf16,
            _ => Half::F16,
        };
        let layer = |index: usize, push: &mut dyn FnMut(&Layer) -> Result<(), Error>| {
            let name = |part: &str| format!("{prefix}.encoder.layer.{index}.{part}");
            let [query, key, value] = ["query", "key", "value"]
                .map(|part| linear(&name(&format!("attention.self.{part}")), hidden, hidden));
            let (query, key, value) = (query?, key?, value?);
            let attention_out = linear(&name("attention.output.dense"), hidden, hidden)?;
            let attention_norm = norm(&name("attention.output"))?;
            let up = linear(&name("intermediate.dense"), inner, hidden)?;
            let down = linear(&name("output.dense"), hidden, inner)?;
            let output_norm = norm(&name("output"))?;
            Ok::<_, ModelError>(push(&Layer {
                query: query.linear(),
                key: key.linear(),
                value: value.linear(),
                attention_out: attention_out.linear(),
                attention_norm: attention_norm.norm(),
                up: up.linear(),
                down: down.linear(),
                output_norm: output_norm.norm(),
            })?)
        };
        let kernels = Kernels::load(
            shape(config),
            half,
            [&tables[0], &tables[1], &tables[2]],
            &norm(&format!("{prefix}.embeddings"))?.norm(),
            config.layers,
            layer,
            &cuda_kernels::Head {
                dense: dense.linear(),
                out: &out.0,
                out_bias: out.1[0],
            },
        )?;
        Ok(Self { kernels })
    }

    /// One logit for each sequence. `positions` has one for each token; ids, segments and positions are within the tables.
    pub fn logits(&self, packed: &Packed, positions: &[usize]) -> Result<Vec<f32>, ModelError> {
        let tokens = packed.tokens();
        let work = Work::plan(&packed.ids, positions, &packed.type_ids, &packed.starts)
            .ok_or(Error::TooLarge(tokens))?;
        self.kernels
            .forward(&work)
            .map_err(|error| gpu::explained(error.into(), tokens))
    }
}
