//! Is it alive, is it ready, what does it serve.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::error::Failed;
use super::observe::{millis, unix_seconds};
use crate::service::State as ModelState;
use reranker_dialects::tei::{ModelType, TeiInfo};
use reranker_domain::{FULL_REQUEST, Truncation};
use reranker_engine::{Info, Receipt};

/// How the process is, and with which model.
#[derive(Debug, Serialize, ToSchema)]
pub struct Health {
    /// `ok`, `loading`, `draining` or `failed`.
    #[schema(example = "ok")]
    status: &'static str,
    /// Whether the model is loaded.
    loaded: bool,
    /// Why it is not, where loading failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<String>,
    /// What the model is not, where that could be mistaken.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    /// What is computed in.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "f32")]
    precision: Option<&'static str>,
    /// The model's type, as `config.json` names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "xlm-roberta")]
    architecture: Option<&'static str>,
    /// Numbers in the model's tensors.
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<u64>,
    /// What is known of a model of this name: see `reranker models`.
    #[serde(skip_serializing_if = "Option::is_none")]
    known: Option<KnownModel>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<ServedDevice>,
    /// Since the process began, or was restored from a snapshot.
    uptime_s: f64,
    version: &'static str,
    /// Where the time before the first score went.
    #[serde(skip_serializing_if = "Option::is_none")]
    cold_start: Option<ColdStart>,
}

/// A model that is known by its name.
#[derive(Debug, Serialize, ToSchema)]
pub struct KnownModel {
    #[schema(example = "XLM-RoBERTa")]
    pub family: &'static str,
    #[schema(example = "Apache-2.0")]
    pub licence: &'static str,
    /// What others have published of it.
    pub quality: Vec<Quality>,
    /// What this project has measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<KnownTime>,
}

/// A figure that others have published, with its source.
#[derive(Debug, Serialize, ToSchema)]
pub struct Quality {
    #[schema(example = "nDCG@10")]
    pub measure: &'static str,
    pub what: &'static str,
    pub value: f64,
    pub source: &'static str,
}

/// Milliseconds of a request, and of what: not those of this server.
#[derive(Debug, Serialize, ToSchema)]
pub struct KnownTime {
    pub ms: f64,
    pub what: &'static str,
}

/// The receipt of the start. What has not happened yet is left out or told as far as it has come.
#[derive(Debug, Serialize, ToSchema)]
pub struct ColdStart {
    /// From the start of the process until loading began.
    process_ms: f64,
    /// Bringing the model from elsewhere; absent where it was on a local disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    download: Option<Download>,
    /// Reading the tokenizer; at the same time as the weights.
    tokenizer_ms: f64,
    /// Mapping and checking the weights.
    weights_ms: f64,
    prefetch: Prefetch,
    /// One forward pass before the first request; 0 where it was left out.
    warm_up_ms: f64,
    /// From the start of the process to a model that answers.
    total_ms: f64,
    /// The first forward pass, be it the warm-up or a request's.
    #[serde(skip_serializing_if = "Option::is_none")]
    first_inference_ms: Option<f64>,
    /// From the start of the process until the first forward pass had its scores.
    #[serde(skip_serializing_if = "Option::is_none")]
    first_score_ms: Option<f64>,
}

/// Bringing the model from S3.
#[derive(Debug, Serialize, ToSchema)]
pub struct Download {
    /// Of the model's files.
    bytes: u64,
    /// Those that came over the network; the others had come before.
    downloaded_bytes: u64,
    ms: f64,
    /// 10⁶ bytes a second, of those that came over the network.
    mb_per_s: f64,
    /// Checking what came, after that.
    check_ms: f64,
}

/// Reading the weights into memory before they are needed, beside everything else.
#[derive(Debug, Serialize, ToSchema)]
pub struct Prefetch {
    done: bool,
    bytes: u64,
    /// Found in memory before anything had to be read.
    cached_bytes: u64,
    /// All that is to be read: the weights without the embedding tables.
    planned_bytes: u64,
    ms: f64,
    /// 10⁶ bytes a second, of those that were read.
    mb_per_s: f64,
}

