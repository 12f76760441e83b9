//! The transformer encoder over packed sequences: `[tokens, hidden]` throughout, so no padding is
//! computed.
//!
//! One encoder for all families: it follows a [`Description`].

use std::sync::Arc;

use candle_core::{Device, Tensor};
use kernels::{AttentionKind, Kernels, Levels, RelativeBias, Rotary};
use rayon::prelude::*;

use super::config::{Positions, Rope, Span};
use super::description::{Description, LayerSpec, NormSpec, TableSpec, biases_by_distance};
#[cfg(any(test, feature = "cuda"))]
use super::device;
#[cfg(feature = "cuda")]
use super::fused;
#[cfg(any(test, feature = "cuda"))]
use super::gpu;
use super::head::Head;
use super::int8;
use super::ops::{After, Attention, Gate, Join, Norm, Projection};
use super::rotary::{Rotations, Tables};
use super::{Gpu, Packed};
use crate::error::ModelError;
use crate::weights::Table;

pub(crate) struct Encoder {
    embeddings: Embeddings,
    seen: Seen,
    layers: Layers,
    pooling: Pooling,
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

pub(crate) struct F32Layers {
    layers: Vec<Layer>,
    kernels: Kernels,
    heads: usize,
    head_dim: usize,
}

/// How layers see positions in attention: what they share.
pub(crate) struct Seen {
    /// Each kind of rotation once.
    rotations: Vec<(Rope, Rotations)>,
    /// Biases by distance, and how far they reach.
    biases: Option<(Vec<f32>, usize)>,
}

/// [`Seen`] for sequences of one pass.
pub(crate) struct SeenHere<'a> {
    seen: &'a Seen,
    tables: Vec<Arc<Tables>>,
}

impl Seen {
    fn load(description: &Description) -> Result<Self, ModelError> {
        let config = description.config();
        let details = &config.details;
        let mut rotations: Vec<(Rope, Rotations)> = Vec::new();
        for rope in [details.full.rotary, details.local.rotary]
            .into_iter()
            .flatten()
        {
            if rotations.iter().all(|(known, _)| *known != rope) {
                rotations.push((rope, Rotations::new(rope, config.head_dim())));
            }
        }
        let biases = description.relative_bias().map(|table| {
            let heads = config.heads;
            let table = description
                .weights()
                .matrix(&table.name, table.rows, heads)?;
            Ok::<_, ModelError>(biases_by_distance(&table, heads))
        });
        Ok(Self {
            rotations,
            biases: biases.transpose()?,
        })
    }

    fn here(&self, packed: &Packed) -> SeenHere<'_> {
        let longest = packed.starts.windows(2).map(|ends| ends[1] - ends[0]);
        let longest = longest.max().unwrap_or_default();
        let rotations = self.rotations.iter();
        SeenHere {
            seen: self,
            tables: rotations.map(|(_, it)| it.tables(longest)).collect(),
        }
    }
}

impl SeenHere<'_> {
    /// What attention of a layer of this span sees.
    pub(crate) fn kind(&self, span: Span) -> AttentionKind<'_> {
        let rotations = self.seen.rotations.iter().zip(&self.tables);
        let mut rotations = rotations.map(|((rope, _), tables)| (*rope, tables));
        let tables = span
            .rotary
            .and_then(|rope| rotations.find(|(known, _)| *known == rope));
        AttentionKind {
            rotary: tables.map(|(_, tables)| Rotary {
                cos: &tables.cos,
                sin: &tables.sin,
            }),
            window: span.window,
            bias: self
                .seen
                .biases
                .as_ref()
                .map(|(table, reach)| RelativeBias {
                    table,
                    reach: *reach,
                }),
        }
    }
}

/// What is made of the last layer's output for the head.
struct Pooling {
    norm: Option<Norm>,
    /// The mean of a sequence's tokens, else its first.
    mean: bool,
}

