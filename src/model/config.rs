//! `config.json` of a Hugging Face model, reduced to what the forward pass needs, and checked.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::error::ModelError;

/// The three families differ in tensor names, position offsets and the name of the head's layers, in nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Bert,
    Roberta,
    XlmRoberta,
}

impl Family {
    const ALL: [(Self, &str, &str); 3] = [
        (Self::Bert, "bert", "BertForSequenceClassification"),
        (Self::Roberta, "roberta", "RobertaForSequenceClassification"),
        (
            Self::XlmRoberta,
            "xlm-roberta",
            "XLMRobertaForSequenceClassification",
        ),
    ];

    pub fn model_type(self) -> &'static str {
        Self::ALL
            .into_iter()
            .find(|(family, ..)| *family == self)
            .map_or("", |(_, model_type, _)| model_type)
    }

    /// First part of the encoder's tensor names.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Bert => "bert",
            Self::Roberta | Self::XlmRoberta => "roberta",
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    pub family: Family,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub layers: usize,
    pub heads: usize,
    pub intermediate_size: usize,
    /// Rows of the position embedding; see [`Self::max_length`] for how many are usable.
    pub position_rows: usize,
    pub type_vocab_size: usize,
    pub layer_norm_eps: f32,
    pub pad_token_id: u32,
    /// What the folder says of itself beyond Hugging Face's fields.
    pub about: About,
}

/// Our own optional object `reranker` in `config.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct About {
    pub name: Option<String>,
    pub revision: Option<String>,
    /// A model that is served for trying the service out, and must say so wherever it shows.
    #[serde(default)]
    pub demo: bool,
    pub note: Option<String>,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    architectures: Vec<String>,
    model_type: String,
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    hidden_act: String,
    max_position_embeddings: usize,
    #[serde(default = "one")]
    type_vocab_size: usize,
    #[serde(default = "default_eps")]
    layer_norm_eps: f64,
    pad_token_id: Option<u32>,
    position_embedding_type: Option<String>,
    id2label: Option<BTreeMap<String, String>>,
    num_labels: Option<usize>,
    #[serde(default)]
    is_decoder: bool,
    #[serde(default, rename = "reranker")]
    about: About,
}

/// Beyond any model of the family, and so small that no product of two sizes overflows.
const LARGEST: usize = 1 << 24;

fn one() -> usize {
    1
}

/// The default of Hugging Face's BERT configuration.
fn default_eps() -> f64 {
    1e-12
}

impl ModelConfig {
    pub fn read(path: &Path) -> Result<Self, ModelError> {
        let bytes = std::fs::read(path).map_err(|source| ModelError::io(path, source))?;
        Self::parse(path, &bytes)
    }

    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, ModelError> {
        let raw: Raw = serde_json::from_slice(bytes).map_err(|error| {
            ModelError::unfit(
                path,
                "configuration",
                error,
                "a Hugging Face config.json of a BERT, RoBERTa or XLM-RoBERTa model",
            )
        })?;
        let unfit = |what: &str, found: String, expected: String| {
            Err(ModelError::unfit(path, what, found, expected))
        };
        let Some((family, _, architecture)) = Family::ALL
            .into_iter()
            .find(|(_, model_type, _)| *model_type == raw.model_type)
        else {
            return unfit(
                "model_type",
                format!("{:?}", raw.model_type),
                "bert, roberta or xlm-roberta".into(),
            );
        };
        if raw.architectures != [architecture] {
            return unfit(
                "architectures",
                format!("{:?}", raw.architectures),
                format!("[{architecture:?}]"),
            );
        }
        // Hugging Face's own default where neither is given is two labels.
        let labels = raw
            .id2label
            .as_ref()
            .map(BTreeMap::len)
            .or(raw.num_labels)
            .unwrap_or(2);
        if labels != 1 {
            return unfit(
                "number of labels",
                labels.to_string(),
                "1 (a reranker has one logit)".into(),
            );
        }
        if raw.hidden_act != "gelu" {
            return unfit(
                "hidden_act",
                format!("{:?}", raw.hidden_act),
                "\"gelu\" (the exact one, by erf)".into(),
            );
        }
        if let Some(kind) = raw
            .position_embedding_type
            .filter(|kind| kind != "absolute")
        {
            return unfit(
                "position_embedding_type",
                format!("{kind:?}"),
                "\"absolute\"".into(),
            );
        }
        if raw.is_decoder {
            return unfit("is_decoder", "true".into(), "false".into());
        }
        for (name, value) in [
            ("vocab_size", raw.vocab_size),
            ("hidden_size", raw.hidden_size),
            ("num_hidden_layers", raw.num_hidden_layers),
            ("num_attention_heads", raw.num_attention_heads),
            ("intermediate_size", raw.intermediate_size),
            ("type_vocab_size", raw.type_vocab_size),
            ("max_position_embeddings", raw.max_position_embeddings),
        ] {
            if value == 0 || value > LARGEST {
                let expected = format!("1 to {LARGEST}");
                return unfit(name, value.to_string(), expected);
            }
        }
        #[allow(clippy::cast_possible_truncation)]
        let layer_norm_eps = raw.layer_norm_eps as f32;
        if !layer_norm_eps.is_finite() || layer_norm_eps < 0.0 {
            return unfit(
                "layer_norm_eps",
                raw.layer_norm_eps.to_string(),
                "a small number, 0 or more".into(),
            );
        }
        if !raw.hidden_size.is_multiple_of(raw.num_attention_heads) {
            return unfit(
                "hidden_size",
                raw.hidden_size.to_string(),
                format!(
                    "a multiple of the {} attention heads",
                    raw.num_attention_heads
                ),
            );
        }
        let config = Self {
            family,
            vocab_size: raw.vocab_size,
            hidden_size: raw.hidden_size,
            layers: raw.num_hidden_layers,
            heads: raw.num_attention_heads,
            intermediate_size: raw.intermediate_size,
            position_rows: raw.max_position_embeddings,
            type_vocab_size: raw.type_vocab_size,
            layer_norm_eps,
            // Hugging Face's defaults of each family.
            pad_token_id: raw
                .pad_token_id
                .unwrap_or(if family == Family::Bert { 0 } else { 1 }),
            about: raw.about,
        };
        if config.max_length() < 8 {
            return unfit(
                "max_position_embeddings",
                raw.max_position_embeddings.to_string(),
                format!("at least {}", config.first_position() + 8),
            );
        }
        Ok(config)
    }

