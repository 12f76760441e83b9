//! The post-LN transformer encoder over packed sequences: `[tokens, hidden]` throughout, so no padding is computed.

use candle_core::{Device, Tensor};
use kernels::Kernels;
use rayon::prelude::*;

use super::config::{Family, ModelConfig};
#[cfg(any(test, feature = "cuda"))]
use super::device;
#[cfg(feature = "cuda")]
use super::fused;
#[cfg(any(test, feature = "cuda"))]
use super::gpu;
use super::head::Head;
use super::int8;
use super::ops::{AddNorm, After, Attention, Norm, Projection};
use super::quantize::Site;
use super::{Gpu, Packed};
use crate::error::ModelError;
use crate::weights::{Table, Weights};

pub struct Encoder {
    embeddings: Embeddings,
    layers: Layers,
}

enum Layers {
    F32(F32Layers),
    Int8(int8::Layers),
    /// All of the encoder, its embeddings included.
    #[cfg(any(test, feature = "cuda"))]
    Device(device::Encoder),
    /// The head too.
    #[cfg(feature = "cuda")]
    Fused(Box<fused::Encoder>),
}

pub struct F32Layers {
    layers: Vec<Layer>,
    kernels: Kernels,
    heads: usize,
    head_dim: usize,
}

/// Sees what goes on in the layers, for calibration.
pub trait Observer {
    /// The input of one of the current layer's projections, `[tokens, width]`.
    fn input(&mut self, site: Site, x: &Tensor) -> Result<(), ModelError>;
    /// The layer has been computed: its projections in the order of [`Site`], and gamma and beta of its two norms.
    fn layer(
        &mut self,
        index: usize,
        projections: [&Projection; 4],
        norms: [(&[f32], &[f32]); 2],
    ) -> Result<(), ModelError>;
}

impl Encoder {
    /// Layers on `gpu` where there is one, of the packed form where `weights` are packed, else of f32.
    pub fn load(
        config: &ModelConfig,
        weights: &Weights,
        kernels: Kernels,
        gpu: Option<&Gpu>,
    ) -> Result<Self, ModelError> {
        let layers = match gpu {
            #[cfg(feature = "cuda")]
            Some(gpu) if gpu.lacks_kernels(config).is_none() => {
                let encoder = fused::Encoder::load(config, weights, gpu.precision);
                Layers::Fused(Box::new(encoder.map_err(gpu::advised)?))
            }
            #[cfg(any(test, feature = "cuda"))]
            Some(gpu) => {
                if let Some(reason) = gpu.lacks_plain() {
                    return Err(ModelError::Compute(reason));
                }
                let (device, dtype) = (&gpu.device, gpu.dtype());
                let encoder = device::Encoder::load(config, weights, device, dtype);
                Layers::Device(encoder.map_err(gpu::advised)?)
            }
            _ if weights.manifest().is_some() => {
                Layers::Int8(int8::Layers::load(config, weights, kernels)?)
            }
            _ => Layers::F32(F32Layers {
                layers: (0..config.layers)
                    .map(|index| Layer::load(config, weights, kernels, index))
                    .collect::<Result<_, _>>()?,
                kernels,
                heads: config.heads,
                head_dim: config.head_dim(),
            }),
        };
        Ok(Self {
            embeddings: Embeddings::load(config, weights, kernels)?,
            layers,
        })
    }

    /// Whether our own CUDA kernels compute.
    pub fn fused(&self) -> bool {
        #[cfg(feature = "cuda")]
        return matches!(self.layers, Layers::Fused(_));
        #[cfg(not(feature = "cuda"))]
        false
    }

    /// One logit for each sequence, by `head` where the layers have none of their own.
    pub fn logits(&self, packed: &Packed, head: &Head) -> Result<Vec<f32>, ModelError> {
        #[cfg(feature = "cuda")]
        if let Layers::Fused(encoder) = &self.layers {
            return encoder.logits(packed, &self.embeddings.positions(packed)?);
        }
        head.forward(&self.forward(packed)?)
    }