impl Pooling {
    /// Of all tokens, or of the first of each sequence where those are what is taken:
    /// `[sequences, hidden]`.
    fn apply(&self, mut hidden: Vec<f32>, starts: &[usize], width: usize) -> Vec<f32> {
        if let Some(norm) = &self.norm {
            norm.apply(&mut hidden);
        }
        if !self.mean {
            return hidden;
        }
        let mut means = Vec::with_capacity((starts.len() - 1) * width);
        for ends in starts.windows(2) {
            let mut sums = vec![0f64; width];
            for row in hidden[ends[0] * width..ends[1] * width].chunks_exact(width) {
                sums.iter_mut()
                    .zip(row)
                    .for_each(|(sum, x)| *sum += f64::from(*x));
            }
            let tokens = (ends[1] - ends[0]) as f64;
            // A mean of f32 values is as near one as f32 can tell.
            #[allow(clippy::cast_possible_truncation)]
            means.extend(sums.iter().map(|sum| (sum / tokens) as f32));
        }
        means
    }
}

/// Where a matrix's inputs come from, in a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Site {
    Qkv,
    AttentionOut,
    Up,
    Down,
}

/// Sees what goes on in the layers, for calibration.
pub(crate) trait Observer {
    /// The input of one of the current layer's projections, `[tokens, width]`.
    fn input(&mut self, site: Site, x: &Tensor) -> Result<(), ModelError>;
    /// The layer has been computed: its projections in the order of [`Site`], and gamma and beta of
    /// its two norms, of which the first may not be there.
    fn layer(
        &mut self,
        index: usize,
        projections: [&Projection; 4],
        norms: [Option<(&[f32], &[f32])>; 2],
    ) -> Result<(), ModelError>;
}

impl Encoder {
    /// Layers on `gpu` where there is one, of the packed form where the weights are packed, else of
    /// f32.
    pub(crate) fn load(
        description: &Description,
        kernels: Kernels,
        gpu: Option<&Gpu>,
    ) -> Result<Self, ModelError> {
        let (config, weights) = (description.config(), description.weights());
        let layers = match gpu {
            #[cfg(feature = "cuda")]
            Some(gpu) if gpu.lacks_kernels(config).is_none() => {
                let encoder = fused::Encoder::load(description, gpu.precision);
                Layers::Fused(Box::new(encoder.map_err(gpu::advised)?))
            }
            #[cfg(any(test, feature = "cuda"))]
            Some(gpu) => {
                if let Some(reason) = gpu.lacks_plain() {
                    return Err(ModelError::Compute(reason));
                }
                let (device, dtype) = (&gpu.device, gpu.dtype());
                let encoder = device::Encoder::load(description, device, dtype);
                Layers::Device(encoder.map_err(gpu::advised)?)
            }
            _ if weights.manifest().is_some() => {
                Layers::Int8(int8::Layers::load(description, kernels)?)
            }
            _ => Layers::F32(F32Layers {
                layers: (0..config.layers)
                    .map(|index| Layer::load(description, kernels, index))
                    .collect::<Result<_, _>>()?,
                kernels,
                heads: config.heads,
                head_dim: config.head_dim(),
            }),
        };
        let norm = description.final_norm();
        let norm = norm.map(|norm| Norm::load(weights, &norm, kernels));
        Ok(Self {
            embeddings: Embeddings::load(description, kernels)?,
            seen: Seen::load(description)?,
            pooling: Pooling {
                norm: norm.transpose()?,
                mean: description.mean(),
            },
            layers,
        })
    }

    /// Whether our own CUDA kernels compute.
    pub(crate) fn fused(&self) -> bool {
        #[cfg(feature = "cuda")]
        return matches!(self.layers, Layers::Fused(_));
        #[cfg(not(feature = "cuda"))]
        false
    }

    /// One logit for each sequence, by `head` where the layers have none of their own.
    pub(crate) fn logits(&self, packed: &Packed, head: &Head) -> Result<Vec<f32>, ModelError> {
        #[cfg(feature = "cuda")]
        if let Layers::Fused(encoder) = &self.layers {
            return encoder.logits(packed, &self.embeddings.positions(packed)?);
        }
        head.forward(&self.forward(packed)?)
    }

    /// Bounds the scores of a tile of a GPU's attention.
    #[cfg(test)]
    pub(crate) fn limit_scores(&mut self, most: usize) {
        if let Layers::Device(encoder) = &mut self.layers {
            encoder.max_scores = most;
        }
    }

