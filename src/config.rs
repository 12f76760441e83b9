//! Every environment variable, in one table: name, default, meaning, and how it is read.
//!
//! Reads all of them once, reports every wrong value together by name, and never falls back silently. Only `cli` uses the result.

mod stray;

use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use kernels::Isa;

use crate::fault::Faults;
use crate::http::{KeyLimits, Keys, route_below};
use crate::telemetry::{Export, Function};
use reranker_domain::Truncation;
use reranker_engine::{Device, Precision};

/// One documented variable.
pub struct Variable {
    pub name: &'static str,
    /// As one would write it; empty where there is none.
    pub default: &'static str,
    pub meaning: &'static str,
}

macro_rules! variables {
    ($($constant:ident = $default:literal, $meaning:literal;)*) => {
        $(const $constant: Variable = Variable {
            name: stringify!($constant), default: $default, meaning: $meaning,
        };)*
        /// All variables that are ours, in the order of docs/reference/configuration.md.
        pub const VARIABLES: &[Variable] = &[$($constant),*];
    };
}

variables! {
    MODEL_NAME = "", "hub id (`owner/name`, `owner/name@revision`) of a model in the local Hugging Face cache; a plain server downloads and packs it if it is not there, functions do not; with `MODEL_DIR`, the name that the server reports for it";
    MODEL_DIR = "models/demo", "the model: a folder with `config.json`, `tokenizer.json` and `model.safetensors` (or its shards), with `packed.safetensors` beside them or instead; or a packed file; or either in S3, as `s3://bucket/folder/` or `s3://bucket/key.safetensors`; the default holds only without `MODEL_NAME`";
    MODEL_REVISION = "", "revision to report, and to look for in the Hugging Face cache";
    MODEL_CACHE = "/tmp/reranker", "folder for models that are downloaded from S3; created for its owner alone";
    S3_PATH_STYLE = "auto", "whether the path names the bucket: `true`, `false`, or `auto` (if `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL` names another store); region, endpoint and credentials follow the rules of AWS's SDKs";
    S3_ANONYMOUS = "false", "read public buckets without credentials";
    HOST = "0.0.0.0", "address to listen on";
    PORT = "8000", "port to listen on; Azure Functions' own port takes precedence";
    DEVICE = "auto", "device of the model: `cpu`; `cuda` (an NVIDIA GPU; without one, or built without the `cuda` feature, the server refuses to serve); or `auto`: a GPU if there is one and the model and `PRECISION` allow it, else the CPU";
    PRECISION = "auto", "arithmetic of the model: `int8` (needs a packed model: `reranker pack`, and a CPU), `f32` (needs a model folder), `bf16` or `f16` (need a GPU and a model folder), or `auto`: `f16` on a GPU, else `int8` if the model is packed, else `f32`";
    USE_FP16 = "", "meaning of `PRECISION=auto` on a GPU: `f16` if `true` or not set, `f32` if `false`; no effect on CPUs";
    GPU_KERNELS = "fused", "16-bit kernels on a GPU: `fused` (this program's own, for the models and chips that they support, else `plain`) or `plain` (candle's operations)";
    CORS_ORIGINS = "*", "origins that may call from a browser, separated by commas; `*` for all, empty for none; `null` is refused, because any page can have it";
    MAX_LENGTH = "512", "maximum length of a sequence in tokens, special tokens included; the model's own limit if that is lower";
    TRUNCATION = "longest_first", "rule for pairs that are too long: `longest_first`, `flag`, or `none` (they are rejected)";
    MAX_PAIRS = "1000", "maximum number of pairs, or documents, in one request";
    MAX_TEXT_CHARS = "100000", "maximum number of characters in one query or passage";
    MAX_TOKENS = "1000000", "maximum number of tokens in one request, after truncation; 0 for no limit";
    MAX_BODY_BYTES = "10485760", "maximum size of a request body in bytes";
    MAX_BODY_BYTES_IN_FLIGHT = "67108864", "byte budget of the bodies and answers of all requests together, each counted from its arrival until it is answered or taken; further requests get 429; an eighth is reserved for bodies of up to 64 KiB, so the budget is at least 8/7 of `MAX_BODY_BYTES`";
    MAX_CONNECTIONS = "800", "maximum number of connections, as far as the limit of open files allows; further ones get 503 and are closed";
    MAX_QUEUE = "64", "maximum number of requests that wait for the compute thread; further ones get 429";
    CACHE_PAIRS = "0", "number of pairs whose scores are kept for later requests, about 100 bytes each; 0 for none";
    API_KEYS = "", "keys, separated by commas: plain, or as `sha256:` with the hash in hex; with a name as `NAME=sha256:HASH` or `NAME=plain:KEY`, which logs, metrics and traces have; a request must bring one of them; if not set or empty, and without `API_KEYS_FILE`, everyone may call; white space alone is an error";
    API_KEYS_FILE = "", "file with keys in the forms of `API_KEYS`, by lines or commas, `#` before a comment; read again within a second of a request after a change, without a restart; earlier keys hold while it cannot be read, or has no key or a wrong one; replaces `API_KEYS`";
    KEY_LIMITS = "", "limits of named keys, as `NAME:rpm=60,tokens_per_day=1000000`, several separated by `;`; `*` is every named key without limits of its own; `rpm` are POST requests a minute, `tokens_per_day` scored tokens a day in UTC; each instance counts for itself; further requests get 429";
    REQUEST_TIMEOUT_S = "300", "timeout of one request in seconds, its body and its wait included";
    HEADER_TIMEOUT_S = "30", "timeout in seconds for the head of a request; a connection without one by then is closed";
    IDLE_TIMEOUT_S = "75", "timeout in seconds of a connection that brings no request, or takes no more of its answer; it should exceed a load balancer's own, or the balancer sends into a closing connection";
    SHUTDOWN_GRACE_S = "30", "seconds after SIGTERM in which accepted requests may finish";
    THREADS = "", "number of compute threads; all available cores if not set";
    BATCH_TOKENS = "", "tokens of one forward pass; 4096 on CPUs and 16384 on a GPU if not set; bounds memory, about 40 bytes times the hidden size for each token";
    INSTRUCTION_SET = "", "instruction set that the kernels must use (`reranker doctor` lists this machine's); the best one if not set";
    INIT_BUDGET_S = "8", "seconds from the start that Lambda's initialisation may wait for the weights to be read into memory; the rest is read while requests are served";
    WARM_UP = "auto", "run the model once before answering ready: `true`, `false`, or `auto` (yes, except on Lambda on demand)";
    BASE_PATH = "", "path prefix that the server removes from every request, such as `/search`; no prefix of a route; `/api` is always removed on Azure Functions, the stage on API Gateway";
    LOG_LEVEL = "info", "`error`, `warn`, `info`, `debug`, `trace` or `off`, other usual names (`warning`, `critical`, `none`), or a filter such as `reranker=debug`, which keeps all other errors; if not set, Lambda's `AWS_LAMBDA_LOG_LEVEL` holds";
    LOG_FORMAT = "auto", "`json`, `text`, or `auto` (`json` on Lambda and if the output is no terminal); if not set, Lambda's `AWS_LAMBDA_LOG_FORMAT` holds";
    EMF_METRICS = "auto", "write each request's metrics to stdout in CloudWatch's embedded metric format: `minimal` (five, by function and version), `full` (15, also by route and dialect), `false`, or `auto` (`minimal` on Lambda); AWS bills each combination";
    OTEL_EXPORTER_OTLP_ENDPOINT = "", "collector of traces, as OTLP over HTTP (`http://127.0.0.1:4318`); the server exports nothing unless this or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` is set; OpenTelemetry's other variables for resource, sampler, batches, headers, timeout and certificate hold too";
    TRACE_CONTENT = "false", "put the texts of queries and documents into exported traces; without it they hold positions, scores and counts";
}

