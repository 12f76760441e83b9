//! The figures of a set and a run, from its scores, and how they are shown: a table for people,
//! JSON lines for programs.

use std::io::Write;

use serde::Serialize;

use super::metrics::{Differences, kendall_tau_b, mean, ndcg, ranking, reciprocal_rank};
use super::testset::{TestQuery, TestSet};
use super::{Run, Scored};
use reranker_domain::sigmoid;

/// One run on one set.
#[derive(Debug, Serialize)]
pub struct Figures {
    pub set: String,
    pub split: String,
    pub model: String,
    pub precision: String,
    pub instruction_set: String,
    pub threads: usize,
    /// Queries that were measured, and those left out because nothing relevant is known for them.
    pub queries: usize,
    pub queries_left_out: usize,
    /// Relevant documents that the corpus does not have, which no model can find.
    pub relevant_not_in_corpus: usize,
    pub pairs: usize,
    pub truncated_pairs: usize,
    pub tokens: usize,
    #[serde(rename = "ndcg_at_10")]
    pub ndcg: f64,
    #[serde(rename = "mrr_at_10")]
    pub mrr: f64,
    /// Of the candidates in the order they are given in; absent where that order means nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub as_given: Option<Quality>,
    /// Share of pairs with a score above 0.5, among the relevant and among the others.
    pub relevant_above_half: Option<f64>,
    pub others_above_half: Option<f64>,
    /// Pairs that this call scored itself, and how fast; the rest were kept from an earlier one.
    pub scored_pairs: usize,
    pub seconds: f64,
    pub pairs_per_s: Option<f64>,
    pub tokens_per_s: Option<f64>,
    /// What separates this run from the first one, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub against: Option<Against>,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub struct Quality {
    #[serde(rename = "ndcg_at_10")]
    pub ndcg: f64,
    #[serde(rename = "mrr_at_10")]
    pub mrr: f64,
}

#[derive(Debug, Serialize)]
pub struct Against {
    pub model: String,
    pub precision: String,
    /// Mean over the candidate lists; absent where no list can be compared.
    pub kendall_tau_b: Option<f64>,
    pub score_difference: Differences,
    pub logit_difference: Differences,
    #[serde(rename = "ndcg_at_10_difference")]
    pub ndcg_difference: f64,
}

impl Quality {
    /// Mean over the queries of candidates in the orders that `order` gives.
    fn of(queries: &[TestQuery], order: impl Fn(usize) -> Vec<usize>) -> Self {
        let ranked: Vec<Vec<u32>> = queries
            .iter()
            .enumerate()
            .map(|(index, query)| order(index).into_iter().map(|at| query.gains[at]).collect())
            .collect();
        let gains = || ranked.iter().map(|gains| gains.iter().copied());
        let ndcgs = gains()
            .zip(queries)
            .filter_map(|(gains, query)| ndcg(gains, &query.judged));
        Self {
            ndcg: mean(ndcgs).unwrap_or(0.0),
            mrr: mean(gains().map(reciprocal_rank)).unwrap_or(0.0),
        }
    }
}

