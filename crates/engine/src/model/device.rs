//! The encoder over candle's own tensor operations, which every device of candle's has: what a GPU computes.
//!
//! Weights lie on the device in the dtype that is computed in. Sums that need more are wider: residuals, layer norms and softmax are
//! f32 (in the last one candle's kernel adds in f32). Takes packed sequences to the last layer's output at each one's first token, as
//! f32 in the machine's own memory, where the head is computed. The tests run it on the CPU, against the same logits as the other
//! engines, so that a GPU's share is candle's kernels.

use candle_core::{DType, Device, IndexOp, Tensor};
use candle_nn::ops::{layer_norm, softmax_last_dim};

use super::blocks::{Block, Blocks};
use super::description::{Description, LinearSpec, NormSpec, TableSpec};
use super::{Packed, gpu};
use crate::error::ModelError;

/// Residuals, and what is normalised.
const WIDE: DType = DType::F32;

/// Scores of attention that are there at a time, which takes twice to three times as much memory: 128 MiB each in 16 bits.
const MAX_SCORES: usize = 1 << 26;

pub struct Encoder {
    device: Device,
    dtype: DType,
    words: Tensor,
    positions: Tensor,
    segments: Tensor,
    norm: Norm,
    layers: Vec<Layer>,
    heads: usize,
    max_scores: usize,
}

struct Layer {
    /// Queries, keys and values side by side; queries are divided by the root of the heads' width already.
    qkv: Linear,
    attention_out: Linear,
    attention_norm: Norm,
    up: Linear,
    down: Linear,
    output_norm: Norm,
}