    /// Position of the first token: RoBERTa counts from the one after the padding token's.
    pub fn first_position(&self) -> usize {
        match self.family {
            Family::Bert => 0,
            Family::Roberta | Family::XlmRoberta => self.pad_token_id as usize + 1,
        }
    }

    /// The longest sequence that the position embedding allows, in tokens.
    pub fn max_length(&self) -> usize {
        self.position_rows.saturating_sub(self.first_position())
    }

    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.heads
    }

    /// Multiply-adds of one forward pass over sequences of these lengths, times two: matrices and attention.
    pub fn flops(&self, lengths: impl IntoIterator<Item = usize>) -> f64 {
        let (h, f, l) = (
            self.hidden_size as f64,
            self.intermediate_size as f64,
            self.layers as f64,
        );
        lengths
            .into_iter()
            .map(|tokens| {
                let t = tokens as f64;
                l * (2.0 * t * (4.0 * h * h + 2.0 * h * f) + 4.0 * t * t * h)
            })
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2_M3: &str = r#"{"architectures":["XLMRobertaForSequenceClassification"],"model_type":"xlm-roberta",
        "hidden_act":"gelu","hidden_size":1024,"id2label":{"0":"LABEL_0"},"intermediate_size":4096,"layer_norm_eps":1e-05,
        "max_position_embeddings":8194,"num_attention_heads":16,"num_hidden_layers":24,"pad_token_id":1,
        "position_embedding_type":"absolute","type_vocab_size":1,"vocab_size":250002}"#;

    fn parse(text: &str) -> Result<ModelConfig, String> {
        ModelConfig::parse(Path::new("config.json"), text.as_bytes())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn bge_reranker_v2_m3_has_8192_usable_positions() {
        let config = parse(V2_M3).expect("parses");
        assert_eq!(config.max_length(), 8192);
        assert_eq!(config.head_dim(), 64);
        assert_eq!(config.family, Family::XlmRoberta);
    }

    #[test]
    fn flops_agree_with_the_published_shape() {
        // 335 GFLOP for one pair of 512 tokens: 2 * 302e6 * 512 for the matrices, 4 * 512^2 * 1024 * 24 for attention.
        let config = parse(V2_M3).expect("parses");
        assert!((config.flops([512]) / 1e9 - 335.0).abs() < 1.0);
    }

    #[test]
    fn what_is_not_served_is_refused_by_field() {
        for (from, to, named) in [
            ("\"xlm-roberta\"", "\"deberta-v2\"", "model_type"),
            (
                "XLMRobertaForSequenceClassification",
                "XLMRobertaModel",
                "architectures",
            ),
            (
                "{\"0\":\"LABEL_0\"}",
                "{\"0\":\"A\",\"1\":\"B\"}",
                "number of labels",
            ),
            ("\"gelu\"", "\"gelu_new\"", "hidden_act"),
            (
                "\"absolute\"",
                "\"relative_key\"",
                "position_embedding_type",
            ),
            (
                "\"num_attention_heads\":16",
                "\"num_attention_heads\":15",
                "hidden_size",
            ),
            (
                "\"num_attention_heads\":16",
                "\"num_attention_heads\":0",
                "num_attention_heads",
            ),
            ("8194", "3", "max_position_embeddings"),
            ("8194", "99999999999", "max_position_embeddings"),
            ("1024", "9223372036854775807", "hidden_size"),
            (
                "\"layer_norm_eps\":1e-05",
                "\"layer_norm_eps\":1e99",
                "layer_norm_eps",
            ),
            (
                "\"layer_norm_eps\":1e-05",
                "\"layer_norm_eps\":-1",
                "layer_norm_eps",
            ),
            ("\"hidden_size\":1024,", "", "hidden_size"),
            ("1024", "\"wide\"", "configuration"),
        ] {
            let error = parse(&V2_M3.replace(from, to)).expect_err(named);
            assert!(
                error.starts_with("config.json: ") && error.contains(named),
                "{named}: {error}"
            );
        }
    }
}
