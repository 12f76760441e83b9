//! `reranker bench`: tokens per second and latency of the forward pass on fixed workloads, alone,
//! or run by run as a driver that times other engines in turn asks for them.

mod cold;
mod peak;
mod serving;

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, ensure};
use rayon::ThreadPool;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{ModelArg, Usage, cpu, output, setup};
use crate::config::Config;
use reranker_engine::model::{Model, Packed};
use reranker_engine::plan;
use reranker_json::Object;

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    model: ModelArg,
    /// Workload to measure; can be repeated [default: all].
    #[arg(long = "workload", value_name = "NAME")]
    workloads: Vec<String>,
    /// Timed rounds of each workload, after an untimed one; the table has medians.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Read the sequences from this file, one `{"workload": str, "ids": [int]}` a line, with
    /// `"segments": [int]` if they are not all 0.
    #[arg(long, value_name = "FILE")]
    ids: Option<PathBuf>,
    /// Answer each line of standard input with one line, as `bench/peers/serving.py` describes,
    /// instead of measuring.
    #[arg(long, conflicts_with_all = ["json", "rounds", "workloads"])]
    serve: bool,
    /// Print JSON lines instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Subcommand)]
enum What {
    /// Measure cold starts: fresh processes, from exec to the first score.
    Cold(cold::Args),
    /// Measure the chip's peak, in int8 operations a second.
    Peak(peak::Args),
}

/// Lengths of 32 pairs as one real request has them: 4,443 tokens, the longest 497.
const MIXED: [usize; 32] = [
    101, 81, 160, 52, 197, 356, 297, 96, 126, 47, 119, 91, 134, 171, 24, 213, 183, 71, 66, 34, 107,
    62, 113, 142, 57, 497, 234, 41, 260, 150, 76, 85,
];
const WORKLOADS: [(&str, &[usize]); 4] = [
    ("1x128", &[128]),
    ("1x512", &[512]),
    ("8x512", &[512; 8]),
    ("mixed", &MIXED),
];
/// Below it the RoBERTa family keeps its special tokens.
const FIRST_ORDINARY_ID: u32 = 5;

struct Workload {
    name: Cow<'static, str>,
    sequences: Vec<Sequence>,
}

struct Sequence {
    ids: Vec<u32>,
    segments: Vec<u32>,
}

impl Sequence {
    /// All in the first segment where none are given.
    fn new(ids: Vec<u32>, segments: Option<Vec<u32>>) -> Self {
        let segments = segments.unwrap_or_else(|| vec![0; ids.len()]);
        Self { ids, segments }
    }
}

/// One engine's result on one workload.
#[derive(Serialize)]
struct Measured<'a> {
    workload: &'a str,
    engine: &'a str,
    pairs: usize,
    tokens: usize,
    rounds: usize,
    seconds_median: f64,
    seconds_min: f64,
    tokens_per_s: f64,
    gflops: f64,
}