    /// The matrices of a packed model; none of any other.
    pub(crate) fn tunables(&mut self) -> Vec<int8::Tunable<'_>> {
        match &mut self.layers {
            Layers::Int8(layers) => layers.tunables(),
            _ => Vec::new(),
        }
    }

    /// What the head takes of each sequence: `[sequences, hidden]`.
    fn forward(&self, packed: &Packed) -> Result<Tensor, ModelError> {
        let positions = self.embeddings.positions(packed)?;
        let embedded = || self.embeddings.forward(packed, &positions);
        let here = self.seen.here(packed);
        match &self.layers {
            Layers::F32(layers) => {
                let hidden = rows_of(embedded()?, self.embeddings.hidden)?;
                let hidden = layers.forward(hidden, packed, &here, self.pooling.mean, None)?;
                self.pooled(hidden.flatten_all()?.to_vec1()?, packed)
            }
            Layers::Int8(layers) => {
                let (starts, all) = (&packed.starts, self.pooling.mean);
                let hidden = layers.forward(0..layers.count(), embedded()?, starts, &here, all);
                self.pooled(hidden, packed)
            }
            #[cfg(any(test, feature = "cuda"))]
            Layers::Device(encoder) => encoder.forward(packed, &positions, &here),
            #[cfg(feature = "cuda")]
            Layers::Fused(_) => Err(ModelError::Compute("the head is on the GPU".into())),
        }
    }

    /// The logits of a packed model with one matrix at other levels, each matrix in turn in the
    /// order of [`Self::tunables`], told to `see`. Layers before the matrix's own are computed once
    /// for all.
    pub(crate) fn logits_with_each(
        &mut self,
        packed: &Packed,
        head: &Head,
        levels: Levels,
        see: &mut dyn FnMut(Vec<f32>),
    ) -> Result<(), ModelError> {
        let Self {
            embeddings,
            seen,
            layers: Layers::Int8(layers),
            pooling,
        } = self
        else {
            return Err(ModelError::Compute("the model is not packed".into()));
        };
        let positions = embeddings.positions(packed)?;
        let mut hidden = embeddings.forward(packed, &positions)?;
        let here = seen.here(packed);
        let (starts, width, count) = (&packed.starts, embeddings.hidden, layers.count());
        for layer in 0..count {
            for matrix in layers.matrices_of(layer) {
                let kept = layers.exchange_levels(matrix, levels);
                let (hidden, all) = (hidden.clone(), pooling.mean);
                let got = layers.forward(layer..count, hidden, starts, &here, all);
                layers.exchange_levels(matrix, kept);
                let pooled = rows_of(pooling.apply(got, starts, width), width)?;
                see(head.forward(&pooled)?);
            }
            if layer + 1 < count {
                hidden = layers.forward(layer..layer + 1, hidden, starts, &here, true);
            }
        }
        Ok(())
    }

    fn pooled(&self, hidden: Vec<f32>, packed: &Packed) -> Result<Tensor, ModelError> {
        let width = self.embeddings.hidden;
        rows_of(self.pooling.apply(hidden, &packed.starts, width), width)
    }

    /// [`Self::forward`] of f32 layers, all tokens to the end, told to `observer`. Fails on others.
    pub(crate) fn forward_observed(
        &self,
        packed: &Packed,
        observer: &mut dyn Observer,
    ) -> Result<Tensor, ModelError> {
        let Layers::F32(layers) = &self.layers else {
            return Err(ModelError::Compute("the model is packed already".into()));
        };
        let positions = self.embeddings.positions(packed)?;
        let hidden = self.embeddings.forward(packed, &positions)?;
        let hidden = rows_of(hidden, self.embeddings.hidden)?;
        let here = self.seen.here(packed);
        let mut hidden = layers.forward(hidden, packed, &here, true, Some(observer))?;
        if !self.pooling.mean {
            hidden = first_tokens(&hidden, packed)?;
        }
        self.pooled(hidden.flatten_all()?.to_vec1()?, packed)
    }
}

