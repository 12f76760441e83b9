//! vLLM's rerank and score endpoints.

use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use super::documents::{
    Defaults, DocumentsBody, OpenAiError, ResponseContext, ResultItem, Returned, SideName, USUAL,
    Usage, texts,
};
use super::lenient::{Bool, Documents};
use super::options::body;
use super::{About, Dialect, Failure, Shown, required};
use reranker_domain::{Invalid, Limits, Pair, Ranking, Request};

pub struct Rerank;

pub struct Score;

/// vLLM's results always have their documents.
const DEFAULTS: Defaults = Defaults {
    return_documents: true,
    ..USUAL
};

/// The ranking, best first.
#[derive(Debug, Serialize, ToSchema)]
pub struct VllmRerankAnswer {
    id: String,
    model: String,
    usage: Usage,
    results: Vec<ResultItem<Returned>>,
}

impl Dialect for Rerank {
    const NAME: &'static str = "vllm";
    const TITLE: &'static str = "vLLM rerank";
    type Body = DocumentsBody;
    type Answer = VllmRerankAnswer;
    type ErrorBody = OpenAiError;
    type Context = ResponseContext;

    fn read(body: DocumentsBody, limits: &Limits) -> Result<(Request, ResponseContext), Invalid> {
        body.into_request(limits, &DEFAULTS)
    }

    fn answer(context: ResponseContext, ranking: &Ranking, about: &About) -> VllmRerankAnswer {
        VllmRerankAnswer {
            id: format!("rerank-{}", about.id),
            model: about.model.clone(),
            usage: ranking.into(),
            results: ResultItem::list(&context, ranking, |document| document),
        }
    }

    fn error(failure: &Failure) -> OpenAiError {
        failure.into()
    }
}

body! {
    /// Queries and documents, by any of vLLM's names for them: one of each, one query with many documents, or as many of both, which
    /// are paired.
    #[schema(example = json!({"queries": "Can I get a refund after 30 days?", "documents": [
        "Our offices are open from nine to five.",
        "Returns are accepted within 60 days of delivery, and the full price is refunded.",
        "Gift cards cannot be returned."]}))]
    pub struct ScoreBody {
        queries: Documents,
        documents: Documents,
        items: Documents,
        text_1: Documents,
        text_2: Documents,
        data_1: Documents,
        data_2: Documents,
        /// Whether scores are sigmoids of the logits; the default.
        use_activation: Bool,
        /// Longest sequence in tokens; -1 for the model's own.
        truncate_prompt_tokens: i64,
        truncation_side: SideName,
    }
}

/// Scores in the order of the request.
#[derive(Debug, Serialize, ToSchema)]
pub struct ScoreAnswer {
    id: String,
    #[schema(example = "list")]
    object: &'static str,
    /// Seconds since 1970.
    created: u64,
    model: String,
    data: Vec<ScoreItem>,
    usage: Usage,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ScoreItem {
    index: usize,
    #[schema(example = "score")]
    object: &'static str,
    score: f64,
    #[serde(flatten)]
    shown: Shown,
}

impl ScoreBody {
    /// The two sides with the names that they go by: the first of each that is there. The others count for nothing, but must be lists of texts.
    fn sides(self, limits: &Limits) -> Result<[(&'static str, Documents); 2], Invalid> {
        let first = [
            ("queries", self.queries),
            ("text_1", self.text_1),
            ("data_1", self.data_1),
        ];
        let second = [
            ("documents", self.documents),
            ("items", self.items),
            ("text_2", self.text_2),
            ("data_2", self.data_2),
        ];
        let find = |sides: Vec<(&'static str, Option<Documents>)>| {
            let mut given = sides
                .into_iter()
                .filter_map(|(name, side)| Some((name, side?)));
            let found = given.next();
            for (name, other) in given {
                texts(name, other, |index| format!("{name}[{index}]"), limits)?;
            }
            Ok(found)
        };
        Ok([
            required(find(first.into())?, || "queries".into())?,
            required(find(second.into())?, || "documents".into())?,
        ])
    }
}

/// What the caller calls a document, by the name of its list.
fn document_field(list: &str) -> fn(usize) -> String {
    match list {
        "items" => |index| format!("items[{index}]"),
        "text_2" => |index| format!("text_2[{index}]"),
        "data_2" => |index| format!("data_2[{index}]"),
        _ => USUAL.document_field,
    }
}

impl Dialect for Score {
    const NAME: &'static str = Rerank::NAME;
    const TITLE: &'static str = "vLLM score";
    type Body = ScoreBody;
    type Answer = ScoreAnswer;
    type ErrorBody = OpenAiError;
    /// Whether scores are shown as sigmoids.
    type Context = bool;

    fn read(body: ScoreBody, limits: &Limits) -> Result<(Request, bool), Invalid> {
        let mut options = body.options();
        options.or_prompt_tokens(body.truncate_prompt_tokens)?;
        options.side = body.truncation_side.map_or(options.side, Into::into);
        let activation = body.use_activation.map(|Bool(wanted)| wanted);
        let normalize = options.normalize.or(activation).unwrap_or(true);
        let [(query_name, queries), (document_name, documents)] = body.sides(limits)?;
        let (asked, count) = (queries.count(), documents.count());
        limits.check_pairs(document_name, count)?;
        if asked != 1 && asked != count {
            let message = format!(
                "{asked} {query_name} and {count} {document_name} cannot be paired: give one or as many"
            );
            return Err(Invalid::new("unequal_lists", message)
                .field(query_name)
                .got(asked)
                .limit(count));
        }
        let name = |list: &Documents, name: &'static str| {
            let many = matches!(list, Documents::Many(_));
            move |index: usize| match many {
                true => format!("{name}[{index}]"),
                false => name.to_owned(),
            }
        };
        let field = name(&queries, query_name);
        let queries = texts(query_name, queries, field, limits)?;
        for (index, query) in queries.iter().enumerate() {
            limits.check_query(|| field(index), query)?;
        }
        let field = name(&documents, document_name);
        let documents = texts(document_name, documents, field, limits)?;
        let queries = queries.iter().cycle();
        let pairs = queries.zip(documents).map(|(query, document)| Pair {
            query: Arc::clone(query),
            document,
        });
        let request = options.into_request(pairs.collect(), document_field(document_name))?;
        Ok((request, normalize))
    }

    fn answer(normalize: bool, ranking: &Ranking, about: &About) -> ScoreAnswer {
        let items = ranking.scores.iter().enumerate();
        let data = items.map(|(index, score)| ScoreItem {
            index,
            object: "score",
            score: score.value(normalize),
            shown: score.into(),
        });
        ScoreAnswer {
            id: format!("score-{}", about.id),
            object: "list",
            created: about.created,
            model: about.model.clone(),
            data: data.collect(),
            usage: ranking.into(),
        }
    }

    fn error(failure: &Failure) -> OpenAiError {
        failure.into()
    }
}
