//! How a long document is taken apart: into windows of tokens that overlap, and into sentences.

use std::ops::Range;

use unicode_segmentation::UnicodeSegmentation;

/// Windows of at most `room` tokens over `tokens`, each of which repeats `overlap` tokens of the
/// one before it; at most `max_windows` of them. There is at least one, empty where there are no
/// tokens.
///
/// An overlap of half the room or more is taken as just below half, or a long document would need
/// any number of windows.
pub fn windows(
    tokens: usize,
    room: usize,
    overlap: usize,
    max_windows: usize,
) -> Vec<Range<usize>> {
    let room = room.max(1);
    let step = room - overlap.min((room - 1) / 2);
    let starts = (0..).step_by(step).take(max_windows.max(1));
    let mut found = Vec::new();
    for start in starts {
        let end = tokens.min(start + room);
        found.push(start.min(end)..end);
        if end == tokens {
            break;
        }
    }
    found
}

/// The sentences of a text by the default rules of Unicode (UAX #29), in bytes; white space around
/// them is left out, and what is nothing but white space or punctuation is none.
pub fn sentences(text: &str) -> Vec<Range<usize>> {
    text.split_sentence_bound_indices()
        .filter_map(|(start, sentence)| {
            let trimmed = sentence.trim_start();
            let start = start + sentence.len() - trimmed.len();
            let trimmed = trimmed.trim_end();
            trimmed
                .chars()
                .any(char::is_alphanumeric)
                .then(|| start..start + trimmed.len())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_document_that_fits_is_one_window() {
        let pairs = |tokens, overlap, most| -> Vec<(usize, usize)> {
            let windows = windows(tokens, 10, overlap, most).into_iter();
            windows.map(|window| (window.start, window.end)).collect()
        };
        assert_eq!(pairs(0, 2, 5), [(0, 0)]);
        assert_eq!(pairs(10, 2, 5), [(0, 10)]);
        assert_eq!(pairs(11, 2, 5), [(0, 10), (8, 11)]);
        assert_eq!(pairs(100, 0, 3), [(0, 10), (10, 20), (20, 30)]);
    }

    #[test]
    fn sentences_keep_their_places() {
        let text = "  Is it? Yes — it is. \n\n…\n東京は首都です。大阪ではない。 3.5 m";
        let found: Vec<&str> = sentences(text).into_iter().map(|r| &text[r]).collect();
        assert_eq!(
            found,
            [
                "Is it?",
                "Yes — it is.",
                "東京は首都です。",
                "大阪ではない。",
                "3.5 m"
            ]
        );
        assert!(sentences(" \n…").is_empty());
    }

    proptest! {
        #[test]
        fn windows_cover_what_their_number_allows(
            tokens in 0usize..3000, room in 0usize..600, overlap in 0usize..700, most in 0usize..40,
        ) {
            let found = windows(tokens, room, overlap, most);
            prop_assert!(!found.is_empty() && found.len() <= most.max(1));
            prop_assert_eq!(found[0].start, 0);
            for window in &found {
                prop_assert!(window.len() <= room.max(1) && window.end <= tokens);
            }
            for pair in found.windows(2) {
                // No gap, real progress, and each window but the last is full.
                prop_assert!(pair[1].start <= pair[0].end && pair[1].end > pair[0].end);
                prop_assert_eq!(pair[0].len(), room.max(1));
            }
            if found.len() < most.max(1) {
                prop_assert_eq!(found.last().map(|window| window.end), Some(tokens));
            }
        }

        #[test]
        fn sentences_are_whole_characters_in_order(text in "\\PC{0,80}") {
            let mut end = 0;
            for range in sentences(&text) {
                prop_assert!(range.start >= end && !text[range.clone()].is_empty());
                end = range.end;
            }
        }
    }
}
