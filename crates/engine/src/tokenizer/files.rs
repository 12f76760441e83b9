//! What transformers makes of a folder's tokenizer files.
//!
//! `tokenizer.json` alone does not decide ids. Each tokenizer class of transformers puts settings
//! of its own, from `tokenizer_config.json` or its defaults, in place of the file's. Where versions
//! 4 and 5 do the same, the file is changed as they change it. Where they differ, the folder is
//! refused by file and field, because no score of it could equal both. What was meant for training
//! (dropout) is switched off. Data out: a `tokenizer.json` that needs no other file.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use base64::Engine as _;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use tokenizers::processors::PostProcessorWrapper;

use super::compile::Vocabulary;
use super::compiled::{Side, TemplatePiece};
use super::template::template;
use crate::error::{ModelError, Remedy};
use reranker_json::mended;

/// What `config.json` says that decides how texts become tokens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ModelFacts<'a> {
    /// `model_type` of `config.json`.
    pub model_type: &'a str,
    /// `tokenizer_class` of `config.json`.
    pub tokenizer_class: Option<&'a str>,
    /// Rows of the segment table.
    pub segments: usize,
}

/// The settings file beside `tokenizer.json`.
pub const CONFIG_FILE: &str = "tokenizer_config.json";

/// How a folder that versions read differently is served nevertheless.
const WAY_OUT: &str = "to have tokenizer.json read as it stands, set tokenizer_class to PreTrainedTokenizerFast and model_input_names in tokenizer_config.json";

/// A folder's tokenizer files, and facts about their model.
pub(crate) struct Files<'a> {
    pub json: &'a [u8],
    pub json_path: &'a Path,
    /// Content of [`CONFIG_FILE`], where there is one.
    pub config: Option<&'a [u8]>,
    pub facts: ModelFacts<'a>,
}

/// A `tokenizer.json` that needs no other file, and what must be checked once it is read.
pub(crate) struct Effective<'a> {
    pub json: Cow<'a, [u8]>,
    /// The longest sequence in tokens, where the files say one.
    pub max_length: Option<usize>,
    pub expected: Option<Expected>,
}

/// The pair that a class builds in one version, whatever the file's post-processor says.
pub(crate) struct Expected {
    class: String,
    version: u8,
    pieces: Vec<Place>,
}

#[derive(Debug, Clone, PartialEq)]
enum Place {
    Token(String),
    Text(Side),
}

/// The classes that differ in what they put in the file's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Bert,
    Roberta,
    XlmRoberta,
    Camembert,
    MpNet,
    /// Of a ModernBERT: version 5 reads the file as it stands, 4 puts a template of its own in it.
    Llama,
    /// The file as it stands, of either version or of 5 alone.
    Generic,
    Generic5,
}

/// The class of that name, and whether the model gets segments where `model_input_names` does not
/// say.
fn class(name: &str) -> Option<(Class, bool)> {
    Some(match name.strip_suffix("Fast").unwrap_or(name) {
        "BertTokenizer"
        | "ElectraTokenizer"
        | "MobileBertTokenizer"
        | "SqueezeBertTokenizer"
        | "LayoutLMTokenizer" => (Class::Bert, true),
        "DistilBertTokenizer" => (Class::Bert, false),
        "RobertaTokenizer" | "LongformerTokenizer" => (Class::Roberta, false),
        "XLMRobertaTokenizer" => (Class::XlmRoberta, false),
        "CamembertTokenizer" => (Class::Camembert, false),
        "MPNetTokenizer" => (Class::MpNet, false),
        "LlamaTokenizer" => (Class::Llama, false),
        "PreTrainedTokenizer" => (Class::Generic, true),
        "TokenizersBackend" => (Class::Generic5, false),
        _ => return None,
    })
}

impl Class {
    /// Names of the special tokens that it has without being told, and what they are.
    fn tokens(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Bert => &[
                ("unk_token", "[UNK]"),
                ("sep_token", "[SEP]"),
                ("pad_token", "[PAD]"),
                ("cls_token", "[CLS]"),
                ("mask_token", "[MASK]"),
            ],
            Self::Roberta | Self::XlmRoberta | Self::Camembert => &[
                ("bos_token", "<s>"),
                ("eos_token", "</s>"),
                ("sep_token", "</s>"),
                ("cls_token", "<s>"),
                ("unk_token", "<unk>"),
                ("pad_token", "<pad>"),
                ("mask_token", "<mask>"),
            ],
            Self::MpNet => &[
                ("bos_token", "<s>"),
                ("eos_token", "</s>"),
                ("sep_token", "</s>"),
                ("cls_token", "<s>"),
                ("unk_token", "[UNK]"),
                ("pad_token", "<pad>"),
                ("mask_token", "<mask>"),
            ],
            Self::Llama => &[
                ("bos_token", "<s>"),
                ("eos_token", "</s>"),
                ("unk_token", "<unk>"),
            ],
            Self::Generic | Self::Generic5 => &[],
        }
    }

    /// The version whose template it is that a folder has to have.
    fn template_of(self) -> u8 {
        if self == Self::Llama { 4 } else { 5 }
    }
}

