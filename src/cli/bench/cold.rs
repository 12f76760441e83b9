//! `reranker bench cold`: fresh processes, one after the other, from before exec to the first
//! score.
//!
//! Each start is the real program with `--once`, which loads a model, scores one pair, prints that
//! it has, and then prints its receipt. The time is taken here, so that nothing a process does
//! before its first line is lost.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::fs::{Advice, fadvise};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::super::output::{self, note};
use super::super::process::Usage;
use super::super::{cpu, setup};
use crate::config::Config;
use reranker_domain::{Pair, Request, Truncation};
use reranker_engine::{Engine, Settings, Span};

#[derive(clap::Args)]
pub struct Args {
    /// Model folder, packed file, address in S3, or hub id in the local Hugging Face cache; several
    /// are started in turn [default: the configured model].
    #[arg(long = "model", value_name = "DIR|ID")]
    models: Vec<String>,
    /// Length of the pair to score, in tokens [default: 16 and 128].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(8..=8192))]
    tokens: Vec<u32>,
    /// Starts of each kind, after one that is not timed; medians are reported.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Also start with the files of the model and the program dropped from the page cache.
    #[arg(long)]
    drop: bool,
    /// Start a Python service on PyTorch too, in turn with us, by this interpreter (with torch and
    /// transformers).
    #[arg(long, value_name = "PYTHON")]
    pytorch: Option<PathBuf>,
    /// The script that it runs; it is given the model and the number of tokens.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "bench/peers/python_service.py",
        requires = "pytorch"
    )]
    pytorch_script: PathBuf,
    /// Print JSON lines instead of a table.
    #[arg(long)]
    json: bool,
    /// Be one of the processes that are measured: score one pair of --tokens and print what that
    /// took.
    #[arg(long, hide = true)]
    once: bool,
}

const DEFAULT_TOKENS: [u32; 2] = [16, 128];

/// What a started process prints once it has its score.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Start {
    engine: String,
    tokens: usize,
    logit: f32,
    /// What the file holds and must be in memory for a score, where the engine knows.
    #[serde(default)]
    needed_bytes: u64,
    usage: Usage,
    spans: Vec<Step>,
}

/// One step of a start, by the process's own clock, which begins with the process. Steps may
/// overlap.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Step {
    name: String,
    start_ms: f64,
    ms: f64,
}

impl Step {
    fn new(name: &str, span: Span) -> Self {
        let millis = |duration: Duration| (duration.as_secs_f64() * 1e6).round() / 1e3;
        Self {
            name: name.to_owned(),
            start_ms: millis(span.start),
            ms: millis(span.time),
        }
    }
}

