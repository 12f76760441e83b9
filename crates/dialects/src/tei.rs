//! text-embeddings-inference's `/rerank`: the answer is a bare list, best first.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::documents::{SideName, query_text, texts};
use super::lenient::{Bool, Document, Documents, JsonType, List};
use super::options::body;
use super::{About, Dialect, Failure, Named, Names, Shown, required};
use reranker_domain::{Field, Kind, Limits, Pair, Ranking, Refusal, Request, Selection};

/// text-embeddings-inference's `/rerank`.
pub struct Tei;

/// Its `/predict`: pairs, each answered by its label.
pub struct Predict;

/// The one label of a model with one logit.
const LABEL: &str = "LABEL_0";

body! {
    /// A query and the texts to rank.
    #[schema(example = json!({"query": "Can I get a refund after 30 days?", "texts": [
        "Our offices are open from nine to five.",
        "Returns are accepted within 60 days of delivery, and the full price is refunded.",
        "Gift cards cannot be returned."]}))]
    pub struct TeiBody {
        /// What is looked for. Not empty.
        #[schema(required = true, value_type = Document)]
        query: Document,
        #[schema(required = true, value_type = Documents)]
        texts: Documents,
        /// Whether long pairs are cut (the default) or refused.
        truncate: Bool,
        truncation_direction: SideName,
        /// Whether scores are logits; sigmoids of them where it is absent.
        raw_scores: Bool,
        /// Whether the results repeat the texts.
        return_text: Bool,
        /// Ours, and of some clients: how many results are answered; all where it is 0 or absent.
        top_n: usize,
        /// Ours: results below it are left out.
        min_score: f64,
    }
}

/// One of the texts.
#[derive(Debug, Serialize, ToSchema)]
pub struct TeiRank {
    /// Place of the text in the request.
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    text: Option<Arc<str>>,
    score: f64,
    #[serde(flatten)]
    shown: Shown,
}

/// `{"error", "error_type"}`, as text-embeddings-inference has it.
#[derive(Debug, Serialize, ToSchema)]
pub struct TeiError {
    error: String,
    #[schema(example = "Validation")]
    error_type: &'static str,
}

/// What text-embeddings-inference's `/info` tells, for its clients that ask before they send anything.
#[derive(Debug, Serialize, ToSchema)]
pub struct TeiInfo {
    /// The model's name.
    pub model_id: String,
    /// The model's revision, where it has one.
    pub model_sha: Option<String>,
    /// What the model computes in.
    #[schema(example = "int8")]
    pub model_dtype: &'static str,
    /// The model's name once more.
    pub served_model_name: String,
    /// What kind of model it is.
    pub model_type: ModelType,
    /// Most requests that wait at a time.
    pub max_concurrent_requests: usize,
    /// Longest sequence in tokens, special tokens included.
    pub max_input_length: usize,
    /// Most tokens of one forward pass.
    pub max_batch_tokens: usize,
    /// Most texts in one request.
    pub max_client_batch_size: usize,
    /// Whether long pairs are cut where the request does not say.
    pub auto_truncate: bool,
    /// Threads that make tokens of texts.
    pub tokenization_workers: usize,
}

/// That the model is a reranker.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelType {
    reranker: Labels,
}

/// The names of the model's outputs, by their numbers and the other way round.
#[derive(Debug, Serialize, ToSchema)]
pub struct Labels {
    id2label: BTreeMap<&'static str, &'static str>,
    label2id: BTreeMap<&'static str, u32>,
}

impl ModelType {
    /// A reranker with one logit.
    pub fn one_label() -> Self {
        Self {
            reranker: Labels {
                id2label: [("0", LABEL)].into(),
                label2id: [(LABEL, 0)].into(),
            },
        }
    }
}

/// What the answer needs besides the ranking.
pub struct TeiContext {
    selection: Selection,
    texts: Option<Vec<Arc<str>>>,
}

impl Named for TeiBody {
    fn names(&self) -> Names {
        Names::USUAL.documents("texts", "")
    }
}