/// Every name under which a settings file has a special token.
const TOKEN_FIELDS: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// Why the files are refused.
#[derive(Debug, thiserror::Error)]
#[error("{field}: found {found}, expected {expected}")]
pub(crate) struct Refusal {
    of_config: bool,
    field: String,
    found: String,
    expected: String,
}

impl Refusal {
    /// `path` is the tokenizer file's.
    pub(crate) fn at(self, path: &Path) -> ModelError {
        let path = if self.of_config {
            path.with_file_name(CONFIG_FILE)
        } else {
            path.to_owned()
        };
        ModelError::unfit(&path, self.field, self.found, self.expected).with(Remedy::Mend)
    }
}

type Step<T> = Result<T, Refusal>;

fn refuse<T>(field: &str, found: impl ToString, expected: impl Into<String>) -> Step<T> {
    Err(Refusal {
        of_config: false,
        field: field.into(),
        found: found.to_string(),
        expected: expected.into(),
    })
}

fn refuse_config<T>(field: &str, found: impl ToString, expected: impl Into<String>) -> Step<T> {
    refuse(field, found, expected).map_err(|refusal: Refusal| Refusal {
        of_config: true,
        ..refusal
    })
}

/// Reads the parts of the file that are not the vocabulary, which is passed over where nothing asks
/// for it.
struct File<'a> {
    parts: BTreeMap<String, &'a RawValue>,
    changed: BTreeMap<&'static str, Box<RawValue>>,
}

/// The model's part without its vocabulary.
#[derive(Deserialize, Default)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    dropout: Option<f64>,
    unk_token: Option<String>,
    unk_id: Option<u32>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    max_input_chars_per_word: Option<usize>,
    ignore_merges: Option<bool>,
    byte_fallback: Option<bool>,
}

impl<'a> File<'a> {
    fn read(json: &'a [u8]) -> Step<Self> {
        let parts = serde_json::from_slice(json)
            .or_else(|error| refuse("tokenizer", error, "a Hugging Face fast tokenizer file"))?;
        Ok(Self {
            parts,
            changed: BTreeMap::new(),
        })
    }

    fn value(&self, part: &str) -> Step<Value> {
        let Some(raw) = self.parts.get(part) else {
            return Ok(Value::Null);
        };
        serde_json::from_str(raw.get())
            .or_else(|error| refuse(part, error, "what Hugging Face's crate writes"))
    }

    fn model(&self) -> Step<Model> {
        let Some(raw) = self.parts.get("model") else {
            return Ok(Model::default());
        };
        serde_json::from_str(raw.get())
            .or_else(|error| refuse("model", error, "what Hugging Face's crate writes"))
    }

    fn vocabulary(&self) -> Step<BTreeSet<String>> {
        #[derive(Deserialize)]
        struct Words {
            vocab: Vocabulary,
        }
        let raw = self.parts.get("model").map_or("{}", |raw| raw.get());
        let words: Words = serde_json::from_str(raw)
            .or_else(|error| refuse("model", error, "a model with a vocabulary"))?;
        Ok(match words.vocab {
            Vocabulary::Scored(pieces) => pieces.into_iter().map(|(piece, _)| piece).collect(),
            Vocabulary::Ids(ids) => ids.into_keys().collect(),
        })
    }

    fn change(&mut self, part: &'static str, value: &Value) -> Step<()> {
        let raw = RawValue::from_string(value.to_string())
            .or_else(|error| refuse(part, error, "what can be written"))?;
        self.changed.insert(part, raw);
        Ok(())
    }

    /// The same model with one field of it changed, its vocabulary as it stands.
    fn change_model(&mut self, field: &str, value: &Value) -> Step<()> {
        let unreadable = |error: serde_json::Error| Refusal {
            of_config: false,
            field: "model".into(),
            found: error.to_string(),
            expected: "what Hugging Face's crate writes".into(),
        };
        let raw = self.parts.get("model").map_or("{}", |raw| raw.get());
        let mut fields: BTreeMap<String, &RawValue> =
            serde_json::from_str(raw).map_err(unreadable)?;
        let value = RawValue::from_string(value.to_string()).map_err(unreadable)?;
        fields.insert(field.to_owned(), &value);
        let text = serde_json::to_string(&fields).map_err(unreadable)?;
        let raw = RawValue::from_string(text).map_err(unreadable)?;
        self.changed.insert("model", raw);
        Ok(())
    }