pub fn run(args: &Args, config: &Config, started: Instant) -> anyhow::Result<ExitCode> {
    match &args.what {
        Some(What::Cold(args)) => return cold::run(args, config, started),
        Some(What::Peak(args)) => return peak::run(args, config),
        None => {}
    }
    let config = &args.model.config(config);
    let plan = setup::model(config)?;
    let kernels = plan.settings.kernels;
    let threads = setup::threads(config);
    let pool = setup::pool(config)?;
    let model = pool
        .install(|| Model::load(&plan.path, kernels, plan.settings.gpu.clone()))
        .context("cannot load the model")?;
    let workloads = workloads(args, &model)?;
    let bench = Bench {
        engine: format!(
            "reranker {} {}",
            model.precision().name(),
            model
                .gpu()
                .map_or(kernels.isa().name(), |gpu| gpu.name.as_str())
        ),
        pool,
        model,
        workloads,
        batch_tokens: plan.settings.batch_tokens,
    };
    if args.serve {
        serving::serve(&bench)?;
        return Ok(ExitCode::SUCCESS);
    }
    // A GPU is a tier of its own.
    let tier = bench.model.gpu().map_or(kernels.isa().tier(), |_| "GPU");
    let mut out = output::stdout();
    if args.json {
        let about = json!({
            "model": plan.settings.name, "threads": threads, "cpu": cpu::name(), "tier": tier, "version": env!("CARGO_PKG_VERSION"),
        });
        writeln!(out, "{about}")?;
    } else {
        writeln!(
            out,
            "{}, {threads} threads, {}, tier {tier}",
            plan.settings.name,
            cpu::name()
        )?;
        writeln!(
            out,
            "{:<8} {:<24} {:>5} {:>7} {:>10} {:>10} {:>10} {:>8}",
            "workload", "engine", "pairs", "tokens", "median s", "min s", "tokens/s", "GFLOP/s"
        )?;
    }
    for workload in &bench.workloads {
        bench.run(workload)?;
        let mut times = Vec::new();
        for _ in 0..args.rounds {
            let start = Instant::now();
            bench.run(workload)?;
            times.push(start.elapsed().as_secs_f64());
        }
        let measured = bench.measured(workload, &times);
        if args.json {
            writeln!(out, "{}", serde_json::to_string(&measured)?)?;
        } else {
            let Measured {
                workload,
                engine,
                pairs,
                tokens,
                seconds_median,
                seconds_min,
                tokens_per_s,
                gflops,
                ..
            } = measured;
            writeln!(
                out,
                "{workload:<8} {engine:<24} {pairs:>5} {tokens:>7} {seconds_median:>10.4} {seconds_min:>10.4} {tokens_per_s:>10.1} {gflops:>8.1}"
            )?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn workloads(args: &Args, model: &Model) -> anyhow::Result<Vec<Workload>> {
    let mut known = match &args.ids {
        Some(file) => from_file(file, model)?,
        None => drawn(model)?,
    };
    if let Some(unknown) = args
        .workloads
        .iter()
        .find(|name| known.iter().all(|workload| workload.name != **name))
    {
        let known: Vec<&str> = known.iter().map(|workload| &*workload.name).collect();
        return Err(Usage(format!(
            "there is no workload {unknown:?}, only {}",
            known.join(", ")
        ))
        .into());
    }
    known.retain(|workload| {
        args.workloads.is_empty() || args.workloads.iter().any(|name| workload.name == **name)
    });
    Ok(known)
}

/// The fixed lengths, with ids that are the same in every run.
fn drawn(model: &Model) -> anyhow::Result<Vec<Workload>> {
    let config = model.config();
    let vocabulary = u32::try_from(config.vocab_size).context("the vocabulary is too large")?;
    ensure!(
        vocabulary > FIRST_ORDINARY_ID,
        "the vocabulary has only {vocabulary} tokens"
    );
    let mut random = Lcg(1);
    let mut sequence = |length: usize| {
        let mut id = |_| FIRST_ORDINARY_ID + random.next() % (vocabulary - FIRST_ORDINARY_ID);
        let ids = (0..length.min(config.max_length())).map(&mut id).collect();
        Sequence::new(ids, None)
    };
    Ok(WORKLOADS
        .iter()
        .map(|&(name, lengths)| Workload {
            name: name.into(),
            sequences: lengths.iter().map(|&length| sequence(length)).collect(),
        })
        .collect())
}

/// One line of the file of sequences.
#[derive(Deserialize)]
struct Row {
    workload: String,
    ids: Vec<u32>,
    segments: Option<Vec<u32>>,
}

fn from_file(file: &Path, model: &Model) -> anyhow::Result<Vec<Workload>> {
    let (vocabulary, longest) = (model.config().vocab_size, model.config().max_length());
    let rows = model.config().type_vocab_size;
    let mut workloads: Vec<Workload> = Vec::new();
    let lines = BufReader::new(File::open(file).with_context(|| format!("{}", file.display()))?);
    for (index, line) in lines.lines().enumerate() {
        let at = || format!("{}: line {}", file.display(), index + 1);
        let Object(Row {
            workload,
            ids,
            segments,
        }) = serde_json::from_str(&line.with_context(at)?).with_context(at)?;
        ensure!(
            (1..=longest).contains(&ids.len()) && ids.iter().all(|&id| (id as usize) < vocabulary),
            "{}: {} ids; this model takes 1 to {longest}, each below {vocabulary}",
            at(),
            ids.len()
        );
        let sequence = Sequence::new(ids, segments);
        let segments = &sequence.segments;
        ensure!(
            segments.len() == sequence.ids.len() && segments.iter().all(|&it| (it as usize) < rows),
            "{}: {} segments; this model takes one for each id, each below {rows}",
            at(),
            segments.len()
        );
        match workloads.iter_mut().find(|known| known.name == workload) {
            Some(known) => known.sequences.push(sequence),
            None => workloads.push(Workload {
                name: workload.into(),
                sequences: vec![sequence],
            }),
        }
    }
    Ok(workloads)
}

/// Knuth's multiplier; speed does not depend on which ids there are, but they must be the same in
/// every run.
struct Lcg(u64);

impl Lcg {
    fn next(&mut self) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32
    }
}

/// A model that is ready to run, and what it is to run.
struct Bench {
    pool: ThreadPool,
    model: Model,
    workloads: Vec<Workload>,
    batch_tokens: usize,
    engine: String,
}

impl Bench {
    /// One pass over the workload, batched as the service batches; its logits.
    fn run(&self, workload: &Workload) -> anyhow::Result<Vec<f32>> {
        let lengths: Vec<usize> = workload.sequences.iter().map(|it| it.ids.len()).collect();
        let mut logits = Vec::with_capacity(lengths.len());
        for batch in plan(&lengths, self.batch_tokens) {
            let mut packed = Packed::new();
            for Sequence { ids, segments } in &workload.sequences[batch] {
                packed.push(ids, segments);
            }
            logits.extend(self.pool.install(|| self.model.forward(&packed))?);
        }
        Ok(logits)
    }

    fn measured<'a>(&'a self, workload: &'a Workload, times: &[f64]) -> Measured<'a> {
        let mut sorted = times.to_vec();
        sorted.sort_by(f64::total_cmp);
        let median = (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2.0;
        let lengths = || workload.sequences.iter().map(|it| it.ids.len());
        let tokens: usize = lengths().sum();
        Measured {
            workload: &workload.name,
            engine: &self.engine,
            pairs: workload.sequences.len(),
            tokens,
            rounds: times.len(),
            seconds_median: median,
            seconds_min: sorted[0],
            tokens_per_s: tokens as f64 / median,
            gflops: self.model.config().flops(lengths()) / median / 1e9,
        }
    }
}
