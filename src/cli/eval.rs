//! `reranker eval`: how well models rank the candidates of retrieval test sets, side by side, and
//! how far apart their scores are.
//!
//! A *run* is a model at a precision. Every run scores the same candidates through the engine that
//! serves requests; the first is the reference that the others are compared with.

pub mod metrics;

mod kept;
mod report;
mod testset;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, ensure};
use indicatif::ProgressBar;
use serde_json::{Map, Value};

use self::kept::{About, Kept, QueryScores};
use self::report::{Figures, Table};
use self::testset::{Selection, TestQuery, TestSet};
use super::origin::Origin;
use super::output::note;
use super::pack::MAX_SCORE_BOUND;
use super::{Usage, output, setup};
use crate::config::Config;
use reranker_domain::{Pair, Request, sigmoid};
use reranker_engine::Engine;

#[derive(clap::Args)]
#[command(after_help = LEGEND)]
pub struct Args {
    /// Folder of a test set (its files are below), or a folder of such folders. Can be repeated.
    #[arg(long, value_name = "DIR", required = true)]
    data: Vec<PathBuf>,
    /// Only these sets, by the names of their folders [default: all that have the split].
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    sets: Vec<String>,
    /// Split of the judgements and candidates.
    #[arg(long, default_value = "test")]
    split: String,
    /// File of judgements in BEIR's or TREC's form, relative to each set's folder [default:
    /// qrels/SPLIT.tsv].
    #[arg(long, value_name = "FILE")]
    qrels: Option<PathBuf>,
    /// File of candidates as JSON lines or a TREC run, relative to each set's folder [default:
    /// candidates.SPLIT.jsonl]. A set without one is ranked whole.
    #[arg(long, value_name = "FILE")]
    candidates: Option<PathBuf>,
    /// Only the first N queries of each set.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    queries: Option<u32>,
    /// Model folder, packed file, address in S3, or hub id in the local Hugging Face cache
    /// [default: the configured model]. Several models are compared with the first.
    #[arg(long = "model", value_name = "DIR|ID")]
    models: Vec<String>,
    /// Write a JSON line for each set and model to this file when it is finished; "-" for stdout
    /// instead of the table.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Keep all scores in this folder, one file for each set and model. A later run continues from
    /// them.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// Queries are scored together until they have this many pairs: enough to fill a forward pass, few
/// enough that an interruption loses little.
const CHUNK: usize = 256;
/// Kept scores are trusted where one query, scored again, differs by no more; in f32 instruction
/// sets differ by less than 1e-4.
const SAME_LOGIT: f32 = 1e-3;
/// The same below f32, in scores: instruction sets, and batches on a GPU, differ by no more than
/// the precision does from f32.
const SAME_SCORE: f64 = MAX_SCORE_BOUND;

/// What goes in and what comes out; docs/guides/scoring.md says the same at more length.
const LEGEND: &str = r#"Files of a set's folder:
  corpus.jsonl            {"_id": "d1", "title": "…", "text": "…"} a line; a title is put before its text
  queries.jsonl           {"_id": "q1", "text": "…"} a line
  qrels/SPLIT.tsv         query-id, corpus-id and score with tabs between, below a header line; or TREC qrels: q1 0 d1 2
  candidates.SPLIT.jsonl  {"query_id": "q1", "candidates": ["d7", "d1"]} a line, best first; or a TREC run, as candidates.SPLIT.trec
                          or any file that --candidates names: q1 Q0 d7 1 14.9 bm25

Columns of the table:
  ranked by        "as given" is the order of the candidates, each other row a model
  queries, pairs   queries that have something relevant to find, and their candidates
  nDCG@10, MRR@10  means over the queries, 1 is best; a relevant document that is no candidate counts as missed
  rel>0.5 oth>0.5  share of the relevant candidates, and of the others, with a score above 0.5
  pairs/s          speed; "kept" if --keep had all scores
  tau-b            Kendall's rank correlation with the first model, mean over the queries
  dscore max       difference of scores from the first model's, on average and at most
  dlogit max       the same of logits
  dnDCG@10         nDCG@10 less the first model's"#;

/// A model at a precision.
struct Run {
    engine: Engine,
    /// Tells the runs apart in tables and file names.
    label: String,
    origin: Origin,
}

/// What a run made of a set.
struct Scored {
    queries: Vec<QueryScores>,
    /// What was not kept from an earlier call, and how long it took.
    fresh_pairs: usize,
    fresh_tokens: usize,
    seconds: f64,
}

pub fn run(args: &Args, config: &Config) -> anyhow::Result<ExitCode> {
    let selection = Selection {
        split: &args.split,
        qrels: args.qrels.as_deref(),
        candidates: args.candidates.as_deref(),
        queries: args.queries.map(|count| count as usize),
    };
    let sets = testset::find(&args.data, &args.sets, &selection)?
        .iter()
        .map(|folder| testset::read(folder, &selection))
        .collect::<anyhow::Result<Vec<TestSet>>>()?;
    let pool = setup::pool(config)?;
    let runs = load(&args.models, config, &pool)?;
    if let Some(folder) = &args.keep {
        std::fs::create_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
    }
    let mut output = Output::open(args, &sets, &runs)?;
    let pairs = sets.iter().map(TestSet::pairs).sum::<usize>() * runs.len();
    let progress = output::pairs_bar(Some(pairs as u64));
    for set in &sets {
        let mut first: Option<Scored> = None;
        for run in &runs {
            progress.set_message(format!("{} {}", set.name, run.label));
            let kept = args
                .keep
                .as_deref()
                .map(|folder| open_kept(folder, &args.split, set, run))
                .transpose()?;
            let scored = pool
                .install(|| score(set, run, kept, &progress))
                .with_context(|| format!("{}, {}", set.name, run.label))?;
            let threads = pool.current_num_threads();
            let reference = first.as_ref().map(|scored| (&runs[0], scored));
            let figures = Figures::of(set, &args.split, threads, run, &scored, reference);
            progress.suspend(|| output.add(figures, &run.label))?;
            first.get_or_insert(scored);
        }
    }
    progress.finish_and_clear();
    output.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// Loads every run before any is measured, so that a wrong folder is told at once and not after
/// hours.
fn load(models: &[String], config: &Config, pool: &rayon::ThreadPool) -> anyhow::Result<Vec<Run>> {
    let mut configs: Vec<Config> = models
        .iter()
        .map(|model| setup::with_model(config, model))
        .collect();
    if configs.is_empty() {
        configs.push(config.clone());
    }
    let mut runs: Vec<Run> = Vec::new();
    for config in configs {
        let engine = setup::load(&config, pool)?;
        let info = engine.info();
        let label = format!("{} {}", info.name, info.precision);
        let same = |run: &&Run| {
            let other = run.engine.info();
            (&other.name, other.precision) == (&info.name, info.precision)
        };
        let label = match runs.iter().filter(same).count() {
            0 => label,
            before => format!("{label} ({})", before + 1),
        };
        let origin = Origin::of(&engine)?;
        runs.push(Run {
            engine,
            label,
            origin,
        });
    }
    Ok(runs)
}

fn open_kept(folder: &Path, split: &str, set: &TestSet, run: &Run) -> anyhow::Result<Kept> {
    let about = About {
        set: set.name.clone(),
        split: split.to_owned(),
        origin: run.origin.clone(),
    };
    let name: String = format!("{} {split} {}", set.name, run.label)
        .chars()
        .map(|c| {
            if c.is_alphanumeric() || "-_.".contains(c) {
                c
            } else {
                '+'
            }
        })
        .collect();
    Kept::open(folder.join(name + ".jsonl"), &about, &set.queries)
}

fn score(
    set: &TestSet,
    run: &Run,
    mut kept: Option<Kept>,
    progress: &ProgressBar,
) -> anyhow::Result<Scored> {
    let done = kept.as_mut().map(|kept| std::mem::take(&mut kept.done));
    let mut scored = Scored {
        queries: done.unwrap_or_default(),
        fresh_pairs: 0,
        fresh_tokens: 0,
        seconds: 0.0,
    };
    if let (Some(kept), Some(earlier)) = (&kept, scored.queries.first()) {
        check(kept.path(), earlier, &set.queries[..1], &run.engine)?;
    }
    let pairs = |queries: &[TestQuery]| queries.iter().map(|q| q.candidates.len()).sum::<usize>();
    let (before, mut rest) = set.queries.split_at(scored.queries.len());
    progress.inc(pairs(before) as u64);
    progress.reset_eta();
    while !rest.is_empty() {
        let count = (1..rest.len())
            .find(|&count| pairs(&rest[..count]) >= CHUNK)
            .unwrap_or(rest.len());
        let (chunk, later) = rest.split_at(count);
        let start = Instant::now();
        let scores = scores(&run.engine, chunk)?;
        scored.seconds += start.elapsed().as_secs_f64();
        if scored.fresh_pairs == 0 {
            let left = scored.seconds / pairs(chunk) as f64 * pairs(later) as f64;
            if left >= WORTH_TELLING_S {
                note!(
                    "{}, {}: {} pairs are left, about {}",
                    set.name,
                    run.label,
                    pairs(later),
                    time(left)
                );
            }
        }
        scored.fresh_pairs += pairs(chunk);
        scored.fresh_tokens += scores.iter().map(|scores| scores.tokens).sum::<usize>();
        if let Some(kept) = &mut kept {
            kept.add(&scores)?;
        }
        scored.queries.extend(scores);
        progress.inc(pairs(chunk) as u64);
        rest = later;
    }
    Ok(scored)
}

/// From so many seconds on it is said before how long a set will take.
const WORTH_TELLING_S: f64 = 60.0;

fn time(seconds: f64) -> String {
    match seconds {
        ..600.0 => format!("{seconds:.0} s"),
        ..7200.0 => format!("{:.0} min", seconds / 60.0),
        _ => format!("{:.1} h", seconds / 3600.0),
    }
}

/// A file may have the right name and come from other weights: its first query must score as it
/// says.
fn check(
    path: &Path,
    earlier: &QueryScores,
    query: &[TestQuery],
    engine: &Engine,
) -> anyhow::Result<()> {
    let now = scores(engine, query)?;
    let same = |a: f32, b: f32| match engine.info().precision {
        "f32" => (a - b).abs() <= SAME_LOGIT,
        _ => (sigmoid(a) - sigmoid(b)).abs() <= SAME_SCORE,
    };
    let mut pairs = now[0].logits.iter().zip(&earlier.logits);
    let differs = pairs.any(|(now, earlier)| !same(*now, *earlier));
    ensure!(
        !differs,
        "{}: its scores are not this model's: remove it or keep scores elsewhere",
        path.display()
    );
    Ok(())
}

/// The candidates' logits, in one request, as a caller of the service would get them.
fn scores(engine: &Engine, queries: &[TestQuery]) -> anyhow::Result<Vec<QueryScores>> {
    let pairs = queries.iter().flat_map(|query| {
        query.candidates.iter().map(|document| Pair {
            query: Arc::clone(&query.text),
            document: Arc::clone(document),
        })
    });
    let request = Request::new(pairs.collect());
    let scores = engine.score(&request)?;
    let mut rest = scores.as_slice();
    Ok(queries
        .iter()
        .map(|query| {
            let (of_query, later) = rest.split_at(query.candidates.len());
            rest = later;
            QueryScores {
                query: query.id.clone(),
                logits: of_query.iter().map(|score| score.logit).collect(),
                tokens: of_query.iter().map(|score| score.tokens).sum(),
                truncated: of_query.iter().filter(|score| score.truncated()).count(),
            }
        })
        .collect())
}

/// Where figures go, each as soon as it is known.
struct Output {
    table: Option<Table>,
    json: Option<Box<dyn Write>>,
}

impl Output {
    fn open(args: &Args, sets: &[TestSet], runs: &[Run]) -> anyhow::Result<Self> {
        let to_stdout = args.json.as_deref() == Some(Path::new("-"));
        let json: Option<Box<dyn Write>> = match &args.json {
            Some(_) if to_stdout => Some(Box::new(output::stdout())),
            Some(path) => {
                if !may_be_written(path) {
                    let what = format!(
                        "--json {}: the file exists and is not from `eval`: choose another one, or remove it",
                        path.display()
                    );
                    return Err(Usage(what).into());
                }
                let file = File::create(path).with_context(|| format!("{}", path.display()))?;
                Some(Box::new(file))
            }
            None => None,
        };
        let table =
            (!to_stdout).then(|| Table::new(sets.iter().map(|set| set.name.as_str()), runs));
        if let Some(table) = &table {
            table.head(&mut output::stdout())?;
        }
        Ok(Self { table, json })
    }

    fn add(&mut self, figures: Figures, label: &str) -> anyhow::Result<()> {
        if let Some(json) = &mut self.json {
            let mut line = serde_json::to_vec(&figures)?;
            line.push(b'\n');
            json.write_all(&line)?;
            json.flush()?;
        }
        if let Some(table) = &mut self.table {
            table.add(&mut output::stdout(), figures, label)?;
        }
        Ok(())
    }

    fn finish(&self) -> anyhow::Result<()> {
        if let Some(table) = &self.table {
            table.foot(&mut output::stdout())?;
        }
        Ok(())
    }
}

/// Whether nothing is lost where the file is written anew: it is not there, no plain file, empty,
/// or has figures of an earlier call.
fn may_be_written(path: &Path) -> bool {
    let length = match std::fs::metadata(path) {
        Ok(meta) if meta.is_file() => meta.len(),
        _ => return true,
    };
    let Ok(file) = File::open(path) else {
        return false;
    };
    let mut line = Vec::new();
    let read = BufReader::new(file.take(FIGURES_BYTES)).read_until(b'\n', &mut line);
    let figures: Option<Map<String, Value>> = serde_json::from_slice(&line).ok();
    length == 0 || (read.is_ok() && figures.is_some_and(|it| it.contains_key("ndcg_at_10")))
}

/// Much more than a line of figures has.
const FIGURES_BYTES: u64 = 1 << 16;
