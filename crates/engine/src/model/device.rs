//! The encoder over candle's own tensor operations, which every device of candle's has: what a GPU
//! computes.
//!
//! It follows the same [`Description`] as the CPU's encoders, so it computes every family. Weights
//! lie on the device in the dtype that is computed in. Sums that need more are wider: residuals,
//! layer norms, rotations and softmax are f32 (in the last one candle's kernel adds in f32). Takes
//! packed sequences to what the head takes of each, as f32 in the machine's own memory, where the
//! head is computed. The tests run it on the CPU, against the same logits as the other engines, so
//! that a GPU's share is candle's kernels.

mod attention;
#[cfg(test)]
#[allow(unreachable_pub, reason = "the program's tests share it")]
#[path = "../../../../tests/it/support/families.rs"]
mod families;

use candle_core::{DType, Device, Tensor};
use candle_nn::ops::layer_norm;

use super::blocks::Blocks;
use super::config::Span;
use super::description::{Description, LinearSpec, NormSpec, TableSpec};
use super::encoder::SeenHere;
use super::{Packed, gpu};
use crate::error::ModelError;
use attention::Attention;

/// Residuals, and what is normalised or rotated.
const WIDE: DType = DType::F32;

/// Scores of attention that are there at a time, which takes twice to three times as much memory:
/// 128 MiB each in 16 bits.
const MAX_SCORES: usize = 1 << 26;

/// Sequences whose means are taken by one product.
const MEANS: usize = 64;

pub(crate) struct Encoder {
    device: Device,
    dtype: DType,
    words: Tensor,
    positions: Option<Tensor>,
    segments: Option<Tensor>,
    norm: Norm,
    projection: Option<Linear>,
    layers: Vec<Layer>,
    final_norm: Option<Norm>,
    /// Whether the head takes the mean of all tokens, else the first.
    mean: bool,
    /// What layers see of positions, each kind once.
    spans: Vec<Span>,
    heads: usize,
    head_dim: usize,
    /// Scores of one tile of attention.
    pub(super) max_scores: usize,
}

struct Layer {
    /// Queries, keys and values side by side; queries are divided by the root of the heads' width
    /// already.
    qkv: Linear,
    attention_out: Linear,
    attention: SubLayer,
    up: Linear,
    gated: bool,
    down: Linear,
    feed: SubLayer,
    /// Its place in [`Encoder::spans`].
    span: usize,
}

/// `x · Wᵀ + b`, with a weight of `[n, k]`.
struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    fn forward(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        let product = x.matmul(&self.weight.t()?)?;
        Ok(match &self.bias {
            Some(bias) => product.broadcast_add(bias)?,
            None => product,
        })
    }
}

struct Norm {
    gamma: Tensor,
    beta: Tensor,
    eps: f32,
}

impl Norm {
    fn forward(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        Ok(layer_norm(x, &self.gamma, &self.beta, self.eps)?)
    }
}

/// Where a sub-layer's norm is: before it, or behind the residual connection around it.
struct SubLayer {
    before: Option<Norm>,
    behind: Option<Norm>,
}

impl SubLayer {
    /// What the sub-layer computes with, of the residual.
    fn input(&self, wide: &Tensor, dtype: DType) -> Result<Tensor, ModelError> {
        let input = match &self.before {
            Some(norm) => norm.forward(wide)?,
            None => wide.clone(),
        };
        Ok(input.to_dtype(dtype)?)
    }

    /// The residual after the sub-layer, which gave `out`.
    fn join(&self, out: &Tensor, wide: Tensor) -> Result<Tensor, ModelError> {
        let wide = (out.to_dtype(WIDE)? + wide)?;
        match &self.behind {
            Some(norm) => norm.forward(&wide),
            None => Ok(wide),
        }
    }
}

/// Brings tensors to the device.
struct Loader<'a> {
    description: &'a Description<'a>,
    device: &'a Device,
    dtype: DType,
}

