//! A head as sentence-transformers saves one: `modules.json` and a folder for each module behind
//! the encoder.
//!
//! <https://sbert.net/docs/cross_encoder/usage/custom_models.html>

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::CONFIG_FILE;
use super::config::{Activation, json};
use crate::error::{ModelError, Remedy};
use crate::weights::{MODULES_FILE, lacking_module, listed_modules, read_file};

/// What `modules.json` names, in its order, each with its own configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Modules(Vec<Module>);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Module {
    /// Its class, without the package.
    kind: String,
    path: String,
    config: Value,
}

/// What comes of the encoder's output.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ModuleHead {
    /// Whether it is the mean of all tokens that goes on, else the first.
    pub(super) mean: bool,
    pub(super) steps: Vec<Step>,
}

/// A module that has weights; `name` is the first part of their names.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    Dense {
        name: String,
        outputs: usize,
        inputs: usize,
        bias: bool,
        activation: Activation,
    },
    Norm {
        name: String,
        width: usize,
    },
}

impl Modules {
    /// Of a model folder; nothing where it has none.
    pub fn read(folder: &Path) -> Result<Option<Self>, ModelError> {
        let listed = listed_modules(folder)?;
        if listed.is_empty() {
            return Ok(None);
        }
        let mut modules = Vec::new();
        for module in listed {
            let kind = module.kind().to_owned();
            let file = format!("{}/{CONFIG_FILE}", module.path);
            let own = folder.join(&file);
            let (of_folder, there) = (module.path.is_empty(), own.exists());
            if !of_folder && !there && module.needs(CONFIG_FILE) {
                return Err(lacking_module(folder, &module, &file));
            }
            let path = module.path;
            let config = if !of_folder && there {
                json(&read_file(&own)?).map_err(|error| {
                    let expected = "JSON of sentence-transformers";
                    ModelError::unfit(&own, "module", error, expected)
                })?
            } else {
                Value::Null
            };
            modules.push(Module { kind, path, config });
        }
        Ok(Some(Self(modules)))
    }

    /// Those behind the encoder.
    fn behind(&self) -> &[Module] {
        self.0.get(1..).unwrap_or_default()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.behind().is_empty()
    }

    pub(super) fn names(&self) -> String {
        let names: Vec<&str> = self.behind().iter().map(|it| it.kind.as_str()).collect();
        names.join(", ")
    }

    /// Whether the last of them gives one number.
    pub(super) fn has_score(&self) -> bool {
        let last = self.behind().last();
        last.is_some_and(|last| last.kind == "Dense" && last.config["out_features"] == 1)
    }

