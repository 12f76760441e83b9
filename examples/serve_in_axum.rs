//! The service inside an axum application of your own:
//! `cargo run --release --example serve_in_axum`, then
//!
//! ```text
//! curl localhost:8000/hello
//! curl localhost:8000/v1/rerank -H 'content-type: application/json' \
//!     -d '{"query": "Can I get a refund?", "documents": ["We open at nine.", "Returns are accepted for 60 days."]}'
//! ```

use std::net::Ipv4Addr;
use std::time::Instant;

use axum::Router;
use axum::routing::get;
use reranker::batch::{Compute, ComputeSettings};
use reranker::http::{self, Settings};
use reranker::service::Service;
use reranker_engine::Engine;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let started = Instant::now();
    // One thread computes, with its pool; requests wait for it in a bounded queue.
    let compute = Compute::start(ComputeSettings::default())?;
    let service = Service::new(compute, 0, started);
    // Until the model is there, requests are answered with 503 and told when to come back.
    let loading = service.clone();
    tokio::spawn(async move {
        let open = || Engine::open("models/demo", reranker_engine::Settings::default());
        if let Err(error) = loading.load(open).await {
            eprintln!("{error}");
        }
    });
    // Every path that is not the application's own is the service's. It knows its paths by their
    // beginnings, so it is not nested: `Settings::base_paths` takes a prefix off.
    let app = Router::new()
        .route("/hello", get(|| async { "hello" }))
        .fallback_service(http::router(service, Settings::default()));
    let port = std::env::var("PORT").map_or(Ok(8000), |port| port.parse())?;
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    axum::serve(listener, app).await?;
    Ok(())
}
