//! Traces, sent to a collector as OTLP over HTTP in the background: from the SDK's own thread, with
//! a blocking client.
//!
//! Exists only where a collector is named. `config.rs` reads what decides that and what our client
//! needs; the SDK reads the rest of the standard `OTEL_*` variables itself (headers, resource,
//! sampler, batches), and the client the usual variables for a proxy.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use opentelemetry::trace::{Status, TraceContextExt, TracerProvider};
use opentelemetry::{Key, KeyValue};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::{Level, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::Layer;
use tracing_subscriber::registry::LookupSpan;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

use super::Outcome;
use super::ids::KernelIds;

const SERVICE_NAME: &str = "serverless-reranker";
/// A collector answers an export with a few bytes.
const MAX_ANSWER_BYTES: u64 = 64 * 1024;

/// Where traces go.
#[derive(Debug, Clone, PartialEq)]
pub struct Export {
    /// The whole address, path included.
    pub endpoint: String,
    pub timeout: Duration,
    /// PEM file with the authorities to trust instead of the public ones.
    pub certificate: Option<PathBuf>,
    /// Most attributes of one span.
    pub span_attributes: u32,
    /// Whether spans hold the texts of queries and documents.
    pub content: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("cannot read {path}: {reason}")]
    Unreadable {
        path: PathBuf,
        reason: std::io::Error,
    },
    #[error("{0} holds no certificate in PEM form")]
    NoCertificate(PathBuf),
    #[error(transparent)]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
}

/// The way of spans to the collector, or nothing: then every method does nothing. Clones go the
/// same way.
#[derive(Debug, Clone, Default)]
pub struct Traces(Option<Arc<Exporting>>);

#[derive(Debug)]
struct Exporting {
    provider: SdkTracerProvider,
    content: bool,
    /// The last export failed, or took longer than somebody would wait.
    failing: Arc<AtomicBool>,
}

impl Traces {
    /// Starts the thread that exports. Nothing connects before a span has ended.
    pub fn start(export: &Export) -> Result<Self, ExportError> {
        let failing = Arc::new(AtomicBool::new(false));
        let client = Client::new(export, failing.clone())?;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_endpoint(&export.endpoint)
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(export.timeout)
            .build()?;
        let provider = SdkTracerProvider::builder()
            .with_resource(resource())
            .with_id_generator(KernelIds)
            .with_max_attributes_per_span(export.span_attributes)
            .with_batch_exporter(exporter)
            .build();
        Ok(Self(Some(Arc::new(Exporting {
            provider,
            content: export.content,
            failing,
        }))))
    }

    /// What a subscriber needs for its spans to be exported: ours, down to those of debugging.
    pub fn layer<S>(&self) -> Option<impl Layer<S> + use<S>>
    where
        S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    {
        let exporting = self.0.as_deref()?;
        let spans = filter_fn(|metadata| {
            metadata.is_span()
                && metadata.target().starts_with("reranker")
                && *metadata.level() <= Level::DEBUG
        });
        let layer = tracing_opentelemetry::layer()
            .with_tracer(exporting.provider.tracer(SERVICE_NAME))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false);
        Some(layer.with_filter(spans))
    }

    /// The span of a request, as part of the trace that its headers name. Without export it costs
    /// next to nothing.
    pub fn request(&self, method: &Method, route: &str, headers: &HeaderMap) -> Span {
        if self.0.is_none() {
            return Span::none();
        }
        let span = tracing::info_span!(
            "request",
            otel.name = format!("{method} {route}"),
            otel.kind = "server",
            http.request.method = method.as_str(),
            http.route = route,
        );
        self.join(headers, &span);
        span
    }

    /// Makes `span` part of the trace that the headers name, in W3C's form (`traceparent`) or
    /// X-Ray's. What cannot be read is ignored. To be called before the span is entered.
    pub fn join(&self, headers: &HeaderMap, span: &Span) {
        if self.0.is_some() {
            super::join::join(headers, span);
        }
    }

    /// Tells in `span` what came of its request.
    pub fn answered(&self, span: &Span, outcome: &Outcome) {
        if !self.records(span) {
            return;
        }
        span.set_attribute("http.response.status_code", i64::from(outcome.status));
        span.set_attribute("reranker.request_id", outcome.request_id.clone());
        if !outcome.dialect.is_empty() {
            span.set_attribute("reranker.dialect", outcome.dialect);
        }
        if let Some(name) = &outcome.key_name {
            span.set_attribute("reranker.key_name", name.to_string());
        }
        if outcome.documents > 0 {
            let counts = [
                ("reranker.pairs", outcome.pairs),
                ("reranker.tokens", outcome.tokens),
                ("reranker.truncated_pairs", outcome.truncated),
                ("reranker.cache_hits", outcome.cache_hits),
            ];
            for (key, count) in counts {
                span.set_attribute(key, count as i64);
            }
        }
        if !outcome.code.is_empty() {
            span.set_attribute("error.type", outcome.code);
        }
        // A server's span is in error where the server is: what a client did wrong is none.
        if outcome.status >= 500 {
            span.set_status(Status::error(outcome.code));
        }
    }

    /// The trace that `span` belongs to, for a log line; nothing where none is exported.
    pub fn trace_id(&self, span: &Span) -> Option<String> {
        self.records(span)
            .then(|| span.context().span().span_context().trace_id().to_string())
    }

    /// Whether what is set in `span` will be exported.
    pub fn records(&self, span: &Span) -> bool {
        self.0.is_some() && span.context().span().is_recording()
    }

    /// Whether texts go into spans. While nothing can be exported they would only pile up.
    pub(super) fn with_content(&self) -> bool {
        let on = |exporting: &Exporting| exporting.content && !exporting.is_failing();
        self.0.as_deref().is_some_and(on)
    }

    /// Exports what has ended, where the process may be frozen next, and waits for it, but not
    /// longer than `within`. A collector that failed or was slower than that is not waited for
    /// again before it has taken spans.
    pub async fn flush(&self, within: Duration) {
        let Some(exporting) = self.0.as_deref() else {
            return;
        };
        if exporting.is_failing() {
            return;
        }
        let provider = exporting.provider.clone();
        let (done, flushed) = tokio::sync::oneshot::channel();
        // Not one of the runtime's threads: it would wait for them when it ends.
        let thread = std::thread::Builder::new().spawn(move || {
            let _ = provider.force_flush();
            let _ = done.send(());
        });
        if thread.is_ok() && tokio::time::timeout(within, flushed).await.is_err() {
            exporting.failing.store(true, Ordering::Relaxed);
            tracing::warn!(
                within_ms = within.as_millis() as u64,
                "traces are slow to export"
            );
        }
    }

    /// Exports what there is and ends the exporting, within the time given. Blocks.
    pub fn shutdown(&self, within: Duration) {
        if let Some(exporting) = self.0.as_deref() {
            // The client has said what failed.
            let _ = exporting.provider.shutdown_with_timeout(within);
        }
    }
}

