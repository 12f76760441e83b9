//! A loaded model and its tokenizer: pairs of texts in, scores out, on the calling thread and its pool.

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
use crate::weights::{Fidelity, Manifest, PACKED_FILE, read_file, require, require_weights};
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

/// How a model is loaded and computed. The default serves a model as it is, on the CPU, with the limits that the service has.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What the model is called where its files do not say; empty for the name of its folder.
    pub name: String,
    /// Whether `name` was chosen, so that it goes before what the files say.
    pub named: bool,
    /// The commit or version, where the files do not say.
    pub revision: Option<String>,
    /// Longest sequence in tokens that a request may ask for, and the default; the model's own limit goes before it.
    pub max_length: usize,
    /// How longer pairs are cut.
    pub truncation: Truncation,
    /// Tokens of one forward pass; bounds the memory of activations.
    pub batch_tokens: usize,
    /// Most tokens of one request; 0 where there is no limit.
    pub max_tokens: usize,
    /// What is computed in. Anything but [`Precision::Auto`] refuses a model whose files hold another form.
    pub precision: Precision,
    /// The instruction set.
    pub kernels: Kernels,
    /// What it took to bring the model here, where it was not here.
    pub download: Option<Download>,
    /// To compute on instead of the CPU.
    pub gpu: Option<Gpu>,
    /// Whether the model is run once while it is loaded, so that the first request finds its pages read.
    pub warm_up: bool,
    /// When the process began, for the receipt.
    pub started: Instant,
}

impl Settings {
    /// Tokens of one forward pass on a CPU, where nobody says how many.
    pub const BATCH_TOKENS: usize = 4096;
    /// The longest sequence in tokens, where nobody says how long.
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

/// What is served, for `/info`, `/health` and the start-up log.
#[derive(Debug, Clone)]
pub struct Info {
    /// What it is called.
    pub name: String,
    /// Its commit or version, where anything says it.
    pub revision: Option<String>,
    /// Whether it is the bundled demo model.
    pub demo: bool,
    /// What its files say to whoever serves it.
    pub note: Option<String>,
    /// Its family, as `config.json` writes it.
    pub model_type: &'static str,
    /// Layers of the encoder.
    pub layers: usize,
    /// Width of a token's vector.
    pub hidden_size: usize,
    /// Rows of the table of words.
    pub vocab_size: usize,
    /// Numbers in the model's tensors.
    pub parameters: u64,
    /// Longest sequence in tokens that is scored.
    pub max_length: usize,
    /// Longest sequence in tokens that the model could score.
    pub model_max_length: usize,
    /// How pairs are cut that a request has no rule for.
    pub truncation: Truncation,
    /// What is computed in.
    pub precision: &'static str,
    /// The dtype that holds most of the weights' bytes, in lower case.
    pub stored_dtype: String,
    /// How near a packed model is to its f32 source, as its packer measured.
    pub fidelity: Option<Fidelity>,
    /// Size of the weights' files.
    pub weight_bytes: u64,
    /// What the kernels use.
    pub instruction_set: &'static str,
    /// Faster instruction sets that the chip has, each with the reason why it is not used.
    pub faster_sets: Vec<(&'static str, &'static str)>,
    /// Whether a GPU computes by our own kernels.
    pub fused: bool,
    /// What it is computed on; nothing where that is the CPU.
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

/// What a model is called by where it lies.
fn name_of(path: &Path) -> String {
    let folder = match path.file_name() {
        Some(name) if name == PACKED_FILE => path.parent().unwrap_or(path),
        _ => path,
    };
    let whole = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let name = whole.file_name().unwrap_or(whole.as_os_str());
    name.to_string_lossy().into_owned()
}

/// Faster instruction sets that the chip has, each with the reason why it is not used.
pub fn faster_sets(kernels: Kernels) -> Vec<(&'static str, &'static str)> {
    let sets = kernels.passed_over().into_iter();
    sets.map(|(isa, obstacle)| {
        let reason = obstacle.unwrap_or("INSTRUCTION_SET forces a slower one");
        (isa.name(), reason)
    })
    .collect()
}

impl Engine {
    /// Opens a model folder or a packed file. Of a folder it takes the packed form, where there is one and `settings` allow it.
    ///
    /// Weights are mapped, not read, and every tensor is looked up: a model that opens also computes. Fails where the files are not those
    /// of a model that is served, and says which, what was found and what was expected.
    pub fn open(path: impl AsRef<Path>, settings: Settings) -> Result<Self, ModelError> {
        let path = match settings.gpu {
            // A packed form is for CPUs.
            Some(_) => path.as_ref().to_owned(),
            None => choose(path.as_ref(), settings.precision)?,
        };
        Self::load(&path, settings)
    }

