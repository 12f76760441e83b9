//! What the dialects with one query and a list of documents have in common: the body, the way to a request, and what is kept for the
//! answer.

use std::sync::Arc;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{AdditionalProperties, ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use super::lenient::{Bool, Document, Documents, List};
use super::options::{Options, body, max_length_name};
use super::text::RankFields;
use super::{Named, Names, Object, Shown, required};
use reranker_domain::{Field, Limits, Pair, Ranked, Ranking, Refusal, Request, Selection};
use reranker_json as json;

body! {
    /// A query and the documents to rank. `null` is as good as absent, and unknown fields are ignored.
    #[schema(example = json!({"query": "Can I get a refund after 30 days?", "documents": [
        "Our offices are open from nine to five.",
        "Returns are accepted within 60 days of delivery, and the full price is refunded.",
        "Gift cards cannot be returned."]}))]
    pub struct DocumentsBody {
        /// Not looked at: this server has one model.
        #[schema(value_type = Option<serde_json::Value>)]
        #[expect(dead_code, reason = "clients send it, so the documentation has it")]
        model: IgnoredAny,
        /// What is looked for. Not empty.
        #[schema(required = true, value_type = Document)]
        query: Document,
        /// Texts, or objects with a field `text`, parts of `content`, or those of `rank_fields`.
        #[schema(required = true, value_type = Documents)]
        documents: Documents,
        /// How many results are answered; all where it is 0 or absent.
        top_n: usize,
        /// The same by another name.
        top_k: usize,
        /// Whether the results repeat the documents.
        return_documents: Bool,
        /// Fields of the documents that are ranked, one after the other; `text` where it is absent.
        #[schema(value_type = Option<Vec<String>>)]
        rank_fields: List<String>,
        /// Ours: results below it are left out.
        min_score: f64,
        /// The opposite of `normalize`, as infinity has it.
        raw_scores: Bool,
        /// As vLLM has them: the longest sequence in tokens (-1 for the model's own), and the side that is cut.
        truncate_prompt_tokens: i64,
        truncation_side: SideName,
        /// Which sentences say it, as Cohere's v2 has it.
        #[schema(value_type = Option<RelevantSpans>)]
        relevant_spans: Object<RelevantSpans>,
    }
}

/// Whether and which sentences of the documents are told with their scores.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct RelevantSpans {
    pub(crate) mode: Option<SpansMode>,
    /// Least score of a span; 0.1 where it is absent.
    pub(crate) threshold: Option<f64>,
    /// Most spans of a document; all where it is absent.
    pub(crate) max_spans: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SpansMode {
    Enabled,
    Disabled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SideName {
    #[serde(alias = "Left")]
    Left,
    #[serde(alias = "Right")]
    Right,
}

impl ToSchema for SideName {}

impl PartialSchema for SideName {
    fn schema() -> RefOr<Schema> {
        let names = ["left", "right", "Left", "Right"];
        let names = ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(names));
        names.into()
    }
}

impl From<SideName> for reranker_domain::Side {
    fn from(name: SideName) -> Self {
        match name {
            SideName::Left => Self::Left,
            SideName::Right => Self::Right,
        }
    }
}

/// How one dialect differs from the others.
pub(crate) struct Defaults {
    /// Where the request does not say.
    pub(crate) normalize: bool,
    pub(crate) return_documents: bool,
    pub(crate) max_tokens_per_doc: Option<usize>,
    pub(crate) max_chunks_per_doc: usize,
    /// Whether its answer has room for them: nobody else's sentences are scored.
    pub(crate) relevant_spans: bool,
}

/// The ways of most.
pub(crate) const USUAL: Defaults = Defaults {
    normalize: true,
    return_documents: false,
    max_tokens_per_doc: None,
    max_chunks_per_doc: 1,
    relevant_spans: false,
};

/// What of the body the answer needs.
pub struct ResponseContext {
    pub(crate) selection: Selection,
    /// The documents as they came, where they are to be returned.
    documents: Option<Vec<Returned>>,
    /// Least score and most spans of a document, where spans are asked for.
    pub(crate) spans: Option<(f64, usize)>,
}

/// A document in an answer: as an object, with the text in `text` if it came as one.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Returned {
    Text { text: Arc<str> },
    Fields(Arc<RawValue>),
}

impl ToSchema for Returned {}

