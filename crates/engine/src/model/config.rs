//! `config.json` of a Hugging Face model, reduced to what the forward pass needs, and checked.
//!
//! The families' own fields end here: what comes out tells sizes, positions, windows, biases and
//! activations in one form.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::modules::{ModuleHead, Modules};
use crate::error::{ModelError, Remedy};
use crate::weights::{Manifest, read_file};
use reranker_json::mended;

/// Whose tensor names, fields and head a model has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// BERT.
    Bert,
    /// RoBERTa.
    Roberta,
    /// XLM-RoBERTa.
    XlmRoberta,
    /// XLM-RoBERTa as jina-reranker-v2 is published: queries, keys and values in one matrix.
    XlmRobertaFlash,
    /// CamemBERT.
    Camembert,
    /// ELECTRA.
    Electra,
    /// DistilBERT.
    DistilBert,
    /// MPNet.
    MpNet,
    /// As gte-multilingual-reranker-base is published, by code of its own.
    Gte,
    /// ModernBERT.
    ModernBert,
}

/// A family's `model_type`s and its class with a head; the class without one ends with `Model`
/// instead.
struct Class {
    family: Family,
    model_types: &'static [&'static str],
    architectures: &'static [&'static str],
    /// Classes of published custom code that compute what is computed here.
    code: &'static [&'static str],
}

const HEADED: &str = "ForSequenceClassification";

const CLASSES: [Class; 10] = [
    Class {
        family: Family::Bert,
        model_types: &["bert"],
        architectures: &["BertForSequenceClassification"],
        code: &[],
    },
    Class {
        family: Family::Roberta,
        model_types: &["roberta"],
        architectures: &["RobertaForSequenceClassification"],
        code: &[],
    },
    Class {
        family: Family::XlmRoberta,
        model_types: &["xlm-roberta"],
        architectures: &["XLMRobertaForSequenceClassification"],
        code: &[],
    },
    Class {
        family: Family::Camembert,
        model_types: &["camembert"],
        architectures: &["CamembertForSequenceClassification"],
        code: &[],
    },
    Class {
        family: Family::Electra,
        model_types: &["electra"],
        architectures: &["ElectraForSequenceClassification"],
        code: &[],
    },
    Class {
        family: Family::DistilBert,
        model_types: &["distilbert"],
        architectures: &["DistilBertForSequenceClassification"],
        code: &[],
    },
    Class {
        family: Family::MpNet,
        model_types: &["mpnet"],
        architectures: &["MPNetForSequenceClassification"],
        code: &[],
    },
    Class {
        family: Family::Gte,
        model_types: &["new", "gte"],
        architectures: &[
            "NewForSequenceClassification",
            "GteNewForSequenceClassification",
        ],
        code: &["NewConfig", "NewModel", "NewForSequenceClassification"],
    },
    Class {
        family: Family::ModernBert,
        model_types: &["modernbert"],
        architectures: &["ModernBertForSequenceClassification"],
        code: &[],
    },
    // Last, because another family has its model type where no code is named.
    Class {
        family: Family::XlmRobertaFlash,
        model_types: &["xlm-roberta"],
        architectures: &["XLMRobertaForSequenceClassification"],
        code: &[
            FLASH_CONFIG,
            "XLMRobertaModel",
            "XLMRobertaForSequenceClassification",
        ],
    },
];

const FLASH_CONFIG: &str = "XLMRobertaFlashConfig";

/// Models that are asked for and not served: their types, how their classes end, and what they are
/// and what to take.
const ELSEWHERE: [(&[&str], &[&str], &str); 3] = [
    (
        &["deberta", "deberta-v2"],
        &[],
        "DeBERTa's attention is not computed here: Alibaba-NLP/gte-reranker-modernbert-base and Alibaba-NLP/gte-multilingual-reranker-base are served",
    ),
    (
        &[
            "qwen2",
            "qwen3",
            "gemma",
            "gemma2",
            "gemma3",
            "gemma3_text",
            "cost_wise_gemma",
            "llama",
            "llama_bidirec",
            "mistral",
            "minicpm",
            "minicpm3",
            "modernbert-decoder",
            "phi3",
            "qwen2_vl",
            "qwen2_5_vl",
            "qwen3_vl",
        ],
        &["ForCausalLM", "LMHeadModel"],
        "this is a causal language model, which is not computed here: cross-encoders such as BAAI/bge-reranker-v2-m3 and Alibaba-NLP/gte-multilingual-reranker-base are served",
    ),
    (
        &["t5", "mt5", "bart", "mbart"],
        &["ForConditionalGeneration"],
        "this model writes text, which is not computed here: cross-encoders such as BAAI/bge-reranker-v2-m3 and Alibaba-NLP/gte-multilingual-reranker-base are served",
    ),
];

impl Class {
    fn of(family: Family) -> &'static Self {
        let mut classes = CLASSES.iter();
        classes
            .find(|class| class.family == family)
            .expect("every family is in the table")
    }

    /// The class without a head.
    fn is_bare(&self, name: &str) -> bool {
        self.architectures
            .iter()
            .filter_map(|headed| headed.strip_suffix(HEADED))
            .any(|stem| name.strip_suffix("Model") == Some(stem))
    }
}