/// OpenTelemetry's variables. An empty value means unset to all of them, and one for traces goes before the general one.
const OTEL_SDK_DISABLED: &str = "OTEL_SDK_DISABLED";
const OTEL_TRACES_EXPORTER: &str = "OTEL_TRACES_EXPORTER";
const OTEL_TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
const OTEL_PROTOCOL: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
];
const OTEL_COMPRESSION: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
    "OTEL_EXPORTER_OTLP_COMPRESSION",
];
const OTEL_TIMEOUT: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
    "OTEL_EXPORTER_OTLP_TIMEOUT",
];
const OTEL_CERTIFICATE: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
];
const OTEL_SPAN_ATTRIBUTES: [&str; 2] = [
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_ATTRIBUTE_COUNT_LIMIT",
];
/// The SDK's own limit is 128, which a ranking of 40 documents would exceed.
const SPAN_ATTRIBUTES: u32 = 1024;

/// Lambda's own: where a runtime gets its events from, and how the function's settings ask for its logs. Ours go before those.
const LAMBDA_RUNTIME_API: &str = "AWS_LAMBDA_RUNTIME_API";
const LAMBDA_LOG_LEVEL: &str = "AWS_LAMBDA_LOG_LEVEL";
const LAMBDA_LOG_FORMAT: &str = "AWS_LAMBDA_LOG_FORMAT";

const LOG_LEVELS: &str = "error, warn, info, debug, trace, off, or a filter such as reranker=debug";

/// Where to panic, for tests; builds without debug assertions do not know it.
const INJECT_PANIC: &str = "INJECT_PANIC";

/// `true`, `false`, or left to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    Yes,
    No,
    Auto,
}

impl Choice {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(Self::Auto),
            _ => boolean(text).map(|yes| if yes { Self::Yes } else { Self::No }),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Json,
    Text,
    Auto,
}

impl LogFormat {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "json" => Some(Self::Json),
            "text" => Some(Self::Text),
            "auto" => Some(Self::Auto),
            _ => None,
        }
    }

    /// As `LOG_FORMAT` has it, else as Lambda's own variable has it, which writes the names in capitals.
    fn read(read: &mut Reader) -> Option<Self> {
        match read.first(&[LOG_FORMAT.name, LAMBDA_LOG_FORMAT]) {
            Some((name, text)) => Self::parse(&text.to_ascii_lowercase())
                .or_else(|| read.complain(name, &text, "json, text or auto")),
            None => Some(Self::Auto),
        }
    }

    /// Whether lines are JSON; nothing where the terminal decides.
    fn json(self, on_lambda: bool) -> Option<bool> {
        match self {
            Self::Json => Some(true),
            Self::Text => Some(false),
            Self::Auto => on_lambda.then_some(true),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmfMetrics {
    Minimal,
    Full,
    Off,
    Auto,
}

impl EmfMetrics {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "minimal" => Some(Self::Minimal),
            "full" => Some(Self::Full),
            "auto" => Some(Self::Auto),
            _ => boolean(text).map(|yes| if yes { Self::Minimal } else { Self::Off }),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub model_name: Option<String>,
    pub model_dir: Option<PathBuf>,
    /// Nobody has said which model.
    pub default_model: bool,
    pub model_revision: Option<String>,
    pub model_cache: PathBuf,
    pub s3_path_style: Choice,
    pub s3_anonymous: bool,
    pub host: IpAddr,
    pub port: u16,
    pub device: Device,
    pub precision: Precision,
    pub use_fp16: Option<bool>,
    /// Whether a GPU computes by our own kernels.
    pub gpu_fused: bool,
    pub cors_origins: Vec<String>,
    pub max_length: usize,
    pub truncation: Truncation,
    pub max_pairs: usize,
    pub max_text_chars: usize,
    pub max_tokens: usize,
    pub max_body_bytes: usize,
    pub max_body_bytes_in_flight: usize,
    pub max_connections: usize,
    pub max_queue: usize,
    pub cache_pairs: usize,
    pub api_keys: Keys,
    pub api_keys_file: Option<PathBuf>,
    pub key_limits: KeyLimits,
    pub request_timeout: Duration,
    pub header_timeout: Duration,
    pub idle_timeout: Duration,
    pub shutdown_grace: Duration,
    pub threads: Option<usize>,
    pub batch_tokens: Option<usize>,
    pub instruction_set: Option<Isa>,
    pub init_budget: Duration,
    pub warm_up: Choice,
    pub base_path: Option<String>,
    pub log_level: String,
    pub log_format: LogFormat,
    pub emf_metrics: EmfMetrics,
    /// Where traces go; nothing where nobody asked for them.
    pub traces: Option<Export>,
    pub platform: Platform,
    /// Variables that are set and mean nothing here, though somebody may think that they do.
    pub notes: Vec<String>,
    /// Panics for tests, in builds that are made for them.
    pub faults: Faults,
}

/// What the platforms tell through variables of their own.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Platform {
    /// `AWS_LAMBDA_RUNTIME_API`: where events come from, on Lambda.
    pub lambda_api: Option<http::Uri>,
    /// `AWS_LAMBDA_FUNCTION_NAME` and `AWS_LAMBDA_FUNCTION_VERSION`: whose metrics they are.
    pub lambda_function: Option<Function>,
    /// `AWS_LAMBDA_INITIALIZATION_TYPE`: `on-demand`, `provisioned-concurrency` or `snap-start`.
    pub lambda_initialization: Option<String>,
    /// `AWS_LAMBDA_MAX_CONCURRENCY`: set on managed instances.
    pub lambda_concurrency: Option<usize>,
    /// `AWS_LAMBDA_FUNCTION_MEMORY_SIZE`: what is billed, in MB of 2^20 bytes.
    pub lambda_memory_mb: Option<u64>,
    /// `FUNCTIONS_CUSTOMHANDLER_PORT`, or its older name `FUNCTIONS_HTTPWORKER_PORT`.
    pub azure_port: Option<u16>,
    /// Where Hugging Face's own tools keep downloaded models.
    pub hub_cache: Option<PathBuf>,
    /// `HF_ENDPOINT` and `HF_TOKEN` (or its older name): the hub to download from, and the key to it; `HF_HUB_OFFLINE`: do not.
    pub hub_endpoint: Option<String>,
    pub hub_token: Option<String>,
    pub hub_offline: bool,
    /// `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL`, which the SDK reads itself, names another store than AWS's.
    pub s3_endpoint: bool,
}

/// Every wrong value of the environment.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigErrors(pub Vec<String>);

/// Reads values and gathers complaints.
struct Reader<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    errors: Vec<String>,
}

