//! How packed sequences are laid side by side for attention by batched matrix products: pure, of their lengths alone.
//!
//! Such a product wants sequences of one length. Those of similar lengths share a block, padded to its longest; nothing but attention
//! computes padding. A block's scores, the only memory that grows with the square of a length, are bounded: by the sequences that may
//! share it, and where one alone is too long, by tiles of queries.

#[derive(Debug, PartialEq, Eq)]
pub struct Blocks {
    pub blocks: Vec<Block>,
    /// For each token its row in the outputs of all blocks, one after the other.
    pub places: Vec<usize>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Block {
    pub sequences: usize,
    /// That all of them are given.
    pub length: usize,
    /// Queries whose scores are computed at a time.
    pub tile: usize,
    /// The packed row of each place, `[sequences, length]`; at padding some row, whose values do not matter.
    pub rows: Vec<usize>,
    /// Their own lengths.
    lengths: Vec<usize>,
}

impl Blocks {
    /// `starts` of the sequences and the end of the last, none of them empty; `max_scores` of one tile, over all heads and sequences of
    /// its block.
    pub fn plan(starts: &[usize], heads: usize, max_scores: usize) -> Self {
        let length = |sequence: usize| starts[sequence + 1] - starts[sequence];
        let mut order: Vec<usize> = (0..starts.len() - 1).collect();
        order.sort_by_key(|&sequence| std::cmp::Reverse(length(sequence)));
        let mut blocks = Self {
            blocks: Vec::new(),
            places: vec![0; starts[starts.len() - 1]],
        };
        let mut rest = order.as_slice();
        let mut offset = 0;
        while let Some(&longest) = rest.first() {
            let longest = length(longest);
            let scores = heads * longest * longest;
            // Padding to twice a length costs less than the launches of another block.
            let fits = |&&sequence: &&usize| 2 * length(sequence) >= longest;
            let alike = rest.iter().take_while(fits).count();
            let (members, others) = rest.split_at(alike.min((max_scores / scores).max(1)));
            rest = others;
            let mut rows = vec![starts[members[0]]; members.len() * longest];
            for (member, &sequence) in members.iter().enumerate() {
                for token in 0..length(sequence) {
                    rows[member * longest + token] = starts[sequence] + token;
                    blocks.places[starts[sequence] + token] = offset + member * longest + token;
                }
            }
            offset += rows.len();
            blocks.blocks.push(Block {
                sequences: members.len(),
                length: longest,
                tile: (max_scores / (members.len() * heads * longest)).clamp(1, longest),
                rows,
                lengths: members.iter().map(|&sequence| length(sequence)).collect(),
            });
        }
        blocks
    }
}

impl Block {
    /// What is added to the scores of each key, `[sequences, length]`: nothing, or minus infinity at padding. None where there is no
    /// padding.
    pub fn mask(&self) -> Option<Vec<f32>> {
        if self.lengths.iter().all(|&length| length == self.length) {
            return None;
        }
        let row = |&own: &usize| {
            (0..self.length).map(move |key| if key < own { 0.0 } else { f32::NEG_INFINITY })
        };
        Some(self.lengths.iter().flat_map(row).collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn starts(lengths: &[usize]) -> Vec<usize> {
        let mut starts = vec![0];
        starts.extend(lengths.iter().scan(0, |sum, length| {
            *sum += length;
            Some(*sum)
        }));
        starts
    }

    proptest! {
        #[test]
        fn every_token_has_one_place_and_its_sequence_around_it(
            lengths in prop::collection::vec(1usize..600, 1..40),
            heads in prop::sample::select(vec![1usize, 12, 16]),
            max_scores in prop::sample::select(vec![10_000usize, 1 << 20, 1 << 26]),
        ) {
            let starts = starts(&lengths);
            let blocks = Blocks::plan(&starts, heads, max_scores);
            let rows: Vec<usize> = blocks.blocks.iter().flat_map(|block| &block.rows).copied().collect();
            for (token, &place) in blocks.places.iter().enumerate() {
                prop_assert_eq!(rows[place], token);
            }
            let mut offset = 0;
            let mut sequences = 0;
            for block in &blocks.blocks {
                prop_assert_eq!(block.rows.len(), block.sequences * block.length);
                prop_assert!(block.sequences == 1 || block.sequences * heads * block.length * block.length <= max_scores);
                prop_assert!(block.tile == 1 || block.sequences * heads * block.length * block.tile <= max_scores);
                let mask = block.mask().unwrap_or_else(|| vec![0.0; block.rows.len()]);
                for (member, keys) in mask.chunks(block.length).enumerate() {
                    // What is not masked is one whole sequence, in its order.
                    let own = keys.iter().take_while(|&&key| key == 0.0).count();
                    prop_assert!(keys[own..].iter().all(|&key| key == f32::NEG_INFINITY));
                    let first = block.rows[member * block.length];
                    let sequence = starts.binary_search(&first).expect("begins a sequence");
                    prop_assert_eq!(own, lengths[sequence]);
                    for (token, &row) in block.rows[member * block.length..][..own].iter().enumerate() {
                        prop_assert_eq!(row, first + token);
                        prop_assert_eq!(blocks.places[row], offset + member * block.length + token);
                    }
                    sequences += 1;
                }
                offset += block.rows.len();
            }
            prop_assert_eq!(sequences, lengths.len());
        }
    }

    #[test]
    fn sequences_of_one_length_need_neither_padding_nor_a_second_block() {
        let blocks = Blocks::plan(&starts(&[512; 8]), 16, 1 << 26);
        assert_eq!(blocks.blocks.len(), 1);
        assert_eq!(blocks.blocks[0].mask(), None);
        assert_eq!(blocks.blocks[0].tile, 512);
    }

    #[test]
    fn a_long_sequence_is_computed_in_tiles_of_its_queries() {
        let blocks = Blocks::plan(&starts(&[8192, 8192, 100]), 16, 1 << 26);
        let shape = |block: &Block| (block.sequences, block.length, block.tile);
        let shapes: Vec<_> = blocks.blocks.iter().map(shape).collect();
        assert_eq!(shapes, [(1, 8192, 512), (1, 8192, 512), (1, 100, 100)]);
    }
}