    fn write(&self) -> Step<Option<Vec<u8>>> {
        if self.changed.is_empty() {
            return Ok(None);
        }
        let mut parts: BTreeMap<&str, &RawValue> = self
            .parts
            .iter()
            .map(|(name, raw)| (name.as_str(), *raw))
            .collect();
        for (name, raw) in &self.changed {
            parts.insert(name, raw);
        }
        serde_json::to_vec(&parts)
            .map(Some)
            .or_else(|error| refuse("tokenizer", error, "what can be written"))
    }
}

/// The file as it stands, made safe to read: no dropout, and no rules that the crate would panic
/// over.
pub(crate) fn alone(json: &[u8]) -> Step<Cow<'_, [u8]>> {
    let mut file = File::read(json)?;
    make_safe(&mut file)?;
    Ok(file.write()?.map_or(Cow::Borrowed(json), Cow::Owned))
}

fn make_safe(file: &mut File<'_>) -> Step<()> {
    check_normalizer(&file.value("normalizer")?)?;
    if file.model()?.dropout.is_some() {
        file.change_model("dropout", &Value::Null)?;
    }
    Ok(())
}

impl<'a> Files<'a> {
    pub(crate) fn effective(&self) -> Result<Effective<'a>, ModelError> {
        self.apply().map_err(|refusal| refusal.at(self.json_path))
    }

    fn apply(&self) -> Step<Effective<'a>> {
        let config = Config::read(self.config)?;
        let (class_name, class, by_default) = self.class(&config)?;
        let mut file = File::read(self.json)?;
        make_safe(&mut file)?;
        config.check_sides(&file)?;
        let model = file.model()?;
        let kind = match class {
            Class::Bert | Class::MpNet => Some("WordPiece"),
            Class::Roberta => Some("BPE"),
            Class::XlmRoberta | Class::Camembert => Some("Unigram"),
            Class::Llama | Class::Generic | Class::Generic5 => None,
        };
        if let (Some(kind), Some(found)) = (kind, &model.kind)
            && kind != found
        {
            return refuse(
                "model.type",
                found,
                format!(
                    "{kind}, which a {class_name} has: this tokenizer is another model's, or tokenizer_class is wrong"
                ),
            );
        }
        match class {
            Class::Bert | Class::MpNet => bert(&config, &mut file, &model, &class_name, class)?,
            Class::Roberta => roberta(&config, &mut file, &model, &class_name)?,
            Class::XlmRoberta | Class::Camembert => {
                unigram(&config, &file, &model, &class_name, class)?;
            }
            Class::Generic => {
                let wanted = config.flag("add_prefix_space")?.unwrap_or(false);
                let found = file.value("pre_tokenizer")?["add_prefix_space"].as_bool();
                if found.is_some_and(|found| found != wanted) {
                    return refuse(
                        "pre_tokenizer.add_prefix_space",
                        !wanted,
                        format!(
                            "{wanted}, as transformers 4 has it by tokenizer_config.json: set add_prefix_space there to {}",
                            !wanted
                        ),
                    );
                }
            }
            Class::Llama => llama(&config, &file, &class_name)?,
            Class::Generic5 => {}
        }
        add_tokens(&config, &mut file, class, &class_name)?;
        self.segments(&config, &mut file, class, &class_name, by_default)?;
        let token = |field| config.token(field, class);
        let text = Place::Text;
        let mark = |field| token(field).map(Place::Token);
        let pieces = match class {
            Class::Bert | Class::MpNet | Class::Roberta => {
                let (first, separator) = (mark("cls_token")?, mark("sep_token")?);
                let mut pieces = vec![first, text(Side::Query), separator.clone()];
                if class != Class::Bert {
                    pieces.push(separator.clone());
                }
                pieces.extend([text(Side::Document), separator]);
                pieces
            }
            Class::XlmRoberta | Class::Camembert => {
                let (first, separator) = (mark("bos_token")?, mark("eos_token")?);
                vec![
                    first,
                    text(Side::Query),
                    separator.clone(),
                    separator.clone(),
                    text(Side::Document),
                    separator,
                ]
            }
            // Around each text, where the settings do not say otherwise.
            Class::Llama => {
                let begins = config.flag("add_bos_token")?.unwrap_or(true);
                let ends = config.flag("add_eos_token")?.unwrap_or(false);
                let mut pieces = Vec::new();
                for side in [Side::Query, Side::Document] {
                    pieces.extend(begins.then(|| mark("bos_token")).transpose()?);
                    pieces.push(text(side));
                    pieces.extend(ends.then(|| mark("eos_token")).transpose()?);
                }
                pieces
            }
            Class::Generic | Class::Generic5 => Vec::new(),
        };
        let expected = (!pieces.is_empty()).then(|| Expected {
            class: class_name,
            version: class.template_of(),
            pieces,
        });
        Ok(Effective {
            json: file.write()?.map_or(Cow::Borrowed(self.json), Cow::Owned),
            max_length: config.max_length()?,
            expected,
        })
    }

    /// The class that reads the files: the settings file names it, else `config.json`, else it
    /// follows from the model's type.
    fn class(&self, config: &Config) -> Step<(String, Class, bool)> {
        let named = config.text("tokenizer_class")?;
        let name = named
            .clone()
            .or_else(|| self.facts.tokenizer_class.map(str::to_owned))
            .unwrap_or_else(|| {
                match self.facts.model_type {
                    "bert" => "BertTokenizer",
                    "electra" => "ElectraTokenizer",
                    "distilbert" => "DistilBertTokenizer",
                    "mpnet" => "MPNetTokenizer",
                    "modernbert" => "PreTrainedTokenizerFast",
                    "roberta" => "RobertaTokenizer",
                    "camembert" => "CamembertTokenizer",
                    _ => "XLMRobertaTokenizer",
                }
                .to_owned()
            });
        if config.has_custom_code() {
            return refuse_config(
                "auto_map.AutoTokenizer",
                "a tokenizer of custom code",
                "one of transformers itself: remove the entry where tokenizer.json alone does the same",
            );
        }
        match class(&name) {
            Some((Class::Llama, _)) if self.facts.model_type != "modernbert" => Err(Refusal {
                of_config: named.is_some(),
                field: "tokenizer_class".into(),
                found: format!("{name:?} of a model of type {}", self.facts.model_type),
                expected: format!(
                    "one that both versions of transformers read alike: 5 makes a BPE tokenizer of the file's vocabulary; {WAY_OUT}"
                ),
            }),
            Some((class, segments)) => Ok((name, class, segments)),
            None => Err(Refusal {
                of_config: named.is_some(),
                field: "tokenizer_class".into(),
                found: format!("{name:?}"),
                expected: format!(
                    "the tokenizer of BERT, RoBERTa, XLM-RoBERTa, CamemBERT or MPNet; {WAY_OUT}"
                ),
            }),
        }
    }

    /// Makes the template give the segments that the model gets from transformers.
    fn segments(
        &self,
        config: &Config,
        file: &mut File<'_>,
        class: Class,
        class_name: &str,
        by_default: bool,
    ) -> Step<()> {
        let names = config.input_names()?;
        let processor = file.value("post_processor")?;
        let processor: Option<PostProcessorWrapper> = serde_json::from_value(processor)
            .or_else(|error| refuse("post_processor", error, "what Hugging Face's crate writes"))?;
        let pieces = match processor.as_ref().map(template).transpose() {
            Ok(Some(pieces)) => pieces,
            Ok(None) => return Ok(()),
            Err(reason) => return refuse("post_processor", reason, "a template for a pair"),
        };
        let found: Vec<u32> = pieces.iter().map(|piece| piece.type_id()).collect();
        let some = found.iter().any(|&id| id != 0);
        let wanted = names.unwrap_or(by_default);
        if self.facts.segments > 1 {
            let differ = |expected: String| {
                refuse("post_processor", format!("segments {found:?}"), expected)
            };
            match class {
                Class::Generic if names.is_none() && some => {
                    return refuse_config(
                        "model_input_names",
                        "nothing",
                        format!(
                            "whether token_type_ids is among them: of a {class_name} version 4 of transformers gives the model segments, version 5 does not"
                        ),
                    );
                }
                Class::Roberta | Class::XlmRoberta | Class::Camembert if wanted && some => {
                    return differ(format!(
                        "0 for all, as transformers 5 has it for a {class_name}, or model_input_names without token_type_ids; {WAY_OUT}"
                    ));
                }
                Class::Bert if wanted && found != [0, 0, 0, 1, 1] => {
                    return differ(format!(
                        "[0, 0, 0, 1, 1], as transformers 5 has it for a {class_name}; {WAY_OUT}"
                    ));
                }
                _ => {}
            }
        }
        if some && (self.facts.segments == 1 || !wanted) {
            file.change("post_processor", &without_segments(&pieces))?;
        }
        Ok(())
    }
}