impl Family {
    /// As `config.json` writes it.
    pub fn model_type(self) -> &'static str {
        Class::of(self).model_types[0]
    }
}

/// A model's sizes and settings, in one form for all families.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Whose names and settings its files have.
    pub family: Family,
    /// Rows of the table of words.
    pub vocab_size: usize,
    /// Width of a token's vector.
    pub hidden_size: usize,
    /// Width of the embeddings; the layers' own unless they are projected.
    pub embedding_size: usize,
    /// Layers of the encoder.
    pub layers: usize,
    /// Heads of a layer's attention.
    pub heads: usize,
    /// Width within a layer's second half.
    pub intermediate_size: usize,
    /// Rows of the position embedding, or positions that the model is made for; see
    /// [`Self::max_length`] for how many are usable.
    pub position_rows: usize,
    /// Number of segments; 1 without a table of segments.
    pub type_vocab_size: usize,
    /// Added to a variance before its root is taken.
    pub layer_norm_eps: f32,
    /// The id that stands for no token.
    pub pad_token_id: u32,
    /// The tokenizer class of transformers, if the file names one.
    pub tokenizer_class: Option<String>,
    /// The folder's fields beside Hugging Face's.
    pub about: About,
    /// The head, where the folder has it as modules of sentence-transformers.
    pub(super) modules: Option<ModuleHead>,
    pub(super) details: Details,
}

/// What differs between models beside sizes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Details {
    pub positions: Positions,
    /// Whether there is a table of segments.
    pub segments: bool,
    /// Whether a sub-layer normalises what it takes, else what it adds to.
    pub norm_first: bool,
    /// Whether the feed-forward network's activations are multiplied by a gate.
    pub gated: bool,
    /// Whether queries, keys and values have a matrix of their own each.
    pub split_qkv: bool,
    pub biases: Biases,
    pub full: Span,
    pub local: Span,
    pub which: Which,
    /// Whether the head takes the mean of all tokens, else the first.
    pub mean: bool,
    /// Of the head's inner layer.
    pub head: Activation,
}

/// How a model knows where a token is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Positions {
    /// A table, whose first row that is used is `first`; with `pad`, tokens of that id have its row
    /// and are not counted.
    Table {
        first: usize,
        pad: Option<u32>,
    },
    Rotary,
}

/// Whether these have biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Biases {
    pub attention: bool,
    pub up: bool,
    pub down: bool,
    pub norms: bool,
    pub head: bool,
}

impl Biases {
    const ALL: Self = Self {
        attention: true,
        up: true,
        down: true,
        norms: true,
        head: true,
    };
}

/// What attention in a layer sees.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Span {
    pub rotary: Option<Rope>,
    /// The furthest key to either side.
    pub window: Option<usize>,
}

impl Span {
    const ALL: Self = Self {
        rotary: None,
        window: None,
    };
}

/// Rotary positions: the base, and NTK's factor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rope {
    pub theta: f64,
    pub factor: Option<f64>,
}

/// Which layers have local attention.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Which {
    None,
    /// All but each n-th, the first of which is layer 0.
    Between(usize),
    Listed(Vec<bool>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Activation {
    None,
    Tanh,
    Gelu,
    Relu,
}

impl Activation {
    /// As `config.json` names it; exact ones only.
    fn named(name: &str) -> Option<Self> {
        match name {
            "gelu" | "gelu_python" => Some(Self::Gelu),
            "tanh" => Some(Self::Tanh),
            "relu" => Some(Self::Relu),
            _ => None,
        }
    }
}

/// Our own optional object `reranker` in `config.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct About {
    /// The model's name.
    pub name: Option<String>,
    /// Its commit or version.
    pub revision: Option<String>,
    /// A model that is served for trying the service out, and must say so wherever it shows.
    #[serde(default)]
    pub demo: bool,
    /// A note to its operator.
    pub note: Option<String>,
}

/// Beyond any model of the families, and so small that no product of two sizes overflows.
const LARGEST: usize = 1 << 24;

/// The fields of a `config.json`. One that is null is taken as absent.
struct Fields<'a> {
    path: &'a Path,
    fields: &'a Map<String, Value>,
}

type Parsed<T> = Result<T, ModelError>;

