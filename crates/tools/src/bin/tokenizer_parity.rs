//! Compares the compiled form of a `tokenizer.json` with Hugging Face's crate on much text, and
//! measures both.
//!
//! `tokenizer_parity check TOKENIZER.json [--texts PATH]… [--fuzz N]` compares ids of single texts
//! and of joined pairs: of every string in the JSON lines and every line of the other text files
//! below each path, and of N odd texts. Then it times both.
//! `tokenizer_parity compile TOKENIZER.json OUT` writes the compiled form;
//! `tokenizer_parity open OUT` tells what opening it costs.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use clap::Parser;
use reranker_domain::Truncation;
use reranker_engine::tokenizer::{Compilation, PairTokenizer, compile};
use reranker_engine::weights::Mapped;

#[path = "../../../../tests/it/support/texts.rs"]
mod texts;

use texts::Texts;

#[derive(Parser)]
enum Command {
    /// Compare ids, then time both forms.
    Check {
        tokenizer: PathBuf,
        /// A file or folder with texts.
        #[arg(long)]
        texts: Vec<PathBuf>,
        /// Odd texts to make up.
        #[arg(long, default_value_t = 0)]
        fuzz: usize,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Write the compiled form.
    Compile { tokenizer: PathBuf, out: PathBuf },
    /// Time opening the compiled form and encoding a first text, and tell the memory that each
    /// took.
    Open { compiled: PathBuf },
}

fn main() -> anyhow::Result<()> {
    match Command::parse() {
        Command::Check {
            tokenizer,
            texts,
            fuzz,
            seed,
        } => check(&tokenizer, &texts, fuzz, seed),
        Command::Compile { tokenizer, out } => Ok(std::fs::write(out, compiled(&tokenizer)?)?),
        Command::Open { compiled } => open(&compiled),
    }
}

fn compiled(tokenizer: &Path) -> anyhow::Result<Vec<u8>> {
    let json = std::fs::read(tokenizer).with_context(|| tokenizer.display().to_string())?;
    let start = Instant::now();
    match compile(&json)? {
        Compilation::Compiled(bytes) => {
            println!("compiled in {:.2?}: {} bytes", start.elapsed(), bytes.len());
            Ok(bytes)
        }
        Compilation::Refused(reason) => bail!("{}: not compiled: {reason}", tokenizer.display()),
    }
}

fn check(path: &Path, folders: &[PathBuf], fuzz: usize, seed: u64) -> anyhow::Result<()> {
    let ours = PairTokenizer::from_compiled(compiled(path)?.into(), path)?;
    let start = Instant::now();
    let theirs = PairTokenizer::load(path)?;
    println!("Hugging Face's crate loads it in {:.2?}", start.elapsed());
    ensure!(ours.id_bound() == theirs.id_bound(), "other vocabularies");
    ensure!(
        ours.special_tokens() == theirs.special_tokens(),
        "other templates"
    );

    let mut given = Vec::new();
    for folder in folders {
        collect(folder, &mut given)?;
    }
    let bytes: usize = given.iter().map(String::len).sum();
    println!("{} texts, {:.1} MB", given.len(), bytes as f64 / 1e6);
    let tokens = compare(&ours, &theirs, given.iter().cloned())?;
    println!(
        "equal: {} texts and {} pairs, {tokens} tokens",
        given.len(),
        given.len()
    );
    let tokens = compare(&ours, &theirs, Texts::new(seed).take(fuzz))?;
    println!("equal: {fuzz} odd texts and {fuzz} pairs, {tokens} tokens");

    let odd: Vec<String> = Texts::new(seed ^ 0x5eed).take(fuzz.min(20_000)).collect();
    for (name, texts) in [("texts", &given), ("odd texts", &odd)] {
        if texts.is_empty() {
            continue;
        }
        let mut rates = Vec::new();
        for (form, tokenizer) in [("compiled", &ours), ("Hugging Face", &theirs)] {
            let rate = fastest_rate(tokenizer, texts)?;
            println!("{name}: {form} {rate:.1} MB/s on one thread");
            rates.push(rate);
        }
        println!("{name}: {:.1} times as fast", rates[0] / rates[1]);
    }
    Ok(())
}

/// Strings of JSON lines, lines and the whole of other text files.
fn collect(path: &Path, texts: &mut Vec<String>) -> anyhow::Result<()> {
    if path.is_dir() {
        let mut entries: Vec<PathBuf> = std::fs::read_dir(path)?
            .map(|entry| Ok(entry?.path()))
            .collect::<std::io::Result<_>>()?;
        entries.sort();
        for entry in entries {
            collect(&entry, texts)?;
        }
        return Ok(());
    }
    let Ok(content) = std::fs::read_to_string(path) else {
        println!("{}: not text, left out", path.display());
        return Ok(());
    };
    if path.extension().is_some_and(|e| e == "jsonl") {
        for line in content.lines() {
            let value = serde_json::from_str(line).with_context(|| path.display().to_string())?;
            strings(value, texts);
        }
    } else {
        texts.extend(content.lines().map(str::to_owned));
        texts.push(content);
    }
    Ok(())
}

fn strings(value: serde_json::Value, texts: &mut Vec<String>) {
    match value {
        serde_json::Value::String(text) => texts.push(text),
        serde_json::Value::Array(values) => values.into_iter().for_each(|v| strings(v, texts)),
        serde_json::Value::Object(map) => map.into_iter().for_each(|(_, v)| strings(v, texts)),
        _ => {}
    }
}

/// Fails at the first difference; each text is also joined with the one before it.
fn compare(
    ours: &PairTokenizer,
    theirs: &PairTokenizer,
    texts: impl Iterator<Item = String>,
) -> anyhow::Result<usize> {
    let mut before = theirs.encode("")?;
    let mut tokens = 0;
    for (index, text) in texts.enumerate() {
        let (found, expected) = (ours.encode(&text)?, theirs.encode(&text)?);
        if found != expected {
            bail!(
                "text {index} {text:?}: found {:?}, expected {:?}",
                found.ids(),
                expected.ids()
            );
        }
        let max_length = [0, 16, 128, 512, 8192][index % 5];
        let rule = [Truncation::LongestFirst, Truncation::Flag][index % 2];
        let joined = ours.join(&before, &found, max_length, rule)?;
        ensure!(
            joined == theirs.join(&before, &expected, max_length, rule)?,
            "pair {index}"
        );
        tokens += found.tokens();
        before = found;
    }
    Ok(tokens)
}

/// MB/s of the fastest of three rounds.
fn fastest_rate(tokenizer: &PairTokenizer, texts: &[String]) -> anyhow::Result<f64> {
    let bytes: usize = texts.iter().map(String::len).sum();
    let mut fastest = f64::INFINITY;
    for _ in 0..3 {
        let start = Instant::now();
        for text in texts {
            std::hint::black_box(tokenizer.encode(text)?);
        }
        fastest = fastest.min(start.elapsed().as_secs_f64());
    }
    Ok(bytes as f64 / 1e6 / fastest)
}

/// A mapped file that `Bytes` can own.
struct Owner(Mapped);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

fn open(path: &Path) -> anyhow::Result<()> {
    let before = resident_kib();
    let start = Instant::now();
    let bytes = Bytes::from_owner(Owner(Mapped::open(path)?));
    let mapped = start.elapsed();
    let tokenizer = PairTokenizer::from_compiled(bytes, path)?;
    let opened = start.elapsed();
    let resident = resident_kib();
    let tokens = tokenizer
        .encode("What a cold start costs: 何ミリ秒? сколько памяти?")?
        .tokens();
    let first = start.elapsed();
    let told = |now: Option<i64>| match (now, before) {
        (Some(now), Some(before)) => format!("{} KiB", now - before),
        _ => "an amount that this system does not tell".into(),
    };
    println!(
        "mapped after {mapped:.1?}, opened after {opened:.1?}, {} more resident",
        told(resident)
    );
    println!(
        "{tokens} tokens after {first:.1?}, {} more resident",
        told(resident_kib())
    );
    Ok(())
}

/// Resident memory of this process, pages of mapped files included.
fn resident_kib() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}
