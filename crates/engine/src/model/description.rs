//! The description of a model's layers and their tensors: made of a configuration when a model
//! is loaded.
//!
//! Here end the families: the encoders and the head follow this description, whosever names are in
//! it. A packed file has the names of BERT's layers for every family, behind its own first part.

use std::ops::Range;

use super::config::{Activation, Family, ModelConfig, Positions, Span};
use super::modules::Step;
use crate::error::ModelError;
use crate::weights::{Floats, Weights};

/// The projections of a layer that are packed: what a packed file calls them.
pub(super) const QKV: &str = "attention.self.qkv";
pub(super) const ATTENTION_OUT: &str = "attention.output.dense";
pub(super) const UP: &str = "intermediate.dense";
pub(super) const DOWN: &str = "output.dense";
/// The norms of its two sub-layers there.
pub(super) const ATTENTION_NORM: &str = "attention.output.LayerNorm";
pub(super) const OUTPUT_NORM: &str = "output.LayerNorm";

/// Buckets of distances with a bias of their own, and from where on all are in the last.
const BUCKETS: usize = 32;
const FURTHEST: usize = 128;

pub(crate) struct Description<'a> {
    config: &'a ModelConfig,
    weights: &'a Weights,
    /// First part of the encoder's tensor names, with its dot; empty where the file has none.
    prefix: &'static str,
}

/// A table of embeddings.
#[derive(Debug, Clone)]
pub(super) struct TableSpec {
    pub name: String,
    pub rows: usize,
}

/// A linear layer: the parts of its output, in their order.
#[derive(Debug, Clone)]
pub(super) struct LinearSpec {
    pub parts: Vec<Part>,
    /// Channels of a part, and inputs.
    pub n: usize,
    pub k: usize,
    pub bias: bool,
}

/// Rows of a tensor. `name` is without `.weight` and `.bias`.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub name: String,
    pub rows: Range<usize>,
    /// How many the tensor has.
    pub of: usize,
}

#[derive(Debug, Clone)]
pub(super) struct NormSpec {
    pub name: String,
    pub width: usize,
    pub bias: bool,
    pub eps: f32,
}

/// A layer: attention, then a feed-forward network, each with a residual connection around it.
#[derive(Debug, Clone)]
pub(super) struct LayerSpec {
    /// What a packed file puts before its names.
    pub packed: String,
    /// Queries, keys and values, in three parts.
    pub qkv: LinearSpec,
    pub attention_out: LinearSpec,
    /// Where it is gated, what is activated and then the gate, in two parts.
    pub up: LinearSpec,
    pub down: LinearSpec,
    pub gated: bool,
    /// Whether the norms are before the sub-layers, else behind them. Before the first there may be
    /// none.
    pub norm_first: bool,
    pub attention_norm: Option<NormSpec>,
    pub output_norm: NormSpec,
    pub span: Span,
}

/// A step of the head; the last is a layer with one output.
#[derive(Debug, Clone)]
pub(super) enum HeadStep {
    Dense(LinearSpec, Activation),
    Norm(NormSpec),
}

impl NormSpec {
    /// Gamma and beta; zeros where there is no beta.
    pub(crate) fn load(&self, weights: &Weights) -> Result<(Floats, Floats), ModelError> {
        self.load_as(weights, &self.name, self.bias)
    }

    /// The same by another name.
    pub(crate) fn load_as(
        &self,
        weights: &Weights,
        name: &str,
        bias: bool,
    ) -> Result<(Floats, Floats), ModelError> {
        let vector = |part| weights.vector(&format!("{name}.{part}"), self.width);
        let beta = if bias {
            vector("bias")?
        } else {
            Floats::zeros(self.width)
        };
        Ok((vector("weight")?, beta))
    }
}

impl LinearSpec {
    fn one(name: String, n: usize, k: usize, bias: bool) -> Self {
        Self::rows(vec![name], n, k, bias)
    }

    /// A tensor for each part.
    fn rows(names: Vec<String>, n: usize, k: usize, bias: bool) -> Self {
        let part = |name| Part {
            name,
            rows: 0..n,
            of: n,
        };
        let parts = names.into_iter().map(part).collect();
        Self { parts, n, k, bias }
    }

    /// One tensor for all parts, which lie in it in this order.
    fn fused(name: &str, order: &[usize], n: usize, k: usize, bias: bool) -> Self {
        let part = |place: &usize| Part {
            name: name.to_owned(),
            rows: place * n..(place + 1) * n,
            of: order.len() * n,
        };
        let parts = order.iter().map(part).collect();
        Self { parts, n, k, bias }
    }

    /// Channels of all parts together, and inputs.
    pub(crate) fn shape(&self) -> (usize, usize) {
        (self.n * self.parts.len(), self.k)
    }

