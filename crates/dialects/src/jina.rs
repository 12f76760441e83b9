//! Jina's Reranker API.

use serde::Serialize;
use utoipa::ToSchema;

use super::documents::{
    DetailError, DocumentsBody, ResponseContext, ResultItem, Returned, USUAL, Usage,
};
use super::{About, Dialect, Failure};
use reranker_domain::{Limits, Ranking, Refusal, Request};

/// Jina's `/v1/rerank`.
pub struct Jina;

/// The ranking, best first.
#[derive(Debug, Serialize, ToSchema)]
pub struct JinaAnswer {
    model: String,
    #[schema(example = "list")]
    object: &'static str,
    usage: Usage,
    results: Vec<ResultItem<Returned>>,
}

impl Dialect for Jina {
    const NAME: &'static str = "jina";
    const TITLE: &'static str = "Jina";
    type Body = DocumentsBody;
    type Answer = JinaAnswer;
    type ErrorBody = DetailError;
    type Context = ResponseContext;

    fn read(body: DocumentsBody, limits: &Limits) -> Result<(Request, ResponseContext), Refusal> {
        body.into_request(limits, &USUAL)
    }

    fn answer(context: ResponseContext, ranking: &Ranking, about: &About) -> JinaAnswer {
        JinaAnswer {
            model: about.model.clone(),
            object: "list",
            usage: ranking.into(),
            results: ResultItem::list(&context, ranking, |document| document),
        }
    }

    fn error(failure: &Failure) -> DetailError {
        failure.into()
    }
}
