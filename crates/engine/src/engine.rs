//! A loaded model and its tokenizer: pairs of texts in, scores out, on the calling thread and its
//! pool.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use kernels::Kernels;

use crate::error::{ModelError, Remedy};
use crate::model::{
    CONFIG_FILE, Gpu, Model, ModelConfig, Packed, PackedTokenizer, check_tokenizer, choose,
};
use crate::plan::plan;
use crate::precision::Precision;
use crate::prepare::{Defaults, Halt, Prepared};
use crate::receipt::{Download, Downloaded, LoadTimes, Prefetched, Receipt, Span};
use crate::tokenizer::{
    CONFIG_FILE as TOKENIZER_CONFIG_FILE, FolderTokenizer, ModelFacts, PairTokenizer, Sequence,
};
use crate::weights::{Fidelity, PACKED_FILE, read_file, require, require_weights};
use reranker_domain::{
    Code, Error, Field, Pair, Refusal, Request, Result, Score, Selection, Truncation,
};

/// Of a model folder.
pub const TOKENIZER_FILE: &str = "tokenizer.json";

/// A loaded model with its tokenizer: pairs of texts in, scores out.
pub struct Engine {
    tokenizer: PairTokenizer,
    model: Model,
    settings: Settings,
    info: Arc<Info>,
    /// When the process began.
    started: Instant,
    first_inference: OnceLock<Span>,
}

/// How a model is loaded and computed. The default serves a model as it is, on the CPU, with the
/// limits that the service has.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name of a model whose files have none; empty for the name of its folder.
    pub name: String,
    /// Whether `name` takes precedence over a name in the files.
    pub named: bool,
    /// Commit or version of a model whose files have none.
    pub revision: Option<String>,
    /// Maximum length of a sequence in tokens, and its default; the model's own limit may be lower.
    pub max_length: usize,
    /// Rule for longer pairs.
    pub truncation: Truncation,
    /// Tokens of one forward pass; bounds the memory of activations.
    pub batch_tokens: usize,
    /// Maximum number of tokens of one request; 0 for no limit.
    pub max_tokens: usize,
    /// Arithmetic of the encoder. Anything but [`Precision::Auto`] refuses a model whose files hold
    /// another form.
    pub precision: Precision,
    /// The instruction set.
    pub kernels: Kernels,
    /// Times and bytes of the model's download, if there was one; for the receipt.
    pub download: Option<Download>,
    /// GPU to compute on, instead of the CPU.
    pub gpu: Option<Gpu>,
    /// Whether loading runs the model once, so that the first request finds its pages in memory.
    pub warm_up: bool,
    /// Start of the process, for the receipt.
    pub started: Instant,
}

impl Settings {
    /// Default tokens of one forward pass on a CPU.
    pub const BATCH_TOKENS: usize = 4096;
    /// Default maximum length of a sequence in tokens.
    pub const MAX_LENGTH: usize = 512;
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            name: String::new(),
            named: false,
            revision: None,
            max_length: Self::MAX_LENGTH,
            truncation: Truncation::default(),
            batch_tokens: Self::BATCH_TOKENS,
            max_tokens: 0,
            precision: Precision::Auto,
            kernels: Kernels::detect(),
            download: None,
            gpu: None,
            warm_up: false,
            started: Instant::now(),
        }
    }
}

/// A document's place in a ranking.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RankedDocument {
    /// Its index in the list that was ranked.
    pub index: usize,
    /// How relevant it is to the query, from 0 to 1: the sigmoid of the logit.
    pub score: f64,
    /// Raw output of the model.
    pub logit: f32,
    /// Tokens of query and document that the model did not see, because they did not fit.
    pub dropped_tokens: usize,
}

/// Description of a loaded model, for `/info`, `/health` and the start-up log.
#[derive(Debug, Clone)]
pub struct Info {
    /// The model's name.
    pub name: String,
    /// Its commit or version, if known.
    pub revision: Option<String>,
    /// Whether it is the bundled demo model.
    pub demo: bool,
    /// A note in its files to its operator.
    pub note: Option<String>,
    /// Its family, as `config.json` writes it.
    pub model_type: &'static str,
    /// Layers of the encoder.
    pub layers: usize,
    /// Width of a token's vector.
    pub hidden_size: usize,
    /// Rows of the word embeddings.
    pub vocab_size: usize,
    /// Number of values in the model's tensors.
    pub parameters: u64,
    /// Maximum length of a sequence in tokens, by model and settings.
    pub max_length: usize,
    /// Maximum length of a sequence in tokens, by the model alone.
    pub model_max_length: usize,
    /// Rule for pairs that are too long, unless a request has its own.
    pub truncation: Truncation,
    /// Arithmetic of the encoder, as [`Precision::name`] writes it.
    pub precision: &'static str,
    /// The dtype that holds most of the weights' bytes, in lower case.
    pub stored_dtype: String,
    /// Distance of a packed model's scores from its f32 source, as its packer measured.
    pub fidelity: Option<Fidelity>,
    /// Size of the weights' files in bytes.
    pub weight_bytes: u64,
    /// Instruction set of the kernels.
    pub instruction_set: &'static str,
    /// Faster instruction sets of the chip, each with the reason for not using it.
    pub faster_sets: Vec<(&'static str, &'static str)>,
    /// Whether a GPU computes with our own kernels.
    pub fused: bool,
    /// The GPU that computes; `None` for the CPU.
    pub gpu: Option<Gpu>,
    /// How long loading took.
    pub load: LoadTimes,
}

