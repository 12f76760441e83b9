//! The cross-encoder: token ids in, one logit for each sequence out.
//!
//! Loads a Hugging Face folder of the BERT, RoBERTa or XLM-RoBERTa family with one label. Never sees text. Owns candle and the
//! order of computation; the arithmetic itself is in `kernels`, the bytes of the weights in `weights`.

mod config;
mod encoder;
mod head;
mod ops;

use std::path::Path;

use kernels::Kernels;

pub use crate::weights::PrefetchReport;
pub use config::{Family, ModelConfig};

use crate::error::ModelError;
use crate::weights::{Prefetch, Weights};
use encoder::Encoder;
use head::Head;

pub const CONFIG_FILE: &str = "config.json";

pub struct Model {
    config: ModelConfig,
    encoder: Encoder,
    head: Head,
    stored_dtype: String,
    weight_bytes: u64,
    prefetch: Prefetch,
}

/// Token ids of several sequences one after the other, with nothing between them.
#[derive(Debug, Default, Clone)]
pub struct Packed {
    ids: Vec<u32>,
    type_ids: Vec<u32>,
    /// Start of each sequence, and the total at the end: `cu_seqlens` of the flash-attention interface.
    starts: Vec<usize>,
}

impl Packed {
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

    pub fn sequences(&self) -> usize {
        self.starts.len() - 1
    }

    pub fn tokens(&self) -> usize {
        self.ids.len()
    }
}

impl Model {
    /// Maps and checks a model folder, and begins to read it ahead. Every tensor is looked up here, so that a model that loads
    /// also computes.
    pub fn load(folder: &Path, kernels: Kernels) -> Result<Self, ModelError> {
        let config = ModelConfig::read(&folder.join(CONFIG_FILE))?;
        let weights = Weights::open(folder)?;
        let prefetch = weights.prefetch();
        Ok(Self {
            prefetch,
            encoder: Encoder::load(&config, &weights, kernels)?,
            head: Head::load(&config, &weights, kernels)?,
            stored_dtype: weights.stored_dtype(),
            weight_bytes: weights.bytes(),
            config,
        })
    }

    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The dtype of the weight files.
    pub fn stored_dtype(&self) -> &str {
        &self.stored_dtype
    }

    pub fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    /// The reading ahead that loading began.
    pub fn prefetch(&self) -> &Prefetch {
        &self.prefetch
    }

    /// One logit for each sequence. Work runs on the current rayon pool.
    ///
    /// A sequence's logit does not depend on the others in `packed`. Fails on token ids beyond the embedding, on sequences longer
    /// than the positions, and where the result is not a finite number.
    pub fn forward(&self, packed: &Packed) -> Result<Vec<f32>, ModelError> {
        let hidden = self.encoder.forward(packed)?;
        let logits = self.head.forward(&hidden)?;
        if let Some(index) = logits.iter().position(|logit| !logit.is_finite()) {
            return Err(ModelError::Compute(format!(
                "sequence {index} got the logit {}: the weights are damaged or overflow f32",
                logits[index]
            )));
        }
        Ok(logits)
    }
}

/// Refuses a tokenizer that can produce ids for which there is no embedding.
pub fn check_vocabulary(
    config: &ModelConfig,
    tokenizer_path: &Path,
    vocabulary: usize,
) -> Result<(), ModelError> {
    if vocabulary > config.vocab_size {
        return Err(ModelError::unfit(
            tokenizer_path,
            "vocabulary",
            format!("{vocabulary} tokens"),
            format!("at most the embedding's {}", config.vocab_size),
        ));
    }
    Ok(())
}