impl Fields<'_> {
    fn get(&self, name: &str) -> Option<&Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    fn wrong<T>(&self, name: &str, found: impl ToString, expected: impl ToString) -> Parsed<T> {
        let (found, expected) = (found.to_string(), expected.to_string());
        Err(ModelError::unfit(self.path, name, found, expected).with(Remedy::Mend))
    }

    fn refuse<T>(&self, name: &str, found: impl ToString, expected: impl ToString) -> Parsed<T> {
        let (found, expected) = (found.to_string(), expected.to_string());
        Err(ModelError::not_served(self.path, name, found, expected))
    }

    /// From 1 to [`LARGEST`].
    fn size(&self, name: &str, default: Option<usize>) -> Parsed<usize> {
        let expected = format!("a whole number, 1 to {LARGEST}");
        let Some(value) = self.get(name) else {
            return match default {
                Some(default) => Ok(default),
                None => self.wrong(name, "no such field", expected),
            };
        };
        let size = value.as_u64().and_then(|size| usize::try_from(size).ok());
        match size.filter(|size| (1..=LARGEST).contains(size)) {
            Some(size) => Ok(size),
            None => self.wrong(name, value, expected),
        }
    }

    fn number(&self, name: &str, default: f64) -> Parsed<f64> {
        match self.get(name).map(|value| (value, value.as_f64())) {
            None => Ok(default),
            Some((_, Some(number))) => Ok(number),
            Some((value, None)) => self.wrong(name, value, "a number"),
        }
    }

    fn flag(&self, name: &str, default: bool) -> Parsed<bool> {
        match self.get(name).map(|value| (value, value.as_bool())) {
            None => Ok(default),
            Some((_, Some(flag))) => Ok(flag),
            Some((value, None)) => self.wrong(name, value, "true or false"),
        }
    }

    fn text(&self, name: &str) -> Parsed<Option<&str>> {
        match self.get(name).map(|value| (value, value.as_str())) {
            None => Ok(None),
            Some((_, Some(text))) => Ok(Some(text)),
            Some((value, None)) => self.wrong(name, value, "a text"),
        }
    }

    /// Refuses a field that says anything but what is computed; `expected` is what it is where it
    /// is absent.
    fn only(&self, name: &str, expected: &Value) -> Parsed<()> {
        match self.get(name).filter(|value| *value != expected) {
            None => Ok(()),
            Some(found) => self.refuse(name, found, expected),
        }
    }

    /// GELU, which is all that feed-forward networks are computed with.
    fn gelu(&self, name: &str) -> Parsed<()> {
        match self.text(name)?.unwrap_or("gelu") {
            "gelu" | "gelu_python" => Ok(()),
            other => self.refuse(
                name,
                format!("{other:?}"),
                "\"gelu\" (the exact one, by erf)",
            ),
        }
    }

    /// A base of rotary positions.
    fn theta(&self, name: &str, value: Option<&Value>, default: f64) -> Parsed<f64> {
        let theta = value.map_or(Some(default), Value::as_f64);
        match theta.filter(|theta| theta.is_finite() && *theta >= 1.0) {
            Some(theta) => Ok(theta),
            None => self.wrong(name, value.unwrap_or(&Value::Null), "a number from 1 on"),
        }
    }
}

impl ModelConfig {
    /// Of a model folder, with the modules beside it.
    pub fn read(path: &Path) -> Parsed<Self> {
        let bytes = read_file(path)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        Self::with_modules(path, &bytes, Modules::read(folder)?)
    }

    /// The same, of a file's content; `path` is for messages.
    pub fn parse(path: &Path, bytes: &[u8]) -> Parsed<Self> {
        Self::with_modules(path, bytes, None)
    }

    /// Of a packed file.
    pub fn packed(path: &Path, manifest: &Manifest) -> Parsed<Self> {
        let modules = manifest.modules.clone().map(serde_json::from_value);
        let modules = modules.transpose().map_err(|error| {
            ModelError::unfit(path, "modules", error, "what this program packs")
        })?;
        Self::with_modules(path, manifest.config.to_string().as_bytes(), modules)
    }

    /// Whether the head is in modules of sentence-transformers.
    pub fn has_modules(&self) -> bool {
        self.modules.is_some()
    }

    /// `modules` are those of the folder that the configuration is from.
    pub(crate) fn with_modules(
        path: &Path,
        bytes: &[u8],
        modules: Option<Modules>,
    ) -> Parsed<Self> {
        const EXPECTED: &str = "a Hugging Face config.json of a reranker";
        let unreadable = |error: &dyn std::fmt::Display| {
            ModelError::unfit(path, "configuration", error, EXPECTED)
        };
        let value = json(bytes).map_err(|error| unreadable(&error))?;
        let Value::Object(fields) = &value else {
            return Err(unreadable(&"no object"));
        };
        let fields = Fields { path, fields };
        // Before anything else, because a model of another kind lacks other fields too.
        let (family, modules) = fields.family(&value, modules)?;
        if modules.is_none() {
            fields.check_labels(&value)?;
        }
        fields.check_library(&value)?;
        let mut config = fields.config(family)?;
        if let Some(modules) = &modules {
            config.modules = Some(modules.head(path, config.hidden_size)?);
        }
        Ok(config)
    }
}