    /// Weight and bias of each part; zeros where there are no biases.
    pub(crate) fn load(&self, weights: &Weights) -> Result<Vec<(Floats, Floats)>, ModelError> {
        let mut last: Option<(&str, Floats, Floats)> = None;
        let mut parts = Vec::with_capacity(self.parts.len());
        for Part { name, rows, of } in &self.parts {
            let (weight, bias) = match &last {
                Some((loaded, weight, bias)) if loaded == name => (weight.clone(), bias.clone()),
                _ => {
                    let bias = if self.bias {
                        weights.vector(&format!("{name}.bias"), *of)?
                    } else {
                        Floats::zeros(*of)
                    };
                    let weight = weights.matrix(&format!("{name}.weight"), *of, self.k)?;
                    last = Some((name, weight.clone(), bias.clone()));
                    (weight, bias)
                }
            };
            let k = self.k;
            parts.push((
                weight.part(rows.start * k..rows.end * k),
                bias.part(rows.clone()),
            ));
        }
        Ok(parts)
    }

    /// Names of its tensors, each once, with their rows.
    pub(crate) fn tensors(&self) -> Vec<(&str, usize)> {
        let mut tensors: Vec<(&str, usize)> = Vec::new();
        for part in &self.parts {
            if tensors.iter().all(|(name, _)| *name != part.name) {
                tensors.push((&part.name, part.of));
            }
        }
        tensors
    }
}

/// Tensor names of one family, without the encoder's prefix.
struct Names {
    words: &'static str,
    embedding_norm: &'static str,
    layers: &'static str,
    /// Each or all in one.
    qkv: &'static [&'static str],
    attention_out: &'static str,
    attention_norm: &'static str,
    up: &'static str,
    down: &'static str,
    output_norm: &'static str,
}

const BERT: Names = Names {
    words: "embeddings.word_embeddings",
    embedding_norm: "embeddings.LayerNorm",
    layers: "encoder.layer",
    qkv: &[
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
    ],
    attention_out: ATTENTION_OUT,
    attention_norm: ATTENTION_NORM,
    up: UP,
    down: DOWN,
    output_norm: OUTPUT_NORM,
};

const FLASH: Names = Names {
    embedding_norm: "emb_ln",
    layers: "encoder.layers",
    qkv: &["mixer.Wqkv"],
    attention_out: "mixer.out_proj",
    attention_norm: "norm1",
    up: "mlp.fc1",
    down: "mlp.fc2",
    output_norm: "norm2",
    ..BERT
};

const DISTIL_BERT: Names = Names {
    layers: "transformer.layer",
    qkv: &["attention.q_lin", "attention.k_lin", "attention.v_lin"],
    attention_out: "attention.out_lin",
    attention_norm: "sa_layer_norm",
    up: "ffn.lin1",
    down: "ffn.lin2",
    output_norm: "output_layer_norm",
    ..BERT
};

const MP_NET: Names = Names {
    qkv: &["attention.attn.q", "attention.attn.k", "attention.attn.v"],
    attention_out: "attention.attn.o",
    attention_norm: "attention.LayerNorm",
    ..BERT
};

const GTE: Names = Names {
    qkv: &["attention.qkv_proj"],
    attention_out: "attention.o_proj",
    attention_norm: "attn_ln",
    up: "mlp.up_gate_proj",
    down: "mlp.down_proj",
    output_norm: "mlp_ln",
    ..BERT
};

const GTE_SPLIT: Names = Names {
    qkv: &["attention.q_proj", "attention.k_proj", "attention.v_proj"],
    ..GTE
};

const MODERN_BERT: Names = Names {
    words: "embeddings.tok_embeddings",
    embedding_norm: "embeddings.norm",
    layers: "layers",
    qkv: &["attn.Wqkv"],
    attention_out: "attn.Wo",
    attention_norm: "attn_norm",
    up: "mlp.Wi",
    down: "mlp.Wo",
    output_norm: "mlp_norm",
};

impl Family {
    fn names(self, split_qkv: bool) -> &'static Names {
        match self {
            Self::Bert | Self::Roberta | Self::XlmRoberta | Self::Camembert | Self::Electra => {
                &BERT
            }
            Self::XlmRobertaFlash => &FLASH,
            Self::DistilBert => &DISTIL_BERT,
            Self::MpNet => &MP_NET,
            Self::Gte if split_qkv => &GTE_SPLIT,
            Self::Gte => &GTE,
            Self::ModernBert => &MODERN_BERT,
        }
    }

    /// First part of the encoder's tensor names in a model with a head.
    fn prefix(self) -> &'static str {
        match self {
            Self::Bert => "bert.",
            Self::Roberta | Self::XlmRoberta | Self::XlmRobertaFlash | Self::Camembert => {
                "roberta."
            }
            Self::Electra => "electra.",
            Self::DistilBert => "distilbert.",
            Self::MpNet => "mpnet.",
            Self::Gte => "new.",
            Self::ModernBert => "model.",
        }
    }
}

