//! How a pair is cut, against Hugging Face's own function, and FlagEmbedding's rule against its two steps in plain form.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tokenizers::utils::truncation::{
    TruncationDirection, TruncationParams, TruncationStrategy, truncate_encodings,
};
use tokenizers::{Encoding, Token};
use reranker_domain::Truncation;
use reranker_engine::tokenizer::kept_tokens;

fuzz_target!(|lengths: (u16, u16, u16, u8)| {
    let (query, document, max_length) = (
        usize::from(lengths.0 % 80),
        usize::from(lengths.1 % 80),
        usize::from(lengths.2 % 120),
    );
    let special = 3 + usize::from(lengths.3 % 2);
    let kept = |rule| {
        let kept = kept_tokens(rule, query, document, max_length, special);
        (kept.query, kept.document)
    };
    let room = max_length.saturating_sub(special);
    let expected = cut(query, document, room, TruncationStrategy::LongestFirst);
    assert_eq!(kept(Truncation::LongestFirst), expected);
    assert_eq!(kept(Truncation::None), expected);
    let query = query.min(max_length * 3 / 4).min(room);
    let document = document.min(room - query);
    assert_eq!(kept(Truncation::Flag), (query, document));
});

fn encoding(tokens: usize) -> Encoding {
    let token = |id: usize| Token::new(id as u32, String::new(), (0, 0));
    Encoding::from_tokens((0..tokens).map(token).collect(), 0)
}

fn cut(query: usize, document: usize, room: usize, strategy: TruncationStrategy) -> (usize, usize) {
    let params = TruncationParams {
        max_length: room,
        strategy,
        stride: 0,
        direction: TruncationDirection::Right,
    };
    let (query, document) = truncate_encodings(encoding(query), Some(encoding(document)), &params)
        .expect("this strategy always cuts");
    (query.len(), document.map_or(0, |encoding| encoding.len()))
}
