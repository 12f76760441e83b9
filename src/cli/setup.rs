//! From the configuration to the parts that several commands need.

use std::path::{Path, PathBuf};

use anyhow::Context;
use kernels::{Isa, Kernels};

use super::Usage;
use super::output::{self, Tenths, note};
use crate::config::{Choice, Config};
use reranker_domain::Limits;
use reranker_engine::model::{Gpu, choose};
use reranker_engine::weights::is_packed_only;
use reranker_engine::{Device, Engine, ModelError, Precision, Settings};
use reranker_sources::{LocatedModel, S3Model, S3Settings, locate};

/// Everything that loading a model takes, decided before it starts.
pub struct ModelPlan {
    /// A model folder or a packed file.
    pub path: PathBuf,
    pub settings: Settings,
    /// Why the CPU computes, where a GPU was not ruled out.
    pub no_gpu: Option<String>,
}

/// Tokens of one pass on a GPU, where nobody says how many: more than on a CPU, because a GPU is
/// idle between passes and for small ones. Their activations take about 1 GB for a model of 24
/// layers of 1024.
const GPU_BATCH_TOKENS: usize = 16_384;

/// The configuration with another model: a path, an address in S3, or a hub id in the local Hugging
/// Face cache.
pub fn with_model(config: &Config, model: &str) -> Config {
    let path = Path::new(model);
    // No hub id looks like these, so a folder that is not there is told as one.
    let looks_like_one = path.is_absolute() || model.starts_with('.') || model.ends_with('/');
    let is_path = looks_like_one || path.exists() || S3Model::parse(model).is_some();
    Config {
        model_dir: is_path.then(|| model.into()),
        model_name: (!is_path).then(|| model.to_owned()),
        default_model: false,
        ..config.clone()
    }
}

pub fn kernels(config: &Config) -> anyhow::Result<Kernels> {
    let Some(isa) = config.instruction_set else {
        return Ok(Kernels::detect());
    };
    Kernels::with(isa).ok_or_else(|| {
        if let Some(obstacle) = isa.obstacle() {
            return Usage(format!("INSTRUCTION_SET={isa}: {obstacle}")).into();
        }
        let here: Vec<&str> = Isa::available().into_iter().map(Isa::name).collect();
        Usage(format!(
            "INSTRUCTION_SET={}: this machine has only {}",
            isa.name(),
            here.join(", ")
        ))
        .into()
    })
}

pub fn threads(config: &Config) -> usize {
    config
        .threads
        .or_else(|| std::thread::available_parallelism().ok().map(Into::into))
        .unwrap_or(1)
}

pub fn limits(config: &Config) -> Limits {
    Limits {
        pairs: config.max_pairs,
        text_chars: config.max_text_chars,
    }
}

/// The configured model's address, where it is in S3.
pub fn s3_model(config: &Config) -> Result<Option<S3Model>, ModelError> {
    let address = config.model_dir.as_deref().and_then(Path::to_str);
    Ok(address.and_then(S3Model::parse).transpose()?)
}

/// Brings a model from S3, and tells on the terminal how far that has come.
pub fn bring(config: &Config, model: &S3Model) -> Result<LocatedModel, ModelError> {
    let settings = S3Settings {
        cache: config.model_cache.clone(),
        path_style: match config.s3_path_style {
            Choice::Yes => true,
            Choice::No => false,
            Choice::Auto => config.platform.s3_endpoint,
        },
        anonymous: config.s3_anonymous,
        own_endpoint: config.platform.s3_endpoint,
        durable: config.platform.lambda_api.is_none(),
        packed: wants_packed(config),
    };
    let (bar, tenths) = (output::download_bar(), Tenths::of("downloading"));
    let fetched = model.fetch(&settings, &|progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.done);
        tenths.at(progress.done, progress.total);
    });
    bar.finish_and_clear();
    let fetched = fetched?;
    Ok(LocatedModel {
        folder: fetched.path,
        name: config
            .model_name
            .clone()
            .unwrap_or_else(|| model.name().to_owned()),
        revision: config.model_revision.clone(),
        download: Some(fetched.download),
    })
}

/// Whether a packed form would be computed, which a GPU cannot, and whoever asks for floats does
/// not want.
fn wants_packed(config: &Config) -> bool {
    config.device != Device::Cuda && matches!(config.precision, Precision::Auto | Precision::Int8)
}

/// Tokens of one pass, where the model is not here yet.
pub fn batch_tokens(config: &Config) -> usize {
    config
        .batch_tokens
        .unwrap_or(if config.device == Device::Cuda {
            GPU_BATCH_TOKENS
        } else {
            Settings::BATCH_TOKENS
        })
}