impl Exporting {
    fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }
}

/// Who sends: as the standard variables say, under our name where they give none.
fn resource() -> Resource {
    let named = Resource::builder().build();
    let unnamed = named
        .get_ref(&Key::from_static_str("service.name"))
        .is_none_or(|name| name.as_str().starts_with("unknown_service"));
    let mut resource = Resource::builder_empty()
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attributes(
            named
                .iter()
                .map(|(key, value)| KeyValue::new(key.clone(), value.clone())),
        );
    if unnamed {
        resource = resource.with_service_name(SERVICE_NAME);
    }
    resource.build()
}

/// Sends the SDK's requests, and logs when exporting begins to fail and when it works again.
#[derive(Debug)]
struct Client {
    agent: ureq::Agent,
    failing: Arc<AtomicBool>,
}

impl Client {
    fn new(export: &Export, failing: Arc<AtomicBool>) -> Result<Self, ExportError> {
        let roots = match &export.certificate {
            Some(path) => {
                let unreadable = |reason| ExportError::Unreadable {
                    path: path.clone(),
                    reason,
                };
                let pem = std::fs::read(path).map_err(unreadable)?;
                let certificates: Vec<_> = parse_pem(&pem)
                    .filter_map(|item| match item {
                        Ok(PemItem::Certificate(certificate)) => Some(certificate),
                        _ => None,
                    })
                    .collect();
                if certificates.is_empty() {
                    return Err(ExportError::NoCertificate(path.clone()));
                }
                RootCerts::from(certificates)
            }
            None => RootCerts::WebPki,
        };
        let agent = ureq::Agent::config_builder()
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .timeout_global(Some(export.timeout))
            .http_status_as_error(false)
            // Headers may hold keys, which are for the named collector alone.
            .max_redirects(0)
            .build()
            .new_agent();
        Ok(Self { agent, failing })
    }

    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (head, body) = request.into_parts();
        let answer = self.agent.run(Request::from_parts(head, &body[..]))?;
        let (head, mut body) = answer.into_parts();
        let body = body.with_config().limit(MAX_ANSWER_BYTES).read_to_vec()?;
        Ok(Response::from_parts(head, body.into()))
    }

    fn note(&self, sent: &Result<Response<Bytes>, HttpError>) {
        let failure = match sent {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(response.status().to_string()),
            Err(error) => Some(error.to_string()),
        };
        let failed_before = self.failing.swap(failure.is_some(), Ordering::Relaxed);
        match failure {
            Some(error) if !failed_before => tracing::warn!(error, "traces cannot be exported"),
            None if failed_before => tracing::info!("traces are exported again"),
            _ => {}
        }
    }
}

impl HttpClient for Client {
    /// Blocks, as the SDK's thread may.
    fn send_bytes<'client, 'sending>(
        &'client self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'sending>>
    where
        'client: 'sending,
        Self: 'sending,
    {
        let sent = self.send(request);
        self.note(&sent);
        Box::pin(std::future::ready(sent))
    }
}
