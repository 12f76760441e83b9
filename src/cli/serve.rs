//! `reranker serve`: the composition of a host, the router and the service.

mod named;

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use axum::Router;
use tokio::net::TcpSocket;
use tracing::Instrument;

use super::setup::{self, ModelPlan};
use super::{Usage, memory, models, output, process};
use crate::batch::{Compute, ComputeSettings};
use crate::config::{self, Choice, Config, EmfMetrics};
use crate::fault;
use crate::host::server::{self, End};
use crate::host::signals::{self, Signals};
use crate::host::{HostKind, azure, lambda};
use crate::http::{self, Keyring, Settings, Telemetry};
use crate::service::{Service, State};
use crate::telemetry::{self, Emf, LAST_LINES_TIME, Metrics, Traces, log_ms};
use reranker_domain::Error;
use reranker_engine::{Engine, Info, ModelError};

/// After a download that failed, until the next; the pause doubles each time.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// What the process ends with when its compute thread has panicked too often, for the platform to
/// start another: `EX_SOFTWARE`.
pub const BROKEN: u8 = 70;
/// For the answers that tell of it.
const BROKEN_GRACE: Duration = Duration::from_secs(1);
/// For the last traces, once every request is answered.
const TRACES_GRACE: Duration = Duration::from_secs(2);

/// The compute thread has panicked too often.
#[derive(Debug, thiserror::Error)]
#[error("nothing can be computed any more: ending with code {}", BROKEN)]
pub struct Broken;

#[derive(clap::Args, Default)]
pub struct Args {
    /// Hub repository (owner/name or owner/name@revision), model folder, packed file, or address in
    /// S3; replaces MODEL_DIR and MODEL_NAME. A repository that is not in the cache is downloaded
    /// and packed, once. With PRECISION=f32 it is not packed.
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Pack a model folder before it is served, if it has no packed.safetensors.
    #[arg(long)]
    pack: bool,
    /// Address to listen on; replaces HOST.
    #[arg(long, value_name = "ADDRESS", value_parser = config::host)]
    host: Option<IpAddr>,
    /// Port to listen on; replaces PORT.
    #[arg(long)]
    port: Option<u16>,
    /// Host to serve; replaces the one that the environment shows.
    #[arg(long, value_enum)]
    host_kind: Option<HostKind>,
}

impl Args {
    /// The configuration with what was said on the command line.
    fn over(&self, config: &Config) -> Config {
        let config = match &self.model {
            Some(model) => setup::with_model(config, model),
            None => config.clone(),
        };
        Config {
            host: self.host.unwrap_or(config.host),
            port: self.port.unwrap_or(config.port),
            ..config
        }
    }
}

