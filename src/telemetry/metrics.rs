//! Metrics for Prometheus: counted as requests are answered, rendered when they are asked for.
//!
//! Labels hold route patterns, dialects, statuses and codes, of which there are few; nothing that a
//! caller can choose freely.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry, Unit};

use super::{Outcome, PANICS, lines};

/// What `render` writes. Prometheus has asked for it since version 2.5.
pub const METRICS_CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// From a cached answer of one pair to the longest request that anyone waits for.
const SECONDS: [f64; 17] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    120.0, 300.0,
];

/// Everything counted so far. Clones count together.
#[derive(Clone)]
pub struct Metrics(Arc<Counted>);

struct Counted {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    duration: Family<RouteLabels, Histogram, fn() -> Histogram>,
    errors: Family<CodeLabels, Counter>,
    documents: Family<DialectLabels, Counter>,
    pairs: Family<DialectLabels, Counter>,
    tokens: Family<DialectLabels, Counter>,
    truncated: Counter,
    cache_hits: Counter,
    cache_misses: Counter,
    past_deadline: Counter,
    queued: Histogram,
    tokenized: Histogram,
    inferred: Histogram,
    connections: Gauge,
    connections_refused: Counter,
    by_key: Family<KeyLabels, Counter>,
    tokens_by_key: Family<KeyNameLabels, Counter>,
    key_file_reads: Counter,
    key_file_broken: Gauge,
}

