//! `reranker list`: the rerankers that are in the local cache, and what is known of each.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use serde::Serialize;

use super::Usage;
use super::memory::size;
use super::output::{note, say};
use crate::config::Config;
use reranker_engine::model::{CONFIG_FILE, ModelConfig};
use reranker_engine::weights::{Fidelity, PACKED_FILE, Weights};
use reranker_sources::{CachedModel, cached_models};

#[derive(clap::Args)]
pub struct Args {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// One revision of a model.
#[derive(Serialize)]
struct Row {
    name: String,
    /// The commit; nothing where the download has not ended.
    revision: Option<String>,
    folder: String,
    /// Of the packed file and of what it was made from.
    bytes: u64,
    /// What a CPU computes in: `int8` where it is packed.
    precision: Option<String>,
    /// How near the packed model is to its source, as its packer measured.
    fidelity: Option<Fidelity>,
    /// Seconds since 1970; nothing where it was never served by name.
    last_used: Option<u64>,
    /// Why it cannot be served as it is.
    problem: Option<String>,
}

pub fn run(args: &Args, config: &Config) -> anyhow::Result<ExitCode> {
    let cache = config.platform.hub_cache.as_deref();
    let cache = cache.ok_or_else(|| Usage("there is no cache: set HF_HOME or HOME".into()))?;
    let models =
        cached_models(cache).with_context(|| format!("cannot list {}", cache.display()))?;
    let mut rows = Vec::new();
    let mut others = 0;
    for model in &models {
        let found = self::rows(model);
        others += usize::from(found.is_empty());
        rows.extend(found);
    }
    if args.json {
        say!("{}", serde_json::to_string_pretty(&rows)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if rows.is_empty() {
        note!(
            "there is no reranker in {}: `reranker models` prints the known ones, `reranker serve --model NAME` downloads and serves one",
            cache.display()
        );
    } else {
        for line in table(&rows) {
            say!("{line}")?;
        }
    }
    if others > 0 {
        note!("{others} other models there cannot be served");
    }
    Ok(ExitCode::SUCCESS)
}

/// What the cache has of a model; nothing where that is no reranker.
fn rows(model: &CachedModel) -> Vec<Row> {
    let last_used = model
        .last_used
        .and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok())
        .map(|time| time.as_secs());
    let row = |revision: Option<&str>, folder: &Path| Row {
        name: model.name.clone(),
        revision: revision.map(str::to_owned),
        folder: folder.display().to_string(),
        bytes: bytes_of(folder),
        precision: None,
        fidelity: None,
        last_used,
        problem: None,
    };
    let mut rows = Vec::new();
    for (commit, folder) in &model.snapshots {
        let packed = folder.join(PACKED_FILE);
        let is_packed = packed.exists();
        if !is_packed && ModelConfig::read(&folder.join(CONFIG_FILE)).is_err() {
            continue;
        }
        let mut row = row(Some(commit), folder);
        match Weights::open(if is_packed { &packed } else { folder }) {
            Ok(weights) => {
                let manifest = weights.manifest();
                row.precision = Some(manifest.map_or("f32", |_| "int8").to_owned());
                row.fidelity = manifest.and_then(|manifest| manifest.fidelity);
            }
            Err(error) => row.problem = Some(error.to_string()),
        }
        rows.push(row);
    }
    if rows.is_empty() && model.unfinished {
        let mut row = row(None, &model.folder.join("blobs"));
        row.problem = Some("incomplete: serve or fetch it to resume the download".into());
        rows.push(row);
    }
    rows
}

/// The bytes of the files of a folder, links followed. What cannot be read counts for nothing.
fn bytes_of(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let sizes = entries.filter_map(|entry| std::fs::metadata(entry.ok()?.path()).ok());
    sizes
        .filter(|file| file.is_file())
        .map(|file| file.len())
        .sum()
}

fn table(rows: &[Row]) -> Vec<String> {
    const SHORT: usize = 12;
    let now = SystemTime::now();
    let head = [
        "NAME",
        "REVISION",
        "SIZE",
        "PRECISION",
        "FROM F32",
        "LAST USED",
    ];
    let mut cells = vec![head.map(str::to_owned).to_vec()];
    for row in rows {
        let fidelity = row.fidelity.map(|fidelity| {
            format!(
                "{:.4}, {:.4} at most",
                fidelity.mean_score_difference, fidelity.max_score_difference
            )
        });
        let used = row.last_used.map(|seconds| {
            let then = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            ago(now.duration_since(then).unwrap_or_default())
        });
        let revision = row.revision.as_deref().unwrap_or("-");
        cells.push(vec![
            row.name.clone(),
            revision.chars().take(SHORT).collect(),
            size(row.bytes),
            row.precision.clone().unwrap_or_else(|| "-".into()),
            fidelity.unwrap_or_else(|| "-".into()),
            used.unwrap_or_else(|| "-".into()),
        ]);
    }
    let mut lines = super::output::columns(&cells);
    let problems = rows.iter().filter_map(|row| {
        let problem = row.problem.as_ref()?;
        Some(format!("{}: {problem}", row.name))
    });
    lines.extend(problems);
    lines
}

/// How long ago that was, roughly.
fn ago(time: Duration) -> String {
    let seconds = time.as_secs();
    let (count, unit) = match seconds {
        0..60 => return "just now".into(),
        60..3_600 => (seconds / 60, "minute"),
        3_600..86_400 => (seconds / 3_600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{plural} ago")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_roughly() {
        for (seconds, said) in [
            (0, "just now"),
            (60, "1 minute ago"),
            (3_599, "59 minutes ago"),
            (7_200, "2 hours ago"),
            (86_400, "1 day ago"),
            (864_000, "10 days ago"),
        ] {
            assert_eq!(ago(Duration::from_secs(seconds)), said);
        }
    }
}