impl Dialect for Tei {
    const NAME: &'static str = "tei";
    const TITLE: &'static str = "text-embeddings-inference";
    type Body = TeiBody;
    type Answer = Vec<TeiRank>;
    type ErrorBody = TeiError;
    type Context = TeiContext;

    fn read(body: TeiBody, limits: &Limits) -> Result<(Request, TeiContext), Refusal> {
        let mut options = body.options();
        options.truncation = options.truncation.or(body.truncate.map(Into::into));
        options.side = body.truncation_direction.map_or(options.side, Into::into);
        let normalize = options.normalize.or(body.raw_scores.map(|Bool(raw)| !raw));
        let query = required(body.query, Field::Query(0))?;
        let query: Arc<str> = query_text(query, limits)?.into();
        let list = required(body.texts, Field::Documents)?;
        limits.check_pairs(list.count())?;
        let documents = texts(Field::Documents, list, Field::Document, limits)?;
        let pairs = documents.into_iter().map(|document| Pair {
            query: Arc::clone(&query),
            document,
        });
        let pairs: Vec<Pair> = pairs.collect();
        let wanted = matches!(body.return_text, Some(Bool(true)));
        let texts = || {
            pairs
                .iter()
                .map(|pair| Arc::clone(&pair.document))
                .collect()
        };
        let context = TeiContext {
            selection: Selection {
                top: body.top_n.filter(|&top| top > 0),
                min_score: body.min_score,
                normalize: normalize.unwrap_or(true),
            },
            texts: wanted.then(texts),
        };
        let request = Request {
            top: context.selection.top,
            ..options.into_request(pairs)?
        };
        Ok((request, context))
    }

    fn answer(context: TeiContext, ranking: &Ranking, _: &About) -> Vec<TeiRank> {
        let best = context.selection.best_first(&ranking.scores).into_iter();
        best.map(|ranked| TeiRank {
            index: ranked.index,
            text: context
                .texts
                .as_ref()
                .map(|texts| Arc::clone(&texts[ranked.index])),
            score: ranked.value,
            shown: ranked.score.into(),
        })
        .collect()
    }

    fn error(failure: &Failure) -> TeiError {
        TeiError {
            error: failure.message(),
            error_type: match failure.kind() {
                Kind::Key => "Unauthorized",
                Kind::Pace => "Overloaded",
                Kind::Caller | Kind::Address | Kind::Transfer => "Validation",
                Kind::Unavailable | Kind::Operator | Kind::Deadline => "Unhealthy",
                Kind::Internal => "Backend",
            },
        }
    }
}

body! {
    /// Pairs to score, as text-embeddings-inference's `/predict` and Hugging Face's text classification have them.
    #[schema(example = json!({"inputs": [
        {"text": "Can I get a refund after 30 days?",
            "text_pair": "Returns are accepted within 60 days of delivery, and the full price is refunded."},
        ["Can I get a refund after 30 days?", "Our offices are open from nine to five."]]}))]
    pub struct PredictBody {
        /// One pair or a list of pairs, each an object with `text` and `text_pair`, or a list of both.
        #[schema(required = true, value_type = serde_json::Value)]
        inputs: Inputs,
        /// Whether long pairs are cut (the default) or refused.
        truncate: Bool,
        truncation_direction: SideName,
        /// Whether scores are logits; sigmoids of them where it is absent.
        raw_scores: Bool,
    }
}

impl Named for PredictBody {
    fn names(&self) -> Names {
        match self.inputs {
            Some(Inputs::One(_)) => Names::USUAL
                .query("inputs.text")
                .document("inputs.text_pair"),
            Some(Inputs::Many(_)) | None => Names::USUAL
                .queries("inputs", ".text")
                .documents("inputs", ".text_pair"),
        }
    }
}

/// One pair, or a list of them.
pub enum Inputs {
    /// One pair.
    One(TextPair),
    /// A list of pairs.
    Many(List<TextPair>),
}

