//! The domain: what is asked ([`Request`]), what is answered ([`Ranking`]), and what can go wrong ([`Error`]).
//!
//! Knows no wire format, no tensor and no HTTP. Every other crate that knows of reranking depends on this one, and this one on none
//! of them.
//!
//! Errors are data. [`Code`] is the one table of reasons, [`Field`] names the part of a request at fault, and a [`Refusal`] holds both
//! with the numbers. Words that only one client understands, and statuses, are added where the answer is written.

#![warn(missing_docs, unreachable_pub)]

mod error;
mod refusal;
mod rerank;

pub use error::{Error, Result};
pub use refusal::{Code, Field, Kind, Refusal};
pub use rerank::{
    Chunking, Estimate, FULL_REQUEST, Limits, Pair, Ranked, Ranking, Request, Score, Selection,
    Sentence, Side, Truncation, shown, sigmoid,
};
