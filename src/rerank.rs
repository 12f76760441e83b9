//! The domain: what is asked (`Request`) and what is answered (`Ranking`). No serde, no HTTP, no tensors.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::Invalid;

/// How a pair that is longer than the maximum length is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Truncation {
    /// One token at a time from the longer side, as Hugging Face tokenizers do.
    #[default]
    LongestFirst,
    /// FlagEmbedding's rule: the query keeps at most three quarters of the maximum length, then only the document is cut.
    Flag,
}

impl Truncation {
    pub const NAMES: [&str; 2] = ["longest_first", "flag"];

    pub fn name(self) -> &'static str {
        match self {
            Self::LongestFirst => Self::NAMES[0],
            Self::Flag => Self::NAMES[1],
        }
    }
}

impl FromStr for Truncation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "longest_first" => Ok(Self::LongestFirst),
            "flag" => Ok(Self::Flag),
            _ => Err(format!("must be one of {}", Self::NAMES.join(", "))),
        }
    }
}

impl fmt::Display for Truncation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the model computes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// The fastest that the model's files and the device have: int8 for a packed model, f32 for a folder.
    Auto,
    /// Weights and activations of the linear layers in 8 bits; needs a packed model.
    Int8,
    Bf16,
    F16,
    /// The reference; needs a model folder.
    F32,
}

impl Precision {
    const ALL: [Self; 5] = [Self::Auto, Self::Int8, Self::Bf16, Self::F16, Self::F32];
    pub const NAMES: [&str; 5] = ["auto", "int8", "bf16", "f16", "f32"];

    pub const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|precision| precision.name() == text)
            .ok_or_else(|| format!("must be one of {}", Self::NAMES.join(", ")))
    }
}

/// One query with one document. Texts are shared: many pairs usually have the same query.
#[derive(Clone)]
pub struct Pair {
    pub query: Arc<str>,
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

/// A request for scores, already in our own terms and within every limit but the model's.
#[derive(Debug, Clone)]
pub struct Request {
    pub pairs: Vec<Pair>,
    /// Longest sequence in tokens, special tokens included; the server's own where absent.
    pub max_length: Option<usize>,
    pub truncation: Option<Truncation>,
    pub deadline: Option<Instant>,
}

/// What one request may hold. Dialects check against it, because only they know what the caller calls a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub pairs: usize,
    /// Length of one text in characters (Unicode scalar values).
    pub text_chars: usize,
}

impl Limits {
    pub fn check_pairs(&self, field: &str, got: usize) -> Result<(), Invalid> {
        if got == 0 {
            return Err(Invalid::new("no_pairs", format!("{field} is empty")).field(field));
        }
        if got > self.pairs {
            let limit = self.pairs;
            return Err(Invalid::new(
                "too_many_pairs",
                format!("{got} {field} exceed the limit of {limit}"),
            )
            .field(field)
            .got(got)
            .limit(limit));
        }
        Ok(())
    }

    /// `field` is called only where the text breaks the limit.
    pub fn check_text(&self, field: impl FnOnce() -> String, text: &str) -> Result<(), Invalid> {
        // Bytes are at least as many as characters, so most texts need no counting.
        if text.len() <= self.text_chars {
            return Ok(());
        }
        let (got, limit) = (text.chars().count(), self.text_chars);
        if got <= limit {
            return Ok(());
        }
        let field = field();
        Err(Invalid::new(
            "text_too_long",
            format!("{field} has {got} characters, the limit is {limit}"),
        )
        .field(field)
        .got(got)
        .limit(limit))
    }

    /// A query without any text cannot be meant; an empty document can, and is scored.
    pub fn check_query(&self, field: impl FnOnce() -> String, text: &str) -> Result<(), Invalid> {
        if text.trim().is_empty() {
            let field = field();
            return Err(Invalid::new("empty_query", format!("{field} is empty")).field(field));
        }
        self.check_text(field, text)
    }
}

/// What the model said of one pair, and what it was shown of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// Raw output of the head.
    pub logit: f32,
    /// Length of the scored sequence, special tokens included.
    pub tokens: usize,
    /// Tokens of the query and of the document that did not fit.
    pub dropped_tokens: usize,
}

impl Score {
    pub fn truncated(&self) -> bool {
        self.dropped_tokens > 0
    }

    /// What is shown as the score: the sigmoid of the logit, or the logit itself.
    pub fn value(&self, normalize: bool) -> f64 {
        if normalize {
            sigmoid(self.logit)
        } else {
            in_f64(self.logit)
        }
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
    pub scores: Vec<Score>,
    /// Time spent waiting for the compute thread.
    pub queued: Duration,
    /// Time spent tokenizing and scoring.
    pub computed: Duration,
}

impl Ranking {
    pub fn tokens(&self) -> usize {
        self.scores.iter().map(|score| score.tokens).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn texts_are_measured_in_characters() {
        let limits = Limits {
            pairs: 2,
            text_chars: 3,
        };
        let field = || "query".to_string();
        assert!(limits.check_text(field, "äöü").is_ok());
        let error = limits.check_text(field, "äöüß").expect_err("too long");
        assert_eq!((error.got, error.limit), (Some(4), Some(3)));
        assert_eq!(error.message, "query has 4 characters, the limit is 3");
        let blank = limits.check_query(field, " \n\u{a0}").expect_err("blank");
        assert_eq!(blank.code, "empty_query");
        assert_eq!(
            limits
                .check_pairs("pairs", 3)
                .expect_err("too many")
                .message,
            "3 pairs exceed the limit of 2"
        );
    }

    #[test]
    fn debug_output_of_a_pair_holds_no_text() {
        let pair = Pair {
            query: "canary".into(),
            document: "canary too".into(),
        };
        assert!(!format!("{pair:?}").contains("canary"));
    }
}