impl Loader<'_> {
    fn tensor(&self, values: &[f32], shape: &[usize], dtype: DType) -> Result<Tensor, ModelError> {
        // Narrowed where it is used: a GPU does that as fast as it is read.
        Ok(Tensor::from_slice(values, shape, self.device)?.to_dtype(dtype)?)
    }

    fn table(&self, TableSpec { name, rows }: TableSpec) -> Result<Tensor, ModelError> {
        let width = self.description.config().embedding_size;
        let values = self.description.weights().matrix(&name, rows, width)?;
        self.tensor(&values, &[rows, width], self.dtype)
    }

    /// The parts' outputs side by side, the first of them multiplied by `first`.
    fn linear(&self, spec: &LinearSpec, first: f32) -> Result<Linear, ModelError> {
        let (mut weights, mut biases) = (Vec::new(), Vec::new());
        let parts = spec.load(self.description.weights())?;
        for (index, (weight, bias)) in parts.iter().enumerate() {
            let factor = f64::from(if index == 0 { first } else { 1.0 });
            let scaled = |values: &[f32], shape: &[usize]| {
                let wide = self.tensor(values, shape, WIDE)?;
                Ok::<_, ModelError>((wide * factor)?.to_dtype(self.dtype)?)
            };
            weights.push(scaled(weight, &[spec.n, spec.k])?);
            if spec.bias {
                biases.push(scaled(bias, &[spec.n])?);
            }
        }
        let biases = spec.bias.then(|| Tensor::cat(&biases, 0));
        Ok(Linear {
            weight: Tensor::cat(&weights, 0)?,
            bias: biases.transpose()?,
        })
    }

    fn norm(&self, spec: &NormSpec) -> Result<Norm, ModelError> {
        let (gamma, beta) = spec.load(self.description.weights())?;
        Ok(Norm {
            gamma: self.tensor(&gamma, &[spec.width], WIDE)?,
            beta: self.tensor(&beta, &[spec.width], WIDE)?,
            eps: spec.eps,
        })
    }

    fn layer(&self, index: usize, spans: &mut Vec<Span>) -> Result<Layer, ModelError> {
        let spec = self.description.layer(index);
        let scale = 1.0 / (self.description.config().head_dim() as f32).sqrt();
        let sub_layer = |norm: Option<&NormSpec>| {
            let norm = norm.map(|norm| self.norm(norm)).transpose()?;
            let (before, behind) = if spec.norm_first {
                (norm, None)
            } else {
                (None, norm)
            };
            Ok::<_, ModelError>(SubLayer { before, behind })
        };
        let known = spans.iter().position(|span| *span == spec.span);
        let span = known.unwrap_or_else(|| {
            spans.push(spec.span);
            spans.len() - 1
        });
        Ok(Layer {
            qkv: self.linear(&spec.qkv, scale)?,
            attention_out: self.linear(&spec.attention_out, 1.0)?,
            attention: sub_layer(spec.attention_norm.as_ref())?,
            up: self.linear(&spec.up, 1.0)?,
            gated: spec.gated,
            down: self.linear(&spec.down, 1.0)?,
            feed: sub_layer(Some(&spec.output_norm))?,
            span,
        })
    }
}

impl Encoder {
    pub(crate) fn load(
        description: &Description,
        device: &Device,
        dtype: DType,
    ) -> Result<Self, ModelError> {
        let load = Loader {
            description,
            device,
            dtype,
        };
        let config = description.config();
        let table = |spec: Option<TableSpec>| spec.map(|it| load.table(it)).transpose();
        let projection = description.embedding_projection();
        let final_norm = description.final_norm();
        let mut spans = Vec::new();
        let layers = (0..config.layers).map(|index| load.layer(index, &mut spans));
        let encoder = Self {
            words: load.table(description.words())?,
            positions: table(description.positions())?,
            segments: table(description.segments())?,
            norm: load.norm(&description.embedding_norm())?,
            projection: projection.map(|it| load.linear(&it, 1.0)).transpose()?,
            layers: layers.collect::<Result<_, _>>()?,
            final_norm: final_norm.map(|it| load.norm(&it)).transpose()?,
            mean: description.mean(),
            spans,
            heads: config.heads,
            head_dim: config.head_dim(),
            max_scores: MAX_SCORES,
            device: device.clone(),
            dtype,
        };
        // Every thread has a CUDA stream of its own: what this one began must be done before
        // another computes with it. A pass stays on one thread, and ends by reading its result.
        device.synchronize()?;
        Ok(encoder)
    }