/// What is served, and how.
#[derive(Debug, Serialize, ToSchema)]
pub struct Served {
    model: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<String>,
    /// True for the small bundled model, which is there to try the service out.
    demo: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    #[schema(example = "xlm-roberta")]
    architecture: &'static str,
    layers: usize,
    hidden_size: usize,
    vocab_size: usize,
    /// Numbers in the model's tensors.
    parameters: u64,
    precision: &'static str,
    /// What the weight files hold.
    stored_dtype: String,
    /// How near a packed model is to its f32 source, as its packer measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    fidelity: Option<ServedFidelity>,
    weight_bytes: u64,
    /// Longest sequence in tokens that this server scores, and the default of `max_length`.
    max_length: usize,
    /// Longest sequence that the model could take.
    model_max_length: usize,
    #[schema(example = "longest_first")]
    truncation: &'static str,
    instruction_set: &'static str,
    /// Faster instruction sets that the chip has, and why they are not used.
    faster_instruction_sets: Vec<UnusedSet>,
    device: ServedDevice,
    threads: usize,
    /// Requests that wait for the compute thread.
    queued: usize,
    /// Tokens that are still to be computed for requests that are here, and how many a second this process has been computing.
    pending_tokens: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens_per_second: Option<f64>,
    /// What a request of 100 passages of 128 tokens each takes at that speed; absent where no speed is known yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds_per_100_passages: Option<f64>,
    limits: ServedLimits,
    #[schema(example = "http")]
    host: &'static str,
    version: &'static str,
    cold_start: ColdStart,
    #[serde(flatten)]
    tei: TeiInfo,
}

/// An instruction set that the chip has and the program does not use.
#[derive(Debug, Serialize, ToSchema)]
pub struct UnusedSet {
    #[schema(example = "amx")]
    name: &'static str,
    #[schema(example = "the system does not keep its registers")]
    reason: &'static str,
}

/// What the model is computed on.
#[derive(Debug, Serialize, ToSchema)]
pub struct ServedDevice {
    /// `cpu` or `cuda`.
    #[schema(example = "cpu")]
    kind: &'static str,
    /// Of a GPU, as its driver calls it.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// A GPU's compute capability.
    #[schema(example = "sm_80")]
    #[serde(skip_serializing_if = "Option::is_none")]
    chip: Option<String>,
    /// A GPU's memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_bytes: Option<u64>,
    /// What of it is taken now, by this process and others.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_used_bytes: Option<u64>,
    /// What computes on a GPU: `fused`, our own kernels, or `plain`, candle's operations.
    #[schema(example = "fused")]
    #[serde(skip_serializing_if = "Option::is_none")]
    kernels: Option<&'static str>,
}

impl ServedDevice {
    fn new(info: &Info) -> Self {
        let gpu = info.gpu.as_ref();
        Self {
            kind: if gpu.is_some() { "cuda" } else { "cpu" },
            name: gpu.map(|gpu| gpu.name.clone()),
            chip: gpu.map(|gpu| gpu.chip.to_string()),
            memory_bytes: gpu.map(|gpu| gpu.memory_bytes),
            memory_used_bytes: gpu.and_then(|gpu| gpu.memory_used()),
            kernels: gpu.map(|_| if info.fused { "fused" } else { "plain" }),
        }
    }
}

