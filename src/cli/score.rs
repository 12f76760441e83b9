//! `reranker score`: scores from the command line, for one query or for a JSONL file of pairs.

mod gzip;
mod input;
mod kept;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Seek, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::ProgressBar;
use serde::Serialize;
use serde_json::value::RawValue;

use self::input::{Line, Lines};
use self::kept::{About, Kept, identity};
use super::origin::Origin;
use super::output::{self, note};
use super::{ModelArg, Usage, setup};
use crate::config::Config;
use reranker_domain::{Error, Field, Limits, Pair, Refusal, Request, Score, Selection, Truncation};
use reranker_engine::Engine;

#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["query", "jsonl"]))]
pub struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// The query; prints each passage's score, best first.
    #[arg(long, requires = "passages")]
    query: Option<String>,
    /// The passages for --query.
    passages: Vec<String>,
    /// Read pairs from this file ("-" for stdin), one JSON object a line: {"query": …, "passage":
    /// …}, with an optional "id". A line that cannot be scored gets a row with "error" instead of
    /// "score", and the exit code is 1. Gzip is unpacked.
    #[arg(long, value_name = "FILE", conflicts_with = "passages")]
    jsonl: Option<PathBuf>,
    /// Write one JSON line for each pair, in the same order, to this file instead of stdout. An
    /// interrupted run is continued where its file ends, and rows with "error" are tried again.
    /// FILE.about has the model and the settings; a file of another model or other settings is
    /// refused. If FILE ends in .gz, the rows are in FILE without .gz until the run ends.
    #[arg(long, value_name = "FILE", requires = "jsonl")]
    out: Option<PathBuf>,
    /// Print logits instead of their sigmoids.
    #[arg(long)]
    raw: bool,
    /// Maximum length of a sequence in tokens [default: MAX_LENGTH].
    #[arg(long)]
    max_length: Option<usize>,
    /// Rule for longer pairs: longest_first, flag or none [default: TRUNCATION].
    #[arg(long, value_parser = Truncation::from_str)]
    truncation: Option<Truncation>,
}

/// Most pairs that are scored together: enough to fill forward passes.
const MOST: usize = 256;
/// The first ones, by which the speed is measured.
const FIRST: usize = 16;
/// So long may it take until scores are written: an interruption loses little, and whoever looks on
/// sees that it goes on.
const CHUNK_TIME: Duration = Duration::from_secs(1);

/// A row of the output.
#[derive(Serialize)]
struct Scored<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a RawValue>,
    score: f64,
    logit: f32,
    tokens: usize,
    truncated: bool,
}

/// A row of what could not be scored. It has no `score`, so nothing takes it for one.
#[derive(Serialize)]
struct Failed<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a RawValue>,
    line: usize,
    error: Reason<'a>,
}

#[derive(Serialize)]
struct Reason<'a> {
    code: &'a str,
    message: &'a str,
}

pub fn run(args: &Args, config: &Config) -> anyhow::Result<ExitCode> {
    let config = &args.model.config(config);
    let (engine, pool) = setup::engine(config)?;
    let scorer = Scorer {
        args,
        limits: setup::limits(config),
        engine,
    };
    pool.install(|| match (&args.query, &args.jsonl) {
        (Some(query), _) => scorer.passages(query),
        (None, Some(input)) => Bulk::new(&scorer, input, config.max_body_bytes)?.run(),
        (None, None) => Err(Usage("give --query or --jsonl".into()).into()),
    })
}

struct Scorer<'a> {
    args: &'a Args,
    limits: Limits,
    engine: Engine,
}

