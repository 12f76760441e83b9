//! Our own format, which is also the one of the Python service that we replace: `/rerank` for one pair, `/rerank/batch` for
//! many, answered in input order.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::lenient::List;
use super::options::body;
use super::{About, Dialect, Failure, Named, Names, Object, Shown, required};
use reranker_domain::{Field, Limits, Pair, Ranking, Refusal, Request, Score};

/// One pair.
pub struct One;

/// Many pairs.
pub struct Batch;

body! {
    /// One pair to score.
    #[schema(example = json!({"query": "Can I get a refund after 30 days?",
        "passage": "Returns are accepted within 60 days of delivery, and the full price is refunded."}))]
    pub struct RerankBody {
        /// What is looked for. Not empty.
        #[schema(required = true, value_type = String)]
        query: String,
        /// The text to judge. May be empty.
        #[schema(required = true, value_type = String)]
        passage: String,
    }
}

body! {
    /// Many pairs to score in one request.
    #[schema(example = json!({"pairs": [
        {"query": "Can I get a refund after 30 days?", "passage": "Our offices are open from nine to five."},
        {"query": "Can I get a refund after 30 days?",
            "passage": "Returns are accepted within 60 days of delivery, and the full price is refunded."}]}))]
    pub struct BatchBody {
        /// At least one; the server limits how many.
        #[schema(required = true, value_type = Vec<PairBody>)]
        pairs: List<Object<PairBody>>,
    }
}

/// One of the pairs.
#[derive(Deserialize, ToSchema)]
pub struct PairBody {
    /// What is looked for. Not empty.
    #[schema(required = true, value_type = String)]
    query: Option<String>,
    /// The text to judge. May be empty.
    #[schema(required = true, value_type = String)]
    passage: Option<String>,
}

impl Named for RerankBody {
    fn names(&self) -> Names {
        Names::USUAL.document("passage")
    }
}

impl Named for BatchBody {
    fn names(&self) -> Names {
        Names::USUAL
            .queries("pairs", ".query")
            .documents("pairs", ".passage")
    }
}

/// Whether scores are shown as sigmoids.
pub struct Normalize(bool);

impl Dialect for One {
    const NAME: &'static str = "native";
    const TITLE: &'static str = "serverless-reranker";
    type Body = RerankBody;
    type Answer = RerankAnswer;
    type ErrorBody = ErrorBody;
    type Context = Normalize;

    fn read(body: RerankBody, limits: &Limits) -> Result<(Request, Normalize), Refusal> {
        let options = body.options();
        let query = required(body.query, Field::Query(0))?;
        let passage = required(body.passage, Field::Document(0))?;
        limits.check_query(Field::Query(0), &query)?;
        limits.check_text(Field::Document(0), &passage)?;
        let pair = Pair {
            query: query.into(),
            document: passage.into(),
        };
        let context = Normalize(options.normalize.unwrap_or(true));
        Ok((options.into_request(vec![pair])?, context))
    }

    fn answer(Normalize(normalized): Normalize, ranking: &Ranking, about: &About) -> RerankAnswer {
        // One pair was asked for, and the service gives a score for each.
        let score = ranking.scores.first();
        RerankAnswer {
            score: score.map(|score| score.value(normalized)),
            logit: score.map(|score| score.logit),
            normalized,
            model: about.model.clone(),
            shown: score.map(Shown::from),
            ms: about.ms,
        }
    }

    fn error(failure: &Failure) -> ErrorBody {
        failure.into()
    }
}

impl Dialect for Batch {
    const NAME: &'static str = One::NAME;
    const TITLE: &'static str = One::TITLE;
    type Body = BatchBody;
    type Answer = BatchAnswer;
    type ErrorBody = ErrorBody;
    type Context = Normalize;

    fn read(body: BatchBody, limits: &Limits) -> Result<(Request, Normalize), Refusal> {
        let options = body.options();
        let bodies = required(body.pairs, Field::Documents)?;
        let count = bodies.count();
        limits.check_pairs(count)?;
        let mut pairs: Vec<Pair> = Vec::with_capacity(count);
        bodies.each(Field::Documents, |index, Object(body)| {
            let query = required(body.query, Field::Query(index))?;
            let passage = required(body.passage, Field::Document(index))?;
            limits.check_query(Field::Query(index), &query)?;
            limits.check_text(Field::Document(index), &passage)?;
            // Batches usually repeat one query: keep it once.
            let query = match pairs.last() {
                Some(last) if *last.query == *query => Arc::clone(&last.query),
                _ => query.into(),
            };
            pairs.push(Pair {
                query,
                document: passage.into(),
            });
            Ok(())
        })?;
        let context = Normalize(options.normalize.unwrap_or(true));
        Ok((options.into_request(pairs)?, context))
    }

