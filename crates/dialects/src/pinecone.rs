//! Pinecone's `/rerank`, whose clients parse strictly: results have nothing that theirs have not.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::documents::{Defaults, DocumentsBody, ResponseContext, Returned, USUAL};
use super::lenient::{Bool, Document, Documents, List};
use super::options::{TruncationName, body};
use super::{About, Dialect, Failure, Named, Object};
use reranker_domain::{Code, Kind, Limits, Ranking, Refusal, Request};

/// Pinecone's `/rerank`.
pub struct Pinecone;

const DEFAULTS: Defaults = Defaults {
    return_documents: true,
    ..USUAL
};

body! {
    /// A query and the documents to rank.
    #[schema(example = json!({"model": "bge-reranker-v2-m3", "query": "Can I get a refund after 30 days?", "documents": [
        {"text": "Our offices are open from nine to five."},
        {"text": "Returns are accepted within 60 days of delivery, and the full price is refunded."}]}))]
    pub struct PineconeBody {
        /// What is looked for. Not empty.
        #[schema(required = true, value_type = Document)]
        query: Document,
        /// Objects with a field `text` or those of `rank_fields`, or texts.
        #[schema(required = true, value_type = Documents)]
        documents: Documents,
        /// How many results are answered; all where it is 0 or absent.
        top_n: usize,
        /// Whether the results repeat the documents; true where it is absent.
        return_documents: Bool,
        /// Fields of the documents that are ranked; `text` where it is absent.
        #[schema(value_type = Option<Vec<String>>)]
        rank_fields: List<String>,
        #[schema(value_type = Option<Parameters>)]
        parameters: Object<Parameters>,
        /// Ours: results below it are left out.
        min_score: f64,
    }
}

impl Named for PineconeBody {}

/// Options of the model.
#[derive(Debug, Deserialize, ToSchema)]
pub struct Parameters {
    /// `END` (long documents are cut) or `NONE` (they are refused).
    truncate: Option<String>,
}

/// The ranking, best first.
#[derive(Debug, Serialize, ToSchema)]
pub struct PineconeAnswer {
    model: String,
    data: Vec<PineconeItem>,
    usage: PineconeUsage,
}

/// A document's score, and its place in the request.
#[derive(Debug, Serialize, ToSchema)]
pub struct PineconeItem {
    index: usize,
    score: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<Returned>,
}

/// What Pinecone would bill.
#[derive(Debug, Serialize, ToSchema)]
pub struct PineconeUsage {
    /// One for each request.
    rerank_units: u32,
}

/// `{"error": {"code", "message"}, "status"}`, as Pinecone's clients read it.
#[derive(Debug, Serialize, ToSchema)]
pub struct PineconeError {
    error: PineconeErrorInfo,
    /// The HTTP status.
    status: u16,
}

/// What went wrong: gRPC's name for its kind, and a sentence.
#[derive(Debug, Serialize, ToSchema)]
pub struct PineconeErrorInfo {
    #[schema(example = "INVALID_ARGUMENT")]
    code: &'static str,
    message: String,
}

impl Dialect for Pinecone {
    const NAME: &'static str = "pinecone";
    const TITLE: &'static str = "Pinecone";
    type Body = PineconeBody;
    type Answer = PineconeAnswer;
    type ErrorBody = PineconeError;
    type Context = ResponseContext;

    fn read(body: PineconeBody, limits: &Limits) -> Result<(Request, ResponseContext), Refusal> {
        let mut options = body.options();
        let parameters = body
            .parameters
            .and_then(|Object(parameters)| parameters.truncate);
        if let Some(truncate) = parameters {
            options.truncation = Some(TruncationName::Allowed(match truncate.as_str() {
                "END" => true,
                "NONE" => false,
                _ => {
                    let (code, field) = (Code::InvalidTruncation, "parameters.truncate");
                    return Err(Refusal::of(code, field, "must be END or NONE"));
                }
            }));
        }
        DocumentsBody::new(body.query, body.documents, options)
            .top(body.top_n)
            .return_documents(body.return_documents)
            .rank_fields(body.rank_fields)
            .min_score(body.min_score)
            .into_request(limits, &DEFAULTS)
    }

    fn answer(context: ResponseContext, ranking: &Ranking, about: &About) -> PineconeAnswer {
        let items = context
            .results(ranking)
            .map(|(ranked, document)| PineconeItem {
                index: ranked.index,
                score: ranked.value,
                document,
            });
        PineconeAnswer {
            model: about.model.clone(),
            data: items.collect(),
            usage: PineconeUsage { rerank_units: 1 },
        }
    }

    fn error(failure: &Failure) -> PineconeError {
        let code = match failure.kind() {
            Kind::Key => "UNAUTHENTICATED",
            Kind::Address => "NOT_FOUND",
            Kind::Pace => "RESOURCE_EXHAUSTED",
            Kind::Caller | Kind::Transfer => "INVALID_ARGUMENT",
            Kind::Unavailable | Kind::Operator => "UNAVAILABLE",
            Kind::Deadline => "DEADLINE_EXCEEDED",
            Kind::Internal => "INTERNAL",
        };
        PineconeError {
            error: PineconeErrorInfo {
                code,
                message: failure.message(),
            },
            status: failure.status,
        }
    }
}
