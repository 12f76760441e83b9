//! The cross-encoder: token ids in, one logit for each sequence out.
//!
//! Loads a model of one of the families in `config.rs` with one label, from a Hugging Face folder
//! (f32) or a packed file (int8), and makes the latter of the former. A family is only names and
//! settings: `description.rs` makes one form of them, which one encoder follows. Never sees text.
//! Owns candle, the GPU and the order of computation; the CPU's arithmetic itself is in `kernels`,
//! the bytes of the weights in `weights`.

#[cfg(any(test, feature = "cuda"))]
mod blocks;
mod config;
mod description;
#[cfg(any(test, feature = "cuda"))]
mod device;
mod encoder;
#[cfg(feature = "cuda")]
mod fused;
mod gpu;
mod head;
mod int8;
mod modules;
mod need;
mod ops;
mod quantize;
mod rotary;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use kernels::{Kernels, Levels};

pub use config::{Family, ModelConfig, json};
pub use gpu::{Chip, Gpu};
pub use int8::{Setting, Tunable};
pub use modules::Modules;
pub use need::Need;
pub use quantize::{Choice, LADDER, MatrixReport, Plan, Rounding, TRIAL, packed_tensors, quantize};

use crate::error::{ModelError, Remedy};
use crate::precision::Precision;
use crate::weights::{Manifest, Mapped, PACKED_FILE, Prefetch, Sureness, Weights};
use description::Description;
use encoder::Encoder;
use head::Head;

/// Of a model folder.
pub const CONFIG_FILE: &str = "config.json";

/// A loaded cross-encoder with one label.
pub struct Model {
    config: ModelConfig,
    encoder: Encoder,
    head: Head,
    stored_dtype: String,
    weight_bytes: u64,
    parameters: u64,
    manifest: Option<Manifest>,
    tokenizer: Option<PackedTokenizer>,
    kernels: Kernels,
    gpu: Option<Gpu>,
    prefetch: Prefetch,
    /// Names of the folder's tensors that nothing reads.
    unused: Vec<String>,
    /// The files that are mapped.
    files: Vec<Arc<Mapped>>,
}

/// A packed model's tokenizer, where it lies in the file: compiled, or as JSON where there is no
/// compiled form of its kind.
pub enum PackedTokenizer {
    /// The form that is ready once it is mapped.
    Compiled(Bytes),
    /// The content of a `tokenizer.json`.
    Json(Bytes),
}

impl PackedTokenizer {
    /// The tensor that holds [`Self::Compiled`].
    pub const COMPILED: &str = "tokenizer.compiled";
    /// The tensor that holds [`Self::Json`].
    pub const JSON: &str = "tokenizer.json";

    fn find(path: &Path, weights: &Weights) -> Result<Option<Self>, ModelError> {
        if weights.manifest().is_none() {
            return Ok(None);
        }
        let bytes = |name| weights.raw(name).map(Bytes::from_owner);
        bytes(Self::COMPILED)
            .map(Self::Compiled)
            .or_else(|| bytes(Self::JSON).map(Self::Json))
            .map(Some)
            .ok_or_else(|| {
                let names = format!("tensor {} or {}", Self::COMPILED, Self::JSON);
                ModelError::unfit(path, names, "neither", "one of them")
            })
    }
}

/// Token ids of several sequences one after the other, with nothing between them.
#[derive(Debug, Default, Clone)]
pub struct Packed {
    ids: Vec<u32>,
    type_ids: Vec<u32>,
    /// Start of each sequence, and the total at the end: `cu_seqlens` of the flash-attention
    /// interface.
    starts: Vec<usize>,
}

impl Packed {
    /// No sequences.
    pub fn new() -> Self {
        Self {
            starts: vec![0],
            ..Self::default()
        }
    }

    /// Appends a sequence; `ids` and `type_ids` are of one length, and not empty.
    pub fn push(&mut self, ids: &[u32], type_ids: &[u32]) {
        assert!(
            !ids.is_empty() && ids.len() == type_ids.len(),
            "a sequence has tokens, each with a segment"
        );
        self.ids.extend_from_slice(ids);
        self.type_ids.extend_from_slice(type_ids);
        self.starts.push(self.ids.len());
    }