/// Differences between int8 and f32 on the packer's own pairs.
#[derive(Debug, Serialize, ToSchema)]
pub struct ServedFidelity {
    pairs: usize,
    mean_score_difference: f64,
    max_score_difference: f64,
    mean_logit_difference: f64,
    max_logit_difference: f64,
    /// Kendall's rank correlation; absent where all logits are alike.
    #[serde(skip_serializing_if = "Option::is_none")]
    kendall_tau: Option<f64>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ServedLimits {
    max_pairs: usize,
    max_text_chars: usize,
    /// 0 where there is no limit.
    max_tokens: usize,
    max_body_bytes: usize,
    request_timeout_s: f64,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Status {
    status: &'static str,
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

impl From<Receipt> for ColdStart {
    fn from(receipt: Receipt) -> Self {
        let Receipt {
            load,
            prefetch,
            first_inference,
        } = receipt;
        Self {
            process_ms: millis(load.process.time),
            download: load.download.map(|download| Download {
                bytes: download.bytes,
                downloaded_bytes: download.downloaded_bytes,
                ms: millis(download.span.time),
                mb_per_s: (download.mb_per_s * 10.0).round() / 10.0,
                check_ms: millis(download.check),
            }),
            tokenizer_ms: millis(load.tokenizer.time),
            weights_ms: millis(load.weights.time),
            prefetch: Prefetch {
                done: prefetch.done,
                bytes: prefetch.bytes,
                cached_bytes: prefetch.cached_bytes,
                planned_bytes: prefetch.planned_bytes,
                ms: millis(prefetch.span.time),
                mb_per_s: (prefetch.mb_per_s * 10.0).round() / 10.0,
            },
            warm_up_ms: millis(load.warm_up),
            total_ms: millis(load.total),
            first_inference_ms: first_inference.map(|span| millis(span.time)),
            first_score_ms: receipt.first_score().map(millis),
        }
    }
}

/// Health of the process and its model; 503 until it can score.
#[utoipa::path(get, path = "/health", tag = "health", responses(
    (status = 200, description = "It scores", body = Health),
    (status = 503, description = "Loading, shutting down, or loading failed", body = Health),
))]
pub async fn health(State(app): State<App>) -> Response {
    let state = app.service.state();
    let (status, reason) = match &state {
        _ if app.service.draining() => ("draining", None),
        ModelState::Ready(_) => ("ok", None),
        ModelState::Loading => ("loading", None),
        ModelState::Failed(reason) => ("failed", Some(reason.clone())),
    };
    let engine = match &state {
        ModelState::Ready(engine) => Some(engine),
        _ => None,
    };
    let info = engine.map(|engine| engine.info());
    let body = Health {
        status,
        loaded: info.is_some(),
        reason,
        model: info.map(|info| info.name.clone()),
        revision: info.and_then(|info| info.revision.clone()),
        note: info.and_then(|info| info.note.clone()),
        precision: info.map(|info| info.precision),
        architecture: info.map(|info| info.model_type),
        parameters: info.map(|info| info.parameters),
        known: info.and_then(|info| (app.settings.known)(&info.name)),
        device: info.map(ServedDevice::new),
        uptime_s: millis(app.service.uptime()) / 1e3,
        version: VERSION,
        cold_start: engine.map(|engine| engine.receipt().into()),
    };
    let code = if status == "ok" {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (code, Json(body)).into_response()
}

/// The process runs; nothing more is asked.
#[utoipa::path(get, path = "/live", tag = "health", responses((status = 200, description = "It runs", body = Status)))]
pub async fn live() -> Json<Status> {
    Json(Status { status: "ok" })
}

/// Whether requests should be sent here.
#[utoipa::path(get, path = "/ready", tag = "health", responses(
    (status = 200, description = "It scores", body = Status),
    (status = 503, description = "Not now", body = Status),
))]
pub async fn ready(State(app): State<App>) -> Response {
    let ready = matches!(app.service.state(), ModelState::Ready(_)) && !app.service.draining();
    if ready {
        Json(Status { status: "ok" }).into_response()
    } else {
        let body = Json(Status {
            status: "not ready",
        });
        (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
    }
}

/// The models that there are, which is one: as OpenAI's clients read them in `data`, and Cohere's in `models`.
#[derive(Debug, Serialize, ToSchema)]
pub struct Models {
    #[schema(example = "list")]
    object: &'static str,
    data: [OpenAiModel; 1],
    models: [CohereModel; 1],
}

#[derive(Debug, Serialize, ToSchema)]
pub struct OpenAiModel {
    id: String,
    #[schema(example = "model")]
    object: &'static str,
    /// Seconds since 1970, of this process.
    created: u64,
    owned_by: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct CohereModel {
    name: String,
    endpoints: [&'static str; 1],
}

/// The one model, for clients that ask before they send anything.
#[utoipa::path(get, path = "/v1/models", operation_id = "v1_models", tag = "health", responses(
    (status = 401, description = "No API key, or a wrong one", body = reranker_dialects::native::ErrorBody),
    (status = 200, description = "What is served", body = Models),
    (status = 503, description = "Nothing is served yet", body = reranker_dialects::native::ErrorBody),
))]
pub async fn models(State(app): State<App>) -> Result<Json<Models>, Failed> {
    let engine = app.service.engine()?;
    let name = &engine.info().name;
    Ok(Json(Models {
        object: "list",
        data: [OpenAiModel {
            id: name.clone(),
            object: "model",
            created: unix_seconds().saturating_sub(app.service.uptime().as_secs()),
            owned_by: "serverless-reranker",
        }],
        models: [CohereModel {
            name: name.clone(),
            endpoints: ["rerank"],
        }],
    }))
}

