//! `reranker rm`: a model is removed from the local cache, whole.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};

use super::Usage;
use super::memory::size;
use super::output::say;
use crate::config::Config;
use reranker_sources::{Hold, Holding, HubName, cached_models, hub_name, remove};

#[derive(clap::Args)]
pub struct Args {
    /// The model's name, as `reranker list` prints it.
    #[arg(value_name = "NAME")]
    name: String,
}

pub fn run(args: &Args, config: &Config) -> anyhow::Result<ExitCode> {
    let cache = config.platform.hub_cache.as_deref();
    let cache = cache.ok_or_else(|| Usage("there is no cache: set HF_HOME or HOME".into()))?;
    let models =
        cached_models(cache).with_context(|| format!("cannot list {}", cache.display()))?;
    let asked = args.name.trim();
    let id = match hub_name(asked, Some(cache)) {
        Ok(HubName { id, revision: None }) => id,
        Ok(HubName { id, .. }) => {
            let what = format!("{asked}: all revisions of a model are removed together: name {id}");
            return Err(Usage(what).into());
        }
        Err(_) if Path::new(asked).exists() => {
            let what = format!(
                "{asked}: only models of the cache are removed; a folder is its owner's to remove"
            );
            return Err(Usage(what).into());
        }
        Err(_) => asked.to_owned(),
    };
    let Some(model) = models.iter().find(|model| model.name == id) else {
        let names: Vec<&str> = models.iter().map(|model| model.name.as_str()).collect();
        let there = match names.len() {
            0 => "it is empty".to_owned(),
            _ => format!("it has {}", names.join(", ")),
        };
        let cache = cache.display();
        return Err(Usage(format!("{id}: it is not in {cache}: {there}")).into());
    };
    let cannot = || format!("cannot remove {}", model.folder.display());
    let hold = Hold::try_take(cache, &model.name, Holding::Removed).with_context(cannot)?;
    let Some(hold) = hold else {
        bail!("{id}: another process serves it, or brings it: end that first");
    };
    let freed = remove(model, &hold).with_context(cannot)?;
    say!("{id} is removed, which freed {}", size(freed))?;
    Ok(ExitCode::SUCCESS)
}
