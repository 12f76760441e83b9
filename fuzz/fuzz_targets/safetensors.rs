//! A model folder: `config.json` and `model.safetensors`, loaded and, where that succeeds, used. The input is the length of the
//! configuration in two bytes, the configuration, and the other file. What loads must also compute, or say that it cannot.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use kernels::{Isa, Kernels};
use libfuzzer_sys::{Corpus, fuzz_target};
use reranker_engine::model::{Model, Packed};
use reranker_engine::weights::{Prefetch, Weights};

#[path = "../src/folder.rs"]
mod folder;

static FOLDER: LazyLock<PathBuf> = LazyLock::new(folder::in_memory);

fuzz_target!(|data: &[u8]| -> Corpus {
    let Some((length, rest)) = data.split_first_chunk::<2>() else {
        return Corpus::Reject;
    };
    let Some((config, tensors)) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))
    else {
        return Corpus::Reject;
    };
    // Under a new name each time: a file that is mapped is never written to.
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let folder = FOLDER.join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::write(folder.join("config.json"), config).expect("written");
    std::fs::write(folder.join("model.safetensors"), tensors).expect("written");
    let loaded = load(&folder);
    std::fs::remove_dir_all(&folder).expect("removed");
    if let Some(model) = loaded {
        use_it(&model);
    }
    Corpus::Keep
});

fn load(folder: &std::path::Path) -> Option<Model> {
    let kernels = Kernels::with(Isa::Scalar)?;
    let weights = Weights::open(folder).ok()?;
    Model::from_weights(folder, &weights, kernels, None, Prefetch::none()).ok()
}

fn use_it(model: &Model) {
    let config = model.config();
    let id = |i: usize| (i % config.vocab_size) as u32;
    let mut packed = Packed::new();
    for tokens in [1, 2, 7] {
        let tokens = tokens.min(config.max_length());
        let ids: Vec<u32> = (0..tokens).map(id).collect();
        let types: Vec<u32> = (0..tokens)
            .map(|i| (i % config.type_vocab_size) as u32)
            .collect();
        packed.push(&ids, &types);
    }
    if let Ok(logits) = model.forward(&packed) {
        assert_eq!(logits.len(), 3);
        assert!(logits.iter().all(|logit| logit.is_finite()));
    }
    // What no tokenizer of the model's would give is refused, not computed.
    for (id, type_id) in [
        (config.vocab_size as u32, 0),
        (0, config.type_vocab_size as u32),
        (u32::MAX, u32::MAX),
    ] {
        let mut packed = Packed::new();
        packed.push(&[id], &[type_id]);
        assert!(model.forward(&packed).is_err());
    }
}