/// The model, its precision and the limits in force.
#[utoipa::path(get, path = "/info", tag = "health", responses(
    (status = 401, description = "No API key, or a wrong one", body = reranker_dialects::native::ErrorBody),
    (status = 200, description = "What is served", body = Served),
    (status = 503, description = "Nothing is served yet", body = reranker_dialects::native::ErrorBody),
))]
pub async fn info(State(app): State<App>) -> Result<Json<Served>, Failed> {
    let engine = app.service.engine()?;
    let device = ServedDevice::new(engine.info());
    let Info {
        name,
        revision,
        demo,
        note,
        model_type,
        layers,
        hidden_size,
        vocab_size,
        parameters,
        max_length,
        model_max_length,
        truncation,
        precision,
        stored_dtype,
        fidelity,
        weight_bytes,
        instruction_set,
        faster_sets,
        gpu: _,
        fused: _,
        load: _,
    } = engine.info().clone();
    let settings = &app.settings;
    let compute = app.service.compute_settings();
    let tokens_per_second = app.service.tokens_per_second();
    let tei = TeiInfo {
        model_id: name.clone(),
        model_sha: revision.clone(),
        model_dtype: precision,
        served_model_name: name.clone(),
        model_type: ModelType::one_label(),
        max_concurrent_requests: compute.queue_limit,
        max_input_length: max_length,
        max_batch_tokens: compute.batch_tokens,
        max_client_batch_size: settings.limits.pairs,
        auto_truncate: truncation != Truncation::None,
        tokenization_workers: app.service.tokenizing(),
    };
    Ok(Json(Served {
        tei,
        model: name,
        revision,
        demo,
        note,
        architecture: model_type,
        layers,
        hidden_size,
        vocab_size,
        parameters,
        precision,
        stored_dtype,
        fidelity: fidelity.map(|fidelity| ServedFidelity {
            pairs: fidelity.pairs,
            mean_score_difference: fidelity.mean_score_difference,
            max_score_difference: fidelity.max_score_difference,
            mean_logit_difference: fidelity.mean_logit_difference,
            max_logit_difference: fidelity.max_logit_difference,
            kendall_tau: fidelity.kendall_tau,
        }),
        weight_bytes,
        max_length,
        model_max_length,
        truncation: truncation.name(),
        instruction_set,
        faster_instruction_sets: faster_sets
            .into_iter()
            .map(|(name, reason)| UnusedSet { name, reason })
            .collect(),
        device,
        threads: app.service.threads(),
        queued: app.service.queued(),
        pending_tokens: app.service.pending_tokens(),
        tokens_per_second,
        seconds_per_100_passages: tokens_per_second.map(|speed| {
            let (passages, tokens) = FULL_REQUEST;
            (passages * tokens) as f64 / speed
        }),
        limits: ServedLimits {
            max_pairs: settings.limits.pairs,
            max_text_chars: settings.limits.text_chars,
            max_tokens: engine.max_tokens(),
            max_body_bytes: settings.body_bytes,
            request_timeout_s: settings.timeout.as_secs_f64(),
        },
        host: settings.host,
        version: VERSION,
        cold_start: engine.receipt().into(),
    }))
}
