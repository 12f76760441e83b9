//! The router over a tiny real model, without any host.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use http::{Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use reranker::batch::{Compute, ComputeSettings};
use reranker::http::{Keyring, Settings, Telemetry, router};
use reranker::service::Service;
use reranker_domain::Limits;
use reranker_engine::{Engine, ModelError, Settings as EngineSettings};
use serde_json::Value;
use tower::ServiceExt;

pub fn settings() -> Settings {
    Settings {
        limits: Limits {
            pairs: 50,
            text_chars: 2000,
        },
        body_bytes: 64 * 1024,
        body_bytes_in_flight: 1 << 20,
        timeout: Duration::from_secs(60),
        cors_origins: vec!["*".into()],
        base_paths: vec!["/api".into()],
        wait_for_model: false,
        host: "http",
        known: |_| None,
        keys: Keyring::default(),
        billed_bytes: Some(2 << 30),
        resident_bytes: || 1 << 30,
        telemetry: Telemetry::default(),
    }
}

pub fn empty_service() -> Service {
    caching_service(0)
}

/// A service without a model that keeps the scores of so many pairs.
pub fn caching_service(cache_pairs: usize) -> Service {
    let compute = Compute::start(ComputeSettings {
        threads: 2,
        queue_limit: 8,
        batch_tokens: 256,
    });
    Service::new(compute.expect("starts"), cache_pairs, Instant::now())
}

pub fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/xlm-roberta")
}

pub fn engine() -> Result<Engine, ModelError> {
    engine_of(&golden())
}

pub fn engine_of(folder: &Path) -> Result<Engine, ModelError> {
    let settings = EngineSettings {
        name: "tiny".into(),
        named: *folder == golden(),
        revision: Some("r1".into()),
        max_length: 100,
        batch_tokens: 256,
        max_tokens: 10_000,
        ..EngineSettings::default()
    };
    Engine::open(folder, settings)
}

pub async fn loaded() -> (Router, Service) {
    loaded_with(settings()).await
}

pub async fn loaded_with(settings: Settings) -> (Router, Service) {
    let service = empty_service();
    service.load(engine).await.expect("the golden model loads");
    (router(service.clone(), settings), service)
}

pub async fn send(router: &Router, request: Request<Body>) -> (Response<()>, Vec<u8>) {
    let Ok(response) = router.clone().oneshot(request).await;
    let (head, body) = response.into_parts();
    let body = body.collect().await.expect("a whole body").to_bytes();
    (Response::from_parts(head, ()), body.to_vec())
}

pub fn post(path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::post(path)
        .header(header::CONTENT_TYPE, "application/json")
        .body(body.into())
        .expect("a request")
}

pub fn get(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).expect("a request")
}

pub async fn ask(router: &Router, request: Request<Body>) -> (StatusCode, Value) {
    let (head, body) = send(router, request).await;
    let json = serde_json::from_slice(&body)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&body)));
    (head.status(), json)
}

pub async fn rerank(router: &Router, path: &str, body: Value) -> (StatusCode, Value) {
    ask(router, post(path, body.to_string())).await
}
