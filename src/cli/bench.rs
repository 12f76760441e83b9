//! `reranker bench`: tokens per second and latency of the forward pass on fixed workloads, alone or in turn with PyTorch.

mod cold;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use rayon::ThreadPool;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Usage, setup};
use crate::batch::plan;
use crate::config::Config;
use crate::model::{Model, Packed};

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    what: Option<What>,
    /// Which workloads; all of them where none is named.
    #[arg(long = "workload", value_name = "NAME")]
    workloads: Vec<String>,
    /// Timed rounds of each workload, after one that is not timed; medians are reported.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Time PyTorch too, in turn with us, by this Python interpreter (with torch, transformers and safetensors).
    #[arg(long, value_name = "PYTHON")]
    pytorch: Option<String>,
    /// The script that drives PyTorch.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "bench/pytorch/speed.py",
        requires = "pytorch"
    )]
    pytorch_script: String,
    /// Print JSON lines instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Subcommand)]
enum What {
    /// Measure cold starts: fresh processes, from exec to the first score.
    Cold(cold::Args),
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
    name: &'static str,
    sequences: Vec<Vec<u32>>,
}

/// One engine's result on one workload.
#[derive(Serialize)]
struct Measured {
    workload: &'static str,
    engine: String,
    pairs: usize,
    tokens: usize,
    rounds: usize,
    seconds_median: f64,
    seconds_min: f64,
    tokens_per_s: f64,
    gflops: f64,
}

