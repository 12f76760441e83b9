//! `reranker models`: the models that are known by name, and what each is for.
//!
//! The table is data. Sizes are computed from the shapes, quality is what others have published,
//! each measure with its source.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::output::{self, note, say};
use crate::http::{KnownModel, KnownTime, Quality};
use reranker_engine::ModelError;
use reranker_engine::model::{CONFIG_FILE, ModelConfig};

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    serde_json::from_str(include_str!("models.json")).expect("a test reads the table")
});

#[derive(clap::Args)]
pub struct Args {
    /// Print JSON.
    #[arg(long, conflicts_with = "markdown")]
    json: bool,
    /// Print the table of docs/reference/models.md.
    #[arg(long)]
    markdown: bool,
}

#[derive(Deserialize)]
struct Table {
    measures: Vec<Measure>,
    /// Where the models have milliseconds, which `bench/models.py` writes.
    timed: Option<Timed>,
    models: Vec<Known>,
}

/// Something that others have measured, of several models in the same way.
#[derive(Deserialize, Serialize)]
struct Measure {
    key: String,
    column: String,
    what: String,
    source: String,
}

/// What the milliseconds are of.
#[derive(Deserialize, Serialize)]
struct Timed {
    what: String,
    record: String,
}

/// A model that is known by name.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    id: String,
    family: String,
    model_type: String,
    /// What else of its config.json tells the family.
    #[serde(default)]
    auto_map: Option<Value>,
    languages: String,
    max_length: usize,
    licence: String,
    /// Whether the licence allows commercial use.
    #[serde(default = "yes")]
    commercial: bool,
    shape: Shape,
    /// Whether sentence-transformers gives its logits as scores.
    #[serde(default)]
    logits: bool,
    /// By the measure's key.
    #[serde(default)]
    quality: BTreeMap<String, f64>,
    /// Where they were measured: see [`Timed`].
    #[serde(default)]
    ms_100: Option<f64>,
    use_for: String,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize, Serialize)]
struct Shape {
    vocab: u64,
    hidden: u64,
    /// One for 64 channels where it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    heads: Option<u64>,
    layers: u64,
    intermediate: u64,
    /// Rows of the table of positions.
    positions: u64,
    #[serde(default)]
    gated: bool,
}

impl Shape {
    /// The weights of the linear layers that each token passes, which decide what it costs.
    fn weights_a_token(&self) -> u64 {
        let up = if self.gated { 2 } else { 1 };
        let layer = 4 * self.hidden * self.hidden + (up + 1) * self.hidden * self.intermediate;
        self.layers * layer
    }

    /// All of them: tables, linear layers with the head's, and biases and norms, which those with a
    /// gate have few of.
    fn parameters(&self) -> u64 {
        let tables = (self.vocab + self.positions) * self.hidden;
        let matrices = self.weights_a_token() + self.hidden * self.hidden;
        let rest = if self.gated {
            2 * self.hidden
        } else {
            9 * self.hidden + self.intermediate
        };
        tables + matrices + self.layers * rest
    }
}

impl Known {
    /// What to say before a download where the licence forbids commercial use.
    pub fn not_commercial(&self) -> Option<String> {
        (!self.commercial).then(|| {
            format!(
                "its licence, {}, forbids commercial use: https://huggingface.co/{}",
                self.licence, self.id
            )
        })
    }

    /// Whether this program has the architecture.
    fn is_served(&self) -> bool {
        let mut config = json!({"model_type": self.model_type, "num_labels": 1});
        if let Some(code) = &self.auto_map {
            config["auto_map"] = code.clone();
        }
        let read = ModelConfig::parse(Path::new(CONFIG_FILE), config.to_string().as_bytes());
        // Of those that it has, something else is missing here.
        !matches!(read, Err(ModelError::Unfit { what, .. }) if what == "model_type" || what == "auto_map")
    }