    fn load(path: &Path, settings: Settings) -> Result<Self, ModelError> {
        let started = settings.started;
        let download = settings.download.map(|it| Downloaded::new(it, started));
        let process = match &download {
            Some(download) => Span {
                start: Duration::ZERO,
                time: download.span.start,
            },
            None => Span::since(started, started),
        };
        let timed_model = || {
            let begun = Instant::now();
            let gpu = settings.gpu.clone();
            Model::load(path, settings.kernels, gpu).map(|m| (m, Span::since(begun, started)))
        };
        // The tokenizer, and the longest sequence that its files allow.
        let packed_tokenizer = |model: &Model| {
            let max_length = model.manifest().and_then(|manifest| manifest.max_length);
            let tokenizer = match model.tokenizer() {
                Some(PackedTokenizer::Compiled(bytes)) => {
                    PairTokenizer::from_compiled(bytes.clone(), path)
                }
                Some(PackedTokenizer::Json(bytes)) => PairTokenizer::from_json(bytes, path),
                None => Err(ModelError::Compute(
                    "a packed model without a tokenizer".into(),
                )),
            };
            Ok::<_, ModelError>((tokenizer?, max_length))
        };
        let (tokenizer, tokenizer_time, (model, weights_time)) = if path.is_dir() {
            let config = folder_config(path)?;
            let (tokenizer, model) = rayon::join(
                || {
                    let begun = Instant::now();
                    let read = folder_tokenizer(path, &config)?;
                    let span = Span::since(begun, started);
                    Ok::<_, ModelError>(((read.tokenizer, read.max_length), span))
                },
                timed_model,
            );
            let (tokenizer, span) = tokenizer?;
            (tokenizer, span, model?)
        } else {
            let model = timed_model()?;
            let begun = Instant::now();
            let tokenizer = packed_tokenizer(&model.0)?;
            (tokenizer, Span::since(begun, started), model)
        };
        let (tokenizer, tokenizer_limit) = tokenizer;
        let precision = model.precision();
        if !matches!(settings.precision, Precision::Auto) && settings.precision != precision {
            let (found, expected) = match precision {
                Precision::Int8 => ("a packed model, which holds int8 weights", "its folder"),
                _ => (
                    "a model folder",
                    "a packed model: make one with `reranker pack`",
                ),
            };
            return Err(ModelError::unfit(
                path,
                format!("model for PRECISION={}", settings.precision.name()),
                found,
                expected,
            )
            .with(Remedy::Set));
        }
        let config = model.config();
        check_tokenizer(
            config,
            tokenizer.path(),
            tokenizer.id_bound(),
            tokenizer.segment_bound(),
        )?;
        let model_max_length = config
            .max_length()
            .min(tokenizer_limit.unwrap_or(usize::MAX));
        let about = &config.about;
        let own_name = about.name.clone().filter(|_| about.demo || !settings.named);
        if let Some(own) = &own_name
            && settings.named
            && *own != settings.name
        {
            return Err(ModelError::unfit(
                path,
                "model",
                format!("the demo model {own}"),
                format!("MODEL_NAME={}", settings.name),
            )
            .with(Remedy::Set));
        }
        let packed = |part: fn(&Manifest) -> &Option<String>| {
            model.manifest().and_then(|manifest| part(manifest).clone())
        };
        let info = Info {
            name: own_name
                .or_else(|| packed(|manifest| &manifest.name).filter(|_| !settings.named))
                .unwrap_or_else(|| match settings.name.as_str() {
                    "" => name_of(path),
                    name => name.to_owned(),
                }),
            revision: settings
                .revision
                .clone()
                .or(about.revision.clone())
                .or_else(|| packed(|manifest| &manifest.revision)),
            demo: about.demo,
            note: about.note.clone(),
            model_type: config.family.model_type(),
            layers: config.layers,
            hidden_size: config.hidden_size,
            vocab_size: config.vocab_size,
            parameters: model.parameters(),
            max_length: settings.max_length.min(model_max_length),
            model_max_length,
            truncation: settings.truncation,
            precision: precision.name(),
            stored_dtype: model.stored_dtype().to_owned(),
            fidelity: model.manifest().and_then(|manifest| manifest.fidelity),
            weight_bytes: model.weight_bytes(),
            instruction_set: settings.kernels.isa().name(),
            faster_sets: faster_sets(settings.kernels),
            fused: model.fused(),
            gpu: model.gpu().cloned(),
            load: LoadTimes {
                process,
                download,
                tokenizer: tokenizer_time,
                weights: weights_time,
                ..LoadTimes::default()
            },
        };
        let mut engine = Self {
            tokenizer,
            model,
            settings,
            info: Arc::new(info),
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

    /// What the start took, as far as it has come.
    pub fn receipt(&self) -> Receipt {
        Receipt {
            load: self.info.load,
            prefetch: Prefetched::new(self.model.prefetch().report(), self.started),
            first_inference: self.first_inference.get().copied(),
        }
    }

    /// What is served.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// The same, for an answer that may outlive the engine.
    pub fn shared_info(&self) -> Arc<Info> {
        Arc::clone(&self.info)
    }

    /// Most tokens of one request; 0 where there is no limit.
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

    /// Refuses what only the model can judge: a maximum length beyond the server's or too short for any text.
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

    /// The request as sequences of tokens; given up where `halt` says so.
    pub fn prepare(&self, request: &Request, halt: &Halt) -> Result<Prepared> {
        let defaults = Defaults {
            max_length: self.info.max_length,
            truncation: self.settings.truncation,
            max_tokens: self.settings.max_tokens,
        };
        Prepared::new(&self.tokenizer, defaults, request, halt)
    }

    /// Ranks documents by their relevance to a query, the best first; of equal ones the one that comes first in the list.
    ///
    /// Computes on the calling thread and its rayon pool. A pair that is longer than [`Settings::max_length`] is cut, and its
    /// [`RankedDocument::dropped_tokens`] say by how much.
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
