//! `reranker pack`: a Hugging Face folder becomes one int8 file, measured against its source before it is let out.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, bail};
use kernels::INT8_LAYOUT;
use serde::Deserialize;

use super::eval::metrics::{Differences, kendall_tau_b, mean};
use super::output::{self, note, say};
use super::{ModelArg, Usage, setup};
use crate::config::Config;
use crate::model::{
    CONFIG_FILE, Fidelity, Manifest, MatrixReport, Model, Packed, PackedTokenizer,
    check_vocabulary, packed_tensors, quantize,
};
use crate::rerank::{Precision, Truncation, sigmoid};
use crate::tokenizer::{Compilation, PairTokenizer, compile};
use crate::weights::{
    Dtype, FORMAT, PACKED_FILE, PackedWriter, Prefetch, Weights, is_packed, sha256_of,
};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// The packed file to write; packed.safetensors in the model's folder where it is not given, which then serves int8.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Matrices whose inputs are quantized to 16 bits, which costs twice the time of 8: as many as it takes to keep the scores near
    /// f32's, none, or all. First tokens are quantized to 16 bits in any case.
    #[arg(long, value_enum, default_value_t = Fine::Auto)]
    fine: Fine,
    /// Print each matrix's quantization error, and which get 16 bits.
    #[arg(long)]
    verbose: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Fine {
    Auto,
    None,
    All,
}

/// The pairs on which a packed model is calibrated and compared: several languages, short and long.
const TEXTS: &str = include_str!("pack/texts.jsonl");
/// A packed model whose scores differ more than this from its source's, on average or anywhere, is not written.
const MEAN_SCORE_BOUND: f64 = 0.01;
pub(super) const MAX_SCORE_BOUND: f64 = 0.03;

/// Matrices get fine inputs until the logits' differences from the source's are expected to be no more than this, as a root mean
/// square: scores then move by a quarter of it at most, and few passages change places.
const NOISE: f64 = MAX_SCORE_BOUND / 2.0;

#[derive(Deserialize)]
struct Text {
    query: String,
    passage: String,
}

pub fn run(args: &Args, config: &Config) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
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
    let folder = found.folder;
    if !folder.is_dir() {
        return Err(Usage(format!("{}: not a model folder", folder.display())).into());
    }
    let out = args.out.clone().unwrap_or_else(|| folder.join(PACKED_FILE));
    check_out(&out)?;
    let kernels = setup::kernels(config)?;
    let pool = setup::pool(config)?;

    let tokenizer_path = folder.join(PackedTokenizer::JSON);
    let json =
        std::fs::read(&tokenizer_path).with_context(|| format!("{}", tokenizer_path.display()))?;
    let tokenizer = PairTokenizer::from_json(&json, &tokenizer_path)?;
    let weights = Weights::open(&folder)?;
    let model = Model::from_weights(&folder, &weights, kernels, None, Prefetch::none())?;
    check_vocabulary(model.config(), &tokenizer_path, tokenizer.vocab_size())?;
    let texts = texts(&tokenizer, model.config().max_length())?;

    let mut manifest = Manifest {
        format: FORMAT,
        layout: INT8_LAYOUT.into(),
        tool: concat!("reranker ", env!("CARGO_PKG_VERSION")).into(),
        name: model.config().about.name.clone().or(Some(found.name)),
        revision: found.revision,
        config: serde_json::from_slice(&std::fs::read(folder.join(CONFIG_FILE))?)?,
        sources: sources(&folder, &weights)?,
        payload_sha256: String::new(),
        fine: BTreeSet::new(),
        fidelity: None,
    };
    let layers = model.config().layers;
    if !std::io::stderr().is_terminal() {
        // Where no bar tells that it goes on.
        note!(
            "packing {}: {layers} layers of {}; a full-size model takes minutes",
            folder.display(),
            model.config().hidden_size
        );
    }
    let manifest_bytes = serde_json::to_string(&manifest)?.len();
    let mut writer = PackedWriter::create(&out, packed_tensors(layers), manifest_bytes)?;
    let result = pool.install(|| {
        write(args, &model, &weights, &texts, &json, &mut writer)
            .and_then(|exact| measure(args, &mut writer, &mut manifest, &exact, &texts, kernels))
    });
    match result {
        Ok(fidelity) => {
            let matrices = writer.matrices().len();
            writer.finish()?;
            let bytes = std::fs::metadata(&out)?.len();
            say!(
                "{}: {:.1} MB in {:.1} s, {} of {} matrices with inputs of 16 bits; on {} pairs of {} tokens score differs from f32 by {:.5} on average, {:.5} at most; logit by {:.4}, {:.4}; Kendall's tau {}",
                out.display(),
                bytes as f64 / 1e6,
                started.elapsed().as_secs_f64(),
                manifest.fine.len(),
                matrices,
                fidelity.pairs,
                fidelity.tokens,
                fidelity.mean_score_difference,
                fidelity.max_score_difference,
                fidelity.mean_logit_difference,
                fidelity.max_logit_difference,
                fidelity
                    .kendall_tau
                    .map_or_else(|| "none".into(), |tau| format!("{tau:.4}")),
            )?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            writer.discard();
            Err(error)
        }
    }
}

/// Refuses to write over anything but an earlier packed model: a source, a device or another program's file would be lost.
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
    let names = [CONFIG_FILE, PackedTokenizer::JSON].map(|name| folder.join(name));
    let paths = names.into_iter().chain(weights.files());
    let digests = paths.map(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Ok((name.into_owned(), sha256_of(&path)?))
    });
    digests.collect()
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

