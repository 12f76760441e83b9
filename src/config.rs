//! Every environment variable, in one table: name, default, meaning, and how it is read.
//!
//! Reads all of them once, reports every wrong value together by name, and never falls back
//! silently. Only `cli` uses the result.

mod platform;
mod reader;
mod stray;
mod traces;

use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use kernels::Isa;

use crate::fault::Faults;
use crate::http::{KeyLimits, Keys, route_below};
use crate::telemetry::Export;
use reranker_domain::Truncation;
use reranker_engine::{Device, Precision};

pub use platform::Platform;
use reader::{Reader, boolean, one_of, optional, parsed, path, seconds, text, whole, yes_or_no};

/// One documented variable.
pub struct Variable {
    pub name: &'static str,
    /// As one would write it; empty where there is none.
    pub default: &'static str,
    pub meaning: &'static str,
}

/// Makes [`Config`], [`VARIABLES`] and `read` of one table. A row is a variable's meaning, its
/// name, its field, the field's type, its default, and its reader. A reader may use the rows above
/// it by their fields' names.
macro_rules! settings {
    (
        $(#[doc = $meaning:literal] $name:ident $field:ident: $type:ty = $default:literal, $reader:expr;)*
        read by a row above: $(#[doc = $part_meaning:literal] $part:ident = $part_default:literal;)*
        of several variables: $($(#[$doc:meta])* $own:ident: $own_type:ty = $rule:expr;)*
    ) => {
        $(const $name: Variable = Variable {
            name: stringify!($name), default: $default, meaning: $meaning.trim_ascii(),
        };)*
        $(const $part: Variable = Variable {
            name: stringify!($part), default: $part_default, meaning: $part_meaning.trim_ascii(),
        };)*

        /// All variables that are ours, in the order of docs/reference/configuration.md.
        pub const VARIABLES: &[Variable] = &[$($name,)* $($part,)*];

        #[derive(Debug, Clone, PartialEq)]
        pub struct Config {
            $(#[doc = $meaning] pub $field: $type,)*
            $($(#[$doc])* pub $own: $own_type,)*
        }

        impl Config {
            fn read(read: &mut Reader) -> Option<Self> {
                // Each value is read before any is unwrapped, so that all complaints are gathered.
                $(let $field: Option<$type> = ($reader)(read, &$name);)*
                $(let $own: Option<$own_type> = ($rule)(read);)*
                Some(Self { $($field: $field?,)* $($own: $own?,)* })
            }
        }
    };
}

settings! {
    /// hub id of a model in the local Hugging Face cache; with `MODEL_DIR`, the name that the server reports for it
    MODEL_NAME model_name: Option<String> = "", optional(text);
    /// the model: a folder, a packed file, or either in S3; the default holds only without `MODEL_NAME`
    MODEL_DIR model_dir: Option<PathBuf> = "models/demo", model_dir;
    /// revision to report, and to look for in the Hugging Face cache
    MODEL_REVISION model_revision: Option<String> = "", optional(text);
    /// folder for models that are downloaded from S3; created for its owner alone
    MODEL_CACHE model_cache: PathBuf = "/tmp/reranker", path;
    /// whether the path names the bucket: `true`, `false`, or `auto` (`true` if another endpoint than AWS's is set)
    S3_PATH_STYLE s3_path_style: Choice = "auto", parsed("true, false or auto", Choice::parse);
    /// read public buckets without credentials
    S3_ANONYMOUS s3_anonymous: bool = "false", yes_or_no();
    /// address to listen on
    HOST host: IpAddr = "0.0.0.0", parsed(ADDRESS, parse_host);
    /// port to listen on; Azure Functions' own port takes precedence
    PORT port: u16 = "8000", parsed("a port from 0 (any free one) to 65535", |text| text.parse().ok());
    /// device of the model: `cpu`, `cuda` (an NVIDIA GPU, or an error), or `auto` (a GPU if it can compute the model)
    DEVICE device: Device = "auto", one_of(Device::NAMES);
    /// arithmetic: `int8` (packed models, CPU), `f32` (folders), `bf16` or `f16` (folders, GPU), or `auto` (the fastest)
    PRECISION precision: Precision = "auto", one_of(Precision::NAMES);
    /// meaning of `PRECISION=auto` on a GPU: `f16` if `true` or not set, `f32` if `false`; no effect on CPUs
    USE_FP16 use_fp16: Option<bool> = "", optional(yes_or_no());
    /// 16-bit kernels on a GPU: `fused` (this program's own, where they can) or `plain` (candle's operations)
    GPU_KERNELS gpu_fused: bool = "fused", parsed("fused or plain", fused);
    /// origins that may call from a browser, separated by commas; `*` for all, empty for none; never `null`
    CORS_ORIGINS cors_origins: Vec<String> = "*", origins;
    /// maximum length of a sequence in tokens, special tokens included; the model's own limit if that is lower
    MAX_LENGTH max_length: usize = "512", whole(8..=1 << 20);
    /// rule for pairs that are too long: `longest_first`, `flag`, or `none` (they are rejected)
    TRUNCATION truncation: Truncation = "longest_first", one_of(Truncation::NAMES);
    /// maximum number of pairs, or documents, in one request
    MAX_PAIRS max_pairs: usize = "1000", whole(1..=1_000_000);
    /// maximum number of characters in one query or passage
    MAX_TEXT_CHARS max_text_chars: usize = "100000", whole(1..=100_000_000);
    /// maximum number of tokens in one request, after truncation; 0 for no limit
    MAX_TOKENS max_tokens: usize = "1000000", whole(0..=1 << 40);
    /// maximum size of a request body in bytes
    MAX_BODY_BYTES max_body_bytes: usize = "10485760", whole(SMALLEST_BODY_LIMIT..=1 << 30);
    /// byte budget of all bodies and answers together, at least 8/7 of `MAX_BODY_BYTES`; further requests get 429
    MAX_BODY_BYTES_IN_FLIGHT max_body_bytes_in_flight: usize = "67108864", body_budget(max_body_bytes);
    /// maximum number of connections, as far as the limit of open files allows; further ones get 503 and are closed
    MAX_CONNECTIONS max_connections: usize = "800", whole(1..=1_000_000);
    /// maximum number of requests that wait for the compute thread; further ones get 429
    MAX_QUEUE max_queue: usize = "64", whole(1..=100_000);
    /// number of pairs whose scores are kept for later requests, about 100 bytes each; 0 for none
    CACHE_PAIRS cache_pairs: usize = "0", whole(0..=100_000_000);
    /// keys, separated by commas, plain or hashed; a request must bring one of them; if not set, everyone may call
    API_KEYS api_keys: Keys = "", keys;
    /// file with keys in the forms of `API_KEYS`, read again after a change; replaces `API_KEYS`
    API_KEYS_FILE api_keys_file: Option<PathBuf> = "", keys_file(api_keys.as_ref());
    /// limits of named keys, as `NAME:rpm=60,tokens_per_day=1000000`, separated by `;`; further requests get 429
    KEY_LIMITS key_limits: KeyLimits = "", key_limits(api_keys.as_ref(), &api_keys_file);
    /// timeout of one request in seconds, its body and its wait included
    REQUEST_TIMEOUT_S request_timeout: Duration = "300", seconds(86_400);
    /// timeout in seconds for the head of a request; a connection without one by then is closed
    HEADER_TIMEOUT_S header_timeout: Duration = "30", seconds(3_600);
    /// timeout in seconds of a connection that brings no request, or takes no more of its answer
    IDLE_TIMEOUT_S idle_timeout: Duration = "75", seconds(3_600);
    /// seconds after SIGTERM in which accepted requests may finish
    SHUTDOWN_GRACE_S shutdown_grace: Duration = "30", seconds(3_600);
    /// number of compute threads; all available cores if not set
    THREADS threads: Option<usize> = "", optional(whole(1..=1024));
    /// tokens of one forward pass, which bounds its memory; 4096 on CPUs and 16384 on a GPU if not set
    BATCH_TOKENS batch_tokens: Option<usize> = "", optional(whole(16..=1 << 20));
    /// instruction set of the kernels (`reranker doctor` lists this machine's); the best one if not set
    INSTRUCTION_SET instruction_set: Option<Isa> = "", optional(one_of(Isa::ALL.map(Isa::name)));
    /// seconds from the start that Lambda's initialisation may wait for the weights; at most 9
    INIT_BUDGET_S init_budget: Duration = "8", seconds(INIT_LIMIT_S);
    /// run the model once before answering ready: `true`, `false`, or `auto` (yes, except on Lambda on demand)
    WARM_UP warm_up: Choice = "auto", parsed("true, false or auto", Choice::parse);
    /// path prefix that the server removes from every request, such as `/search`; no prefix of a route
    BASE_PATH base_path: Option<String> = "", base_path;
    /// `error`, `warn`, `info`, `debug`, `trace`, `off`, or a filter such as `reranker=debug`
    LOG_LEVEL log_level: String = "info", log_level;
    /// `json`, `text`, or `auto` (`json` on Lambda and if the output is no terminal)
    LOG_FORMAT log_format: LogFormat = "auto", LogFormat::read;
    /// each request's metrics on stdout, for CloudWatch: `minimal`, `full`, `false`, or `auto` (`minimal` on Lambda)
    EMF_METRICS emf_metrics: EmfMetrics = "auto", parsed("minimal, full, false or auto", EmfMetrics::parse);
    /// collector of traces, as OTLP over HTTP (`http://127.0.0.1:4318`); without one, nothing is exported
    OTEL_EXPORTER_OTLP_ENDPOINT traces: Option<Export> = "", traces::export;

    read by a row above:
    /// put the texts of queries and documents into exported traces; without it they hold positions, scores and counts
    TRACE_CONTENT = "false";

    of several variables:
    /// Neither `MODEL_DIR` nor `MODEL_NAME` is set.
    default_model: bool = default_model;
    /// Facts that the platforms give through variables of their own.
    platform: Platform = platform::read;
    /// Variables that are set and mean nothing here, though somebody may think that they do.
    notes: Vec<String> = |_: &mut Reader| Some(Vec::new());
    /// Panics for tests, in builds that are made for them.
    faults: Faults = faults;
}

/// `MAX_BODY_BYTES` cannot be lower.
const SMALLEST_BODY_LIMIT: usize = 1024;
/// Lambda itself ends an initialisation after ten seconds, and begins it anew.
const INIT_LIMIT_S: u32 = 9;

/// Lambda's own variables: the source of a runtime's events, and the function's settings for its
/// logs. Ours take precedence.
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

    /// By `LOG_FORMAT`, else by Lambda's own variable, which has the names in capitals.
    fn read(read: &mut Reader, variable: &Variable) -> Option<Self> {
        match read.first(&[variable.name, LAMBDA_LOG_FORMAT]) {
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

/// Every wrong value of the environment.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigErrors(pub Vec<String>);

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
        let mut read = Reader {
            lookup: &|name| std::env::var(name).ok(),
            errors: Vec::new(),
        };
        let format = LogFormat::read(&mut read, &LOG_FORMAT);
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
}

/// Keys that came out empty, as of a secret that is not there, must not open the door. None is
/// repeated.
fn keys(read: &mut Reader, variable: &Variable) -> Option<Keys> {
    let text = (read.lookup)(variable.name).unwrap_or_default();
    if text.is_empty() {
        return Some(Keys::default());
    }
    let keys: Vec<&str> = text.split(',').map(str::trim).collect();
    let wrong = if text.trim().is_empty() {
        "it is set to white space alone: unset it to let everyone in".to_owned()
    } else {
        match Keys::parse(&keys) {
            Ok(keys) => return Some(keys),
            Err(error) => error.to_string(),
        }
    };
    read.errors.push(format!("{}: {wrong}", variable.name));
    None
}

/// Either the variable or the file has the keys.
fn keys_file(
    keys: Option<&Keys>,
) -> impl FnOnce(&mut Reader, &Variable) -> Option<Option<PathBuf>> {
    move |read, variable| {
        let file = read.optional(variable);
        if file.is_some() && keys.is_some_and(|keys| !keys.is_empty()) {
            let both = "API_KEYS_FILE: API_KEYS is set too: set one of them";
            read.errors.push(both.to_owned());
        }
        Some(file.map(PathBuf::from))
    }
}

/// Limits are for keys that exist. The names in a file are not known here.
fn key_limits(
    keys: Option<&Keys>,
    file: &Option<Option<PathBuf>>,
) -> impl FnOnce(&mut Reader, &Variable) -> Option<KeyLimits> {
    let keys = keys.filter(|_| !matches!(file, Some(Some(_))));
    move |read, variable| {
        let Some(text) = read.optional(variable) else {
            return Some(KeyLimits::default());
        };
        let limits = KeyLimits::parse(&text).and_then(|limits| {
            let unknown =
                keys.and_then(|keys| limits.unknown(keys).first().map(ToString::to_string));
            match unknown {
                Some(name) => Err(format!("{name}: no key of API_KEYS has this name")),
                None => Ok(limits),
            }
        });
        limits.map_or_else(
            |error| {
                let form = format!("NAME:rpm=60,tokens_per_day=1000000 and ; between ({error})");
                read.complain(variable.name, &text, &form)
            },
            Some,
        )
    }
}

/// The path as it is written: spaces may belong to it. The default holds only where no other model
/// is named.
fn model_dir(read: &mut Reader, variable: &Variable) -> Option<Option<PathBuf>> {
    let dir = (read.lookup)(variable.name).filter(|dir| !dir.trim().is_empty());
    let default = || {
        read.optional(&MODEL_NAME)
            .is_none()
            .then(|| variable.default.to_owned())
    };
    Some(dir.or_else(default).map(PathBuf::from))
}

fn default_model(read: &mut Reader) -> Option<bool> {
    let is_set = |variable: &Variable| {
        (read.lookup)(variable.name).is_some_and(|value| !value.trim().is_empty())
    };
    Some(!is_set(&MODEL_DIR) && !is_set(&MODEL_NAME))
}

/// An eighth of the budget is reserved for small bodies, and the rest has to hold the largest one.
fn body_budget(largest: Option<usize>) -> impl FnOnce(&mut Reader, &Variable) -> Option<usize> {
    let largest = largest.unwrap_or(SMALLEST_BODY_LIMIT);
    parsed(
        "a whole number, at least 8/7 of MAX_BODY_BYTES",
        move |text| {
            let fits = |bytes: &usize| bytes - bytes / 8 >= largest;
            text.parse().ok().filter(fits)
        },
    )
}

fn fused(text: &str) -> Option<bool> {
    match text {
        "fused" => Some(true),
        "plain" => Some(false),
        _ => None,
    }
}

/// By `LOG_LEVEL`, else by Lambda's own variable.
fn log_level(read: &mut Reader, variable: &Variable) -> Option<String> {
    let (name, level) = read
        .first(&[variable.name, LAMBDA_LOG_LEVEL])
        .unwrap_or_else(|| (variable.name, variable.default.to_owned()));
    match crate::telemetry::parse_filter(&level) {
        Ok(_) => Some(level),
        Err(error) => read.complain(name, &level, &format!("{LOG_LEVELS} ({error})")),
    }
}

fn faults(read: &mut Reader) -> Option<Faults> {
    match (read.lookup)(INJECT_PANIC) {
        Some(text) if cfg!(debug_assertions) => text
            .parse()
            .ok()
            .or_else(|| read.complain(INJECT_PANIC, &text, "places and tokens, as in compute:20")),
        _ => Some(Faults::default()),
    }
}

fn base_path(read: &mut Reader, variable: &Variable) -> Option<Option<String>> {
    let Some(value) = read.optional(variable) else {
        return Some(None);
    };
    let path = value.strip_suffix('/').unwrap_or(&value);
    let segments = path.strip_prefix('/').unwrap_or_default();
    // As it comes in a request, where anything else is escaped.
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%".contains(&b);
    let fits = |segment: &str| !["", ".", ".."].contains(&segment) && segment.bytes().all(plain);
    if !segments.split('/').all(fits) {
        return read.complain(
            variable.name,
            &value,
            "a path such as /search/rank, which begins with / and is escaped as in a URL",
        );
    }
    match route_below(path) {
        Some(route) => {
            let expected = format!("a path that none of the routes begins with, as {route} does");
            read.complain(variable.name, &value, &expected)
        }
        None => Some(Some(path.to_owned())),
    }
}

fn origins(read: &mut Reader, variable: &Variable) -> Option<Vec<String>> {
    // Here an empty value means something, so the default holds only where the variable is not set
    // at all.
    let value = (read.lookup)(variable.name).unwrap_or_else(|| variable.default.to_owned());
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
            variable.name,
            &value,
            "* alone, or origins such as https://example.org separated by commas; null is none, as any page can have it",
        )
    })
}

/// An origin as browsers write it: in lower case, without the port that its scheme has anyway.
/// Nothing where it is none.
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
    fn a_meaning_is_one_short_line() {
        for Variable { name, meaning, .. } in VARIABLES {
            let length = meaning.chars().count();
            assert!((1..=120).contains(&length), "{name}: {length} characters");
        }
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
