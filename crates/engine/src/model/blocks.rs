//! How packed sequences are laid side by side for attention by batched matrix products: pure, of
//! their lengths alone.
//!
//! Such a product wants pieces of one size. Sequences of similar lengths share a block, padded to
//! its longest; nothing but attention computes padding. Where a window limits attention, a long
//! sequence is cut into runs of queries, each with the keys that its window lets it see, so that
//! the work grows with the length and not with its square. A block's scores are bounded: by the
//! pieces that may share it, and where one alone is too long, by tiles of queries.

use std::cmp::Reverse;
use std::ops::Range;

/// The fewest queries of a run: with a small window more runs would cost more than the keys that
/// they leave out.
const RUN: usize = 64;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Blocks {
    pub blocks: Vec<Block>,
    /// For each token its row in the outputs of all blocks, one after the other.
    pub places: Vec<usize>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub pieces: usize,
    /// Places for keys that each of them has.
    pub keys: usize,
    /// The places of its queries among those of the keys.
    pub queries: Range<usize>,
    /// Queries whose scores are computed at a time.
    pub tile: usize,
    /// The packed row of each place, `[pieces, keys]`; at padding some row, whose values do not
    /// matter.
    pub rows: Vec<usize>,
    /// The places that hold a key of the piece's own sequence.
    own: Vec<Range<usize>>,
}

/// Queries of one sequence with the keys that they see; packed rows.
struct Piece {
    sequence: Range<usize>,
    queries: Range<usize>,
    /// Whether it is a run of a cut sequence; its place for the first key is then as far before its
    /// queries as the window reaches.
    run: bool,
    /// Places for keys.
    keys: usize,
}

/// The pieces of a sequence.
fn pieces(sequence: Range<usize>, window: Option<usize>) -> Vec<Piece> {
    let length = sequence.len();
    let (run, keys) = match window {
        Some(window) => {
            let run = RUN.max(window.saturating_mul(2));
            (run, run.saturating_add(window.saturating_mul(2)))
        }
        None => (length, length),
    };
    if length <= keys {
        return vec![Piece {
            queries: sequence.clone(),
            sequence,
            run: false,
            keys: length,
        }];
    }
    let piece = |start: usize| Piece {
        sequence: sequence.clone(),
        queries: start..sequence.end.min(start + run),
        run: true,
        keys,
    };
    sequence.clone().step_by(run).map(piece).collect()
}

impl Blocks {
    /// `starts` of the sequences and the end of the last, none of them empty; the furthest key that
    /// a query sees to either side, if there is such a limit; `max_scores` of one tile, over all
    /// heads and pieces of its block.
    pub(crate) fn plan(
        starts: &[usize],
        window: Option<usize>,
        heads: usize,
        max_scores: usize,
    ) -> Self {
        let sequences = starts.windows(2).map(|ends| ends[0]..ends[1]);
        let mut all: Vec<Piece> = sequences.flat_map(|it| pieces(it, window)).collect();
        all.sort_by_key(|piece| Reverse((piece.run, piece.keys)));
        let mut blocks = Self {
            blocks: Vec::new(),
            places: vec![0; starts[starts.len() - 1]],
        };
        let mut rest = all.as_slice();
        let mut offset = 0;
        while let Some(longest) = rest.first() {
            let (run, keys) = (longest.run, longest.keys);
            let queries = match window {
                Some(window) if run => window..keys - window,
                _ => 0..keys,
            };
            let scores = heads * queries.len() * keys;
            // Padding to twice a length costs less than the launches of another block.
            let fits = |piece: &&Piece| piece.run == run && 2 * piece.keys >= keys;
            let alike = rest.iter().take_while(fits).count();
            let (members, others) = rest.split_at(alike.min((max_scores / scores).max(1)));
            rest = others;
            let mut rows = vec![longest.sequence.start; members.len() * keys];
            let mut own = Vec::with_capacity(members.len());
            for (piece, rows) in members.iter().zip(rows.chunks_exact_mut(keys)) {
                let Piece {
                    sequence,
                    queries: tokens,
                    ..
                } = piece;
                // Where the sequence begins among the places, and from which of its tokens on it
                // does.
                let before = tokens.start - sequence.start;
                let from = queries.start.saturating_sub(before);
                let first = tokens.start - before.min(queries.start);
                let count = (keys - from).min(sequence.end - first);
                for (row, token) in rows[from..from + count].iter_mut().zip(first..) {
                    *row = token;
                }
                own.push(from..from + count);
                for (place, token) in (offset..).zip(tokens.clone()) {
                    blocks.places[token] = place;
                }
                offset += queries.len();
            }
            blocks.blocks.push(Block {
                pieces: members.len(),
                keys,
                tile: (max_scores / (members.len() * heads * keys)).clamp(1, queries.len()),
                queries,
                rows,
                own,
            });
        }
        blocks
    }
}

impl Block {
    /// What is added to the scores of each key, `[pieces, keys]`: nothing, or minus infinity at
    /// padding. None where there is no padding.
    pub(crate) fn mask(&self) -> Option<Vec<f32>> {
        if self.own.iter().all(|own| own.len() == self.keys) {
            return None;
        }
        let row = |own: &Range<usize>| {
            let own = own.clone();
            (0..self.keys).map(move |key| {
                if own.contains(&key) {
                    0.0
                } else {
                    f32::NEG_INFINITY
                }
            })
        };
        Some(self.own.iter().flat_map(row).collect())
    }