/// `x · Wᵀ + b`, with a weight of `[n, k]`.
struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    fn forward(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        Ok(x.matmul(&self.weight.t()?)?.broadcast_add(&self.bias)?)
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

    fn table(&self, table: Option<TableSpec>) -> Result<Tensor, ModelError> {
        let TableSpec { name, rows } = table.ok_or_else(|| {
            ModelError::Compute("a table that the GPU needs is not in the model".into())
        })?;
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
            biases.push(scaled(bias, &[spec.n])?);
        }
        Ok(Linear {
            weight: Tensor::cat(&weights, 0)?,
            bias: Tensor::cat(&biases, 0)?,
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

    fn layer(&self, index: usize) -> Result<Layer, ModelError> {
        let spec = self.description.layer(index);
        let scale = 1.0 / (self.description.config().head_dim() as f32).sqrt();
        let attention_norm = spec.attention_norm.as_ref().unwrap_or(&spec.output_norm);
        Ok(Layer {
            qkv: self.linear(&spec.qkv, scale)?,
            attention_out: self.linear(&spec.attention_out, 1.0)?,
            attention_norm: self.norm(attention_norm)?,
            up: self.linear(&spec.up, 1.0)?,
            down: self.linear(&spec.down, 1.0)?,
            output_norm: self.norm(&spec.output_norm)?,
        })
    }
}

impl Encoder {
    /// Of a model that [`super::ModelConfig::beyond_gpu`] has nothing against.
    pub fn load(
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
        let layers = (0..config.layers).map(|index| load.layer(index));
        let encoder = Self {
            words: load.table(Some(description.words()))?,
            positions: load.table(description.positions())?,
            segments: load.table(description.segments())?,
            norm: load.norm(&description.embedding_norm())?,
            layers: layers.collect::<Result<_, _>>()?,
            heads: config.heads,
            max_scores: MAX_SCORES,
            device: device.clone(),
            dtype,
        };
        // Every thread has a CUDA stream of its own: what this one began must be done before another computes with it. A pass stays on
        // one thread, and ends by reading its result.
        device.synchronize()?;
        Ok(encoder)
    }

    /// `[sequences, hidden]` in f32 on the CPU. `positions` has one for each token; ids, segments and positions are within the tables.
    pub fn forward(&self, packed: &Packed, positions: &[usize]) -> Result<Tensor, ModelError> {
        self.layers(packed, positions)
            .map_err(|error| gpu::explained(error, packed.tokens()))
    }

    fn layers(&self, packed: &Packed, positions: &[usize]) -> Result<Tensor, ModelError> {
        let blocks = Blocks::plan(&packed.starts, self.heads, self.max_scores);
        let placed = Placed::new(&blocks, &self.device, self.dtype)?;
        let first = rows(&packed.starts[..packed.sequences()], &self.device)?;
        // The residual, in f32; what is multiplied is narrowed from it.
        let mut wide = self.embed(packed, positions)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let qkv = layer.qkv.forward(&wide.to_dtype(self.dtype)?)?;
            let mut context = self.attention(&qkv, &placed)?;
            if index + 1 == self.layers.len() {
                // Only first tokens are read from here on, and nothing after attention mixes tokens.
                context = context.index_select(&first, 0)?;
                wide = wide.index_select(&first, 0)?;
            }
            let out = layer.attention_out.forward(&context)?;
            wide = layer
                .attention_norm
                .forward(&(out.to_dtype(WIDE)? + wide)?)?;
            let inner = layer.up.forward(&wide.to_dtype(self.dtype)?)?.gelu_erf()?;
            let out = layer.down.forward(&inner)?;
            wide = layer.output_norm.forward(&(out.to_dtype(WIDE)? + wide)?)?;
        }
        Ok(wide.to_device(&Device::Cpu)?)
    }

    /// `[tokens, hidden]`.
    fn embed(&self, packed: &Packed, positions: &[usize]) -> Result<Tensor, ModelError> {
        let looked_up = |table: &Tensor, ids: &Tensor| table.index_select(ids, 0)?.to_dtype(WIDE);
        let ids = |ids: &[u32]| Tensor::from_slice(ids, ids.len(), &self.device);
        let words = looked_up(&self.words, &ids(&packed.ids)?)?;
        let segments = looked_up(&self.segments, &ids(&packed.type_ids)?)?;
        let positions = looked_up(&self.positions, &rows(positions, &self.device)?)?;
        self.norm.forward(&((words + segments)? + positions)?)
    }

    /// Softmax attention within each sequence, `[tokens, 3 · hidden]` to `[tokens, hidden]`, block by block.
    fn attention(&self, qkv: &Tensor, placed: &Placed) -> Result<Tensor, ModelError> {
        let hidden = qkv.dim(1)? / 3;
        let mut contexts = Vec::with_capacity(placed.blocks.len());
        for (block, rows, mask) in &placed.blocks {
            let (count, length) = (block.sequences, block.length);
            let heads = (count, length, 3, self.heads, hidden / self.heads);
            let qkv = qkv.index_select(rows, 0)?.reshape(heads)?;
            let qkv = qkv.permute((2, 0, 3, 1, 4))?.contiguous()?;
            let (queries, keys, values) = (qkv.i(0)?, qkv.i(1)?.t()?, qkv.i(2)?);
            let tiles = (0..length).step_by(block.tile).map(|start| {
                let queries = queries.narrow(2, start, block.tile.min(length - start))?;
                let mut scores = queries.matmul(&keys)?;
                if let Some(mask) = mask {
                    scores = scores.broadcast_add(mask)?;
                }
                softmax(&scores)?.matmul(&values)
            });
            let tiles = tiles.collect::<candle_core::Result<Vec<_>>>()?;
            let context = Tensor::cat(&tiles, 2)?.transpose(1, 2)?;
            contexts.push(context.reshape((count * length, hidden))?);
        }
        Ok(Tensor::cat(&contexts, 0)?.index_select(&placed.places, 0)?)
    }
}

/// Over the last dimension. candle's CUDA kernel adds in f32 whatever the dtype, its loop for CPUs in the dtype itself.
fn softmax(scores: &Tensor) -> candle_core::Result<Tensor> {
    if scores.device().is_cpu() {
        softmax_last_dim(&scores.to_dtype(WIDE)?)?.to_dtype(scores.dtype())
    } else {
        softmax_last_dim(scores)
    }
}

/// A pass's blocks with what they need on the device: the rows that they take, and what keeps padding out.
struct Placed<'a> {
    blocks: Vec<(&'a Block, Tensor, Option<Tensor>)>,
    places: Tensor,
}

impl<'a> Placed<'a> {
    fn new(blocks: &'a Blocks, device: &Device, dtype: DType) -> Result<Self, ModelError> {
        let place = |block: &'a Block| {
            let mask = block.mask().map(|mask| {
                let shape = (block.sequences, 1, 1, block.length);
                Tensor::from_vec(mask, shape, device)?.to_dtype(dtype)
            });
            Ok::<_, ModelError>((block, rows(&block.rows, device)?, mask.transpose()?))
        };
        Ok(Self {
            blocks: blocks.blocks.iter().map(place).collect::<Result<_, _>>()?,
            places: rows(&blocks.places, device)?,
        })
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

    use super::*;
    use crate::model::{CONFIG_FILE, Gpu, Model, ModelConfig};
    use crate::precision::Precision;
    use crate::tokenizer::PairTokenizer;
    use crate::weights::{FORMAT, Manifest, PACKED_FILE, PackedWriter, Weights};
    use reranker_domain::{Truncation, sigmoid};

    const GOLDEN: [&str; 3] = ["xlm-roberta", "roberta", "bert"];

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

    fn golden(name: &str) -> (PathBuf, Vec<Sequence>) {
        let file = root(&format!("tests/golden/{name}.json"));
        let golden = std::fs::read(file).expect("a golden file");
        let mut golden: Golden = serde_json::from_slice(&golden).expect("a golden file");
        golden.pairs.append(&mut golden.raw);
        (root("tests/golden").join(name), golden.pairs)
    }

    /// The demo model on pairs in many languages, with the logits that the CPU's kernels compute in f32.
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

    fn pack(sequences: &[Sequence]) -> Packed {
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
    fn what_a_gpu_does_not_compute_is_refused_by_name() {
        for (name, lacking) in [
            ("gte", "a gated feed-forward network"),
            ("modernbert", "norms before the sub-layers"),
            ("electra", "a projection of the embeddings"),
            ("distilbert", "embeddings without segments"),
            ("mpnet", "a relative position bias"),
        ] {
            let gpu = Some(Gpu::stand_in(Precision::F16));
            let folder = root("tests/golden").join(name);
            let error = Model::load(&folder, Kernels::detect(), gpu).err();
            let error = error.expect("is refused").to_string();
            let named = format!("model for a GPU: found {lacking}, expected DEVICE=cpu");
            assert!(error.contains(&named), "{name}: {error}");
        }
    }

    #[test]
    fn in_f32_logits_equal_pytorchs_alone_and_in_any_batch() {
        for name in GOLDEN {
            let (folder, sequences) = golden(name);
            let model = load(&folder, Precision::F32);
            assert_eq!(model.precision(), Precision::F32);
            for size in [1, sequences.len()] {
                let mut worst = 0f32;
                for part in sequences.chunks(size) {
                    let logits = model.forward(&pack(part)).expect("computes");
                    for (sequence, logit) in part.iter().zip(logits) {
                        worst = worst.max((logit - sequence.logit).abs());
                    }
                }
                println!("{name}, {size} a pass: largest difference {worst:.1e}");
                assert!(worst <= 1e-5, "{name}, {size} a pass: {worst:e}");
            }
        }
    }

    #[test]
    fn in_16_bits_scores_stay_near_those_of_f32() {
        let models = GOLDEN.map(|name| (name, golden(name)));
        for (name, (folder, sequences)) in models.into_iter().chain([("demo", demo())]) {
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
        let (folder, sequences) = golden("bert");
        let config = ModelConfig::read(&folder.join(CONFIG_FILE)).expect("a configuration");
        let weights = Weights::open(&folder).expect("weights");
        let description = Description::new(&config, &weights);
        let mut encoder = Encoder::load(&description, &Device::Cpu, DType::F32).expect("loads");
        let packed = pack(&sequences[..12]);
        let positions: Vec<usize> = packed
            .starts
            .windows(2)
            .flat_map(|bounds| 0..bounds[1] - bounds[0])
            .collect();
        let mut values = |max_scores| {
            encoder.max_scores = max_scores;
            let hidden = encoder.forward(&packed, &positions).expect("computes");
            hidden
                .flatten_all()
                .and_then(|all| all.to_vec1::<f32>())
                .expect("f32")
        };
        let (whole, tiled) = (values(MAX_SCORES), values(1000));
        let difference = whole.iter().zip(&tiled).map(|(a, b)| (a - b).abs());
        let worst = difference.fold(0.0, f32::max);
        assert!(worst <= 1e-6, "{worst:e}");
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
            fine: BTreeSet::new(),
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