/// The configuration of a model folder, once it is clear that the folder holds a model.
pub fn folder_config(folder: &Path) -> Result<ModelConfig, ModelError> {
    require(folder, CONFIG_FILE)?;
    // What kind of model it is comes before what is missing of it.
    let config = ModelConfig::read(&folder.join(CONFIG_FILE))?;
    require_weights(folder)?;
    require(folder, TOKENIZER_FILE)?;
    Ok(config)
}

/// The tokenizer of a model folder, as transformers reads it for this model.
pub fn folder_tokenizer(
    folder: &Path,
    config: &ModelConfig,
) -> Result<FolderTokenizer, ModelError> {
    let json = read_file(&folder.join(TOKENIZER_FILE))?;
    let settings = folder.join(TOKENIZER_CONFIG_FILE);
    let settings = settings
        .exists()
        .then(|| read_file(&settings))
        .transpose()?;
    let facts = ModelFacts {
        model_type: config.family.model_type(),
        tokenizer_class: config.tokenizer_class.as_deref(),
        segments: config.type_vocab_size,
    };
    let path = folder.join(TOKENIZER_FILE);
    PairTokenizer::of_files(&json, settings.as_deref(), &path, facts)
}

/// The name of a model's folder.
fn name_of(path: &Path) -> String {
    let folder = match path.file_name() {
        Some(name) if name == PACKED_FILE => path.parent().unwrap_or(path),
        _ => path,
    };
    let whole = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let name = whole.file_name().unwrap_or(whole.as_os_str());
    name.to_string_lossy().into_owned()
}

/// Faster instruction sets of the chip than that of `kernels`, each with the reason for not using
/// it.
pub fn faster_sets(kernels: Kernels) -> Vec<(&'static str, &'static str)> {
    let sets = kernels.passed_over().into_iter();
    sets.map(|(isa, obstacle)| {
        let reason = obstacle.unwrap_or("INSTRUCTION_SET forces a slower one");
        (isa.name(), reason)
    })
    .collect()
}

/// A tokenizer and a model as they were read, not yet held to each other or to the settings.
struct Parts {
    tokenizer: PairTokenizer,
    /// The longest sequence in tokens that the tokenizer's files allow.
    tokenizer_limit: Option<usize>,
    model: Model,
    times: LoadTimes,
}

impl Parts {
    /// Reads both at the same time from a folder; a packed file holds its tokenizer, so that comes
    /// second.
    fn load(path: &Path, settings: &Settings) -> Result<Self, ModelError> {
        let started = settings.started;
        let download = settings.download.map(|it| Downloaded::new(it, started));
        let process = match &download {
            Some(download) => Span {
                start: Duration::ZERO,
                time: download.span.start,
            },
            None => Span::since(started, started),
        };
        let model = || Model::load(path, settings.kernels, settings.gpu.clone());
        let (tokenizer, model) = if path.is_dir() {
            let config = folder_config(path)?;
            let tokenizer = || {
                let read = folder_tokenizer(path, &config)?;
                Ok((read.tokenizer, read.max_length))
            };
            let (tokenizer, model) =
                rayon::join(|| timed(started, tokenizer), || timed(started, model));
            (tokenizer?, model?)
        } else {
            let model = timed(started, model)?;
            let tokenizer = timed(started, || packed_tokenizer(path, &model.0))?;
            (tokenizer, model)
        };
        let ((tokenizer, tokenizer_limit), tokenizer_time) = tokenizer;
        let (model, weights_time) = model;
        Ok(Self {
            tokenizer,
            tokenizer_limit,
            model,
            times: LoadTimes {
                process,
                download,
                tokenizer: tokenizer_time,
                weights: weights_time,
                ..LoadTimes::default()
            },
        })
    }

