//! The unigram model: of all ways to cut a piece of text into vocabulary entries, the one with the
//! highest sum of scores.
//!
//! Sums are taken in f64 from left to right, and of equal sums the one found first stays, so that
//! ids equal those of Hugging Face's crate to the last tie. A character that no entry covers alone
//! costs the lowest score less 10; unknown neighbours become one id, or one for each byte.

use super::trie::Trie;

/// What an unknown character costs beyond the lowest score of the vocabulary.
const UNKNOWN_PENALTY: f64 = 10.0;

pub(crate) struct Unigram<'a> {
    pub vocabulary: Trie<'a>,
    pub scores: Scores<'a>,
    pub lowest_score: f64,
    pub unknown_id: u32,
    /// Unknown text becomes a token for each byte (`<0xE4>`), where the vocabulary has all of them.
    pub byte_fallback: bool,
}

/// A score for each id: as f32 where that loses nothing, else as f64.
#[derive(Clone, Copy)]
pub(crate) enum Scores<'a> {
    F32(&'a [[u8; 4]]),
    F64(&'a [[u8; 8]]),
}

impl Scores<'_> {
    #[inline]
    fn get(self, id: u32) -> Option<f64> {
        let index = id as usize;
        match self {
            Self::F32(scores) => scores.get(index).map(|s| f64::from(f32::from_le_bytes(*s))),
            Self::F64(scores) => scores.get(index).map(|s| f64::from_le_bytes(*s)),
        }
    }
}

/// The best way to cut the text up to one place.
#[derive(Clone, Copy)]
struct Best {
    score: f64,
    /// Where its last entry starts; `UNREACHED` where nothing ends here.
    start: u32,
    id: u32,
}

const UNREACHED: u32 = u32::MAX;
const NOTHING: Best = Best {
    score: 0.0,
    start: UNREACHED,
    id: 0,
};

/// Memory that is used again from piece to piece.
#[derive(Default)]
pub(crate) struct Scratch(Vec<Best>);

impl Best {
    #[inline]
    fn improve(&mut self, score: f64, start: u32, id: u32) {
        if self.start == UNREACHED || score > self.score {
            *self = Best { score, start, id };
        }
    }
}

impl Unigram<'_> {
    /// Appends the ids of `piece`, which must be shorter than `u32::MAX` bytes.
    pub(crate) fn encode(&self, piece: &str, scratch: &mut Scratch, ids: &mut Vec<u32>) {
        let bytes = piece.as_bytes();
        let best = &mut scratch.0;
        best.clear();
        best.resize(bytes.len() + 1, NOTHING);
        let unknown_score = self.lowest_score - UNKNOWN_PENALTY;
        for (start, c) in piece.char_indices() {
            let score = best[start].score;
            let char_end = start + c.len_utf8();
            let mut char_is_known = false;
            let mut place = self.vocabulary.root();
            for (end, &byte) in (start + 1..).zip(&bytes[start..]) {
                let Some(step) = self.vocabulary.step(place, byte) else {
                    break;
                };
                if let Some(id) = step.value
                    && let Some(entry_score) = self.scores.get(id)
                {
                    best[end].improve(entry_score + score, start as u32, id);
                    char_is_known |= end == char_end;
                }
                place = step.place;
            }
            if !char_is_known {
                best[char_end].improve(unknown_score + score, start as u32, self.unknown_id);
            }
        }
        let first = ids.len();
        let mut unknown_end = None;
        let mut end = bytes.len();
        while end > 0 {
            let Best { start, id, .. } = best[end];
            // Never in sound bytes: entries end where characters do, and every such place is
            // reached.
            if start as usize >= end {
                break;
            }
            if id == self.unknown_id {
                unknown_end.get_or_insert(end);
            } else {
                if let Some(unknown_end) = unknown_end.take() {
                    self.push_unknown(&bytes[end..unknown_end], ids);
                }
                ids.push(id);
            }
            end = start as usize;
        }
        if let Some(unknown_end) = unknown_end {
            self.push_unknown(&bytes[end..unknown_end], ids);
        }
        ids[first..].reverse();
    }

    /// Appends the ids of unknown neighbours, the last one first. They are looked up once more as a
    /// whole: where the unknown token itself stands in the text, several of them may be an entry.
    fn push_unknown(&self, text: &[u8], ids: &mut Vec<u32>) {
        let known = |entry: &[u8]| {
            let id = self.vocabulary.get(entry);
            id.filter(|&id| self.scores.get(id).is_some())
        };
        if let Some(id) = known(text) {
            return ids.push(id);
        }
        let first = ids.len();
        if self.byte_fallback {
            let bytes = text.iter().rev();
            ids.extend(bytes.map_while(|&byte| known(&byte_entry(byte))));
            if ids.len() - first == text.len() {
                return;
            }
            ids.truncate(first);
        }
        ids.push(self.unknown_id);
    }
}

/// How a vocabulary writes a byte: `<0xE4>`.
fn byte_entry(byte: u8) -> [u8; 6] {
    let digit = |half: u8| b"0123456789ABCDEF"[usize::from(half)];
    [b'<', b'0', b'x', digit(byte >> 4), digit(byte & 15), b'>']
}

#[cfg(test)]
mod tests {
    use super::super::trie::build;
    use super::*;

    fn ids(entries: &[(&str, f64)], text: &str) -> Vec<u32> {
        let mut keys: Vec<(&[u8], u32)> = (0..)
            .zip(entries)
            .map(|(id, (entry, _))| (entry.as_bytes(), id))
            .collect();
        keys.sort();
        let trie = build(&keys).expect("builds");
        let scores: Vec<[u8; 8]> = entries.iter().map(|(_, s)| s.to_le_bytes()).collect();
        let model = Unigram {
            vocabulary: Trie::new(&trie),
            scores: Scores::F64(&scores),
            lowest_score: entries.iter().map(|e| e.1).fold(f64::INFINITY, f64::min),
            unknown_id: 0,
            byte_fallback: true,
        };
        let mut found = Vec::new();
        model.encode(text, &mut Scratch::default(), &mut found);
        found
    }

    #[test]
    fn the_highest_sum_wins_and_of_equal_sums_the_first() {
        let entries = [
            ("<unk>", 0.0),
            ("a", -1.0),
            ("b", -1.0),
            ("ab", -1.5),
            ("ba", -1.5),
        ];
        assert_eq!(ids(&entries, "ab"), [3]);
        assert_eq!(ids(&entries, "aba"), [1, 4]);
        assert!(ids(&entries, "").is_empty());
    }

    #[test]
    fn unknown_neighbours_become_one_id() {
        let entries = [("<unk>", 0.0), ("a", -1.0), ("<unk><unk>", -2.0)];
        assert_eq!(ids(&entries, "éa中文a"), [0, 1, 0, 1]);
        assert_eq!(ids(&entries, "<unk>é"), [0]);
        assert_eq!(ids(&entries, "<unk><unk>"), [2]);
    }

    #[test]
    fn unknown_text_becomes_bytes_where_all_are_entries() {
        let entries = [
            ("<unk>", 0.0),
            ("a", -1.0),
            ("<0xC3>", -9.0),
            ("<0xA9>", -9.0),
        ];
        assert_eq!(ids(&entries, "aéa"), [1, 2, 3, 1]);
        assert_eq!(ids(&entries, "éé"), [2, 3, 2, 3]);
        assert_eq!(ids(&entries, "éà"), [0]);
    }
}