/// Finds the model, and brings it where it is in S3.
pub fn find_model(config: &Config) -> Result<LocatedModel, ModelError> {
    if let Some(model) = s3_model(config)? {
        return bring(config, &model);
    }
    if let Some(folder) = config.model_dir.as_deref().filter(|_| config.default_model)
        && !folder.exists()
    {
        return Err(ModelError::NotFound(format!(
            "the default model folder, {}, is not in {}: set MODEL_DIR to a model's folder, or MODEL_NAME to a hub model's name",
            folder.display(),
            std::env::current_dir().unwrap_or_default().display(),
        )));
    }
    locate(
        config.model_name.as_deref(),
        config.model_dir.as_deref(),
        config.model_revision.as_deref(),
        config.platform.hub_cache.as_deref(),
    )
}

/// What a GPU would compute the configured model in, or why it cannot.
fn gpu_precision(config: &Config, model: &Path) -> Result<Precision, String> {
    if is_packed_only(model) {
        return Err(format!(
            "{} is a packed model, which computes on CPUs: a GPU needs the folder that it was packed from",
            model.display()
        ));
    }
    match config.precision {
        Precision::Int8 => Err("PRECISION=int8 is computed on CPUs".into()),
        Precision::Auto if config.use_fp16 == Some(false) => Ok(Precision::F32),
        Precision::Auto => Ok(Precision::F16),
        precision => Ok(precision),
    }
}

/// The GPU to compute on, or why it is the CPU. An error where that is not what was asked for.
fn gpu(config: &Config, model: &Path) -> Result<Result<Gpu, String>, Usage> {
    let found = match config.device {
        Device::Cpu => Err("DEVICE=cpu rules it out".to_owned()),
        Device::Auto | Device::Cuda => gpu_precision(config, model)
            .and_then(|precision| Gpu::find(precision, config.gpu_fused)),
    };
    let asked = match (config.device, config.precision) {
        (Device::Cuda, _) => "DEVICE=cuda".to_owned(),
        (_, precision @ (Precision::Bf16 | Precision::F16)) => {
            format!("PRECISION={} needs a GPU", precision.name())
        }
        _ => return Ok(found),
    };
    match found {
        Ok(gpu) => Ok(Ok(gpu)),
        Err(reason) => Err(Usage(format!("{asked}: {reason}"))),
    }
}

/// Whether what this configuration computes the folder in is a packed form of it.
pub fn computes_packed(config: &Config, folder: &Path) -> anyhow::Result<bool> {
    Ok(wants_packed(config) && gpu(config, folder)?.is_err())
}

/// Finds the model, and decides its device, precision and limits.
pub fn model(config: &Config) -> anyhow::Result<ModelPlan> {
    let found = find_model(config)?;
    let gpu = gpu(config, &found.folder)?;
    let (default_tokens, path) = match gpu {
        Ok(_) => (GPU_BATCH_TOKENS, found.folder),
        Err(_) => (
            Settings::BATCH_TOKENS,
            choose(&found.folder, config.precision)?,
        ),
    };
    let no_gpu = gpu.as_ref().err().filter(|_| config.device == Device::Auto);
    Ok(ModelPlan {
        path,
        no_gpu: no_gpu.cloned(),
        settings: Settings {
            name: found.name,
            named: config.model_name.is_some(),
            revision: found.revision,
            max_length: config.max_length,
            truncation: config.truncation,
            batch_tokens: config.batch_tokens.unwrap_or(default_tokens),
            max_tokens: config.max_tokens,
            precision: config.precision,
            kernels: kernels(config)?,
            download: found.download,
            gpu: gpu.ok(),
            ..Settings::default()
        },
    })
}

/// Loads the model for a command that computes on its own pool, and hands both over.
pub fn engine(config: &Config) -> anyhow::Result<(Engine, rayon::ThreadPool)> {
    let pool = pool(config)?;
    let engine = load(config, &pool)?;
    Ok((engine, pool))
}

pub fn pool(config: &Config) -> anyhow::Result<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads(config))
        .build()
        .context("cannot start the compute threads")
}

/// What to say of tensors that nothing reads; nothing where there are none.
pub fn unused(names: &[String]) -> Option<String> {
    const LISTED: usize = 3;
    if names.is_empty() {
        return None;
    }
    let listed = names.iter().take(LISTED).map(String::as_str);
    let listed = listed.collect::<Vec<_>>().join(", ");
    let more = match names.len().saturating_sub(LISTED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(format!(
        "the weights have tensors that config.json has no place for; they are not used: {listed}{more} (num_hidden_layers and model_type decide)"
    ))
}

/// Loads the configured model on `pool`, and says what is special about it.
pub fn load(config: &Config, pool: &rayon::ThreadPool) -> anyhow::Result<Engine> {
    let plan = model(config)?;
    let engine = pool
        .install(|| Engine::open(&plan.path, plan.settings))
        .context("cannot load the model")?;
    if let Some(note) = &engine.info().note {
        note!("note: {note}");
    }
    if let Some(unused) = unused(engine.model().unused()) {
        note!("note: {unused}");
    }
    Ok(engine)
}
