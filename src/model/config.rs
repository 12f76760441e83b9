//! `config.json` of a Hugging Face model, reduced to what the forward pass needs, and checked.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::error::{ModelError, Remedy};
use crate::json::mended;
use crate::weights::read_file;

/// The families differ in tensor names, position offsets and the name of the head's layers, in nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Bert,
    Roberta,
    XlmRoberta,
    Camembert,
}

impl Family {
    const ALL: [(Self, &str, &str); 4] = [
        (Self::Bert, "bert", "BertForSequenceClassification"),
        (Self::Roberta, "roberta", "RobertaForSequenceClassification"),
        (
            Self::XlmRoberta,
            "xlm-roberta",
            "XLMRobertaForSequenceClassification",
        ),
        (
            Self::Camembert,
            "camembert",
            "CamembertForSequenceClassification",
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
            Self::Roberta | Self::XlmRoberta | Self::Camembert => "roberta",
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
    /// The class of transformers that reads the tokenizer, where the file names it.
    pub tokenizer_class: Option<String>,
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
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    #[serde(default = "gelu")]
    hidden_act: String,
    max_position_embeddings: usize,
    #[serde(default = "two")]
    type_vocab_size: usize,
    #[serde(default = "default_eps")]
    layer_norm_eps: f64,
    pad_token_id: Option<u32>,
    position_embedding_type: Option<String>,
    tokenizer_class: Option<String>,
    #[serde(default)]
    is_decoder: bool,
    #[serde(default, rename = "reranker")]
    about: About,
}

/// Beyond any model of the family, and so small that no product of two sizes overflows.
const LARGEST: usize = 1 << 24;

// Where a field is absent, Hugging Face's own defaults hold, which are the same in all families.

fn two() -> usize {
    2
}

fn gelu() -> String {
    "gelu".into()
}

fn default_eps() -> f64 {
    1e-12
}

impl ModelConfig {
    pub fn read(path: &Path) -> Result<Self, ModelError> {
        Self::parse(path, &read_file(path)?)
    }

    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, ModelError> {
        const EXPECTED: &str =
            "a Hugging Face config.json of a BERT, RoBERTa, XLM-RoBERTa or CamemBERT model";
        let unreadable =
            |error: serde_json::Error| ModelError::unfit(path, "configuration", error, EXPECTED);
        let value = json(bytes).map_err(unreadable)?;
        if !value.is_object() {
            return Err(ModelError::unfit(
                path,
                "configuration",
                "no object",
                EXPECTED,
            ));
        }
        // Before anything else, because a model of another kind lacks other fields too.
        let family = Self::family(path, &value)?;
        Self::check_labels(path, &value)?;
        let raw: Raw = serde_json::from_value(value).map_err(unreadable)?;
        let unfit = |what: &str, found: String, expected: String| {
            Err(ModelError::not_served(path, what, found, expected))
        };
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
        let unfit = |what: &str, found: String, expected: String| {
            Err(ModelError::unfit(path, what, found, expected).with(Remedy::Mend))
        };
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
            tokenizer_class: raw.tokenizer_class,
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

    /// The model's family, or why it has none that is served.
    fn family(path: &Path, config: &Value) -> Result<Family, ModelError> {
        let refuse = |what: &str, found: String, expected: &str| {
            Err(ModelError::not_served(path, what, found, expected))
        };
        const SERVED: &str =
            "bert, roberta, xlm-roberta or camembert: no other architecture is served";
        let kind = config["model_type"].as_str();
        let found = Family::ALL
            .into_iter()
            .find(|(_, name, _)| Some(*name) == kind);
        let Some((family, _, architecture)) = found else {
            return match kind {
                Some(kind) => refuse("model_type", format!("{kind:?}"), SERVED),
                None => refuse("model_type", config["model_type"].to_string(), SERVED),
            };
        };
        // Custom code may compute anything under the names of a known architecture.
        let custom = ["AutoConfig", "AutoModelForSequenceClassification"];
        if let Some(name) = custom
            .iter()
            .find(|name| config["auto_map"].get(name).is_some())
        {
            return refuse(
                "auto_map",
                format!("{name} by custom code, {}", config["auto_map"][name]),
                "an architecture of transformers itself: code from model repositories is not run",
            );
        }
        match &config["architectures"] {
            // transformers takes the class from the model's type.
            Value::Null => Ok(family),
            Value::Array(names) if names.is_empty() => Ok(family),
            Value::Array(names) if names.iter().any(|name| name == architecture) => Ok(family),
            other => {
                let name = other[0].as_str().unwrap_or_default();
                let what = if name.ends_with("Model") {
                    "this is an embedding model, which gives vectors and no score"
                } else if name.ends_with("ForMaskedLM") {
                    "this is a language model before any training for ranking"
                } else {
                    "a model with a head for one score"
                };
                refuse(
                    "architectures",
                    other.to_string(),
                    &format!("[{architecture:?}]: {what}"),
                )
            }
        }
    }

    /// Refuses any number of labels but one, counted as transformers counts them.
    fn check_labels(path: &Path, config: &Value) -> Result<(), ModelError> {
        const WANTED: &str = "1 (a reranker has one logit)";
        let refuse =
            |what: &str, found: String| Err(ModelError::not_served(path, what, found, WANTED));
        match (&config["id2label"], &config["num_labels"]) {
            (Value::Object(labels), _) if labels.len() == 1 => Ok(()),
            (Value::Object(labels), _) => {
                refuse("number of labels", format!("{} in id2label", labels.len()))
            }
            (Value::Null, Value::Number(labels)) if labels.as_u64() == Some(1) => Ok(()),
            (Value::Null, Value::Null) => refuse(
                "number of labels",
                "neither id2label nor num_labels, which transformers takes for 2".into(),
            ),
            (Value::Null, labels) => refuse("number of labels", format!("{labels} in num_labels")),
            (labels, _) => refuse("id2label", labels.to_string()),
        }
    }

    /// Position of the first token: RoBERTa counts from the one after the padding token's.
    pub fn first_position(&self) -> usize {
        match self.family {
            Family::Bert => 0,
            _ => self.pad_token_id as usize + 1,
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

/// The JSON of a file, which may begin with a byte order mark.
pub fn json(bytes: &[u8]) -> serde_json::Result<Value> {
    serde_json::from_slice(&mended(bytes))
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