/// The same template with segment 0 throughout, as a post-processor.
fn without_segments(pieces: &[TemplatePiece]) -> Value {
    let mut special = Map::new();
    let pair: Vec<Value> = pieces
        .iter()
        .map(|piece| match *piece {
            TemplatePiece::Token { id, .. } => {
                let name = format!("token {id}");
                special.insert(
                    name.clone(),
                    json!({"id": name, "ids": [id], "tokens": [name]}),
                );
                json!({"SpecialToken": {"id": name, "type_id": 0}})
            }
            TemplatePiece::Text { side, .. } => {
                let name = match side {
                    Side::Query => "A",
                    Side::Document => "B",
                };
                json!({"Sequence": {"id": name, "type_id": 0}})
            }
        })
        .collect();
    json!({
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}],
        "pair": pair,
        "special_tokens": special,
    })
}

impl Expected {
    /// Refuses a template that is not the class's own, with the ids that `id` gives its tokens.
    pub(crate) fn check(
        &self,
        pieces: &[TemplatePiece],
        id: impl Fn(&str) -> Option<u32>,
        path: &Path,
    ) -> Result<(), ModelError> {
        let mut words = Vec::new();
        let mut same = pieces.len() == self.pieces.len();
        for (piece, place) in pieces.iter().zip(&self.pieces) {
            same &= match (piece, place) {
                (TemplatePiece::Token { id: found, .. }, Place::Token(token)) => {
                    id(token) == Some(*found)
                }
                (TemplatePiece::Text { side, .. }, Place::Text(wanted)) => side == wanted,
                _ => false,
            };
        }
        for place in &self.pieces {
            words.push(match place {
                Place::Token(token) => token.as_str(),
                Place::Text(Side::Query) => "A",
                Place::Text(Side::Document) => "B",
            });
        }
        if same {
            return Ok(());
        }
        let found = pieces.iter().map(|piece| match piece {
            TemplatePiece::Token { id, .. } => id.to_string(),
            TemplatePiece::Text { side, .. } => match side {
                Side::Query => "A".to_owned(),
                Side::Document => "B".to_owned(),
            },
        });
        Err(ModelError::unfit(
            path,
            "post_processor",
            format!("the template {}", found.collect::<Vec<_>>().join(" ")),
            format!(
                "{}, which transformers {} puts in its place for a {}; {WAY_OUT}",
                words.join(" "),
                self.version,
                self.class
            ),
        )
        .with(Remedy::Mend))
    }
}