/// A connection, for as long as it is open.
pub struct OpenConnection(Gauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: String,
    dialect: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: String,
    dialect: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabels {
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DialectLabels {
    dialect: &'static str,
}

/// Names are those of the configuration, which has a limit of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KeyLabels {
    key_name: Arc<str>,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KeyNameLabels {
    key_name: Arc<str>,
}

/// What holds at the moment of rendering.
#[derive(Debug, Clone, Default)]
pub struct Gauges {
    /// Requests that wait for the compute thread.
    pub queued: usize,
    /// What the compute thread has done: forward passes, and the tokens in them, also for those
    /// whose client had gone.
    pub passes: u64,
    pub computed_tokens: u64,
    /// Of bodies that are being read or worked on.
    pub body_bytes: usize,
    /// Of answers that are being made or not taken yet.
    pub answer_bytes: usize,
    pub resident_bytes: Option<u64>,
    /// A GPU's memory: what is taken, by whomever, and all of it.
    pub device_memory: Option<(u64, u64)>,
    pub process_start: Option<SystemTime>,
    /// From the start of the process to a model that answers.
    pub cold_start: Option<Duration>,
    /// Nothing while it loads.
    pub model: Option<ServedModel>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ServedModel {
    pub name: String,
    pub precision: String,
    pub instruction_set: String,
}

/// A metric, registered by its name and help.
fn add<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

/// The same for times.
fn timed<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register_with_unit(name, help, Unit::Seconds, metric.clone());
    metric
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    pub fn new() -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(SECONDS);
        let mut registry = Registry::with_prefix("reranker");
        let all = &mut registry;
        // In the order in which they are rendered.
        let requests = add(all, "requests", "Requests answered");
        let errors = add(all, "errors", "Requests refused or failed, by error code");
        let documents = add(all, "documents", "Documents received to be scored");
        let pairs = add(all, "pairs", "Pairs of query and passage scored");
        let tokens = add(all, "tokens", "Tokens scored, special tokens included");
        let truncated = add(all, "truncated_pairs", "Pairs cut to the length limit");
        let cache_hits = add(all, "cache_hits", "Pairs whose score was known");
        let cache_misses = add(all, "cache_misses", "Pairs looked up in vain");
        let past_deadline = add(
            all,
            "deadline_refusals",
            "Requests refused or given up because their deadline could not be met",
        );
        let connections = add(all, "connections", "Connections that are open");
        let connections_refused = add(all, "connections_refused", "Connections over the limit");
        let by_key = add(
            all,
            "key_requests",
            "Requests with an API key that has a name",
        );
        let tokens_by_key = add(
            all,
            "key_tokens",
            "Tokens scored for an API key that has a name",
        );
        let key_file_reads = add(
            all,
            "key_file_reads",
            "Times that changed keys of API_KEYS_FILE were taken up",
        );
        let key_file_broken = add(
            all,
            "key_file_broken",
            "1 while API_KEYS_FILE cannot be used and its earlier keys hold",
        );
        let queued = timed(
            all,
            "queue_wait",
            "Wait for the compute thread",
            histogram(),
        );
        let tokenized = timed(all, "tokenize", "Texts to ids", histogram());
        let inferred = timed(all, "inference", "Forward passes of a request", histogram());
        let duration = timed(
            all,
            "request_duration",
            "From a request's head to its answer",
            Family::new_with_constructor(histogram),
        );
        Self(Arc::new(Counted {
            registry,
            requests,
            duration,
            errors,
            documents,
            pairs,
            tokens,
            truncated,
            cache_hits,
            cache_misses,
            past_deadline,
            queued,
            tokenized,
            inferred,
            connections,
            connections_refused,
            by_key,
            tokens_by_key,
            key_file_reads,
            key_file_broken,
        }))
    }

    pub fn record(&self, outcome: &Outcome) {
        let all = &self.0;
        let dialect = outcome.dialect;
        let labels = RequestLabels {
            route: outcome.route.clone(),
            dialect,
            status: outcome.status,
        };
        all.requests.get_or_create(&labels).inc();
        let RequestLabels { route, .. } = labels;
        let labels = RouteLabels { route, dialect };
        let total = outcome.total.as_secs_f64();
        all.duration.get_or_create(&labels).observe(total);
        if !outcome.code.is_empty() {
            let labels = CodeLabels { code: outcome.code };
            all.errors.get_or_create(&labels).inc();
        }
        let by_dialect = [
            (&all.documents, outcome.documents),
            (&all.pairs, outcome.pairs),
            (&all.tokens, outcome.tokens),
        ];
        for (family, count) in by_dialect {
            if count > 0 {
                let labels = DialectLabels { dialect };
                family.get_or_create(&labels).inc_by(count as u64);
            }
        }
        if let Some(key_name) = &outcome.key_name {
            let labels = KeyLabels {
                key_name: key_name.clone(),
                status: outcome.status,
            };
            all.by_key.get_or_create(&labels).inc();
            let KeyLabels { key_name, .. } = labels;
            let tokens = all.tokens_by_key.get_or_create(&KeyNameLabels { key_name });
            tokens.inc_by(outcome.tokens as u64);
        }
        all.truncated.inc_by(outcome.truncated as u64);
        all.cache_hits.inc_by(outcome.cache_hits as u64);
        all.cache_misses.inc_by(outcome.cache_misses as u64);
        all.past_deadline.inc_by(u64::from(outcome.past_deadline));
        let phases = [
            (&all.queued, outcome.queued),
            (&all.tokenized, outcome.tokenized),
            (&all.inferred, outcome.inferred),
        ];
        for (histogram, time) in phases {
            if let Some(time) = time {
                histogram.observe(time.as_secs_f64());
            }
        }
    }

    pub fn connection_opened(&self) -> OpenConnection {
        self.0.connections.inc();
        OpenConnection(self.0.connections.clone())
    }

    pub fn connection_refused(&self) {
        self.0.connections_refused.inc();
    }

    pub fn key_file_read(&self) {
        self.0.key_file_reads.inc();
    }

    pub fn key_file_broken(&self, broken: bool) {
        self.0.key_file_broken.set(broken.into());
    }

    /// All of it as OpenMetrics text, to be sent as [`METRICS_CONTENT_TYPE`].
    pub fn render(&self, gauges: &Gauges) -> String {
        let mut text = String::new();
        let momentary = gauges.registry();
        let written = encode_registry(&mut text, &self.0.registry)
            .and_then(|()| encode_registry(&mut text, &momentary))
            .and_then(|()| encode_eof(&mut text));
        written.expect("a string takes all that is written to it");
        text
    }
}

impl Gauges {
    fn registry(&self) -> Registry {
        let mut all = Registry::default();
        // These two are named as every Prometheus client names them.
        if let Some(bytes) = self.resident_bytes {
            let gauge = ConstGauge::new(bytes);
            all.register("process_resident_memory_bytes", "Resident memory", gauge);
        }
        if let Some(start) = self.process_start {
            let since = start.duration_since(UNIX_EPOCH).unwrap_or_default();
            let gauge = ConstGauge::new(since.as_secs_f64());
            let help = "Start of the process since 1970";
            all.register("process_start_time_seconds", help, gauge);
        }
        let ours = all.sub_registry_with_prefix("reranker");
        if let Some((used, all)) = self.device_memory {
            let help = "Memory of the GPU that is taken, by this process and others";
            ours.register("device_memory_used_bytes", help, ConstGauge::new(used));
            ours.register(
                "device_memory_bytes",
                "Memory of the GPU",
                ConstGauge::new(all),
            );
        }
        let queued = ConstGauge::new(self.queued as u64);
        ours.register(
            "queue_depth",
            "Requests that wait for the compute thread",
            queued,
        );
        let bytes = ConstGauge::new(self.body_bytes as u64);
        ours.register("body_bytes", "Bytes of the bodies in memory", bytes);
        let bytes = ConstGauge::new(self.answer_bytes as u64);
        let help = "Bytes of the answers that their clients have not taken yet";
        ours.register("answer_bytes", help, bytes);
        let passes = ConstCounter::new(self.passes);
        ours.register("passes", "Forward passes", passes);
        let tokens = ConstCounter::new(self.computed_tokens);
        let help = "Tokens of all forward passes, those for clients that had gone included";
        ours.register("computed_tokens", help, tokens);
        let panics = ConstCounter::new(PANICS.load(Ordering::Relaxed));
        ours.register("panics", "Panics since the process began", panics);
        let lines = ConstCounter::new(lines::dropped());
        let help = "Lines of the log that were dropped because their reader stood still";
        ours.register("log_lines_dropped", help, lines);
        if let Some(time) = self.cold_start {
            let gauge = ConstGauge::new(time.as_secs_f64());
            let help = "From the start of the process to its first score";
            ours.register("cold_start_seconds", help, gauge);
        }
        if let Some(model) = &self.model {
            ours.register("model", "What is served", Info::new(model.clone()));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn outcome() -> Outcome {
        Outcome {
            request_id: "id-of-one-request".into(),
            method: Method::POST,
            route: "/v1/rerank".into(),
            dialect: "cohere",
            key_name: Some("mobile".into()),
            status: 200,
            code: "",
            documents: 2,
            pairs: 3,
            tokens: 70,
            truncated: 1,
            cache_hits: 1,
            cache_misses: 2,
            past_deadline: false,
            queued: Some(Duration::from_millis(2)),
            tokenized: Some(Duration::from_micros(300)),
            inferred: Some(Duration::from_secs(40)),
            total: Duration::from_secs(41),
        }
    }

    fn has(text: &str, line: &str) {
        assert!(
            text.lines().any(|found| found == line),
            "{line} is not in\n{text}"
        );
    }

    #[test]
    fn requests_are_counted_by_route_dialect_and_status() {
        let metrics = Metrics::new();
        metrics.record(&outcome());
        metrics.clone().record(&outcome());
        metrics.record(&Outcome {
            status: 503,
            code: "deadline_exceeded",
            past_deadline: true,
            pairs: 0,
            inferred: None,
            ..outcome()
        });
        let text = metrics.render(&Gauges::default());
        for line in [
            "# TYPE reranker_requests counter",
            r#"reranker_requests_total{route="/v1/rerank",dialect="cohere",status="200"} 2"#,
            r#"reranker_requests_total{route="/v1/rerank",dialect="cohere",status="503"} 1"#,
            r#"reranker_errors_total{code="deadline_exceeded"} 1"#,
            r#"reranker_key_requests_total{key_name="mobile",status="200"} 2"#,
            r#"reranker_key_requests_total{key_name="mobile",status="503"} 1"#,
            r#"reranker_key_tokens_total{key_name="mobile"} 210"#,
            "reranker_key_file_broken 0",
            r#"reranker_pairs_total{dialect="cohere"} 6"#,
            r#"reranker_documents_total{dialect="cohere"} 6"#,
            r#"reranker_tokens_total{dialect="cohere"} 210"#,
            "reranker_truncated_pairs_total 3",
            "reranker_cache_hits_total 3",
            "reranker_cache_misses_total 6",
            "reranker_deadline_refusals_total 1",
            "# UNIT reranker_inference_seconds seconds",
            r#"reranker_inference_seconds_bucket{le="30.0"} 0"#,
            r#"reranker_inference_seconds_bucket{le="60.0"} 2"#,
            r#"reranker_inference_seconds_bucket{le="+Inf"} 2"#,
            "reranker_inference_seconds_sum 80.0",
            r#"reranker_tokenize_seconds_bucket{le="0.001"} 3"#,
            r#"reranker_queue_wait_seconds_bucket{le="0.001"} 0"#,
            "reranker_queue_wait_seconds_count 3",
            r#"reranker_request_duration_seconds_count{route="/v1/rerank",dialect="cohere"} 3"#,
        ] {
            has(&text, line);
        }
        assert!(!text.contains("id-of-one-request"));
        assert!(text.ends_with("# EOF\n") && text.matches("# EOF").count() == 1);
    }

    #[test]
    fn what_holds_now_is_read_when_it_is_asked_for() {
        let metrics = Metrics::new();
        let model = ServedModel {
            name: "own\"er/na\\me".into(),
            precision: "int8".into(),
            instruction_set: "avx2".into(),
        };
        let gauges = Gauges {
            queued: 4,
            passes: 5,
            computed_tokens: 600,
            body_bytes: 700,
            answer_bytes: 900,
            resident_bytes: Some(5_000_000_000),
            device_memory: Some((2_000_000_000, 80_000_000_000)),
            process_start: Some(UNIX_EPOCH + Duration::from_millis(1_700_000_000_500)),
            cold_start: Some(Duration::from_millis(250)),
            model: Some(model),
        };
        let text = metrics.render(&gauges);
        for line in [
            "reranker_queue_depth 4",
            "reranker_passes_total 5",
            "reranker_computed_tokens_total 600",
            "reranker_body_bytes 700",
            "reranker_answer_bytes 900",
            "process_resident_memory_bytes 5000000000",
            "reranker_device_memory_used_bytes 2000000000",
            "reranker_device_memory_bytes 80000000000",
            "process_start_time_seconds 1700000000.5",
            "reranker_cold_start_seconds 0.25",
            r#"reranker_model_info{name="own\"er/na\\me",precision="int8",instruction_set="avx2"} 1"#,
        ] {
            has(&text, line);
        }
        let text = metrics.render(&Gauges::default());
        has(&text, "reranker_queue_depth 0");
        assert!(!text.contains("reranker_model_info"));
        assert!(!text.contains("device_memory"));
    }

    #[test]
    fn connections_are_counted_while_they_are_open() {
        let metrics = Metrics::new();
        let open = [metrics.connection_opened(), metrics.connection_opened()];
        metrics.connection_refused();
        let text = metrics.render(&Gauges::default());
        has(&text, "reranker_connections 2");
        has(&text, "reranker_connections_refused_total 1");
        drop(open);
        has(
            &metrics.render(&Gauges::default()),
            "reranker_connections 0",
        );
    }

    #[test]
    fn threads_count_together() {
        let metrics = Metrics::new();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                let metrics = metrics.clone();
                scope.spawn(move || (0..1000).for_each(|_| metrics.record(&outcome())));
            }
        });
        let text = metrics.render(&Gauges::default());
        has(&text, "reranker_truncated_pairs_total 8000");
        has(&text, "reranker_queue_wait_seconds_count 8000");
    }
}