impl Fields<'_> {
    fn config(&self, family: Family) -> Parsed<ModelConfig> {
        self.only("is_decoder", &Value::Bool(false))?;
        self.only("chunk_size_feed_forward", &Value::from(0))?;
        let [hidden, layers, heads, inner, act] = match family {
            Family::DistilBert => ["dim", "n_layers", "n_heads", "hidden_dim", "activation"],
            Family::ModernBert => [
                "hidden_size",
                "num_hidden_layers",
                "num_attention_heads",
                "intermediate_size",
                "hidden_activation",
            ],
            _ => [
                "hidden_size",
                "num_hidden_layers",
                "num_attention_heads",
                "intermediate_size",
                "hidden_act",
            ],
        };
        self.gelu(act)?;
        let hidden_size = self.size(hidden, None)?;
        let heads_count = self.size(heads, None)?;
        if !hidden_size.is_multiple_of(heads_count) {
            return self.wrong(
                hidden,
                hidden_size,
                format!("a multiple of the {heads_count} attention heads"),
            );
        }
        let (eps, default_eps) = match family {
            Family::ModernBert => ("norm_eps", 1e-5),
            _ => ("layer_norm_eps", 1e-12),
        };
        let wide_eps = match family {
            // Its layers do not read the field.
            Family::DistilBert => default_eps,
            _ => self.number(eps, default_eps)?,
        };
        #[allow(clippy::cast_possible_truncation)]
        let layer_norm_eps = wide_eps as f32;
        if !layer_norm_eps.is_finite() || layer_norm_eps < 0.0 {
            return self.wrong(eps, wide_eps, "a small number, 0 or more");
        }
        let pad_token_id = match self.get("pad_token_id") {
            // The defaults of each family.
            None => match family {
                Family::Bert | Family::Electra | Family::DistilBert | Family::Gte => 0,
                Family::ModernBert => 50283,
                _ => 1,
            },
            Some(value) => match value.as_u64().and_then(|id| u32::try_from(id).ok()) {
                Some(id) => id,
                None => return self.wrong("pad_token_id", value, "a token id"),
            },
        };
        let details = self.details(family, pad_token_id)?;
        let about = match self.get("reranker") {
            None => About::default(),
            Some(about) => About::deserialize(about)
                .or_else(|error| self.wrong("reranker", error, "an object of ours"))?,
        };
        let config = ModelConfig {
            family,
            vocab_size: self.size("vocab_size", None)?,
            hidden_size,
            embedding_size: match family {
                Family::Electra => self.size("embedding_size", Some(128))?,
                _ => hidden_size,
            },
            layers: self.size(layers, None)?,
            heads: heads_count,
            intermediate_size: self.size(inner, None)?,
            position_rows: self.size("max_position_embeddings", None)?,
            type_vocab_size: if details.segments {
                self.size("type_vocab_size", Some(2))?
            } else {
                1
            },
            layer_norm_eps,
            pad_token_id,
            tokenizer_class: self.text("tokenizer_class")?.map(str::to_owned),
            about,
            modules: None,
            details,
        };
        if config.max_length() < 8 {
            return self.wrong(
                "max_position_embeddings",
                config.position_rows,
                format!("at least {}", config.first_position() + 8),
            );
        }
        if config.details.positions == Positions::Rotary && !config.head_dim().is_multiple_of(2) {
            return self.wrong(
                hidden,
                hidden_size,
                format!("heads of an even width, of which there are {heads_count}"),
            );
        }
        if let Which::Listed(listed) = &config.details.which
            && listed.len() != config.layers
        {
            let expected = format!("one for each of the {} layers", config.layers);
            return self.wrong("layer_types", format!("{} entries", listed.len()), expected);
        }
        Ok(config)
    }

    fn details(&self, family: Family, pad: u32) -> Parsed<Details> {
        let counted = |pad: u32| Positions::Table {
            first: pad as usize + 1,
            pad: Some(pad),
        };
        let plain = Details {
            positions: Positions::Table {
                first: 0,
                pad: None,
            },
            segments: true,
            norm_first: false,
            gated: false,
            split_qkv: true,
            biases: Biases::ALL,
            full: Span::ALL,
            local: Span::ALL,
            which: Which::None,
            mean: false,
            head: Activation::Tanh,
        };
        let absolute = || {
            let found = self.text("position_embedding_type")?;
            match found.filter(|kind| *kind != "absolute") {
                None => Ok(()),
                Some(kind) => self.refuse(
                    "position_embedding_type",
                    format!("{kind:?}"),
                    "\"absolute\"",
                ),
            }
        };
        Ok(match family {
            Family::Bert => {
                absolute()?;
                plain
            }
            Family::Electra => {
                absolute()?;
                Details {
                    head: Activation::Gelu,
                    ..plain
                }
            }
            Family::Roberta | Family::XlmRoberta | Family::Camembert => {
                absolute()?;
                Details {
                    positions: counted(pad),
                    ..plain
                }
            }
            Family::XlmRobertaFlash => {
                absolute()?;
                if let Some(adapters) = self.get("lora_adaptations") {
                    return self.refuse(
                        "lora_adaptations",
                        adapters,
                        "nothing: adapters are not computed",
                    );
                }
                Details {
                    positions: counted(pad),
                    split_qkv: false,
                    ..plain
                }
            }
            Family::DistilBert => Details {
                segments: false,
                head: Activation::Relu,
                ..plain
            },
            Family::MpNet => {
                // transformers computes with as many buckets whatever the field says.
                self.only("relative_attention_num_buckets", &Value::from(32))?;
                Details {
                    // Its embeddings know this id alone.
                    positions: counted(1),
                    segments: false,
                    ..plain
                }
            }
            Family::Gte => self.gte(plain)?,
            Family::ModernBert => self.modern_bert()?,
        })
    }

    fn gte(&self, plain: Details) -> Parsed<Details> {
        self.only("layer_norm_type", &"layer_norm".into())?;
        self.only("logn_attention_scale", &Value::Bool(false))?;
        let rotary = match self.text("position_embedding_type")?.unwrap_or("rope") {
            "rope" => {
                let theta = self.theta("rope_theta", self.get("rope_theta"), 10000.0)?;
                let factor = self.ntk()?;
                Some(Rope { theta, factor })
            }
            "absolute" => None,
            other => {
                return self.refuse(
                    "position_embedding_type",
                    format!("{other:?}"),
                    "\"rope\" or \"absolute\"",
                );
            }
        };
        Ok(Details {
            positions: match rotary {
                Some(_) => Positions::Rotary,
                None => plain.positions,
            },
            // None where there are none of them.
            segments: self.get("type_vocab_size") != Some(&Value::from(0)),
            gated: true,
            split_qkv: !self.flag("pack_qkv", true)?,
            biases: Biases {
                up: false,
                ..Biases::ALL
            },
            full: Span {
                rotary,
                window: None,
            },
            ..plain
        })
    }

    /// The factor of NTK scaling, where positions are scaled.
    fn ntk(&self) -> Parsed<Option<f64>> {
        let Some(scaling) = self.get("rope_scaling") else {
            return Ok(None);
        };
        let kind = scaling.get("type").or_else(|| scaling.get("rope_type"));
        if kind.and_then(Value::as_str) != Some("ntk") {
            return self.refuse(
                "rope_scaling",
                scaling,
                "{\"type\": \"ntk\", \"factor\": …}",
            );
        }
        if let Some(mixed) = scaling.get("mixed_b").filter(|value| !value.is_null()) {
            return self.refuse("rope_scaling.mixed_b", mixed, "nothing");
        }
        let factor = scaling.get("factor").and_then(Value::as_f64);
        match factor.filter(|factor| factor.is_finite() && *factor >= 1.0) {
            Some(factor) => Ok(Some(factor)),
            None => self.wrong("rope_scaling.factor", scaling, "a number from 1 on"),
        }
    }

    fn modern_bert(&self) -> Parsed<Details> {
        let span = |kind: &str, old: &str, default: f64| {
            let new = self
                .get("rope_parameters")
                .and_then(|kinds| kinds.get(kind));
            for (name, given) in [
                (format!("rope_parameters.{kind}"), new),
                ("rope_scaling".to_owned(), self.get("rope_scaling")),
            ] {
                let named = given.and_then(|it| it.get("rope_type").or_else(|| it.get("type")));
                if let Some(named) = named.filter(|named| **named != "default") {
                    return self.refuse(&format!("{name}.rope_type"), named, "\"default\"");
                }
            }
            let new = new.and_then(|kind| kind.get("rope_theta"));
            match new.filter(|theta| !theta.is_null()) {
                Some(theta) => {
                    let name = format!("rope_parameters.{kind}.rope_theta");
                    self.theta(&name, Some(theta), default)
                }
                None => self.theta(old, self.get(old), default),
            }
        };
        let global = span("full_attention", "global_rope_theta", 160_000.0)?;
        // A null in the field of old is the other base.
        let is_null = self.fields.get("local_rope_theta") == Some(&Value::Null);
        let default = if is_null { global } else { 10_000.0 };
        let local = span("sliding_attention", "local_rope_theta", default)?;
        let rope = |theta| {
            Some(Rope {
                theta,
                factor: None,
            })
        };
        let which = match self.get("layer_types") {
            None => Which::Between(self.size("global_attn_every_n_layers", Some(3))?),
            Some(Value::Array(kinds)) => {
                let mut listed = Vec::with_capacity(kinds.len());
                for kind in kinds {
                    listed.push(match kind.as_str() {
                        Some("full_attention") => false,
                        Some("sliding_attention") => true,
                        _ => {
                            return self.refuse(
                                "layer_types",
                                kind,
                                "\"full_attention\" or \"sliding_attention\"",
                            );
                        }
                    });
                }
                Which::Listed(listed)
            }
            Some(other) => return self.wrong("layer_types", other, "a list"),
        };
        let mean = match self.text("classifier_pooling")?.unwrap_or("cls") {
            "cls" => false,
            "mean" => true,
            other => {
                return self.refuse(
                    "classifier_pooling",
                    format!("{other:?}"),
                    "\"cls\" or \"mean\"",
                );
            }
        };
        let activation = self.text("classifier_activation")?.unwrap_or("gelu");
        let Some(head) = Activation::named(activation) else {
            return self.refuse(
                "classifier_activation",
                format!("{activation:?}"),
                "\"gelu\", \"tanh\" or \"relu\"",
            );
        };
        let attention = self.flag("attention_bias", false)?;
        let mlp = self.flag("mlp_bias", false)?;
        Ok(Details {
            positions: Positions::Rotary,
            segments: false,
            norm_first: true,
            gated: true,
            split_qkv: false,
            biases: Biases {
                attention,
                up: mlp,
                down: mlp,
                norms: self.flag("norm_bias", false)?,
                head: self.flag("classifier_bias", false)?,
            },
            full: Span {
                rotary: rope(global),
                window: None,
            },
            local: Span {
                rotary: rope(local),
                window: Some(self.size("local_attention", Some(128))? / 2),
            },
            which,
            mean,
            head,
        })
    }

    /// The model's family, or why it has none that is served; with the modules where they are its
    /// head.
    fn family(
        &self,
        config: &Value,
        modules: Option<Modules>,
    ) -> Parsed<(Family, Option<Modules>)> {
        let kind = config["model_type"].as_str();
        let of_kind = |class: &&Class| kind.is_some_and(|kind| class.model_types.contains(&kind));
        let code = |role: &str| {
            let named = config["auto_map"][role].as_str()?;
            // As `owner/repository--file.Class`.
            named.rsplit('.').next()
        };
        let flash = code("AutoConfig") == Some(FLASH_CONFIG);
        let mut classes = CLASSES.iter().filter(of_kind);
        let found = classes.find(|class| !flash || class.family == Family::XlmRobertaFlash);
        let Some(class) = found else {
            let class = config["architectures"][0].as_str().unwrap_or_default();
            let mut elsewhere = ELSEWHERE.iter();
            let elsewhere = elsewhere.find(|(kinds, ends, _)| {
                kind.is_some_and(|kind| kinds.contains(&kind))
                    || ends.iter().any(|end| class.ends_with(end))
            });
            let names: Vec<&str> = CLASSES[..CLASSES.len() - 1]
                .iter()
                .map(|class| class.model_types[0])
                .collect();
            let served = format!("one of {}", names.join(", "));
            let expected = elsewhere.map_or(served.clone(), |(.., why)| format!("{served}; {why}"));
            return self.refuse("model_type", &config["model_type"], expected);
        };
        let first = config["architectures"][0].as_str().unwrap_or_default();
        let bare = class.is_bare(first);
        // Custom code may compute anything under the names of a known architecture.
        let roles = [
            "AutoConfig",
            if bare {
                "AutoModel"
            } else {
                "AutoModelForSequenceClassification"
            },
        ];
        for role in roles {
            let named = &config["auto_map"][role];
            if !named.is_null() && code(role).is_none_or(|code| !class.code.contains(&code)) {
                return self.refuse(
                    "auto_map",
                    format!("{role} by custom code, {named}"),
                    "an architecture of transformers itself: code from model repositories is not run",
                );
            }
        }
        let headed = |names: &[Value]| {
            let mut names = names.iter().filter_map(Value::as_str);
            names.any(|name| class.architectures.contains(&name))
        };
        match &config["architectures"] {
            // transformers takes the class from the model's type.
            Value::Null => {}
            Value::Array(names) if names.is_empty() || headed(names) => {}
            Value::Array(_) if bare => {
                return match modules.filter(Modules::has_score) {
                    Some(modules) => Ok((class.family, Some(modules))),
                    None => self.refuse(
                        "architectures",
                        &config["architectures"],
                        format!(
                            "[{:?}]: this is an embedding model, which gives vectors and no score",
                            class.architectures[0]
                        ),
                    ),
                };
            }
            other => {
                let what = if first.ends_with("Model") {
                    "this is an embedding model, which gives vectors and no score"
                } else if first.ends_with("ForMaskedLM") {
                    "this is a language model before any training for ranking"
                } else {
                    "a model with a head for one score"
                };
                let expected = format!("[{:?}]: {what}", class.architectures[0]);
                return self.refuse("architectures", other, expected);
            }
        }
        if let Some(modules) = modules.filter(|modules| !modules.is_empty()) {
            return self.refuse(
                "architectures",
                &config["architectures"],
                format!(
                    "a model without a head, or no {} behind it in modules.json",
                    modules.names()
                ),
            );
        }
        Ok((class.family, None))
    }

    /// Refuses any number of labels but one, counted as transformers counts them.
    fn check_labels(&self, config: &Value) -> Parsed<()> {
        const WANTED: &str = "1 (a reranker has one logit)";
        let refuse = |what: &str, found: String| self.refuse(what, found, WANTED);
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

    /// Refuses a model whose score sentence-transformers would make of the logit by anything that
    /// changes its order or cannot be told.
    fn check_library(&self, config: &Value) -> Parsed<()> {
        for (name, function) in [
            (
                "sentence_transformers.activation_fn",
                &config["sentence_transformers"]["activation_fn"],
            ),
            (
                "sbert_ce_default_activation_function",
                &config["sbert_ce_default_activation_function"],
            ),
        ] {
            let known = function.as_str().is_some_and(|function| {
                let class = function.rsplit('.').next();
                matches!(class, Some("Identity" | "Sigmoid"))
            });
            if !function.is_null() && !known {
                let expected = "torch's Identity or Sigmoid, of a logit that is served as both";
                return self.refuse(name, function, expected);
            }
        }
        Ok(())
    }
}

