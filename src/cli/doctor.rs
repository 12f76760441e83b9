//! `reranker doctor`: what this machine, this configuration and this model amount to, and what to
//! do about what is wrong.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use kernels::{Isa, Levels};
use rayon::ThreadPool;

use super::memory::{self, size};
use super::output::say;
use super::{ModelArg, Usage, cpu, library, process, setup};
use crate::config::Config;
use reranker_domain::FULL_REQUEST;
use reranker_engine::model::{Gpu, Model, Packed, check_sources};
use reranker_engine::weights::Sureness;
use reranker_engine::{Engine, ModelError, Settings, faster_sets};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// Print only the processor, in one line to paste: its name, instruction sets and speed, and
    /// the time of a request of 100 passages of 128 tokens with bge-reranker-v2-m3 in int8.
    #[arg(long, conflicts_with = "model")]
    cpu: bool,
}

/// One line of the report.
enum Finding {
    Fine(String),
    /// Works, but not as well as it could; with what to do.
    Better(String, String),
    /// Does not work; with what to do.
    Wrong(String, String),
}

use Finding::{Better, Fine, Wrong};

pub fn run(args: &Args, config: &Config) -> anyhow::Result<ExitCode> {
    if args.cpu {
        say!("{}", cpu_line(config)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let config = &args.model.config(config);
    let mut findings = vec![instruction_set(config), threads(config)];
    let notes = config.notes.iter().cloned();
    findings.extend(notes.map(|note| {
        Better(
            note,
            "`reranker variables` lists those that are read".into(),
        )
    }));
    findings.extend(memory::available().map(|b| Fine(format!("memory: {} may be used", size(b)))));
    findings.extend(model(config));
    let mut wrong = 0;
    for finding in &findings {
        match finding {
            Fine(what) => say!("ok    {what}")?,
            Better(what, advice) => say!("note  {what}\n      {advice}")?,
            Wrong(what, advice) => {
                wrong += 1;
                say!("WRONG {what}\n      {advice}")?;
            }
        }
    }
    Ok(if wrong == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Operations of [`FULL_REQUEST`] with bge-reranker-v2-m3: of 24 layers the linear ones, with
/// 12,582,912 weights each, and attention.
const FULL_OPERATIONS: f64 = {
    let (passages, tokens) = FULL_REQUEST;
    (24 * passages * tokens * (2 * 12_582_912 + 4 * tokens * 1024)) as f64
};

/// What part of its most a machine reaches on such a request: bench/records/2026-11-23-int8.jsonl
/// has it of VNNI (`growth`), and AVX2's share of short pairs, 2026-11-26-amx-kernels.txt AMX's.
/// Arm's is taken to be as AVX2's, and was not timed.
fn reach(isa: Isa) -> f64 {
    match isa {
        Isa::Amx => 0.22,
        Isa::Avx512Vnni | Isa::AvxVnni => 0.8,
        _ => 0.73,
    }
}

/// How long each of the two measurements of the processor's speed takes: the first brings it to its
/// clock.
const PEAK_TIME: Duration = Duration::from_millis(100);

/// The processor in one line.
fn cpu_line(config: &Config) -> anyhow::Result<String> {
    let kernels = setup::kernels(config)?;
    let threads = setup::threads(config);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let here: Vec<&str> = Isa::available().into_iter().map(Isa::name).collect();
    let isa = kernels.isa();
    let unused: Vec<String> = faster_sets(kernels)
        .into_iter()
        .map(|(name, reason)| format!("{name} ({reason})"))
        .collect();
    let unused = if unused.is_empty() {
        "none".into()
    } else {
        unused.join(", ")
    };
    let quota = cpu::quota().map_or_else(|| "no".into(), |quota| format!("a {quota:.2} core"));
    let memory = memory::available().map_or_else(|| "unknown".into(), size);
    let pool = setup::pool(config)?;
    let (begun, used) = (Instant::now(), process::used());
    let peak = pool.install(|| {
        kernels.int8_peak(Levels::FULL, PEAK_TIME);
        kernels.int8_peak(Levels::FULL, PEAK_TIME)
    });
    // The peak is of the moments in which all threads ran; a quota, or others, take the rest.
    let had = (process::used() - used).as_secs_f64() / begun.elapsed().as_secs_f64();
    let share = (had / threads as f64).min(1.0);
    let seconds = FULL_OPERATIONS / (peak * share * reach(isa));
    let (passages, tokens) = FULL_REQUEST;
    Ok(format!(
        "{}; instruction sets: {}; used: {isa} (tier {}); faster and not used: {unused}; {cores} cores, {quota} quota, {had:.2} cores had; \
         memory: {memory}; {:.0} int8 operations a nanosecond at most on {threads} threads; {passages} passages of {tokens} tokens with \
         bge-reranker-v2-m3 in int8: about {seconds:.2} s (predicted)",
        cpu::described(),
        here.join(", "),
        isa.tier(),
        peak / 1e9,
    ))
}

fn instruction_set(config: &Config) -> Finding {
    let here: Vec<&str> = Isa::available().into_iter().map(Isa::name).collect();
    match setup::kernels(config) {
        Ok(kernels) => {
            let isa = kernels.isa();
            let what = format!(
                "instruction set: {isa}, tier {} (this machine has {})",
                isa.tier(),
                here.join(", ")
            );
            let passed_over = kernels.passed_over();
            if passed_over.iter().any(|(_, obstacle)| obstacle.is_none()) {
                Better(what, "INSTRUCTION_SET forces a slower one: unset it".into())
            } else if let Some((isa, Some(obstacle))) = passed_over.last() {
                Better(
                    what,
                    format!("the chip has {isa} too, which is faster, but {obstacle}"),
                )
            } else if isa == Isa::Scalar {
                Better(
                    what,
                    "no vector instructions were found: expect a tenth of the usual speed".into(),
                )
            } else {
                Fine(what)
            }
        }
        Err(error) => Wrong(
            format!("instruction set: {error}"),
            "unset INSTRUCTION_SET".into(),
        ),
    }
}

/// Gateways in front of functions give up after it.
const GATEWAY_LIMIT: Duration = Duration::from_secs(30);

/// What a full-size request costs here, with the loaded model.
fn full_request(model: &Model, pool: &ThreadPool, batch_tokens: usize) -> Finding {
    let (passages, tokens) = FULL_REQUEST;
    let tokens = tokens.min(model.config().max_length());
    let request = format!("a request of {passages} passages of {tokens} tokens");
    match full_request_time(model, pool, batch_tokens) {
        Ok(time) => {
            let what = format!(
                "{request}: about {:.2} s on {} threads",
                time.as_secs_f64(),
                pool.current_num_threads()
            );
            if time > GATEWAY_LIMIT {
                Better(
                    what,
                    format!(
                        "gateways of functions give up after {} s: fewer passages, more cores, or a smaller model",
                        GATEWAY_LIMIT.as_secs()
                    ),
                )
            } else {
                Fine(what)
            }
        }
        Err(error) => Wrong(format!("{request}: {error}"), error.advice().into()),
    }
}

/// Measured on as few of its passages as tell.
fn full_request_time(
    model: &Model,
    pool: &ThreadPool,
    batch_tokens: usize,
) -> Result<Duration, ModelError> {
    const ENOUGH: Duration = Duration::from_millis(300);
    let (passages, tokens) = FULL_REQUEST;
    let tokens = tokens.min(model.config().max_length());
    // Speed does not depend on which ids there are.
    let ids = vec![model.config().vocab_size.saturating_sub(1) as u32; tokens];
    let mut measured = 1;
    loop {
        let mut packed = Packed::new();
        for _ in 0..measured {
            packed.push(&ids, &vec![0; tokens]);
        }
        let start = Instant::now();
        pool.install(|| model.forward(&packed))?;
        let took = start.elapsed();
        if took >= ENOUGH || 2 * measured > passages.min(batch_tokens / tokens.max(1)) {
            return Ok(took.mul_f64(passages as f64 / measured as f64));
        }
        measured *= 2;
    }
}

fn threads(config: &Config) -> Finding {
    let using = setup::threads(config);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let what = format!("threads: {using} on {cores} available cores");
    if using > cores {
        Better(
            what,
            format!("more threads than cores only get in each other's way: set THREADS={cores}"),
        )
    } else {
        Fine(what)
    }
}

fn model(config: &Config) -> Vec<Finding> {
    let plan = match setup::model(config) {
        Ok(plan) => plan,
        Err(error) if error.is::<Usage>() => {
            return vec![Wrong(
                format!("{error:#}"),
                "change the setting named above, or give this machine what it needs".into(),
            )];
        }
        Err(error) => {
            let advice = if matches!(setup::s3_model(config), Ok(None)) {
                error
                    .downcast_ref()
                    .map_or("see the message", ModelError::advice)
            } else {
                "AWS_REGION, AWS_ENDPOINT_URL_S3, the credentials of AWS's SDKs, S3_PATH_STYLE and S3_ANONYMOUS say how S3 is asked, MODEL_CACHE where to"
            };
            return vec![Wrong(format!("model: {error:#}"), advice.into())];
        }
    };
    let batch_tokens = plan.settings.batch_tokens;
    let mut findings = vec![
        gpu(&plan),
        Fine(format!("model folder: {}", plan.path.display())),
    ];
    findings.extend(plan.settings.download.map(|download| {
        Fine(format!(
            "from S3: {}, of which {} came now, in {:.1} s ({:.0} MB/s), and {:.1} s for checking them",
            size(download.bytes),
            size(download.downloaded),
            download.time.as_secs_f64(),
            download.mb_per_s(),
            download.check.as_secs_f64()
        ))
    }));
    if let Err(error) = memory::check(&plan) {
        findings.push(Wrong(
            format!("memory: {error}"),
            "see docs/reliability.md".into(),
        ));
        return findings;
    }
    let on_gpu = plan.settings.gpu.is_some();
    let path = plan.path.clone();
    // Starts compare a packed file with its sources quickly; here there is time to be sure.
    let whole = check_sources(&plan.path, Sureness::Whole);
    let settings = Settings {
        warm_up: true,
        ..plan.settings
    };
    let loaded = whole.and_then(|()| Engine::open(&plan.path, settings));
    let engine = match loaded {
        Ok(engine) => engine,
        Err(error) => {
            let advice = match &error {
                ModelError::Compute(_) | ModelError::Lost(_) if on_gpu => {
                    "the GPU cannot compute it so; DEVICE=cpu computes it on the CPU"
                }
                error => error.advice(),
            };
            findings.push(Wrong(format!("model: {error}"), advice.into()));
            return findings;
        }
    };
    let info = engine.info();
    let described = format!(
        "model: {} ({}, {} layers of {}, {} files of {})",
        info.name,
        info.model_type,
        info.layers,
        info.hidden_size,
        info.stored_dtype,
        size(info.weight_bytes)
    );
    findings.push(match &info.note {
        Some(note) => Better(
            described,
            format!("{note}; set MODEL_DIR or MODEL_NAME to serve another"),
        ),
        None => Fine(described),
    });
    let notes = library::notes(&path).into_iter();
    findings.extend(notes.map(|note| {
        let advice = "nothing is wrong: this note is here because equal numbers may be expected";
        Better(note, advice.into())
    }));
    findings.extend(setup::unused(engine.model().unused()).map(|unused| {
        Better(
            unused,
            "where a layer is among them, config.json is another model's".into(),
        )
    }));
    if config.max_length > info.model_max_length {
        findings.push(Better(
            format!(
                "MAX_LENGTH={} exceeds the model's {} tokens",
                config.max_length, info.model_max_length
            ),
            format!("{} is used", info.max_length),
        ));
    } else {
        findings.push(Fine(format!(
            "max length: {} of the model's {} tokens",
            info.max_length, info.model_max_length
        )));
    }
    findings.push(Fine(format!(
        "precision: {}{}{}; tokenizer {:.0} ms, weights {:.0} ms, first forward pass {:.0} ms",
        info.precision,
        match (config.use_fp16, &info.gpu) {
            (Some(_), None) => " (USE_FP16 changes nothing on a CPU)",
            _ => "",
        },
        by_kernels(engine.model()),
        info.load.tokenizer.time.as_secs_f64() * 1e3,
        info.load.weights.time.as_secs_f64() * 1e3,
        info.load.warm_up.as_secs_f64() * 1e3,
    )));
    if let Some(gpu) = &info.gpu {
        findings.push(gpu_memory(engine.model(), gpu, batch_tokens));
        return findings;
    }
    match setup::pool(config) {
        Ok(pool) => findings.push(full_request(engine.model(), &pool, batch_tokens)),
        Err(error) => findings.push(Wrong(format!("threads: {error:#}"), "lower THREADS".into())),
    }
    let needs = memory::needed(
        engine.model(),
        batch_tokens,
        info.weight_bytes,
        &info.stored_dtype,
    );
    if let Some(limit) = memory::available() {
        let what = format!("memory: about {} needed of {}", size(needs), size(limit));
        findings.push(if needs > limit {
            Wrong(what, "give it more memory, or lower BATCH_TOKENS".into())
        } else {
            Fine(what)
        });
    }
    findings
}

fn gpu(plan: &setup::ModelPlan) -> Finding {
    let not_used = |reason: &str| format!("GPU: not used: {reason}");
    match (&plan.settings.gpu, &plan.no_gpu) {
        (Some(gpu), _) => {
            let what = format!(
                "GPU: {}, {}, {}; its driver is made for CUDA {}, this program was built with {}",
                gpu.name,
                gpu.chip,
                size(gpu.memory_bytes),
                gpu.driver,
                gpu.built_with
            );
            if gpu.driver < gpu.built_with {
                let advice = "kernels that the driver has to compile may be refused: install a newer driver, or build with a toolkit of its version";
                Better(what, advice.into())
            } else {
                Fine(what)
            }
        }
        (None, Some(reason)) if cfg!(feature = "cuda") => Better(
            not_used(reason),
            "the CPU computes; DEVICE=cuda would refuse to, DEVICE=cpu would say nothing".into(),
        ),
        (None, reason) => Fine(not_used(reason.as_deref().unwrap_or("DEVICE=cpu"))),
    }
}

/// Whose kernels compute on a GPU, and why not ours.
fn by_kernels(model: &Model) -> String {
    let lacks = |gpu: &Gpu| gpu.lacks_kernels(model.config());
    match model.gpu().map(lacks) {
        None => String::new(),
        Some(None) => ", by our own kernels".into(),
        Some(Some(reason)) => format!(", by candle's kernels ({reason})"),
    }
}

/// A rough upper bound: the weights in what is computed in, the activations of one full batch, and
/// a tile of attention.
fn gpu_memory(model: &Model, gpu: &Gpu, batch_tokens: usize) -> Finding {
    let width = |dtype: &str| if dtype == "f32" { 4 } else { 2 };
    let weights = model.weight_bytes() / width(model.stored_dtype()) * width(gpu.precision.name());
    // CUDA itself takes about half a GiB, and loading leaves as much behind.
    let activations = 60 * model.config().hidden_size * batch_tokens + (3 << 29);
    let needs = weights + activations as u64;
    let of = size(gpu.memory_bytes);
    let what = format!("GPU memory: about {} needed of {of}", size(needs));
    if needs > gpu.memory_bytes {
        Wrong(what, "lower BATCH_TOKENS".into())
    } else {
        Fine(what)
    }
}
