//! A packed file, damaged: refused when it is opened, or when it is verified, and never a panic in between. The input is a list of
//! damages to the golden model's packed form, and whether the header's digest is made to fit again, as a
//! foreign writer's would.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use arbitrary::Unstructured;
use kernels::{Isa, Kernels};
use libfuzzer_sys::{Corpus, fuzz_target};
use sha2::{Digest, Sha256};
use reranker_engine::model::{Model, Packed};
use reranker_engine::weights::{Prefetch, Weights, check_payload};

#[path = "../src/files.rs"]
#[allow(dead_code, reason = "each target uses its own part")]
mod files;
#[path = "../src/folder.rs"]
mod folder;

struct Source {
    bytes: Vec<u8>,
    /// Where the header's content ends, what it was padded with not counted, and where the tensors begin.
    header_end: usize,
    payload: usize,
    folder: PathBuf,
}

static SOURCE: LazyLock<Source> = LazyLock::new(|| {
    let bytes = files::packed("bert");
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    let header = bytes[8..8 + length].trim_ascii_end().len();
    Source {
        header_end: 8 + header,
        payload: 8 + length,
        bytes,
        folder: folder::in_memory(),
    }
});

fuzz_target!(|data: &[u8]| -> Corpus {
    match run(&mut Unstructured::new(data)) {
        Ok(()) => Corpus::Keep,
        Err(_) => Corpus::Reject,
    }
});

fn run(input: &mut Unstructured) -> arbitrary::Result<()> {
    let source = &*SOURCE;
    let mut bytes = source.bytes.clone();
    let foreign = input.ratio(1, 2)?;
    for _ in 0..input.int_in_range(1..=6u8)? {
        let place = match input.int_in_range(0..=7u8)? {
            0 => input.int_in_range(0..=7)?,
            1..=5 => input.int_in_range(8..=source.header_end - 1)?,
            6 => input.int_in_range(source.header_end..=source.payload - 1)?,
            _ => input.int_in_range(source.payload..=bytes.len() - 1)?,
        };
        match input.int_in_range(0..=3u8)? {
            // Headers are texts: digits and letters make what can still be read.
            0 => bytes[place] = *input.choose(b"0123456789,:{}[]\"\\FI8UBOL ")?,
            1 => bytes[place] = input.arbitrary()?,
            2 => {
                let from = input.int_in_range(8..=source.header_end - 1)?;
                let length = input.int_in_range(1..=40usize)?;
                let length = length.min(bytes.len() - place.max(from));
                bytes.copy_within(from..from + length, place);
            }
            _ => bytes[place] ^= 1 << input.int_in_range(0..=7)?,
        }
    }
    if input.ratio(1, 12)? {
        bytes.truncate(input.int_in_range(0..=bytes.len())?);
    }
    if foreign && bytes.len() == source.bytes.len() {
        let digest = Sha256::digest(&bytes[8..source.payload]);
        let end = bytes.len();
        bytes[end - 32..].copy_from_slice(&digest);
    }
    let untouched = bytes == source.bytes;

    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let name = NEXT.fetch_add(1, Ordering::Relaxed).to_string();
    let path = source.folder.join(name);
    std::fs::write(&path, &bytes).expect("written");
    let kernels = Kernels::with(Isa::Scalar).expect("runs everywhere");
    let opened = Weights::open(&path);
    let verified = check_payload(&path).is_ok();
    std::fs::remove_file(&path).expect("removed");
    let model = opened
        .and_then(|weights| Model::from_weights(&path, &weights, kernels, None, Prefetch::none()));
    if !foreign && !untouched {
        assert!(model.is_err() || !verified, "damaged, and not noticed");
    }
    if let Ok(model) = model {
        let mut packed = Packed::new();
        packed.push(&[1, 2, 3], &[0, 0, 0]);
        let logits = model.forward(&packed);
        assert!(logits.is_ok_and(|logits| logits[0].is_finite()) || !untouched);
    }
    Ok(())
}