impl<'a> Description<'a> {
    pub(crate) fn new(config: &'a ModelConfig, weights: &'a Weights) -> Self {
        let names = config.family.names(config.details.split_qkv);
        let prefix = config.family.prefix();
        // A model without a head is saved without the prefix.
        let word = |prefix: &str| weights.contains(&format!("{prefix}{}.weight", names.words));
        Self {
            config,
            weights,
            prefix: if !word(prefix) && word("") {
                ""
            } else {
                prefix
            },
        }
    }

    pub(crate) fn config(&self) -> &'a ModelConfig {
        self.config
    }

    pub(crate) fn weights(&self) -> &'a Weights {
        self.weights
    }

    fn names(&self) -> &'static Names {
        self.config.family.names(self.config.details.split_qkv)
    }

    fn table(&self, name: &str, rows: usize) -> TableSpec {
        let name = format!("{}{name}.weight", self.prefix);
        TableSpec { name, rows }
    }

    pub(super) fn words(&self) -> TableSpec {
        self.table(self.names().words, self.config.vocab_size)
    }

    pub(super) fn positions(&self) -> Option<TableSpec> {
        let rows = self.config.position_rows;
        match self.config.details.positions {
            Positions::Table { .. } => Some(self.table("embeddings.position_embeddings", rows)),
            Positions::Rotary => None,
        }
    }

    pub(super) fn segments(&self) -> Option<TableSpec> {
        let rows = self.config.type_vocab_size;
        let table = || self.table("embeddings.token_type_embeddings", rows);
        self.config.details.segments.then(table)
    }

    fn norm_of(&self, name: String, width: usize, bias: bool) -> NormSpec {
        NormSpec {
            name,
            width,
            bias,
            eps: self.config.layer_norm_eps,
        }
    }

    fn norm(&self, name: &str) -> NormSpec {
        let name = format!("{}{name}", self.prefix);
        let bias = self.config.details.biases.norms;
        self.norm_of(name, self.config.hidden_size, bias)
    }

    pub(super) fn embedding_norm(&self) -> NormSpec {
        NormSpec {
            width: self.config.embedding_size,
            ..self.norm(self.names().embedding_norm)
        }
    }

    /// From the embeddings' width to the layers'.
    pub(super) fn embedding_projection(&self) -> Option<LinearSpec> {
        let (n, k) = (self.config.hidden_size, self.config.embedding_size);
        let name = format!("{}embeddings_project", self.prefix);
        (n != k).then(|| LinearSpec::one(name, n, k, true))
    }

    /// The norm behind all layers, where sub-layers have theirs before them.
    pub(super) fn final_norm(&self) -> Option<NormSpec> {
        let norm = || self.norm("final_norm");
        self.config.details.norm_first.then(norm)
    }

    pub(super) fn layer(&self, index: usize) -> LayerSpec {
        let names = self.names();
        let details = &self.config.details;
        let (hidden, inner) = (self.config.hidden_size, self.config.intermediate_size);
        let packed = format!("{}{}.{index}", self.prefix, names.layers);
        let name = |part: &str| format!("{packed}.{part}");
        let norm = |part: &str| self.norm_of(name(part), hidden, details.biases.norms);
        let biases = details.biases;
        let qkv = match names.qkv {
            [one] => LinearSpec::fused(&name(one), &[0, 1, 2], hidden, hidden, biases.attention),
            parts => {
                let parts = parts.iter().map(|part| name(part)).collect();
                LinearSpec::rows(parts, hidden, hidden, biases.attention)
            }
        };
        let up = name(names.up);
        let up = match (details.gated, details.norm_first) {
            (false, _) => LinearSpec::one(up, inner, hidden, biases.up),
            (true, true) => LinearSpec::fused(&up, &[0, 1], inner, hidden, biases.up),
            // GTE's gate comes first.
            (true, false) => LinearSpec::fused(&up, &[1, 0], inner, hidden, biases.up),
        };
        let first_norm = !(details.norm_first && index == 0);
        LayerSpec {
            qkv,
            attention_out: LinearSpec::one(
                name(names.attention_out),
                hidden,
                hidden,
                biases.attention,
            ),
            up,
            down: LinearSpec::one(name(names.down), hidden, inner, biases.down),
            gated: details.gated,
            norm_first: details.norm_first,
            attention_norm: first_norm.then(|| norm(names.attention_norm)),
            output_norm: norm(names.output_norm),
            span: self.config.span(index),
            packed,
        }
    }

    /// Numbers in the model's tensors.
    pub(crate) fn parameters(&self) -> u64 {
        let table = |table: Option<TableSpec>, width: usize| table.map_or(0, |it| it.rows * width);
        let linear =
            |spec: &LinearSpec| spec.parts.len() * spec.n * (spec.k + usize::from(spec.bias));
        let norm = |spec: &NormSpec| spec.width * (1 + usize::from(spec.bias));
        let width = self.config.embedding_size;
        let layer = |index| {
            let layer = self.layer(index);
            let projections = [&layer.qkv, &layer.attention_out, &layer.up, &layer.down];
            projections.map(linear).iter().sum::<usize>()
                + layer.attention_norm.as_ref().map_or(0, norm)
                + norm(&layer.output_norm)
        };
        let step = |step: &HeadStep| match step {
            HeadStep::Dense(spec, _) => linear(spec),
            HeadStep::Norm(spec) => norm(spec),
        };
        let all = table(Some(self.words()), width)
            + table(self.positions(), width)
            + table(self.segments(), width)
            + table(self.relative_bias(), self.config.heads)
            + norm(&self.embedding_norm())
            + self.embedding_projection().as_ref().map_or(0, linear)
            + (0..self.config.layers).map(layer).sum::<usize>()
            + self.final_norm().as_ref().map_or(0, norm)
            + self.head().iter().map(step).sum::<usize>();
        all as u64
    }

    /// Name and rows of the table of relative positions' biases, `[buckets, heads]`.
    pub(super) fn relative_bias(&self) -> Option<TableSpec> {
        let table = || self.table("encoder.relative_attention_bias", BUCKETS);
        (self.config.family == Family::MpNet).then(table)
    }

    /// Whether the head takes the mean of all tokens, else the first.
    pub(super) fn mean(&self) -> bool {
        match &self.config.modules {
            Some(modules) => modules.mean,
            None => self.config.details.mean,
        }
    }

    pub(super) fn head(&self) -> Vec<HeadStep> {
        let hidden = self.config.hidden_size;
        let details = &self.config.details;
        if let Some(modules) = &self.config.modules {
            let step = |step: &Step| match step {
                Step::Dense {
                    name,
                    outputs,
                    inputs,
                    bias,
                    activation,
                } => HeadStep::Dense(
                    LinearSpec::one(name.clone(), *outputs, *inputs, *bias),
                    *activation,
                ),
                Step::Norm { name, width } => HeadStep::Norm(NormSpec {
                    name: name.clone(),
                    width: *width,
                    bias: true,
                    // PyTorch's own.
                    eps: 1e-5,
                }),
            };
            return modules.steps.iter().map(step).collect();
        }
        let prefixed = |name: &str| format!("{}{name}", self.prefix);
        let (dense, out) = match self.config.family {
            Family::Bert | Family::Gte => (prefixed("pooler.dense"), "classifier"),
            Family::DistilBert => ("pre_classifier".to_owned(), "classifier"),
            Family::ModernBert => ("head.dense".to_owned(), "classifier"),
            _ => ("classifier.dense".to_owned(), "classifier.out_proj"),
        };
        let dense = LinearSpec::one(dense, hidden, hidden, details.biases.head);
        let mut steps = vec![HeadStep::Dense(dense, details.head)];
        if self.config.family == Family::ModernBert {
            let norm = self.norm_of("head.norm".to_owned(), hidden, details.biases.norms);
            steps.push(HeadStep::Norm(norm));
        }
        let out = LinearSpec::one(out.to_owned(), 1, hidden, true);
        steps.push(HeadStep::Dense(out, Activation::None));
        steps
    }
}

