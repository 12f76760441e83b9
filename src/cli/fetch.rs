//! `reranker fetch`: a model from the Hugging Face hub into the local cache, where every other
//! command finds it by its name; or one from S3 into `MODEL_CACHE`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::bail;

use super::models::{self, Known};
use super::output::{self, Tenths, note, say};
use super::{Usage, setup};
use crate::config::Config;
use reranker_sources::{
    FetchError, Fetched, Hub, HubName, Looks, Pin, S3Model, hub_name, is_sha256, locate, record,
    recorded,
};

/// Requests at a time; more do not make a link to the hub's storage faster.
const CONNECTIONS: usize = 8;

#[derive(clap::Args)]
pub struct Args {
    /// Hub id (owner/name or owner/name@revision), link to the model's page on the hub, or address
    /// in S3 (s3://bucket/key) [default: the configured model].
    #[arg(value_name = "ID|ADDRESS")]
    name: Option<String>,
    /// Branch, tag or commit [default: MODEL_REVISION, else the pinned commit, else main].
    #[arg(long)]
    revision: Option<String>,
    /// Accept only the commit and the files that are pinned in this file, as --write-pins wrote it
    /// [default: the program's own pins].
    #[arg(long, value_name = "FILE")]
    pins: Option<PathBuf>,
    /// Add the model's commit and each file's SHA-256 to this file.
    #[arg(long, value_name = "FILE")]
    write_pins: Option<PathBuf>,
    /// Accept a file only with this SHA-256: model.safetensors=DIGEST. Can be repeated.
    #[arg(long, value_name = "NAME=DIGEST", value_parser = digest)]
    sha256: Vec<(String, String)>,
}

fn digest(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((file, digest)) if is_sha256(digest) => Ok((file.into(), digest.to_lowercase())),
        _ => Err("expected a file's name, =, and 64 hexadecimal digits".into()),
    }
}

pub fn run(args: &Args, config: &Config) -> anyhow::Result<ExitCode> {
    let folder = match &args.name {
        Some(name) => match S3Model::parse(name).transpose()? {
            Some(model) => from_s3(args, config, &model)?,
            None => from_hub(args, config, name)?,
        },
        None => match (setup::s3_model(config)?, &config.model_name) {
            (Some(model), _) => from_s3(args, config, &model)?,
            (None, Some(name)) => from_hub(args, config, name)?,
            (None, None) => {
                let what = "which model? Give its hub id or address, or set MODEL_NAME";
                return Err(Usage(what.into()).into());
            }
        },
    };
    say!("{}", folder.display())?;
    Ok(ExitCode::SUCCESS)
}

fn from_s3(args: &Args, config: &Config, model: &S3Model) -> anyhow::Result<PathBuf> {
    if args.revision.is_some() || args.pins.is_some() || args.write_pins.is_some() {
        let what = "--revision, --pins and --write-pins are for models of the hub";
        return Err(Usage(what.into()).into());
    }
    let found = setup::bring(config, model)?;
    let folder = if found.folder.is_dir() {
        found.folder.as_path()
    } else {
        found.folder.parent().unwrap_or(Path::new("."))
    };
    asked(args).check_folder(folder)?;
    if let Some(download) = found.download {
        note!(
            "{model}: {} of {} bytes came, {:.0} MB/s",
            download.downloaded,
            download.bytes,
            download.mb_per_s()
        );
    }
    Ok(found.folder)
}

/// What `--sha256` asks for.
fn asked(args: &Args) -> Pin {
    Pin {
        name: String::new(),
        revision: String::new(),
        files: args.sha256.iter().cloned().collect::<BTreeMap<_, _>>(),
    }
}