/// `tokenizer_config.json`.
struct Config(Map<String, Value>);

impl Config {
    fn read(bytes: Option<&[u8]>) -> Step<Self> {
        let Some(bytes) = bytes else {
            return Ok(Self(Map::new()));
        };
        serde_json::from_slice(&mended(bytes))
            .map(Self)
            .or_else(|error| refuse_config("settings", error, "a JSON object"))
    }

    /// The field, unless it is absent or null.
    fn get(&self, field: &str) -> Option<&Value> {
        self.0.get(field).filter(|value| !value.is_null())
    }

    fn flag(&self, field: &str) -> Step<Option<bool>> {
        match self.0.get(field) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => refuse_config(field, other, "true or false"),
        }
    }

    fn text(&self, field: &str) -> Step<Option<String>> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => refuse_config(field, other, "a text"),
        }
    }

    /// The content of a special token, which is a text or an object that has it.
    fn own_token(&self, field: &str) -> Step<Option<String>> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(Value::Object(token)) if token.get("content").is_some_and(Value::is_string) => {
                Ok(token["content"].as_str().map(str::to_owned))
            }
            Some(other) => refuse_config(field, other, "a text, or an object with a content"),
        }
    }

    fn token(&self, field: &str, class: Class) -> Step<String> {
        let own = self.own_token(field)?;
        let default = class.tokens().iter().find(|(name, _)| *name == field);
        Ok(own.unwrap_or_else(|| default.map_or("", |(_, token)| token).to_owned()))
    }

    /// Whether the model gets segments, if the file says so.
    fn input_names(&self) -> Step<Option<bool>> {
        match self.0.get("model_input_names") {
            None => Ok(None),
            Some(Value::Array(names)) if names.iter().all(Value::is_string) => {
                Ok(Some(names.iter().any(|name| name == "token_type_ids")))
            }
            Some(other) => refuse_config("model_input_names", other, "a list of names"),
        }
    }

    fn has_custom_code(&self) -> bool {
        match self.get("auto_map") {
            Some(Value::Object(map)) => map.contains_key("AutoTokenizer"),
            Some(Value::Array(_)) => true,
            _ => false,
        }
    }

    /// `None` where the file sets no bound, which transformers writes as a number of thirty digits.
    fn max_length(&self) -> Step<Option<usize>> {
        const NONE: f64 = 1e9;
        let field = if self.get("model_max_length").is_some() {
            "model_max_length"
        } else {
            "max_len"
        };
        let Some(value) = self.get(field) else {
            return Ok(None);
        };
        match value.as_f64() {
            Some(length) if length > NONE => Ok(None),
            // In range, by the arms around it.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            Some(length) if length >= 8.0 => Ok(Some(length as usize)),
            _ => refuse_config(field, value, "a number of tokens, at least 8"),
        }
    }

    /// Refuses settings that cut or split texts in other ways than ours.
    fn check_sides(&self, file: &File<'_>) -> Step<()> {
        if self.flag("split_special_tokens")? == Some(true) {
            return refuse_config("split_special_tokens", true, "false");
        }
        match self.text("truncation_side")? {
            Some(side) if side != "right" => {
                refuse_config("truncation_side", format!("{side:?}"), "\"right\"")
            }
            Some(_) => Ok(()),
            None => match file.value("truncation")?["direction"].as_str() {
                Some("Left") => refuse("truncation.direction", "\"Left\"", "\"Right\""),
                _ => Ok(()),
            },
        }
    }
}

