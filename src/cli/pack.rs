//! `reranker pack`: a Hugging Face folder becomes one int8 file, measured against its source before
//! it is let out.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, bail};
use kernels::{INT8_LAYOUT, Kernels, Levels};
use serde::Deserialize;

use super::eval::metrics::{Differences, kendall_tau_b, mean};
use super::output::{self, Tenths, note, say};
use super::setup::unused;
use super::{ModelArg, Usage, setup};
use crate::config::Config;
use reranker_domain::{Truncation, sigmoid};
use reranker_engine::model::{
    CONFIG_FILE, Choice, LADDER, MatrixReport, Model, Modules, Packed, PackedTokenizer, Plan,
    Rounding, Setting, TRIAL, check_tokenizer, packed_tensors, quantize,
};
use reranker_engine::tokenizer::{Compilation, FolderTokenizer, PairTokenizer, compile};
use reranker_engine::weights::{
    Dtype, FORMAT, Fidelity, Manifest, PACKED_FILE, PackedWriter, Prefetch, Weights,
    deciding_files, fingerprint, is_packed, read_file, sha256_of,
};
use reranker_engine::{ModelError, Precision, folder_config, folder_tokenizer};
use reranker_sources::{LocatedModel, room_for};

#[derive(clap::Args, Default)]
pub struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// The packed file to write; packed.safetensors in the model's folder where it is not given,
    /// which then serves int8.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Matrices whose inputs are quantized to 16 bits, which costs twice the time of 8: as many as
    /// it takes to keep the scores near f32's, none, or all. First tokens are quantized to 16 bits
    /// in any case.
    // `--fine` was its name before.
    #[arg(long, alias = "fine", value_enum, value_name = "WHICH", default_value_t = HighPrecision::Auto)]
    high_precision: HighPrecision,
    /// Bits of weights, and of inputs on AVX2 and on AVX-512 without VNNI, where matrix products
    /// with fewer are up to 1.7 times as fast: as few as each matrix can lose while the scores stay
    /// near f32's, or 8, 7 or 6 for all. Other instruction sets give inputs 8 bits in any case.
    #[arg(long, value_enum, default_value_t = Bits::Auto)]
    bits: Bits,
    /// Print each matrix's quantization error, and what was decided for it.
    #[arg(long)]
    verbose: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum HighPrecision {
    #[default]
    Auto,
    None,
    All,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Bits {
    #[default]
    Auto,
    #[value(name = "8")]
    Eight,
    #[value(name = "7")]
    Seven,
    #[value(name = "6")]
    Six,
}

/// The pairs on which a packed model is calibrated and compared: several languages, short and long.
const TEXTS: &str = include_str!("pack/texts.jsonl");
/// A packed model whose scores differ more than this from its source's, on average or anywhere, is
/// not written.
const MEAN_SCORE_BOUND: f64 = 0.01;
pub(super) const MAX_SCORE_BOUND: f64 = 0.03;

/// Matrices get high precision until the logits' differences from the source's are expected to be
/// no more than this, as a root mean square, and fewer bits as long as they are: scores then move
/// by a quarter of it at most, and few passages change places. On rankings, 0.03 left scores up to
/// 0.039 away (bench/records/2026-11-26-noise.txt).
const NOISE: f64 = 0.015;

/// The time of a product with AVX2 at each of [`LADDER`], of that at the first: by the instructions
/// of its loop.
const NARROW_TIME: [f64; LADDER.len()] = [1.0, 0.79, 0.66, 0.59];

/// Operations of all forward passes together that find out what each matrix's inputs do to the
/// logits; of more texts some are left out.
const TRIAL_OPERATIONS: f64 = 3e13;

#[derive(Deserialize)]
struct Text {
    query: String,
    passage: String,
}

pub fn run(args: &Args, config: &Config) -> anyhow::Result<ExitCode> {
    let config = args.model.config(config);
    // Of a folder in S3 what was packed before is not wanted.
    let config = &Config {
        precision: Precision::F32,
        ..config
    };
    let remote = setup::s3_model(config)?.is_some();
    if remote && args.out.is_none() {
        return Err(Usage("--out: which file? The model's folder is in S3".into()).into());
    }
    let found = setup::find_model(config)?;
    if !found.folder.is_dir() {
        return Err(Usage(format!("{}: not a model folder", found.folder.display())).into());
    }
    for line in make(args, config, found, args.out.clone())? {
        say!("{line}")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Packs a folder, into the file of its own where no other is named; returns what there is to say
/// of the result.
pub(super) fn make(
    args: &Args,
    config: &Config,
    found: LocatedModel,
    out: Option<PathBuf>,
) -> anyhow::Result<Vec<String>> {
    let started = Instant::now();
    let folder = found.folder;
    let out = out.unwrap_or_else(|| folder.join(PACKED_FILE));
    check_out(&out)?;
    let kernels = setup::kernels(config)?;
    let pool = setup::pool(config)?;

    let FolderTokenizer {
        tokenizer,
        json,
        max_length,
    } = folder_tokenizer(&folder, &folder_config(&folder)?)?;
    let weights = Weights::open(&folder)?;
    let model = Model::from_weights(&folder, &weights, kernels, None, Prefetch::none())?;
    check_tokenizer(
        model.config(),
        tokenizer.path(),
        tokenizer.id_bound(),
        tokenizer.segment_bound(),
    )?;
    if let Some(unused) = unused(model.unused()) {
        note!("note: {}: {unused}", folder.display());
    }
    let parent = out.parent().filter(|parent| *parent != Path::new(""));
    room_for(parent.unwrap_or(Path::new(".")), least_bytes(&weights))?;
    let texts = texts(&tokenizer, model.config().max_length())?;

    if !std::io::stderr().is_terminal() {
        // Where no bar tells that it goes on.
        note!(
            "packing {}: {} layers of {}; a full-size model takes minutes",
            folder.display(),
            model.config().layers,
            model.config().hidden_size
        );
    }
    let job = Job {
        args,
        weights: &weights,
        model: &model,
        texts: &texts,
        tokenizer: &json,
        kernels,
        out: &out,
        manifest: Manifest {
            format: FORMAT,
            layout: INT8_LAYOUT.into(),
            tool: concat!("reranker ", env!("CARGO_PKG_VERSION")).into(),
            name: model.config().about.name.clone().or(Some(found.name)),
            revision: found.revision,
            config: reranker_engine::model::json(&read_file(&folder.join(CONFIG_FILE))?)?,
            modules: match Modules::read(&folder)?.filter(|_| model.config().has_modules()) {
                Some(modules) => Some(serde_json::to_value(modules)?),
                None => None,
            },
            sources: sources(&folder, &weights)?,
            fingerprints: fingerprints(&folder, &weights)?,
            max_length,
            payload_sha256: String::new(),
            high_precision: BTreeSet::new(),
            levels: BTreeMap::new(),
            fidelity: None,
            narrow_fidelity: None,
        },
    };
    let done = pool.install(|| job.run())?;
    let bytes = std::fs::metadata(&out)?.len();
    let mut said = vec![format!(
        "{}: {:.1} MB in {:.1} s, {} of {} matrices with inputs of 16 bits; on {}",
        out.display(),
        bytes as f64 / 1e6,
        started.elapsed().as_secs_f64(),
        done.manifest.high_precision.len(),
        done.matrices,
        told(&done.fidelity),
    )];
    if let Some(narrow) = &done.manifest.narrow_fidelity {
        said.push(format!(
            "AVX2, and AVX-512 without VNNI: {} of {} matrices with fewer bits, whose products take {:.2} of the time; {}",
            done.manifest.levels.len(),
            done.matrices,
            done.narrow_time,
            told(narrow),
        ));
    }
    Ok(said)
}

/// What the packed file takes at least: a byte for each value.
fn least_bytes(weights: &Weights) -> u64 {
    match weights.stored_dtype().as_str() {
        "f32" => weights.bytes() / 4,
        "f16" | "bf16" => weights.bytes() / 2,
        _ => weights.bytes(),
    }
}

/// A fidelity in words.
fn told(fidelity: &Fidelity) -> String {
    format!(
        "{} pairs of {} tokens score differs from f32 by {:.5} on average, {:.5} at most; logit by {:.4}, {:.4}; Kendall's tau {}",
        fidelity.pairs,
        fidelity.tokens,
        fidelity.mean_score_difference,
        fidelity.max_score_difference,
        fidelity.mean_logit_difference,
        fidelity.max_logit_difference,
        fidelity
            .kendall_tau
            .map_or_else(|| "none".into(), |tau| format!("{tau:.4}")),
    )
}

/// What a model is packed from, and into.
struct Job<'a> {
    args: &'a Args,
    weights: &'a Weights,
    model: &'a Model,
    texts: &'a Packed,
    tokenizer: &'a [u8],
    kernels: Kernels,
    out: &'a Path,
    /// Before anything is decided.
    manifest: Manifest,
}

struct Done {
    manifest: Manifest,
    matrices: usize,
    fidelity: Fidelity,
    /// Of all products on instruction sets that gain by small levels, of the time without.
    narrow_time: f64,
}

/// What one matrix's inputs do to the logits if they are as coarse as [`TRIAL`], as a mean square;
/// by name.
type Shares = BTreeMap<String, f64>;

impl Job<'_> {
    fn run(&self) -> anyhow::Result<Done> {
        let layers = self.model.config().layers;
        // Each matrix may be named among those of high precision, and with its levels.
        let manifest_bytes = serde_json::to_string(&self.manifest)?.len() + layers * 4 * 256;
        let mut writer = PackedWriter::create(self.out, packed_tensors(layers), manifest_bytes)?;
        match self.pack(&mut writer) {
            Ok(done) => {
                writer.finish()?;
                Ok(done)
            }
            Err(error) => {
                writer.discard();
                Err(error)
            }
        }
    }

    fn pack(&self, writer: &mut PackedWriter) -> anyhow::Result<Done> {
        let (plan, shares) = match self.args.bits {
            Bits::Auto => self.trial(writer)?,
            bits => {
                let levels = match bits {
                    Bits::Auto | Bits::Eight => LADDER[0],
                    Bits::Seven => LADDER[2],
                    Bits::Six => LADDER[3],
                };
                let choices = BTreeMap::new();
                (Plan { levels, choices }, None)
            }
        };
        let (exact, reports) = self.write(writer, Rounding::Compensated(&plan))?;
        self.measure(writer, &exact, &reports, shares)
    }

    /// Packs for a trial: what to decide for each matrix, and the shares that this rests on.
    fn trial(&self, writer: &mut PackedWriter) -> anyhow::Result<(Plan, Option<Shares>)> {
        let (_, reports) = self.write(writer, Rounding::Nearest)?;
        let mut model = self.sealed(writer, &mut self.manifest.clone())?;
        let shares = shares(&mut model, self.texts)?;
        let tunables = model.tunables();
        let weights = tunables.iter().map(|tunable| tunable.weights).collect();
        let plan = self.plan(reports, weights, &shares);
        drop(model);
        writer.restart()?;
        Ok((plan, Some(shares)))
    }

    /// The model that was written, as it is served.
    fn sealed(&self, writer: &mut PackedWriter, manifest: &mut Manifest) -> anyhow::Result<Model> {
        let path = writer.seal(manifest)?;
        let weights = Weights::open(path)?;
        // It was just written: nothing has to be read ahead.
        let model = Model::from_weights(path, &weights, self.kernels, None, Prefetch::none())?;
        Ok(model)
    }

    /// The fewest bits within [`NOISE`], those first that save the most time for what they do to
    /// the logits.
    fn plan(&self, reports: Vec<MatrixReport>, weights: Vec<usize>, shares: &Shares) -> Plan {
        let noise_at = |report: &MatrixReport, step: usize| {
            let share = shares.get(&report.name).copied().unwrap_or_default();
            // A matrix whose coarsest inputs change nothing has no part in it.
            if report.trial > 0.0 {
                share * f64::from(report.ladder[step] / report.trial).powi(2)
            } else {
                0.0
            }
        };
        let mut steps = vec![0; reports.len()];
        let mut noise: f64 = reports.iter().map(|report| noise_at(report, 0)).sum();
        loop {
            let mut best: Option<(f64, f64, usize, usize)> = None;
            for (matrix, report) in reports.iter().enumerate() {
                let now = steps[matrix];
                for (next, time) in NARROW_TIME.iter().enumerate().skip(now + 1) {
                    let more = (noise_at(report, next) - noise_at(report, now)).max(0.0);
                    if noise + more > NOISE * NOISE {
                        break;
                    }
                    let saved = (NARROW_TIME[now] - time) * weights[matrix] as f64;
                    let gain = saved / more.max(f64::MIN_POSITIVE);
                    if best.is_none_or(|(best, ..)| gain > best) {
                        best = Some((gain, more, matrix, next));
                    }
                }
            }
            let Some((_, more, matrix, next)) = best else {
                break;
            };
            noise += more;
            steps[matrix] = next;
        }
        let choices = reports.into_iter().zip(steps).map(|(report, step)| {
            let MatrixReport { name, choice, .. } = report;
            let levels = LADDER[step];
            (name, Choice { levels, ..choice })
        });
        Plan {
            levels: LADDER[0],
            choices: choices.collect(),
        }
    }

    /// Writes all tensors; returns the f32 logits of the texts, and how the matrices fared.
    fn write(
        &self,
        writer: &mut PackedWriter,
        rounding: Rounding<'_>,
    ) -> anyhow::Result<(Vec<f32>, Vec<MatrixReport>)> {
        let trial = matches!(rounding, Rounding::Nearest);
        let what = if trial { "trying" } else { "packing" };
        let steps = self.model.config().layers as u64 + 1;
        let template = if trial {
            "trying {wide_bar} {pos}/{len} layers, {eta} left"
        } else {
            "packing {wide_bar} {pos}/{len} layers, {eta} left"
        };
        let (bar, tenths) = (output::bar(steps, template), Tenths::of(what));
        let mut reports = Vec::new();
        let mut report = |matrices: Vec<MatrixReport>| {
            bar.inc(1);
            tenths.at(bar.position(), steps);
            for matrix in matrices.iter().filter(|_| self.args.verbose) {
                bar.suspend(|| {
                    let Levels { weights, inputs } = matrix.choice.levels;
                    note!(
                        "{what} {}: levels {weights} and {inputs}, error {:.4}",
                        matrix.name,
                        matrix.error
                    );
                    if trial {
                        note!("    inputs as they are {:.4}", matrix.plain_error);
                    }
                });
            }
            reports.extend(matrices);
        };
        let (model, weights) = (self.model, self.weights);
        let exact = quantize(model, weights, self.texts, rounding, writer, &mut report)?;
        match compile(self.tokenizer)? {
            Compilation::Compiled(bytes) => {
                writer.tensor(
                    PackedTokenizer::COMPILED,
                    Dtype::U8,
                    &[bytes.len()],
                    [bytes],
                )?;
            }
            Compilation::Refused(reason) => {
                if !trial {
                    bar.suspend(|| {
                        note!("the tokenizer stays as JSON, which loads slowly: {reason}");
                    });
                }
                let len = self.tokenizer.len();
                writer.tensor(PackedTokenizer::JSON, Dtype::U8, &[len], [self.tokenizer])?;
            }
        }
        bar.finish_and_clear();
        Ok((exact, reports))
    }

    /// Seals the file, chooses the high-precision matrices, compares the result with the f32 logits
    /// and writes what it found into the manifest.
    fn measure(
        &self,
        writer: &mut PackedWriter,
        exact: &[f32],
        reports: &[MatrixReport],
        known: Option<Shares>,
    ) -> anyhow::Result<Done> {
        let mut manifest = self.manifest.clone();
        let mut model = self.sealed(writer, &mut manifest)?;
        let levels: Vec<Levels> = reports.iter().map(|report| report.choice.levels).collect();
        // All bits of the inputs at first, as most instruction sets have them.
        let mut settings: Vec<Setting> = levels
            .iter()
            .map(|levels| Setting {
                high_precision: self.args.high_precision == HighPrecision::All,
                levels: wide(*levels),
            })
            .collect();
        let mut got = logits_with(&mut model, &settings, self.texts)?;
        let mut shares = known;
        if self.args.high_precision == HighPrecision::Auto && rms_difference(exact, &got) > NOISE {
            let shares = match &mut shares {
                Some(shares) => shares,
                none => none.insert(self::shares(&mut model, self.texts)?),
            };
            settings = high_precision_matrices(exact, &mut model, settings, shares, self.texts)?;
            got = logits_with(&mut model, &settings, self.texts)?;
        }
        let fidelity = self.compared(exact, &got)?;
        let narrow = levels
            .iter()
            .zip(&settings)
            .map(|(levels, setting)| Setting {
                high_precision: setting.high_precision,
                levels: *levels,
            });
        let mut narrow: Vec<Setting> = narrow.collect();
        let gains = narrow != settings;
        if gains && self.args.bits == Bits::Auto {
            self.relax(exact, &mut model, &mut narrow, reports, shares.as_ref())?;
        }
        if narrow != settings {
            let got = logits_with(&mut model, &narrow, self.texts)?;
            manifest.narrow_fidelity = Some(self.compared(exact, &got)?);
        }
        let (mut time, mut whole) = (0.0, 0.0);
        for ((report, setting), tunable) in reports.iter().zip(&narrow).zip(model.tunables()) {
            let depth = setting.levels.depth();
            let step = [0, 1, 2, 4].iter().position(|d| *d == depth).unwrap_or(0);
            whole += tunable.weights as f64;
            time += tunable.weights as f64 * NARROW_TIME[step];
            if setting.levels != Levels::FULL {
                manifest
                    .levels
                    .insert(report.name.clone(), setting.levels.into());
            }
            if setting.high_precision {
                manifest.high_precision.insert(report.name.clone());
            }
            if self.args.verbose {
                let Levels { weights, inputs } = setting.levels;
                let inputs_too = if setting.high_precision {
                    ", inputs of 16 bits"
                } else {
                    ""
                };
                note!("{}: levels {weights} and {inputs}{inputs_too}", report.name);
            }
        }
        manifest.fidelity = Some(fidelity);
        writer.seal(&mut manifest)?;
        Ok(Done {
            matrices: reports.len(),
            manifest,
            fidelity,
            narrow_time: time / whole,
        })
    }

    /// Gives inputs more bits again while the logits are further than [`NOISE`] from `exact`, first
    /// where they do the most.
    fn relax(
        &self,
        exact: &[f32],
        model: &mut Model,
        settings: &mut [Setting],
        reports: &[MatrixReport],
        shares: Option<&Shares>,
    ) -> anyhow::Result<()> {
        let share = |at: usize, levels: Levels| {
            let share = shares.and_then(|shares| shares.get(&reports[at].name));
            share.copied().unwrap_or_default() / f64::from(levels.inputs).powi(2)
        };
        loop {
            let mut narrow: Vec<usize> = (0..settings.len())
                .filter(|at| settings[*at].levels.inputs < u8::MAX)
                .collect();
            let far = rms_difference(exact, &logits_with(model, settings, self.texts)?) > NOISE;
            if narrow.is_empty() || !far {
                return Ok(());
            }
            narrow.sort_by(|a, b| {
                let [a, b] = [a, b].map(|at| share(*at, settings[*at].levels));
                b.total_cmp(&a)
            });
            for at in &narrow[..narrow.len().div_ceil(4)] {
                let levels = &mut settings[*at].levels;
                levels.inputs = levels.more_inputs();
            }
        }
    }

    /// How near `got` is to the exact logits; refuses what is too far.
    fn compared(&self, exact: &[f32], got: &[f32]) -> anyhow::Result<Fidelity> {
        let both = || exact.iter().zip(got);
        let logits = Differences::of(both().map(|(a, b)| (f64::from(*a), f64::from(*b))));
        let scores = Differences::of(both().map(|(a, b)| (sigmoid(*a), sigmoid(*b))));
        let fidelity = Fidelity {
            pairs: exact.len(),
            tokens: self.texts.tokens(),
            mean_logit_difference: logits.mean,
            max_logit_difference: logits.max,
            mean_score_difference: scores.mean,
            max_score_difference: scores.max,
            kendall_tau: kendall_tau_b(exact, got),
        };
        if !(fidelity.mean_score_difference <= MEAN_SCORE_BOUND
            && fidelity.max_score_difference <= MAX_SCORE_BOUND)
        {
            bail!(
                "the packed model's scores differ from f32 by {:.5} on average and {:.5} at most, the bounds are {MEAN_SCORE_BOUND} and {MAX_SCORE_BOUND}: not written; --bits 8 and --high-precision all come nearest",
                fidelity.mean_score_difference,
                fidelity.max_score_difference
            );
        }
        Ok(fidelity)
    }
}

/// With all bits of the inputs.
fn wide(levels: Levels) -> Levels {
    Levels {
        inputs: u8::MAX,
        ..levels
    }
}

/// Gives the model's matrices these settings, in their order.
fn set(model: &mut Model, settings: &[Setting]) {
    for (tunable, setting) in model.tunables().into_iter().zip(settings) {
        *tunable.setting = *setting;
    }
}

fn logits_with(
    model: &mut Model,
    settings: &[Setting],
    texts: &Packed,
) -> anyhow::Result<Vec<f32>> {
    set(model, settings);
    Ok(model.forward(texts)?)
}

/// What each matrix does to the logits: the same texts again and again, each time with one matrix's
/// inputs coarse.
fn shares(model: &mut Model, texts: &Packed) -> anyhow::Result<Shares> {
    let names: Vec<String> = model.tunables().iter().map(|t| t.name.to_owned()).collect();
    let weights: usize = model.tunables().iter().map(|t| t.weights).sum();
    // On average half of the layers are computed for a matrix.
    let operations = weights as f64 * texts.tokens() as f64 * names.len() as f64;
    let step = (1..texts.sequences())
        .find(|step| operations / *step as f64 <= TRIAL_OPERATIONS)
        .unwrap_or(texts.sequences());
    let texts = texts.every(step);
    let base = model.forward(&texts)?;
    let matrices = names.len() as u64;
    let bar = output::bar(
        matrices,
        "measuring {wide_bar} {pos}/{len} matrices, {eta} left",
    );
    let (mut shares, tenths) = (Shares::new(), Tenths::of("measuring"));
    let mut names = names.into_iter();
    model.logits_with_each(&texts, TRIAL, &mut |got| {
        shares.extend(
            names
                .next()
                .map(|name| (name, rms_difference(&base, &got).powi(2))),
        );
        bar.inc(1);
        tenths.at(bar.position(), matrices);
    })?;
    bar.finish_and_clear();
    Ok(shares)
}

/// Refuses to write over anything but an earlier packed model: a source, a device or another
/// program's file would be lost.
fn check_out(out: &Path) -> anyhow::Result<()> {
    let meta = match std::fs::metadata(out) {
        Ok(meta) => meta,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("{}", out.display())),
    };
    let ours = || is_packed(out).with_context(|| format!("{}", out.display()));
    let what = if !meta.is_file() {
        "not a plain file"
    } else if meta.len() > 0 && !ours()? {
        "it is there and is no packed model: choose another file, or remove it"
    } else {
        return Ok(());
    };
    Err(Usage(format!("--out {}: {what}", out.display())).into())
}

