//! What an operator sees: logs on stderr, metrics to be scraped, metrics as CloudWatch's log lines, and traces.
//!
//! Data in: what came of a request ([`Outcome`]), a ranking ([`Reranked`]), and spans and events of `tracing`. No text of a query or
//! a passage ever reaches a log or a metric; a trace holds them only where that was asked for. Nothing is sent anywhere unless a
//! collector is named, and nothing here can fail or hold up a request.

mod emf;
mod join;
mod metrics;
mod openinference;
mod otlp;

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::Method;
use tracing::Level;
use tracing_subscriber::filter::{FilterExt, Targets, filter_fn};
use tracing_subscriber::prelude::*;

pub use emf::Emf;
pub use metrics::{Gauges, METRICS_CONTENT_TYPE, Metrics, ServedModel};
pub use openinference::Reranked;
pub use otlp::{Export, ExportError, Traces};

/// Panics since the process began. The hook that counts them belongs to the process, so the count does too.
static PANICS: AtomicU64 = AtomicU64::new(0);

/// What came of one request.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    pub request_id: String,
    pub method: Method,
    /// The matched pattern, or `unmatched`: never the path, which may hold anything.
    pub route: String,
    /// Whose wire format it was; empty where the request was none to score.
    pub dialect: &'static str,
    pub status: u16,
    /// The error's code; empty where there is none.
    pub code: &'static str,
    /// Documents as they were sent.
    pub documents: usize,
    /// Pairs as they were scored: a document in pieces is several.
    pub pairs: usize,
    pub tokens: usize,
    /// Pairs that lost tokens to the length limit.
    pub truncated: usize,
    pub cache_hits: usize,
    pub cache_misses: usize,
    /// Refused or given up because its deadline could not be met.
    pub past_deadline: bool,
    /// Waiting for the compute thread; like the next two, nothing where the request did not come so far.
    pub queued: Option<Duration>,
    pub tokenized: Option<Duration>,
    pub inferred: Option<Duration>,
    pub total: Duration,
}

/// Reads a level or a filter such as `reranker=debug,hyper=info`.
pub fn parse_filter(text: &str) -> Result<Targets, String> {
    text.parse::<Targets>().map_err(|error| error.to_string())
}

/// Whether log lines are JSON: as `wanted`, else text on a terminal and JSON elsewhere.
pub fn is_json(wanted: Option<bool>) -> bool {
    wanted.unwrap_or_else(|| !std::io::stderr().is_terminal())
}

/// Sees to it that a line of JSON can be logged, where what should have installed a subscriber did not come to it.
pub fn install_default() {
    if !tracing::dispatcher::has_been_set() {
        let filter = Targets::new().with_default(Level::INFO);
        install(filter, true, &Traces::default());
    }
}

/// Installs the process's one subscriber: log lines, and spans to `traces`.
///
/// Other crates are kept from their most detailed level, at which they log whole events and bodies, and panics are logged by
/// place alone, because their messages may quote a text. Spans are for traces only: a log line shows nothing of them, and the
/// log's filter does not thin them out.
pub fn install(filter: Targets, json: bool, traces: &Traces) {
    let ours = filter_fn(|metadata| {
        metadata.is_event()
            && (*metadata.level() <= Level::DEBUG || metadata.target().starts_with("reranker"))
    });
    let logged = filter.and(ours);
    let registry = tracing_subscriber::registry().with(traces.layer());
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    if json {
        let layer = layer
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false);
        registry.with(layer.with_filter(logged)).init();
    } else {
        let layer = layer
            .with_target(false)
            .with_ansi(std::io::stderr().is_terminal());
        registry.with(layer.with_filter(logged)).init();
    }
    std::panic::set_hook(Box::new(|panic| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        let place = panic.location().map(ToString::to_string);
        let thread = std::thread::current();
        tracing::error!(
            place = place.unwrap_or_default(),
            thread = thread.name().unwrap_or_default(),
            "panic"
        );
    }));
}
