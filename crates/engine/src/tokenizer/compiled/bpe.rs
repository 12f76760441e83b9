//! The byte-level BPE model: a word starts as one token for each byte, and neighbours are merged by
//! rank until no merge is left.
//!
//! Of all neighbours that have a merge, those of the lowest rank go first, and of equal ones the
//! leftmost, as in Hugging Face's crate. A word that ends as one token is looked up as a whole.
//! Short words are searched for the best merge again and again, long ones have a heap, so that time
//! grows with n log n. Merges lie in a hash table that is read in place.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::layout::Words;
use super::trie::Trie;

/// In the alphabet: a byte that no entry stands for, and that becomes nothing or the unknown token.
pub(crate) const DROPPED: u32 = u32::MAX;
pub(crate) const UNKNOWN: u32 = u32::MAX - 1;

/// Bytes that the alphabet tells of.
pub(crate) const ALPHABET: usize = 256;

pub(crate) struct Bpe<'a> {
    /// Words that become one token, spelled as [`key_byte`] has it.
    pub words: Trie<'a>,
    /// The token that each byte starts as, or one of the marks above.
    pub alphabet: Words<'a>,
    pub merges: Merges<'a>,
    pub vocab_size: u32,
    pub unknown_id: u32,
    /// Unknown neighbours become one token.
    pub fuse_unknown: bool,
}

/// A trie holds no zero byte. UTF-8 never has the byte 255, which takes its place.
#[inline]
pub(crate) fn key_byte(byte: u8) -> u8 {
    byte.wrapping_sub(u8::from(byte == 0))
}

/// Merges by the pair that they join: rows of a key, a rank and the token that both become.
#[derive(Clone, Copy)]
pub(crate) struct Merges<'a> {
    rows: &'a [[u8; 16]],
    shift: u32,
}

/// No pair has this key, as ids are below the vocabulary's size.
const FREE: u64 = u64::MAX;
/// A pair lies at most this far behind its place.
const PROBES: usize = 64;

#[derive(Clone, Copy)]
struct Merge {
    rank: u32,
    id: u32,
}

fn key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

/// Half of the low and half of the high bits of a row.
fn halves(row: &[u8; 16]) -> (u64, u64) {
    let whole = u128::from_le_bytes(*row);
    (whole as u64, (whole >> 64) as u64)
}

impl<'a> Merges<'a> {
    /// None unless the number of rows is a power of two, or nothing.
    pub(crate) fn new(bytes: &'a [u8]) -> Option<Self> {
        let (rows, rest) = bytes.as_chunks();
        let fits = rest.is_empty() && (rows.is_empty() || rows.len().is_power_of_two());
        fits.then(|| Self {
            rows,
            shift: shift(rows.len()),
        })
    }

    #[inline]
    fn get(self, left: u32, right: u32) -> Option<Merge> {
        let wanted = key(left, right);
        let mut place = place(wanted, self.shift);
        for _ in 0..PROBES {
            let (found, value) = halves(self.rows.get(place)?);
            if found == wanted {
                return Some(Merge {
                    rank: (value >> 32) as u32,
                    id: value as u32,
                });
            }
            if found == FREE {
                return None;
            }
            place = (place + 1) & (self.rows.len() - 1);
        }
        None
    }
}

fn shift(rows: usize) -> u32 {
    u64::BITS - rows.max(2).trailing_zeros()
}

#[inline]
fn place(key: u64, shift: u32) -> usize {
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> shift) as usize
}

/// The table of merges, given as the pair, the rank and the token they become; no pair stands
/// twice.
pub(crate) fn build_merges(merges: &[([u32; 2], u32, u32)]) -> Vec<u8> {
    if merges.is_empty() {
        return Vec::new();
    }
    let mut rows = (2 * merges.len()).next_power_of_two();
    loop {
        if let Some(table) = try_build(merges, rows) {
            return table.into_iter().flat_map(u128::to_le_bytes).collect();
        }
        rows *= 2;
    }
}

fn try_build(merges: &[([u32; 2], u32, u32)], rows: usize) -> Option<Vec<u128>> {
    let mut table = vec![u128::from(FREE); rows];
    for &([left, right], rank, id) in merges {
        let key = key(left, right);
        let start = place(key, shift(rows));
        let free = (start..start + PROBES)
            .map(|place| place & (rows - 1))
            .find(|&place| table[place] as u64 == FREE)?;
        table[free] = u128::from(rank) << 96 | u128::from(id) << 64 | u128::from(key);
    }
    Some(table)
}

