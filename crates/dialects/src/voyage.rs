//! Voyage's Rerank API. Its returned documents are strings.

use serde::Serialize;
use utoipa::ToSchema;

use super::documents::{
    DetailError, DocumentsBody, ResponseContext, ResultItem, Returned, USUAL, Usage,
};
use super::{About, Dialect, Failure};
use reranker_domain::{Limits, Ranking, Refusal, Request};

/// Voyage's `/v1/rerank`.
pub struct Voyage;

/// The ranking, best first.
#[derive(Debug, Serialize, ToSchema)]
pub struct VoyageAnswer {
    #[schema(example = "list")]
    object: &'static str,
    data: Vec<ResultItem<String>>,
    model: String,
    usage: Usage,
}

impl Dialect for Voyage {
    const NAME: &'static str = "voyage";
    const TITLE: &'static str = "Voyage";
    type Body = DocumentsBody;
    type Answer = VoyageAnswer;
    type ErrorBody = DetailError;
    type Context = ResponseContext;

    fn read(body: DocumentsBody, limits: &Limits) -> Result<(Request, ResponseContext), Refusal> {
        body.into_request(limits, &USUAL)
    }

    fn answer(context: ResponseContext, ranking: &Ranking, about: &About) -> VoyageAnswer {
        VoyageAnswer {
            object: "list",
            data: ResultItem::list(&context, ranking, Returned::into_text),
            model: about.model.clone(),
            usage: ranking.into(),
        }
    }

    fn error(failure: &Failure) -> DetailError {
        failure.into()
    }
}