    /// The model's name. The demo model keeps its own: it must not pass for another.
    fn name(&self, path: &Path, settings: &Settings) -> Result<String, ModelError> {
        let about = &self.model.config().about;
        let own = about.name.clone();
        if let Some(own) = own.filter(|_| about.demo || !settings.named) {
            if settings.named && own != settings.name {
                return Err(ModelError::unfit(
                    path,
                    "model",
                    format!("the demo model {own}"),
                    format!("MODEL_NAME={}", settings.name),
                )
                .with(Remedy::Set));
            }
            return Ok(own);
        }
        let packed = self.model.manifest().and_then(|it| it.name.clone());
        Ok(match packed.filter(|_| !settings.named) {
            Some(name) => name,
            None if settings.name.is_empty() => name_of(path),
            None => settings.name.clone(),
        })
    }

    fn info(&self, path: &Path, settings: &Settings) -> Result<Info, ModelError> {
        let model = &self.model;
        let config = model.config();
        let manifest = model.manifest();
        let model_max_length = config
            .max_length()
            .min(self.tokenizer_limit.unwrap_or(usize::MAX));
        let packed_revision = || manifest.and_then(|it| it.revision.clone());
        Ok(Info {
            name: self.name(path, settings)?,
            revision: settings
                .revision
                .clone()
                .or_else(|| config.about.revision.clone())
                .or_else(packed_revision),
            demo: config.about.demo,
            note: config.about.note.clone(),
            model_type: config.family.model_type(),
            layers: config.layers,
            hidden_size: config.hidden_size,
            vocab_size: config.vocab_size,
            parameters: model.parameters(),
            max_length: settings.max_length.min(model_max_length),
            model_max_length,
            truncation: settings.truncation,
            precision: model.precision().name(),
            stored_dtype: model.stored_dtype().to_owned(),
            fidelity: manifest.and_then(|it| it.fidelity),
            weight_bytes: model.weight_bytes(),
            instruction_set: settings.kernels.isa().name(),
            faster_sets: faster_sets(settings.kernels),
            fused: model.fused(),
            gpu: model.gpu().cloned(),
            load: self.times,
        })
    }
}

fn timed<T>(
    started: Instant,
    work: impl FnOnce() -> Result<T, ModelError>,
) -> Result<(T, Span), ModelError> {
    let begun = Instant::now();
    let done = work()?;
    Ok((done, Span::since(begun, started)))
}

/// A packed model's tokenizer, and the longest sequence that its manifest allows.
fn packed_tokenizer(
    path: &Path,
    model: &Model,
) -> Result<(PairTokenizer, Option<usize>), ModelError> {
    let tokenizer = match model.tokenizer() {
        Some(PackedTokenizer::Compiled(bytes)) => PairTokenizer::from_compiled(bytes.clone(), path),
        Some(PackedTokenizer::Json(bytes)) => PairTokenizer::from_json(bytes, path),
        None => Err(ModelError::Compute(
            "a packed model without a tokenizer".into(),
        )),
    };
    let max_length = model.manifest().and_then(|manifest| manifest.max_length);
    Ok((tokenizer?, max_length))
}

/// Refuses a model whose files hold another form than the one that was asked for.
fn check_precision(path: &Path, asked: Precision, found: Precision) -> Result<(), ModelError> {
    if asked == Precision::Auto || asked == found {
        return Ok(());
    }
    let (found, expected) = match found {
        Precision::Int8 => ("a packed model, which holds int8 weights", "its folder"),
        _ => (
            "a model folder",
            "a packed model: make one with `reranker pack`",
        ),
    };
    let what = format!("model for PRECISION={}", asked.name());
    Err(ModelError::unfit(path, what, found, expected).with(Remedy::Set))
}

impl Engine {
    /// Opens a model folder or a packed file. If a folder has a packed form and `settings` allow
    /// it, that is opened.
    ///
    /// Weights are mapped, not read, and every tensor is looked up: a model that opens also
    /// computes. An error names the file, the value found and the value expected.
    pub fn open(path: impl AsRef<Path>, settings: Settings) -> Result<Self, ModelError> {
        let path = match settings.gpu {
            // A packed form is for CPUs.
            Some(_) => path.as_ref().to_owned(),
            None => choose(path.as_ref(), settings.precision)?,
        };
        Self::load(&path, settings)
    }

    fn load(path: &Path, settings: Settings) -> Result<Self, ModelError> {
        let parts = Parts::load(path, &settings)?;
        check_precision(path, settings.precision, parts.model.precision())?;
        check_tokenizer(
            parts.model.config(),
            parts.tokenizer.path(),
            parts.tokenizer.id_bound(),
            parts.tokenizer.segment_bound(),
        )?;
        let started = settings.started;
        let mut engine = Self {
            info: Arc::new(parts.info(path, &settings)?),
            tokenizer: parts.tokenizer,
            model: parts.model,
            settings,
            started,
            first_inference: OnceLock::new(),
        };
        let mut load = engine.info.load;
        if engine.settings.warm_up {
            let begun = Instant::now();
            engine.warm_up()?;
            load.warm_up = begun.elapsed();
        }
        load.total = started.elapsed();
        // Nobody else has it yet, so nothing is copied.
        Arc::make_mut(&mut engine.info).load = load;
        Ok(engine)
    }