    /// What the head takes, `[sequences, hidden]` in f32 on the CPU. `positions` has one for each
    /// token; ids, segments and positions are within the tables.
    pub(crate) fn forward(
        &self,
        packed: &Packed,
        positions: &[usize],
        here: &SeenHere,
    ) -> Result<Tensor, ModelError> {
        self.layers(packed, positions, here)
            .map_err(|error| gpu::explained(error, packed.tokens()))
    }

    fn layers(
        &self,
        packed: &Packed,
        positions: &[usize],
        here: &SeenHere,
    ) -> Result<Tensor, ModelError> {
        let positions = rows(positions, &self.device)?;
        let plan =
            |span: &Span| Blocks::plan(&packed.starts, span.window, self.heads, self.max_scores);
        let plans: Vec<Blocks> = self.spans.iter().map(plan).collect();
        let attention = plans.iter().zip(&self.spans).map(|(blocks, span)| {
            let heads = (self.heads, self.head_dim);
            Attention::new(blocks, &here.kind(*span), heads, &positions, self.dtype)
        });
        let attention: Vec<Attention> = attention.collect::<Result<_, _>>()?;
        // The residual, in f32; what is multiplied is narrowed from it.
        let mut wide = self.embed(packed, &positions)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let input = layer.attention.input(&wide, self.dtype)?;
            let qkv = layer.qkv.forward(&input)?;
            let mut context = attention[layer.span].forward(&qkv)?;
            if index + 1 == self.layers.len() && !self.mean {
                // Only first tokens are read from here on, and nothing after attention mixes
                // tokens.
                let first = rows(&packed.starts[..packed.sequences()], &self.device)?;
                context = context.index_select(&first, 0)?;
                wide = wide.index_select(&first, 0)?;
            }
            let out = layer.attention_out.forward(&context)?;
            wide = layer.attention.join(&out, wide)?;
            let inner = layer.up.forward(&layer.feed.input(&wide, self.dtype)?)?;
            let inner = if layer.gated {
                let width = inner.dim(1)? / 2;
                let gate = inner.narrow(1, width, width)?;
                (inner.narrow(1, 0, width)?.gelu_erf()? * gate)?
            } else {
                inner.gelu_erf()?
            };
            wide = layer.feed.join(&layer.down.forward(&inner)?, wide)?;
        }
        if let Some(norm) = &self.final_norm {
            wide = norm.forward(&wide)?;
        }
        if self.mean {
            wide = self.means(&wide, &packed.starts)?;
        }
        Ok(wide.to_device(&Device::Cpu)?)
    }

    /// `[tokens, hidden]`.
    fn embed(&self, packed: &Packed, positions: &Tensor) -> Result<Tensor, ModelError> {
        let looked_up = |table: &Tensor, ids: &Tensor| table.index_select(ids, 0)?.to_dtype(WIDE);
        let ids = |ids: &[u32]| Tensor::from_slice(ids, ids.len(), &self.device);
        let mut sum = looked_up(&self.words, &ids(&packed.ids)?)?;
        if let Some(segments) = &self.segments {
            sum = (sum + looked_up(segments, &ids(&packed.type_ids)?)?)?;
        }
        if let Some(table) = &self.positions {
            sum = (sum + looked_up(table, positions)?)?;
        }
        let normed = self.norm.forward(&sum)?;
        match &self.projection {
            Some(projection) => {
                let projected = projection.forward(&normed.to_dtype(self.dtype)?)?;
                Ok(projected.to_dtype(WIDE)?)
            }
            None => Ok(normed),
        }
    }

    /// The mean of each sequence's tokens, `[sequences, hidden]`: products with a matrix of what
    /// each token counts in it.
    fn means(&self, wide: &Tensor, starts: &[usize]) -> Result<Tensor, ModelError> {
        let lengths: Vec<usize> = starts.windows(2).map(|ends| ends[1] - ends[0]).collect();
        let mut first = 0;
        let means = lengths.chunks(MEANS).map(|lengths| {
            let tokens: usize = lengths.iter().sum();
            let mut shares = vec![0f32; lengths.len() * tokens];
            let mut from = 0;
            for (&length, shares) in lengths.iter().zip(shares.chunks_exact_mut(tokens)) {
                shares[from..from + length].fill(1.0 / length as f32);
                from += length;
            }
            let shares = Tensor::from_vec(shares, (lengths.len(), tokens), &self.device)?;
            let means = shares.matmul(&wide.narrow(0, first, tokens)?)?;
            first += tokens;
            Ok(means)
        });
        let means: Vec<Tensor> = means.collect::<candle_core::Result<_>>()?;
        Ok(Tensor::cat(&means, 0)?)
    }
}

