//! `reranker doctor`: what this machine, this configuration and this model amount to, and what to do about what is wrong.

use std::process::ExitCode;
use std::time::Instant;

use kernels::Isa;

use super::memory::{self, size};
use super::output::say;
use super::{Usage, library, setup};
use crate::config::Config;
use crate::error::ModelError;
use crate::model::{Gpu, Model, Sureness, check_sources};
use crate::service::Engine;

/// One line of the report.
enum Finding {
    Fine(String),
    /// Works, but not as well as it could; with what to do.
    Better(String, String),
    /// Does not work; with what to do.
    Wrong(String, String),
}

use Finding::{Better, Fine, Wrong};

pub fn run(config: &Config) -> anyhow::Result<ExitCode> {
    let mut findings = vec![cpu(config), threads(config)];
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

fn cpu(config: &Config) -> Finding {
    let here: Vec<&str> = Isa::available().into_iter().map(Isa::name).collect();
    match setup::kernels(config) {
        Ok(kernels) => {
            let using = kernels.isa().name();
            let what = format!(
                "instruction set: {using} (this machine has {})",
                here.join(", ")
            );
            let closed = Isa::ALL
                .into_iter()
                .filter_map(|isa| Some((isa, isa.obstacle()?)))
                .next_back();
            if config.instruction_set.is_some() && here.last() != Some(&using) {
                Better(what, "INSTRUCTION_SET forces a slower one: unset it".into())
            } else if let Some((isa, obstacle)) = closed {
                Better(
                    what,
                    format!("the chip has {isa} too, which is faster, but {obstacle}"),
                )
            } else if using == Isa::Scalar.name() {
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
                "change the setting that is named, or what it asks of this machine".into(),
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
    let loaded = whole.and_then(|()| Engine::load(&plan.path, plan.settings, true, Instant::now()));
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
        let advice = "nothing is wrong: it is said because equal numbers may be expected";
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
        match &info.gpu {
            Some(_) if info.fused => ", by our own kernels",
            Some(_) => ", by candle's kernels",
            None => "",
        },
        info.load.tokenizer.time.as_secs_f64() * 1e3,
        info.load.weights.time.as_secs_f64() * 1e3,
        info.load.warm_up.as_secs_f64() * 1e3,
    )));
    if let Some(gpu) = &info.gpu {
        findings.push(gpu_memory(engine.model(), gpu, batch_tokens));
        return findings;
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

/// A rough upper bound: the weights in what is computed in, the activations of one full batch, and a tile of attention.
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