/// Refuses a part of the file in whose place transformers 5 puts another one.
fn differs<T>(field: &str, found: &Value, class: &str, expected: &str) -> Step<T> {
    let mut text = found.to_string();
    if text.len() > 80 {
        text = format!("{} …", text.chars().take(80).collect::<String>());
    }
    refuse(
        field,
        text,
        format!("{expected}, which transformers 5 puts in its place for a {class}; {WAY_OUT}"),
    )
}

fn bert(config: &Config, file: &mut File<'_>, model: &Model, class: &str, of: Class) -> Step<()> {
    let mut normalizer = file.value("normalizer")?;
    if normalizer["type"] != "BertNormalizer" {
        return differs("normalizer", &normalizer, class, "a BertNormalizer");
    }
    if normalizer["clean_text"] == false {
        return differs(
            "normalizer.clean_text",
            &normalizer["clean_text"],
            class,
            "true",
        );
    }
    let strip_accents = match config.0.get("strip_accents") {
        None | Some(Value::Null) => Value::Null,
        Some(_) => config.flag("strip_accents")?.into(),
    };
    let apart: Value = config
        .flag("tokenize_chinese_chars")?
        .unwrap_or(true)
        .into();
    // Version 4 leaves this one as the file has it.
    if of == Class::MpNet && normalizer["handle_chinese_chars"] != apart {
        let found = &normalizer["handle_chinese_chars"];
        return differs(
            "normalizer.handle_chinese_chars",
            found,
            class,
            &apart.to_string(),
        );
    }
    let wanted = [
        (
            "lowercase",
            config.flag("do_lower_case")?.unwrap_or(true).into(),
        ),
        ("strip_accents", strip_accents),
        ("handle_chinese_chars", apart),
    ];
    let mut changed = false;
    for (field, wanted) in wanted {
        if normalizer[field] != wanted {
            normalizer[field] = wanted;
            changed = true;
        }
    }
    if changed {
        file.change("normalizer", &normalizer)?;
    }
    let pre_tokenizer = file.value("pre_tokenizer")?;
    if pre_tokenizer["type"] != "BertPreTokenizer" {
        return differs("pre_tokenizer", &pre_tokenizer, class, "a BertPreTokenizer");
    }
    let unknown = config.token("unk_token", of)?;
    for (field, found, expected) in [
        (
            "model.continuing_subword_prefix",
            model.continuing_subword_prefix.clone(),
            "##".to_owned(),
        ),
        (
            "model.max_input_chars_per_word",
            model.max_input_chars_per_word.map(|n| n.to_string()),
            "100".to_owned(),
        ),
        ("model.unk_token", model.unk_token.clone(), unknown),
    ] {
        if let Some(found) = found.filter(|found| *found != expected) {
            return differs(field, &json!(found), class, &expected);
        }
    }
    Ok(())
}

fn roberta(config: &Config, file: &mut File<'_>, model: &Model, class: &str) -> Step<()> {
    let normalizer = file.value("normalizer")?;
    if !normalizer.is_null() {
        return differs("normalizer", &normalizer, class, "none");
    }
    let mut pre_tokenizer = file.value("pre_tokenizer")?;
    if pre_tokenizer["type"] != "ByteLevel" || pre_tokenizer["use_regex"] == false {
        return differs(
            "pre_tokenizer",
            &pre_tokenizer,
            class,
            "a ByteLevel with its regular expression",
        );
    }
    let prefix = config.flag("add_prefix_space")?.unwrap_or(false);
    if pre_tokenizer["add_prefix_space"] != prefix {
        pre_tokenizer["add_prefix_space"] = prefix.into();
        file.change("pre_tokenizer", &pre_tokenizer)?;
    }
    let some = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    for (field, found) in [
        (
            "model.continuing_subword_prefix",
            some(&model.continuing_subword_prefix),
        ),
        ("model.end_of_word_suffix", some(&model.end_of_word_suffix)),
        (
            "model.ignore_merges",
            model
                .ignore_merges
                .filter(|&on| on)
                .map(|on| on.to_string()),
        ),
    ] {
        if let Some(found) = found {
            return differs(field, &json!(found), class, "a BPE model without it");
        }
    }
    Ok(())
}

/// Of these version 4 adds tokens of its own, and makes the tokenizer anew where the settings speak
/// of a space.
fn llama(config: &Config, file: &File<'_>, class_name: &str) -> Step<()> {
    if let Some(flag) = config.get("add_prefix_space") {
        return refuse_config(
            "add_prefix_space",
            flag,
            format!(
                "nothing: with it version 4 of transformers makes a {class_name} of tokenizer.model in place of the file; {WAY_OUT}"
            ),
        );
    }
    let declared = file.value("added_tokens")?;
    let is_declared = |content: &str| {
        let mut tokens = declared.as_array().into_iter().flatten();
        tokens.any(|token| token["content"] == content)
    };
    for (field, default) in Class::Llama.tokens() {
        if config.get(field).is_none() && !is_declared(default) {
            return refuse(
                "added_tokens",
                format!("no {default}"),
                format!(
                    "{default}, which version 4 of transformers adds for a {class_name}, or another {field} in {CONFIG_FILE}"
                ),
            );
        }
    }
    Ok(())
}

