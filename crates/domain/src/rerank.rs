//! The domain: what is asked (`Request`) and what is answered (`Ranking`). No serde, no HTTP, no tensors.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::refusal::{Code, Field, Refusal};

/// The request by which a machine's speed is told: passages, and the tokens of each with the query.
pub const FULL_REQUEST: (usize, usize) = (100, 128);

/// How a pair that is longer than the maximum length is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Truncation {
    /// One token at a time from the longer side, as Hugging Face tokenizers do.
    #[default]
    LongestFirst,
    /// FlagEmbedding's rule: the query keeps at most three quarters of the maximum length, then only the document is cut.
    Flag,
    /// Not at all: the request is refused.
    None,
}

impl Truncation {
    /// What [`Self::name`] may give, in the order of the rules.
    pub const NAMES: [&str; 3] = ["longest_first", "flag", "none"];

    /// The rule as requests and settings write it.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

impl FromStr for Truncation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "longest_first" => Ok(Self::LongestFirst),
            "flag" => Ok(Self::Flag),
            "none" => Ok(Self::None),
            _ => Err(format!("must be one of {}", Self::NAMES.join(", "))),
        }
    }
}

impl fmt::Display for Truncation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One query with one document. Texts are shared: many pairs usually have the same query.
#[derive(Clone)]
pub struct Pair {
    /// What is asked.
    pub query: Arc<str>,
    /// What may answer it.
    pub document: Arc<str>,
}

/// Text must not reach a log by accident, so `{:?}` shows sizes only.
impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair")
            .field("query_bytes", &self.query.len())
            .field("document_bytes", &self.document.len())
            .finish()
    }
}

/// The end of a text that gives way where it is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Side {
    /// The beginning.
    Left,
    /// The end.
    #[default]
    Right,
}

impl Side {
    /// What stays of a sequence of which only `kept` items may.
    pub fn cut<T>(self, items: &[T], kept: usize) -> &[T] {
        let kept = kept.min(items.len());
        match self {
            Self::Left => &items[items.len() - kept..],
            Self::Right => &items[..kept],
        }
    }
}

/// A document that does not fit is scored in pieces, and the best piece counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunking {
    /// Most pieces of one document; what is left over is dropped, and told.
    pub max_chunks: usize,
    /// Tokens that a piece repeats of the one before it.
    pub overlap_tokens: usize,
}

/// A request for scores, already in our own terms and within every limit but the model's.
#[derive(Debug, Clone)]
pub struct Request {
    /// What is scored, in the order of the answer.
    pub pairs: Vec<Pair>,
    /// Longest sequence in tokens, special tokens included; the server's own where absent.
    pub max_length: Option<usize>,
    /// How a longer pair is cut; the server's own rule where absent.
    pub truncation: Option<Truncation>,
    /// Which end of a text is cut.
    pub side: Side,
    /// Most tokens of the query that are looked at; all where absent.
    pub max_query_tokens: Option<usize>,
    /// Most tokens of a document that are looked at; all where absent.
    pub max_document_tokens: Option<usize>,
    /// One sequence for each pair where absent.
    pub chunking: Option<Chunking>,
    /// Whether each sentence of each document is scored too.
    pub sentences: bool,
    /// How many results the caller wants, for those who look on: all pairs are scored whatever it is.
    pub top: Option<usize>,
    /// When the answer must be there. Work that cannot meet it is refused, or given up.
    pub deadline: Option<Instant>,
}

impl Request {
    /// A request for plain scores by the server's defaults.
    pub fn new(pairs: Vec<Pair>) -> Self {
        Self {
            pairs,
            max_length: None,
            truncation: None,
            side: Side::Right,
            max_query_tokens: None,
            max_document_tokens: None,
            chunking: None,
            sentences: false,
            top: None,
            deadline: None,
        }
    }
}

/// What one request may hold. Dialects check against it while they read, so that nothing is made of what is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Pairs of one request.
    pub pairs: usize,
    /// Length of one text in characters (Unicode scalar values).
    pub text_chars: usize,
}

impl Limits {
    /// Refuses a list of no pair or of more than the limit.
    pub fn check_pairs(&self, got: usize) -> Result<(), Refusal> {
        let (field, limit) = (Field::Documents, self.pairs);
        if got == 0 {
            return Err(Refusal::of(Code::NoPairs, field, "is empty"));
        }
        if got > limit {
            let (before, after) = (format!("{got} "), format!(" exceed the limit of {limit}"));
            let refusal = Refusal::about(Code::TooManyPairs, before, field, after);
            return Err(refusal.got(got).limit(limit));
        }
        Ok(())
    }