impl F32Layers {
    /// The last layer's output: of all tokens, or of each sequence's first.
    fn forward(
        &self,
        mut hidden: Tensor,
        packed: &Packed,
        here: &SeenHere,
        all: bool,
        mut observer: Option<&mut dyn Observer>,
    ) -> Result<Tensor, ModelError> {
        let see = |site, x: &Tensor, observer: &mut Option<&mut dyn Observer>| {
            observer.as_mut().map_or(Ok(()), |it| it.input(site, x))
        };
        for (index, layer) in self.layers.iter().enumerate() {
            let attention = Attention {
                kernels: self.kernels,
                heads: self.heads,
                head_dim: self.head_dim,
                starts: &packed.starts,
                kind: here.kind(layer.span),
            };
            let input = layer.attention.input(&hidden)?;
            see(Site::Qkv, &input, &mut observer)?;
            let qkv = input.apply_op1_no_bwd(&layer.qkv)?;
            let mut context = qkv.apply_op1_no_bwd(&attention)?;
            if index + 1 == self.layers.len() && !all {
                // Only first tokens are read from here on, and nothing after attention mixes
                // tokens: for them alone the rest of the layer is computed.
                context = first_tokens(&context, packed)?;
                hidden = first_tokens(&hidden, packed)?;
            }
            see(Site::AttentionOut, &context, &mut observer)?;
            let attended = context.apply_op1_no_bwd(&layer.attention_out)?;
            attended.inplace_op2(&hidden, &layer.attention.join)?;
            let input = layer.feed.input(&attended)?;
            see(Site::Up, &input, &mut observer)?;
            let mut inner = input.apply_op1_no_bwd(&layer.up)?;
            if let Some(gate) = &layer.gate {
                inner = inner.apply_op1_no_bwd(gate)?;
            }
            see(Site::Down, &inner, &mut observer)?;
            hidden = inner.apply_op1_no_bwd(&layer.down)?;
            hidden.inplace_op2(&attended, &layer.feed.join)?;
            if let Some(observer) = &mut observer {
                observer.layer(
                    index,
                    [&layer.qkv, &layer.attention_out, &layer.up, &layer.down],
                    [layer.attention.norm(), layer.feed.norm()],
                )?;
            }
        }
        Ok(hidden)
    }
}

fn rows_of(values: Vec<f32>, width: usize) -> Result<Tensor, ModelError> {
    let rows = values.len() / width;
    Ok(Tensor::from_vec(values, (rows, width), &Device::Cpu)?)
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
    positions: Option<Table>,
    segments: Option<Table>,
    norm: Norm,
    /// To the layers' width, where that is another.
    projection: Option<Projection>,
    /// The layers' width.
    hidden: usize,
    /// Row of a sequence's first position.
    first: usize,
    /// Padding token of families whose positions are counted over the other tokens.
    pad: Option<u32>,
    /// Segments that there may be, and the longest sequence.
    segment_rows: usize,
    longest: usize,
}

impl Embeddings {
    fn load(description: &Description, kernels: Kernels) -> Result<Self, ModelError> {
        let (config, weights) = (description.config(), description.weights());
        let width = config.embedding_size;
        let table = |spec: TableSpec| weights.table(&spec.name, spec.rows, width);
        let (first, pad) = match config.details.positions {
            Positions::Table { first, pad } => (first, pad),
            Positions::Rotary => (0, None),
        };
        let projection = description
            .embedding_projection()
            .map(|spec| Projection::load(weights, &spec, After::Bias, kernels));
        Ok(Self {
            words: table(description.words())?,
            positions: description.positions().map(table).transpose()?,
            segments: description.segments().map(table).transpose()?,
            norm: Norm::load(weights, &description.embedding_norm(), kernels)?,
            projection: projection.transpose()?,
            hidden: config.hidden_size,
            first,
            pad,
            segment_rows: config.type_vocab_size,
            longest: config.max_length(),
        })
    }