impl<'de> Deserialize<'de> for Inputs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?;
        // A list of two texts is a pair, and one of pairs is many.
        let first = raw.get().as_bytes().iter().skip(1);
        let mut first = first.skip_while(|byte| byte.is_ascii_whitespace());
        match JsonType::of(raw) {
            JsonType::List if first.next() != Some(&b'"') => List::deserialize(raw).map(Self::Many),
            _ => TextPair::deserialize(raw).map(Self::One),
        }
        .map_err(de::Error::custom)
    }
}

/// What is looked for, and the text to judge.
pub struct TextPair {
    text: Option<String>,
    text_pair: Option<String>,
}

impl<'de> Deserialize<'de> for TextPair {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Named {
            text: Option<String>,
            text_pair: Option<String>,
        }

        struct Both;

        impl<'de> Visitor<'de> for Both {
            type Value = TextPair;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a pair of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<TextPair, A::Error> {
                let named = Named::deserialize(MapAccessDeserializer::new(map))?;
                let Named { text, text_pair } = named;
                Ok(TextPair { text, text_pair })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<TextPair, A::Error> {
                let text = list.next_element()?.flatten();
                let text_pair = list.next_element()?.flatten();
                if list.next_element::<IgnoredAny>()?.is_some() {
                    return Err(de::Error::invalid_length(3, &self));
                }
                Ok(TextPair { text, text_pair })
            }
        }

        deserializer.deserialize_any(Both)
    }
}

/// The label of a pair.
#[derive(Debug, Serialize, ToSchema)]
pub struct Labelled {
    score: f64,
    #[schema(example = "LABEL_0")]
    label: &'static str,
}

/// Each pair's labels, of which this model has one: a list of them for one pair, a list of such lists for a list.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum PredictAnswer {
    /// Of one pair.
    One([Labelled; 1]),
    /// Of a list of pairs.
    Many(Vec<[Labelled; 1]>),
}

/// What the answer needs besides the ranking.
pub struct PredictContext {
    normalize: bool,
    many: bool,
}

impl TextPair {
    fn read(self, index: usize, limits: &Limits) -> Result<Pair, Refusal> {
        let query = required(self.text, Field::Query(index))?;
        let document = required(self.text_pair, Field::Document(index))?;
        limits.check_query(Field::Query(index), &query)?;
        limits.check_text(Field::Document(index), &document)?;
        Ok(Pair {
            query: query.into(),
            document: document.into(),
        })
    }
}

impl Dialect for Predict {
    const NAME: &'static str = Tei::NAME;
    const TITLE: &'static str = Tei::TITLE;
    type Body = PredictBody;
    type Answer = PredictAnswer;
    type ErrorBody = TeiError;
    type Context = PredictContext;

    fn read(body: PredictBody, limits: &Limits) -> Result<(Request, PredictContext), Refusal> {
        let mut options = body.options();
        options.truncation = options.truncation.or(body.truncate.map(Into::into));
        options.side = body.truncation_direction.map_or(options.side, Into::into);
        let normalize = options.normalize.or(body.raw_scores.map(|Bool(raw)| !raw));
        let inputs = required(body.inputs, Field::Documents)?;
        let many = matches!(inputs, Inputs::Many(_));
        let pairs = match inputs {
            Inputs::One(pair) => vec![pair.read(0, limits)?],
            Inputs::Many(list) => {
                let count = list.count();
                limits.check_pairs(count)?;
                let mut pairs = Vec::with_capacity(count);
                list.each(Field::Documents, |index, pair| {
                    pairs.push(pair.read(index, limits)?);
                    Ok(())
                })?;
                pairs
            }
        };
        let context = PredictContext {
            normalize: normalize.unwrap_or(true),
            many,
        };
        Ok((options.into_request(pairs)?, context))
    }

    fn answer(context: PredictContext, ranking: &Ranking, _: &About) -> PredictAnswer {
        let mut labels = ranking.scores.iter().map(|score| {
            [Labelled {
                score: score.value(context.normalize),
                label: LABEL,
            }]
        });
        match labels.next() {
            Some(first) if !context.many => PredictAnswer::One(first),
            first => PredictAnswer::Many(first.into_iter().chain(labels).collect()),
        }
    }

    fn error(failure: &Failure) -> TeiError {
        Tei::error(failure)
    }
}
