//! Mixedbread's reranking API.

use serde::Serialize;
use utoipa::ToSchema;

use super::documents::{DocumentsBody, ResponseContext, Returned, USUAL, Usage};
use super::lenient::{Bool, Document, Documents, List};
use super::options::body;
use super::{About, Dialect, Failure, Named, Names, Shown};
use reranker_domain::{Limits, Ranking, Refusal, Request};

/// Mixedbread's `/v1/reranking`.
pub struct Mixedbread;

body! {
    /// A query and the documents to rank.
    #[schema(example = json!({"query": "Can I get a refund after 30 days?", "input": [
        "Our offices are open from nine to five.",
        "Returns are accepted within 60 days of delivery, and the full price is refunded.",
        "Gift cards cannot be returned."]}))]
    pub struct MixedbreadBody {
        /// What is looked for. Not empty.
        #[schema(required = true, value_type = Document)]
        query: Document,
        /// Texts, or objects with a field `text` or those of `rank_fields`.
        #[schema(required = true, value_type = Documents)]
        input: Documents,
        /// How many results are answered; all where it is 0 or absent.
        top_k: usize,
        /// Whether the results repeat the documents.
        return_input: Bool,
        /// Fields of the documents that are ranked.
        #[schema(value_type = Option<Vec<String>>)]
        rank_fields: List<String>,
        /// Ours: results below it are left out.
        min_score: f64,
    }
}

impl Named for MixedbreadBody {
    fn names(&self) -> Names {
        Names::USUAL.documents("input", "")
    }
}

/// The ranking, best first.
#[derive(Debug, Serialize, ToSchema)]
pub struct MixedbreadAnswer {
    #[schema(example = "list")]
    object: &'static str,
    data: Vec<MixedbreadItem>,
    model: String,
    usage: Usage,
    top_k: usize,
    return_input: bool,
}

/// A document's score, and its place in the request.
#[derive(Debug, Serialize, ToSchema)]
pub struct MixedbreadItem {
    index: usize,
    score: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<MixedbreadInput>,
    #[schema(example = "rank_result")]
    object: &'static str,
    #[serde(flatten)]
    shown: Shown,
}

/// A document as it came.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum MixedbreadInput {
    /// A document that was a text.
    Text(String),
    /// A document that was an object.
    Fields(Returned),
}

/// As Mixedbread's client reads it.
#[derive(Debug, Serialize, ToSchema)]
pub struct MixedbreadError {
    r#type: &'static str,
    message: String,
    /// Stable name of the error.
    code: &'static str,
}

impl Dialect for Mixedbread {
    const NAME: &'static str = "mixedbread";
    const TITLE: &'static str = "Mixedbread";
    type Body = MixedbreadBody;
    type Answer = MixedbreadAnswer;
    type ErrorBody = MixedbreadError;
    /// With whether documents are returned.
    type Context = (ResponseContext, bool);

    fn read(body: MixedbreadBody, limits: &Limits) -> Result<(Request, Self::Context), Refusal> {
        let options = body.options();
        let returned = matches!(body.return_input, Some(Bool(true)));
        let (request, context) = DocumentsBody::new(body.query, body.input, options)
            .top(body.top_k)
            .return_documents(body.return_input)
            .rank_fields(body.rank_fields)
            .min_score(body.min_score)
            .into_request(limits, &USUAL)?;
        Ok((request, (context, returned)))
    }

    fn answer(
        (context, returned): Self::Context,
        ranking: &Ranking,
        about: &About,
    ) -> MixedbreadAnswer {
        let items = context
            .results(ranking)
            .map(|(ranked, document)| MixedbreadItem {
                index: ranked.index,
                score: ranked.value,
                input: document.map(|document| match document {
                    text @ Returned::Text { .. } => MixedbreadInput::Text(text.into_text()),
                    fields @ Returned::Fields(_) => MixedbreadInput::Fields(fields),
                }),
                object: "rank_result",
                shown: ranked.score.into(),
            });
        let data: Vec<MixedbreadItem> = items.collect();
        MixedbreadAnswer {
            object: "list",
            top_k: data.len(),
            data,
            model: about.model.clone(),
            usage: ranking.into(),
            return_input: returned,
        }
    }

    fn error(failure: &Failure) -> MixedbreadError {
        MixedbreadError {
            r#type: failure.word(),
            message: failure.message(),
            code: failure.code(),
        }
    }
}
