//! The encoder and the head on a GPU by the kernels in `crates/cuda`: our tensors, by their names,
//! for what that crate calls them.

use cuda_kernels::{Encoder as Kernels, Error, Half, Layer, Linear, Norm, Shape, Work};

use super::config::ModelConfig;
use super::description::{Description, HeadStep, LinearSpec, NormSpec, TableSpec};
use super::{Packed, gpu};
use crate::error::ModelError;
use crate::precision::Precision;
use crate::weights::Floats;

impl From<Error> for ModelError {
    fn from(error: Error) -> Self {
        Self::Compute(error.to_string())
    }
}

pub(crate) struct Encoder {
    kernels: Kernels,
}

/// What the kernels have to be made for.
pub(crate) fn shape(config: &ModelConfig) -> Shape {
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
    pub(crate) fn load(
        description: &Description,
        precision: Precision,
    ) -> Result<Self, ModelError> {
        let (config, weights) = (description.config(), description.weights());
        let lacking = || ModelError::Compute("the kernels take another model's tensors".into());
        let linear = |spec: &LinearSpec| {
            let parts = spec.load(weights)?;
            Ok::<_, ModelError>(parts.into_iter().map(|(w, b)| Pair(w, b)))
        };
        let one = |spec: &LinearSpec| linear(spec)?.next().ok_or_else(lacking);
        let norm = |spec: &NormSpec| spec.load(weights).map(|(gamma, beta)| Pair(gamma, beta));
        let table = |table: Option<TableSpec>| {
            let TableSpec { name, rows } = table.ok_or_else(lacking)?;
            weights.matrix(&name, rows, config.hidden_size)
        };
        let tables = [
            table(Some(description.words()))?,
            table(description.positions())?,
            table(description.segments())?,
        ];
        let head = description.head();
        let [HeadStep::Dense(dense, _), HeadStep::Dense(out, _)] = &head[..] else {
            return Err(lacking());
        };
        let (dense, out) = (one(dense)?, one(out)?);
        let half = match precision {
            Precision::Bf16 => Half::Bf16,
            _ => Half::F16,
        };
        let layer = |index: usize, push: &mut dyn FnMut(&Layer) -> Result<(), Error>| {
            let spec = description.layer(index);
            let mut qkv = linear(&spec.qkv)?;
            let mut part = || qkv.next().ok_or_else(lacking);
            let (query, key, value) = (part()?, part()?, part()?);
            let attention_out = one(&spec.attention_out)?;
            let attention_norm = spec.attention_norm.as_ref().ok_or_else(lacking)?;
            let attention_norm = norm(attention_norm)?;
            let (up, down) = (one(&spec.up)?, one(&spec.down)?);
            let output_norm = norm(&spec.output_norm)?;
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
            &norm(&description.embedding_norm())?.norm(),
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

    /// One logit for each sequence. `positions` has one for each token; ids, segments and positions
    /// are within the tables.
    pub(crate) fn logits(
        &self,
        packed: &Packed,
        positions: &[usize],
    ) -> Result<Vec<f32>, ModelError> {
        let tokens = packed.tokens();
        let work = Work::plan(&packed.ids, positions, &packed.type_ids, &packed.starts)
            .ok_or(Error::TooLarge(tokens))?;
        self.kernels
            .forward(&work)
            .map_err(|error| gpu::explained(error.into(), tokens))
    }
}