/// All starts of one kind.
#[derive(Serialize)]
struct Measured {
    bench: &'static str,
    model: String,
    engine: String,
    cache: Cache,
    tokens: usize,
    runs: usize,
    /// From before exec until the score was read from the process.
    seconds_median: f64,
    seconds_min: f64,
    seconds: Vec<f64>,
    /// Of the start whose time is the median, as are the spans.
    #[serde(flatten)]
    usage: Usage,
    spans: Vec<Step>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Cache {
    /// The page cache holds everything.
    Warm,
    /// It holds neither the model nor the program.
    Dropped,
}

pub fn run(args: &Args, config: &Config, started: Instant) -> anyhow::Result<ExitCode> {
    let tokens = if args.tokens.is_empty() {
        &DEFAULT_TOKENS[..]
    } else {
        &args.tokens
    };
    if args.once {
        return once(tokens[0] as usize, config, started);
    }
    let models = if args.models.is_empty() {
        vec![setup::model(config)?.path]
    } else {
        let find = |model| setup::find_model(&setup::with_model(config, model));
        let found = args.models.iter().map(|model| Ok(find(model)?.folder));
        found.collect::<anyhow::Result<Vec<PathBuf>>>()?
    };
    let programs = Programs::new(args)?;
    let mut out = output::stdout();
    if args.json {
        let about = json!({
            "bench": "cold", "threads": setup::threads(config), "cpu": cpu::name(), "version": env!("CARGO_PKG_VERSION"),
        });
        writeln!(out, "{about}")?;
    } else {
        writeln!(out, "{} threads, {}", setup::threads(config), cpu::name())?;
        writeln!(out, "{HEAD}")?;
    }
    for &tokens in tokens {
        let mut kinds: Vec<Kind> = Vec::new();
        for model in &models {
            for peer in [false, true] {
                // Dropped first: it leaves in the cache what the warm start behind it needs.
                for cache in [Cache::Dropped, Cache::Warm] {
                    // PyTorch cannot read a packed file.
                    let peer_cannot = peer && (args.pytorch.is_none() || !model.is_dir());
                    if peer_cannot || (cache == Cache::Dropped && !args.drop) {
                        continue;
                    }
                    kinds.push(Kind {
                        model,
                        peer,
                        cache,
                        starts: Vec::new(),
                    });
                }
            }
        }
        for kind in kinds.iter().filter(|kind| kind.cache == Cache::Warm) {
            programs.start(kind, tokens)?;
        }
        // In turn within every round, so that whatever else the machine does meets all alike.
        for _ in 0..args.runs {
            for kind in &mut kinds {
                let start = programs.start(kind, tokens)?;
                kind.starts.push(start);
            }
        }
        for kind in kinds {
            let measured = kind.measured();
            if args.json {
                writeln!(out, "{}", serde_json::to_string(&measured)?)?;
            } else {
                measured.write_row(&mut out)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

const HEAD: &str = "model                    engine                         cache   tokens runs  median ms     min ms  process tokenizer  weights prefetch inference   peak MiB   read MiB";

/// Starts that are repeated and compared.
struct Kind<'a> {
    model: &'a Path,
    peer: bool,
    cache: Cache,
    starts: Vec<(f64, Start)>,
}

impl Kind<'_> {
    fn measured(mut self) -> Measured {
        let seconds: Vec<f64> = self.starts.iter().map(|(seconds, _)| *seconds).collect();
        self.starts.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        let (runs, middle) = (self.starts.len(), self.starts.len() / 2);
        let median = (self.starts[(runs - 1) / 2].0 + self.starts[middle].0) / 2.0;
        let (minimum, _) = self.starts[0];
        let (_, typical) = self.starts.swap_remove(middle);
        Measured {
            bench: "cold",
            model: name(self.model),
            engine: typical.engine,
            cache: self.cache,
            tokens: typical.tokens,
            runs,
            seconds_median: median,
            seconds_min: minimum,
            seconds,
            usage: typical.usage,
            spans: typical.spans,
        }
    }
}

fn name(model: &Path) -> String {
    model.file_name().map_or_else(
        || model.display().to_string(),
        |name| name.to_string_lossy().into_owned(),
    )
}

impl Measured {
    fn write_row(&self, out: &mut impl Write) -> std::io::Result<()> {
        let step = |name: &str| {
            let step = self.spans.iter().find(|step| step.name == name);
            step.map_or_else(|| "-".to_owned(), |step| format!("{:.1}", step.ms))
        };
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let cache = match self.cache {
            Cache::Warm => "warm",
            Cache::Dropped => "dropped",
        };
        writeln!(
            out,
            "{:<24} {:<30} {cache:<7} {:>6} {:>4} {:>10.1} {:>10.1} {:>8} {:>9} {:>8} {:>8} {:>9} {:>10.1} {:>10.1}",
            self.model,
            self.engine,
            self.tokens,
            self.runs,
            self.seconds_median * 1e3,
            self.seconds_min * 1e3,
            step("process"),
            step("tokenizer"),
            step("weights"),
            step("prefetch"),
            step("inference"),
            mib(self.usage.peak_rss_bytes),
            mib(self.usage.read_bytes),
        )
    }
}

/// What is started.
struct Programs<'a> {
    ours: PathBuf,
    /// Removes the copy of the program.
    _copy: Option<Copied>,
    peer: Option<(&'a Path, &'a Path)>,
}

struct Copied(PathBuf);

impl Drop for Copied {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl<'a> Programs<'a> {
    fn new(args: &'a Args) -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("this program has no path")?;
        // The pages of a running program cannot be dropped, so a copy of it is started.
        let copy = args
            .drop
            .then(|| {
                let path =
                    std::env::temp_dir().join(format!("reranker-bench-{}", std::process::id()));
                // A new file: nothing that lies there by that name is written through.
                let failed = || format!("{}: cannot copy the program", path.display());
                let mut new = OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o700)
                    .open(&path)
                    .with_context(failed)?;
                let copied = Copied(path.clone());
                let mut program = File::open(&own).with_context(failed)?;
                std::io::copy(&mut program, &mut new).with_context(failed)?;
                anyhow::Ok(copied)
            })
            .transpose()?;
        Ok(Self {
            ours: copy.as_ref().map_or(own, |copied| copied.0.clone()),
            _copy: copy,
            peer: args
                .pytorch
                .as_deref()
                .map(|python| (python, &*args.pytorch_script)),
        })
    }

    /// Starts one process and waits for its end: seconds until its score, and its receipt.
    fn start(&self, kind: &Kind, tokens: u32) -> anyhow::Result<(f64, Start)> {
        let tokens = tokens.to_string();
        let mut command = match self.peer {
            Some((python, script)) if kind.peer => {
                let mut command = Command::new(python);
                command.arg(script).arg(kind.model).arg(&tokens);
                command
            }
            _ => {
                let mut command = Command::new(&self.ours);
                command
                    .args(["bench", "cold", "--once", "--tokens", &tokens])
                    .env("MODEL_DIR", kind.model)
                    .env_remove("MODEL_NAME");
                command
            }
        };
        if kind.cache == Cache::Dropped {
            drop_from_cache(&self.ours)?;
            drop_from_cache(kind.model)?;
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let begun = Instant::now();
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let mut lines = BufReader::new(child.stdout.take().context("no pipe")?).lines();
        let mut complaints = child.stderr.take().context("no pipe")?;
        let complaints = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = complaints.read_to_string(&mut text);
            text
        });
        let scored = lines.next();
        let seconds = begun.elapsed().as_secs_f64();
        let receipt = lines.next().transpose()?;
        let status = child.wait()?;
        let (Some(Ok(_)), Some(receipt), true) = (scored, receipt, status.success()) else {
            bail!(
                "a start with {} ended with {status}: {}",
                kind.model.display(),
                complaints.join().unwrap_or_default().trim()
            );
        };
        let start: Start =
            serde_json::from_str(&receipt).with_context(|| format!("not a receipt: {receipt}"))?;
        if kind.cache == Cache::Dropped && start.usage.read_bytes < start.needed_bytes / 2 {
            note!(
                "note: {} was not dropped from the page cache (does another process use it?): {} of {} bytes were read",
                kind.model.display(),
                start.usage.read_bytes,
                start.needed_bytes
            );
        }
        Ok((seconds, start))
    }
}

/// Asks the system to forget what it holds of a file, or of the files in a folder.
fn drop_from_cache(path: &Path) -> anyhow::Result<()> {
    let failed = || format!("{}: cannot be dropped from the page cache", path.display());
    if path.is_dir() {
        for entry in std::fs::read_dir(path).with_context(failed)? {
            let inner = entry.with_context(failed)?.path();
            if inner.is_file() {
                drop_from_cache(&inner)?;
            }
        }
        return Ok(());
    }
    let file = File::open(path).with_context(failed)?;
    // Pages that are not written yet cannot be dropped.
    file.sync_all().with_context(failed)?;
    fadvise(&file, 0, None, Advice::DontNeed).with_context(failed)
}

/// Scores one pair of `tokens` tokens, says so, and prints the receipt.
fn once(tokens: usize, config: &Config, started: Instant) -> anyhow::Result<ExitCode> {
    let plan = setup::model(config)?;
    let pool = setup::pool(config)?;
    let (engine, encode, score) = pool.install(|| {
        let settings = Settings {
            started,
            ..plan.settings
        };
        let engine = Engine::open(&plan.path, settings).context("cannot load the model")?;
        let begun = Instant::now();
        let request = Request {
            max_length: Some(tokens),
            truncation: Some(Truncation::LongestFirst),
            ..Request::new(vec![pair(tokens)])
        };
        engine.check(&request)?;
        let scores = engine.score(&request)?;
        let score = scores.into_iter().next().context("no score")?;
        anyhow::Ok((engine, Span::since(begun, started), score))
    })?;
    let mut out = output::stdout();
    writeln!(out, "{}", score.logit)?;
    out.flush()?;
    let (receipt, usage) = (engine.receipt(), Usage::now());
    let mut spans = vec![
        Step::new("process", receipt.load.process),
        Step::new("tokenizer", receipt.load.tokenizer),
        Step::new("weights", receipt.load.weights),
        Step::new("prefetch", receipt.prefetch.span),
    ];
    if let Some(inference) = receipt.first_inference {
        let before = Span {
            start: encode.start,
            time: inference.start.saturating_sub(encode.start),
        };
        spans.push(Step::new("encode", before));
        spans.push(Step::new("inference", inference));
    }
    let info = engine.info();
    let start = Start {
        engine: format!(
            "reranker {} {}",
            info.precision,
            info.gpu
                .as_ref()
                .map_or(info.instruction_set, |gpu| &gpu.name)
        ),
        tokens: score.tokens,
        logit: score.logit,
        needed_bytes: receipt.prefetch.planned_bytes,
        usage,
        spans,
    };
    writeln!(out, "{}", serde_json::to_string(&start)?)?;
    Ok(ExitCode::SUCCESS)
}

const QUERY: &str = "When does the town library open at the weekend?";
/// Ordinary words, so that as many different rows of the embeddings are read as a real passage
/// reads.
const PASSAGE: &str = "The old library beside the market square keeps longer hours in winter, because students from the \
    nearby college study there until late evening. From Monday to Friday its doors open at nine and close at eight; on \
    Saturdays visitors may enter between ten and four, while Sundays remain reserved for guided tours, children's readings \
    and concerts held under the glass roof. Borrowed volumes can be returned through a slot next to the bicycle stand at any \
    hour, and a small café sells coffee, soup and fresh bread near the newspaper room. Anyone who lives within the county \
    receives a card without charge, provided that some document proves the address; guests pay five euros each year. \
    Librarians help with genealogy, tax forms, printing, microfilm and interlibrary loans, but they ask that telephones stay \
    silent, that dogs wait outside, and that rare maps never leave the archive.";

/// A pair that is at least `tokens` tokens long; `max_length` cuts the rest off.
fn pair(tokens: usize) -> Pair {
    let words: Vec<&str> = PASSAGE.split_whitespace().cycle().take(tokens).collect();
    Pair {
        query: QUERY.into(),
        document: words.join(" ").into(),
    }
}
