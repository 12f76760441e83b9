//! `reranker doctor`: what this machine, this configuration and this model amount to, and what to do about what is wrong.

use std::process::ExitCode;
use std::time::Instant;

use kernels::Isa;

use super::setup;
use crate::config::Config;
use crate::model::Model;
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
    findings
        .extend(memory_limit().map(|bytes| Fine(format!("memory: {} may be used", size(bytes)))));
    findings.extend(model(config));
    let mut wrong = 0;
    for finding in &findings {
        match finding {
            Fine(what) => println!("ok    {what}"),
            Better(what, advice) => println!("note  {what}\n      {advice}"),
            Wrong(what, advice) => {
                wrong += 1;
                println!("WRONG {what}\n      {advice}");
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
            if config.instruction_set.is_some() && here.last() != Some(&using) {
                Better(what, "INSTRUCTION_SET forces a slower one: unset it".into())
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
        Err(error) => {
            let advice = if matches!(setup::s3_model(config), Ok(None)) {
                "set MODEL_DIR to a folder with config.json, tokenizer.json and model.safetensors"
            } else {
                "AWS_REGION, AWS_ENDPOINT_URL_S3, the credentials of AWS's SDKs, S3_PATH_STYLE and S3_ANONYMOUS say how S3 is asked, MODEL_CACHE where to"
            };
            return vec![Wrong(format!("model: {error:#}"), advice.into())];
        }
    };
    let mut findings = vec![Fine(format!("model folder: {}", plan.path.display()))];
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
    let engine = match Engine::load(&plan.path, plan.settings, true, Instant::now()) {
        Ok(engine) => engine,
        Err(error) => {
            findings.push(Wrong(
                format!("model: {error}"),
                "the file named above must be replaced by the original; re-download it if it was cut".into(),
            ));
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
        "precision: {}{}; tokenizer {:.0} ms, weights {:.0} ms, first forward pass {:.0} ms",
        info.precision,
        if config.use_fp16 {
            " (USE_FP16 changes nothing here: PRECISION chooses)"
        } else {
            ""
        },
        info.load.tokenizer.time.as_secs_f64() * 1e3,
        info.load.weights.time.as_secs_f64() * 1e3,
        info.load.warm_up.as_secs_f64() * 1e3,
    )));
    let needs = needed_memory(
        engine.model(),
        config.batch_tokens,
        info.weight_bytes,
        &info.stored_dtype,
    );
    if let Some(limit) = memory_limit() {
        let what = format!("memory: about {} needed of {}", size(needs), size(limit));
        findings.push(if needs > limit {
            Wrong(what, "give it more memory, or lower BATCH_TOKENS".into())
        } else {
            Fine(what)
        });
    }
    findings
}

/// A rough upper bound: the weights (as f32 where a folder holds another dtype), the activations of one full batch, and the
/// tokenizer.
fn needed_memory(model: &Model, batch_tokens: usize, stored: u64, dtype: &str) -> u64 {
    let packed = model.manifest().is_some();
    let model = model.config();
    let activations = 4 * (6 * model.hidden_size + model.intermediate_size) * batch_tokens;
    if packed {
        // Used as it lies in the file, tokenizer included.
        return stored + activations as u64;
    }
    let widened = match dtype {
        "f16" | "bf16" => stored * 2,
        "i8" => stored * 4,
        _ => stored,
    };
    // The true XLM-RoBERTa tokenizer takes about 290 MB for 250,000 pieces.
    let tokenizer = model.vocab_size as u64 * 1_200;
    widened + activations as u64 + tokenizer
}

/// What this process may use: the cgroup's limit or the machine's memory, whichever is lower.
fn memory_limit() -> Option<u64> {
    let cgroup = [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ]
    .iter()
    .find_map(|path| {
        std::fs::read_to_string(path)
            .ok()?
            .trim()
            .parse::<u64>()
            .ok()
    });
    let machine = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
            Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
        });
    [cgroup, machine].into_iter().flatten().min()
}

fn size(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib < 1024.0 {
        format!("{mib:.0} MiB")
    } else {
        format!("{:.1} GiB", mib / 1024.0)
    }
}
