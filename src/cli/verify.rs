//! `reranker verify`: does the loaded model give the scores that were published for it?

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use serde::Deserialize;

use super::output::say;
use super::pack::MAX_SCORE_BOUND;
use super::{ModelArg, Usage, setup};
use crate::config::Config;
use reranker_domain::{Pair, Request, sigmoid};
use reranker_engine::model::{check_sources, choose};
use reranker_engine::weights::{Sureness, check_payload};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// Compare with the scores in this file instead of the model's `scores.json` or the built-in
    /// ones. JSON: `{"model": NAME, "tolerance": 1e-3, "rows": [{"query": …,
    /// "passage": …, "logit": 1.25}, …]}`. A row may have a "score" between 0 and 1 instead of a
    /// logit, and its own "tolerance". The tolerance for a packed model is at least 0.03, the error
    /// that int8 may add.
    #[arg(long, value_name = "FILE")]
    scores: Option<PathBuf>,
}

/// Scores that were published for known models; the file says where each comes from.
const PUBLISHED: &str = include_str!("verify/published.json");
/// A model folder may bring its own.
const OWN_SCORES: &str = "scores.json";

/// Expected scores of one model.
#[derive(Debug, Deserialize)]
struct Expected {
    model: String,
    /// Largest accepted difference of logits, for rows without their own.
    tolerance: f64,
    rows: Vec<Row>,
}

/// One pair with its logit, or with its score where only a sigmoid was published.
#[derive(Debug, Deserialize)]
struct Row {
    query: String,
    passage: String,
    logit: Option<f64>,
    score: Option<f64>,
    tolerance: Option<f64>,
}

pub fn run(args: &Args, config: &Config) -> anyhow::Result<ExitCode> {
    let config = &args.model.config(config);
    let (engine, pool) = setup::engine(config)?;
    let info = engine.info();
    let folder = setup::find_model(config)?.folder;
    let int8 = engine.model().manifest().is_some();
    if int8 {
        let file = choose(&folder, config.precision)?;
        check_payload(&file)?;
        say!("{}: every tensor is as it was packed", file.display())?;
        if folder.is_dir() {
            check_sources(&file, Sureness::Whole)?;
            say!(
                "{}: packed from the files beside it, as far as they are there",
                file.display()
            )?;
        }
    }
    let Some(expected) = expected(args.scores.as_deref(), &folder, &info.name)? else {
        say!(
            "{} ({}): no scores are known to compare with; {OWN_SCORES} in the model's folder or --scores has them",
            info.name,
            info.precision
        )?;
        return Ok(ExitCode::SUCCESS);
    };
    let pair = |row: &Row| Pair {
        query: row.query.as_str().into(),
        document: row.passage.as_str().into(),
    };
    let request = Request::new(expected.rows.iter().map(pair).collect());
    let scores = pool.install(|| engine.score(&request))?;
    // What int8 may cost is bounded in scores, not in logits.
    let tolerance = if int8 {
        format!("{MAX_SCORE_BOUND} of the score, as for any packed model")
    } else {
        format!("{} of the logit", expected.tolerance)
    };
    say!("{} ({}), tolerance {tolerance}", info.name, info.precision)?;
    let mut failed = 0;
    for (row, score) in expected.rows.iter().zip(&scores) {
        let tolerance = row.tolerance.unwrap_or(expected.tolerance);
        let found = f64::from(score.logit);
        let (wanted, published) = row.logit()?;
        let difference = (found - wanted).abs();
        let score_difference = sigmoid(score.logit) - 1.0 / (1.0 + (-wanted).exp());
        let pass = if int8 {
            score_difference.abs() <= MAX_SCORE_BOUND
        } else {
            difference <= tolerance
        };
        failed += usize::from(!pass);
        say!(
            "{}  logit {found:>10.6}  expected {wanted:>10.6} ({published})  difference {difference:.2e}  score {:.6}  {:?} / {:?}",
            if pass { "pass" } else { "FAIL" },
            sigmoid(score.logit),
            shortened(&row.query),
            shortened(&row.passage),
        )?;
    }
    say!("{} of {} rows pass", scores.len() - failed, scores.len())?;
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl Row {
    /// The expected logit, and as what it was published.
    fn logit(&self) -> anyhow::Result<(f64, &'static str)> {
        match (self.logit, self.score) {
            (Some(logit), _) => Ok((logit, "logit")),
            (None, Some(score)) if score > 0.0 && score < 1.0 => {
                Ok(((score / (1.0 - score)).ln(), "sigmoid"))
            }
            _ => Err(Usage("a row has neither a logit nor a score between 0 and 1".into()).into()),
        }
    }
}

/// The rows to compare with: a file that was named, the model folder's own, or the built-in ones of
/// the model's name.
fn expected(named: Option<&Path>, folder: &Path, model: &str) -> anyhow::Result<Option<Expected>> {
    let own = folder.join(OWN_SCORES);
    let file = named.or_else(|| own.is_file().then_some(own.as_path()));
    if let Some(path) = file {
        let bytes = std::fs::read(path).with_context(|| format!("{}", path.display()))?;
        let expected = serde_json::from_slice(&bytes);
        return expected.map(Some).with_context(|| {
            format!(
                "{}: no file of expected scores, whose format `reranker verify --help` shows",
                path.display()
            )
        });
    }
    let published: Vec<Expected> =
        serde_json::from_str(PUBLISHED).context("the built-in scores are damaged")?;
    // A folder that was downloaded by hand is usually called by the last part of the hub id.
    Ok(published.into_iter().find(|expected| {
        expected.model == model || expected.model.rsplit('/').next() == Some(model)
    }))
}

fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(32).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_scores_are_found_by_hub_id_and_by_folder_name() {
        let nowhere = Path::new("/nonexistent");
        for name in [
            "BAAI/bge-reranker-v2-m3",
            "bge-reranker-base",
            "BAAI/bge-reranker-large",
        ] {
            let expected = expected(None, nowhere, name).expect(name).expect(name);
            assert!(expected.rows.len() >= 3, "{name}");
            for row in &expected.rows {
                assert!(row.logit().expect("a value").0.is_finite());
            }
        }
        assert!(
            expected(None, nowhere, "my-model")
                .expect("no error")
                .is_none()
        );
    }
}