    fn cells(&self, measures: &[&Measure]) -> Vec<String> {
        let mut cells = vec![
            self.family.clone(),
            millions(self.shape.parameters()),
            millions(self.shape.weights_a_token()),
            self.languages.clone(),
            self.max_length.to_string(),
            self.licence.clone(),
        ];
        cells.extend(measures.iter().map(|measure| {
            let value = self.quality.get(&measure.key);
            value.map_or_else(String::new, |value| {
                // As they are published: shares with four digits, percentages with one.
                if *value < 1.0 {
                    format!("{value:.4}")
                } else {
                    format!("{value:.1}")
                }
            })
        }));
        if TABLE.timed.is_some() {
            let ms = self.ms_100.map(|ms| format!("{ms:.0}"));
            cells.push(ms.unwrap_or_default());
        }
        cells.push(if self.logits { "logit" } else { "" }.to_owned());
        cells.push(self.use_for.clone());
        cells
    }
}

/// The column of the times.
const MILLISECONDS: &str = "ms";

/// The columns of [`Known::cells`].
fn head(measures: &[&Measure]) -> Vec<String> {
    let mut head: Vec<String> = [
        "Family",
        "Parameters",
        "Weights a token",
        "Languages",
        "Tokens",
        "Licence",
    ]
    .map(str::to_owned)
    .into();
    head.extend(measures.iter().map(|measure| measure.column.clone()));
    if TABLE.timed.is_some() {
        head.push(MILLISECONDS.into());
    }
    head.push("Library's score".into());
    head.push("Use for".into());
    head
}

fn millions(count: u64) -> String {
    let millions = count as f64 / 1e6;
    if millions < 20.0 {
        format!("{millions:.1} M")
    } else {
        format!("{millions:.0} M")
    }
}

/// The model of this id.
pub fn known(id: &str) -> Option<&'static Known> {
    TABLE.models.iter().find(|model| model.id == id)
}

/// What the service tells of the model of this name.
pub fn about(name: &str) -> Option<KnownModel> {
    let Table {
        measures, timed, ..
    } = &*TABLE;
    let model = known(name)?;
    let quality = measures.iter().filter_map(|measure| {
        Some(Quality {
            value: *model.quality.get(&measure.key)?,
            measure: &measure.column,
            what: &measure.what,
            source: &measure.source,
        })
    });
    let time = model.ms_100.zip(timed.as_ref());
    Some(KnownModel {
        family: &model.family,
        licence: &model.licence,
        quality: quality.collect(),
        time: time.map(|(ms, timed)| KnownTime {
            ms,
            what: &timed.what,
        }),
    })
}

/// The id that may be meant by a name that is none: of the same last part, or nearly the same.
pub fn meant(name: &str) -> Option<&'static str> {
    let last = |id: &str| id.rsplit('/').next().unwrap_or_default().to_lowercase();
    let wanted = last(name);
    let ids = || {
        let ids = TABLE.models.iter().map(|model| model.id.as_str());
        ids.filter(|id| *id != name)
    };
    let same = ids().find(|id| last(id) == wanted);
    same.or_else(|| {
        let near = ids().map(|id| (strsim::osa_distance(&last(id), &wanted), id));
        // A letter in five may be wrong.
        let near = near.filter(|(distance, id)| distance * 5 <= last(id).chars().count());
        near.min().map(|(_, id)| id)
    })
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if args.json {
        say!("{}", serde_json::to_string_pretty(&as_json()?)?)?;
    } else if args.markdown {
        say!("{}", markdown().trim_end())?;
    } else {
        // What fits on a terminal; `--json` has all.
        let measures: Vec<&Measure> = TABLE.measures.iter().take(1).collect();
        let mut rows = vec![[vec!["Model".to_owned()], head(&measures)].concat()];
        let mut absent = Vec::new();
        for model in &TABLE.models {
            rows.push([vec![model.id.clone()], model.cells(&measures)].concat());
            if !model.is_served() && !absent.contains(&model.family) {
                absent.push(model.family.clone());
            }
        }
        for line in output::columns(&rows) {
            say!("{line}")?;
        }
        for measure in measures {
            note!("{}: {}; {}", measure.column, measure.what, measure.source);
        }
        if let Some(Timed { what, record }) = &TABLE.timed {
            note!("{MILLISECONDS}: {what}; {record}");
        }
        note!(
            "library's score: \"logit\" where sentence-transformers gives logits, which \"normalize\": false gives here; the default here is their sigmoid"
        );
        if !absent.is_empty() {
            note!(
                "not served by this version of the program: {}",
                absent.join(", ")
            );
        }
        note!("every family runs on CPUs and, in a program built for them, on NVIDIA GPUs");
        note!("`reranker serve --model NAME` fetches, packs and serves one");
    }
    Ok(ExitCode::SUCCESS)
}

