//! A cross-encoder from its files to its scores: weights, tokenizer, model, and the [`Engine`] that puts them together.
//!
//! Works on the calling thread and its rayon pool. Knows no network, no wire format and no HTTP.

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
    Engine, EngineSettings, Info, TOKENIZER_FILE, faster_sets, folder_config, folder_tokenizer,
};
pub use error::{ModelError, Remedy};
pub use plan::plan;
pub use precision::{Device, Precision};
pub use prepare::{Halt, Prepared, Waiting};
pub use receipt::{Download, Downloaded, LoadTimes, Prefetched, Receipt, Span};
