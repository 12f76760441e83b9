//! What an operator sees: logs on stderr, metrics to be scraped, metrics as CloudWatch's log lines,
//! and traces.
//!
//! Data in: what came of a request ([`Outcome`]), a ranking ([`Reranked`]), and spans and events of
//! `tracing`. No text of a query or a passage ever reaches a log or a metric; a trace holds them
//! only where that was asked for. Nothing is sent anywhere unless a collector is named, and nothing
//! here can fail or hold up a request.

mod emf;
mod ids;
mod join;
mod lines;
mod metrics;
mod openinference;
mod otlp;

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use http::Method;
use tracing::Level;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{FilterExt, ParseError, Targets, filter_fn};
use tracing_subscriber::prelude::*;
use tracing_subscriber::registry::LookupSpan;

pub use emf::{Emf, Function};
use lines::Stream;
pub use lines::{flush, queue};
pub use metrics::{Gauges, METRICS_CONTENT_TYPE, Metrics, ServedModel};
pub use openinference::Reranked;
pub use otlp::{Export, ExportError, Traces};

/// Panics since the process began. The hook that counts them belongs to the process, so the count
/// does too.
static PANICS: AtomicU64 = AtomicU64::new(0);
/// Whether a panic of the main thread ends the process at once.
static MAIN_ENDS_ALL: AtomicBool = AtomicBool::new(false);
/// For the last lines of a process, where their reader stands still.
pub const LAST_LINES_TIME: Duration = Duration::from_millis(500);

/// What came of one request.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    pub request_id: String,
    pub method: Method,
    /// The matched pattern, or `unmatched`: never the path, which may hold anything.
    pub route: String,
    /// Whose wire format it was; empty where the request was none to score.
    pub dialect: &'static str,
    /// What the caller's key is called in the configuration. Nothing of what the caller sent.
    pub key_name: Option<Arc<str>>,
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
    /// Waiting for the compute thread; like the next two, nothing where the request did not come so
    /// far.
    pub queued: Option<Duration>,
    pub tokenized: Option<Duration>,
    pub inferred: Option<Duration>,
    pub total: Duration,
}

/// Levels by the names that programs have for them.
const LEVELS: [(&str, &[&str]); 6] = [
    ("off", &["off", "none", "silent", "quiet", "0"]),
    ("error", &["error", "err", "critical", "crit", "fatal", "1"]),
    ("warn", &["warn", "warning", "2"]),
    ("info", &["info", "information", "notice", "3"]),
    ("debug", &["debug", "verbose", "4"]),
    ("trace", &["trace", "all", "5"]),
];
/// Our own module's name in filters.
const OURS: &str = "reranker";

/// The level of what a filter of modules alone does not name.
const FOR_OTHERS: &str = "error";

/// Reads a level by any of its usual names, or a filter such as `reranker=debug,hyper=info`.
pub fn parse_filter(text: &str) -> Result<Targets, String> {
    let level = |name: &str| {
        let known = LEVELS
            .iter()
            .find(|(_, names)| names.iter().any(|known| known.eq_ignore_ascii_case(name)));
        known.map(|(level, _)| *level)
    };
    let directive = |text: &str| {
        let text = text.trim();
        let module = |name: &str| {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"_:-".contains(&b);
            !name.is_empty() && name.bytes().all(plain)
        };
        match text
            .split_once('=')
            .map(|(target, name)| (target.trim(), name.trim()))
        {
            Some((target, name)) if module(target) => {
                let level = level(name).ok_or_else(|| format!("{name:?} is not a level"))?;
                Ok(format!("{target}={level}"))
            }
            Some((target, _)) => Err(format!("{target:?} is not a module")),
            None => match level(text) {
                Some(level) => Ok(level.to_owned()),
                // A word alone would be taken for a module, of which everything is logged and of
                // all others nothing.
                None if text.split("::").next() == Some(OURS) && module(text) => {
                    Ok(text.to_owned())
                }
                None => Err(format!("{text:?} is neither a level nor a filter")),
            },
        }
    };
    let directives: Vec<String> = text.split(',').map(directive).collect::<Result<_, _>>()?;
    // A filter of modules alone leaves errors of all others on: a module's name that is misspelt
    // silences nothing.
    let is_level = |directive: &String| LEVELS.iter().any(|(level, _)| level == directive);
    let others = (!directives.iter().any(is_level)).then(|| FOR_OTHERS.to_owned());
    let all: Vec<String> = others.into_iter().chain(directives).collect();
    all.join(",")
        .parse()
        .map_err(|error: ParseError| error.to_string())
}

