//! A double-array trie over bytes: reads one in place, and builds one.
//!
//! The format is the one SentencePiece stores its normalisation rules in (Darts-clone's), so that
//! one reader serves those rules and our own vocabularies. A unit is a little-endian u32. A node's
//! unit holds the byte that leads to it (bits 0 to 7), whether a key ends there (bit 8) and the
//! distance to its children's base (bits 10 to 31, shifted left by 8 where bit 9 is set); the child
//! for byte `b` lies at `base ^ b`. Where a key ends, the unit at the base itself holds its value,
//! marked by bit 31.
//!
//! Reading refuses nothing: every index is checked, so damaged units lead to wrong answers or none.
//! Building refuses keys with a zero byte, which the format cannot tell from an end, and values
//! beyond 31 bits.

const ENDS_HERE: u32 = 1 << 8;
const FAR: u32 = 1 << 9;
const VALUE: u32 = 1 << 31;
/// What is compared with the byte: no value and no free unit can be taken for a child.
const LABEL: u32 = VALUE | 0xff;

/// Units read where they lie.
#[derive(Clone, Copy)]
pub(crate) struct Trie<'a> {
    units: &'a [[u8; 4]],
}

/// A place in the trie, from which one more byte can be followed.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    base: usize,
}

/// What following a byte leads to: a place, and the value of the key that ends there.
#[derive(Clone, Copy)]
pub(crate) struct Step {
    pub place: Place,
    pub value: Option<u32>,
}

impl<'a> Trie<'a> {
    /// Bytes beyond the last whole unit are ignored.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self {
            units: bytes.as_chunks().0,
        }
    }

    fn unit(self, index: usize) -> Option<u32> {
        self.units.get(index).map(|unit| u32::from_le_bytes(*unit))
    }

    pub(crate) fn root(self) -> Place {
        Place {
            base: self.unit(0).map_or(0, distance),
        }
    }

    #[inline]
    pub(crate) fn step(self, from: Place, byte: u8) -> Option<Step> {
        let index = from.base ^ usize::from(byte);
        let unit = self.unit(index)?;
        if unit & LABEL != u32::from(byte) || byte == 0 {
            return None;
        }
        let base = index ^ distance(unit);
        let value = if unit & ENDS_HERE != 0 {
            self.unit(base).map(|unit| unit & !VALUE)
        } else {
            None
        };
        Some(Step {
            place: Place { base },
            value,
        })
    }

    /// The place that `bytes` lead to from the root.
    pub(crate) fn follow(self, bytes: &[u8]) -> Option<Place> {
        bytes.iter().try_fold(self.root(), |place, &byte| {
            self.step(place, byte).map(|step| step.place)
        })
    }

    /// Value of exactly `key`.
    pub(crate) fn get(self, key: &[u8]) -> Option<u32> {
        let (&last, rest) = key.split_last()?;
        self.step(self.follow(rest)?, last)?.value
    }

    /// Value of the shortest key that `text` starts with.
    #[inline]
    pub(crate) fn shortest_prefix(self, text: &[u8]) -> Option<u32> {
        let mut place = self.root();
        for &byte in text {
            let step = self.step(place, byte)?;
            if step.value.is_some() {
                return step.value;
            }
            place = step.place;
        }
        None
    }

    /// Length and value of the longest key that `text` starts with, walking from `place`.
    #[inline]
    pub(crate) fn longest_prefix(self, mut place: Place, text: &[u8]) -> Option<(usize, u32)> {
        let mut longest = None;
        for (index, &byte) in text.iter().enumerate() {
            let Some(step) = self.step(place, byte) else {
                break;
            };
            if let Some(value) = step.value {
                longest = Some((index + 1, value));
            }
            place = step.place;
        }
        longest
    }
}

#[inline]
fn distance(unit: u32) -> usize {
    ((unit >> 10) as usize) << ((unit & FAR) >> 6)
}

/// Why a trie cannot hold some keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BuildError {
    #[error("a key is empty or holds a zero byte")]
    Key,
    #[error("the value {0} needs more than 31 bits")]
    Value(u32),
    #[error("the keys are not sorted or not distinct")]
    Order,
    #[error("the trie grows beyond the format's limit")]
    Size,
}