pub fn run(args: &Args, config: &Config, started: Instant) -> anyhow::Result<ExitCode> {
    if let Some(What::Cold(args)) = &args.what {
        return cold::run(args, config, started);
    }
    let plan = setup::model(config)?;
    let kernels = plan.settings.kernels;
    let threads = setup::threads(config);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .context("cannot start the compute threads")?;
    let model = pool
        .install(|| Model::load(&plan.folder, kernels))
        .context("cannot load the model")?;
    let workloads = workloads(args, &model)?;
    let ours = format!("reranker f32 {}", kernels.isa().name());
    let mut peer = args
        .pytorch
        .as_deref()
        .map(|python| {
            Pytorch::start(
                python,
                &args.pytorch_script,
                &plan.folder.to_string_lossy(),
                threads,
                &workloads,
            )
        })
        .transpose()?;
    let mut out = std::io::stdout().lock();
    if args.json {
        let about = json!({
            "model": plan.settings.name, "threads": threads, "cpu": cpu_name(), "version": env!("CARGO_PKG_VERSION"),
        });
        writeln!(out, "{about}")?;
    } else {
        writeln!(
            out,
            "{}, {threads} threads, {}",
            plan.settings.name,
            cpu_name()
        )?;
        writeln!(
            out,
            "{:<8} {:<44} {:>5} {:>7} {:>10} {:>10} {:>10} {:>8}",
            "workload", "engine", "pairs", "tokens", "median s", "min s", "tokens/s", "GFLOP/s"
        )?;
    }
    for workload in &workloads {
        // In turn within every round, so that whatever else the machine does meets all engines alike.
        let mut our_times = Vec::new();
        let mut peer_times = Vec::new();
        let mut peer_engine = String::new();
        time(&pool, &model, workload, config.batch_tokens)?;
        for _ in 0..args.rounds {
            our_times.push(time(&pool, &model, workload, config.batch_tokens)?);
            if let Some(peer) = &mut peer {
                let how = workload.best_for_peer();
                let answer = peer.run(workload.name, how)?;
                peer_engine = format!("{}, {}", answer.engine, how.replace('_', " "));
                peer_times.push(answer.seconds);
            }
        }
        let mut report = |engine: String, times: &[f64]| {
            let measured = workload.measured(engine, times, &model);
            if args.json {
                serde_json::to_writer(&mut out, &measured)?;
                return writeln!(out);
            }
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
                "{workload:<8} {engine:<44} {pairs:>5} {tokens:>7} {seconds_median:>10.4} {seconds_min:>10.4} {tokens_per_s:>10.1} {gflops:>8.1}"
            )
        };
        report(ours.clone(), &our_times)?;
        if !peer_times.is_empty() {
            report(peer_engine, &peer_times)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn workloads(args: &Args, model: &Model) -> anyhow::Result<Vec<Workload>> {
    if let Some(unknown) = args
        .workloads
        .iter()
        .find(|name| WORKLOADS.iter().all(|(known, _)| known != name))
    {
        let known: Vec<&str> = WORKLOADS.iter().map(|(name, _)| *name).collect();
        return Err(Usage(format!(
            "there is no workload {unknown:?}, only {}",
            known.join(", ")
        ))
        .into());
    }
    let config = model.config();
    let vocabulary = u32::try_from(config.vocab_size).context("the vocabulary is too large")?;
    ensure!(
        vocabulary > FIRST_ORDINARY_ID,
        "the vocabulary has only {vocabulary} tokens"
    );
    let mut random = Lcg(1);
    let mut sequence = |length: usize| {
        (0..length.min(config.max_length()))
            .map(|_| FIRST_ORDINARY_ID + random.next() % (vocabulary - FIRST_ORDINARY_ID))
            .collect()
    };
    Ok(WORKLOADS
        .iter()
        .filter(|(name, _)| {
            args.workloads.is_empty() || args.workloads.iter().any(|wanted| wanted == name)
        })
        .map(|(name, lengths)| Workload {
            name,
            sequences: lengths.iter().map(|&length| sequence(length)).collect(),
        })
        .collect())
}

/// Knuth's multiplier; speed does not depend on which ids there are, but they must be the same in every run.
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

impl Workload {
    /// What is fastest for PyTorch: one batch where that pads nothing, else pair by pair.
    fn best_for_peer(&self) -> &'static str {
        if self.sequences.windows(2).all(|w| w[0].len() == w[1].len()) {
            "padded"
        } else {
            "one_by_one"
        }
    }

    fn measured(&self, engine: String, times: &[f64], model: &Model) -> Measured {
        let mut sorted = times.to_vec();
        sorted.sort_by(f64::total_cmp);
        let median = (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2.0;
        let lengths = || self.sequences.iter().map(Vec::len);
        let tokens: usize = lengths().sum();
        Measured {
            workload: self.name,
            engine,
            pairs: self.sequences.len(),
            tokens,
            rounds: times.len(),
            seconds_median: median,
            seconds_min: sorted[0],
            tokens_per_s: tokens as f64 / median,
            gflops: model.config().flops(lengths()) / median / 1e9,
        }
    }
}

/// Seconds for one pass over the workload, batched as the service batches.
fn time(
    pool: &ThreadPool,
    model: &Model,
    workload: &Workload,
    batch_tokens: usize,
) -> anyhow::Result<f64> {
    let lengths: Vec<usize> = workload.sequences.iter().map(Vec::len).collect();
    let start = Instant::now();
    for batch in plan(&lengths, batch_tokens) {
        let mut packed = Packed::new();
        for ids in &workload.sequences[batch] {
            packed.push(ids, &vec![0; ids.len()]);
        }
        pool.install(|| model.forward(&packed))?;
    }
    Ok(start.elapsed().as_secs_f64())
}

/// A PyTorch process that times a workload whenever it is told to.
struct Pytorch {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

#[derive(Deserialize)]
struct Answer {
    engine: String,
    seconds: f64,
}

impl Pytorch {
    fn start(
        python: &str,
        script: &str,
        model: &str,
        threads: usize,
        workloads: &[Workload],
    ) -> anyhow::Result<Self> {
        let ids = std::env::temp_dir().join(format!("reranker-bench-{}.jsonl", std::process::id()));
        let mut lines = String::new();
        for workload in workloads {
            for ids in &workload.sequences {
                lines += &json!({"workload": workload.name, "ids": ids}).to_string();
                lines.push('\n');
            }
        }
        std::fs::write(&ids, lines).with_context(|| format!("{}", ids.display()))?;
        let mut child = Command::new(python)
            .arg(script)
            .arg(model)
            .args(["--serve", "--threads", &threads.to_string(), "--ids"])
            .arg(&ids)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {python}"))?;
        let commands = child.stdin.take().context("no pipe to PyTorch")?;
        let answers = BufReader::new(child.stdout.take().context("no pipe from PyTorch")?);
        let mut peer = Self {
            child,
            commands,
            answers,
        };
        let ready = peer.line();
        // It has read the file by the time it is ready, or it never will.
        let _ = std::fs::remove_file(&ids);
        ready.context("PyTorch did not start")?;
        Ok(peer)
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            bail!("PyTorch ended; what it says of it is above");
        }
        Ok(line)
    }

    fn run(&mut self, workload: &str, how: &str) -> anyhow::Result<Answer> {
        writeln!(self.commands, "run {workload} {how} 1")?;
        let line = self.line()?;
        serde_json::from_str(&line).with_context(|| format!("PyTorch answered {}", line.trim()))
    }
}

impl Drop for Pytorch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn cpu_name() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    cpuinfo
        .lines()
        .find_map(|line| {
            line.strip_prefix("model name")?
                .split_once(": ")
                .map(|(_, name)| name)
        })
        .unwrap_or("unknown processor")
        .to_owned()
}