    fn warm_up(&self) -> Result<(), ModelError> {
        let as_model_error = |error: Error| ModelError::Compute(error.to_string());
        let word = self.tokenizer.encode("warm").map_err(as_model_error)?;
        let sequence = self
            .tokenizer
            .join(&word, &word, self.info.max_length, self.settings.truncation)
            .map_err(as_model_error)?;
        self.forward(&[&sequence]).map(drop)
    }

    /// One forward pass, a logit for each sequence; the first one is noted for the receipt.
    pub fn forward(&self, sequences: &[&Sequence]) -> Result<Vec<f32>, ModelError> {
        let begun = Instant::now();
        let mut packed = Packed::new();
        for sequence in sequences {
            packed.push(&sequence.ids, &sequence.type_ids);
        }
        let logits = self.model.forward(&packed)?;
        self.first_inference
            .get_or_init(|| Span::since(begun, self.started));
        Ok(logits)
    }

    /// Times of the start, so far.
    pub fn receipt(&self) -> Receipt {
        Receipt {
            load: self.info.load,
            prefetch: Prefetched::new(self.model.prefetch().report(), self.started),
            first_inference: self.first_inference.get().copied(),
        }
    }

    /// Description of the model.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// The same, for an answer that may outlive the engine.
    pub fn shared_info(&self) -> Arc<Info> {
        Arc::clone(&self.info)
    }

    /// Maximum number of tokens of one request; 0 for no limit.
    pub fn max_tokens(&self) -> usize {
        self.settings.max_tokens
    }

    /// The model alone, which scores sequences of tokens.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The tokenizer alone.
    pub fn tokenizer(&self) -> &PairTokenizer {
        &self.tokenizer
    }

    /// Refuses a maximum length that is above the server's, or too short for any text: only the
    /// model knows both bounds.
    pub fn check(&self, request: &Request) -> Result<(), Refusal> {
        let Some(got) = request.max_length else {
            return Ok(());
        };
        let (low, high) = (self.tokenizer.min_length(), self.info.max_length);
        let refusal = |limit: usize| {
            let says = format!("is {got}, it must be from {low} to {high}");
            let refusal = Refusal::of(Code::InvalidMaxLength, Field::MaxLength, says);
            refusal.got(got).limit(limit)
        };
        if got < low {
            return Err(refusal(low));
        }
        if got > high {
            return Err(refusal(high));
        }
        Ok(())
    }

    /// The request as sequences of tokens. Stops with an error once `halt` says so.
    pub fn prepare(&self, request: &Request, halt: &Halt) -> Result<Prepared> {
        let defaults = Defaults {
            max_length: self.info.max_length,
            truncation: self.settings.truncation,
            max_tokens: self.settings.max_tokens,
        };
        Prepared::new(&self.tokenizer, defaults, request, halt)
    }

    /// Ranks documents by their relevance to a query, the best first; of equal ones the one that
    /// comes first in the list.
    ///
    /// Computes on the calling thread and its rayon pool. A pair that is longer than
    /// [`Settings::max_length`] is cut, and its [`RankedDocument::dropped_tokens`] say by how much.
    pub fn rank<D: AsRef<str>>(&self, query: &str, documents: &[D]) -> Result<Vec<RankedDocument>> {
        let query: Arc<str> = query.into();
        let pair = |document: &D| Pair {
            query: Arc::clone(&query),
            document: document.as_ref().into(),
        };
        let scores = self.score(&Request::new(documents.iter().map(pair).collect()))?;
        let all = Selection {
            top: None,
            min_score: None,
            normalize: true,
        };
        let ranked = all
            .best_first(&scores)
            .into_iter()
            .map(|ranked| RankedDocument {
                index: ranked.index,
                score: ranked.value,
                logit: ranked.score.logit,
                dropped_tokens: ranked.score.dropped_tokens,
            });
        Ok(ranked.collect())
    }

    /// Scores every pair on the calling thread and its pool.
    pub fn score(&self, request: &Request) -> Result<Vec<Score>> {
        let prepared = self.prepare(request, &Halt::default())?;
        let sequences: Vec<&Sequence> = prepared.sequences.iter().collect();
        let lengths: Vec<usize> = sequences.iter().map(|s| s.ids.len()).collect();
        let mut logits = Vec::with_capacity(sequences.len());
        for batch in plan(&lengths, self.settings.batch_tokens) {
            let scored = self
                .forward(&sequences[batch])
                .map_err(|error| Error::Internal(error.to_string()))?;
            logits.extend(scored);
        }
        prepared.scores(&logits)
    }
}
