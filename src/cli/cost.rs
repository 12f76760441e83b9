//! `reranker cost`: what a number of pairs takes and costs on AWS Lambda, before anything runs.
//!
//! The rates are those of the tables in docs/explain/costs.md: `bench/costs.py` writes `rates.json`
//! from its record, and the tables from `rates.json`. They are AVX2's, because AWS promises
//! functions no more.

use std::process::ExitCode;
use std::sync::LazyLock;

use clap::builder::PossibleValuesParser;
use clap::value_parser;
use serde::Deserialize;

use super::output::{columns, say};

#[derive(clap::Args)]
pub struct Args {
    /// Pairs to score.
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000_000, value_parser = value_parser!(u64).range(1..=1_000_000_000_000))]
    pairs: u64,
    /// Tokens of a pair: the query's, the passage's and special tokens.
    #[arg(long, value_name = "NUMBER", default_value_t = 128, value_parser = value_parser!(u32).range(8..=8192))]
    tokens: u32,
    /// Measured model, in int8, whose shape is like yours.
    #[arg(long, value_name = "NAME", default_value = RATES.models[0].name, value_parser = PossibleValuesParser::new(RATES.models.iter().map(|model| model.name)))]
    model: String,
    /// Number of instances that run at the same time.
    #[arg(long, value_name = "NUMBER", default_value_t = 5, value_parser = value_parser!(u32).range(1..=10_000))]
    concurrency: u32,
    /// Pairs in one call.
    #[arg(long, value_name = "NUMBER", default_value_t = 50, value_parser = value_parser!(u32).range(1..=1000))]
    batch: u32,
}

/// The measured rates, and the prices.
#[derive(Deserialize)]
struct Rates {
    record: &'static str,
    priced: &'static str,
    gb_second_dollars: f64,
    request_dollars: f64,
    /// Memory that comes with one core.
    core_mb: f64,
    memory_mb: [u32; 4],
    /// The lengths that were measured.
    tokens: [u32; 2],
    models: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    name: &'static str,
    title: &'static str,
    core_seconds: CoreSeconds,
}

/// Seconds of one core for one pair of each measured length.
#[derive(Deserialize)]
struct CoreSeconds {
    avx2: [f64; 2],
    vnni: [f64; 2],
}

static RATES: LazyLock<Rates> = LazyLock::new(|| {
    serde_json::from_str(include_str!("cost/rates.json")).expect("the tests read it")
});

impl Rates {
    /// Core-seconds of a pair of any length: a part that grows with its tokens, and one,
    /// attention's, with their square.
    fn core_seconds(&self, measured: [f64; 2], tokens: u32) -> f64 {
        let [short, long] = self.tokens.map(f64::from);
        let [of_short, of_long] = [measured[0] / short, measured[1] / long];
        let square = (of_long - of_short) / (long - short);
        let tokens = f64::from(tokens);
        (of_short + square * (tokens - short)) * tokens
    }