    /// Refuses the text of a field that is too long.
    pub fn check_text(&self, field: Field, text: &str) -> Result<(), Refusal> {
        // Bytes are at least as many as characters, so most texts need no counting.
        if text.len() <= self.text_chars {
            return Ok(());
        }
        let (got, limit) = (text.chars().count(), self.text_chars);
        if got <= limit {
            return Ok(());
        }
        let says = format!("has {got} characters, the limit is {limit}");
        let refusal = Refusal::of(Code::TextTooLong, field, says);
        Err(refusal.got(got).limit(limit))
    }

    /// A query without any text cannot be meant; an empty document can, and is scored.
    pub fn check_query(&self, field: Field, text: &str) -> Result<(), Refusal> {
        if text.trim().is_empty() {
            return Err(Refusal::of(Code::EmptyQuery, field, "is empty"));
        }
        self.check_text(field, text)
    }
}

/// What the model said of one pair, and what it was shown of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// Raw output of the head, for the best chunk.
    pub logit: f32,
    /// Length of the scored sequences together, special tokens included.
    pub tokens: usize,
    /// Tokens of the query and of the document that did not fit.
    pub dropped_tokens: usize,
    /// Sequences that the document was scored in: 1 unless it was chunked.
    pub chunks: usize,
    /// Its sentences in their order, where they were asked for.
    pub sentences: Vec<Sentence>,
}

/// The score of one sentence of a document.
#[derive(Debug, Clone, PartialEq)]
pub struct Sentence {
    /// Its place in the document, in characters (Unicode scalar values).
    pub chars: Range<usize>,
    /// The same in bytes of UTF-8.
    pub bytes: Range<usize>,
    /// Raw output of the head.
    pub logit: f32,
}

impl Score {
    /// Whether the model did not see all of the pair.
    pub fn truncated(&self) -> bool {
        self.dropped_tokens > 0
    }

    /// What is shown as the score: the sigmoid of the logit, or the logit itself.
    pub fn value(&self, normalize: bool) -> f64 {
        shown(self.logit, normalize)
    }
}

/// What is shown of a logit: its sigmoid, or itself.
pub fn shown(logit: f32, normalize: bool) -> f64 {
    if normalize {
        sigmoid(logit)
    } else {
        in_f64(logit)
    }
}

/// The f64 that prints like the f32: a plain conversion would show the logit 0.1 as the score 0.10000000149011612.
fn in_f64(logit: f32) -> f64 {
    logit.to_string().parse().unwrap_or(f64::from(logit))
}

/// Sigmoid, in `[0, 1]`; computed in f64 so that scores near 0 and 1 keep their digits.
pub fn sigmoid(logit: f32) -> f64 {
    let x = f64::from(logit);
    // Both branches take exp of a negative number, which cannot overflow.
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        let e = x.exp();
        e / (1.0 + e)
    }
}

/// The answer, one score for each pair in the order of the request.
#[derive(Debug, Clone)]
pub struct Ranking {
    /// As many as there were pairs.
    pub scores: Vec<Score>,
    /// Time spent turning texts into tokens.
    pub tokenized: Duration,
    /// Time spent waiting for the compute thread.
    pub queued: Duration,
    /// Time spent scoring, with the passes of others between this request's.
    pub computed: Duration,
    /// Sequences that were looked up in the cache; 0 where there is none.
    pub cache_lookups: usize,
    /// Those of them that it had.
    pub cache_hits: usize,
}

impl Ranking {
    /// Tokens of every pair's sequences, special tokens included; those of equal pairs are counted for each.
    pub fn tokens(&self) -> usize {
        self.scores.iter().map(|score| score.tokens).sum()
    }

    /// Pairs that were not shown to the model whole.
    pub fn truncated(&self) -> usize {
        self.scores.iter().filter(|score| score.truncated()).count()
    }
}

/// Which of the scores are answered, and as what.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Selection {
    /// Most results; all where absent.
    pub top: Option<usize>,
    /// Lowest value of what is shown as the score.
    pub min_score: Option<f64>,
    /// Whether the sigmoid of the logit is shown, or the logit itself.
    pub normalize: bool,
}