impl Reader<'_> {
    /// The variable's value, or its default; an empty value counts as unset where there is a default to use instead.
    fn text(&self, variable: &Variable) -> String {
        (self.lookup)(variable.name)
            .map(|value| value.trim().to_owned())
            .filter(|value| !value.is_empty())
            .unwrap_or_else(|| variable.default.to_owned())
    }

    fn optional(&self, variable: &Variable) -> Option<String> {
        Some(self.text(variable)).filter(|value| !value.is_empty())
    }

    /// Of variables that are not ours: the first one that is set, and its value.
    fn first<'n>(&self, names: &[&'n str]) -> Option<(&'n str, String)> {
        names.iter().find_map(|name| {
            let value = (self.lookup)(name)?.trim().to_owned();
            (!value.is_empty()).then_some((*name, value))
        })
    }

    fn complain<T>(&mut self, name: &str, value: &str, expected: &str) -> Option<T> {
        self.errors
            .push(format!("{name}={value:?}: expected {expected}"));
        None
    }

    fn parsed<T>(
        &mut self,
        variable: &Variable,
        expected: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let value = self.text(variable);
        parse(&value).or_else(|| self.complain(variable.name, &value, expected))
    }

    fn number(&mut self, variable: &Variable, low: usize, high: usize) -> Option<usize> {
        self.parsed(
            variable,
            &format!("a whole number from {low} to {high}"),
            |text| text.parse().ok().filter(|n| (low..=high).contains(n)),
        )
    }

    fn seconds(&mut self, variable: &Variable, high: u32) -> Option<Duration> {
        self.parsed(
            variable,
            &format!("seconds, more than 0 and up to {high}"),
            |text| {
                let seconds: f64 = text.parse().ok()?;
                (seconds > 0.0 && seconds <= f64::from(high))
                    .then(|| Duration::from_secs_f64(seconds))
            },
        )
    }
}

const ADDRESS: &str = "an IP address, or localhost";

fn parse_host(text: &str) -> Option<IpAddr> {
    match text {
        "localhost" => Some(IpAddr::from([127, 0, 0, 1])),
        _ => text.parse().ok(),
    }
}

/// As `HOST` is read.
pub fn host(text: &str) -> Result<IpAddr, String> {
    parse_host(text).ok_or_else(|| format!("expected {ADDRESS}"))
}

fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

impl Config {
    pub fn from_env() -> Result<Self, ConfigErrors> {
        let mut errors = Vec::new();
        // A value that is no text cannot be read; it must not look as if it were not set.
        for (name, value) in std::env::vars_os() {
            let known = |name: &str| VARIABLES.iter().any(|variable| variable.name == name);
            if let (Some(name), None) = (name.to_str(), value.to_str())
                && known(name)
            {
                errors.push(format!("{name}: expected UTF-8 text"));
            }
        }
        let parsed = Self::parse(&|name| std::env::var(name).ok());
        match parsed {
            Ok(config) if errors.is_empty() => Ok(Self {
                notes: stray::notes(std::env::vars_os().map(|(name, _)| name)),
                ..config
            }),
            Ok(_) => Err(ConfigErrors(errors)),
            Err(ConfigErrors(more)) => {
                errors.extend(more);
                Err(ConfigErrors(errors))
            }
        }
    }

    /// Whether log lines are JSON; nothing where the terminal decides.
    pub fn log_json(&self) -> Option<bool> {
        self.log_format.json(self.platform.lambda_api.is_some())
    }

    /// The same, also where other variables are wrong: for saying so in the right format.
    pub fn wanted_log_json() -> Option<bool> {
        let format = LogFormat::read(&mut Reader {
            lookup: &|name| std::env::var(name).ok(),
            errors: Vec::new(),
        });
        let on_lambda = std::env::var_os(LAMBDA_RUNTIME_API).is_some();
        format.unwrap_or(LogFormat::Auto).json(on_lambda)
    }