/// Longer words have a heap.
const SHORT: usize = 40;
const NO_RANK: u32 = u32::MAX;
const NOWHERE: u32 = u32::MAX;

/// A token of a short word, and the merge with the next one.
#[derive(Clone, Copy)]
struct Symbol {
    id: u32,
    rank: u32,
    merged: u32,
}

/// A token of a long word. One that was merged into the token before it has `NOWHERE` as its own
/// id.
#[derive(Clone, Copy)]
struct Link {
    id: u32,
    before: u32,
    after: u32,
}

/// Memory that is used again from word to word.
#[derive(Default)]
pub(crate) struct Scratch {
    symbols: Vec<Symbol>,
    links: Vec<Link>,
    /// Rank of a merge and the place of its left token; the lowest comes first.
    heap: BinaryHeap<Reverse<(u32, u32)>>,
}

impl Bpe<'_> {
    /// Appends the ids of one word, which must be shorter than `u32::MAX` bytes.
    #[inline]
    pub(crate) fn encode(&self, word: &[u8], scratch: &mut Scratch, ids: &mut Vec<u32>) {
        match self.word(word) {
            Some(id) => ids.push(id),
            None => self.merge(word, scratch, ids),
        }
    }

    #[inline]
    fn word(&self, word: &[u8]) -> Option<u32> {
        let mut place = self.words.root();
        let (&last, rest) = word.split_last()?;
        for &byte in rest {
            place = self.words.step(place, key_byte(byte))?.place;
        }
        let id = self.words.step(place, key_byte(last))?.value?;
        (id < self.vocab_size).then_some(id)
    }

    /// Appends what merging alone makes of the word.
    pub(crate) fn merge(&self, word: &[u8], scratch: &mut Scratch, ids: &mut Vec<u32>) {
        let first = ids.len();
        let mut after_unknown = false;
        for &byte in word {
            match self.alphabet.get(usize::from(byte)) {
                None | Some(DROPPED) => {}
                Some(UNKNOWN) => {
                    if !(after_unknown && self.fuse_unknown) {
                        ids.push(self.unknown_id);
                    }
                    after_unknown = true;
                }
                Some(id) => {
                    ids.push(id);
                    after_unknown = false;
                }
            }
        }
        if ids.len() - first <= SHORT {
            self.merge_short(first, &mut scratch.symbols, ids);
        } else {
            self.merge_long(first, scratch, ids);
        }
    }

    #[inline]
    fn merged(&self, left: u32, right: u32) -> Option<Merge> {
        // Only damaged bytes hold an id beyond the vocabulary.
        self.merges
            .get(left, right)
            .filter(|merge| merge.id < self.vocab_size)
    }

    fn merge_short(&self, first: usize, symbols: &mut Vec<Symbol>, ids: &mut Vec<u32>) {
        let symbol = |id, next: Option<u32>| {
            let merge = next.and_then(|next| self.merged(id, next));
            let (rank, merged) = merge.map_or((NO_RANK, 0), |merge| (merge.rank, merge.id));
            Symbol { id, rank, merged }
        };
        symbols.clear();
        let tokens = &ids[first..];
        symbols.extend((0..tokens.len()).map(|at| symbol(tokens[at], tokens.get(at + 1).copied())));
        loop {
            let (mut best, mut at) = (NO_RANK, 0);
            for (place, symbol) in symbols.iter().enumerate() {
                if symbol.rank < best {
                    (best, at) = (symbol.rank, place);
                }
            }
            if best == NO_RANK {
                break;
            }
            let id = symbols[at].merged;
            // A token that has a merge has one behind it.
            symbols.remove(at + 1);
            symbols[at] = symbol(id, symbols.get(at + 1).map(|next| next.id));
            if let Some(before) = at.checked_sub(1) {
                symbols[before] = symbol(symbols[before].id, Some(id));
            }
        }
        ids.truncate(first);
        ids.extend(symbols.iter().map(|symbol| symbol.id));
    }

    fn merge_long(&self, first: usize, scratch: &mut Scratch, ids: &mut Vec<u32>) {
        let Scratch { links, heap, .. } = scratch;
        let count = (ids.len() - first) as u32;
        links.clear();
        links.extend((0..count).zip(&ids[first..]).map(|(at, &id)| Link {
            id,
            before: at.wrapping_sub(1),
            after: if at + 1 < count { at + 1 } else { NOWHERE },
        }));
        heap.clear();
        heap.extend(links.windows(2).zip(0..).filter_map(|(pair, at)| {
            let merge = self.merged(pair[0].id, pair[1].id)?;
            Some(Reverse((merge.rank, at)))
        }));
        while let Some(Reverse((rank, at))) = heap.pop() {
            let left = links[at as usize];
            // What one of the two was merged with since then has made this merge void.
            let Some(&right) = links.get(left.after as usize) else {
                continue;
            };
            let merge = self.merged(left.id, right.id);
            let Some(merge) = merge.filter(|merge| merge.rank == rank && left.id != NOWHERE) else {
                continue;
            };
            links[left.after as usize].id = NOWHERE;
            links[at as usize] = Link {
                id: merge.id,
                after: right.after,
                ..left
            };
            if let Some(next) = links.get_mut(right.after as usize) {
                next.before = at;
                let next = next.id;
                if let Some(merge) = self.merged(merge.id, next) {
                    heap.push(Reverse((merge.rank, at)));
                }
            }
            if let Some(before) = links.get(left.before as usize)
                && let Some(merge) = self.merged(before.id, merge.id)
            {
                heap.push(Reverse((merge.rank, left.before)));
            }
        }
        ids.truncate(first);
        ids.extend(links.iter().map(|link| link.id).filter(|&id| id != NOWHERE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Merges of tokens that are numbered as they come, over an alphabet of `letters` tokens.
    fn merges(letters: u32, pairs: &[(u32, u32)]) -> Vec<([u32; 2], u32, u32)> {
        let mut known = std::collections::BTreeSet::new();
        let mut merges = Vec::new();
        for &(left, right) in pairs {
            let next = letters + merges.len() as u32;
            let pair = [left % next, right % next];
            if known.insert(pair) {
                merges.push((pair, merges.len() as u32, next));
            }
        }
        merges
    }

    fn alphabet(letters: u32) -> Vec<[u8; 4]> {
        (0..ALPHABET as u32)
            .map(|byte| if byte < letters { byte } else { DROPPED }.to_le_bytes())
            .collect()
    }

    fn model<'a>(alphabet: &'a [u8], merges: &'a [u8], size: u32) -> Bpe<'a> {
        Bpe {
            words: Trie::new(&[]),
            alphabet: Words::new(alphabet),
            merges: Merges::new(merges).expect("whole rows"),
            vocab_size: size,
            unknown_id: 0,
            fuse_unknown: false,
        }
    }

    proptest! {
        #[test]
        fn short_and_long_words_are_merged_alike(
            pairs in prop::collection::vec((any::<u32>(), any::<u32>()), 0..60),
            word in prop::collection::vec(0u8..5, 0..200),
        ) {
            let merges = merges(4, &pairs);
            let (table, alphabet) = (build_merges(&merges), alphabet(4).concat());
            let model = model(&alphabet, &table, 4 + merges.len() as u32);
            let tokens: Vec<u32> = word.iter().filter(|&&b| b < 4).map(|&b| b.into()).collect();
            let (mut short, mut long) = (tokens.clone(), tokens);
            model.merge_short(0, &mut Vec::new(), &mut short);
            model.merge_long(0, &mut Scratch::default(), &mut long);
            prop_assert_eq!(&short, &long);
            let mut found = vec![7];
            model.merge(&word, &mut Scratch::default(), &mut found);
            prop_assert_eq!(&found[1..], &short);
        }

        #[test]
        fn the_table_knows_its_pairs_and_no_other(
            pairs in prop::collection::vec((any::<u32>(), any::<u32>()), 0..3000),
        ) {
            let merges = merges(9, &pairs);
            let table = build_merges(&merges);
            let table = Merges::new(&table).expect("whole rows");
            for &([left, right], rank, id) in &merges {
                let found = table.get(left, right).expect("is there");
                prop_assert_eq!((found.rank, found.id), (rank, id));
            }
            let known: std::collections::BTreeSet<_> = merges.iter().map(|(pair, ..)| *pair).collect();
            for left in 0..40 {
                for right in 0..40 {
                    prop_assert_eq!(table.get(left, right).is_some(), known.contains(&[left, right]));
                }
            }
        }
    }

    #[test]
    fn pairs_that_fall_on_one_place_get_a_larger_table() {
        // Fibonacci hashing puts these near each other in a small table.
        let pairs: Vec<([u32; 2], u32, u32)> = (0..500u32)
            .map(|n| ([n.wrapping_mul(0x1000_0000), n], n, n))
            .collect();
        let table = build_merges(&pairs);
        let merges = Merges::new(&table).expect("whole rows");
        for &([left, right], rank, _) in &pairs {
            assert_eq!(merges.get(left, right).map(|merge| merge.rank), Some(rank));
        }
    }
}
