//! `reranker fetch`: a model from the Hugging Face hub into the local cache, where every other command finds it by its name.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};

use super::Usage;
use crate::config::Config;
use crate::weights::{Hub, locate};

/// Requests at a time; more do not make a link to the hub's storage faster.
const CONNECTIONS: usize = 8;

#[derive(clap::Args)]
pub struct Args {
    /// The model's hub id (owner/name); MODEL_NAME where it is not given.
    name: Option<String>,
    /// A branch, a tag or a commit; MODEL_REVISION where it is not given, else main.
    #[arg(long)]
    revision: Option<String>,
}

pub fn run(args: &Args, config: &Config) -> anyhow::Result<ExitCode> {
    let platform = &config.platform;
    let name = args.name.as_ref().or(config.model_name.as_ref());
    let name =
        name.ok_or_else(|| Usage("which model? Give its hub id, or set MODEL_NAME".into()))?;
    let revision = args
        .revision
        .as_deref()
        .or(config.model_revision.as_deref());
    let cache = platform.hub_cache.clone();
    let cache = cache.ok_or_else(|| Usage("there is no cache: set HF_HOME or HOME".into()))?;
    let folder = if platform.hub_offline {
        let found = locate(Some(name), None, revision, Some(&cache));
        match found {
            Ok(found) => found.folder,
            Err(error) => bail!("HF_HUB_OFFLINE is set, and {error}"),
        }
    } else {
        let endpoint = platform.hub_endpoint.as_deref();
        let hub = Hub {
            endpoint: endpoint.unwrap_or("https://huggingface.co").to_owned(),
            token: platform.hub_token.clone(),
            cache,
            connections: CONNECTIONS,
        };
        let bar = bar()?;
        let fetched = hub.fetch(name, revision.unwrap_or("main"), &|progress| {
            bar.set_length(progress.total);
            bar.set_position(progress.done);
        });
        bar.finish_and_clear();
        let fetched = fetched.context("the download did not end; what has come is kept")?;
        eprintln!(
            "{name} at {}: {} bytes came",
            fetched.commit, fetched.downloaded
        );
        fetched.folder
    };
    writeln!(std::io::stdout(), "{}", folder.display())?;
    Ok(ExitCode::SUCCESS)
}

fn bar() -> anyhow::Result<ProgressBar> {
    if !std::io::stderr().is_terminal() {
        return Ok(ProgressBar::hidden());
    }
    let style = "{bar:30} {percent:>3}% {bytes}/{total_bytes} {bytes_per_sec} eta {eta}";
    let style = ProgressStyle::with_template(style).context("the progress bar's template")?;
    Ok(ProgressBar::new(0).with_style(style))
}