/// One score of an answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ranked<'a> {
    /// Place of the pair in the request.
    pub index: usize,
    /// What is shown: normalized or raw.
    pub value: f64,
    /// What it comes from.
    pub score: &'a Score,
}

impl Selection {
    /// The best first, by logit; of equal ones the one that came first in the request.
    pub fn best_first(self, scores: &[Score]) -> Vec<Ranked<'_>> {
        let mut ranked: Vec<Ranked> = self.shown(scores).collect();
        ranked.sort_by(|a, b| {
            let by_logit = b.score.logit.total_cmp(&a.score.logit);
            by_logit.then(a.index.cmp(&b.index))
        });
        ranked.truncate(self.top.unwrap_or(usize::MAX));
        ranked
    }

    /// The best ones, in the order of the request.
    pub fn in_order(self, scores: &[Score]) -> Vec<Ranked<'_>> {
        let mut ranked = self.best_first(scores);
        ranked.sort_by_key(|ranked| ranked.index);
        ranked
    }

    fn shown(self, scores: &[Score]) -> impl Iterator<Item = Ranked<'_>> {
        scores.iter().enumerate().filter_map(move |(index, score)| {
            let value = score.value(self.normalize);
            let wanted = self.min_score.is_none_or(|least| value >= least);
            wanted.then_some(Ranked {
                index,
                value,
                score,
            })
        })
    }
}

