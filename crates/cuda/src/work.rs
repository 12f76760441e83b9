//! What one pass is made of, as the kernels are told: a pure function of the sequences' lengths and
//! ids.

/// Warps of a block of attention's.
pub const WARPS: usize = 4;
/// Queries that each of them has at a time, once or twice.
const QUERIES: usize = 16;
/// From this length on, on average over the tokens, twice: keys are read less often then, and
/// blocks that are not full are rarer.
const LONG: usize = 384;

/// The integers that a pass takes along, one part after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Work {
    /// For each token its rows in the tables of words, positions and segments.
    pub rows: Vec<i32>,
    /// Attention of all queries: a sequence's first row and length, the first of up to
    /// [`Self::tile_rows`] queries, and the row of its output.
    pub tiles: Vec<i32>,
    /// How often each warp has as many queries as one product of matrices takes.
    pub times: usize,
    /// The same of each sequence's first query alone, whose outputs are one row for each sequence.
    pub first_tiles: Vec<i32>,
    /// Each sequence's first row.
    pub firsts: Vec<i32>,
    /// Number of tokens of all sequences.
    pub tokens: usize,
}

impl Work {
    /// Ids, positions and segments of the tokens, and where each sequence starts, and the last one
    /// ends. None where a number does not fit into 32 bits.
    pub fn plan(
        ids: &[u32],
        positions: &[usize],
        segments: &[u32],
        starts: &[usize],
    ) -> Option<Self> {
        let tokens = *starts.last()?;
        assert!(
            ids.len() == tokens && positions.len() == tokens && segments.len() == tokens,
            "each token has an id, a position and a segment"
        );
        let mut rows = Vec::with_capacity(3 * tokens);
        for ((&id, &position), &segment) in ids.iter().zip(positions).zip(segments) {
            rows.push(i32::try_from(id).ok()?);
            rows.push(i32::try_from(position).ok()?);
            rows.push(i32::try_from(segment).ok()?);
        }
        i32::try_from(tokens).ok()?;
        let at = |row: usize| row as i32;
        let length = |sequence: usize| starts[sequence + 1] - starts[sequence];
        let squares: usize = (0..starts.len() - 1).map(|at| length(at).pow(2)).sum();
        let times = if squares >= LONG * tokens { 2 } else { 1 };
        // The longest first: what takes long must not be what is begun last.
        let mut order: Vec<usize> = (0..starts.len() - 1).collect();
        order.sort_by_key(|&sequence| std::cmp::Reverse(length(sequence)));
        let (mut tiles, mut first_tiles) = (Vec::new(), Vec::new());
        for sequence in order {
            let (start, length) = (starts[sequence], length(sequence));
            for query in (0..length).step_by(Self::rows_of(times)) {
                tiles.extend([at(start), at(length), at(query), at(start + query)]);
            }
            first_tiles.extend([at(start), at(length), 0, at(sequence)]);
        }
        Some(Self {
            rows,
            tiles,
            first_tiles,
            firsts: starts[..starts.len() - 1]
                .iter()
                .map(|&row| at(row))
                .collect(),
            times,
            tokens,
        })
    }

    const fn rows_of(times: usize) -> usize {
        times * WARPS * QUERIES
    }

    /// Queries of one tile.
    pub fn tile_rows(&self) -> usize {
        Self::rows_of(self.times)
    }

    /// More tiles than any pass of so many tokens and sequences has.
    pub fn most_tiles(tokens: usize, sequences: usize) -> usize {
        // Each sequence adds one that is not full.
        tokens / Self::rows_of(1) + sequences
    }

    /// Number of sequences.
    pub fn sequences(&self) -> usize {
        self.firsts.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_query_is_in_one_tile_of_its_own_sequence_and_the_longest_come_first() {
        for lengths in [
            vec![1],
            vec![64, 65, 1, 300, 63],
            vec![8192, 2],
            vec![128; 9],
        ] {
            let mut starts = vec![0];
            for length in &lengths {
                starts.push(starts[starts.len() - 1] + length);
            }
            let tokens = starts[lengths.len()];
            let ids: Vec<u32> = (0..tokens as u32).collect();
            let positions: Vec<usize> = (0..tokens).map(|at| at + 7).collect();
            let work = Work::plan(&ids, &positions, &vec![1; tokens], &starts).expect("fits");
            assert_eq!(
                work.rows[3 * (tokens - 1)..],
                [tokens as i32 - 1, tokens as i32 + 6, 1]
            );
            let mut seen = vec![0; tokens];
            let mut longest = i32::MAX;
            for tile in work.tiles.chunks(4) {
                let [start, length, query, out] = tile else {
                    unreachable!("chunks of 4")
                };
                assert!(*length <= longest, "{lengths:?}");
                longest = *length;
                let sequence = starts
                    .binary_search(&(*start as usize))
                    .expect("starts one");
                assert_eq!(lengths[sequence], *length as usize);
                assert_eq!(*out, start + query);
                let rows = (*length - query).min(work.tile_rows() as i32);
                for row in 0..rows {
                    seen[(out + row) as usize] += 1;
                }
            }
            assert_eq!(work.times, if lengths.contains(&8192) { 2 } else { 1 });
            assert!(work.tiles.len() / 4 <= Work::most_tiles(tokens, lengths.len()));
            assert!(seen.iter().all(|&times| times == 1), "{lengths:?}");
            let mut outs: Vec<i32> = work.first_tiles.chunks(4).map(|tile| tile[3]).collect();
            outs.sort_unstable();
            assert!(outs.into_iter().eq(0..lengths.len() as i32));
            for tile in work.first_tiles.chunks(4) {
                let sequence = tile[3] as usize;
                assert_eq!((tile[0], tile[2]), (starts[sequence] as i32, 0));
                assert_eq!(work.firsts[sequence], tile[0]);
            }
        }
    }

    #[test]
    fn numbers_that_kernels_cannot_hold_are_refused() {
        assert_eq!(Work::plan(&[u32::MAX], &[0], &[0], &[0, 1]), None);
    }
}