    /// What they compute of an encoder's output of this width; what is not computed here is
    /// refused.
    pub(super) fn head(&self, model: &Path, width: usize) -> Result<ModuleHead, ModelError> {
        let folder = model.parent().unwrap_or(Path::new("."));
        let refuse = |module: &Module, field: &str, found: &Value, expected: &str| {
            let path = folder.join(&module.path).join("config.json");
            ModelError::not_served(&path, field, found, expected)
        };
        if let Some(first) = self.0.first().filter(|it| it.kind != "Transformer") {
            let expected = "Transformer, with the encoder in the folder itself";
            let path = folder.join(MODULES_FILE);
            return Err(ModelError::not_served(&path, "type", &first.kind, expected));
        }
        let mut head = ModuleHead {
            mean: false,
            steps: Vec::new(),
        };
        let mut width = width;
        for (index, module) in self.behind().iter().enumerate() {
            let config = &module.config;
            let size = |field: &str| -> Result<usize, ModelError> {
                let size = config[field]
                    .as_u64()
                    .and_then(|it| usize::try_from(it).ok());
                size.filter(|size| (1..=1 << 24).contains(size))
                    .ok_or_else(|| {
                        let path = folder.join(&module.path).join("config.json");
                        ModelError::unfit(&path, field, &config[field], "a whole number from 1 on")
                            .with(Remedy::Mend)
                    })
            };
            let last = index + 1 == self.behind().len();
            match module.kind.as_str() {
                "Pooling" if index == 0 => head.mean = pools_mean(module, &refuse)?,
                "Dense" if index > 0 => {
                    for (field, allowed) in [
                        ("module_input_name", &["sentence_embedding"][..]),
                        ("module_output_name", &["sentence_embedding", "scores"]),
                    ] {
                        let named = &config[field];
                        let known = named.as_str().is_some_and(|name| {
                            allowed.contains(&name) && (last || name != "scores")
                        });
                        if !named.is_null() && !known {
                            return Err(refuse(module, field, named, "\"sentence_embedding\""));
                        }
                    }
                    if config["use_residual"] == true {
                        return Err(refuse(
                            module,
                            "use_residual",
                            &config["use_residual"],
                            "false",
                        ));
                    }
                    let (inputs, outputs) = (size("in_features")?, size("out_features")?);
                    if inputs != width {
                        let expected = format!("{width}, as what is before it gives");
                        return Err(refuse(
                            module,
                            "in_features",
                            &config["in_features"],
                            &expected,
                        ));
                    }
                    let named = &config["activation_function"];
                    let activation = match named.as_str().and_then(|it| it.rsplit('.').next()) {
                        Some("Identity") => Activation::None,
                        Some("GELU") if !last => Activation::Gelu,
                        Some("ReLU") if !last => Activation::Relu,
                        Some("Tanh") if !last => Activation::Tanh,
                        // As the library has it.
                        None if named.is_null() && !last => Activation::Tanh,
                        _ => {
                            let expected = if last {
                                "torch.nn.modules.linear.Identity, of the last module"
                            } else {
                                "torch's GELU, Tanh, ReLU or Identity"
                            };
                            return Err(refuse(module, "activation_function", named, expected));
                        }
                    };
                    head.steps.push(Step::Dense {
                        name: format!("{}.linear", module.path),
                        outputs,
                        inputs,
                        bias: config["bias"] != false,
                        activation,
                    });
                    width = outputs;
                }
                "LayerNorm" if index > 0 => {
                    if size("dimension")? != width {
                        let expected = format!("{width}, as what is before it gives");
                        return Err(refuse(module, "dimension", &config["dimension"], &expected));
                    }
                    head.steps.push(Step::Norm {
                        name: format!("{}.norm", module.path),
                        width,
                    });
                }
                // For training.
                "Dropout" if index > 0 => {}
                other => {
                    let expected = "Transformer, Pooling, and then Dense, LayerNorm and Dropout";
                    let path = folder.join(MODULES_FILE);
                    return Err(ModelError::not_served(&path, "type", other, expected));
                }
            }
        }
        Ok(head)
    }
}

/// Whether this pooling takes the mean; any but that and the first token is refused.
fn pools_mean(
    module: &Module,
    refuse: &dyn Fn(&Module, &str, &Value, &str) -> ModelError,
) -> Result<bool, ModelError> {
    const EXPECTED: &str = "the first token (cls) or the mean";
    let config = &module.config;
    let mode = match &config["pooling_mode"] {
        Value::Array(modes) if modes.len() == 1 => &modes[0],
        mode => mode,
    };
    match mode.as_str() {
        Some("cls") => return Ok(false),
        Some("mean") => return Ok(true),
        _ if !mode.is_null() => return Err(refuse(module, "pooling_mode", mode, EXPECTED)),
        _ => {}
    }
    // As the library wrote it before version 6.
    let chosen: Vec<&str> = config
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, value)| name.starts_with("pooling_mode_") && **value == true)
        .map(|(name, _)| name.as_str())
        .collect();
    match chosen[..] {
        ["pooling_mode_cls_token"] => Ok(false),
        [] | ["pooling_mode_mean_tokens"] => Ok(true),
        _ => Err(refuse(
            module,
            "pooling_mode",
            &chosen.join(", ").into(),
            EXPECTED,
        )),
    }
}
