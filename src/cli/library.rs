//! What sentence-transformers does with a repository that this program does otherwise: the
//! activation of scores, and prompts.

use std::path::Path;

use serde_json::Value;

use reranker_engine::model::CONFIG_FILE;
use reranker_engine::weights::Weights;

const LIBRARY_FILE: &str = "config_sentence_transformers.json";

/// What to say of a model folder or packed file; nothing where both do the same. What cannot be
/// read is said when it is loaded.
pub fn notes(path: &Path) -> Vec<String> {
    let read = |file: &str| {
        let bytes = std::fs::read(path.join(file)).ok()?;
        serde_json::from_slice::<Value>(&bytes).ok()
    };
    let config = if path.is_dir() {
        read(CONFIG_FILE)
    } else {
        let weights = Weights::open(path).ok();
        weights.and_then(|weights| Some(weights.manifest()?.config.clone()))
    };
    of(
        &config.unwrap_or_default(),
        &read(LIBRARY_FILE).unwrap_or_default(),
    )
}

fn of(config: &Value, library: &Value) -> Vec<String> {
    let activation = [
        &config["sentence_transformers"]["activation_fn"],
        &library["activation_fn"],
        &config["sbert_ce_default_activation_function"],
    ]
    .into_iter()
    .find_map(Value::as_str);
    let mut notes = Vec::new();
    // Where nothing is said, the library takes the sigmoid of one logit.
    match activation.map(|name| name.rsplit('.').next().unwrap_or(name)) {
        None | Some("Sigmoid") => {}
        Some("Identity") => notes.push(
            "sentence-transformers gives this model's logits as scores, here they are the logits' sigmoid: the order is the same, and \"normalize\": false gives equal numbers".to_owned(),
        ),
        Some(other) => notes.push(format!(
            "sentence-transformers gives the {other} of this model's logits as scores, here they are the logits' sigmoid: \"normalize\": false gives the logits"
        )),
    }
    let prompts = library["prompts"].as_object();
    let prompts = prompts
        .into_iter()
        .flatten()
        .filter(|(_, text)| text.as_str().is_some_and(|text| !text.is_empty()));
    let names: Vec<&str> = prompts.map(|(name, _)| name.as_str()).collect();
    if let Some(default) = library["default_prompt_name"]
        .as_str()
        .filter(|name| names.contains(name))
    {
        notes.push(format!(
            "sentence-transformers puts this model's prompt {default:?} before the query, here nothing is: send the query with it"
        ));
    } else if !names.is_empty() {
        notes.push(format!(
            "the repository has prompts ({}), of which none is put before a query unless it is sent with it",
            names.join(", ")
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_library_does_otherwise_is_said() {
        let identity = "torch.nn.modules.linear.Identity";
        let sigmoid = "torch.nn.modules.activation.Sigmoid";
        let prompts = json!({"web": "Web: ", "none": ""});
        for (config, library, said) in [
            (json!({}), json!({}), &[][..]),
            (
                json!({"sentence_transformers": {"activation_fn": sigmoid}}),
                json!({}),
                &[],
            ),
            (
                json!({"sentence_transformers": {"activation_fn": identity}}),
                json!({}),
                &["\"normalize\": false gives equal numbers"],
            ),
            (
                json!({"sbert_ce_default_activation_function": identity}),
                json!({"prompts": {}, "default_prompt_name": null}),
                &["\"normalize\": false gives equal numbers"],
            ),
            (
                json!({}),
                json!({"activation_fn": "torch.nn.modules.activation.Tanh", "prompts": prompts}),
                &["gives the Tanh of", "has prompts (web)"],
            ),
            (
                json!({"sentence_transformers": {"activation_fn": 7}}),
                json!({"prompts": prompts, "default_prompt_name": "web"}),
                &["prompt \"web\" before the query"],
            ),
        ] {
            let notes = of(&config, &library);
            assert_eq!(notes.len(), said.len(), "{config} {library}: {notes:?}");
            for (note, said) in notes.iter().zip(said) {
                assert!(note.contains(said), "{note}");
            }
        }
    }
}