    /// `[tokens, hidden]`, row-major; `positions` are those of [`Self::positions`].
    fn forward(&self, packed: &Packed, positions: &[usize]) -> Result<Vec<f32>, ModelError> {
        let width = self.norm.gamma.len();
        let row = |&id: &u32| id as usize..id as usize + 1;
        self.words.expect(packed.ids.iter().map(row));
        if let Some(table) = &self.positions {
            let last = positions.iter().max().copied().unwrap_or_default();
            table.expect(std::iter::once(0..last + 1));
        }
        let mut hidden = vec![0.0f32; packed.tokens() * width];
        hidden.par_chunks_mut(width).enumerate().for_each_init(
            || vec![0.0f32; width],
            |part, (token, out)| {
                self.words.read_row(packed.ids[token] as usize, out);
                let mut add = |table: &Option<Table>, row: usize| {
                    if let Some(table) = table {
                        table.read_row(row, part);
                        out.iter_mut().zip(part.iter()).for_each(|(o, p)| *o += p);
                    }
                };
                add(&self.segments, packed.type_ids[token] as usize);
                add(&self.positions, positions[token]);
            },
        );
        self.norm.apply(&mut hidden);
        let Some(projection) = &self.projection else {
            return Ok(hidden);
        };
        let hidden = rows_of(hidden, width)?.apply_op1_no_bwd(projection)?;
        Ok(hidden.flatten_all()?.to_vec1()?)
    }

    /// Position of every token, once all ids and segments are found to have an embedding. RoBERTa
    /// counts from `pad + 1`, gives a padding token (which a text can contain literally) the
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
            if segment as usize >= self.segment_rows {
                return beyond("segment", segment, self.segment_rows);
            }
        }
        let mut positions = Vec::with_capacity(packed.tokens());
        for bounds in packed.starts.windows(2) {
            let mut next = self.first;
            for &id in &packed.ids[bounds[0]..bounds[1]] {
                match self.pad {
                    Some(pad) if pad == id => positions.push(pad as usize),
                    _ => {
                        positions.push(next);
                        next += 1;
                    }
                }
            }
            if next - self.first > self.longest {
                return Err(ModelError::Compute(format!(
                    "a sequence of {} tokens exceeds the positions, of which there are {}",
                    bounds[1] - bounds[0],
                    self.longest
                )));
            }
        }
        Ok(positions)
    }
}

struct Layer {
    qkv: Projection,
    attention_out: Projection,
    attention: SubLayer,
    up: Projection,
    gate: Option<Gate>,
    down: Projection,
    feed: SubLayer,
    span: Span,
}

/// Where a sub-layer's norm is: before it, or in the [`Join`] behind it.
struct SubLayer {
    before: Option<Norm>,
    join: Join,
}

impl SubLayer {
    /// What the sub-layer computes with.
    fn input(&self, hidden: &Tensor) -> Result<Tensor, ModelError> {
        match &self.before {
            Some(norm) => Ok(hidden.apply_op1_no_bwd(norm)?),
            None => Ok(hidden.clone()),
        }
    }

    fn norm(&self) -> Option<(&[f32], &[f32])> {
        let norm = self.before.as_ref().or(self.join.norm.as_ref());
        norm.map(|norm| (&norm.gamma[..], &norm.beta[..]))
    }
}

impl Layer {
    fn load(description: &Description, kernels: Kernels, index: usize) -> Result<Self, ModelError> {
        let weights = description.weights();
        let spec: LayerSpec = description.layer(index);
        let projection = |spec, after| Projection::load(weights, spec, after, kernels);
        let sub_layer = |norm: Option<&NormSpec>, last: &Projection| {
            let norm = norm.map(|norm| Norm::load(weights, norm, kernels));
            let norm = norm.transpose()?;
            let (before, norm) = if spec.norm_first {
                (norm, None)
            } else {
                (None, norm)
            };
            let bias = last.bias().clone();
            let join = Join { bias, norm };
            Ok::<_, ModelError>(SubLayer { before, join })
        };
        let attention_out = projection(&spec.attention_out, After::Nothing)?;
        let down = projection(&spec.down, After::Nothing)?;
        let inner = spec.down.k;
        Ok(Self {
            qkv: projection(&spec.qkv, After::Bias)?,
            attention: sub_layer(spec.attention_norm.as_ref(), &attention_out)?,
            attention_out,
            up: projection(
                &spec.up,
                if spec.gated {
                    After::Bias
                } else {
                    After::BiasGelu
                },
            )?,
            gate: spec.gated.then_some(Gate { kernels, inner }),
            feed: sub_layer(Some(&spec.output_norm), &down)?,
            down,
            span: spec.span,
        })
    }
}
