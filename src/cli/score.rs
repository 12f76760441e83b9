//! `reranker score`: scores from the command line, for one query or for a JSONL file of pairs.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, IsTerminal, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};

use super::{Usage, setup};
use crate::config::Config;
use crate::error::Invalid;
use crate::rerank::{Limits, Pair, Request, Score, Selection, Truncation};
use crate::service::Engine;

#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["query", "jsonl"]))]
pub struct Args {
    /// The query; prints each passage's score, best first.
    #[arg(long, requires = "passages")]
    query: Option<String>,
    /// The passages for --query.
    passages: Vec<String>,
    /// Read pairs from this file ("-" for stdin), one JSON object a line: {"query": …, "passage": …}, and "id" if you like.
    #[arg(long, value_name = "FILE", conflicts_with = "passages")]
    jsonl: Option<PathBuf>,
    /// Write one JSON line a pair, in the same order, to this file instead of stdout. A file that an interrupted run left is
    /// continued where it ends.
    #[arg(long, value_name = "FILE", requires = "jsonl")]
    out: Option<PathBuf>,
    /// Print logits instead of their sigmoids.
    #[arg(long)]
    raw: bool,
    /// Longest sequence in tokens; MAX_LENGTH where it is not given.
    #[arg(long)]
    max_length: Option<usize>,
    /// How longer pairs are cut: longest_first or flag; TRUNCATION where it is not given.
    #[arg(long, value_parser = Truncation::from_str)]
    truncation: Option<Truncation>,
}

/// Pairs that are scored together: enough to fill a forward pass, few enough that an interruption loses little.
const CHUNK: usize = 256;

#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    id: Option<serde_json::Value>,
    query: String,
    passage: String,
}

#[derive(Serialize)]
struct Scored {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<serde_json::Value>,
    score: f64,
    logit: f32,
    tokens: usize,
    truncated: bool,
}

pub fn run(args: &Args, config: &Config) -> anyhow::Result<ExitCode> {
    let (engine, pool) = setup::engine(config)?;
    let scorer = Scorer {
        args,
        limits: setup::limits(config),
        engine,
    };
    pool.install(|| match (&args.query, &args.jsonl) {
        (Some(query), _) => scorer.passages(query),
        (None, Some(input)) => scorer.lines(input),
        (None, None) => Err(Usage("give --query or --jsonl".into()).into()),
    })?;
    Ok(ExitCode::SUCCESS)
}

struct Scorer<'a> {
    args: &'a Args,
    limits: Limits,
    engine: Engine,
}

