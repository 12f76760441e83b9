//! text-embeddings-inference's `/rerank`: the answer is a bare list, best first.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use super::documents::SideName;
use super::lenient::Bool;
use super::options::body;
use super::{About, Dialect, Failure, Shown, required};
use crate::error::Invalid;
use crate::rerank::{Limits, Pair, Ranking, Request, Selection};

pub struct Tei;

body! {
    /// A query and the texts to rank.
    #[schema(example = json!({"query": "what is a panda?", "texts": [
        "The giant panda is a bear species endemic to China.", "Paris is the capital of France."]}))]
    pub struct TeiBody {
        /// What is looked for. Not empty.
        #[schema(required = true, value_type = String)]
        query: String,
        #[schema(required = true, value_type = Vec<String>)]
        texts: Vec<String>,
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

#[derive(Debug, Serialize, ToSchema)]
pub struct TeiError {
    error: String,
    #[schema(example = "Validation")]
    error_type: &'static str,
}

/// What text-embeddings-inference's `/info` tells, for its clients that ask before they send anything.
#[derive(Debug, Serialize, ToSchema)]
pub struct TeiInfo {
    pub model_id: String,
    pub model_sha: Option<String>,
    #[schema(example = "int8")]
    pub model_dtype: &'static str,
    pub served_model_name: String,
    pub model_type: ModelType,
    pub max_concurrent_requests: usize,
    /// Longest sequence in tokens, special tokens included.
    pub max_input_length: usize,
    pub max_batch_tokens: usize,
    /// Most texts in one request.
    pub max_client_batch_size: usize,
    /// Whether long pairs are cut where the request does not say.
    pub auto_truncate: bool,
    pub tokenization_workers: usize,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ModelType {
    reranker: Labels,
}

/// The one label of a model with one logit.
#[derive(Debug, Serialize, ToSchema)]
pub struct Labels {
    id2label: BTreeMap<&'static str, &'static str>,
    label2id: BTreeMap<&'static str, u32>,
}

impl ModelType {
    pub fn one_label() -> Self {
        Self {
            reranker: Labels {
                id2label: [("0", "LABEL_0")].into(),
                label2id: [("LABEL_0", 0)].into(),
            },
        }
    }
}

/// What the answer needs besides the ranking.
pub struct TeiKept {
    selection: Selection,
    texts: Option<Vec<Arc<str>>>,
}

fn field(index: usize) -> String {
    format!("texts[{index}]")
}

impl Dialect for Tei {
    const NAME: &'static str = "tei";
    const TITLE: &'static str = "text-embeddings-inference";
    type Body = TeiBody;
    type Answer = Vec<TeiRank>;
    type ErrorBody = TeiError;
    type Kept = TeiKept;

    fn read(body: TeiBody, limits: &Limits) -> Result<(Request, TeiKept), Invalid> {
        let mut options = body.options();
        options.truncation = options.truncation.or(body.truncate.map(Into::into));
        options.side = body.truncation_direction.map_or(options.side, Into::into);
        let normalize = options.normalize.or(body.raw_scores.map(|Bool(raw)| !raw));
        let query = required(body.query, || "query".into())?;
        limits.check_query(|| "query".into(), &query)?;
        let query: Arc<str> = query.into();
        let texts = required(body.texts, || "texts".into())?;
        limits.check_pairs("texts", texts.len())?;
        let pairs = texts.into_iter().enumerate().map(|(index, text)| {
            limits.check_text(|| field(index), &text)?;
            Ok(Pair {
                query: Arc::clone(&query),
                document: text.into(),
            })
        });
        let pairs: Vec<Pair> = pairs.collect::<Result<_, Invalid>>()?;
        let wanted = matches!(body.return_text, Some(Bool(true)));
        let texts = || {
            pairs
                .iter()
                .map(|pair| Arc::clone(&pair.document))
                .collect()
        };
        let kept = TeiKept {
            selection: Selection {
                top: body.top_n.filter(|&top| top > 0),
                min_score: body.min_score,
                normalize: normalize.unwrap_or(true),
            },
            texts: wanted.then(texts),
        };
        let request = Request {
            top: kept.selection.top,
            ..options.into_request(pairs, field)?
        };
        Ok((request, kept))
    }

    fn answer(kept: TeiKept, ranking: &Ranking, _: &About) -> Vec<TeiRank> {
        let best = kept.selection.best_first(&ranking.scores).into_iter();
        best.map(|ranked| TeiRank {
            index: ranked.index,
            text: kept
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
            error: failure.message.clone(),
            error_type: match failure.status {
                401 => "Unauthorized",
                429 => "Overloaded",
                400..=499 => "Validation",
                503 | 504 => "Unhealthy",
                _ => "Backend",
            },
        }
    }
}