    /// Reads the variables through `lookup`.
    pub fn parse(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigErrors> {
        let mut read = Reader {
            lookup,
            errors: Vec::new(),
        };
        let config = Self::read(&mut read);
        match config {
            Some(config) if read.errors.is_empty() => Ok(config),
            _ => Err(ConfigErrors(read.errors)),
        }
    }

    fn read(read: &mut Reader) -> Option<Self> {
        // Each value is read before any is unwrapped, so that all complaints are gathered.
        let host = read.parsed(&HOST, ADDRESS, parse_host);
        let port = read.parsed(&PORT, "a port from 0 (any free one) to 65535", |text| {
            text.parse::<u16>().ok()
        });
        let precision = read.parsed(&PRECISION, &Precision::NAMES.join(", "), |text| {
            Precision::from_str(text).ok()
        });
        let s3_path_style = read.parsed(&S3_PATH_STYLE, "true, false or auto", Choice::parse);
        let s3_anonymous = read.parsed(&S3_ANONYMOUS, "true or false", boolean);
        let device = read.parsed(&DEVICE, &Device::NAMES.join(", "), |text| {
            Device::from_str(text).ok()
        });
        let use_fp16 = match read.optional(&USE_FP16) {
            Some(_) => read.parsed(&USE_FP16, "true or false", boolean).map(Some),
            None => Some(None),
        };
        let gpu_fused = read.parsed(&GPU_KERNELS, "fused or plain", |text| match text {
            "fused" => Some(true),
            "plain" => Some(false),
            _ => None,
        });
        let cors_origins = Self::origins(read);
        let max_length = read.number(&MAX_LENGTH, 8, 1 << 20);
        let truncation = read.parsed(&TRUNCATION, &Truncation::NAMES.join(", "), |text| {
            Truncation::from_str(text).ok()
        });
        let max_pairs = read.number(&MAX_PAIRS, 1, 1_000_000);
        let max_text_chars = read.number(&MAX_TEXT_CHARS, 1, 100_000_000);
        let max_tokens = read.number(&MAX_TOKENS, 0, 1 << 40);
        let max_body_bytes = read.number(&MAX_BODY_BYTES, 1024, 1 << 30);
        let largest = max_body_bytes.unwrap_or_default();
        let max_body_bytes_in_flight = read.parsed(
            &MAX_BODY_BYTES_IN_FLIGHT,
            "a whole number, at least 8/7 of MAX_BODY_BYTES",
            |text| {
                text.parse()
                    .ok()
                    .filter(|n: &usize| n - n / 8 >= largest.max(1024))
            },
        );
        let max_connections = read.number(&MAX_CONNECTIONS, 1, 1_000_000);
        let max_queue = read.number(&MAX_QUEUE, 1, 100_000);
        let cache_pairs = read.number(&CACHE_PAIRS, 0, 100_000_000);
        let api_keys = Self::keys(read);
        let api_keys_file = read.optional(&API_KEYS_FILE).map(PathBuf::from);
        if api_keys_file.is_some() && api_keys.as_ref().is_some_and(|keys| !keys.is_empty()) {
            let both = "API_KEYS_FILE: API_KEYS is set too: set one of them";
            read.errors.push(both.to_owned());
        }
        let key_limits = Self::key_limits(read, api_keys.as_ref(), api_keys_file.is_some());
        let request_timeout = read.seconds(&REQUEST_TIMEOUT_S, 86_400);
        let header_timeout = read.seconds(&HEADER_TIMEOUT_S, 3_600);
        let idle_timeout = read.seconds(&IDLE_TIMEOUT_S, 3_600);
        let shutdown_grace = read.seconds(&SHUTDOWN_GRACE_S, 3_600);
        let threads = match read.optional(&THREADS) {
            Some(_) => read.number(&THREADS, 1, 1024).map(Some),
            None => Some(None),
        };
        let batch_tokens = match read.optional(&BATCH_TOKENS) {
            Some(_) => read.number(&BATCH_TOKENS, 16, 1 << 20).map(Some),
            None => Some(None),
        };
        let names: Vec<&str> = Isa::ALL.into_iter().map(Isa::name).collect();
        let instruction_set = match read.optional(&INSTRUCTION_SET) {
            Some(_) => read
                .parsed(&INSTRUCTION_SET, &names.join(", "), |text| {
                    text.parse().ok()
                })
                .map(Some),
            None => Some(None),
        };
        // Lambda itself ends an initialisation after ten seconds, and begins it anew.
        let init_budget = read.seconds(&INIT_BUDGET_S, 9);
        let warm_up = read.parsed(&WARM_UP, "true, false or auto", Choice::parse);
        let base_path = Self::base_path(read);
        let (level_name, log_level) = read
            .first(&[LOG_LEVEL.name, LAMBDA_LOG_LEVEL])
            .unwrap_or_else(|| (LOG_LEVEL.name, LOG_LEVEL.default.to_owned()));
        if let Err(error) = crate::telemetry::parse_filter(&log_level) {
            let expected = format!("{LOG_LEVELS} ({error})");
            read.complain::<()>(level_name, &log_level, &expected);
        }
        let log_format = LogFormat::read(read);
        let emf_metrics = read.parsed(
            &EMF_METRICS,
            "minimal, full, false or auto",
            EmfMetrics::parse,
        );
        let traces = Self::traces(read);
        let platform = Self::platform(read);
        let faults = match (read.lookup)(INJECT_PANIC) {
            Some(text) if cfg!(debug_assertions) => text.parse().ok().or_else(|| {
                read.complain(INJECT_PANIC, &text, "places and tokens, as in compute:20")
            }),
            _ => Some(Faults::default()),
        };
        let model_name = read.optional(&MODEL_NAME);
        let model_dir = (read.lookup)(MODEL_DIR.name).filter(|dir| !dir.trim().is_empty());
        let default_model = model_dir.is_none() && model_name.is_none();
        let model_dir = model_dir
            .or_else(|| default_model.then(|| MODEL_DIR.default.to_owned()))
            .map(PathBuf::from);
        Some(Self {
            model_dir,
            default_model,
            notes: Vec::new(),
            model_name,
            model_revision: read.optional(&MODEL_REVISION),
            model_cache: read.text(&MODEL_CACHE).into(),
            s3_path_style: s3_path_style?,
            s3_anonymous: s3_anonymous?,
            host: host?,
            port: port?,
            device: device?,
            precision: precision?,
            use_fp16: use_fp16?,
            gpu_fused: gpu_fused?,
            cors_origins: cors_origins?,
            max_length: max_length?,
            truncation: truncation?,
            max_pairs: max_pairs?,
            max_text_chars: max_text_chars?,
            max_tokens: max_tokens?,
            max_body_bytes: max_body_bytes?,
            max_body_bytes_in_flight: max_body_bytes_in_flight?,
            max_connections: max_connections?,
            max_queue: max_queue?,
            cache_pairs: cache_pairs?,
            api_keys: api_keys?,
            api_keys_file,
            key_limits: key_limits?,
            request_timeout: request_timeout?,
            header_timeout: header_timeout?,
            idle_timeout: idle_timeout?,
            shutdown_grace: shutdown_grace?,
            threads: threads?,
            batch_tokens: batch_tokens?,
            instruction_set: instruction_set?,
            init_budget: init_budget?,
            warm_up: warm_up?,
            base_path: base_path?,
            log_level,
            log_format: log_format?,
            emf_metrics: emf_metrics?,
            traces: traces?,
            platform: platform?,
            faults: faults?,
        })
    }

    /// Keys that came out empty, as of a secret that is not there, must not open the door. None is repeated.
    fn keys(read: &mut Reader) -> Option<Keys> {
        let text = (read.lookup)(API_KEYS.name).unwrap_or_default();
        if text.is_empty() {
            return Some(Keys::default());
        }
        let keys: Vec<&str> = text.split(',').map(str::trim).collect();
        let wrong = if text.trim().is_empty() {
            "it is set, but to white space alone: unset it to let everyone in".to_owned()
        } else {
            match Keys::parse(&keys) {
                Ok(keys) => return Some(keys),
                Err(error) => error.to_string(),
            }
        };
        read.errors.push(format!("{}: {wrong}", API_KEYS.name));
        None
    }

    /// Limits of keys that there are. What a file will have is not known here.
    fn key_limits(read: &mut Reader, keys: Option<&Keys>, file: bool) -> Option<KeyLimits> {
        let Some(text) = read.optional(&KEY_LIMITS) else {
            return Some(KeyLimits::default());
        };
        let limits = KeyLimits::parse(&text).and_then(|limits| {
            let unknown = match keys {
                Some(keys) if !file => limits.unknown(keys).first().map(ToString::to_string),
                _ => None,
            };
            match unknown {
                Some(name) => Err(format!("{name}: no key of API_KEYS has this name")),
                None => Ok(limits),
            }
        });
        match limits {
            Ok(limits) => Some(limits),
            Err(error) => {
                let form = format!("NAME:rpm=60,tokens_per_day=1000000 and ; between ({error})");
                read.complain(KEY_LIMITS.name, &text, &form)
            }
        }
    }

    fn base_path(read: &mut Reader) -> Option<Option<String>> {
        let Some(value) = read.optional(&BASE_PATH) else {
            return Some(None);
        };
        let path = value.strip_suffix('/').unwrap_or(&value);
        let segments = path.strip_prefix('/').unwrap_or_default();
        // As it comes in a request, where anything else is escaped.
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%".contains(&b);
        let fits =
            |segment: &str| !["", ".", ".."].contains(&segment) && segment.bytes().all(plain);
        if !segments.split('/').all(fits) {
            return read.complain(
                BASE_PATH.name,
                &value,
                "a path such as /search/rank, which begins with / and is escaped as in a URL",
            );
        }
        match route_below(path) {
            Some(route) => {
                let expected =
                    format!("a path that none of the routes begins with, as {route} does");
                read.complain(BASE_PATH.name, &value, &expected)
            }
            None => Some(Some(path.to_owned())),
        }
    }

    fn origins(read: &mut Reader) -> Option<Vec<String>> {
        // Here an empty value means something, so the default holds only where the variable is not set at all.
        let value =
            (read.lookup)(CORS_ORIGINS.name).unwrap_or_else(|| CORS_ORIGINS.default.to_owned());
        let origins: Vec<&str> = value
            .split(',')
            .map(|origin| origin.trim().trim_end_matches('/'))
            .filter(|origin| !origin.is_empty())
            .collect();
        if origins == ["*"] {
            return Some(vec!["*".to_owned()]);
        }
        let all: Option<Vec<String>> = origins.into_iter().map(as_browsers_send).collect();
        all.or_else(|| {
            // `null` is what sandboxed frames and files of anybody send.
            read.complain(
                CORS_ORIGINS.name,
                &value,
                "* alone, or origins such as https://example.org separated by commas; null is none, as any page can have it",
            )
        })
    }

    /// Where to send traces. OpenTelemetry's variables are only looked at where they ask for it: other programs may have use for
    /// what this one cannot do.
    fn traces(read: &mut Reader) -> Option<Option<Export>> {
        let content = read.parsed(&TRACE_CONTENT, "true or false", boolean);
        let is = |name: &str, wanted: &str| {
            let value = read.first(&[name]);
            value.is_some_and(|(_, value)| value.eq_ignore_ascii_case(wanted))
        };
        let unwanted = is(OTEL_SDK_DISABLED, "true") || is(OTEL_TRACES_EXPORTER, "none");
        let asked = read.first(&[OTEL_TRACES_ENDPOINT, OTEL_EXPORTER_OTLP_ENDPOINT.name]);
        let Some((name, address)) = asked.filter(|_| !unwanted) else {
            return content.map(|_| None);
        };
        let endpoint = match address.split_once("://") {
            Some(("http" | "https", rest))
                if !rest.is_empty() && address.parse::<http::Uri>().is_ok() =>
            {
                // One that is meant for traces alone is whole already.
                Some(if name == OTEL_TRACES_ENDPOINT {
                    address
                } else {
                    format!("{}/v1/traces", address.trim_end_matches('/'))
                })
            }
            _ => read.complain(
                name,
                &address,
                "an address that begins with http:// or https://",
            ),
        };
        let mut one_of = |names: &[&str], all: &[&str]| {
            if let Some((name, value)) = read.first(names)
                && !all.contains(&value.as_str())
            {
                let expected = format!(
                    "{}, which is all that this program can do",
                    all.join(" or ")
                );
                read.complain::<()>(name, &value, &expected);
            }
        };
        one_of(&[OTEL_TRACES_EXPORTER], &["otlp"]);
        one_of(&OTEL_PROTOCOL, &["http/protobuf"]);
        one_of(&OTEL_COMPRESSION, &["none"]);
        let mut number = |names: &[&str], default: u32| match read.first(names) {
            Some((name, value)) => {
                let number = value.parse().ok().filter(|number| *number > 0);
                number.or_else(|| read.complain(name, &value, "a whole number above 0"))
            }
            None => Some(default),
        };
        let timeout_ms = number(&OTEL_TIMEOUT, 10_000);
        let span_attributes = number(&OTEL_SPAN_ATTRIBUTES, SPAN_ATTRIBUTES);
        let certificate = read.first(&OTEL_CERTIFICATE).map(|(_, path)| path.into());
        Some(Some(Export {
            endpoint: endpoint?,
            timeout: Duration::from_millis(timeout_ms?.into()),
            certificate,
            span_attributes: span_attributes?,
            content: content?,
        }))
    }

    fn platform(read: &mut Reader) -> Option<Platform> {
        let lambda_api = match (read.lookup)(LAMBDA_RUNTIME_API) {
            Some(text) => match text.parse::<http::Uri>() {
                Ok(address) if address.authority().is_some() => Some(Some(address)),
                _ => read.complain(LAMBDA_RUNTIME_API, &text, "an address, HOST:PORT"),
            },
            None => Some(None),
        };
        let mut number = |name: &str| match (read.lookup)(name) {
            Some(value) => value
                .parse::<u16>()
                .ok()
                .map(Some)
                .or_else(|| read.complain(name, &value, "a number from 0 to 65535")),
            None => Some(None),
        };
        let azure_port =
            number("FUNCTIONS_CUSTOMHANDLER_PORT")?.or(number("FUNCTIONS_HTTPWORKER_PORT")?);
        let lambda_memory_mb = number("AWS_LAMBDA_FUNCTION_MEMORY_SIZE")?.map(u64::from);
        let lambda_concurrency = number("AWS_LAMBDA_MAX_CONCURRENCY")?.map(usize::from);
        let text = |name: &str| (read.lookup)(name).filter(|value| !value.is_empty());
        Some(Platform {
            lambda_api: lambda_api?,
            lambda_function: text("AWS_LAMBDA_FUNCTION_NAME").map(|name| Function {
                name,
                version: text("AWS_LAMBDA_FUNCTION_VERSION").unwrap_or_else(|| "$LATEST".into()),
            }),
            lambda_initialization: (read.lookup)("AWS_LAMBDA_INITIALIZATION_TYPE"),
            lambda_concurrency,
            lambda_memory_mb,
            azure_port,
            hub_endpoint: text("HF_ENDPOINT"),
            hub_token: text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN")),
            hub_offline: text("HF_HUB_OFFLINE")
                .or_else(|| text("TRANSFORMERS_OFFLINE"))
                .is_some_and(|text| boolean(&text) == Some(true)),
            s3_endpoint: text("AWS_ENDPOINT_URL_S3")
                .or_else(|| text("AWS_ENDPOINT_URL"))
                .is_some(),
            hub_cache: hub_cache(&text),
        })
    }
}

/// An origin as browsers write it: in lower case, without the port that its scheme has anyway. Nothing where it is none.
fn as_browsers_send(origin: &str) -> Option<String> {
    let origin = origin.to_ascii_lowercase();
    let (scheme, rest) = origin.split_once("://")?;
    let default_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return None,
    };
    let rest = rest.strip_suffix(default_port).unwrap_or(rest);
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !rest.ends_with(']') => (host, Some(port)),
        _ => (rest, None),
    };
    let is_v6 = host
        .strip_prefix('[')
        .and_then(|inner| inner.strip_suffix(']')?.parse::<Ipv6Addr>().ok());
    let is_name = !host.is_empty()
        && host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    let port_fits = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    ((is_name || is_v6.is_some()) && port_fits).then(|| format!("{scheme}://{rest}"))
}