/// SHA-256 of each file of the source that the packed model was made from.
fn sources(folder: &Path, weights: &Weights) -> anyhow::Result<BTreeMap<String, String>> {
    let own = deciding_files(folder)?;
    let paths = own.iter().map(|name| folder.join(name));
    by_name(folder, paths.chain(weights.files()), sha256_of)
}

fn fingerprints(folder: &Path, weights: &Weights) -> anyhow::Result<BTreeMap<String, String>> {
    by_name(folder, weights.files().into_iter(), fingerprint)
}

/// By the files' names in the folder.
fn by_name(
    folder: &Path,
    paths: impl Iterator<Item = PathBuf>,
    digest: fn(&Path) -> Result<String, ModelError>,
) -> anyhow::Result<BTreeMap<String, String>> {
    paths
        .map(|path| {
            let name = path.strip_prefix(folder).unwrap_or(&path);
            Ok((name.to_string_lossy().into_owned(), digest(&path)?))
        })
        .collect()
}

/// The carried texts as the model reads them.
fn texts(tokenizer: &PairTokenizer, max_length: usize) -> anyhow::Result<Packed> {
    let mut packed = Packed::new();
    for line in TEXTS.lines() {
        let text: Text = serde_json::from_str(line).context("the carried texts")?;
        let (query, passage) = (
            tokenizer.encode(&text.query)?,
            tokenizer.encode(&text.passage)?,
        );
        let length = max_length.min(512);
        let sequence = tokenizer.join(&query, &passage, length, Truncation::LongestFirst)?;
        packed.push(&sequence.ids, &sequence.type_ids);
    }
    Ok(packed)
}

