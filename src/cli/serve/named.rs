//! A model that a plain server is given by its name: brought from the hub where it is not here,
//! packed, and held while it is served.
//!
//! Whatever is interrupted goes on at the next start: downloads where they ended, packing from its
//! beginning. Nothing is served before it is whole, because neither a snapshot nor a packed file
//! has its name before.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::cli::fetch::{self, Wish};
use crate::cli::{Usage, library, memory, pack, setup};
use crate::config::Config;
use reranker_engine::model::{CONFIG_FILE, ModelConfig, check_sources};
use reranker_engine::weights::{PACKED_FILE, Sureness, Weights, require, require_weights};
use reranker_engine::{ModelError, Precision, TOKENIZER_FILE, folder_config};
use reranker_sources::{
    Hold, Holding, HubName, LocatedModel, Looks, Pin, hub_name, locate, record, recorded,
};

/// What to serve, and what keeps others from removing it meanwhile.
pub struct Ready {
    pub config: Config,
    pub hold: Option<Hold>,
}

/// Sees to it that the model is here, and packed where its packed form would be computed. `asked`
/// says whether the command line names it: the variable packs only what it has brought itself. A
/// folder is its owner's, and packed only where `pack` allows that.
pub fn ready(config: &Config, asked: bool, pack: bool) -> anyhow::Result<Ready> {
    let as_it_is = || Ready {
        config: config.clone(),
        hold: None,
    };
    if setup::s3_model(config)?.is_some() {
        if pack {
            let what =
                "--pack: the model is in S3: `reranker pack --model ADDRESS --out FILE` packs it";
            return Err(Usage(what.into()).into());
        }
        return Ok(as_it_is());
    }
    if let Some(folder) = &config.model_dir {
        if pack {
            pack_folder(config, folder)?;
        }
        return Ok(as_it_is());
    }
    let (Some(name), Some(cache)) = (&config.model_name, &config.platform.hub_cache) else {
        return Ok(as_it_is());
    };
    match hub_name(name, Some(cache)) {
        Ok(HubName { id, revision }) => {
            let revision = config.model_revision.clone().or(revision);
            let recorded = recorded(cache, &id, revision.as_deref())?;
            let named = Named {
                revision,
                config,
                id,
                cache,
                recorded,
                packs: asked || pack,
            };
            named.ready()
        }
        Err(reason) if asked => Err(fetch::no_such(name, &reason).into()),
        // Finding it tells in the variable's terms.
        Err(_) => Ok(as_it_is()),
    }
}

/// A model of the hub.
struct Named<'a> {
    config: &'a Config,
    id: String,
    /// What was asked for. What came of it first stays.
    revision: Option<String>,
    cache: &'a PathBuf,
    /// What an earlier start brought.
    recorded: Option<Pin>,
    /// Whether it is packed, whoever brought it.
    packs: bool,
}

/// What is missing before the model can be served.
enum Missing {
    Nothing(LocatedModel),
    Packed(LocatedModel),
    All,
}