    /// The first query of each tile, counted from the block's first.
    pub(crate) fn tiles(&self) -> impl Iterator<Item = usize> {
        (0..self.queries.len()).step_by(self.tile)
    }

    fn last_tile(&self) -> usize {
        (self.queries.len() - 1) / self.tile * self.tile
    }

    /// How far keys are behind queries, for the tiles of all starts: `[tile, width]`, and the
    /// width. A tile has as many columns as there are keys, from [`Self::column`] on.
    pub(crate) fn distances(&self) -> (Vec<isize>, usize) {
        let width = self.keys + self.last_tile();
        let zero = (self.queries.start + self.last_tile()).cast_signed();
        let row = |query: isize| (0..width.cast_signed()).map(move |key| key - zero - query);
        let rows = (0..self.tile.cast_signed()).flat_map(row);
        (rows.collect(), width)
    }

    /// Where the distances of the tile from this query on begin.
    pub(crate) fn column(&self, tile: usize) -> usize {
        self.last_tile() - tile
    }

    /// Whether there is a key that is further from a query than this.
    pub(crate) fn reaches_beyond(&self, window: usize) -> bool {
        self.queries.end - 1 > window || self.keys - 1 - self.queries.start > window
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
        fn every_query_has_one_place_and_all_keys_that_it_sees_at_their_distances(
            lengths in prop::collection::vec(1usize..400, 1..8),
            window in prop::option::of(prop::sample::select(vec![0usize, 1, 6, 63, 64, 200, usize::MAX])),
            heads in prop::sample::select(vec![1usize, 12, 16]),
            max_scores in prop::sample::select(vec![10_000usize, 1 << 20, 1 << 26]),
        ) {
            let starts = starts(&lengths);
            let blocks = Blocks::plan(&starts, window, heads, max_scores);
            let mut offset = 0;
            let mut placed = 0;
            for block in &blocks.blocks {
                let queries = block.queries.clone();
                prop_assert_eq!(block.rows.len(), block.pieces * block.keys);
                prop_assert!(block.pieces == 1 || block.pieces * heads * queries.len() * block.keys <= max_scores);
                prop_assert!(block.tile == 1 || block.pieces * heads * block.tile * block.keys <= max_scores);
                let (distances, width) = block.distances();
                let mask = block.mask().unwrap_or_else(|| vec![0.0; block.rows.len()]);
                for (piece, rows) in block.rows.chunks(block.keys).enumerate() {
                    let mask = &mask[piece * block.keys..][..block.keys];
                    for tile in block.tiles() {
                        for query in tile..(tile + block.tile).min(queries.len()) {
                            let at = queries.start + query;
                            let token = rows[at];
                            if mask[at] != 0.0 || blocks.places[token] != offset + piece * queries.len() + query {
                                continue;
                            }
                            placed += 1;
                            let sequence = starts.partition_point(|&start| start <= token) - 1;
                            let distances = &distances[(query - tile) * width + block.column(tile)..][..block.keys];
                            let mut seen: Vec<usize> = Vec::new();
                            for key in (0..block.keys).filter(|&key| mask[key] == 0.0) {
                                prop_assert_eq!(distances[key], rows[key].cast_signed() - token.cast_signed());
                                let far = distances[key].unsigned_abs();
                                prop_assert!(window.is_none_or(|window| block.reaches_beyond(window) || far <= window));
                                if window.is_none_or(|window| far <= window) {
                                    seen.push(rows[key]);
                                }
                            }
                            let near = |key: &usize| window.is_none_or(|window| key.abs_diff(token) <= window);
                            let wanted: Vec<usize> = (starts[sequence]..starts[sequence + 1]).filter(near).collect();
                            prop_assert_eq!(seen, wanted);
                        }
                    }
                }
                offset += block.pieces * queries.len();
            }
            prop_assert_eq!(placed, blocks.places.len());
        }
    }

    #[test]
    fn sequences_of_one_length_need_neither_padding_nor_a_second_block() {
        let blocks = Blocks::plan(&starts(&[512; 8]), None, 16, 1 << 26);
        assert_eq!(blocks.blocks.len(), 1);
        assert_eq!(blocks.blocks[0].mask(), None);
        assert_eq!(blocks.blocks[0].tile, 512);
    }

    fn shapes(blocks: &Blocks) -> Vec<(usize, usize, Range<usize>, usize)> {
        let shape = |it: &Block| (it.pieces, it.keys, it.queries.clone(), it.tile);
        blocks.blocks.iter().map(shape).collect()
    }

    #[test]
    fn a_long_sequence_is_computed_in_tiles_of_its_queries() {
        let blocks = Blocks::plan(&starts(&[8192, 8192, 100]), None, 16, 1 << 26);
        let long = (1, 8192, 0..8192, 512);
        assert_eq!(shapes(&blocks), [long.clone(), long, (1, 100, 0..100, 100)]);
    }

    #[test]
    fn with_a_window_the_scores_grow_with_the_length() {
        let blocks = Blocks::plan(&starts(&[8192, 300, 100]), Some(64), 16, 1 << 26);
        assert_eq!(
            shapes(&blocks),
            [(64 + 3, 256, 64..192, 128), (1, 100, 0..100, 100)]
        );
    }
}