    /// How many sequences there are.
    pub fn sequences(&self) -> usize {
        self.starts.len() - 1
    }

    /// Tokens of all of them.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// One sequence of so many, from the first on.
    pub fn every(&self, step: usize) -> Self {
        let mut some = Self::new();
        for ends in self.starts.windows(2).step_by(step) {
            let sequence = ends[0]..ends[1];
            some.push(&self.ids[sequence.clone()], &self.type_ids[sequence]);
        }
        some
    }
}

impl Model {
    /// Maps and checks a model folder or packed file, and begins to read it ahead. Every tensor is
    /// looked up here, so that a model that loads also computes.
    pub fn load(path: &Path, kernels: Kernels, gpu: Option<Gpu>) -> Result<Self, ModelError> {
        let weights = Weights::open(path)?;
        Self::from_weights(path, &weights, kernels, gpu, weights.prefetch(Need::of))
    }

    /// [`Self::load`], where the weights of `path` are open and read ahead already, or not to be.
    pub fn from_weights(
        path: &Path,
        weights: &Weights,
        kernels: Kernels,
        gpu: Option<Gpu>,
        prefetch: Prefetch,
    ) -> Result<Self, ModelError> {
        if gpu.is_some() && weights.manifest().is_some() {
            return Err(ModelError::unfit(
                path,
                "model for a GPU",
                "a packed model, whose int8 weights are computed on CPUs",
                "the model folder that it was packed from",
            )
            .with(Remedy::Set));
        }
        let config = match weights.manifest() {
            Some(manifest) => ModelConfig::packed(path, manifest)?,
            None => ModelConfig::read(&path.join(CONFIG_FILE))?,
        };
        let description = Description::new(&config, weights);
        let encoder = Encoder::load(&description, kernels, gpu.as_ref())?;
        let head = Head::load(&description, kernels)?;
        let unused = match weights.manifest() {
            Some(_) => Vec::new(),
            None => weights.unused().into_iter().map(str::to_owned).collect(),
        };
        Ok(Self {
            prefetch,
            unused,
            files: weights.mapped(),
            encoder,
            head,
            stored_dtype: weights.stored_dtype(),
            weight_bytes: weights.bytes(),
            parameters: description.parameters(),
            manifest: weights.manifest().cloned(),
            tokenizer: PackedTokenizer::find(path, weights)?,
            kernels,
            gpu,
            config,
        })
    }

    /// What its files say of it.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// What the encoder computes in.
    pub fn precision(&self) -> Precision {
        match (&self.gpu, &self.manifest) {
            (Some(gpu), _) => gpu.precision,
            (None, Some(_)) => Precision::Int8,
            (None, None) => Precision::F32,
        }
    }

    /// What the encoder computes on; nothing where that is the CPU.
    pub fn gpu(&self) -> Option<&Gpu> {
        self.gpu.as_ref()
    }

    /// Whether our own CUDA kernels compute.
    pub fn fused(&self) -> bool {
        self.encoder.fused()
    }

    /// The tokenizer that a packed model brings; nothing for a folder, where it is a file of its
    /// own.
    pub fn tokenizer(&self) -> Option<&PackedTokenizer> {
        self.tokenizer.as_ref()
    }

