//! `config.json`: read or refused, and what is read holds the bounds that the model relies on.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use reranker_engine::model::ModelConfig;

fuzz_target!(|data: &[u8]| {
    match ModelConfig::parse(Path::new("config.json"), data) {
        Ok(config) => {
            assert!(config.hidden_size % config.heads == 0 && config.heads > 0);
            assert!(config.layers > 0 && config.vocab_size > 0 && config.type_vocab_size > 0);
            assert!(config.max_length() > 0 && config.max_length() <= config.position_rows);
            assert!(config.layer_norm_eps.is_finite() && config.layer_norm_eps >= 0.0);
        }
        Err(error) => assert!(error.to_string().starts_with("config.json: ")),
    }
});