/// Milliseconds for a line of the log: a tenth is as much as anybody reads.
pub fn log_ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e4).round() / 10.0
}

/// Whether log lines are JSON: as `wanted`, else text on a terminal and JSON elsewhere.
pub fn is_json(wanted: Option<bool>) -> bool {
    wanted.unwrap_or_else(|| !std::io::stderr().is_terminal())
}

/// Writes why the process ends, whatever the log's filter says: as a line of the log where that is
/// JSON, else as text.
pub fn last_word(error: &str, json: bool) {
    if json {
        // Also where what should have installed a subscriber did not come to it.
        let subscriber = tracing_subscriber::registry().with(json_layer());
        tracing::subscriber::with_default(subscriber, || tracing::error!(error, "failed"));
    } else {
        // Nobody is left to be told that it is closed.
        let _ = Stream::Stderr.write_all(format!("reranker: {error}\n").as_bytes());
    }
}

/// Writes text for people where the log goes.
pub fn say(text: &str) {
    // The same.
    let _ = Stream::Stderr.write_all(text.as_bytes());
}

/// From now on a panic of the main thread ends the process with code 1: it is the one that accepts
/// connections, and what it would drop while it unwinds may wait for others.
pub fn end_with_main_thread() {
    MAIN_ENDS_ALL.store(true, Ordering::Relaxed);
}

/// Installs the process's one subscriber: log lines, and spans to `traces`.
///
/// Other crates are kept from their most detailed level, at which they log whole events and bodies,
/// and panics are logged by place alone, because their messages may quote a text. Spans are for
/// traces only: a log line shows nothing of them, and the log's filter does not thin them out.
pub fn install(filter: Targets, json: bool, traces: &Traces) {
    let ours = filter_fn(|metadata| {
        metadata.is_event()
            && (*metadata.level() <= Level::DEBUG || metadata.target().starts_with("reranker"))
    });
    let logged = filter.and(ours);
    let registry = tracing_subscriber::registry().with(traces.layer());
    if json {
        registry.with(json_layer().with_filter(logged)).init();
    } else {
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(|| Stream::Stderr)
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
        if MAIN_ENDS_ALL.load(Ordering::Relaxed) && thread.name() == Some("main") {
            flush(LAST_LINES_TIME);
            std::process::exit(1);
        }
    }));
}

/// Lines of JSON on stderr.
fn json_layer<S>() -> impl Layer<S>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    tracing_subscriber::fmt::layer()
        .with_writer(|| Stream::Stderr)
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_go_by_their_usual_names() {
        for (name, level) in [
            ("warning", "warn"),
            ("WARNING", "warn"),
            ("Critical", "error"),
            ("fatal", "error"),
            ("none", "off"),
            ("OFF", "off"),
            ("Info", "info"),
            ("verbose", "debug"),
            // Of what is not named, errors.
            (
                "reranker=Warning, hyper = NONE",
                "error,reranker=warn,hyper=off",
            ),
            ("rerankr=debug", "error,rerankr=debug"),
            ("warning,reranker=debug", "warn,reranker=debug"),
            ("reranker::http=trace", "error,reranker::http=trace"),
            ("reranker", "error,reranker"),
            ("reranker=off", "error,reranker=off"),
            ("3", "info"),
        ] {
            let expected: Targets = level.parse().expect("a filter");
            assert_eq!(parse_filter(name), Ok(expected), "{name}");
        }
    }

    #[test]
    fn what_is_neither_a_level_nor_a_filter_is_refused() {
        for wrong in [
            "loud",
            "rerank",
            "debugging",
            "[x",
            "[x=info",
            "reranker=loud",
            "reranker=",
            "=info",
            "info,",
            ",",
            "info warn",
            "hyper",
            "re ranker=info",
            "info;debug",
            "\u{e9}",
        ] {
            assert!(parse_filter(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_of_the_log_have_one_decimal() {
        assert_eq!(log_ms(Duration::from_nanos(73_263_601)).to_string(), "73.3");
        assert_eq!(log_ms(Duration::from_micros(40)).to_string(), "0");
    }
}