fn unigram(
    config: &Config,
    file: &File<'_>,
    model: &Model,
    class_name: &str,
    class: Class,
) -> Step<()> {
    let normalizer = file.value("normalizer")?;
    let steps = match normalizer["normalizers"].as_array() {
        Some(steps) => steps.clone(),
        None if normalizer.is_null() => Vec::new(),
        None => vec![normalizer.clone()],
    };
    // Of these only white space at the ends and doubled spaces are touched, which the pre-tokenizer
    // takes away in any case.
    let fits = |step: &Value| {
        matches!(
            step["type"].as_str(),
            Some("Precompiled" | "Strip" | "Replace")
        )
    };
    if !steps.iter().all(fits) {
        return differs(
            "normalizer",
            &normalizer,
            class_name,
            "SentencePiece's rules alone",
        );
    }
    let pre_tokenizer = file.value("pre_tokenizer")?;
    let parts = match pre_tokenizer["pretokenizers"].as_array() {
        Some(parts) => parts.clone(),
        None => vec![pre_tokenizer.clone()],
    };
    let metaspace = match &parts[..] {
        [metaspace] => metaspace,
        [split, metaspace] if split["type"] == "WhitespaceSplit" => metaspace,
        _ => &Value::Null,
    };
    // Older files say it by a flag.
    let prepends = match &metaspace["prepend_scheme"] {
        Value::Null => metaspace["add_prefix_space"] != false,
        scheme => scheme == "always",
    };
    if config.flag("add_prefix_space")? == Some(false) {
        return refuse_config(
            "add_prefix_space",
            false,
            format!(
                "true: of a {class_name} version 4 of transformers obeys another file than version 5"
            ),
        );
    }
    if metaspace["type"] != "Metaspace" || metaspace["split"] == false || !prepends {
        return differs(
            "pre_tokenizer",
            &pre_tokenizer,
            class_name,
            "WhitespaceSplit and Metaspace, which puts a mark before every word",
        );
    }
    if model.byte_fallback == Some(true) {
        return differs("model.byte_fallback", &json!(true), class_name, "false");
    }
    if class == Class::XlmRoberta
        && let Some(id) = model.unk_id.filter(|&id| id != 3)
    {
        return differs("model.unk_id", &json!(id), class_name, "3");
    }
    Ok(())
}

/// Adds the tokens that the settings file or the class has and `tokenizer.json` has not, or has
/// otherwise.
fn add_tokens(config: &Config, file: &mut File<'_>, class: Class, class_name: &str) -> Step<()> {
    let mut tokens = match file.value("added_tokens")? {
        Value::Array(tokens) => tokens,
        Value::Null => Vec::new(),
        other => return refuse("added_tokens", other, "a list"),
    };
    let before = tokens.clone();
    let position = |tokens: &[Value], content: &str| {
        tokens.iter().position(|token| token["content"] == content)
    };
    let mut declared: Vec<(u64, &Value)> = Vec::new();
    match config.get("added_tokens_decoder") {
        None => {}
        Some(Value::Object(by_id)) => {
            for (id, token) in by_id {
                let Ok(number) = id.parse() else {
                    return refuse_config("added_tokens_decoder", format!("{id:?}"), "ids");
                };
                if !token["content"].is_string() {
                    return refuse_config("added_tokens_decoder", token, "a token with a content");
                }
                declared.push((number, token));
            }
        }
        Some(other) => return refuse_config("added_tokens_decoder", other, "tokens by their ids"),
    }
    declared.sort_by_key(|(id, _)| *id);
    for (id, token) in &declared {
        let flag = |name: &str| token[name].as_bool().unwrap_or(false);
        let whole = json!({
            "id": id,
            "content": token["content"],
            "single_word": flag("single_word"),
            "lstrip": flag("lstrip"),
            "rstrip": flag("rstrip"),
            "normalized": token["normalized"].as_bool().unwrap_or(!flag("special")),
            "special": flag("special"),
        });
        match position(&tokens, token["content"].as_str().unwrap_or_default()) {
            Some(at) => {
                let same = |name: &&str| tokens[at][name] == whole[name];
                if !["single_word", "lstrip", "rstrip", "normalized"]
                    .iter()
                    .all(same)
                {
                    let id = tokens[at]["id"].clone();
                    tokens[at] = whole;
                    tokens[at]["id"] = id;
                }
            }
            None => tokens.push(whole),
        }
    }
    // Its own, whether or not the vocabulary has them; the class's, where it has.
    let mut own = Vec::new();
    for field in TOKEN_FIELDS {
        own.extend(config.own_token(field)?);
    }
    for field in ["additional_special_tokens", "extra_special_tokens"] {
        let listed = match config.get(field) {
            None => continue,
            Some(Value::Array(listed)) => listed.iter().collect(),
            Some(Value::Object(by_name)) => by_name.values().collect::<Vec<_>>(),
            Some(other) => return refuse_config(field, other, "a list of tokens"),
        };
        for token in listed {
            match token.as_str().or_else(|| token["content"].as_str()) {
                Some(content) => own.push(content.to_owned()),
                None => return refuse_config(field, token, "a token"),
            }
        }
    }
    let defaults = class.tokens().iter().map(|(field, _)| *field);
    let mut absent = Vec::new();
    for field in defaults {
        let token = config.token(field, class)?;
        if position(&tokens, &token).is_none() && !own.contains(&token) {
            absent.push(token);
        }
    }
    own.retain(|token| position(&tokens, token).is_none());
    if !absent.is_empty() {
        let vocabulary = file.vocabulary()?;
        own.extend(
            absent
                .into_iter()
                .filter(|token| vocabulary.contains(token)),
        );
    }
    let mask = config.token("mask_token", class)?;
    for token in own {
        if position(&tokens, &token).is_none() {
            // The generic classes have no mask of their own.
            let has_mask = !class.tokens().is_empty() && class != Class::Llama;
            let takes_space = has_mask && class != Class::Bert && token == mask;
            tokens.push(json!({
                "id": 0, "content": token, "single_word": false, "lstrip": takes_space, "rstrip": false,
                "normalized": false, "special": true,
            }));
        }
    }
    let is_told = config.get("mask_token").is_some_and(Value::is_object)
        || declared.iter().any(|(_, token)| token["content"] == mask);
    if class == Class::Roberta && !is_told {
        let found = position(&before, &mask).map(|at| before[at]["lstrip"].clone());
        if found != Some(true.into()) {
            return differs(
                "added_tokens",
                &json!(format!("no {mask} that takes the space before it")),
                class_name,
                "one that does (lstrip)",
            );
        }
    }
    if tokens != before {
        file.change("added_tokens", &Value::Array(tokens))?;
    }
    Ok(())
}

