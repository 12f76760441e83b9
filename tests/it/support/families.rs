//! The families beside BERT's that have a tiny model under `tests/golden`, made by `make_families.py` there.

use serde::Deserialize;

pub const FAMILIES: [&str; 8] = [
    "gte",
    "modernbert",
    "modernbert-cls",
    "modernbert-modules",
    "electra",
    "distilbert",
    "mpnet",
    "jina",
];

/// What PyTorch answered for sequences that are made of a length and a seed.
#[derive(Deserialize)]
pub struct FamilyGolden {
    pub max_length: usize,
    segments: bool,
    /// `[length, seed, logit]`
    rows: Vec<(usize, usize, f32)>,
}

impl FamilyGolden {
    /// Each with its length, ids, segments and logit.
    pub fn sequences(&self, model: &str, vocab: usize) -> Vec<(usize, Vec<u32>, Vec<u32>, f32)> {
        let sequence = |&(length, seed, logit): &(usize, usize, f32)| {
            let id = |at: usize| (seed + 7919 * at + at * at % 1009) % (vocab - 5) + 5;
            let ids = (0..length).map(|at| u32::try_from(id(at)).expect("small"));
            let mut ids: Vec<u32> = ids.collect();
            if model == "mpnet" && length > 8 {
                ids[5] = 1;
            }
            let types = (0..length).map(|at| u32::from(self.segments && at >= length / 2));
            (length, ids, types.collect(), logit)
        };
        self.rows.iter().map(sequence).collect()
    }
}