    fn answer(Normalize(normalized): Normalize, ranking: &Ranking, about: &About) -> BatchAnswer {
        let value = |score: &Score| score.value(normalized);
        BatchAnswer {
            results: ranking
                .scores
                .iter()
                .enumerate()
                .map(|(index, score)| BatchItem {
                    index,
                    score: value(score),
                    logit: score.logit,
                    shown: score.into(),
                })
                .collect(),
            scores: ranking.scores.iter().map(value).collect(),
            model: about.model.clone(),
            normalized,
            count: ranking.scores.len(),
            ms: about.ms,
        }
    }

    fn error(failure: &Failure) -> ErrorBody {
        failure.into()
    }
}

/// The score of one pair.
#[derive(Debug, Serialize, ToSchema)]
pub struct RerankAnswer {
    /// Sigmoid of the logit, or the logit itself where `normalize` was false.
    #[schema(required = true, value_type = f64, example = 0.9948)]
    score: Option<f64>,
    /// Raw output of the model.
    #[schema(required = true, value_type = f32, example = 5.2617)]
    logit: Option<f32>,
    normalized: bool,
    /// Name of the model that scored.
    model: String,
    #[serde(flatten)]
    #[schema(value_type = Shown)]
    shown: Option<Shown>,
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

/// A pair's score, with all that is known of it.
#[derive(Debug, Serialize, ToSchema)]
pub struct BatchItem {
    /// Place of the pair in the request.
    index: usize,
    score: f64,
    logit: f32,
    #[serde(flatten)]
    shown: Shown,
}

/// What went wrong, under `error`. `detail`, `message` and `error_type` repeat it for clients of other services, because on paths that
/// several dialects share a body may be refused before it shows whose it is.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    error: ErrorInfo,
    detail: String,
    message: String,
    error_type: &'static str,
}

/// What went wrong, for programs.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorInfo {
    /// Stable name of the error.
    #[schema(example = "missing_field")]
    code: &'static str,
    /// The same in a sentence.
    #[schema(example = "passage is missing")]
    message: String,
    #[schema(example = "invalid_request_error")]
    r#type: &'static str,
    /// The field at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    /// How much of it there was.
    #[serde(skip_serializing_if = "Option::is_none")]
    got: Option<u64>,
    /// How much is allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u64>,
    /// The routes there are, where the one asked for is none of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<String>,
}

impl From<&Failure> for ErrorBody {
    fn from(failure: &Failure) -> Self {
        let message = failure.message();
        Self {
            detail: message.clone(),
            message: message.clone(),
            error_type: failure.word(),
            error: ErrorInfo {
                code: failure.code(),
                message,
                r#type: failure.word(),
                field: failure.field(),
                got: failure.refusal.got,
                limit: failure.refusal.limit,
                routes: failure.routes.clone(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reranker_domain::Score;
    use std::time::Duration;

    const LIMITS: Limits = Limits {
        pairs: 2,
        text_chars: 5,
    };

    fn body(json: &str) -> BatchBody {
        serde_json::from_str(json).expect("valid JSON")
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
            let body = body(json);
            let names = body.names();
            let error = Batch::read(body, &LIMITS).err().expect(json);
            let named = error.field.map(|field| names.name(&field));
            assert_eq!(
                (error.code.name(), named.as_deref()),
                (code, Some(field)),
                "{json}"
            );
        }
    }

    #[test]
    fn unknown_fields_are_ignored_and_repeated_queries_are_kept_once() {
        let body = body(
            r#"{"pairs":[{"query":"q","passage":"","x":1},{"query":"q","passage":"p"}],"model":"any"}"#,
        );
        let (request, _) = Batch::read(body, &LIMITS).expect("valid");
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
                chunks: 1,
                sentences: Vec::new(),
            }],
            tokenized: Duration::ZERO,
            queued: Duration::ZERO,
            computed: Duration::ZERO,
            cache_lookups: 0,
            cache_hits: 0,
        };
        let about = About {
            model: "m".into(),
            revision: None,
            id: "i".into(),
            created: 0,
            ms: 1.0,
        };
        let answer = One::answer(Normalize(false), &ranking, &about);
        assert_eq!(answer.score, Some(-8.1875));
        assert!(answer.shown.is_some_and(|shown| shown.truncated));
        let normalized = Batch::answer(Normalize(true), &ranking, &about);
        assert!((normalized.scores[0] - 2.780_5e-4).abs() < 1e-7);
    }
}