impl Named<'_> {
    fn ready(mut self) -> anyhow::Result<Ready> {
        let hold = match self.hold(Holding::Used) {
            Ok(hold) => hold,
            // A cache that others fill and nobody here may write to.
            Err(error) => {
                return match self.missing()? {
                    Missing::Nothing(found) | Missing::Packed(found) => Ok(self.found(found, None)),
                    Missing::All => Err(error).with_context(|| {
                        format!("{}: the cache cannot be written to", self.cache.display())
                    }),
                };
            }
        };
        if let Missing::Nothing(found) = self.missing()? {
            return Ok(self.found(found, Some(hold)));
        }
        // Servers may go on with what they have meanwhile: what is brought gets its name when it is
        // whole.
        let _bringing = self.hold(Holding::Brought)?;
        // Another process may have done it meanwhile.
        if matches!(self.missing()?, Missing::All) {
            self.fetch()?;
        }
        let found = match self.missing()? {
            Missing::Nothing(found) => found,
            Missing::Packed(found) => {
                packed(self.config, found.clone())?;
                found
            }
            Missing::All => bail!("{}: it was fetched, and is not there", self.id),
        };
        Ok(self.found(found, Some(hold)))
    }

    fn found(&self, found: LocatedModel, hold: Option<Hold>) -> Ready {
        if let Some(hold) = &hold {
            // Only `list` misses it.
            let _ = hold.used();
        }
        for note in library::notes(&found.folder) {
            tracing::info!(model = self.id, "{note}");
        }
        let config = Config {
            model_name: Some(self.id.clone()),
            model_revision: found.revision,
            ..self.config.clone()
        };
        Ready { config, hold }
    }

    fn hold(&self, how: Holding) -> std::io::Result<Hold> {
        if let Some(hold) = Hold::try_take(self.cache, &self.id, how)? {
            return Ok(hold);
        }
        tracing::info!(
            model = self.id,
            "waiting for another process that brings or removes the model"
        );
        Hold::take(self.cache, &self.id, how)
    }

    /// The commit, branch or tag to look for.
    fn wanted(&self) -> Option<&str> {
        let recorded = self.recorded.as_ref().map(|pin| pin.revision.as_str());
        recorded.or(self.revision.as_deref())
    }

    fn missing(&self) -> anyhow::Result<Missing> {
        let Ok(found) = locate(Some(&self.id), None, self.wanted(), Some(self.cache)) else {
            return Ok(Missing::All);
        };
        let folder = &found.folder;
        let packed = packed_form(folder);
        if !matches!(packed, Form::Sound) && !is_whole(folder) {
            return Ok(Missing::All);
        }
        let brought = self.recorded.as_ref().map(|pin| &pin.revision);
        let packs = self.packs || brought == found.revision.as_ref();
        if !packs || matches!(packed, Form::Sound) || !setup::computes_packed(self.config, folder)?
        {
            return Ok(Missing::Nothing(found));
        }
        if let Form::Unsound(reason) = packed {
            tracing::warn!(reason, "the packed model is made again");
        }
        Ok(Missing::Packed(found))
    }

    fn fetch(&mut self) -> anyhow::Result<()> {
        if self.config.platform.hub_offline {
            let found = locate(Some(&self.id), None, self.wanted(), Some(self.cache));
            let lacks = found.map_or_else(
                |error| error.to_string(),
                |found| format!("not all of {} is in {}", self.id, found.folder.display()),
            );
            bail!("HF_HUB_OFFLINE is set, and {lacks}");
        }
        tracing::info!(
            model = self.id,
            cache = %self.cache.display(),
            "fetching the model"
        );
        let wish = Wish {
            name: &self.id,
            revision: self.wanted(),
            pin: Pin::built_in(&self.id).or_else(|| self.recorded.clone()),
            must_be: false,
            looks: Looks {
                small: &|folder| ModelConfig::read(&folder.join(CONFIG_FILE)).map(drop),
                // A start that ends between the two must not leave a model that nobody knows to be
                // brought by one.
                whole: &|pin| record(self.cache, pin.clone(), self.revision.as_deref()),
            },
        };
        let fetched = wish.fetch(self.config, self.cache.clone())?;
        tracing::info!(
            model = self.id,
            revision = fetched.pin.revision,
            bytes = fetched.downloaded,
            "model fetched"
        );
        self.recorded = Some(fetched.pin);
        Ok(())
    }
}

/// Whether a folder has a packed form that this program serves.
enum Form {
    Sound,
    None,
    Unsound(String),
}

fn packed_form(folder: &Path) -> Form {
    let path = folder.join(PACKED_FILE);
    if !path.exists() {
        return Form::None;
    }
    match Weights::open(&path).and_then(|_| check_sources(&path, Sureness::Quick)) {
        Ok(()) => Form::Sound,
        Err(error) => Form::Unsound(error.to_string()),
    }
}

/// Whether a folder lacks no file of a model. What is in them is looked at when it is loaded.
fn is_whole(folder: &Path) -> bool {
    let there = require(folder, CONFIG_FILE)
        .and_then(|()| require(folder, TOKENIZER_FILE))
        .and_then(|()| require_weights(folder));
    let shard_lacks = || match Weights::open(folder) {
        Err(ModelError::Io { reason, .. }) => reason.kind() == ErrorKind::NotFound,
        _ => false,
    };
    there.is_ok() && !shard_lacks()
}

/// Packs a folder that has no packed form.
fn pack_folder(config: &Config, folder: &Path) -> anyhow::Result<()> {
    // What is no model is told when it is loaded.
    if folder.is_dir()
        && matches!(packed_form(folder), Form::None)
        && folder_config(folder).is_ok()
        && setup::computes_packed(config, folder)?
    {
        packed(config, setup::find_model(config)?)?;
    }
    Ok(())
}

/// Packs the model into its own folder.
fn packed(config: &Config, found: LocatedModel) -> anyhow::Result<()> {
    folder_config(&found.folder)?;
    let name = found.name.clone();
    let config = &Config {
        precision: Precision::F32,
        ..config.clone()
    };
    memory::check_path(&found.folder).context("packing takes more memory than serving")?;
    tracing::info!(model = name, "packing the model, once");
    let said = pack::make(&pack::Args::default(), config, found, None)
        .with_context(|| format!("{name} cannot be packed; PRECISION=f32 serves it as it is"))?;
    for line in said {
        tracing::info!(model = name, "{line}");
    }
    Ok(())
}
