//! The one router that every host serves: routes, limits, identification and logging of requests, errors as JSON.
//!
//! Data in: an HTTP request, to which a host may have attached a [`Deadline`] and a [`RequestId`]. Data out: a response. Turns
//! bodies into dialects' types and hands the domain's `Request` to the service; decides nothing about scores.

mod auth;
mod body;
mod budget;
mod docs;
mod error;
mod error_format;
mod health;
mod metrics;
mod mounts;
mod observe;
mod page;
mod path;
mod playground;
mod score;
mod status;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, Method};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::service::Service;
use crate::telemetry::{Emf, Metrics, Traces};
use error_format::ErrorFormats;
use mounts::Mounts;
use reranker_domain::Limits;

pub use auth::{BadKey, BadKeyFile, KeyLimits, Keyring, Keys};
pub use error::Rejection;
pub use error_format::Told;
pub use health::{KnownModel, KnownTime, Quality};
pub use observe::RequestId;
pub use path::SentUri;
pub use status::{Answered, answered};

/// When a request must have been answered. Attached by a host that knows; the server's own limit applies besides.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(pub Instant);

#[derive(Clone)]
pub struct Settings {
    pub limits: Limits,
    pub body_bytes: usize,
    /// Of the bodies and answers of all requests together.
    pub body_bytes_in_flight: usize,
    pub timeout: Duration,
    /// `["*"]` for any origin, empty for none.
    pub cors_origins: Vec<String>,
    /// Path prefixes that are taken off where a request has them.
    pub base_paths: Vec<String>,
    /// Whether a request waits for a loading model instead of being told to come back: on Lambda nobody else would answer it.
    pub wait_for_model: bool,
    /// What serves, for `/info`.
    pub host: &'static str,
    /// What is known of the model of a name.
    pub known: fn(&str) -> Option<KnownModel>,
    /// Who may call, and how much.
    pub keys: Keyring,
    /// Memory that the platform bills, where it tells; and what the process has in use, for estimates: 0 where nobody measures it.
    pub billed_bytes: Option<u64>,
    pub resident_bytes: fn() -> u64,
    pub telemetry: Telemetry,
}

/// Those of a server whose variables are not set, with no key asked for.
impl Default for Settings {
    fn default() -> Self {
        Self {
            limits: Limits {
                pairs: 1000,
                text_chars: 100_000,
            },
            body_bytes: 10 << 20,
            body_bytes_in_flight: 64 << 20,
            timeout: Duration::from_secs(300),
            cors_origins: vec!["*".into()],
            base_paths: Vec::new(),
            wait_for_model: false,
            known: |_| None,
            host: "http",
            keys: Keyring::default(),
            billed_bytes: None,
            resident_bytes: || 0,
            telemetry: Telemetry::default(),
        }
    }
}

/// Where what happens is told, besides the log.
#[derive(Clone, Default)]
pub struct Telemetry {
    pub traces: Traces,
    pub metrics: Metrics,
    /// A line for CloudWatch after each request, where it is wanted.
    pub emf: Option<Arc<Emf>>,
    /// When the process began.
    pub process_start: Option<SystemTime>,
}

#[derive(Clone)]
struct App {
    service: Service,
    settings: Arc<Settings>,
    budget: Arc<budget::BodyBudget>,
    /// `METHOD /path` of every route, for the error that lists them.
    routes: Arc<[String]>,
    error_formats: Arc<ErrorFormats>,
    /// Names of the fields of every dialect's bodies.
    fields: Arc<[String]>,
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "serverless-reranker",
        description = "Scores how relevant a passage is to a query, with a cross-encoder. The header `x-request-timeout-ms` says how \
                       many milliseconds a caller waits; `x-request-id` comes back as it was sent.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    // Relative to this document, so that it holds below any stage or prefix.
    servers((url = "."))
)]
struct Api;

/// Every route, what it speaks, and the document of all.
fn mounts() -> Mounts {
    let (router, api) = OpenApiRouter::with_openapi(Api::openapi())
        .routes(routes!(health::health))
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
        .routes(routes!(health::info))
        .routes(routes!(health::models))
        .routes(routes!(metrics::metrics))
        .routes(routes!(playground::page))
        .routes(routes!(docs::page))
        .split_for_parts();
    Mounts::add(router, api)
}

/// A route that is `path`, or lies below it: taking `path` off a request for it would make another of it.
pub fn route_below(path: &str) -> Option<String> {
    let api = mounts().api;
    let mut routes = api.paths.paths.keys();
    let route = routes.find(|route| {
        let rest = route.strip_prefix(path);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    });
    route.cloned()
}

/// Everything that is served, as one router.
pub fn router(service: Service, settings: Settings) -> Router {
    let Mounts {
        router,
        error_formats,
        fields,
        api,
    } = mounts();
    let app = App {
        service,
        routes: route_list(&api),
        error_formats: Arc::new(error_formats),
        budget: budget::BodyBudget::new(settings.body_bytes_in_flight, settings.body_bytes),
        fields: fields.into_iter().collect(),
        settings: Arc::new(settings),
    };
    let router = router
        .merge(docs::router(&api))
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(CatchPanicLayer::custom(|_| {
            Rejection::Panicked.into_response()
        }))
        .layer(middleware::from_fn_with_state(app.clone(), auth::guard))
        .layer(middleware::from_fn_with_state(
            app.clone(),
            observe::observe,
        ))
        .layer(cors(&app.settings.cors_origins))
        .with_state(app.clone());
    path::at_any_spelling(router, app.settings.base_paths.clone())
}

fn route_list(api: &utoipa::openapi::OpenApi) -> Arc<[String]> {
    let mut routes: Vec<String> = api
        .paths
        .paths
        .iter()
        .flat_map(|(path, item)| {
            let operations = [("GET", &item.get), ("POST", &item.post)];
            operations
                .into_iter()
                .filter(|(_, operation)| operation.is_some())
                .map(move |(method, _)| format!("{method} {path}"))
        })
        .chain(["GET /openapi.json".to_owned()])
        .collect();
    routes.sort();
    routes.into()
}

fn cors(origins: &[String]) -> CorsLayer {
    let layer = CorsLayer::new()
        .allow_methods([Method::GET, Method::POST])
        // Named back one by one: `*` would not cover Authorization.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([
            observe::REQUEST_ID,
            HeaderName::from_static("retry-after"),
            HeaderName::from_static("retry-after-ms"),
            score::SERVER_TIMING,
            score::IGNORED_FIELDS,
            observe::DEMO,
        ])
        .max_age(Duration::from_secs(3600));
    if origins == ["*"] {
        layer.allow_origin(tower_http::cors::Any)
    } else {
        let origins: Vec<HeaderValue> = origins
            .iter()
            .filter_map(|origin| HeaderValue::from_str(origin).ok())
            .collect();
        layer.allow_origin(AllowOrigin::list(origins))
    }
}

async fn unknown_route(State(app): State<App>, request: Request) -> Response {
    let paths = app.routes.iter().filter_map(|route| route.split_once(' '));
    let paths: Vec<&str> = paths.map(|(_, path)| path).collect();
    Rejection::UnknownRoute {
        advice: path::advice(request.uri().path(), &paths),
        routes: app.routes.to_vec(),
    }
    .into_response()
}

async fn wrong_method() -> Response {
    Rejection::WrongMethod.into_response()
}
