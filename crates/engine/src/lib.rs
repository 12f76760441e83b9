//! A cross-encoder reranker: how relevant is each of these documents to this query?
//!
//! ```
//! use reranker_engine::{Engine, Settings};
//!
//! # std::env::set_current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))?;
//! let engine = Engine::open("models/demo", Settings::default())?;
//! let documents = ["We open at nine.", "Returns are accepted for 60 days."];
//! let ranked = engine.rank("Can I get a refund?", &documents)?;
//! assert_eq!(ranked[0].index, 1);
//! assert!(ranked[0].score > ranked[1].score);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A model has one of two forms:
//!
//! - a folder as Hugging Face's `transformers` writes it: `config.json`, `tokenizer.json` and
//!   `model.safetensors`, with one label. The family is BERT, RoBERTa, XLM-RoBERTa, CamemBERT,
//!   ELECTRA, DistilBERT, MPNet, GTE or ModernBERT. It is computed in f32.
//!   `reranker fetch owner/name` downloads a folder and prints its path.
//! - a packed file, which `reranker pack` makes of such a folder. It is computed in int8.
//!
//! # Where to start
//!
//! - [`Engine`] is a loaded model with its tokenizer. [`Engine::rank`] is the short way.
//!   [`Engine::score`] takes a [`Request`](domain::Request), which may have chunks, sentences, a
//!   maximum length and a rule for truncation.
//! - [`Settings`] are the choices at load; [`Info`] describes the loaded model.
//! - [`ModelError`] says why a model cannot be served, and [`ModelError::advice`] the next step.
//! - [`tokenizer`], [`model`] and [`weights`] are the parts of an engine, for tools that need one
//!   of them alone.
//!
//! # Threads and memory
//!
//! Every call computes on the calling thread and its rayon pool, and blocks until it is done. Async
//! programs call it from a blocking thread. Threads share an engine by reference.
//!
//! Weights are mapped from their files; processes that map the same file share its memory.
//! [`Settings::batch_tokens`] bounds the activations of one forward pass.
//!
//! On CPUs a pair's logit is the same to the bit alone and in any batch, on any number of threads.
//!
//! This crate knows no network, no wire format and no HTTP.

#![warn(missing_docs, unreachable_pub)]

mod engine;
mod error;
pub mod model;
mod plan;
mod precision;
mod prepare;
mod receipt;
pub mod tokenizer;
pub mod weights;

pub use engine::{
    Engine, Info, RankedDocument, Settings, TOKENIZER_FILE, faster_sets, folder_config,
    folder_tokenizer,
};
pub use error::{ModelError, Remedy};
pub use plan::plan;
pub use precision::{Device, Precision};
pub use prepare::{Halt, Prepared, Waiting};
pub use receipt::{Download, Downloaded, LoadTimes, Prefetched, Receipt, Span};
pub use reranker_domain as domain;