/// Where Hugging Face's own tools keep models, by all their names, in their order.
fn hub_cache(text: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let home = text("HOME").map(PathBuf::from);
    let path = |name: &str| {
        let value = text(name)?;
        Some(match (value.strip_prefix('~'), &home) {
            (Some(""), Some(home)) => home.clone(),
            (Some(rest), Some(home)) if rest.starts_with('/') => home.join(&rest[1..]),
            _ => PathBuf::from(value),
        })
    };
    path("HF_HUB_CACHE")
        .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
        .or_else(|| path("HF_HOME").map(|own| own.join("hub")))
        .or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("huggingface/hub")))
        .or_else(|| {
            home.as_ref()
                .map(|home| home.join(".cache/huggingface/hub"))
        })
}

/// The variables as the table in docs/reference/configuration.md.
pub fn markdown_table() -> String {
    let mut table = String::from("| Variable | Default | Meaning |\n|---|---|---|\n");
    for Variable {
        name,
        default,
        meaning,
    } in VARIABLES
    {
        let default = if default.is_empty() {
            String::new()
        } else {
            format!("`{default}`")
        };
        table += &format!("| `{name}` | {default} | {meaning} |\n");
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
        let pairs: Vec<(String, String)> = pairs
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect();
        Config::parse(&|name| {
            pairs
                .iter()
                .find(|(n, _)| n == name)
                .map(|(_, value)| value.clone())
        })
    }

    #[test]
    fn an_empty_environment_gives_the_documented_defaults() {
        let config = parse(&[]).expect("defaults are valid");
        assert_eq!(config.model_dir, Some("models/demo".into()));
        assert_eq!((config.port, config.max_length), (8000, 512));
        assert_eq!(config.cors_origins, ["*"]);
        assert_eq!(config.threads, None);
        // Every default in the table parses to the same configuration when it is written out.
        let spelled: Vec<(&str, &str)> = VARIABLES
            .iter()
            .filter(|variable| !variable.default.is_empty())
            .map(|variable| (variable.name, variable.default))
            .collect();
        assert!(config.default_model);
        let expected = Config {
            default_model: false,
            ..config
        };
        assert_eq!(parse(&spelled).expect("defaults are valid"), expected);
    }

    #[test]
    fn the_hubs_cache_is_where_hugging_faces_tools_look_in_their_order() {
        let all = [
            ("HF_HUB_CACHE", "~/a", "/h/a"),
            ("HUGGINGFACE_HUB_CACHE", "/b", "/b"),
            ("HF_HOME", "/c", "/c/hub"),
            ("XDG_CACHE_HOME", "/d", "/d/huggingface/hub"),
            ("HOME", "/h", "/h/.cache/huggingface/hub"),
        ];
        for (first, (_, _, expected)) in all.iter().enumerate() {
            let set: Vec<(&str, &str)> = all[first..].iter().map(|(n, v, _)| (*n, *v)).collect();
            let found = parse(&set).expect("valid").platform.hub_cache;
            assert_eq!(found, Some(PathBuf::from(expected)), "{set:?}");
        }
        // An empty one is as good as none.
        let found = parse(&[("HF_HUB_CACHE", ""), ("HF_HOME", "/c")]).expect("valid");
        assert_eq!(found.platform.hub_cache, Some("/c/hub".into()));
    }

    #[test]
    fn every_wrong_value_is_reported_at_once_by_name() {
        let wrong = [
            ("HOST", "nowhere"),
            ("PORT", "70000"),
            ("DEVICE", "gpu"),
            ("USE_FP16", "maybe"),
            ("GPU_KERNELS", "fast"),
            ("CORS_ORIGINS", "example.org"),
            ("MAX_LENGTH", "7"),
            ("TRUNCATION", "middle"),
            ("MAX_PAIRS", "0"),
            ("MAX_TEXT_CHARS", "-1"),
            ("MAX_TOKENS", "-5"),
            ("MAX_BODY_BYTES", "1e6"),
            ("MAX_BODY_BYTES_IN_FLIGHT", "1000"),
            ("MAX_CONNECTIONS", "0"),
            ("MAX_QUEUE", "none"),
            ("CACHE_PAIRS", "all"),
            ("INSTRUCTION_SET", "sse2"),
            ("REQUEST_TIMEOUT_S", "NaN"),
            ("HEADER_TIMEOUT_S", "0"),
            ("IDLE_TIMEOUT_S", "-1"),
            ("SHUTDOWN_GRACE_S", "inf"),
            ("THREADS", "0"),
            ("BATCH_TOKENS", "1"),
            ("INIT_BUDGET_S", "10"),
            ("WARM_UP", "later"),
            ("BASE_PATH", "api"),
            ("LOG_LEVEL", "reranker=loud"),
            ("LOG_FORMAT", "xml"),
            ("EMF_METRICS", "sometimes"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"),
            ("OTEL_TRACES_EXPORTER", "zipkin"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
            ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "0"),
            ("KEY_LIMITS", "mobile:60"),
            ("TRACE_CONTENT", "some"),
            ("AWS_LAMBDA_RUNTIME_API", "no address"),
            ("FUNCTIONS_CUSTOMHANDLER_PORT", "http"),
        ];
        let mut all = wrong.to_vec();
        all.push(("API_KEYS", "good,sha256:abc"));
        let ConfigErrors(errors) = parse(&all).expect_err("all are wrong");
        // Keys are named and not repeated.
        assert_eq!(errors.len(), wrong.len() + 1, "{errors:#?}");
        assert!(
            errors
                .iter()
                .any(|line| line.starts_with("API_KEYS: key 2 "))
        );
        for (name, value) in wrong {
            let line = errors.iter().find(|line| line.starts_with(name));
            assert!(line.is_some_and(|line| line.contains(value)), "{name}");
        }
    }

    #[test]
    fn lambdas_settings_of_logs_hold_where_ours_say_nothing() {
        let logs = |pairs: &[(&str, &str)]| {
            let config = parse(pairs).expect("valid");
            (config.log_level.to_ascii_lowercase(), config.log_format)
        };
        for (level, format, expected) in [
            ("TRACE", "JSON", ("trace", LogFormat::Json)),
            ("WARN", "Text", ("warn", LogFormat::Text)),
            // A usual name for `error`, which the log's filter knows.
            ("FATAL", "", ("fatal", LogFormat::Auto)),
            ("", "", ("info", LogFormat::Auto)),
        ] {
            let lambda = [(LAMBDA_LOG_LEVEL, level), (LAMBDA_LOG_FORMAT, format)];
            let (level, format) = expected;
            assert_eq!(logs(&lambda), (level.to_owned(), format));
            let ours = [("LOG_LEVEL", "debug"), ("LOG_FORMAT", "text")];
            assert_eq!(
                logs(&[lambda, ours].concat()),
                ("debug".to_owned(), LogFormat::Text)
            );
        }
        let wrong = [(LAMBDA_LOG_LEVEL, "a=b=c"), (LAMBDA_LOG_FORMAT, "xml")];
        let ConfigErrors(errors) = parse(&wrong).expect_err("wrong");
        assert!(
            errors[0].starts_with(LAMBDA_LOG_LEVEL) && errors[1].starts_with(LAMBDA_LOG_FORMAT)
        );
    }

    #[test]
    fn a_model_name_alone_does_not_mean_the_demo_model() {
        let config = parse(&[("MODEL_NAME", "BAAI/bge-reranker-v2-m3")]).expect("valid");
        assert_eq!(config.model_dir, None);
    }

    #[test]
    fn use_fp16_takes_the_spellings_of_python_services() {
        for (value, expected) in [("True", true), ("1", true), ("False", false), ("no", false)] {
            assert_eq!(
                parse(&[("USE_FP16", value)]).expect(value).use_fp16,
                Some(expected)
            );
        }
    }

    #[test]
    fn a_key_that_came_out_empty_opens_no_door() {
        for keys in [",", ", ,", "first,", ",second"] {
            let error = parse(&[("API_KEYS", keys)]).expect_err(keys).to_string();
            assert!(error.starts_with("API_KEYS: key "), "{error}");
            assert!(
                !error.contains("first") && !error.contains("second"),
                "{error}"
            );
        }
        // A secret that is mounted and empty.
        for blank in [" ", "\n", "\t \r\n"] {
            let error = parse(&[("API_KEYS", blank)])
                .expect_err("refused")
                .to_string();
            assert!(error.contains("white space alone"), "{error}");
        }
        let keys = |text| parse(&[("API_KEYS", text)]).expect("valid").api_keys;
        assert!(keys("").is_empty());
        let expected = Keys::parse(&["a", "b"]).expect("keys");
        assert_eq!(keys("a, b\n"), expected);
    }

    #[test]
    fn limits_are_of_keys_that_there_are() {
        let keys = ("API_KEYS", "mobile=plain:a,b");
        let file = ("API_KEYS_FILE", "keys.txt");
        let limits = |text| ("KEY_LIMITS", text);
        for right in [
            vec![keys, limits("mobile:rpm=1")],
            vec![keys, limits("*:rpm=1;")],
            vec![file, limits("later:rpm=1")],
            vec![keys, limits("")],
        ] {
            assert!(parse(&right).is_ok(), "{right:?}");
        }
        for (wrong, says) in [
            (vec![limits("mobile:rpm=1")], "mobile: no key of API_KEYS"),
            (
                vec![keys, limits("mobil:rpm=1")],
                "mobil: no key of API_KEYS",
            ),
            (
                vec![("API_KEYS", "b"), limits("*:rpm=1")],
                "*: no key of API_KEYS",
            ),
            (
                vec![keys, limits("mobile:rmp=1")],
                "none of rpm and tokens_per_day",
            ),
            (vec![keys, file], "API_KEYS_FILE: API_KEYS is set too"),
        ] {
            let error = parse(&wrong).expect_err("refused").to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_base_path_is_a_path_that_no_route_begins_with() {
        for (value, path) in [
            ("/search", "/search"),
            ("/a/b-c/", "/a/b-c"),
            ("/caf%C3%A9", "/caf%C3%A9"),
            (" /x ", "/x"),
        ] {
            let config = parse(&[("BASE_PATH", value)]).expect(value);
            assert_eq!(config.base_path.as_deref(), Some(path));
        }
        for value in [
            "//",
            "/",
            "/a//",
            "/a//b",
            "a",
            "/a b",
            "/\u{e9}",
            "/a?b",
            "/a#b",
            "/a/../b",
            "/.",
            "/a\\b",
            "https://a.example/b",
            // What the program itself answers to.
            "/rerank",
            "/rerank/",
            "/v1",
            "/v2/rerank",
            "/docs",
            "/tei",
            "/health",
            "/bedrock",
        ] {
            let error = parse(&[("BASE_PATH", value)]).expect_err(value).to_string();
            assert!(error.starts_with("BASE_PATH="), "{error}");
        }
    }

    #[test]
    fn levels_of_the_log_are_known_or_refused() {
        for level in ["warning", "CRITICAL", "none", "reranker=debug,hyper=off"] {
            assert!(parse(&[("LOG_LEVEL", level)]).is_ok(), "{level}");
        }
        for level in ["loud", "[x", "reranker=loud", "info,hyper"] {
            let error = parse(&[("LOG_LEVEL", level)]).expect_err(level).to_string();
            assert!(error.starts_with("LOG_LEVEL="), "{error}");
        }
    }

    #[test]
    fn origins_are_written_as_browsers_send_them() {
        for (value, origin) in [
            ("https://A.Example:443/", "https://a.example"),
            ("HTTP://localhost:80", "http://localhost"),
            ("http://localhost:5173", "http://localhost:5173"),
            ("http://[::1]:8000", "http://[::1]:8000"),
            ("https://[::1]", "https://[::1]"),
        ] {
            let config = parse(&[("CORS_ORIGINS", value)]).expect(value);
            assert_eq!(config.cors_origins, [origin]);
        }
        for value in [
            "null",
            "https://a.example,null",
            "*,https://a.example",
            "https://*.example",
            "https://a.example/path",
            "https://user@a.example",
            "https://a.example:",
            "https://a.example:0",
            "https://:8000",
            "ftp://a.example",
            "a.example",
            "https://",
            "https://b\u{fc}.example",
        ] {
            let error = parse(&[("CORS_ORIGINS", value)])
                .expect_err(value)
                .to_string();
            assert!(error.starts_with("CORS_ORIGINS="), "{error}");
        }
    }

    #[test]
    fn no_origin_at_all_is_an_empty_list() {
        assert!(
            parse(&[("CORS_ORIGINS", "")])
                .expect("valid")
                .cors_origins
                .is_empty()
        );
        assert_eq!(
            parse(&[("CORS_ORIGINS", "https://a.example/, http://b:8080")])
                .expect("valid")
                .cors_origins,
            ["https://a.example", "http://b:8080"]
        );
    }

    #[test]
    fn traces_go_nowhere_unless_a_collector_is_named() {
        let collector = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");
        for nowhere in [
            &[] as &[(&str, &str)],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")],
            &[(
                "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
                "http://127.0.0.1:4318",
            )],
            &[("OTEL_TRACES_EXPORTER", "otlp"), ("TRACE_CONTENT", "true")],
            &[collector, ("OTEL_SDK_DISABLED", "True")],
            &[collector, ("OTEL_TRACES_EXPORTER", "none")],
            // Said to other programs: nothing here is to be exported that way.
            &[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")],
        ] {
            assert_eq!(parse(nowhere).expect("valid").traces, None, "{nowhere:?}");
        }
    }

    #[test]
    fn a_collectors_address_is_completed_unless_it_is_for_traces() {
        let endpoint = |pairs: &[(&str, &str)]| {
            let traces = parse(pairs).expect("valid").traces;
            traces.expect("a collector is named").endpoint
        };
        for general in [
            "https://c.example:4318/otlp",
            "https://c.example:4318/otlp/",
        ] {
            let general = ("OTEL_EXPORTER_OTLP_ENDPOINT", general);
            assert_eq!(
                endpoint(&[general]),
                "https://c.example:4318/otlp/v1/traces"
            );
            let own = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://t.example/in");
            assert_eq!(endpoint(&[general, own]), "http://t.example/in");
        }
    }

    #[test]
    fn a_traces_own_variables_go_before_the_general_ones() {
        let traces = parse(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c.example"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "1"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "2500"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "ca.pem"),
            ("OTEL_ATTRIBUTE_COUNT_LIMIT", "77"),
            ("TRACE_CONTENT", "yes"),
        ])
        .expect("valid")
        .traces;
        let expected = Export {
            endpoint: "http://c.example/v1/traces".into(),
            timeout: Duration::from_millis(2500),
            certificate: Some("ca.pem".into()),
            span_attributes: 77,
            content: true,
        };
        assert_eq!(traces, Some(expected));
    }
}
