//! Our own format, which is also the one of the Python service that we replace: `/rerank` for one pair, `/rerank/batch` for
//! many, answered in input order.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Object;
use crate::error::{Error, Invalid};
use crate::rerank::{Limits, Pair, Ranking, Request, Truncation};

/// One pair to score.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"query": "what is a panda?", "passage": "The giant panda is a bear species endemic to China."}))]
pub struct RerankBody {
    /// What is looked for. Not empty.
    #[schema(required = true, value_type = String)]
    query: Option<String>,
    /// The text to judge. May be empty.
    #[schema(required = true, value_type = String)]
    passage: Option<String>,
    /// Whether `score` is the sigmoid of the logit (the default) or the logit itself.
    #[schema(default = true)]
    normalize: Option<bool>,
    /// Longest sequence in tokens for this request, special tokens included; at most the server's own, which is the default.
    max_length: Option<usize>,
    /// How longer pairs are cut: `longest_first` (the default) or `flag`.
    #[schema(example = "longest_first")]
    truncation: Option<String>,
}

/// Many pairs to score in one request.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"pairs": [
    {"query": "what is a panda?", "passage": "The giant panda is a bear species endemic to China."},
    {"query": "what is a panda?", "passage": "Paris is the capital of France."}]}))]
pub struct BatchBody {
    /// At least one; the server limits how many.
    #[schema(required = true, value_type = Vec<PairBody>)]
    pairs: Option<Vec<Object<PairBody>>>,
    /// Whether `score` is the sigmoid of the logit (the default) or the logit itself.
    #[schema(default = true)]
    normalize: Option<bool>,
    /// Longest sequence in tokens for this request, special tokens included; at most the server's own, which is the default.
    max_length: Option<usize>,
    /// How longer pairs are cut: `longest_first` (the default) or `flag`.
    #[schema(example = "longest_first")]
    truncation: Option<String>,
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct PairBody {
    /// What is looked for. Not empty.
    #[schema(required = true, value_type = String)]
    query: Option<String>,
    /// The text to judge. May be empty.
    #[schema(required = true, value_type = String)]
    passage: Option<String>,
}

/// The fields that both bodies share. They stand in each body, because a flattened struct would lose the path of a field of
/// the wrong type.
struct Options {
    normalize: Option<bool>,
    max_length: Option<usize>,
    truncation: Option<String>,
}

/// What of a request the answer needs besides the ranking.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    normalize: bool,
}

impl RerankBody {
    pub fn into_request(
        self,
        limits: &Limits,
        deadline: Option<Instant>,
    ) -> Result<(Request, Shape), Invalid> {
        let query = required(self.query, || "query".into())?;
        let passage = required(self.passage, || "passage".into())?;
        limits.check_query(|| "query".into(), &query)?;
        limits.check_text(|| "passage".into(), &passage)?;
        let pair = Pair {
            query: query.into(),
            document: passage.into(),
        };
        let options = Options {
            normalize: self.normalize,
            max_length: self.max_length,
            truncation: self.truncation,
        };
        options.into_request(vec![pair], deadline)
    }
}

impl BatchBody {
    pub fn into_request(
        self,
        limits: &Limits,
        deadline: Option<Instant>,
    ) -> Result<(Request, Shape), Invalid> {
        let bodies = required(self.pairs, || "pairs".into())?;
        limits.check_pairs("pairs", bodies.len())?;
        let mut pairs: Vec<Pair> = Vec::with_capacity(bodies.len());
        for (index, Object(body)) in bodies.into_iter().enumerate() {
            let query_field = || format!("pairs[{index}].query");
            let passage_field = || format!("pairs[{index}].passage");
            let query = required(body.query, query_field)?;
            let passage = required(body.passage, passage_field)?;
            limits.check_query(query_field, &query)?;
            limits.check_text(passage_field, &passage)?;
            // Batches usually repeat one query: keep it once.
            let query = match pairs.last() {
                Some(last) if *last.query == *query => Arc::clone(&last.query),
                _ => query.into(),
            };
            pairs.push(Pair {
                query,
                document: passage.into(),
            });
        }
        let options = Options {
            normalize: self.normalize,
            max_length: self.max_length,
            truncation: self.truncation,
        };
        options.into_request(pairs, deadline)
    }
}