impl Figures {
    /// `first` is the run that the others are compared with.
    pub fn of(
        set: &TestSet,
        split: &str,
        threads: usize,
        run: &Run,
        scored: &Scored,
        first: Option<(&Run, &Scored)>,
    ) -> Self {
        let logits = |index: usize| scored.queries[index].logits.as_slice();
        let quality = Quality::of(&set.queries, |index| ranking(logits(index)));
        let as_given = set
            .ordered
            .then(|| Quality::of(&set.queries, |index| (0..logits(index).len()).collect()));
        let above_half = |relevant: bool| {
            let gains = set.queries.iter().flat_map(|query| &query.gains);
            let all = scored.queries.iter().flat_map(|query| &query.logits);
            let chosen = gains
                .zip(all)
                .filter(|&(&gain, _)| (gain > 0) == relevant)
                .map(|(_, &logit)| f64::from(u8::from(logit > 0.0)));
            mean(chosen)
        };
        let per_second =
            |count: usize| (scored.seconds > 0.0).then(|| count as f64 / scored.seconds);
        let info = run.engine.info();
        Self {
            set: set.name.clone(),
            split: split.to_owned(),
            model: info.name.clone(),
            precision: info.precision.to_string(),
            instruction_set: info.instruction_set.to_string(),
            threads,
            queries: set.queries.len(),
            queries_left_out: set.left_out,
            relevant_not_in_corpus: set.lost,
            pairs: set.pairs(),
            truncated_pairs: scored.queries.iter().map(|q| q.truncated).sum(),
            tokens: scored.queries.iter().map(|q| q.tokens).sum(),
            ndcg: quality.ndcg,
            mrr: quality.mrr,
            as_given,
            relevant_above_half: above_half(true),
            others_above_half: above_half(false),
            scored_pairs: scored.fresh_pairs,
            seconds: scored.seconds,
            pairs_per_s: per_second(scored.fresh_pairs),
            tokens_per_s: per_second(scored.fresh_tokens),
            against: first.map(|(run, other)| Against::of(set, run, other, scored, quality.ndcg)),
        }
    }
}

impl Against {
    fn of(set: &TestSet, first: &Run, reference: &Scored, scored: &Scored, ndcg: f64) -> Self {
        let lists = || scored.queries.iter().zip(&reference.queries);
        let logits =
            || lists().flat_map(|(a, b)| a.logits.iter().copied().zip(b.logits.iter().copied()));
        let before = Quality::of(&set.queries, |index| {
            ranking(&reference.queries[index].logits)
        });
        let info = first.engine.info();
        Self {
            model: info.name.clone(),
            precision: info.precision.to_string(),
            kendall_tau_b: mean(lists().filter_map(|(a, b)| kendall_tau_b(&a.logits, &b.logits))),
            score_difference: Differences::of(logits().map(|(a, b)| (sigmoid(a), sigmoid(b)))),
            logit_difference: Differences::of(logits().map(|(a, b)| (f64::from(a), f64::from(b)))),
            ndcg_difference: ndcg - before.ndcg,
        }
    }

    /// Of several sets: the mean of each figure, the largest of each largest difference.
    fn mean(sets: &[&Self]) -> Self {
        let differences = |of: fn(&Self) -> Differences| Differences {
            mean: mean(sets.iter().map(|set| of(set).mean)).unwrap_or(0.0),
            max: sets.iter().map(|set| of(set).max).fold(0.0, f64::max),
        };
        Self {
            model: sets[0].model.clone(),
            precision: sets[0].precision.clone(),
            kendall_tau_b: mean(sets.iter().filter_map(|set| set.kendall_tau_b)),
            score_difference: differences(|set| set.score_difference),
            logit_difference: differences(|set| set.logit_difference),
            ndcg_difference: mean(sets.iter().map(|set| set.ndcg_difference)).unwrap_or(0.0),
        }
    }
}

/// A table whose rows are printed as they come; every column's width is known before.
pub struct Table {
    set_width: usize,
    run_width: usize,
    compared: bool,
    runs: usize,
    /// The figures of each set, run by run, for the means at the end.
    seen: Vec<(Figures, String)>,
}

const AS_GIVEN: &str = "as given";
const MEAN: &str = "mean of sets";
const FIGURES: [&str; 7] = [
    "queries", "pairs", "nDCG@10", "MRR@10", "rel>0.5", "oth>0.5", "pairs/s",
];
const COMPARISON: [&str; 6] = ["tau-b", "dscore", "max", "dlogit", "max", "dnDCG@10"];

