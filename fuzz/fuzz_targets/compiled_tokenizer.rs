//! A compiled tokenizer's file with damaged bytes: refused, or used without a panic and with ids of its vocabulary. The input is a
//! choice of file, then damages of a place and a byte each, then a text.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use arbitrary::Unstructured;
use libfuzzer_sys::{Corpus, fuzz_target};
use reranker_domain::Truncation;
use reranker_engine::tokenizer::PairTokenizer;

#[path = "../src/files.rs"]
#[allow(dead_code, reason = "each target uses its own part")]
mod files;

static FILES: LazyLock<[Vec<u8>; 3]> =
    LazyLock::new(|| ["xlm-roberta", "bert", "roberta"].map(files::compiled));

fuzz_target!(|data: &[u8]| -> Corpus {
    match run(&mut Unstructured::new(data)) {
        Ok(()) => Corpus::Keep,
        Err(_) => Corpus::Reject,
    }
});

fn run(input: &mut Unstructured) -> arbitrary::Result<()> {
    let mut bytes = input.choose(FILES.as_slice())?.clone();
    let whole = bytes.len();
    if input.ratio(1, 16)? {
        bytes.truncate(input.int_in_range(0..=whole)?);
    }
    // The header and the small sections behind it decide most.
    let reach = if input.arbitrary()? { whole } else { 1200 };
    for _ in 0..input.int_in_range(0..=24u8)? {
        let at = input.int_in_range(0..=reach - 1)?;
        let byte = input.arbitrary()?;
        if let Some(place) = bytes.get_mut(at) {
            *place = byte;
        }
    }
    let Ok(tokenizer) = PairTokenizer::from_compiled(bytes.into(), Path::new("damaged")) else {
        return Ok(());
    };
    let rest = input.bytes(input.len().min(600))?;
    let rest = String::from_utf8_lossy(rest);
    for text in [
        "Hello world, é 中文 <mask> <s>",
        "▁\u{301}\u{0}\r\n  ##ing",
        &rest,
    ] {
        let Ok(ids) = tokenizer.encode(text) else {
            continue;
        };
        let vocabulary = tokenizer.id_bound();
        assert!(ids.ids().iter().all(|&id| (id as usize) < vocabulary));
        let joined = tokenizer
            .join(&ids, &ids, 64, Truncation::Flag)
            .expect("joins");
        assert!(joined.ids.len() <= 64.max(tokenizer.special_tokens()));
        assert_eq!(joined.ids.len(), joined.type_ids.len());
    }
    Ok(())
}
