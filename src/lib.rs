//! serverless-reranker: a cross-encoder reranker as one program for AWS Lambda, Azure and plain HTTP.
//!
//! A request goes one way: `host → http → service + batch`, through the crates `reranker_dialects` and `reranker_engine`. ARCHITECTURE.md
//! tells the whole story.

pub mod batch;
pub mod cli;
pub mod config;
mod fault;
pub mod host;
pub mod http;
pub mod service;
pub mod telemetry;
