//! serverless-reranker: a cross-encoder reranker as one program for AWS Lambda, Azure and plain
//! HTTP.
//!
//! This library is the inside of the program `reranker`. Three uses of it have a shorter way:
//!
//! - to rank texts in a program of your own, take [`reranker_engine`], which has no HTTP;
//! - to put the routes into an axum application of your own, take [`http::router`] and
//!   [`service::Service`]: `examples/serve_in_axum.rs` does it in 20 lines;
//! - to add a client's wire format, write one file in [`reranker_dialects`].
//!
//! # The way of a request
//!
//! | Step | Module | In | Out |
//! |---|---|---|---|
//! | 1 | [`host`] | an event of Lambda, or bytes of a socket | an HTTP request |
//! | 2 | [`http`] | the HTTP request | a dialect's body |
//! | 3 | [`reranker_dialects`] | the body | a [`Request`](reranker_domain::Request) |
//! | 4 | [`service`] | the request | sequences of tokens, within its deadline |
//! | 5 | [`batch`] | sequences of all waiting requests | forward passes on the compute thread |
//! | 6 | [`reranker_engine`] | one pass | a logit for each sequence |
//!
//! The answer goes back the same way. [`config`] reads the environment, [`cli`] puts the parts
//! together, and [`telemetry`] reports. ARCHITECTURE.md has the rules between these modules.

pub mod batch;
pub mod cli;
pub mod config;
mod fault;
pub mod host;
pub mod http;
pub mod service;
pub mod telemetry;