/// What a request would cost, without being scored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Pairs of the request.
    pub pairs: usize,
    /// Sequences that would be computed without a cache: chunks and sentences counted, repetitions not.
    pub sequences: usize,
    /// Tokens as they would be counted in the answer.
    pub tokens: usize,
    /// Tokens of the sequences that would be computed.
    pub computed_tokens: usize,
    /// Pairs that would not be shown to the model whole.
    pub truncated: usize,
    /// Of this process, as measured; absent before it has computed anything.
    pub tokens_per_second: Option<f64>,
    /// Computing alone; absent before the speed is known.
    pub compute: Option<Duration>,
    /// Computing, and the wait for the requests before it.
    pub total: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sigmoid_is_symmetric_and_finite_at_the_extremes() {
        assert_eq!(sigmoid(0.0), 0.5);
        assert!((sigmoid(5.261_718_8) - 0.994_840_1).abs() < 1e-6);
        assert!((sigmoid(-5.652_344) - 0.003_497_1).abs() < 1e-6);
        assert_eq!(sigmoid(f32::MAX), 1.0);
        assert_eq!(sigmoid(f32::MIN), 0.0);
        assert!((sigmoid(3.5) + sigmoid(-3.5) - 1.0).abs() < 1e-15);
    }

    #[test]
    fn a_raw_score_prints_like_its_logit() {
        for logit in [0.1f32, -8.1875, 1.547_472_5, 3e-9] {
            assert_eq!(in_f64(logit).to_string(), logit.to_string());
        }
    }

    fn scores(logits: &[f32]) -> Vec<Score> {
        let score = |&logit| Score {
            logit,
            tokens: 4,
            dropped_tokens: 0,
            chunks: 1,
            sentences: Vec::new(),
        };
        logits.iter().map(score).collect()
    }

    #[test]
    fn the_best_come_first_and_of_equals_the_earlier() {
        let scores = scores(&[0.5, 2.0, -0.0, 2.0, 0.0]);
        let selection = Selection {
            top: None,
            min_score: None,
            normalize: false,
        };
        let places = |ranked: Vec<Ranked>| ranked.iter().map(|r| r.index).collect::<Vec<_>>();
        assert_eq!(places(selection.best_first(&scores)), [1, 3, 0, 4, 2]);
        let three = Selection {
            top: Some(3),
            ..selection
        };
        assert_eq!(places(three.best_first(&scores)), [1, 3, 0]);
        assert_eq!(places(three.in_order(&scores)), [0, 1, 3]);
    }

    #[test]
    fn the_least_score_is_one_of_what_is_shown() {
        let scores = scores(&[0.5, 2.0, -1.0]);
        let shown = |normalize, min_score| {
            let selection = Selection {
                top: None,
                min_score: Some(min_score),
                normalize,
            };
            selection.best_first(&scores).len()
        };
        assert_eq!((shown(false, 0.5), shown(true, 0.5)), (2, 2));
        assert_eq!((shown(false, 0.7), shown(true, 0.7)), (1, 1));
        assert_eq!((shown(false, 1.5), shown(true, 1.5)), (1, 0));
    }

    #[test]
    fn texts_are_measured_in_characters() {
        let limits = Limits {
            pairs: 2,
            text_chars: 3,
        };
        let field = || Field::Query(0);
        assert!(limits.check_text(field(), "äöü").is_ok());
        let error = limits.check_text(field(), "äöüß").expect_err("too long");
        assert_eq!((error.got, error.limit), (Some(4), Some(3)));
        assert_eq!(error.to_string(), "query has 4 characters, the limit is 3");
        let blank = limits.check_query(field(), " \n\u{a0}");
        assert_eq!(blank.expect_err("blank").code, Code::EmptyQuery);
        let many = limits.check_pairs(3).expect_err("too many");
        assert_eq!(many.to_string(), "3 documents exceed the limit of 2");
    }

    #[test]
    fn debug_output_of_a_pair_holds_no_text() {
        let pair = Pair {
            query: "canary".into(),
            document: "canary too".into(),
        };
        assert!(!format!("{pair:?}").contains("canary"));
    }

    proptest! {
        #[test]
        fn a_selection_is_what_filtering_and_sorting_one_by_one_gives(
            // Few values, so that many are equal; both zeros, which differ in order but not in what is shown.
            logits in prop::collection::vec(prop::sample::select(vec![-3.0f32, -0.5, -0.0, 0.0, 0.5, 2.0, f32::MAX, f32::MIN]), 0..40),
            top in prop::option::of(0usize..50),
            min_score in prop::option::of(-4.0f64..4.0),
            normalize: bool,
        ) {
            let scores = scores(&logits);
            let selection = Selection { top, min_score, normalize };
            let best = selection.best_first(&scores);
            let wanted = |index: &usize| min_score.is_none_or(|least| shown(logits[*index], normalize) >= least);
            let all: Vec<usize> = (0..logits.len()).filter(wanted).collect();
            prop_assert_eq!(best.len(), all.len().min(top.unwrap_or(usize::MAX)));
            for (place, ranked) in best.iter().enumerate() {
                prop_assert!(all.contains(&ranked.index));
                prop_assert_eq!(ranked.value, shown(logits[ranked.index], normalize));
                // Before it are exactly those that beat it: by logit, or as equals by coming first.
                let beats = |&&other: &&usize| match logits[other].total_cmp(&logits[ranked.index]) {
                    std::cmp::Ordering::Greater => true,
                    std::cmp::Ordering::Equal => other < ranked.index,
                    std::cmp::Ordering::Less => false,
                };
                prop_assert_eq!(all.iter().filter(beats).count(), place);
            }
            let mut sorted: Vec<usize> = best.iter().map(|ranked| ranked.index).collect();
            sorted.sort_unstable();
            let in_order: Vec<usize> = selection.in_order(&scores).iter().map(|ranked| ranked.index).collect();
            prop_assert_eq!(in_order, sorted);
        }

        #[test]
        fn a_sigmoid_is_in_bounds_and_keeps_the_order(a in any::<f32>(), b in any::<f32>()) {
            prop_assume!(!a.is_nan() && !b.is_nan());
            let (low, high) = if a.total_cmp(&b).is_le() { (a, b) } else { (b, a) };
            prop_assert!((0.0..=1.0).contains(&sigmoid(low)));
            prop_assert!(sigmoid(low) <= sigmoid(high));
        }

        #[test]
        fn limits_count_characters_and_pairs_and_nothing_else(
            text in "\\PC{0,40}", chars in 0usize..40, pairs in 0usize..60, most in 1usize..50,
        ) {
            let limits = Limits { pairs: most, text_chars: chars };
            let field = || Field::Document(7);
            let got = text.chars().count();
            prop_assert_eq!(limits.check_text(field(), &text).is_ok(), got <= chars);
            prop_assert_eq!(limits.check_pairs(pairs).is_ok(), (1..=most).contains(&pairs));
            let query = limits.check_query(field(), &text);
            prop_assert_eq!(query.is_ok(), got <= chars && !text.trim().is_empty());
            if let Err(refusal) = query {
                prop_assert!(refusal.field == Some(field()));
                prop_assert!(text.trim().is_empty() || refusal.got == Some(got as u64));
            }
        }
    }
}