/// `settings` with as many matrices of high precision as it takes for the logits to be within
/// [`NOISE`] of `exact`: those that take away the most noise for their work.
fn high_precision_matrices(
    exact: &[f32],
    model: &mut Model,
    mut settings: Vec<Setting>,
    shares: &Shares,
    texts: &Packed,
) -> anyhow::Result<Vec<Setting>> {
    let coarse = logits_with(model, &settings, texts)?;
    let all = settings.iter().map(|setting| Setting {
        high_precision: true,
        ..*setting
    });
    let most_precise = logits_with(model, &all.collect::<Vec<_>>(), texts)?;
    // What one matrix's coarse inputs do to the logits is independent of what another's do, so the
    // squares add up.
    let of_weights = rms_difference(exact, &most_precise).powi(2);
    // Where the weights alone make more noise than that, the inputs may make half as much.
    let bound = (NOISE * NOISE - of_weights).max(of_weights / 4.0);
    let mut noise = rms_difference(&most_precise, &coarse).powi(2);
    let tunables = model.tunables();
    let share = |name| shares.get(name).copied().unwrap_or_default();
    let all: f64 = tunables.iter().map(|tunable| share(tunable.name)).sum();
    // The shares are of inputs far coarser: what they say is how the noise is divided.
    let parts = tunables.iter().enumerate().map(|(at, tunable)| {
        let part = share(tunable.name) / all.max(f64::MIN_POSITIVE) * noise;
        (part, part / tunable.weights as f64, at)
    });
    let mut parts: Vec<(f64, f64, usize)> = parts.collect();
    parts.sort_by(|(_, a, _), (_, b, _)| b.total_cmp(a));
    for (part, _, at) in parts {
        if noise <= bound {
            break;
        }
        noise -= part;
        settings[at].high_precision = true;
    }
    Ok(settings)
}

/// Root mean square of the differences.
fn rms_difference(a: &[f32], b: &[f32]) -> f64 {
    let squares = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2));
    mean(squares).unwrap_or_default().sqrt()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn the_option_for_high_precision_still_has_its_first_name() {
        for name in ["--high-precision", "--fine"] {
            let command = Command::try_parse_from(["pack", name, "all"]).expect("known");
            assert_eq!(command.args.high_precision, HighPrecision::All);
        }
    }
}
