//! How much memory this process may use, and how much a model needs.

use std::path::Path;

use super::cgroup::{self, Group};
use super::process;
use super::setup::ModelPlan;
use reranker_engine::TOKENIZER_FILE;
use reranker_engine::model::{Model, Need};
use reranker_engine::weights::Weights;

/// Code, libraries and threads, before any model.
const PROGRAM: u64 = 8 << 20;

/// The lowest limit that holds for this process alone, and what sets it.
#[derive(Debug, PartialEq, Eq)]
pub struct Limit {
    pub bytes: u64,
    pub by: String,
}

/// Refuses a start that cannot end well: the kernel would kill the process without a word while it
/// loads, or at its first request.
///
/// What every forward pass reads has to be in memory; what is mapped besides (embedding tables)
/// comes and goes.
pub fn check(plan: &ModelPlan) -> anyhow::Result<()> {
    // A GPU's weights are in its own memory, and only pass through this one.
    if plan.settings.gpu.is_some() {
        return Ok(());
    }
    check_path(&plan.path)
}

/// The same for a model that the CPU computes.
pub fn check_path(path: &Path) -> anyhow::Result<()> {
    let Some(limit) = limit() else {
        return Ok(());
    };
    // Where they cannot be opened, loading tells why.
    let Ok(weights) = Weights::open(path) else {
        return Ok(());
    };
    let tokenizer = std::fs::metadata(path.join(TOKENIZER_FILE));
    let least = PROGRAM + weights.working_bytes(Need::of) + tokenizer.map_or(0, |file| file.len());
    anyhow::ensure!(
        least <= limit.bytes,
        "{}: the model needs at least {} of memory, {} allows {}: give it more, or serve a packed model (`reranker pack`)",
        path.display(),
        size(least),
        limit.by,
        size(limit.bytes)
    );
    Ok(())
}

/// A rough upper bound: the weights (as f32 where a folder holds another dtype), the activations of
/// one full batch, and the tokenizer.
pub fn needed(model: &Model, batch_tokens: usize, stored: u64, dtype: &str) -> u64 {
    let packed = model.manifest().is_some();
    let model = model.config();
    let activations = 4 * (6 * model.hidden_size + model.intermediate_size) * batch_tokens;
    if packed {
        // Used as it lies in the file, tokenizer included.
        return stored + activations as u64;
    }
    let widened = match dtype {
        "f16" | "bf16" => stored * 2,
        "i8" => stored * 4,
        _ => stored,
    };
    // The true XLM-RoBERTa tokenizer takes about 290 MB for 250,000 pieces.
    let tokenizer = model.vocab_size as u64 * 1_200;
    widened + activations as u64 + tokenizer
}

/// What holds for this process: the limit of its own, or else the machine's memory.
pub fn available() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
            Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
        });
    let own = limit().map(|limit| limit.bytes);
    [own, machine].into_iter().flatten().min()
}

/// The limit of the control group that this process is in, of those above it, and of its address
/// space, whichever is lowest.
pub fn limit() -> Option<Limit> {
    let read = |path: &Path| {
        let text = std::fs::read_to_string(path).ok()?;
        // `max` is no number, and version 1 writes a number that no machine has.
        text.trim().parse().ok().filter(|&bytes| bytes < 1 << 50)
    };
    let address_space = process::limit("Max address space").map(|bytes| Limit {
        bytes,
        by: "the limit of the address space".into(),
    });
    lowest(&cgroup::own(), Path::new(cgroup::ROOT), read)
        .into_iter()
        .chain(address_space)
        .min_by_key(|limit| limit.bytes)
}

fn lowest(list: &str, root: &Path, read: impl Fn(&Path) -> Option<u64>) -> Option<Limit> {
    let limits = cgroup::groups(list, root, "memory").into_iter();
    limits
        .filter_map(|group| {
            let file = match group {
                Group::V1(folder) => folder.join("memory.limit_in_bytes"),
                Group::V2(folder) => folder.join("memory.max"),
            };
            let by = file.display().to_string();
            read(&file).map(|bytes| Limit { bytes, by })
        })
        .min_by_key(|limit| limit.bytes)
}

pub fn size(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib < 1024.0 {
        format!("{mib:.0} MiB")
    } else {
        format!("{:.1} GiB", mib / 1024.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_limit_on_the_way_up_holds_in_either_version() {
        let files = [
            ("/c/memory.max", 900),
            ("/c/pod/memory.max", 300),
            ("/c/pod/app/memory.max", 500),
            ("/c/memory/memory.limit_in_bytes", 800),
            ("/c/memory/job/memory.limit_in_bytes", 200),
            ("/c/cpu/memory.limit_in_bytes", 1),
        ];
        let read = |path: &Path| {
            let found = files.iter().find(|(file, _)| Path::new(file) == path);
            found.map(|(_, bytes)| *bytes)
        };
        let of = |groups: &str| {
            let limit = lowest(groups, Path::new("/c"), read);
            limit.map(|limit| (limit.bytes, limit.by))
        };
        let two = Some((300, "/c/pod/memory.max".to_owned()));
        assert_eq!(of("0::/pod/app\n"), two);
        // Not to be seen from in here.
        assert_eq!(
            of("0::/elsewhere/x\n"),
            Some((900, "/c/memory.max".to_owned()))
        );
        let one = Some((200, "/c/memory/job/memory.limit_in_bytes".to_owned()));
        assert_eq!(of("2:cpu:/\n4:memory:/job\n0::/pod/app\n"), one);
        assert_eq!(of(""), None);
    }
}
