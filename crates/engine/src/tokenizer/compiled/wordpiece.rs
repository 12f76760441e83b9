//! The WordPiece model: a word is cut from left to right into the longest entries that fit, or is
//! unknown as a whole.

use super::trie::{Place, Trie};

pub(crate) struct WordPiece<'a> {
    pub vocabulary: Trie<'a>,
    /// Where entries that continue a word begin: behind `##`. None where there is no such entry.
    pub continuation: Option<Place>,
    pub unknown_id: u32,
    pub vocab_size: u32,
    /// Longer words are unknown.
    pub max_word_chars: u32,
}

impl WordPiece<'_> {
    /// Appends the ids of one word of `chars` characters.
    pub(crate) fn encode(&self, word: &str, chars: usize, ids: &mut Vec<u32>) {
        let first = ids.len();
        if chars > self.max_word_chars as usize || !self.cut(word.as_bytes(), ids) {
            ids.truncate(first);
            ids.push(self.unknown_id);
        }
    }

    /// Whether entries cover the whole word.
    fn cut(&self, mut word: &[u8], ids: &mut Vec<u32>) -> bool {
        let mut from = Some(self.vocabulary.root());
        while !word.is_empty() {
            let longest = from.and_then(|from| self.vocabulary.longest_prefix(from, word));
            let Some((length, id)) = longest.filter(|&(_, id)| id < self.vocab_size) else {
                return false;
            };
            ids.push(id);
            word = &word[length..];
            from = self.continuation;
        }
        true
    }
}
