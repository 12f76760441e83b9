//! serverless-reranker: a cross-encoder reranker as one program for AWS Lambda, Azure and plain HTTP.
//!
//! A request goes one way: `host → http → dialect → service → tokenizer + batch → model → weights + kernels`. ARCHITECTURE.md
//! tells the whole story.

pub mod batch;
pub mod cli;
pub mod config;
pub mod dialect;
pub mod error;
mod fault;
pub mod host;
pub mod http;
pub mod json;
pub mod model;
pub mod rerank;
pub mod service;
pub mod telemetry;
pub mod tokenizer;
pub mod weights;