/// Refuses SentencePiece's rules that the crate would panic over, when it reads them or at some
/// text.
fn check_normalizer(normalizer: &Value) -> Step<()> {
    for step in normalizer["normalizers"].as_array().into_iter().flatten() {
        check_normalizer(step)?;
    }
    if normalizer["type"] != "Precompiled" {
        return Ok(());
    }
    const FIELD: &str = "normalizer.precompiled_charsmap";
    const EXPECTED: &str = "SentencePiece's rules in base64";
    let Some(text) = normalizer["precompiled_charsmap"].as_str() else {
        let found = &normalizer["precompiled_charsmap"];
        return refuse(FIELD, found, EXPECTED);
    };
    if text.is_empty() {
        return refuse(FIELD, "an empty text", EXPECTED);
    }
    let Ok(bytes) = base64::engine::general_purpose::STANDARD.decode(text) else {
        return refuse(FIELD, "a text that is no base64", EXPECTED);
    };
    match check_charsmap(&bytes) {
        Ok(()) => Ok(()),
        Err(found) => refuse(FIELD, found, EXPECTED),
    }
}

/// Walks all of the trie: a place in it or in the texts that there is not would be a panic at the
/// first text that leads there.
fn check_charsmap(bytes: &[u8]) -> Result<(), &'static str> {
    let (length, rest) = bytes.split_first_chunk().ok_or("fewer than four bytes")?;
    let units = u32::from_le_bytes(*length) as usize / 4;
    let (trie, texts) = rest
        .split_at_checked(units * 4)
        .ok_or("rules that are cut off")?;
    let texts = std::str::from_utf8(texts).map_err(|_| "texts that are not UTF-8")?;
    let (trie, _) = trie.as_chunks();
    let unit = |place: usize| {
        trie.get(place)
            .map(|unit| u32::from_le_bytes(*unit) as usize)
    };
    let offset = |unit: usize| (unit >> 10) << ((unit & (1 << 9)) >> 6);
    let beyond = "rules that point beyond themselves";
    let mut seen = BTreeSet::new();
    let mut todo = vec![offset(unit(0).ok_or("no rules")?)];
    while let Some(node) = todo.pop() {
        if !seen.insert(node) {
            continue;
        }
        for byte in 1..=255 {
            let place = node ^ byte;
            let found = unit(place).ok_or(beyond)?;
            if found & ((1 << 31) | 0xff) != byte {
                continue;
            }
            let next = place ^ offset(found);
            if found >> 8 & 1 == 1 {
                let text = unit(next).ok_or(beyond)? & ((1 << 31) - 1);
                if !texts.is_char_boundary(text) {
                    return Err(beyond);
                }
            }
            todo.push(next);
        }
    }
    Ok(())
}