impl PartialSchema for Returned {
    fn schema() -> RefOr<Schema> {
        let anything = AdditionalProperties::FreeForm(true);
        let object = ObjectBuilder::new().schema_type(Type::Object);
        object.additional_properties(Some(anything)).into()
    }
}

impl Returned {
    /// As a plain string, for the dialects that have no objects.
    pub(crate) fn into_text(self) -> String {
        match self {
            Self::Text { text } => text.to_string(),
            Self::Fields(fields) => {
                let place = |name: &str| (name == "text").then_some(0);
                let text = json::pick(fields.get(), 1, place).ok();
                let text = text.and_then(|values| values[0]);
                match text.map(|text| json::string(text.get())) {
                    Some(Ok(text)) => text.into_owned(),
                    _ => fields.get().to_owned(),
                }
            }
        }
    }
}

impl Named for DocumentsBody {
    fn names(&self) -> Names {
        let max_length = max_length_name(self.max_length, self.truncate_prompt_tokens);
        Names::USUAL.max_length(max_length)
    }
}

impl DocumentsBody {
    /// From the fields of a dialect whose names are others.
    pub(crate) fn new(
        query: Option<Document>,
        documents: Option<Documents>,
        options: Options,
    ) -> Self {
        Self {
            model: None,
            query,
            documents,
            top_n: None,
            top_k: None,
            return_documents: None,
            rank_fields: None,
            min_score: None,
            raw_scores: None,
            truncate_prompt_tokens: None,
            truncation_side: None,
            relevant_spans: None,
            normalize: options.normalize.map(Bool),
            max_length: options.max_length,
            truncation: options.truncation,
            max_tokens_per_query: options.max_tokens_per_query,
            max_tokens_per_doc: options.max_tokens_per_doc,
            max_chunks_per_doc: options.max_chunks_per_doc,
            chunk_overlap: options.chunk_overlap,
        }
    }

    pub(crate) fn top(mut self, top: Option<usize>) -> Self {
        self.top_n = top;
        self
    }

    pub(crate) fn return_documents(mut self, wanted: Option<Bool>) -> Self {
        self.return_documents = wanted;
        self
    }

    pub(crate) fn rank_fields(mut self, fields: Option<List<String>>) -> Self {
        self.rank_fields = fields;
        self
    }

    pub(crate) fn min_score(mut self, least: Option<f64>) -> Self {
        self.min_score = least;
        self
    }

    pub(crate) fn into_request(
        self,
        limits: &Limits,
        defaults: &Defaults,
    ) -> Result<(Request, ResponseContext), Refusal> {
        let mut options = self.options();
        options.max_tokens_per_doc = options.max_tokens_per_doc.or(defaults.max_tokens_per_doc);
        options.max_chunks_per_doc = options
            .max_chunks_per_doc
            .or(Some(defaults.max_chunks_per_doc));
        options.side = self.truncation_side.map_or(options.side, Into::into);
        options.or_prompt_tokens(self.truncate_prompt_tokens)?;
        let normalize = options.normalize.or(self.raw_scores.map(|Bool(raw)| !raw));
        let selection = Selection {
            top: self.top_n.or(self.top_k).filter(|&top| top > 0),
            min_score: self.min_score,
            normalize: normalize.unwrap_or(defaults.normalize),
        };
        let spans = self.relevant_spans.filter(|_| defaults.relevant_spans);
        let spans = spans.and_then(|Object(spans)| spans.wanted());
        let query = required(self.query, Field::Query(0))?;
        let query: Arc<str> = query_text(query, limits)?.into();
        let fields = RankFields::read(self.rank_fields.as_ref())?;
        let documents = required(self.documents, Field::Documents)?;
        let count = documents.count();
        limits.check_pairs(count)?;
        let return_documents = self
            .return_documents
            .map_or(defaults.return_documents, |Bool(wanted)| wanted);
        let mut returned = Vec::new();
        let mut pairs = Vec::with_capacity(count);
        documents.each(Field::Documents, |index, document| {
            let field = Field::Document(index);
            let (text, document) = match document {
                Document::Text(text) => (text, None),
                Document::Fields(object) => (fields.of_object(&object, &field)?, Some(object)),
            };
            limits.check_text(field, &text)?;
            let text: Arc<str> = text.into();
            if return_documents {
                returned.push(match document {
                    None => Returned::Text {
                        text: Arc::clone(&text),
                    },
                    Some(object) => Returned::Fields(object.into()),
                });
            }
            pairs.push(Pair {
                query: Arc::clone(&query),
                document: text,
            });
            Ok(())
        })?;
        let request = Request {
            sentences: spans.is_some(),
            top: selection.top,
            ..options.into_request(pairs)?
        };
        let context = ResponseContext {
            selection,
            documents: return_documents.then_some(returned),
            spans,
        };
        Ok((request, context))
    }
}