/// Builds a trie of keys in ascending order; the same keys give the same bytes.
pub(crate) fn build(keys: &[(&[u8], u32)]) -> Result<Vec<u8>, BuildError> {
    for (index, (key, value)) in keys.iter().enumerate() {
        if key.is_empty() || key.contains(&0) {
            return Err(BuildError::Key);
        }
        if value & VALUE != 0 {
            return Err(BuildError::Value(*value));
        }
        if index > 0 && keys[index - 1].0 >= *key {
            return Err(BuildError::Order);
        }
    }
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let mut builder = Builder::default();
    builder.add_block();
    builder.take(0);
    builder.units[0] = 0;
    let mut work = vec![Subtree {
        keys: 0..keys.len(),
        depth: 0,
        unit: 0,
    }];
    let mut children: Vec<(u8, std::ops::Range<usize>)> = Vec::new();
    while let Some(Subtree {
        keys: mut range,
        depth,
        unit,
    }) = work.pop()
    {
        let value = (keys[range.start].0.len() == depth).then(|| keys[range.start].1);
        if value.is_some() {
            range.start += 1;
        }
        children.clear();
        for index in range {
            let byte = keys[index].0[depth];
            match children.last_mut() {
                Some((last, range)) if *last == byte => range.end = index + 1,
                _ => children.push((byte, index..index + 1)),
            }
        }
        let labels = value
            .map(|_| 0)
            .into_iter()
            .chain(children.iter().map(|(byte, _)| *byte));
        let base = builder.place(unit, &labels.collect::<Vec<u8>>())?;
        builder.units[unit] |= encode_distance(unit ^ base).ok_or(BuildError::Size)?;
        if let Some(value) = value {
            builder.units[unit] |= ENDS_HERE;
            builder.units[base] = value | VALUE;
        }
        // The last pushed is worked on first, so that a node's first subtree lies close to it.
        for (byte, keys) in children.iter().rev() {
            let child = base ^ usize::from(*byte);
            builder.units[child] = u32::from(*byte);
            work.push(Subtree {
                keys: keys.clone(),
                depth: depth + 1,
                unit: child,
            });
        }
    }
    Ok(builder
        .units
        .iter()
        .flat_map(|unit| unit.to_le_bytes())
        .collect())
}

fn encode_distance(distance: usize) -> Option<u32> {
    if distance < 1 << 21 {
        Some((distance as u32) << 10)
    } else if distance < 1 << 29 && distance.is_multiple_of(BLOCK) {
        Some(((distance as u32) << 2) | FAR)
    } else {
        None
    }
}

/// Keys that share their first `depth` bytes, which lead to `unit`.
struct Subtree {
    keys: std::ops::Range<usize>,
    depth: usize,
    unit: usize,
}

/// A node's children all lie in one block, since their bytes differ in the low 8 bits only.
const BLOCK: usize = 256;
/// Blocks in which free units are still looked for; older ones stay as they are, which bounds the
/// time.
const OPEN_BLOCKS: usize = 16;
const NONE: usize = usize::MAX;

#[derive(Default)]
struct Builder {
    units: Vec<u32>,
    taken: Vec<bool>,
    /// Two nodes with one base would take each other's children for theirs.
    base_used: Vec<bool>,
    /// Free units of the open blocks, as a doubly linked list in ascending order.
    next: Vec<usize>,
    previous: Vec<usize>,
    first: Option<usize>,
    last: Option<usize>,
}

impl Builder {
    fn add_block(&mut self) {
        let start = self.units.len();
        let end = start + BLOCK;
        self.units.resize(end, VALUE);
        self.taken.resize(end, false);
        self.base_used.resize(end, false);
        self.next.resize(end, NONE);
        self.previous.resize(end, NONE);
        for unit in start..end {
            self.previous[unit] = self.last.unwrap_or(NONE);
            match self.last {
                Some(last) => self.next[last] = unit,
                None => self.first = Some(unit),
            }
            self.last = Some(unit);
        }
        if let Some(closed) = start.checked_sub(OPEN_BLOCKS * BLOCK) {
            for unit in closed..closed + BLOCK {
                if !self.taken[unit] {
                    self.unlink(unit);
                }
            }
        }
    }

    fn unlink(&mut self, unit: usize) {
        let (previous, next) = (self.previous[unit], self.next[unit]);
        match previous {
            NONE => self.first = (next != NONE).then_some(next),
            _ => self.next[previous] = next,
        }
        match next {
            NONE => self.last = (previous != NONE).then_some(previous),
            _ => self.previous[next] = previous,
        }
    }

    fn take(&mut self, unit: usize) {
        self.unlink(unit);
        self.taken[unit] = true;
    }

