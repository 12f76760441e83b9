//! Scores of one run on one set in a file, so that a measurement that was interrupted goes on where
//! it ended.
//!
//! The first line says what was scored and how; each further one holds one query's logits. Refuses
//! a file that holds anything else; mends only a last line that was cut off.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use super::testset::TestQuery;
use crate::cli::origin::{Origin, differences};

/// What the scores in a file belong to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    pub set: String,
    pub split: String,
    #[serde(flatten)]
    pub origin: Origin,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QueryScores {
    pub query: String,
    /// One for each candidate, in their order.
    pub logits: Vec<f32>,
    /// Tokens that the model was shown, and how many pairs did not fit.
    pub tokens: usize,
    pub truncated: usize,
}

pub struct Kept {
    /// What an earlier run left, for the first queries of the set.
    pub done: Vec<QueryScores>,
    path: PathBuf,
    file: BufWriter<File>,
}

impl Kept {
    /// Opens the file for what comes after its last whole line, or begins it.
    pub fn open(path: PathBuf, about: &About, queries: &[TestQuery]) -> anyhow::Result<Self> {
        let place = || format!("{}", path.display());
        let is_other = std::fs::metadata(&path).is_ok_and(|meta| !meta.is_file());
        ensure!(!is_other, "{}: not a plain file", path.display());
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(place)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).with_context(place)?;
        let whole = bytes
            .iter()
            .rposition(|&b| b == b'\n')
            .map_or(0, |at| at + 1);
        let done = parse(&bytes[..whole], about, queries).with_context(place)?;
        file.set_len(whole as u64)
            .and_then(|()| file.seek(SeekFrom::Start(whole as u64)))
            .with_context(place)?;
        let mut kept = Self {
            done,
            path,
            file: BufWriter::new(file),
        };
        if whole == 0 {
            kept.line(about)?;
            kept.flush()?;
        }
        Ok(kept)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn add(&mut self, scores: &[QueryScores]) -> anyhow::Result<()> {
        for scores in scores {
            self.line(scores)?;
        }
        self.flush()
    }

    fn line(&mut self, value: &impl Serialize) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        self.file
            .write_all(&line)
            .with_context(|| format!("{}", self.path.display()))
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        self.file
            .flush()
            .with_context(|| format!("{}", self.path.display()))
    }
}

/// The scores in whole lines, of at most as many queries as there are.
fn parse(bytes: &[u8], about: &About, queries: &[TestQuery]) -> anyhow::Result<Vec<QueryScores>> {
    let text = std::str::from_utf8(bytes)?;
    let mut lines = text.lines();
    let Some(first) = lines.next() else {
        return Ok(Vec::new());
    };
    let found: About = serde_json::from_str(first).context(
        "line 1 does not say whose scores these are: remove it or keep scores elsewhere",
    )?;
    let different = differences(&found, about);
    ensure!(
        different.is_empty(),
        "holds other scores: {}; remove it or keep scores elsewhere",
        different.join("; ")
    );
    lines
        .zip(queries)
        .enumerate()
        .map(|(index, (line, query))| {
            let number = index + 2;
            let scores: QueryScores = serde_json::from_str(line)
                .with_context(|| format!("line {number} holds no scores"))?;
            ensure!(
                scores.query == query.id && scores.logits.len() == query.candidates.len(),
                "line {number} has {} scores of the query {:?}, expected {} of {:?}: the set or its candidates have changed",
                scores.logits.len(),
                scores.query,
                query.candidates.len(),
                query.id
            );
            Ok(scores)
        })
        .collect()
}
