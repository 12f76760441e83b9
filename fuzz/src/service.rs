//! The router as a host serves it, over a service without a model: what needs one is answered `not_ready`.

use std::time::{Duration, Instant};

use axum::Router;
use reranker::http::{Keys, Settings, router};
use reranker::batch::{Compute, ComputeSettings};
use reranker_domain::Limits;
use reranker::service::Service;

/// A router that wants one of these keys, or none.
pub fn without_a_model(keys: &[&str]) -> Router {
    let compute = Compute::start(ComputeSettings {
        threads: 1,
        queue_limit: 8,
        batch_tokens: 256,
    });
    let service = Service::new(compute.expect("starts"), 0, Instant::now());
    let settings = Settings {
        limits: Limits {
            pairs: 40,
            text_chars: 300,
        },
        body_bytes: 3000,
        body_bytes_in_flight: 1 << 20,
        timeout: Duration::from_secs(60),
        cors_origins: vec!["https://example.com".into()],
        base_paths: vec!["/api".into()],
        keys: Keys::parse(keys).expect("keys").into(),
        resident_bytes: || 1 << 30,
        ..Settings::default()
    };
    router(service, settings)
}

/// A runtime for one thing at a time.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime")
}