fn from_hub(args: &Args, config: &Config, name: &str) -> anyhow::Result<PathBuf> {
    let platform = &config.platform;
    let cache = platform.hub_cache.clone();
    let HubName { id, revision } =
        hub_name(name, cache.as_deref()).map_err(|reason| no_such(name, &reason))?;
    let (name, own_revision) = (id.as_str(), revision.as_deref());
    if own_revision.is_some() && args.revision.is_some() {
        return Err(Usage("--revision: the name has one already".into()).into());
    }
    let pin = match &args.pins {
        Some(path) => Some(Pin::read(path, name)?),
        None => Pin::built_in(name),
    };
    let revision = own_revision
        .or(args.revision.as_deref())
        .or(config.model_revision.as_deref());
    let cache = cache.ok_or_else(|| Usage("there is no cache: set HF_HOME or HOME".into()))?;
    if platform.hub_offline {
        let wanted = revision.or(pin.as_ref().map(|pin| pin.revision.as_str()));
        let found = match locate(Some(name), None, wanted, Some(&cache)) {
            Ok(found) => found,
            Err(error) => bail!("HF_HUB_OFFLINE is set, and {error}"),
        };
        let must_be = args.pins.is_some();
        if let Some(pin) =
            pin.filter(|pin| must_be || found.revision.as_ref() == Some(&pin.revision))
        {
            if found.revision.as_ref() != Some(&pin.revision) {
                let found = found.revision.unwrap_or_default();
                bail!("{name} at {found}: pinned is {}", pin.revision);
            }
            pin.check_folder(&found.folder)?;
        }
        asked(args).check_folder(&found.folder)?;
        return Ok(found.folder);
    }
    let wish = Wish {
        name,
        revision,
        pin,
        must_be: args.pins.is_some(),
        looks: Looks::default(),
    };
    let fetched = wish.fetch(config, cache.clone())?;
    asked(args).check_folder(&fetched.folder)?;
    // What serves it by name stays with what came first, until another is fetched.
    if recorded(&cache, name, revision)?.is_some() {
        record(&cache, fetched.pin.clone(), revision)?;
    }
    note!(
        "{name} at {}: {} bytes came",
        fetched.pin.revision,
        fetched.downloaded
    );
    if let Some(path) = &args.write_pins {
        fetched.pin.write(path)?;
    }
    Ok(fetched.folder)
}

/// A name that is none, with the known model that may be meant.
pub(super) fn no_such(name: &str, reason: &str) -> Usage {
    let meant = models::meant(name).filter(|id| !reason.contains(id));
    let meant = meant.map_or_else(String::new, |id| format!("; or is {id} meant?"));
    Usage(format!("{name}: {reason}{meant}"))
}

/// A model to bring from the hub.
pub(super) struct Wish<'a> {
    pub name: &'a str,
    /// A branch, a tag or a commit, where one is asked for.
    pub revision: Option<&'a str>,
    pub pin: Option<Pin>,
    /// Whether no other commit than the pinned will do.
    pub must_be: bool,
    pub looks: Looks<'a>,
}

impl Wish<'_> {
    /// Brings it, telling on a terminal how far that has come.
    pub fn fetch(&self, config: &Config, cache: PathBuf) -> anyhow::Result<Fetched> {
        let platform = &config.platform;
        if let Some(terms) = models::known(self.name).and_then(Known::not_commercial) {
            note!("{}: {terms}", self.name);
        }
        let endpoint = platform.hub_endpoint.as_deref();
        let hub = Hub {
            endpoint: endpoint.unwrap_or("https://huggingface.co").to_owned(),
            token: platform.hub_token.clone(),
            cache,
            connections: CONNECTIONS,
        };
        let pin = self.pin.as_ref();
        let wanted = self.revision.or(pin.map(|pin| pin.revision.as_str()));
        let (bar, tenths) = (output::download_bar(), Tenths::of("downloading"));
        let fetched = hub.fetch(
            self.name,
            wanted.unwrap_or("main"),
            pin,
            self.must_be,
            &self.looks,
            &|progress| {
                bar.set_length(progress.total);
                bar.set_position(progress.done);
                tenths.at(progress.done, progress.total);
            },
        );
        bar.finish_and_clear();
        fetched.map_err(|error| {
            let elsewhere = match &error {
                // The usual case is a machine that may not reach the hub.
                FetchError::Lost { .. } => {
                    ": HF_ENDPOINT names a mirror; or fetch it on a machine with a network, copy the folder that is printed there here and set MODEL_DIR to it".to_owned()
                }
                // The hub answers 401 too where there is no such model, and nobody is known.
                FetchError::Refused { status: 401 | 404, .. } => models::meant(self.name)
                    .map_or_else(String::new, |id| format!(": is {id} meant?")),
                _ => String::new(),
            };
            anyhow::Error::new(error).context(format!("the model was not fetched{elsewhere}"))
        })
    }
}
