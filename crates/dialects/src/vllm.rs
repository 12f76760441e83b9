//! vLLM's rerank and score endpoints.

use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use super::documents::{
    Defaults, DocumentsBody, OpenAiError, ResponseContext, ResultItem, Returned, SideName, USUAL,
    Usage, texts,
};
use super::lenient::{Bool, Documents};
use super::options::{body, max_length_name};
use super::{About, Dialect, Failure, Named, Names, Shown, required};
use reranker_domain::{Code, Field, Limits, Pair, Ranking, Refusal, Request};

/// vLLM's `/rerank`.
pub struct Rerank;

/// vLLM's `/score`.
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

    fn read(body: DocumentsBody, limits: &Limits) -> Result<(Request, ResponseContext), Refusal> {
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

/// A pair's score, and its place in the request.
#[derive(Debug, Serialize, ToSchema)]
pub struct ScoreItem {
    index: usize,
    #[schema(example = "score")]
    object: &'static str,
    score: f64,
    #[serde(flatten)]
    shown: Shown,
}

/// vLLM's names for queries, in the order in which they count.
const QUERIES: [&str; 3] = ["queries", "text_1", "data_1"];
/// And those for documents.
const DOCUMENTS: [&str; 4] = ["documents", "items", "text_2", "data_2"];

impl Named for ScoreBody {
    fn names(&self) -> Names {
        let max_length = max_length_name(self.max_length, self.truncate_prompt_tokens);
        let names = Names::USUAL.max_length(max_length);
        let queries = [&self.queries, &self.text_1, &self.data_1];
        let names = match given(QUERIES, queries.map(Option::as_ref)) {
            Some((name, Documents::One(_))) => names.query(name),
            Some((name, Documents::Many(_))) => names.queries(name, ""),
            None => names.query(QUERIES[0]),
        };
        let documents = [&self.documents, &self.items, &self.text_2, &self.data_2];
        match given(DOCUMENTS, documents.map(Option::as_ref)) {
            Some((name, Documents::One(_))) => names.document(name),
            Some((name, Documents::Many(_))) => names.documents(name, ""),
            None => names,
        }
    }
}

/// The first side that is there, and its name.
fn given<T, const N: usize>(
    names: [&'static str; N],
    sides: [Option<T>; N],
) -> Option<(&'static str, T)> {
    let mut sides = names.into_iter().zip(sides);
    sides.find_map(|(name, side)| Some((name, side?)))
}

/// The first side that is there. The others count for nothing, but must be lists of texts.
fn side<const N: usize>(
    names: [&'static str; N],
    sides: [Option<Documents>; N],
    limits: &Limits,
) -> Result<Option<Documents>, Refusal> {
    let sides = names.into_iter().zip(sides);
    let mut given = sides.filter_map(|(name, side)| Some((name, side?)));
    let first = given.next();
    for (name, other) in given {
        let item = |index| Field::from(name).at(format!("[{index}]"));
        texts(name.into(), other, item, limits)?;
    }
    Ok(first.map(|(_, side)| side))
}

impl Dialect for Score {
    const NAME: &'static str = Rerank::NAME;
    const TITLE: &'static str = "vLLM score";
    type Body = ScoreBody;
    type Answer = ScoreAnswer;
    type ErrorBody = OpenAiError;
    /// Whether scores are shown as sigmoids.
    type Context = bool;

    fn read(body: ScoreBody, limits: &Limits) -> Result<(Request, bool), Refusal> {
        let mut options = body.options();
        options.or_prompt_tokens(body.truncate_prompt_tokens)?;
        options.side = body.truncation_side.map_or(options.side, Into::into);
        let activation = body.use_activation.map(|Bool(wanted)| wanted);
        let normalize = options.normalize.or(activation).unwrap_or(true);
        let names = body.names();
        let queries = [body.queries, body.text_1, body.data_1];
        let queries = required(side(QUERIES, queries, limits)?, Field::Queries)?;
        let documents = [body.documents, body.items, body.text_2, body.data_2];
        let documents = required(side(DOCUMENTS, documents, limits)?, Field::Documents)?;
        let (asked, count) = (queries.count(), documents.count());
        limits.check_pairs(count)?;
        if asked != 1 && asked != count {
            let [ours, theirs] = [Field::Queries, Field::Documents].map(|it| names.name(&it));
            let message = format!(
                "{asked} {ours} and {count} {theirs} cannot be paired: give one or as many"
            );
            return Err(Refusal::new(Code::UnequalLists, message)
                .field(Field::Queries)
                .got(asked)
                .limit(count));
        }
        let queries = texts(Field::Queries, queries, Field::Query, limits)?;
        for (index, query) in queries.iter().enumerate() {
            limits.check_query(Field::Query(index), query)?;
        }
        let documents = texts(Field::Documents, documents, Field::Document, limits)?;
        let queries = queries.iter().cycle();
        let pairs = queries.zip(documents).map(|(query, document)| Pair {
            query: Arc::clone(query),
            document,
        });
        Ok((options.into_request(pairs.collect())?, normalize))
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