pub fn run(args: &Args, config: &Config, started: Instant) -> anyhow::Result<ExitCode> {
    let config = &args.over(config);
    let kind = args.host_kind.unwrap_or_else(|| detect(config));
    if kind == HostKind::Lambda && config.platform.lambda_api.is_none() {
        return Err(Usage(
            "--host-kind lambda: AWS_LAMBDA_RUNTIME_API, the address of events, is not set".into(),
        )
        .into());
    }
    let filter = telemetry::parse_filter(&config.log_level).map_err(anyhow::Error::msg)?;
    let traces = match &config.traces {
        Some(export) => Traces::start(export).context("cannot export traces")?,
        None => Traces::default(),
    };
    let json = telemetry::is_json(config.log_json());
    telemetry::install(filter, json, &traces);
    // Lambda freezes the process with its answer, so there each line is out before it.
    if kind != HostKind::Lambda {
        telemetry::queue().context("cannot start the threads that write the log")?;
    }
    for note in &config.notes {
        tracing::warn!("{note}");
    }
    process::check_files()?;
    process::check_clock(SystemTime::now())?;
    fault::arm(config.faults.clone());
    process::keep_out_of_cores();
    // Before minutes of fetching and packing: a port that is taken, and a signal, are noticed at
    // once.
    let door = match kind {
        HostKind::Lambda => None,
        HostKind::Azure | HostKind::Http => Some(Door::new(config, kind)?),
    };
    let keys = keyring(config)?;
    // Functions and their images hold their model. Nothing is fetched there that was not asked for.
    let named::Ready { config, hold } = match kind {
        HostKind::Http => {
            output::note_in_log();
            named::ready(config, args.model.is_some(), args.pack)?
        }
        _ if args.pack => {
            let what = "--pack: a function holds its model: pack it before it is deployed";
            return Err(Usage(what.into()).into());
        }
        HostKind::Lambda | HostKind::Azure => named::Ready {
            config: config.clone(),
            hold: None,
        },
    };
    let config = &config;
    // A model that is elsewhere is brought while the host already listens.
    let remote = setup::s3_model(config)?;
    let plan = match &remote {
        Some(_) => None,
        None => Some(fitting(config)?),
    };
    let model_dir = match (&remote, &plan) {
        (Some(model), _) => model.to_string(),
        (None, plan) => plan
            .as_ref()
            .map_or_else(String::new, |plan| plan.path.display().to_string()),
    };
    let batch_tokens = plan.as_ref().map(|plan| plan.settings.batch_tokens);
    let kernels = setup::kernels(config)?;
    let compute = Compute::start(ComputeSettings {
        threads: setup::threads(config),
        queue_limit: config.max_queue,
        batch_tokens: batch_tokens.unwrap_or_else(|| setup::batch_tokens(config)),
    })?;
    let service = Service::new(compute, config.cache_pairs, started);
    let telemetry = Telemetry {
        traces: traces.clone(),
        metrics: Metrics::new(),
        emf: emf(config, kind).map(Arc::new),
        process_start: SystemTime::now().checked_sub(started.elapsed()),
    };
    let settings = settings(config, kind, keys, telemetry);
    let open = settings.keys.is_empty();
    let metrics = settings.telemetry.metrics.clone();
    let router = http::router(service.clone(), settings);
    let warm_up = match config.warm_up {
        Choice::Yes => true,
        Choice::No => false,
        // On demand, the first request is the warm-up: running the model twice would only make it
        // later.
        Choice::Auto => kind != HostKind::Lambda || !on_demand(config),
    };
    tracing::info!(
        host = kind.name(),
        model_dir,
        threads = service.threads(),
        instruction_set = kernels.isa().name(),
        max_length = config.max_length,
        access = if open {
            "open to everyone"
        } else {
            "by API key"
        },
        version = env!("CARGO_PKG_VERSION"),
        "starting"
    );
    // Where nothing hurries the start, its failure must be told to whoever waits for it.
    let patient = kind != HostKind::Lambda || on_demand(config);
    let (loaded, whence) = (service.clone(), config.clone());
    let load = async move {
        let plan = match plan {
            Some(plan) => plan,
            None => match brought(&loaded, whence, patient).await {
                Some(plan) => plan,
                None => return,
            },
        };
        // A program that was built for CPUs need not say so at every start.
        if cfg!(feature = "cuda") {
            match (&plan.settings.gpu, &plan.no_gpu) {
                (Some(gpu), _) => tracing::info!(gpu = gpu.name, "computing on the GPU"),
                (None, Some(reason)) => {
                    tracing::warn!(reason, "DEVICE=auto: computing on the CPU");
                }
                (None, None) => {}
            }
        }
        let engine = move || {
            fault::hold_loading(&plan.path);
            let settings = reranker_engine::Settings {
                warm_up,
                started,
                ..plan.settings
            };
            Engine::open(&plan.path, settings)
        };
        load(loaded, engine).await;
    }
    .instrument(tracing::info_span!("load model"));
    // Lambda's loop runs on the main thread, and catches the panics of its events there.
    if kind != HostKind::Lambda {
        telemetry::end_with_main_thread();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // The runtime only moves bytes; the cores belong to the compute threads.
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let ended = runtime.block_on(async move {
        let loading = tokio::spawn(load);
        match door {
            None => on_lambda(config, service, router, loading, started, traces).await,
            Some(door) => {
                // Where people read the log, it begins with what they need.
                let greets = kind == HostKind::Http && !json;
                let greeting = greets.then_some(open);
                let router = match kind {
                    HostKind::Azure => {
                        azure::triggers(router, config.max_body_bytes, config.request_timeout)
                    }
                    _ => router,
                };
                let ended = on_socket(config, door, greeting, service, router, metrics).await;
                traces.shutdown(TRACES_GRACE);
                ended
            }
        }
    });
    // What still works for a request that nobody waits for any more is not waited for either.
    runtime.shutdown_background();
    drop(hold);
    ended
}

/// Says to people, once the model is there, where it can be tried out and who may.
async fn greet(address: SocketAddr, open: bool, service: Service) {
    let model = match service.settled(None).await {
        State::Ready(engine) => {
            let Info { name, note, .. } = engine.info();
            match note {
                Some(note) => format!("{name}: {note}; MODEL_DIR or MODEL_NAME serves yours"),
                None => name.clone(),
            }
        }
        State::Failed(reason) => format!("none: {reason}"),
        State::Loading => return,
    };
    telemetry::say(&banner(address, open, &model));
}

fn banner(address: SocketAddr, open: bool, model: &str) -> String {
    let host = match address.ip() {
        host if host.is_unspecified() => "localhost".to_owned(),
        IpAddr::V4(host) => host.to_string(),
        IpAddr::V6(host) => format!("[{host}]"),
    };
    let root = format!("http://{host}:{}", address.port());
    let access = match (open, address.ip().is_loopback()) {
        (true, true) => "everyone on this machine",
        (true, false) => {
            "everyone who reaches this machine; API_KEYS or HOST=127.0.0.1 bounds that"
        }
        (false, _) => "whoever has an API key",
    };
    format!(
        "\n  playground  {root}/\n  API         {root}/docs\n  model       {model}\n  may call    {access}\n\n"
    )
}

fn detect(config: &Config) -> HostKind {
    if config.platform.lambda_api.is_some() {
        HostKind::Lambda
    } else if config.platform.azure_port.is_some() {
        HostKind::Azure
    } else {
        HostKind::Http
    }
}

/// Where a server with this configuration listens.
pub(super) fn address(config: &Config) -> SocketAddr {
    socket(detect(config), config)
}

fn socket(kind: HostKind, config: &Config) -> SocketAddr {
    match (kind, config.platform.azure_port) {
        // The Functions host is on this machine, and nobody else has business with its handler.
        (HostKind::Azure, Some(port)) => SocketAddr::new(IpAddr::from([127, 0, 0, 1]), port),
        _ => SocketAddr::new(config.host, config.port),
    }
}

/// Where clients will come in, taken before it is opened.
struct Door {
    kind: HostKind,
    address: SocketAddr,
    socket: TcpSocket,
    signals: Signals,
}

impl Door {
    fn new(config: &Config, kind: HostKind) -> anyhow::Result<Self> {
        let address = socket(kind, config);
        Ok(Self {
            kind,
            address,
            socket: server::reserve(address).map_err(|error| closed(kind, address, error))?,
            signals: signals::listen(config.shutdown_grace + TRACES_GRACE + LAST_LINES_TIME)
                .context("cannot listen for SIGTERM")?,
        })
    }
}

/// Why nobody can come in there, and what to set.
fn closed(kind: HostKind, address: SocketAddr, error: std::io::Error) -> anyhow::Error {
    let (port, host) = match kind {
        HostKind::Azure => ("the host's port", "the host's address"),
        HostKind::Lambda | HostKind::Http => ("PORT", "HOST"),
    };
    let remedy = match error.kind() {
        ErrorKind::AddrInUse => {
            format!(
                "the port is in use: set {port} to another one, or stop the program that listens there"
            )
        }
        ErrorKind::AddrNotAvailable => {
            format!("this machine has no such address: set {host} to one of its own")
        }
        ErrorKind::PermissionDenied => {
            format!("this user may not take the port: set {port} to one from 1024 on")
        }
        _ => return anyhow::Error::new(error).context(format!("cannot listen on {address}")),
    };
    anyhow::anyhow!("cannot listen on {address}: {remedy}")
}

fn on_demand(config: &Config) -> bool {
    !matches!(
        config.platform.lambda_initialization.as_deref(),
        Some("provisioned-concurrency" | "snap-start")
    )
}

/// Whether requests are told to CloudWatch in the log: on Lambda nobody scrapes.
fn emf(config: &Config, kind: HostKind) -> Option<Emf> {
    let full = match config.emf_metrics {
        EmfMetrics::Off => return None,
        EmfMetrics::Auto if kind != HostKind::Lambda => return None,
        EmfMetrics::Minimal | EmfMetrics::Auto => false,
        EmfMetrics::Full => true,
    };
    Some(Emf::new(config.platform.lambda_function.clone(), full))
}

/// Who may call. Without its file of keys nobody could, so the server does not start.
fn keyring(config: &Config) -> anyhow::Result<Keyring> {
    let limits = config.key_limits.clone();
    match &config.api_keys_file {
        Some(path) => Keyring::of_file(path, limits)
            .map_err(|error| Usage(format!("API_KEYS_FILE: {error}")).into()),
        None => Ok(Keyring::new(config.api_keys.clone(), limits)),
    }
}

fn settings(config: &Config, kind: HostKind, keys: Keyring, telemetry: Telemetry) -> Settings {
    let azure = (kind == HostKind::Azure).then(|| "/api".to_owned());
    Settings {
        limits: setup::limits(config),
        body_bytes: config.max_body_bytes,
        body_bytes_in_flight: config.max_body_bytes_in_flight,
        timeout: config.request_timeout,
        cors_origins: config.cors_origins.clone(),
        base_paths: config.base_path.iter().cloned().chain(azure).collect(),
        wait_for_model: kind == HostKind::Lambda,
        host: kind.name(),
        known: models::about,
        keys,
        billed_bytes: config.platform.lambda_memory_mb.map(|mb| mb << 20),
        resident_bytes: process::resident_bytes,
        telemetry,
    }
}

/// The model as it will be loaded, where this process has the memory for it.
fn fitting(config: &Config) -> anyhow::Result<ModelPlan> {
    let plan = setup::model(config)?;
    memory::check(&plan)?;
    Ok(plan)
}

/// Brings the model from S3. What may mend by itself is tried again and again, where `patient`;
/// meanwhile requests are told why there is no model.
async fn brought(service: &Service, config: Config, patient: bool) -> Option<ModelPlan> {
    let mut pause = FIRST_PAUSE;
    loop {
        let config = config.clone();
        // Fails only when the runtime ends.
        let plan = tokio::task::spawn_blocking(move || fitting(&config))
            .await
            .ok()?;
        let error = match plan {
            Ok(plan) => {
                if let Some(download) = plan.settings.download {
                    tracing::info!(
                        bytes = download.bytes,
                        downloaded_bytes = download.downloaded,
                        mb_per_s = (download.mb_per_s() * 10.0).round() / 10.0,
                        ms = log_ms(download.time),
                        check_ms = log_ms(download.check),
                        "model downloaded"
                    );
                }
                return Some(plan);
            }
            Err(error) => error,
        };
        let passing = matches!(error.downcast_ref(), Some(ModelError::Unreachable(_)));
        let again = (patient && passing).then_some(pause.as_secs());
        let reason = format!("{error:#}");
        tracing::error!(error = reason, again_in_s = again, "model not downloaded");
        service.failed(reason);
        again?;
        tokio::time::sleep(pause).await;
        pause = LONGEST_PAUSE.min(pause * 2);
    }
}

/// Loads, and says in the log what came of it: this is where an operator looks first.
async fn load(
    service: Service,
    load: impl FnOnce() -> Result<Engine, ModelError> + Send + 'static,
) {
    match service.load(load).await {
        Ok(engine) => {
            let info = engine.info();
            tracing::info!(
                model = info.name,
                revision = info.revision.as_deref(),
                note = info.note.as_deref(),
                precision = info.precision,
                device = info.gpu.as_ref().map_or("cpu", |gpu| gpu.name.as_str()),
                stored_dtype = info.stored_dtype,
                max_length = info.max_length,
                process_ms = log_ms(info.load.process.time),
                tokenizer_ms = log_ms(info.load.tokenizer.time),
                weights_ms = log_ms(info.load.weights.time),
                warm_up_ms = log_ms(info.load.warm_up),
                ms = log_ms(info.load.total),
                "model ready"
            );
            if let Some(unused) = setup::unused(engine.model().unused()) {
                tracing::warn!("{unused}");
            }
        }
        Err(error @ Error::Model(_)) => {
            tracing::error!(%error, state = "still listening, for /health to tell", "model not loaded");
        }
        Err(error) => tracing::error!(%error, "loading failed"),
    }
}

async fn on_lambda(
    config: &Config,
    service: Service,
    router: Router,
    loading: tokio::task::JoinHandle<()>,
    started: Instant,
    traces: Traces,
) -> anyhow::Result<ExitCode> {
    let snapshot = config.platform.lambda_initialization.as_deref() == Some("snap-start");
    let (drained, asked) = (service.clone(), service.clone());
    let on_drain = move || drained.drain();
    lambda::drain_on_sigterm(!snapshot, on_drain, move || asked.idle(), traces.clone())
        .await
        .context("cannot listen for SIGTERM")?;
    let in_memory = async {
        let _ = loading.await;
        service.prefetched().await;
    };
    if on_demand(config) {
        let budget = started + config.init_budget;
        let _ = tokio::time::timeout_at(budget.into(), in_memory).await;
    } else {
        // Nothing hurries these, and a snapshot must hold a loaded model: without one, publishing
        // has to fail.
        in_memory.await;
        service.engine()?;
    }
    let restored = service.clone();
    let address = config.platform.lambda_api.clone();
    let source = lambda::Source {
        address: address.context("AWS_LAMBDA_RUNTIME_API is not set")?,
        concurrency: config.platform.lambda_concurrency.unwrap_or(1).max(1),
        snapshot,
    };
    tokio::select! {
        end = lambda::serve(router, traces, source, move || restored.restored()) => Err(end.into()),
        // Lambda starts another process. What was asked is answered first.
        () = async {
            service.broken().await;
            tokio::time::sleep(BROKEN_GRACE).await;
        } => Err(Broken.into()),
    }
}

async fn on_socket(
    config: &Config,
    door: Door,
    // People are told whether everyone may call.
    greeting: Option<bool>,
    service: Service,
    router: Router,
    metrics: Metrics,
) -> anyhow::Result<ExitCode> {
    let stop = door.signals.drain();
    let listener =
        server::listen(door.socket).map_err(|error| closed(door.kind, door.address, error))?;
    let address = listener
        .local_addr()
        .context("the listener has no address")?;
    tracing::info!(%address, "listening");
    if let Some(open) = greeting {
        tokio::spawn(greet(address, open, service.clone()));
    }
    let connections = process::room_for_connections(config.max_connections);
    if connections < config.max_connections {
        tracing::warn!(
            connections,
            "MAX_CONNECTIONS={} exceeds the limit of open files",
            config.max_connections
        );
    }
    let limits = server::Limits {
        connections,
        header: config.header_timeout,
        idle: config.idle_timeout,
        answer: config.request_timeout,
        grace: config.shutdown_grace,
    };
    let broken = service.broken();
    let drain = || service.drain();
    let end = server::serve(listener, router, limits, metrics, stop, broken, drain).await;
    match end {
        End::AllAnswered => Ok(ExitCode::SUCCESS),
        End::GraceOver => {
            anyhow::bail!("SHUTDOWN_GRACE_S ran out before every request was answered")
        }
        End::Broken => Err(Broken.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_the_router_alone_gets_what_a_server_without_variables_has() {
        let config = Config::parse(&|_| None).expect("nothing is wrong");
        let of_server = settings(
            &config,
            HostKind::Http,
            Keyring::default(),
            Telemetry::default(),
        );
        let own = Settings::default();
        let numbers = |it: &Settings| (it.limits, it.body_bytes, it.body_bytes_in_flight);
        assert_eq!(numbers(&own), numbers(&of_server));
        assert_eq!(own.timeout, of_server.timeout);
        assert_eq!(own.cors_origins, of_server.cors_origins);
        assert_eq!(own.base_paths, of_server.base_paths);
        assert_eq!(
            (own.host, own.wait_for_model, own.billed_bytes),
            (
                of_server.host,
                of_server.wait_for_model,
                of_server.billed_bytes
            )
        );
        let compute = ComputeSettings::default();
        assert_eq!(compute.queue_limit, config.max_queue);
        assert_eq!(compute.batch_tokens, setup::batch_tokens(&config));
        assert_eq!(compute.threads, setup::threads(&config));
        let engine = reranker_engine::Settings::default();
        assert_eq!(
            (engine.max_length, engine.truncation, engine.precision),
            (config.max_length, config.truncation, config.precision)
        );
    }

    #[test]
    fn the_banner_has_links_and_says_who_may_call() {
        for (address, open, parts) in [
            (
                "0.0.0.0:8000",
                true,
                ["http://localhost:8000/\n", "HOST=127.0.0.1"],
            ),
            (
                "127.0.0.1:81",
                true,
                ["http://127.0.0.1:81/docs\n", "everyone on this machine"],
            ),
            (
                "[::]:8000",
                false,
                ["http://localhost:8000/docs\n", "whoever has an API key"],
            ),
            (
                "[::1]:8000",
                true,
                ["http://[::1]:8000/\n", "everyone on this machine"],
            ),
        ] {
            let banner = banner(address.parse().expect("an address"), open, "a model");
            for part in parts.into_iter().chain(["model       a model\n"]) {
                assert!(banner.contains(part), "{part} in {banner}");
            }
        }
    }
}
