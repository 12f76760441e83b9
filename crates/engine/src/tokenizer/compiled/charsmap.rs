//! SentencePiece's normalisation rules, applied the way Hugging Face's tokenizers apply them.
//!
//! Text is taken grapheme cluster by grapheme cluster. A cluster of less than 6 bytes that begins
//! with a rule's key is replaced as a whole, even where the key is only its first part; any other
//! cluster is taken character by character. Of several keys the shortest counts. That differs from
//! SentencePiece itself, and it is what the vocabularies' ids are compared with.

use unicode_segmentation::UnicodeSegmentation;

use super::trie::Trie;

/// Clusters of at least as many bytes are taken character by character.
const LONG_CLUSTER_BYTES: usize = 6;

pub(crate) struct Charsmap<'a> {
    pub rules: Trie<'a>,
    /// What the rules' values point into: texts that end at a zero byte.
    pub texts: &'a [u8],
    /// Bit `c` is set where ASCII character `c` alone stays as it is.
    pub ascii_unchanged: u128,
}

impl Charsmap<'_> {
    /// What the cluster or character becomes; None where no rule is for it.
    fn replacement(&self, part: &str) -> Option<&str> {
        let at = self.rules.shortest_prefix(part.as_bytes())? as usize;
        let rest = self.texts.get(at..)?;
        let end = rest.iter().position(|&byte| byte == 0);
        std::str::from_utf8(&rest[..end.unwrap_or(rest.len())]).ok()
    }

    /// The ASCII characters that stay as they are when they stand alone.
    pub(crate) fn unchanged_ascii(&self) -> u128 {
        (0..128u8)
            .filter(|&c| {
                self.replacement(char::from(c).encode_utf8(&mut [0; 4]))
                    .is_none()
            })
            .fold(0, |set, c| set | 1 << c)
    }

    /// Appends the normalised `text` to `out`.
    pub(crate) fn normalize(&self, text: &str, out: &mut String) {
        let bytes = text.as_bytes();
        // Up to `copied` the text has been dealt with; up to `at` it is also known to stay as it
        // is.
        let (mut copied, mut at) = (0, 0);
        loop {
            while at < bytes.len()
                && self.stays(bytes[at])
                && bytes.get(at + 1).is_none_or(u8::is_ascii)
            {
                at += 1;
            }
            // Up to the next place that is certainly between two clusters.
            let mut chars = text[at..].chars();
            let Some(first) = chars.next() else {
                break;
            };
            let mut last = first;
            let mut end = at + first.len_utf8();
            for next in chars {
                if always_between(last, next) {
                    break;
                }
                last = next;
                end += next.len_utf8();
            }
            let part = &text[at..end];
            if part.len() > first.len_utf8() {
                out.push_str(&text[copied..at]);
                for cluster in part.graphemes(true) {
                    self.normalize_cluster(cluster, out);
                }
                copied = end;
            } else if let Some(replacement) = self.replacement(part) {
                out.push_str(&text[copied..at]);
                out.push_str(replacement);
                copied = end;
            }
            at = end;
        }
        out.push_str(&text[copied..]);
    }

    /// Whether this byte is an ASCII character that is a cluster beside any other ASCII character,
    /// and stays as it is.
    #[inline]
    fn stays(&self, byte: u8) -> bool {
        byte.is_ascii() && byte != b'\r' && self.ascii_unchanged >> byte & 1 != 0
    }

    fn normalize_cluster(&self, cluster: &str, out: &mut String) {
        if cluster.len() < LONG_CLUSTER_BYTES
            && let Some(replacement) = self.replacement(cluster)
        {
            out.push_str(replacement);
            return;
        }
        let mut buffer = [0; 4];
        for c in cluster.chars() {
            let part = &*c.encode_utf8(&mut buffer);
            out.push_str(self.replacement(part).unwrap_or(part));
        }
    }
}

/// Whether a grapheme cluster always ends between these two, whatever stands around them.
#[inline]
fn always_between(left: char, right: char) -> bool {
    stands_alone(left) && stands_alone(right) && !(left == '\r' && right == '\n')
}

/// Whether a cluster boundary lies between this character and any other of which this holds too,
/// but for CR and LF.
///
/// A list of common letters, not of all such characters; others only take the slower way. The tests
/// compare it with the rules.
#[inline]
fn stands_alone(c: char) -> bool {
    matches!(c,
        '\0'..='\u{7f}'
        // Latin, Greek, Cyrillic, Hebrew and Arabic letters
        | '\u{a0}'..='\u{ac}'
        | '\u{ae}'..='\u{2ff}'
        | '\u{370}'..='\u{482}'
        | '\u{48a}'..='\u{590}'
        | '\u{5d0}'..='\u{5ea}'
        | '\u{620}'..='\u{64a}'
        | '\u{660}'..='\u{66f}'
        | '\u{671}'..='\u{6d3}'
        // letters of Devanagari, Bengali, Thai, Georgian
        | '\u{904}'..='\u{939}'
        | '\u{985}'..='\u{9b9}'
        | '\u{e01}'..='\u{e30}'
        | '\u{10a0}'..='\u{10ff}'
        // Latin and Greek with diacritics, punctuation
        | '\u{1e00}'..='\u{200a}'
        | '\u{2010}'..='\u{2027}'
        | '\u{2030}'..='\u{205f}'
        // Chinese, Japanese and Korean
        | '\u{3000}'..='\u{3029}'
        | '\u{3031}'..='\u{3096}'
        | '\u{30a0}'..='\u{30ff}'
        | '\u{3400}'..='\u{a48c}'
        | '\u{ac00}'..='\u{d7a3}'
        | '\u{f900}'..='\u{faff}'
        | '\u{ff01}'..='\u{ff9d}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One of each kind that the rules of grapheme clusters tell apart and that may stand alone.
    const KINDS: [char; 8] = ['a', '\n', '\u{1}', 'é', '가', '각', 'क', '中'];

    #[test]
    fn characters_that_stand_alone_are_clusters_beside_each_other() {
        assert!(KINDS.into_iter().all(stands_alone));
        for c in ('\0'..=char::MAX).filter(|&c| stands_alone(c)) {
            for other in KINDS.into_iter().chain([c]) {
                for pair in [[c, other], [other, c]] {
                    let text = String::from_iter(pair);
                    let clusters = text.graphemes(true).count();
                    assert_eq!(clusters == 2, always_between(pair[0], pair[1]), "{text:?}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn certain_boundaries_are_boundaries_in_any_surroundings(
            text in prop::collection::vec(
                prop_oneof![
                    any::<char>(),
                    prop::sample::select(KINDS.as_slice()),
                    prop::char::range('\u{900}', '\u{dff}'),
                    prop::char::range('\u{1100}', '\u{11ff}'),
                    prop::sample::select(vec!['\r', '\u{301}', '\u{94d}', '\u{200d}', '\u{fe0f}', '\u{600}', '👩', '🇩', '🇪', '🏽']),
                ],
                1..20,
            ),
        ) {
            let text = String::from_iter(text);
            let boundaries: Vec<usize> = text.grapheme_indices(true).map(|(at, _)| at).collect();
            for ((_, left), (at, right)) in text.char_indices().zip(text.char_indices().skip(1)) {
                prop_assert!(!always_between(left, right) || boundaries.contains(&at), "{text:?} at {at}");
            }
        }
    }
}
