//! Azure AI's semantic reranking. Its one client sends options as its caller spells them, which its documentation does in snake case.

use serde::Serialize;
use utoipa::ToSchema;

use super::documents::{DocumentsBody, ResponseContext, Returned, USUAL};
use super::lenient::{Bool, Document, Documents};
use super::options::body;
use super::{About, Dialect, Failure, Named, Shown};
use reranker_domain::{Limits, Ranked, Ranking, Refusal, Request, shown};

/// Azure AI's semantic reranking.
pub struct Azure;

/// Fields that its bodies may also have, spelt as its documentation has them.
pub const SNAKE_CASE: [&str; 2] = ["batch_size", "return_sentence_score"];

body! {
    /// A query and the documents to rank.
    #[schema(example = json!({"query": "Can I get a refund after 30 days?", "documents": [
        "Our offices are open from nine to five.",
        "Returns are accepted within 60 days of delivery, and the full price is refunded.",
        "Gift cards cannot be returned."]}))]
    pub struct AzureBody {
        /// What is looked for. Not empty.
        #[schema(required = true, value_type = Document)]
        query: Document,
        #[schema(required = true, value_type = Documents)]
        documents: Documents,
        /// Whether the results repeat the documents.
        #[serde(rename = "returnDocuments", alias = "return_documents")]
        return_documents: Bool,
        /// How many results are answered; all where it is 0 or absent.
        #[serde(rename = "topK", alias = "top_k")]
        top_k: usize,
        /// Not looked at: batches are planned by tokens.
        #[serde(rename = "batchSize", alias = "batch_size")]
        #[expect(dead_code, reason = "clients send it, so the documentation has it")]
        batch_size: usize,
        /// Whether the best come first, which is the default; else results are in the order of the request.
        sort: Bool,
        /// Whether each sentence of each document is scored too.
        #[serde(rename = "returnSentenceScore", alias = "return_sentence_score")]
        return_sentence_score: Bool,
        /// Ours: results below it are left out.
        min_score: f64,
    }
}

impl Named for AzureBody {}

/// The scores, best first unless the request wants its own order.
#[derive(Debug, Serialize, ToSchema)]
pub struct AzureAnswer {
    scores: Vec<AzureItem>,
    meta: AzureMeta,
}

/// A document's score.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AzureItem {
    index: usize,
    score: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sentence_scores: Option<Vec<SentenceScore>>,
    #[serde(flatten)]
    shown: Shown,
}

/// A sentence of a document, by the Unicode code points from `start` to before `end`.
#[derive(Debug, Serialize, ToSchema)]
pub struct SentenceScore {
    start: usize,
    end: usize,
    score: f64,
}

/// What the ranking took, and the model that made it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AzureMeta {
    token_usage: TokenUsage,
    latency: Latency,
    model_name: String,
    model_version: String,
}

/// Tokens of all pairs; a query counts with each document.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenUsage {
    total_tokens: usize,
}

/// In milliseconds.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Latency {
    preprocess_time: f64,
    queue_time: f64,
    inference_time: f64,
    total_time: f64,
}

/// `{"error": {"code", "message", "target"}}`, as Azure's services have it.
#[derive(Debug, Serialize, ToSchema)]
pub struct AzureError {
    error: AzureErrorInfo,
}

/// What went wrong, and in which field.
#[derive(Debug, Serialize, ToSchema)]
pub struct AzureErrorInfo {
    code: &'static str,
    message: String,
    /// The field at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
}

/// What the answer needs besides the ranking.
pub struct AzureContext {
    context: ResponseContext,
    sort: bool,
    sentences: bool,
}

impl Dialect for Azure {
    const NAME: &'static str = "azure";
    const TITLE: &'static str = "Azure AI semantic reranking";
    type Body = AzureBody;
    type Answer = AzureAnswer;
    type ErrorBody = AzureError;
    type Context = AzureContext;

    fn read(body: AzureBody, limits: &Limits) -> Result<(Request, AzureContext), Refusal> {
        let options = body.options();
        let sentences = matches!(body.return_sentence_score, Some(Bool(true)));
        let sort = !matches!(body.sort, Some(Bool(false)));
        let (request, context) = DocumentsBody::new(body.query, body.documents, options)
            .top(body.top_k)
            .return_documents(body.return_documents)
            .min_score(body.min_score)
            .into_request(limits, &USUAL)?;
        let request = Request {
            sentences,
            ..request
        };
        let context = AzureContext {
            context,
            sort,
            sentences,
        };
        Ok((request, context))
    }

    fn answer(asked: AzureContext, ranking: &Ranking, about: &About) -> AzureAnswer {
        let AzureContext {
            context,
            sort,
            sentences,
        } = asked;
        let normalize = context.selection.normalize;
        let mut results: Vec<(Ranked, Option<Returned>)> = context.results(ranking).collect();
        if !sort {
            results.sort_by_key(|(ranked, _)| ranked.index);
        }
        let scores = results.into_iter().map(|(ranked, document)| AzureItem {
            index: ranked.index,
            score: ranked.value,
            document: document.map(Returned::into_text),
            sentence_scores: sentences.then(|| {
                let all = ranked.score.sentences.iter();
                all.map(|sentence| SentenceScore {
                    start: sentence.chars.start,
                    end: sentence.chars.end,
                    score: shown(sentence.logit, normalize),
                })
                .collect()
            }),
            shown: ranked.score.into(),
        });
        let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3;
        AzureAnswer {
            scores: scores.collect(),
            meta: AzureMeta {
                token_usage: TokenUsage {
                    total_tokens: ranking.tokens(),
                },
                latency: Latency {
                    preprocess_time: ms(ranking.tokenized),
                    queue_time: ms(ranking.queued),
                    inference_time: ms(ranking.computed),
                    total_time: about.ms,
                },
                model_name: about.model.clone(),
                model_version: about.revision.clone().unwrap_or_default(),
            },
        }
    }

    fn error(failure: &Failure) -> AzureError {
        AzureError {
            error: AzureErrorInfo {
                code: failure.code(),
                message: failure.message(),
                target: failure.field(),
            },
        }
    }
}
