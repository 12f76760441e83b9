//! Windows over tokens and sentences of texts: nothing lost, nothing out of bounds, and an end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use reranker_engine::tokenizer::{sentences, windows};

fuzz_target!(|input: (u32, u16, u32, u8, &str)| {
    let (tokens, room, overlap, most, text) = input;
    let (tokens, room) = ((tokens % 100_000) as usize, usize::from(room));
    let (overlap, most) = (overlap as usize, usize::from(most));
    let found = windows(tokens, room, overlap, most);
    assert!(!found.is_empty() && found.len() <= most.max(1));
    assert_eq!(found[0].start, 0);
    for pair in found.windows(2) {
        assert!(pair[1].start <= pair[0].end && pair[1].end > pair[0].end);
        assert!(pair[1].start > pair[0].start);
    }
    for window in &found {
        assert!(window.start <= window.end && window.end <= tokens);
        assert!(window.len() <= room.max(1));
    }
    if found.len() < most.max(1) {
        assert_eq!(found[found.len() - 1].end, tokens);
    }

    let mut end = 0;
    for range in sentences(text) {
        assert!(range.start >= end && range.start < range.end);
        let sentence = &text[range.clone()];
        assert_eq!(sentence, sentence.trim());
        // What lies between sentences is white space or punctuation.
        assert!(!text[end..range.start].contains(char::is_alphanumeric));
        end = range.end;
    }
    assert!(!text[end..].contains(char::is_alphanumeric));
});