impl Options {
    fn into_request(
        self,
        pairs: Vec<Pair>,
        deadline: Option<Instant>,
    ) -> Result<(Request, Shape), Invalid> {
        let truncation = self
            .truncation
            .map(|name| {
                Truncation::from_str(&name).map_err(|message| {
                    Invalid::new("invalid_truncation", format!("truncation {message}"))
                        .field("truncation")
                })
            })
            .transpose()?;
        let request = Request {
            pairs,
            max_length: self.max_length,
            truncation,
            deadline,
        };
        let shape = Shape {
            normalize: self.normalize.unwrap_or(true),
        };
        Ok((request, shape))
    }
}

fn required<T>(value: Option<T>, field: impl FnOnce() -> String) -> Result<T, Invalid> {
    value.ok_or_else(|| {
        let field = field();
        Invalid::new("missing_field", format!("{field} is missing")).field(field)
    })
}

/// The score of one pair.
#[derive(Debug, Serialize, ToSchema)]
pub struct RerankAnswer {
    /// Sigmoid of the logit, or the logit itself where `normalize` was false.
    #[schema(example = 0.9948)]
    score: f64,
    /// Raw output of the model.
    #[schema(example = 5.2617)]
    logit: f32,
    normalized: bool,
    /// Name of the model that scored.
    model: String,
    /// Tokens scored, special tokens included.
    tokens: usize,
    /// Whether the pair was cut to fit.
    truncated: bool,
    /// Time from accepting the request to its answer.
    ms: f64,
}

/// The scores of many pairs, in the order of the request.
#[derive(Debug, Serialize, ToSchema)]
pub struct BatchAnswer {
    results: Vec<BatchItem>,
    /// The same scores once more, alone.
    scores: Vec<f64>,
    model: String,
    normalized: bool,
    count: usize,
    ms: f64,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct BatchItem {
    /// Place of the pair in the request.
    index: usize,
    score: f64,
    logit: f32,
    tokens: usize,
    truncated: bool,
}

impl Shape {
    /// The answer to a [`RerankBody`]; `None` where the ranking is not of one pair.
    pub fn one(self, ranking: &Ranking, model: &str, ms: f64) -> Option<RerankAnswer> {
        let [score] = ranking.scores.as_slice() else {
            return None;
        };
        Some(RerankAnswer {
            score: score.value(self.normalize),
            logit: score.logit,
            normalized: self.normalize,
            model: model.to_owned(),
            tokens: score.tokens,
            truncated: score.truncated(),
            ms,
        })
    }

    /// The answer to a [`BatchBody`].
    pub fn many(self, ranking: &Ranking, model: &str, ms: f64) -> BatchAnswer {
        BatchAnswer {
            results: ranking
                .scores
                .iter()
                .enumerate()
                .map(|(index, score)| BatchItem {
                    index,
                    score: score.value(self.normalize),
                    logit: score.logit,
                    tokens: score.tokens,
                    truncated: score.truncated(),
                })
                .collect(),
            scores: ranking
                .scores
                .iter()
                .map(|s| s.value(self.normalize))
                .collect(),
            model: model.to_owned(),
            normalized: self.normalize,
            count: ranking.scores.len(),
            ms,
        }
    }
}

/// What went wrong, under `error`; `detail` repeats the message for clients of the Python service.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    error: ErrorInfo,
    detail: String,
}

#[derive(Debug, Default, Serialize, ToSchema)]
pub struct ErrorInfo {
    /// Stable name of the error.
    #[schema(example = "missing_field")]
    pub code: &'static str,
    /// The same in a sentence.
    #[schema(example = "passage is missing")]
    pub message: String,
    /// The field at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// How much of it there was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub got: Option<u64>,
    /// How much is allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// The routes there are, where the one asked for is none of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<String>,
}

