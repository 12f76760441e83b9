//! The domain: what is asked ([`Request`]), what is answered ([`Ranking`]), and what can go wrong ([`Error`]).
//!
//! Knows no wire format, no tensor and no HTTP. Every other crate that knows of reranking depends on this one, and this one on none
//! of them.

#![warn(missing_docs, unreachable_pub)]

mod error;
mod rerank;

pub use error::{Error, Invalid, Result};
pub use rerank::{
    Chunking, Estimate, FULL_REQUEST, Limits, Pair, Ranked, Ranking, Request, Score, Selection,
    Sentence, Side, Truncation, shown, sigmoid,
};