/// Biases by distance, `[heads, 2 · reach + 1]` from the furthest key before a query to the
/// furthest behind it, of a table `[buckets, heads]`; and the reach.
pub(super) fn biases_by_distance(table: &[f32], heads: usize) -> (Vec<f32>, usize) {
    let distances = (-FURTHEST.cast_signed()..=FURTHEST.cast_signed()).map(bucket);
    let distances: Vec<usize> = distances.collect();
    let of_head = |head| distances.iter().map(move |bucket| bucket * heads + head);
    let by_distance = (0..heads).flat_map(of_head).map(|at| table[at]);
    (by_distance.collect(), FURTHEST)
}

/// The bucket of a key that is so far behind its query: each near distance has one, and each range
/// of further ones, on a logarithmic scale.
fn bucket(distance: isize) -> usize {
    const SIDE: usize = BUCKETS / 2;
    const EXACT: usize = SIDE / 2;
    let far = distance.unsigned_abs();
    let within = if far < EXACT {
        far
    } else {
        // In f32, as the reference.
        let ratio = (far as f32 / EXACT as f32).ln() / (FURTHEST as f32 / EXACT as f32).ln();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let step = (ratio * (SIDE - EXACT) as f32) as usize;
        (EXACT + step).min(SIDE - 1)
    };
    within + if distance > 0 { SIDE } else { 0 }
}