impl RelevantSpans {
    fn wanted(&self) -> Option<(f64, usize)> {
        let enabled = self.mode == Some(SpansMode::Enabled);
        let (threshold, most) = (self.threshold, self.max_spans);
        enabled.then(|| (threshold.unwrap_or(0.1), most.unwrap_or(usize::MAX)))
    }
}

/// The text of the one query, within its limits.
pub(crate) fn query_text(query: Document, limits: &Limits) -> Result<String, Refusal> {
    let text = RankFields::Usual.text(query, &Field::Query(0))?;
    limits.check_query(Field::Query(0), &text)?;
    Ok(text)
}

/// The texts of a list, each within its limits; `item` is the field of each.
pub(crate) fn texts(
    field: Field,
    list: Documents,
    item: impl Fn(usize) -> Field,
    limits: &Limits,
) -> Result<Vec<Arc<str>>, Refusal> {
    let mut texts = Vec::with_capacity(list.count());
    list.each(field, |index, document| {
        let text = RankFields::Usual.text(document, &item(index))?;
        limits.check_text(item(index), &text)?;
        texts.push(text.into());
        Ok(())
    })?;
    Ok(texts)
}

impl ResponseContext {
    /// The results, best first, each with its document where documents are returned.
    pub(crate) fn results<'a>(
        &'a self,
        ranking: &'a Ranking,
    ) -> impl Iterator<Item = (Ranked<'a>, Option<Returned>)> {
        let best = self.selection.best_first(&ranking.scores);
        best.into_iter().map(|ranked| {
            let documents = self.documents.as_ref();
            let document = documents.map(|documents| documents[ranked.index].clone());
            (ranked, document)
        })
    }
}

/// A result as most dialects have it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ResultItem<D> {
    /// Place of the document in the request.
    pub(crate) index: usize,
    pub(crate) relevance_score: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) document: Option<D>,
    #[serde(flatten)]
    pub(crate) shown: Shown,
}

impl<D> ResultItem<D> {
    pub(crate) fn list(
        context: &ResponseContext,
        ranking: &Ranking,
        document: impl Fn(Returned) -> D,
    ) -> Vec<ResultItem<D>> {
        context
            .results(ranking)
            .map(|(ranked, returned)| ResultItem {
                index: ranked.index,
                relevance_score: ranked.value,
                document: returned.map(&document),
                shown: ranked.score.into(),
            })
            .collect()
    }
}

/// Tokens of the request, as OpenAI's API has them.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Usage {
    /// Of all pairs; a query counts with each document.
    pub(crate) prompt_tokens: usize,
    pub(crate) total_tokens: usize,
}

impl From<&Ranking> for Usage {
    fn from(ranking: &Ranking) -> Self {
        let tokens = ranking.tokens();
        Self {
            prompt_tokens: tokens,
            total_tokens: tokens,
        }
    }
}

/// `{"error": {"message", "type", "param", "code"}}`, as OpenAI's API has it.
#[derive(Debug, Serialize, ToSchema)]
pub struct OpenAiError {
    error: OpenAiErrorInfo,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OpenAiErrorInfo {
    message: String,
    #[schema(example = "invalid_request_error")]
    r#type: &'static str,
    /// The field at fault.
    param: Option<String>,
    /// The HTTP status.
    code: u16,
}

impl From<&super::Failure> for OpenAiError {
    fn from(failure: &super::Failure) -> Self {
        Self {
            error: OpenAiErrorInfo {
                message: failure.message(),
                r#type: failure.word(),
                param: failure.field(),
                code: failure.status,
            },
        }
    }
}

/// `{"detail": …}`, as services made with FastAPI have it.
#[derive(Debug, Serialize, ToSchema)]
pub struct DetailError {
    detail: String,
    /// Stable name of the error.
    code: &'static str,
}

impl From<&super::Failure> for DetailError {
    fn from(failure: &super::Failure) -> Self {
        Self {
            detail: failure.message(),
            code: failure.code(),
        }
    }
}