/// Row numbers as an index.
fn rows(rows: &[usize], device: &Device) -> Result<Tensor, ModelError> {
    let rows = rows
        .iter()
        .map(|&row| u32::try_from(row))
        .collect::<Result<Vec<u32>, _>>()
        .map_err(|error| ModelError::Compute(error.to_string()))?;
    Ok(Tensor::new(rows, device)?)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::{Path, PathBuf};

    use kernels::{INT8_LAYOUT, Kernels};
    use serde::Deserialize;

    use super::families::{FAMILIES, FamilyGolden};
    use super::*;
    use crate::model::{CONFIG_FILE, Gpu, Model, ModelConfig};
    use crate::precision::Precision;
    use crate::tokenizer::PairTokenizer;
    use crate::weights::{FORMAT, Manifest, PACKED_FILE, PackedWriter};
    use reranker_domain::{Truncation, sigmoid};

    /// With texts of their own; the others are [`FAMILIES`].
    const GOLDEN: [&str; 3] = ["xlm-roberta", "roberta", "bert"];

    /// Longer sequences are computed in f32 alone.
    const LONG: usize = 600;

    #[derive(Deserialize)]
    struct Golden {
        pairs: Vec<Sequence>,
        raw: Vec<Sequence>,
    }

    /// What PyTorch computed in f32.
    #[derive(Deserialize)]
    struct Sequence {
        input_ids: Vec<u32>,
        token_type_ids: Vec<u32>,
        logit: f32,
    }

    fn root(path: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../..")
            .join(path)
    }

    fn read<T: serde::de::DeserializeOwned>(name: &str) -> T {
        let file = root(&format!("tests/golden/{name}.json"));
        let golden = std::fs::read(file).expect("a golden file");
        serde_json::from_slice(&golden).expect("a golden file")
    }

    fn golden(name: &str) -> (PathBuf, Vec<Sequence>) {
        let folder = root("tests/golden").join(name);
        if GOLDEN.contains(&name) {
            let mut golden: Golden = read(name);
            golden.pairs.append(&mut golden.raw);
            return (folder, golden.pairs);
        }
        let golden: FamilyGolden = read(name);
        let config = ModelConfig::read(&folder.join(CONFIG_FILE)).expect("a configuration");
        assert_eq!(config.max_length(), golden.max_length);
        let sequences = golden.sequences(name, config.vocab_size).into_iter();
        let sequences = sequences.map(|(_, input_ids, token_type_ids, logit)| Sequence {
            input_ids,
            token_type_ids,
            logit,
        });
        (folder, sequences.collect())
    }

    /// The golden models of all families.
    fn all() -> impl Iterator<Item = &'static str> {
        GOLDEN.into_iter().chain(FAMILIES)
    }

    /// The demo model on pairs in many languages, with the logits that the CPU's kernels compute in
    /// f32.
    fn demo() -> (PathBuf, Vec<Sequence>) {
        #[derive(Deserialize)]
        struct Pair {
            query: String,
            passage: String,
        }
        let folder = root("models/demo");
        let tokenizer = PairTokenizer::load(&folder.join("tokenizer.json")).expect("a tokenizer");
        let model = Model::load(&folder, Kernels::detect(), None).expect("the demo model");
        let pairs = std::fs::read_to_string(root("bench/pairs.jsonl")).expect("pairs");
        let sequence = |line: &str| {
            let pair: Pair = serde_json::from_str(line).expect("a pair");
            let query = tokenizer.encode(&pair.query).expect("encodes");
            let passage = tokenizer.encode(&pair.passage).expect("encodes");
            let joined = tokenizer
                .join(&query, &passage, 512, Truncation::LongestFirst)
                .expect("joins");
            let mut sequence = Sequence {
                input_ids: joined.ids,
                token_type_ids: joined.type_ids,
                logit: 0.0,
            };
            sequence.logit = model
                .forward(&pack(std::slice::from_ref(&sequence)))
                .expect("computes")[0];
            sequence
        };
        (folder, pairs.lines().map(sequence).collect())
    }

    fn pack<'s>(sequences: impl IntoIterator<Item = &'s Sequence>) -> Packed {
        let mut packed = Packed::new();
        for sequence in sequences {
            packed.push(&sequence.input_ids, &sequence.token_type_ids);
        }
        packed
    }

    fn load(folder: &Path, precision: Precision) -> Model {
        let gpu = Some(Gpu::stand_in(precision));
        Model::load(folder, Kernels::detect(), gpu).expect("loads")
    }

    #[test]
    fn our_own_kernels_leave_the_other_families_to_candles_operations() {
        let lacking = |name: &str, fused: bool, precision: Precision| {
            let config = ModelConfig::read(&root("tests/golden").join(name).join(CONFIG_FILE));
            let gpu = Gpu {
                fused,
                ..Gpu::stand_in(precision)
            };
            gpu.lacks_kernels(&config.expect("a configuration"))
        };
        for (name, what) in [
            ("gte", "a gated feed-forward network"),
            ("modernbert", "norms before the sub-layers"),
            ("modernbert-cls", "norms before the sub-layers"),
            ("modernbert-modules", "norms before the sub-layers"),
            ("electra", "a projection of the embeddings"),
            ("distilbert", "embeddings without segments"),
            ("mpnet", "a relative position bias"),
        ] {
            let reason = lacking(name, true, Precision::F16).expect(name);
            assert_eq!(reason, format!("they do not compute {what}"), "{name}");
        }
        for name in ["bert", "jina"] {
            let reason = lacking(name, true, Precision::F16).unwrap_or_default();
            assert!(!reason.contains("do not compute"), "{name}: {reason}");
        }
        let reason = lacking("bert", false, Precision::F16).expect("as set");
        assert_eq!(reason, "GPU_KERNELS=plain");
        let reason = lacking("bert", true, Precision::F32).expect("in f32");
        assert!(reason.contains("16 bits"), "{reason}");
    }

    #[test]
    fn in_f32_logits_equal_pytorchs_alone_and_in_any_batch() {
        for name in all() {
            let (folder, sequences) = golden(name);
            let model = load(&folder, Precision::F32);
            assert_eq!(model.precision(), Precision::F32);
            for size in [1, 7, sequences.len()] {
                // The longest, which take long without a GPU, are computed once.
                let all = size == sequences.len();
                let fits = |it: &&Sequence| all || it.input_ids.len() <= LONG;
                let these: Vec<&Sequence> = sequences.iter().filter(fits).collect();
                let mut worst = (0f32, 0);
                for part in these.chunks(size) {
                    let packed = pack(part.iter().copied());
                    let logits = model.forward(&packed).expect("computes");
                    for (sequence, logit) in part.iter().zip(logits) {
                        let difference = (logit - sequence.logit).abs();
                        if difference >= worst.0 {
                            worst = (difference, sequence.input_ids.len());
                        }
                    }
                }
                let (worst, tokens) = worst;
                println!(
                    "{name}, {size} a pass: largest difference {worst:.1e} at {tokens} tokens"
                );
                assert!(
                    worst <= 1e-5,
                    "{name}, {size} a pass, {tokens} tokens: {worst:e}"
                );
            }
        }
    }

    #[test]
    fn in_16_bits_scores_stay_near_those_of_f32() {
        let models = all().map(|name| (name, golden(name)));
        for (name, (folder, mut sequences)) in models.chain([("demo", demo())]) {
            sequences.retain(|sequence| sequence.input_ids.len() <= LONG);
            for (precision, most) in [(Precision::F16, 0.002), (Precision::Bf16, 0.02)] {
                let model = load(&folder, precision);
                let mut worst = [0f64; 2];
                for part in sequences.chunks(9) {
                    let logits = model.forward(&pack(part)).expect("computes");
                    for (sequence, logit) in part.iter().zip(logits) {
                        let score = (sigmoid(logit) - sigmoid(sequence.logit)).abs();
                        let logit = f64::from((logit - sequence.logit).abs());
                        worst = [worst[0].max(score), worst[1].max(logit)];
                    }
                }
                let [score, logit] = worst;
                println!(
                    "{name} in {}: score {score:.1e}, logit {logit:.1e}",
                    precision.name()
                );
                assert!(score <= most, "{name} in {}: {score}", precision.name());
                assert!(logit > 0.0, "{name} in {} is f32", precision.name());
            }
        }
    }

    #[test]
    fn attention_in_small_tiles_is_the_same() {
        for name in all() {
            let (folder, mut sequences) = golden(name);
            sequences.retain(|sequence| sequence.input_ids.len() <= LONG);
            let mut model = load(&folder, Precision::F32);
            let packed = pack(&sequences);
            let whole = model.forward(&packed).expect("computes");
            model.encoder.limit_scores(1000);
            let tiled = model.forward(&packed).expect("computes");
            let difference = whole.iter().zip(&tiled).map(|(a, b)| (a - b).abs());
            let worst = difference.fold(0.0, f32::max);
            assert!(worst <= 1e-5, "{name}: {worst:e}");
        }
    }

    #[test]
    fn a_packed_model_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join(PACKED_FILE);
        let config = std::fs::read(root("tests/golden/bert").join(CONFIG_FILE)).expect("read");
        let mut manifest = Manifest {
            format: FORMAT,
            layout: INT8_LAYOUT.into(),
            tool: "test".into(),
            name: None,
            revision: None,
            config: serde_json::from_slice(&config).expect("JSON"),
            modules: None,
            sources: BTreeMap::new(),
            fingerprints: BTreeMap::new(),
            max_length: None,
            payload_sha256: String::new(),
            high_precision: BTreeSet::new(),
            levels: BTreeMap::new(),
            fidelity: None,
            narrow_fidelity: None,
        };
        let mut writer = PackedWriter::create(&file, 1, 4096).expect("created");
        writer.seal(&mut manifest).expect("sealed");
        writer.finish().expect("written");
        let gpu = Some(Gpu::stand_in(Precision::F16));
        let error = Model::load(&file, Kernels::detect(), gpu)
            .err()
            .expect("refused");
        assert!(error.to_string().contains("model for a GPU"), "{error}");
    }
}