fn as_json() -> anyhow::Result<Value> {
    let models = TABLE.models.iter().map(|model| {
        let mut value = serde_json::to_value(model)?;
        value["parameters"] = model.shape.parameters().into();
        value["weights_a_token"] = model.shape.weights_a_token().into();
        value["served"] = model.is_served().into();
        Ok(value)
    });
    let models = models.collect::<serde_json::Result<Vec<_>>>()?;
    Ok(json!({"measures": TABLE.measures, "timed": TABLE.timed, "models": models}))
}

/// The table of docs/reference/models.md, with what its columns mean.
fn markdown() -> String {
    let measures: Vec<&Measure> = TABLE.measures.iter().collect();
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let head = [vec!["Model".to_owned()], head(&measures)].concat();
    let mut text = line(&head);
    text.push_str(&line(&vec!["---".to_owned(); head.len()]));
    for model in &TABLE.models {
        let link = format!("[`{0}`](https://huggingface.co/{0})", model.id);
        text.push_str(&line(&[vec![link], model.cells(&measures)].concat()));
    }
    text.push('\n');
    for Measure {
        column,
        what,
        source,
        ..
    } in measures
    {
        text.push_str(&format!("- {column}: {what} ([source]({source})).\n"));
    }
    if let Some(Timed { what, record }) = &TABLE.timed {
        text.push_str(&format!("- {MILLISECONDS}: {what} (`{record}`).\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_and_every_figure_has_a_source() {
        let keys: Vec<&str> = TABLE.measures.iter().map(|it| it.key.as_str()).collect();
        for model in &TABLE.models {
            assert_eq!(model.id.split('/').count(), 2, "{}", model.id);
            for key in model.quality.keys() {
                assert!(keys.contains(&key.as_str()), "{}: {key}", model.id);
            }
            assert_eq!(known(&model.id).map(|it| &it.id), Some(&model.id));
            assert!(
                model.ms_100.is_none() || TABLE.timed.is_some(),
                "{}",
                model.id
            );
        }
        assert!(known("BAAI/bge-reranker-v2-m3").is_some_and(Known::is_served));
        assert!(TABLE.measures.iter().all(|it| it.source.contains("://")));
    }

    #[test]
    fn sizes_are_those_that_are_published() {
        for (id, parameters, weights) in [
            ("BAAI/bge-reranker-v2-m3", "568 M", "302 M"),
            (
                "Alibaba-NLP/gte-multilingual-reranker-base",
                "306 M",
                "113 M",
            ),
            ("cross-encoder/ettin-reranker-32m-v1", "32 M", "12.5 M"),
            ("cross-encoder/ettin-reranker-150m-v1", "150 M", "110 M"),
            ("Alibaba-NLP/gte-reranker-modernbert-base", "150 M", "110 M"),
            ("jinaai/jina-reranker-v2-base-multilingual", "278 M", "85 M"),
        ] {
            let shape = &known(id).expect("known").shape;
            let found = (
                millions(shape.parameters()),
                millions(shape.weights_a_token()),
            );
            assert_eq!(found, (parameters.into(), weights.into()), "{id}");
        }
    }

    #[test]
    fn what_is_meant_by_a_name_that_is_none_is_said() {
        for (name, id) in [
            ("bge-reranker-v2-m3", Some("BAAI/bge-reranker-v2-m3")),
            ("baai/bge-reranker-v2-m3", Some("BAAI/bge-reranker-v2-m3")),
            ("BAAI/bge-reranker-v2-m2", Some("BAAI/bge-reranker-v2-m3")),
            (
                "cross-encoder/ms-marco-MiniLM-L-6-v2",
                Some("cross-encoder/ms-marco-MiniLM-L6-v2"),
            ),
            (
                "ettin-reranker-32m",
                Some("cross-encoder/ettin-reranker-32m-v1"),
            ),
            ("BAAI/bge-reranker-v2-m3", None),
            ("owner/model", None),
            ("x", None),
        ] {
            assert_eq!(meant(name), id, "{name}");
        }
    }
}