    /// The files that hold the weights.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.path())
    }

    /// What a packed model says of itself.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// Names of the folder's tensors that the configuration has no use for, in order.
    pub fn unused(&self) -> &[String] {
        &self.unused
    }

    /// The dtype of the weight files.
    pub fn stored_dtype(&self) -> &str {
        &self.stored_dtype
    }

    /// Size of the weight files.
    pub fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    /// Numbers in the model's tensors, as they are before packing.
    pub fn parameters(&self) -> u64 {
        self.parameters
    }

    /// A packed model's matrices, which the packer computes in several ways to compare them.
    pub fn tunables(&mut self) -> Vec<Tunable<'_>> {
        self.encoder.tunables()
    }

    /// The logits of a packed model with one matrix at other levels, each matrix in turn in the
    /// order of [`Self::tunables`], told to `see`. It takes half of the time of so many
    /// [`Self::forward`]. Fails as that does, and where the model is not packed.
    pub fn logits_with_each(
        &mut self,
        packed: &Packed,
        levels: Levels,
        see: &mut dyn FnMut(Vec<f32>),
    ) -> Result<(), ModelError> {
        self.unchanged()?;
        let precision = self.precision();
        let mut damaged = Ok(());
        let mut checked = |logits: Vec<f32>| {
            if damaged.is_ok() {
                damaged = finite(&logits, precision);
            }
            see(logits);
        };
        self.encoder
            .logits_with_each(packed, &self.head, levels, &mut checked)?;
        self.unchanged()?;
        damaged
    }

    /// The reading ahead that loading began.
    pub fn prefetch(&self) -> &Prefetch {
        &self.prefetch
    }

    /// One logit for each sequence. Work runs on the current rayon pool.
    ///
    /// A sequence's logit does not depend on the others in `packed`; on a GPU it may differ by the
    /// rounding of what is computed in. Fails on token ids beyond the embedding, on sequences
    /// longer than the positions, where the result is not a finite number, and where a mapped file
    /// is not what it was.
    pub fn forward(&self, packed: &Packed) -> Result<Vec<f32>, ModelError> {
        // Before, because touching what was cut off would end the process; after, because nothing
        // of it may be believed.
        self.unchanged()?;
        let logits = self.encoder.logits(packed, &self.head)?;
        self.unchanged()?;
        finite(&logits, self.precision())?;
        Ok(logits)
    }

    fn unchanged(&self) -> Result<(), ModelError> {
        let changed = self.files.iter().find(|file| !file.is_unchanged());
        changed.map_or(Ok(()), |file| {
            Err(ModelError::Changed(file.path().to_owned()))
        })
    }
}

/// Refuses logits that are no numbers.
fn finite(logits: &[f32], precision: Precision) -> Result<(), ModelError> {
    match logits.iter().position(|logit| !logit.is_finite()) {
        None => Ok(()),
        Some(index) => Err(ModelError::Compute(format!(
            "sequence {index} got the logit {}: the weights are damaged or overflow {}",
            logits[index],
            precision.name()
        ))),
    }
}

/// What to load for this precision: the packed form that a folder may hold, where it is not f32
/// that is asked for; else `path` itself. A packed form that was made from other files than the
/// folder's is refused: it would give the scores of another model.
pub fn choose(path: &Path, precision: Precision) -> Result<PathBuf, ModelError> {
    let packed = path.join(PACKED_FILE);
    if precision == Precision::F32 || !packed.is_file() {
        return Ok(path.to_owned());
    }
    check_sources(&packed, Sureness::Quick)?;
    Ok(packed)
}

/// Compares the packed file of a model folder with the files beside it that it should have been
/// made from. A packed file of another name stands for itself.
pub fn check_sources(packed: &Path, how: Sureness) -> Result<(), ModelError> {
    if packed.is_dir() || packed.file_name().is_none_or(|name| name != PACKED_FILE) {
        return Ok(());
    }
    let weights = Weights::open(packed)?;
    let manifest = weights.manifest();
    manifest.map_or(Ok(()), |manifest| manifest.check_sources(packed, how))
}

/// Refuses a tokenizer that can produce ids or segments for which there is no embedding: both are
/// told as the number that would be needed.
pub fn check_tokenizer(
    config: &ModelConfig,
    tokenizer_path: &Path,
    ids: usize,
    segments: usize,
) -> Result<(), ModelError> {
    for (what, found, rows, field) in [
        ("vocabulary", ids, config.vocab_size, "vocab_size"),
        (
            "post_processor",
            segments,
            config.type_vocab_size,
            "type_vocab_size",
        ),
    ] {
        if found > rows {
            let things = if field == "vocab_size" {
                "token id"
            } else {
                "segment"
            };
            return Err(ModelError::unfit(
                tokenizer_path,
                what,
                format!("{things} {}", found - 1),
                format!("less than the embedding's {rows} rows ({field})"),
            )
            .with(Remedy::Mend));
        }
    }
    Ok(())
}