impl From<ErrorInfo> for ErrorBody {
    fn from(error: ErrorInfo) -> Self {
        Self {
            detail: error.message.clone(),
            error,
        }
    }
}

impl From<&Invalid> for ErrorInfo {
    fn from(invalid: &Invalid) -> Self {
        Self {
            code: invalid.code,
            message: invalid.message.clone(),
            field: invalid.field.clone(),
            got: invalid.got,
            limit: invalid.limit,
            routes: Vec::new(),
        }
    }
}

impl From<&Error> for ErrorInfo {
    fn from(error: &Error) -> Self {
        let code = match error {
            Error::Invalid(invalid) => return Self::from(invalid),
            Error::Busy { .. } => "busy",
            Error::NotReady { .. } => "not_ready",
            Error::Deadline { .. } => "deadline_exceeded",
            Error::Draining => "draining",
            Error::Model(_) => "model_unavailable",
            Error::Internal(_) => "internal",
        };
        let message = match error {
            // What broke inside is for the log, not for callers.
            Error::Internal(_) => "internal error".to_owned(),
            _ => error.to_string(),
        };
        let mut info = Self {
            code,
            message,
            ..Self::default()
        };
        if let Error::Busy { queued, limit, .. } = error {
            info.got = Some(*queued as u64);
            info.limit = Some(*limit as u64);
        }
        info
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rerank::Score;
    use std::time::Duration;

    const LIMITS: Limits = Limits {
        pairs: 2,
        text_chars: 5,
    };

    fn batch(json: &str) -> Result<(Request, Shape), Invalid> {
        serde_json::from_str::<BatchBody>(json)
            .expect("valid JSON")
            .into_request(&LIMITS, None)
    }

    #[test]
    fn errors_name_the_field_by_its_path() {
        for (json, code, field) in [
            ("{}", "missing_field", "pairs"),
            (r#"{"pairs":[]}"#, "no_pairs", "pairs"),
            (r#"{"pairs":[{},{},{}]}"#, "too_many_pairs", "pairs"),
            (
                r#"{"pairs":[{"query":"q"}]}"#,
                "missing_field",
                "pairs[0].passage",
            ),
            (
                r#"{"pairs":[{"query":"q","passage":"p"},{"query":" ","passage":"p"}]}"#,
                "empty_query",
                "pairs[1].query",
            ),
            (
                r#"{"pairs":[{"query":"q","passage":"123456"}]}"#,
                "text_too_long",
                "pairs[0].passage",
            ),
            (
                r#"{"pairs":[{"query":"q","passage":null}]}"#,
                "missing_field",
                "pairs[0].passage",
            ),
            (
                r#"{"pairs":[{"query":"q","passage":""}],"truncation":"left"}"#,
                "invalid_truncation",
                "truncation",
            ),
        ] {
            let error = batch(json).expect_err(json);
            assert_eq!(
                (error.code, error.field.as_deref()),
                (code, Some(field)),
                "{json}"
            );
        }
    }

    #[test]
    fn unknown_fields_are_ignored_and_repeated_queries_are_kept_once() {
        let (request, _) = batch(
            r#"{"pairs":[{"query":"q","passage":"","x":1},{"query":"q","passage":"p"}],"model":"any"}"#,
        )
        .expect("valid");
        assert!(Arc::ptr_eq(
            &request.pairs[0].query,
            &request.pairs[1].query
        ));
    }

    #[test]
    fn raw_scores_are_the_logits() {
        let ranking = Ranking {
            scores: vec![Score {
                logit: -8.1875,
                tokens: 9,
                dropped_tokens: 2,
            }],
            queued: Duration::ZERO,
            computed: Duration::ZERO,
        };
        let raw = Shape { normalize: false };
        let answer = raw.one(&ranking, "m", 1.0).expect("one pair");
        assert_eq!((answer.score, answer.truncated), (-8.1875, true));
        let normalized = Shape { normalize: true };
        assert!((normalized.many(&ranking, "m", 1.0).scores[0] - 2.780_5e-4).abs() < 1e-7);
    }
}