    /// The matrices of a packed model; none of any other.
    pub fn tunables(&mut self) -> Vec<int8::Tunable<'_>> {
        match &mut self.layers {
            Layers::Int8(layers) => layers.tunables(),
            _ => Vec::new(),
        }
    }

    /// The last layer's output at each sequence's first token: `[sequences, hidden]`.
    fn forward(&self, packed: &Packed) -> Result<Tensor, ModelError> {
        let positions = self.embeddings.positions(packed)?;
        let shape = |rows| (rows, self.embeddings.hidden);
        match &self.layers {
            Layers::F32(layers) => {
                let hidden = self.embeddings.forward(packed, &positions);
                let hidden = Tensor::from_vec(hidden, shape(packed.tokens()), &Device::Cpu)?;
                layers.forward(hidden, packed)
            }
            Layers::Int8(layers) => {
                let hidden = self.embeddings.forward(packed, &positions);
                let first = layers.forward(hidden, &packed.starts);
                Ok(Tensor::from_vec(
                    first,
                    shape(packed.sequences()),
                    &Device::Cpu,
                )?)
            }
            #[cfg(any(test, feature = "cuda"))]
            Layers::Device(encoder) => encoder.forward(packed, &positions),
            #[cfg(feature = "cuda")]
            Layers::Fused(_) => Err(ModelError::Compute("the head is on the GPU".into())),
        }
    }

    /// [`Self::forward`] of f32 layers, all tokens to the end, told to `observer`. Fails on others.
    pub fn forward_observed(
        &self,
        packed: &Packed,
        observer: &mut dyn Observer,
    ) -> Result<Tensor, ModelError> {
        let Layers::F32(layers) = &self.layers else {
            return Err(ModelError::Compute("the model is packed already".into()));
        };
        let positions = self.embeddings.positions(packed)?;
        let hidden = self.embeddings.forward(packed, &positions);
        let shape = (packed.tokens(), self.embeddings.hidden);
        let mut hidden = Tensor::from_vec(hidden, shape, &Device::Cpu)?;
        let attention = layers.attention(packed);
        for (index, layer) in layers.layers.iter().enumerate() {
            observer.input(Site::Qkv, &hidden)?;
            let context = layer.context(&hidden, &attention)?;
            observer.input(Site::AttentionOut, &context)?;
            let attended = layer.attended(&context, &hidden)?;
            observer.input(Site::Up, &attended)?;
            let inner = attended.apply_op1_no_bwd(&layer.up)?;
            observer.input(Site::Down, &inner)?;
            hidden = layer.output(&inner, &attended)?;
            let norm =
                |add_norm: &'_ AddNorm| (add_norm.norm.gamma.clone(), add_norm.norm.beta.clone());
            let (first, second) = (norm(&layer.attention_norm), norm(&layer.output_norm));
            observer.layer(
                index,
                [&layer.qkv, &layer.attention_out, &layer.up, &layer.down],
                [(&first.0, &first.1), (&second.0, &second.1)],
            )?;
        }
        first_tokens(&hidden, packed)
    }
}

impl F32Layers {
    fn attention<'a>(&self, packed: &'a Packed) -> Attention<'a> {
        Attention {
            kernels: self.kernels,
            heads: self.heads,
            head_dim: self.head_dim,
            starts: &packed.starts,
        }
    }

    fn forward(&self, mut hidden: Tensor, packed: &Packed) -> Result<Tensor, ModelError> {
        let attention = self.attention(packed);
        for (index, layer) in self.layers.iter().enumerate() {
            let mut context = layer.context(&hidden, &attention)?;
            if index + 1 == self.layers.len() {
                // Only first tokens are read from here on, and nothing after attention mixes tokens: for them alone the
                // rest of the layer is computed.
                context = first_tokens(&context, packed)?;
                hidden = first_tokens(&hidden, packed)?;
            }
            let attended = layer.attended(&context, &hidden)?;
            let inner = attended.apply_op1_no_bwd(&layer.up)?;
            hidden = layer.output(&inner, &attended)?;
        }
        Ok(hidden)
    }
}

fn first_tokens(hidden: &Tensor, packed: &Packed) -> Result<Tensor, ModelError> {
    let rows = &packed.starts[..packed.sequences()];
    let rows = rows
        .iter()
        .map(|&row| u32::try_from(row))
        .collect::<Result<Vec<u32>, _>>()
        .map_err(|error| ModelError::Compute(error.to_string()))?;
    let rows = Tensor::new(rows, &Device::Cpu)?;
    Ok(hidden.index_select(&rows, 0)?)
}

struct Embeddings {
    words: Table,
    positions: Table,
    segments: Table,
    norm: Norm,
    hidden: usize,
    /// Padding token of the RoBERTa family, whose positions are counted over the other tokens.
    pad: Option<u32>,
}

impl Embeddings {
    fn load(config: &ModelConfig, weights: &Weights, kernels: Kernels) -> Result<Self, ModelError> {
        let prefix = format!("{}.embeddings", config.family.prefix());
        let hidden = config.hidden_size;
        let table =
            |name: &str, rows| weights.table(&format!("{prefix}.{name}.weight"), rows, hidden);
        Ok(Self {
            words: table("word_embeddings", config.vocab_size)?,
            positions: table("position_embeddings", config.position_rows)?,
            segments: table("token_type_embeddings", config.type_vocab_size)?,
            norm: norm(weights, &format!("{prefix}.LayerNorm"), config, kernels)?,
            hidden,
            pad: (config.family != Family::Bert).then_some(config.pad_token_id),
        })
    }

    /// `[tokens, hidden]`, row-major; `positions` are those of [`Self::positions`].
    fn forward(&self, packed: &Packed, positions: &[usize]) -> Vec<f32> {
        let row = |&id: &u32| id as usize..id as usize + 1;
        self.words.expect(packed.ids.iter().map(row));
        let last = positions.iter().max().copied().unwrap_or_default();
        self.positions.expect(std::iter::once(0..last + 1));
        let mut hidden = vec![0.0f32; packed.tokens() * self.hidden];
        hidden
            .par_chunks_mut(self.hidden)
            .enumerate()
            .for_each_init(
                || vec![0.0f32; self.hidden],
                |part, (token, out)| {
                    self.words.read_row(packed.ids[token] as usize, out);
                    let mut add = |table: &Table, row: usize| {
                        table.read_row(row, part);
                        out.iter_mut().zip(part.iter()).for_each(|(o, p)| *o += p);
                    };
                    add(&self.segments, packed.type_ids[token] as usize);
                    add(&self.positions, positions[token]);
                },
            );
        let Norm {
            kernels,
            gamma,
            beta,
            eps,
        } = &self.norm;
        kernels.layer_norm(&mut hidden, gamma, beta, *eps);
        hidden
    }