impl Scorer<'_> {
    fn score(&self, pairs: Vec<Pair>) -> anyhow::Result<Vec<Score>> {
        let request = Request {
            max_length: self.args.max_length,
            truncation: self.args.truncation,
            ..Request::new(pairs)
        };
        self.engine
            .check(&request)
            .map_err(|invalid| Usage(invalid.to_string()))?;
        Ok(self.engine.score(&request)?)
    }

    fn passages(&self, query: &str) -> anyhow::Result<()> {
        let usage = |invalid: Invalid| Usage(invalid.to_string());
        self.limits
            .check_query(|| "--query".into(), query)
            .map_err(usage)?;
        let query: Arc<str> = query.into();
        let passages = &self.args.passages;
        let mut pairs = Vec::with_capacity(passages.len());
        for (index, passage) in passages.iter().enumerate() {
            self.limits
                .check_text(|| format!("passage {}", index + 1), passage)
                .map_err(usage)?;
            pairs.push(Pair {
                query: Arc::clone(&query),
                document: passage.as_str().into(),
            });
        }
        let scores = self.score(pairs)?;
        let all = Selection {
            top: None,
            min_score: None,
            normalize: !self.args.raw,
        };
        let mut out = std::io::stdout().lock();
        for ranked in all.best_first(&scores) {
            let cut = if ranked.score.truncated() {
                " (cut)"
            } else {
                ""
            };
            let passage = &passages[ranked.index];
            writeln!(out, "{:>9.5}  {passage}{cut}", ranked.value)?;
        }
        Ok(())
    }

    fn lines(&self, input: &Path) -> anyhow::Result<()> {
        let (mut out, done): (Box<dyn Write>, usize) = match &self.args.out {
            Some(path) => {
                let (file, done) = resume(path)?;
                (Box::new(BufWriter::new(file)), done)
            }
            None => (Box::new(BufWriter::new(std::io::stdout().lock())), 0),
        };
        let (reader, progress): (Box<dyn BufRead>, ProgressBar) = if input == Path::new("-") {
            (Box::new(std::io::stdin().lock()), spinner())
        } else {
            let file = File::open(input).with_context(|| format!("{}", input.display()))?;
            let size = file
                .metadata()
                .with_context(|| format!("{}", input.display()))?
                .len();
            let progress = bar(size);
            let reader = progress.wrap_read(file);
            (Box::new(BufReader::new(reader)), progress)
        };
        if done > 0 {
            progress.println(format!("{done} pairs are scored already"));
        }
        let mut chunk = Vec::new();
        let mut scored = 0;
        for (index, line) in reader.lines().enumerate() {
            let number = index + 1;
            let line = line.with_context(|| format!("{}, line {number}", input.display()))?;
            if line.trim().is_empty() {
                continue;
            }
            scored += 1;
            if scored <= done {
                continue;
            }
            match self.parse(&line) {
                Ok(line) => chunk.push(line),
                Err(error) => {
                    // What came before it is scored and written, so that a mended file can be continued.
                    self.write(&mut out, chunk)?;
                    return Err(error.context(format!("{}, line {number}", input.display())));
                }
            }
            if chunk.len() == CHUNK {
                self.write(&mut out, std::mem::take(&mut chunk))?;
            }
        }
        self.write(&mut out, chunk)?;
        progress.finish_and_clear();
        Ok(())
    }

    fn parse(&self, line: &str) -> anyhow::Result<Line> {
        let line: Line = match serde_json::from_str(line) {
            Ok(line) => line,
            Err(error) => bail!(
                "not an object with the texts \"query\" and \"passage\" (column {})",
                error.column()
            ),
        };
        self.limits
            .check_query(|| "query".into(), &line.query)
            .and_then(|()| self.limits.check_text(|| "passage".into(), &line.passage))?;
        Ok(line)
    }

    fn write(&self, out: &mut dyn Write, lines: Vec<Line>) -> anyhow::Result<()> {
        let mut ids = Vec::with_capacity(lines.len());
        let mut pairs = Vec::with_capacity(lines.len());
        for line in lines {
            ids.push(line.id);
            pairs.push(Pair {
                query: line.query.into(),
                document: line.passage.into(),
            });
        }
        for (id, score) in ids.into_iter().zip(self.score(pairs)?) {
            let scored = Scored {
                id,
                score: score.value(!self.args.raw),
                logit: score.logit,
                tokens: score.tokens,
                truncated: score.truncated(),
            };
            serde_json::to_writer(&mut *out, &scored)?;
            out.write_all(b"\n")?;
        }
        out.flush()?;
        Ok(())
    }
}

/// Opens the output for appending after its last whole line, and counts the lines that are there.
fn resume(path: &Path) -> anyhow::Result<(File, usize)> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .with_context(|| format!("{}", path.display()))?;
    let (mut lines, mut whole) = (0, 0u64);
    let mut reader = BufReader::new(&file);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader
            .read_until(b'\n', &mut line)
            .with_context(|| format!("{}", path.display()))?;
        if read == 0 || line.last() != Some(&b'\n') {
            break;
        }
        lines += 1;
        whole += read as u64;
    }
    // What a killed run wrote half is written again.
    file.set_len(whole)
        .and_then(|()| file.seek(SeekFrom::Start(whole)))
        .with_context(|| format!("{}", path.display()))?;
    Ok((file, lines))
}

fn bar(bytes: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = "{bar:30} {percent:>3}% {bytes}/{total_bytes} {elapsed} eta {eta}";
    ProgressBar::new(bytes).with_style(
        ProgressStyle::with_template(style).expect("a fixed template with known placeholders"),
    )
}

fn spinner() -> ProgressBar {
    if std::io::stderr().is_terminal() {
        ProgressBar::new_spinner()
    } else {
        ProgressBar::hidden()
    }
}
