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
//! A model is a folder as Hugging Face's `transformers` writes it (`config.json`, `tokenizer.json`, `model.safetensors`), with one label,
//! of the BERT, RoBERTa, XLM-RoBERTa, CamemBERT, ELECTRA, DistilBERT, MPNet, GTE or ModernBERT family; or one file that
//! `reranker pack` made of such a folder, which is computed in int8. `reranker fetch owner/name` downloads a folder and prints its path.
//!
//! - [`Engine`] is a loaded model with its tokenizer. [`Engine::rank`] is the short way; [`Engine::score`] takes a
//!   [`Request`](domain::Request), with chunks, sentences, lengths and rules of its own.
//! - [`Settings`] say how it is computed, [`Info`] tells what is.
//! - [`tokenizer`], [`model`] and [`weights`] are the parts, for who puts them together in another way.
//!
//! # Threads and memory
//!
//! Everything computes on the calling thread and the rayon pool that it belongs to, and blocks until it is done: async programs call it
//! from a blocking thread. An engine is shared by reference. Weights are mapped from their files and shared with every process that maps
//! the same ones; activations of one forward pass are bounded by [`Settings::batch_tokens`]. On CPUs a pair's logit is the same to the bit
//! alone and in any batch, on any number of threads.
//!
//! Knows no network, no wire format and no HTTP.

#![warn(missing_docs)]

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