    /// Position of every token, once all ids and segments are found to have an embedding. RoBERTa counts from `pad + 1`, gives a padding token (which a text can contain literally) the
    /// position `pad`, and does not count it.
    fn positions(&self, packed: &Packed) -> Result<Vec<usize>, ModelError> {
        let beyond = |what: &str, id: u32, rows: usize| {
            Err(ModelError::Compute(format!(
                "{what} {id} is beyond the embedding's {rows} rows"
            )))
        };
        for (&id, &segment) in packed.ids.iter().zip(&packed.type_ids) {
            if id as usize >= self.words.rows() {
                return beyond("token id", id, self.words.rows());
            }
            if segment as usize >= self.segments.rows() {
                return beyond("segment", segment, self.segments.rows());
            }
        }
        let mut positions = Vec::with_capacity(packed.tokens());
        for bounds in packed.starts.windows(2) {
            let mut next = self.pad.map_or(0, |pad| pad as usize + 1);
            for &id in &packed.ids[bounds[0]..bounds[1]] {
                match self.pad {
                    Some(pad) if pad == id => positions.push(pad as usize),
                    _ => {
                        positions.push(next);
                        next += 1;
                    }
                }
            }
            if next > self.positions.rows() {
                return Err(ModelError::Compute(format!(
                    "a sequence of {} tokens exceeds the positions, of which there are {}",
                    bounds[1] - bounds[0],
                    self.positions.rows()
                )));
            }
        }
        Ok(positions)
    }
}

struct Layer {
    qkv: Projection,
    attention_out: Projection,
    attention_norm: AddNorm,
    up: Projection,
    down: Projection,
    output_norm: AddNorm,
}

impl Layer {
    fn load(
        config: &ModelConfig,
        weights: &Weights,
        kernels: Kernels,
        index: usize,
    ) -> Result<Self, ModelError> {
        let prefix = format!("{}.encoder.layer.{index}", config.family.prefix());
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let projection = |names: &[&str], n, k, after| {
            let names: Vec<String> = names
                .iter()
                .map(|name| format!("{prefix}.{name}"))
                .collect();
            Projection::load(weights, &names, n, k, after, kernels)
        };
        let add_norm = |sub_layer: &str, projection: &Projection| {
            Ok::<_, ModelError>(AddNorm {
                bias: projection.bias().clone(),
                norm: norm(
                    weights,
                    &format!("{prefix}.{sub_layer}.LayerNorm"),
                    config,
                    kernels,
                )?,
            })
        };
        const QKV: [&str; 3] = [
            "attention.self.query",
            "attention.self.key",
            "attention.self.value",
        ];
        let attention_out =
            projection(&["attention.output.dense"], hidden, hidden, After::Nothing)?;
        let down = projection(&["output.dense"], hidden, inner, After::Nothing)?;
        Ok(Self {
            qkv: projection(&QKV, hidden, hidden, After::Bias)?,
            attention_norm: add_norm("attention.output", &attention_out)?,
            attention_out,
            up: projection(&["intermediate.dense"], inner, hidden, After::BiasGelu)?,
            output_norm: add_norm("output", &down)?,
            down,
        })
    }

    /// Attention's result before its output projection.
    fn context(&self, hidden: &Tensor, attention: &Attention) -> Result<Tensor, ModelError> {
        let qkv = hidden.apply_op1_no_bwd(&self.qkv)?;
        Ok(qkv.apply_op1_no_bwd(attention)?)
    }

    /// The first sub-layer's output.
    fn attended(&self, context: &Tensor, hidden: &Tensor) -> Result<Tensor, ModelError> {
        let attended = context.apply_op1_no_bwd(&self.attention_out)?;
        attended.inplace_op2(hidden, &self.attention_norm)?;
        Ok(attended)
    }

    /// The layer's output, from the feed-forward network's inner activations.
    fn output(&self, inner: &Tensor, attended: &Tensor) -> Result<Tensor, ModelError> {
        let out = inner.apply_op1_no_bwd(&self.down)?;
        out.inplace_op2(attended, &self.output_norm)?;
        Ok(out)
    }
}

fn norm(
    weights: &Weights,
    name: &str,
    config: &ModelConfig,
    kernels: Kernels,
) -> Result<Norm, ModelError> {
    Ok(Norm {
        kernels,
        gamma: weights.vector(&format!("{name}.weight"), config.hidden_size)?,
        beta: weights.vector(&format!("{name}.bias"), config.hidden_size)?,
        eps: config.layer_norm_eps,
    })
}