impl Table {
    pub fn new<'a>(sets: impl Iterator<Item = &'a str>, runs: &[Run]) -> Self {
        let width = |texts: &mut dyn Iterator<Item = &str>, least: usize| {
            texts
                .map(|text| text.chars().count())
                .fold(least, usize::max)
        };
        Self {
            set_width: width(&mut { sets }, MEAN.len()),
            run_width: width(
                &mut runs.iter().map(|run| run.label.as_str()),
                AS_GIVEN.len(),
            ),
            compared: runs.len() > 1,
            runs: runs.len(),
            seen: Vec::new(),
        }
    }

    pub fn head(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let mut cells: Vec<String> = FIGURES.map(str::to_owned).into();
        if self.compared {
            cells.extend(COMPARISON.map(str::to_owned));
        }
        self.line(out, "set", "ranked by", &cells)
    }

    /// The row of one run, after the row of the given order where it is the set's first.
    pub fn add(
        &mut self,
        out: &mut dyn Write,
        figures: Figures,
        label: &str,
    ) -> std::io::Result<()> {
        if self.seen.len().is_multiple_of(self.runs)
            && let Some(given) = figures.as_given
        {
            self.line(
                out,
                &figures.set,
                AS_GIVEN,
                &[
                    figures.queries.to_string(),
                    figures.pairs.to_string(),
                    format!("{:.4}", given.ndcg),
                    format!("{:.4}", given.mrr),
                ],
            )?;
        }
        self.line(out, &figures.set, label, &cells(&figures))?;
        self.seen.push((figures, label.to_owned()));
        Ok(())
    }

    /// Unweighted means over the sets, where there are several.
    pub fn foot(&self, out: &mut dyn Write) -> std::io::Result<()> {
        if self.seen.len() <= self.runs {
            return Ok(());
        }
        let given: Option<Vec<Quality>> = self
            .seen
            .iter()
            .step_by(self.runs)
            .map(|(figures, _)| figures.as_given)
            .collect();
        let shown = |value: Option<f64>| value.map(|v| format!("{v:.4}")).unwrap_or_default();
        if let Some(given) = given {
            let (ndcg, mrr) = (
                mean(given.iter().map(|g| g.ndcg)),
                mean(given.iter().map(|g| g.mrr)),
            );
            let cells = [String::new(), String::new(), shown(ndcg), shown(mrr)];
            self.line(out, MEAN, AS_GIVEN, &cells)?;
        }
        for run in 0..self.runs {
            let of_run: Vec<&Figures> = (self.seen.iter().skip(run).step_by(self.runs))
                .map(|(figures, _)| figures)
                .collect();
            let over_sets = |value: fn(&Figures) -> f64| mean(of_run.iter().map(|f| value(f)));
            let mut cells = vec![String::new(); FIGURES.len()];
            cells[2] = shown(over_sets(|figures| figures.ndcg));
            cells[3] = shown(over_sets(|figures| figures.mrr));
            let against: Option<Vec<&Against>> =
                of_run.iter().map(|f| f.against.as_ref()).collect();
            if let Some(against) = against {
                cells.extend(comparison(&Against::mean(&against)));
            }
            self.line(out, MEAN, &self.seen[run].1, &cells)?;
        }
        Ok(())
    }

    fn line(
        &self,
        out: &mut dyn Write,
        set: &str,
        run: &str,
        cells: &[String],
    ) -> std::io::Result<()> {
        let mut line = format!("{set:<0$}  {run:<1$}", self.set_width, self.run_width);
        for cell in cells {
            line += &format!(" {cell:>8}");
        }
        writeln!(out, "{}", line.trim_end())
    }
}

fn cells(figures: &Figures) -> Vec<String> {
    let share = |value: Option<f64>| value.map_or("-".into(), |share| format!("{share:.3}"));
    let mut cells = vec![
        figures.queries.to_string(),
        figures.pairs.to_string(),
        format!("{:.4}", figures.ndcg),
        format!("{:.4}", figures.mrr),
        share(figures.relevant_above_half),
        share(figures.others_above_half),
        figures
            .pairs_per_s
            .map_or("kept".into(), |rate| format!("{rate:.1}")),
    ];
    cells.extend(figures.against.iter().flat_map(comparison));
    cells
}

fn comparison(against: &Against) -> [String; COMPARISON.len()] {
    let tau = against.kendall_tau_b;
    [
        tau.map_or("-".into(), |tau| format!("{tau:.4}")),
        format!("{:.5}", against.score_difference.mean),
        format!("{:.5}", against.score_difference.max),
        format!("{:.5}", against.logit_difference.mean),
        format!("{:.5}", against.logit_difference.max),
        format!("{:+.4}", against.ndcg_difference),
    ]
}
