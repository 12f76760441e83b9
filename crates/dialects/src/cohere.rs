//! Cohere's Rerank API, v1 and v2.

use serde::Serialize;
use utoipa::ToSchema;

use super::documents::{Defaults, DocumentsBody, ResponseContext, ResultItem, Returned, USUAL};
use super::{About, Dialect, Failure, Shown};
use reranker_domain::{Limits, Ranking, Refusal, Request, Score, shown};

/// Cohere's v1.
pub struct V1;

/// Cohere's v2, which can tell relevant sentences.
pub struct V2;

/// Cohere's own default: a long document is read in up to ten pieces.
const V1_DEFAULTS: Defaults = Defaults {
    max_chunks_per_doc: 10,
    ..USUAL
};

/// Cohere's own default: a document is read up to 4096 tokens, here in as many pieces as that takes.
const V2_DEFAULTS: Defaults = Defaults {
    max_tokens_per_doc: Some(4096),
    max_chunks_per_doc: 1000,
    relevant_spans: true,
    ..USUAL
};

/// The ranking, best first.
#[derive(Debug, Serialize, ToSchema)]
pub struct CohereV1Answer {
    id: String,
    results: Vec<ResultItem<Returned>>,
    meta: Meta,
}

/// The ranking, best first.
#[derive(Debug, Serialize, ToSchema)]
pub struct CohereV2Answer {
    id: String,
    results: Vec<CohereV2Item>,
    meta: Meta,
}

/// A document's score, and its place in the request.
#[derive(Debug, Serialize, ToSchema)]
pub struct CohereV2Item {
    index: usize,
    relevance_score: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    relevant_spans: Option<Vec<RelevantSpan>>,
    #[serde(flatten)]
    shown: Shown,
}

/// A sentence of a document.
#[derive(Debug, Serialize, ToSchema)]
pub struct RelevantSpan {
    /// Its first character and the one after its last, in Unicode code points.
    start: usize,
    end: usize,
    score: f64,
}

/// What was done for the answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct Meta {
    api_version: ApiVersion,
    billed_units: BilledUnits,
    tokens: Tokens,
    /// Where documents were cut.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// The version of Cohere's API that the answer has the form of.
#[derive(Debug, Serialize, ToSchema)]
pub struct ApiVersion {
    #[schema(example = "2")]
    version: &'static str,
}

/// What Cohere would bill.
#[derive(Debug, Serialize, ToSchema)]
pub struct BilledUnits {
    /// A query with up to 100 documents, each chunk counting as one. Nothing is billed.
    search_units: usize,
}

/// Tokens of all pairs; a query counts with each document.
#[derive(Debug, Serialize, ToSchema)]
pub struct Tokens {
    input_tokens: usize,
    output_tokens: usize,
}

impl Meta {
    pub(crate) fn new(version: &'static str, ranking: &Ranking) -> Self {
        let chunks: usize = ranking.scores.iter().map(|score| score.chunks).sum();
        let cut = ranking.truncated();
        Self {
            api_version: ApiVersion { version },
            billed_units: BilledUnits {
                search_units: chunks.div_ceil(100),
            },
            tokens: Tokens {
                input_tokens: ranking.tokens(),
                output_tokens: 0,
            },
            warnings: match cut {
                0 => Vec::new(),
                1 => vec!["1 document was truncated".into()],
                _ => vec![format!("{cut} documents were truncated")],
            },
        }
    }
}

/// `{"message": …}`, as Cohere's clients expect it.
#[derive(Debug, Serialize, ToSchema)]
pub struct CohereError {
    message: String,
    /// Stable name of the error.
    code: &'static str,
}

impl From<&Failure> for CohereError {
    fn from(failure: &Failure) -> Self {
        Self {
            message: failure.message(),
            code: failure.code(),
        }
    }
}

impl Dialect for V1 {
    const NAME: &'static str = "cohere";
    const TITLE: &'static str = "Cohere v1";
    type Body = DocumentsBody;
    type Answer = CohereV1Answer;
    type ErrorBody = CohereError;
    type Context = ResponseContext;

    fn read(body: DocumentsBody, limits: &Limits) -> Result<(Request, ResponseContext), Refusal> {
        body.into_request(limits, &V1_DEFAULTS)
    }

    fn answer(context: ResponseContext, ranking: &Ranking, about: &About) -> CohereV1Answer {
        CohereV1Answer {
            id: about.id.clone(),
            results: ResultItem::list(&context, ranking, |document| document),
            meta: Meta::new("1", ranking),
        }
    }

    fn error(failure: &Failure) -> CohereError {
        failure.into()
    }
}

impl Dialect for V2 {
    const NAME: &'static str = V1::NAME;
    const TITLE: &'static str = "Cohere v2";
    type Body = DocumentsBody;
    type Answer = CohereV2Answer;
    type ErrorBody = CohereError;
    type Context = ResponseContext;

    fn read(body: DocumentsBody, limits: &Limits) -> Result<(Request, ResponseContext), Refusal> {
        body.into_request(limits, &V2_DEFAULTS)
    }

    fn answer(context: ResponseContext, ranking: &Ranking, about: &About) -> CohereV2Answer {
        let normalize = context.selection.normalize;
        let results = context.results(ranking).map(|(ranked, _)| CohereV2Item {
            index: ranked.index,
            relevance_score: ranked.value,
            relevant_spans: context
                .spans
                .map(|(threshold, most)| relevant_spans(ranked.score, normalize, threshold, most)),
            shown: ranked.score.into(),
        });
        CohereV2Answer {
            id: about.id.clone(),
            results: results.collect(),
            meta: Meta::new("2", ranking),
        }
    }

    fn error(failure: &Failure) -> CohereError {
        failure.into()
    }
}

/// The sentences whose score reaches the threshold, the best `most` of them, in the order of the text.
fn relevant_spans(
    score: &Score,
    normalize: bool,
    threshold: f64,
    most: usize,
) -> Vec<RelevantSpan> {
    let mut spans: Vec<RelevantSpan> = score
        .sentences
        .iter()
        .map(|sentence| RelevantSpan {
            start: sentence.chars.start,
            end: sentence.chars.end,
            score: shown(sentence.logit, normalize),
        })
        .filter(|span| span.score >= threshold)
        .collect();
    spans.sort_by(|a, b| b.score.total_cmp(&a.score));
    spans.truncate(most);
    spans.sort_by_key(|span| span.start);
    spans
}