impl ModelConfig {
    /// Row of the first token's position, where there is a table.
    pub(crate) fn first_position(&self) -> usize {
        match self.details.positions {
            Positions::Table { first, .. } => first,
            Positions::Rotary => 0,
        }
    }

    /// The longest sequence that the positions allow, in tokens.
    pub fn max_length(&self) -> usize {
        self.position_rows.saturating_sub(self.first_position())
    }

    /// Width of a head: [`Self::hidden_size`] over [`Self::heads`].
    pub(crate) fn head_dim(&self) -> usize {
        self.hidden_size / self.heads
    }

    /// What attention in this layer sees.
    pub(super) fn span(&self, layer: usize) -> Span {
        let local = match &self.details.which {
            Which::None => false,
            Which::Between(every) => !layer.is_multiple_of(*every),
            Which::Listed(listed) => listed.get(layer).copied().unwrap_or_default(),
        };
        if local {
            self.details.local
        } else {
            self.details.full
        }
    }

    /// What our own CUDA kernels do not compute, of what this model needs; candle's operations
    /// compute it.
    pub(crate) fn beyond_kernels(&self) -> Option<&'static str> {
        let details = &self.details;
        let mean = self
            .modules
            .as_ref()
            .map_or(details.mean, |modules| modules.mean);
        if details.norm_first {
            Some("norms before the sub-layers")
        } else if details.gated {
            Some("a gated feed-forward network")
        } else if details.positions == Positions::Rotary {
            Some("rotary positions")
        } else if self.family == Family::MpNet {
            Some("a relative position bias")
        } else if mean {
            Some("a head on the mean of all tokens")
        } else if self.embedding_size != self.hidden_size {
            Some("a projection of the embeddings")
        } else if !details.segments {
            Some("embeddings without segments")
        } else if self.modules.is_some() || details.head != Activation::Tanh {
            Some("another head than a layer, tanh and one output")
        } else {
            None
        }
    }

    /// Multiply-adds of one forward pass over sequences of these lengths, times two: matrices and
    /// attention.
    pub fn flops(&self, lengths: impl IntoIterator<Item = usize>) -> f64 {
        let (h, f) = (self.hidden_size as f64, self.intermediate_size as f64);
        let feed = if self.details.gated { 3.0 } else { 2.0 };
        let local = (0..self.layers).filter(|layer| self.span(*layer).window.is_some());
        let local = local.count() as f64;
        let full = self.layers as f64 - local;
        let window = self.details.local.window.unwrap_or_default();
        lengths
            .into_iter()
            .map(|tokens| {
                let t = tokens as f64;
                let near = (2 * window + 1).min(tokens) as f64;
                let matrices = 2.0 * t * (4.0 * h * h + feed * h * f);
                self.layers as f64 * matrices + 4.0 * t * h * (full * t + local * near)
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
        // 335 GFLOP for one pair of 512 tokens: 2 * 302e6 * 512 for the matrices, 4 * 512^2 * 1024 *
        // 24 for attention.
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
            ("1024", "\"wide\"", "hidden_size"),
            (
                "\"hidden_act\"",
                "\"sentence_transformers\":{\"activation_fn\":\"my.Own\"},\"hidden_act\"",
                "sentence_transformers.activation_fn",
            ),
        ] {
            let error = parse(&V2_M3.replace(from, to)).expect_err(named);
            assert!(
                error.starts_with("config.json: ") && error.contains(named),
                "{named}: {error}"
            );
        }
    }

    const MODERN: &str = r#"{"architectures":["ModernBertForSequenceClassification"],"model_type":"modernbert",
        "hidden_activation":"gelu","hidden_size":768,"num_labels":1,"intermediate_size":1152,"norm_eps":1e-05,"local_attention":128,
        "max_position_embeddings":8192,"num_attention_heads":12,"num_hidden_layers":22,"global_attn_every_n_layers":3,
        "global_rope_theta":160000.0,"local_rope_theta":10000.0,"classifier_pooling":"mean","vocab_size":50368}"#;
    const GTE: &str = r#"{"architectures":["NewForSequenceClassification"],"model_type":"new","hidden_act":"gelu",
        "auto_map":{"AutoConfig":"Alibaba-NLP/new-impl--configuration.NewConfig",
        "AutoModelForSequenceClassification":"Alibaba-NLP/new-impl--modeling.NewForSequenceClassification"},
        "hidden_size":768,"id2label":{"0":"LABEL_0"},"intermediate_size":3072,"layer_norm_eps":1e-12,"layer_norm_type":"layer_norm",
        "logn_attention_scale":false,"max_position_embeddings":8192,"num_attention_heads":12,"num_hidden_layers":12,"pack_qkv":true,
        "pad_token_id":1,"position_embedding_type":"rope","rope_scaling":{"factor":8.0,"type":"ntk"},"rope_theta":20000,
        "type_vocab_size":1,"vocab_size":250048}"#;
    const BASE: &str = r#"{"hidden_act":"gelu","hidden_size":64,"id2label":{"0":"L"},"intermediate_size":99,
        "max_position_embeddings":66,"num_attention_heads":4,"num_hidden_layers":2,"vocab_size":99,"model_type":"KIND"}"#;

    #[test]
    fn windows_and_bases_are_those_of_the_layers() {
        let window = |config: &ModelConfig, layer| {
            let span = config.span(layer);
            (span.window, span.rotary.map(|rope| rope.theta))
        };
        let config = parse(MODERN).expect("parses");
        assert_eq!(config.max_length(), 8192);
        assert!(config.details.mean && config.details.norm_first);
        let (full, local) = ((None, Some(160_000.0)), (Some(64), Some(10_000.0)));
        for (layer, expected) in [(0, full), (1, local), (2, local), (3, full), (21, full)] {
            assert_eq!(window(&config, layer), expected, "{layer}");
        }
        // The same as transformers 5 writes it, with every kind listed.
        let kinds: Vec<&str> = (0..22)
            .map(|layer| match layer % 2 {
                0 => "\"full_attention\"",
                _ => "\"sliding_attention\"",
            })
            .collect();
        let listed = format!("\"layer_types\":[{}]", kinds.join(","));
        let text = MODERN
            .replace("\"global_attn_every_n_layers\":3", &listed)
            .replace(
                "\"global_rope_theta\":160000.0,\"local_rope_theta\":10000.0",
                "\"rope_parameters\":{\"full_attention\":{\"rope_theta\":7e4,\"rope_type\":\"default\"},
                \"sliding_attention\":{\"rope_theta\":9e3}}",
            );
        let config = parse(&text).expect("parses");
        assert_eq!(window(&config, 1), (Some(64), Some(9e3)));
        assert_eq!(window(&config, 2), (None, Some(7e4)));
        let text = MODERN.replace("\"local_rope_theta\":10000.0", "\"local_rope_theta\":null");
        let config = parse(&text).expect("parses");
        assert_eq!(window(&config, 1), (Some(64), Some(160_000.0)));
        let gte = parse(GTE).expect("parses");
        let rope = gte.span(11).rotary.expect("rotary");
        assert_eq!((rope.theta, rope.factor), (20000.0, Some(8.0)));
    }

    #[test]
    fn what_a_family_is_published_with_is_understood_or_refused_by_name() {
        let classed = |class: &str| format!("\"architectures\":[\"{class}\"],\"model_type\"");
        for (kind, class, family) in [
            (
                "electra",
                "ElectraForSequenceClassification",
                Family::Electra,
            ),
            ("mpnet", "MPNetForSequenceClassification", Family::MpNet),
            (
                "camembert",
                "CamembertForSequenceClassification",
                Family::Camembert,
            ),
            ("new", "GteNewForSequenceClassification", Family::Gte),
        ] {
            let text = BASE.replace("KIND", kind);
            let text = text.replace("\"model_type\"", &classed(class));
            let config = parse(&text).unwrap_or_else(|error| panic!("{kind}: {error}"));
            assert_eq!(config.family, family);
        }
        let mut refused = vec![
            (MODERN.replace("\"mean\"", "\"max\""), "classifier_pooling"),
            (MODERN.replace("\"gelu\"", "\"silu\""), "hidden_activation"),
            (
                MODERN.replace("\"num_attention_heads\":12", "\"num_attention_heads\":256"),
                "hidden_size",
            ),
            (
                MODERN.replace(
                    "\"local_attention\":128",
                    "\"layer_types\":[\"full_attention\"]",
                ),
                "layer_types",
            ),
            (
                MODERN.replace(
                    "\"local_attention\":128",
                    "\"rope_scaling\":{\"type\":\"yarn\"}",
                ),
                "rope_scaling.rope_type",
            ),
            (
                MODERN.replace("\"num_labels\":1", "\"num_labels\":3"),
                "number of labels",
            ),
            (
                MODERN.replace("ModernBertForSequenceClassification", "ModernBertModel"),
                "this is an embedding model",
            ),
            (GTE.replace("\"ntk\"", "\"linear\""), "rope_scaling"),
            (GTE.replace("8.0", "0.5"), "rope_scaling.factor"),
            (
                GTE.replace("_scale\":false", "_scale\":true"),
                "logn_attention_scale",
            ),
            (
                GTE.replace("\"layer_norm\"", "\"rms_norm\""),
                "layer_norm_type",
            ),
            (GTE.replace("modeling.New", "modeling.Other"), "auto_map"),
        ];
        for (kind, advice) in [
            ("deberta-v2", "gte-reranker-modernbert-base"),
            ("qwen3", "causal language model"),
            ("gemma2", "causal language model"),
            ("cost_wise_gemma", "causal language model"),
            ("t5", "writes text"),
            ("albert", "modernbert"),
        ] {
            refused.push((BASE.replace("KIND", kind), advice));
        }
        for (text, named) in refused {
            let error = parse(&text).expect_err(named);
            assert!(error.contains(named), "{named}: {error}");
        }
    }
}