impl Scorer<'_> {
    fn request(&self, pairs: Vec<Pair>) -> Request {
        Request {
            max_length: self.args.max_length,
            truncation: self.args.truncation,
            ..Request::new(pairs)
        }
    }

    fn passages(&self, query: &str) -> anyhow::Result<ExitCode> {
        let said = |refusal: &Refusal| refusal.message(named);
        let usage = |refusal: Refusal| Usage(said(&refusal));
        self.limits
            .check_query(Field::Query(0), query)
            .map_err(usage)?;
        let query: Arc<str> = query.into();
        let passages = &self.args.passages;
        let mut pairs = Vec::with_capacity(passages.len());
        for (index, passage) in passages.iter().enumerate() {
            self.limits
                .check_text(Field::Document(index), passage)
                .map_err(usage)?;
            pairs.push(Pair {
                query: Arc::clone(&query),
                document: passage.as_str().into(),
            });
        }
        let request = self.request(pairs);
        self.engine.check(&request).map_err(usage)?;
        let scores = match self.engine.score(&request) {
            Err(Error::Invalid(refusal)) => anyhow::bail!(said(&refusal)),
            scores => scores?,
        };
        let all = Selection {
            top: None,
            min_score: None,
            normalize: !self.args.raw,
        };
        let mut out = output::stdout();
        for ranked in all.best_first(&scores) {
            let cut = if ranked.score.truncated() {
                " (cut)"
            } else {
                ""
            };
            let passage = &passages[ranked.index];
            writeln!(out, "{:>9.5}  {passage}{cut}", ranked.value)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// The scores of pairs that were checked, or what is wrong with each. One that the model
    /// refuses spoils no other.
    fn each(&self, pairs: &[Pair]) -> anyhow::Result<Vec<Result<Score, Refusal>>> {
        match self.engine.score(&self.request(pairs.to_vec())) {
            Ok(scores) => Ok(scores.into_iter().map(Ok).collect()),
            Err(Error::Invalid(refusal)) if pairs.len() == 1 => Ok(vec![Err(refusal)]),
            Err(Error::Invalid(_)) => {
                let (first, second) = pairs.split_at(pairs.len() / 2);
                let mut scores = self.each(first)?;
                scores.extend(self.each(second)?);
                Ok(scores)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// What the command line calls a field.
fn named(field: &Field) -> Cow<'static, str> {
    match field {
        Field::Query(_) => "--query".into(),
        Field::Document(index) => format!("passage {}", index + 1).into(),
        Field::MaxLength => "--max-length".into(),
        Field::Queries | Field::Documents | Field::Named(_) | Field::In(..) => {
            field.to_string().into()
        }
    }
}

/// Scores the pairs of a file, chunk by chunk.
struct Bulk<'a> {
    scorer: &'a Scorer<'a>,
    /// What the input is called.
    name: String,
    lines: Lines<Box<dyn BufRead>>,
    longest_line: usize,
    kept: Option<Kept>,
    packed: Option<gzip::Packed>,
    progress: ProgressBar,
    /// Pairs to score together, by the speed so far.
    chunk: usize,
    seconds: f64,
    scored: usize,
    cut: usize,
    failed: BTreeMap<&'static str, usize>,
}

/// Beyond the longest line, for the other fields of a row and the reason of one that failed.
const ROW_BYTES: usize = 4096;

impl<'a> Bulk<'a> {
    fn new(scorer: &'a Scorer, input: &Path, longest_line: usize) -> anyhow::Result<Self> {
        // Asked for once, because no pair changes it.
        scorer
            .engine
            .check(&scorer.request(Vec::new()))
            .map_err(|refusal| Usage(refusal.to_string()))?;
        let out = scorer.args.out.as_deref();
        let name = match input.to_str() {
            Some("-") => "stdin".to_owned(),
            _ => input.display().to_string(),
        };
        let (file, total) = open(input).with_context(|| name.clone())?;
        let read = identity(&file).with_context(|| name.clone())?;
        let (kept, mut packed) = match out {
            Some(path) => {
                let about = scorer.about()?;
                let packed = gzip::Packed::of(path, read)?;
                let kept = Kept::open(
                    packed.as_ref().map_or(path, gzip::Packed::plain),
                    &about,
                    Some(read),
                    longest_line + ROW_BYTES,
                )?;
                (Some(kept), packed)
            }
            None => {
                let written = std::io::stdout().as_fd().try_clone_to_owned();
                if file.metadata().is_ok_and(|meta| meta.is_file())
                    && written
                        .and_then(|fd| identity(&fd.into()))
                        .is_ok_and(|it| it == read)
                {
                    let what = format!("stdout is {name}, the file to read: choose another");
                    return Err(Usage(what).into());
                }
                (None, None)
            }
        };
        let (text, unpacked) = gzip::reader(input, file).with_context(|| name.clone())?;
        // Nobody knows how many lines there are before they are unpacked.
        let total = total.filter(|_| !unpacked);
        if let Some(packed) = &mut packed {
            packed.begun()?;
        }
        let progress = output::pairs_bar(total);
        Ok(Self {
            scorer,
            name,
            lines: Lines::new(text, longest_line),
            longest_line,
            kept,
            packed,
            progress,
            chunk: FIRST,
            seconds: 0.0,
            scored: 0,
            cut: 0,
            failed: BTreeMap::new(),
        })
    }

    fn run(mut self) -> anyhow::Result<ExitCode> {
        let before = self.again()?;
        let mut chunk = Vec::new();
        let mut more = false;
        while let Some(line) = self.next()? {
            if !more && before > 0 {
                note!("{before} pairs are scored already, going on with the next");
            }
            more = true;
            chunk.push(line);
            if chunk.len() == self.chunk {
                let rows = self.rows(std::mem::take(&mut chunk))?;
                self.write(rows)?;
            }
        }
        let rows = self.rows(chunk)?;
        self.write(rows)?;
        self.progress.finish_and_clear();
        self.tell(before, more);
        let is_kept = self.kept.take().is_some();
        if let Some(packed) = self.packed.take() {
            packed.finish()?;
        }
        let failed: usize = self.failed.values().sum();
        if failed == 0 {
            return Ok(ExitCode::SUCCESS);
        }
        let reasons: Vec<String> = (self.failed.iter())
            .map(|(code, count)| format!("{code} {count}"))
            .collect();
        let rerun = if is_kept {
            ": mend them and run this again, which scores only them"
        } else {
            ""
        };
        note!(
            "reranker: {failed} of {}'s lines could not be scored ({}), each row's \"error\" says why{rerun}",
            self.name,
            reasons.join(", ")
        );
        Ok(ExitCode::FAILURE)
    }

    fn next(&mut self) -> anyhow::Result<Option<Line>> {
        self.lines.next().with_context(|| self.name.clone())
    }

    /// Passes over the lines that have their rows, and tries those again that failed. How many rows
    /// there are.
    fn again(&mut self) -> anyhow::Result<usize> {
        let Some(kept) = &mut self.kept else {
            return Ok(0);
        };
        let (inputs, failed) = (
            std::mem::take(&mut kept.inputs),
            std::mem::take(&mut kept.failed),
        );
        let out = kept.named().display().to_string();
        let mut retried = Vec::new();
        let mut places = failed.iter().copied();
        let mut rows = Vec::new();
        for (index, digest) in inputs.iter().enumerate() {
            let Some(line) = self.next()? else {
                let what = format!(
                    "--out {out}: it has {} rows, but {} has only {index} lines: choose another file",
                    inputs.len(),
                    self.name
                );
                return Err(Usage(what).into());
            };
            if failed.contains(&index) {
                retried.push(line);
                if retried.len() == self.chunk {
                    rows.extend(self.rows(std::mem::take(&mut retried))?);
                }
            } else if line.digest != *digest {
                let what = format!(
                    "--out {out}: row {} was scored from another text than line {} of {} has now: choose another file",
                    index + 1,
                    line.number,
                    self.name
                );
                return Err(Usage(what).into());
            } else {
                self.progress.inc(1);
            }
        }
        rows.extend(self.rows(retried)?);
        let rows: BTreeMap<usize, (u64, String)> = places.by_ref().zip(rows).collect();
        self.progress.reset_eta();
        let before = inputs.len();
        let kept = self.kept.as_mut().expect("it was there above");
        kept.inputs = inputs;
        if !rows.is_empty() {
            note!(
                "{} rows of {out} had no score, and were tried again",
                rows.len()
            );
            kept.replace(&rows)?;
        }
        Ok(before)
    }

    /// Scores lines, and makes a row of each.
    fn rows(&mut self, lines: Vec<Line>) -> anyhow::Result<Vec<(u64, String)>> {
        let begun = Instant::now();
        let count = lines.len();
        let mut asked = Vec::with_capacity(count);
        let mut pairs = Vec::with_capacity(count);
        for line in lines {
            let (number, digest) = (line.number, line.digest);
            let line = line.parse(&self.scorer.limits, self.longest_line);
            pairs.extend(line.pair.as_ref().ok().cloned());
            asked.push((number, digest, line));
        }
        let mut scores = match pairs.is_empty() {
            true => Vec::new(),
            false => self.scorer.each(&pairs)?,
        }
        .into_iter();
        let mut rows = Vec::with_capacity(count);
        for (number, digest, line) in asked {
            let score = match line.pair {
                Ok(_) => scores.next().expect("a score for each pair"),
                Err(refusal) => Err(refusal),
            };
            let id = line.id.as_deref();
            let mut row = match score {
                Ok(score) => {
                    self.scored += 1;
                    self.cut += usize::from(score.truncated());
                    serde_json::to_string(&Scored {
                        id,
                        score: score.value(!self.scorer.args.raw),
                        logit: score.logit,
                        tokens: score.tokens,
                        truncated: score.truncated(),
                    })?
                }
                Err(refusal) => {
                    let code = refusal.code.name();
                    *self.failed.entry(code).or_default() += 1;
                    serde_json::to_string(&Failed {
                        id,
                        line: number,
                        error: Reason {
                            code,
                            message: &refusal.message(input::named),
                        },
                    })?
                }
            };
            row.push('\n');
            rows.push((digest, row));
        }
        let seconds = begun.elapsed().as_secs_f64();
        self.seconds += seconds;
        self.progress.inc(count as u64);
        // A chunk that took longer than it should makes the next one smaller, a faster one lets it
        // grow.
        let fitting = CHUNK_TIME.as_secs_f64() / (seconds / count.max(1) as f64).max(1e-6);
        // A count between the two bounds.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let fitting = fitting.clamp(1.0, MOST as f64) as usize;
        self.chunk = fitting.min(self.chunk * 4);
        Ok(rows)
    }

    fn write(&mut self, rows: Vec<(u64, String)>) -> anyhow::Result<()> {
        if let Some(kept) = &mut self.kept {
            return kept.add(&rows);
        }
        let mut out = output::stdout();
        for (_, row) in rows {
            out.write_all(row.as_bytes())?;
        }
        Ok(out.flush()?)
    }

    /// The last line, on a terminal or not: what was done, how fast, and where it is.
    fn tell(&self, before: usize, more: bool) {
        let out = match (&self.packed, &self.kept) {
            (Some(packed), _) => packed.path().display().to_string(),
            (None, Some(kept)) => kept.named().display().to_string(),
            (None, None) => "stdout".to_owned(),
        };
        if before > 0 && !more && self.scored == 0 {
            note!("{out} is complete already: {before} rows, nothing was left to score");
            return;
        }
        let speed = self.scored as f64 / self.seconds.max(1e-9);
        note!(
            "{} pairs, {:.1} s, {speed:.1}/s, {} cut -> {out}",
            self.scored,
            self.seconds,
            self.cut
        );
    }
}

impl Scorer<'_> {
    fn about(&self) -> anyhow::Result<About> {
        let info = self.engine.info();
        let mut origin = Origin::of(&self.engine)?;
        if let Some(length) = self.args.max_length {
            origin.max_length = length;
        }
        if let Some(truncation) = self.args.truncation {
            origin.truncation = truncation.to_string();
        }
        let gpu = info.gpu.as_ref().map(|gpu| gpu.name.clone());
        Ok(About {
            reranker: About::SCORES.to_owned(),
            origin,
            computed_on: gpu.unwrap_or_else(|| info.instruction_set.to_owned()),
            raw: self.args.raw,
        })
    }
}

/// Opens the input; on a terminal, and of a plain file, also says how many pairs there are.
fn open(input: &Path) -> std::io::Result<(File, Option<u64>)> {
    if input == Path::new("-") {
        let stdin = std::io::stdin().as_fd().try_clone_to_owned()?;
        return Ok((stdin.into(), None));
    }
    let mut file = File::open(input)?;
    if !file.metadata()?.is_file() || !std::io::stderr().is_terminal() {
        return Ok((file, None));
    }
    let mut count = 0;
    let mut blank = true;
    let mut reader = BufReader::with_capacity(1 << 20, &file);
    loop {
        let bytes = reader.fill_buf()?;
        if bytes.is_empty() {
            break;
        }
        for byte in bytes {
            if *byte == b'\n' {
                count += u64::from(!blank);
                blank = true;
            } else {
                blank &= byte.is_ascii_whitespace();
            }
        }
        let read = bytes.len();
        reader.consume(read);
    }
    file.rewind()?;
    Ok((file, Some(count + u64::from(!blank))))
}