    /// Finds and takes room for the children of `unit`; returns their base.
    fn place(&mut self, unit: usize, labels: &[u8]) -> Result<usize, BuildError> {
        let Some(&first_label) = labels.first() else {
            return Err(BuildError::Key);
        };
        let mut candidate = self.first;
        let base = loop {
            let Some(free) = candidate else {
                // The low byte of the distance is zero here, so it can be encoded however far the
                // new block is.
                let start = self.units.len();
                self.add_block();
                break start | (unit & (BLOCK - 1));
            };
            let base = free ^ usize::from(first_label);
            let fits = !self.base_used[base]
                && encode_distance(unit ^ base).is_some()
                && labels[1..]
                    .iter()
                    .all(|label| !self.taken[base ^ usize::from(*label)]);
            if fits {
                break base;
            }
            candidate = Some(self.next[free]).filter(|&next| next != NONE);
        };
        if encode_distance(unit ^ base).is_none() {
            return Err(BuildError::Size);
        }
        self.base_used[base] = true;
        for label in labels {
            self.take(base ^ usize::from(*label));
        }
        Ok(base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn built(keys: &BTreeMap<Vec<u8>, u32>) -> Vec<u8> {
        let keys: Vec<(&[u8], u32)> = keys.iter().map(|(k, v)| (k.as_slice(), *v)).collect();
        build(&keys).expect("builds")
    }

    proptest! {
        #[test]
        fn a_trie_knows_its_keys_and_no_other(
            keys in prop::collection::btree_map(prop::collection::vec(1u8..6, 1..8), 0u32..1 << 31, 1..400),
            others in prop::collection::vec(prop::collection::vec(0u8..7, 0..10), 50),
        ) {
            let bytes = built(&keys);
            let trie = Trie::new(&bytes);
            for (key, value) in &keys {
                prop_assert_eq!(trie.get(key), Some(*value));
            }
            for text in &others {
                prop_assert_eq!(trie.get(text), keys.get(text).copied());
                let mut prefixes = (1..=text.len()).filter_map(|end| keys.get(&text[..end]).map(|v| (end, *v)));
                prop_assert_eq!(trie.shortest_prefix(text), prefixes.clone().next().map(|(_, value)| value));
                prop_assert_eq!(trie.longest_prefix(trie.root(), text), prefixes.next_back());
            }
        }

        #[test]
        fn damaged_units_are_read_without_a_panic(units in prop::collection::vec(any::<u8>(), 0..4000), text in prop::collection::vec(any::<u8>(), 0..50)) {
            let trie = Trie::new(&units);
            trie.get(&text);
            trie.shortest_prefix(&text);
            trie.longest_prefix(trie.root(), &text);
        }
    }

    #[test]
    fn many_keys_fill_many_blocks_densely() {
        let keys: BTreeMap<Vec<u8>, u32> = (0..60_000u32)
            .map(|n| {
                (
                    format!("{:x}", n.wrapping_mul(2_654_435_761)).into_bytes(),
                    n,
                )
            })
            .collect();
        let bytes = built(&keys);
        let trie = Trie::new(&bytes);
        for (key, value) in &keys {
            assert_eq!(trie.get(key), Some(*value));
        }
        let nodes: std::collections::BTreeSet<&[u8]> = keys
            .keys()
            .flat_map(|key| (1..=key.len()).map(move |end| &key[..end]))
            .collect();
        let needed = (nodes.len() + keys.len()) * 4;
        assert!(
            bytes.len() < needed * 11 / 10,
            "{} for {needed}",
            bytes.len()
        );
        assert_eq!(bytes, built(&keys));
    }

    #[test]
    fn distances_beyond_two_million_units_are_encoded_in_whole_blocks() {
        for distance in [
            0,
            1,
            (1 << 21) - 1,
            1 << 21,
            (1 << 21) + 256,
            (1 << 29) - 256,
        ] {
            let unit = encode_distance(distance).expect("fits");
            assert_eq!(super::distance(unit), distance);
        }
        assert_eq!(encode_distance((1 << 21) + 1), None);
        assert_eq!(encode_distance(1 << 29), None);
    }

    #[test]
    fn keys_that_the_format_cannot_hold_are_refused() {
        assert_eq!(build(&[(b"", 1)]), Err(BuildError::Key));
        assert_eq!(build(&[(b"a\0b", 1)]), Err(BuildError::Key));
        assert_eq!(build(&[(b"a", 1 << 31)]), Err(BuildError::Value(1 << 31)));
        assert_eq!(build(&[(b"b", 1), (b"a", 2)]), Err(BuildError::Order));
        assert_eq!(build(&[(b"a", 1), (b"a", 2)]), Err(BuildError::Order));
        assert_eq!(build(&[]), Ok(Vec::new()));
    }
}