/// Writes all tensors; returns the f32 logits of the texts.
fn write(
    args: &Args,
    model: &Model,
    weights: &Weights,
    texts: &Packed,
    tokenizer: &[u8],
    writer: &mut PackedWriter,
) -> anyhow::Result<Vec<f32>> {
    let layers = model.config().layers as u64;
    let bar = output::bar(
        layers + 1,
        "packing {wide_bar} {pos}/{len} layers, {eta} left",
    );
    let mut report = |matrices: Vec<MatrixReport>| {
        bar.inc(1);
        for matrix in matrices.iter().filter(|_| args.verbose) {
            bar.suspend(|| {
                note!(
                    "{}: error {:.4}, inputs as they are {:.4}",
                    matrix.name,
                    matrix.error,
                    matrix.plain_error
                );
            });
        }
    };
    let exact = quantize(model, weights, texts, writer, &mut report)?;
    match compile(tokenizer)? {
        Compilation::Compiled(bytes) => {
            writer.tensor(
                PackedTokenizer::COMPILED,
                Dtype::U8,
                &[bytes.len()],
                [bytes],
            )?;
        }
        Compilation::Refused(reason) => {
            bar.suspend(|| note!("the tokenizer stays as JSON, which loads slowly: {reason}"));
            let len = tokenizer.len();
            writer.tensor(PackedTokenizer::JSON, Dtype::U8, &[len], [tokenizer])?;
        }
    }
    bar.finish_and_clear();
    Ok(exact)
}

/// Seals the file, chooses the fine matrices, compares the result with the f32 logits and writes what it found into the manifest.
fn measure(
    args: &Args,
    writer: &mut PackedWriter,
    manifest: &mut Manifest,
    exact: &[f32],
    texts: &Packed,
    kernels: kernels::Kernels,
) -> anyhow::Result<Fidelity> {
    let matrices = writer.matrices();
    let all: BTreeSet<String> = matrices.iter().map(|(name, _)| name.clone()).collect();
    let mut logits_with = |fine: BTreeSet<String>| -> anyhow::Result<Vec<f32>> {
        manifest.fine = fine;
        let path = writer.seal(manifest)?.to_owned();
        Ok(Model::load(&path, kernels, None)?.forward(texts)?)
    };
    let mut got = logits_with(match args.fine {
        Fine::All => all.clone(),
        Fine::Auto | Fine::None => BTreeSet::new(),
    })?;
    if args.fine == Fine::Auto && rms_difference(exact, &got) > NOISE {
        let fine = fine_matrices(exact, matrices, &all, &mut logits_with)?;
        for name in fine.iter().filter(|_| args.verbose) {
            note!("{name}: inputs of 16 bits");
        }
        got = logits_with(fine)?;
    }
    let both = || exact.iter().zip(&got);
    let logits = Differences::of(both().map(|(a, b)| (f64::from(*a), f64::from(*b))));
    let scores = Differences::of(both().map(|(a, b)| (sigmoid(*a), sigmoid(*b))));
    let fidelity = Fidelity {
        pairs: exact.len(),
        tokens: texts.tokens(),
        mean_logit_difference: logits.mean,
        max_logit_difference: logits.max,
        mean_score_difference: scores.mean,
        max_score_difference: scores.max,
        kendall_tau: kendall_tau_b(exact, &got),
    };
    if !(fidelity.mean_score_difference <= MEAN_SCORE_BOUND
        && fidelity.max_score_difference <= MAX_SCORE_BOUND)
    {
        bail!(
            "the packed model's scores differ from f32 by {:.5} on average and {:.5} at most, the bounds are {MEAN_SCORE_BOUND} and {MAX_SCORE_BOUND}: not written",
            fidelity.mean_score_difference,
            fidelity.max_score_difference
        );
    }
    manifest.fidelity = Some(fidelity);
    writer.seal(manifest)?;
    Ok(fidelity)
}

/// The matrices whose inputs must be fine for the logits to be within [`NOISE`] of `exact`: those of `matrices`, names and numbers
/// of weights, that take away the most noise for their work.
fn fine_matrices(
    exact: &[f32],
    matrices: Vec<(String, usize)>,
    all: &BTreeSet<String>,
    logits_with: &mut dyn FnMut(BTreeSet<String>) -> anyhow::Result<Vec<f32>>,
) -> anyhow::Result<BTreeSet<String>> {
    let bar = output::bar(
        matrices.len() as u64,
        "measuring {wide_bar} {pos}/{len} matrices, {eta} left",
    );
    let finest = logits_with(all.clone())?;
    // What one matrix's coarse inputs do to the logits is independent of what another's do, so the squares add up.
    let of_weights = rms_difference(exact, &finest).powi(2);
    // Where the weights alone make more noise than that, the inputs may make half as much.
    let bound = (NOISE * NOISE - of_weights).max(of_weights / 4.0);
    let mut noise = 0.0;
    let mut shares = Vec::with_capacity(matrices.len());
    for (name, weights) in matrices {
        let mut others = all.clone();
        others.remove(&name);
        let share = rms_difference(&finest, &logits_with(others)?).powi(2);
        noise += share;
        shares.push((share, share / weights as f64, name));
        bar.inc(1);
    }
    bar.finish_and_clear();
    shares.sort_by(|(_, a, _), (_, b, _)| b.total_cmp(a));
    let mut fine = BTreeSet::new();
    for (share, _, name) in shares {
        if noise <= bound {
            break;
        }
        noise -= share;
        fine.insert(name);
    }
    Ok(fine)
}

/// Root mean square of the differences.
fn rms_difference(a: &[f32], b: &[f32]) -> f64 {
    let squares = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2));
    mean(squares).unwrap_or_default().sqrt()
}