    /// Dollars of so many seconds of a core. Memory and time cancel each other out.
    fn dollars(&self, core_seconds: f64) -> f64 {
        core_seconds * self.core_mb / 1024.0 * self.gb_second_dollars
    }
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    for line in lines(args) {
        say!("{line}")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn lines(args: &Args) -> Vec<String> {
    let rates = &*RATES;
    let models = &rates.models;
    let model = models.iter().find(|model| model.name == args.model);
    let model = model.expect("clap lets no other name through");
    // Far below where a number loses its last digit.
    #[allow(clippy::cast_precision_loss)]
    let pairs = args.pairs as f64;
    let (batch, instances) = (f64::from(args.batch), f64::from(args.concurrency));
    let core = rates.core_seconds(model.core_seconds.avx2, args.tokens);
    let vnni = rates.core_seconds(model.core_seconds.vnni, args.tokens);
    let calls = (pairs / batch).ceil() * rates.request_dollars;
    let dollars = |core: f64| format!("${:.2}", rates.dollars(pairs * core) + calls);
    let heads = ["memory", "a pair", "a call", "all pairs", "cost"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for memory in rates.memory_mb {
        let pair = core * rates.core_mb / f64::from(memory);
        rows.push(vec![
            format!("{memory} MB"),
            time(pair),
            time(pair * batch),
            time(pair * pairs / instances),
            dollars(core),
        ]);
    }
    let mut lines = vec![
        format!(
            "{} pairs of {} tokens, {}, on Lambda with AVX2",
            args.pairs, args.tokens, model.title
        ),
        format!(
            "{} pairs a call, {} instances at once",
            args.batch, args.concurrency
        ),
        String::new(),
    ];
    lines.extend(columns(&rows));
    lines.extend([
        String::new(),
        format!(
            "with AVX-512 VNNI, which nobody can choose: {}, in {:.0} % of the time",
            dollars(vnni),
            100.0 * vnni / core
        ),
        format!(
            "prices of {}, calls included, Step Functions and S3 not",
            rates.priced
        ),
        format!(
            "times from {} at {} and {} tokens, computed between; not measured on Lambda",
            rates.record, rates.tokens[0], rates.tokens[1]
        ),
    ]);
    lines
}

/// With two digits that count.
fn time(seconds: f64) -> String {
    let units = [(86_400.0, "d"), (3600.0, "h"), (60.0, "min")];
    let (size, unit) = units
        .into_iter()
        .find(|(size, _)| seconds >= 2.0 * size)
        .unwrap_or((1.0, "s"));
    let value = seconds / size;
    let decimals = match value {
        10.0.. => 0,
        1.0.. => 1,
        0.1.. => 2,
        _ => 3,
    };
    format!("{value:.decimals$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(pairs: u64, tokens: u32, model: &str) -> Vec<String> {
        lines(&Args {
            pairs,
            tokens,
            model: model.to_owned(),
            concurrency: 5,
            batch: 100,
        })
    }

    #[test]
    fn measured_lengths_have_their_measured_times_and_others_lie_between() {
        for model in &RATES.models {
            for measured in [model.core_seconds.avx2, model.core_seconds.vnni] {
                let at = |tokens| RATES.core_seconds(measured, tokens);
                let close = |got: f64, expected: f64| (got / expected - 1.0).abs() < 0.01;
                assert!(close(at(RATES.tokens[0]), measured[0]), "{}", model.name);
                assert!(close(at(RATES.tokens[1]), measured[1]), "{}", model.name);
                let times = [8, 64, 128, 256, 512, 1024, 8192].map(at);
                assert!(times.is_sorted() && times[0] > 0.0, "{times:?}");
            }
        }
    }

    #[test]
    fn the_page_has_the_same_dollars_and_seconds() {
        let page = include_str!("../../docs/explain/costs.md");
        let mut of_page = page.lines();
        for model in &RATES.models {
            let title = format!("{}:", model.title);
            of_page.find(|line| **line == title).expect("its table");
            for tokens in [128, 512] {
                // A thousand requests of 100 passages, each of which is a call.
                let row = format!("| 100 × {tokens} |");
                let row = page[page.find(&title).expect("its table")..]
                    .lines()
                    .find(|line| line.starts_with(&row))
                    .expect("its row");
                let cells: Vec<&str> = row.split('|').map(str::trim).collect();
                let number = |cell: usize| -> f64 {
                    let text = cells[cell].replace(['*', ','], "");
                    text.parse().expect("a number")
                };
                let core = RATES.core_seconds(model.core_seconds.avx2, tokens);
                let (dollars, at_1769) = (RATES.dollars(100_000.0 * core), 100.0 * core);
                for (cell, value) in [(2, at_1769), (6, dollars)] {
                    let told = number(cell);
                    assert!((told / value - 1.0).abs() < 0.06, "{row}: {value}");
                }
            }
        }
    }

    #[test]
    fn a_million_pairs_are_told_by_memory() {
        let lines = told(1_000_000, 128, "bge-reranker-v2-m3").join("\n");
        for part in [
            "1000000 pairs of 128 tokens, bge-reranker-v2-m3's shape, int8, on Lambda with AVX2",
            "100 pairs a call, 5 instances at once",
            "1769 MB   0.82 s  82 s    46 h       $23.73",
            "10240 MB  0.14 s  14 s    7.9 h      $23.73",
            "VNNI, which nobody can choose: $7.83, in 33 % of the time",
        ] {
            assert!(lines.contains(part), "{part} is not in\n{lines}");
        }
        let demo = told(10, 512, "demo").join("\n");
        assert!(demo.contains("$0.00") && demo.contains("0.19 s"), "{demo}");
    }
}
