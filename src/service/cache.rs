//! Scores of sequences that were seen before, bounded. A pair's logit does not depend on what else
//! is in its batch, so what is kept equals to the bit what would be computed.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use lru::LruCache;
use sha2::{Digest, Sha256};

use reranker_engine::tokenizer::Sequence;

/// What stands for a sequence: texts are not kept, and cannot be read back.
pub type Key = [u8; 32];

pub struct Cache {
    kept: Mutex<LruCache<Key, f32>>,
    most: NonZeroUsize,
}

impl Cache {
    /// A cache of at most `pairs` sequences, about 100 bytes each; none for 0.
    pub fn new(pairs: usize) -> Option<Self> {
        NonZeroUsize::new(pairs).map(|most| Self {
            // One with a bound of its own takes the memory for all at once.
            kept: Mutex::new(LruCache::unbounded()),
            most,
        })
    }

    pub fn key(sequence: &Sequence) -> Key {
        let mut hash = Sha256::new();
        for ids in [&sequence.ids, &sequence.type_ids] {
            for id in ids {
                hash.update(id.to_le_bytes());
            }
        }
        hash.finalize().into()
    }

    pub fn get(&self, keys: &[Key]) -> Vec<Option<f32>> {
        let mut kept = self.kept();
        keys.iter().map(|key| kept.get(key).copied()).collect()
    }

    pub fn put(&self, scores: impl IntoIterator<Item = (Key, f32)>) {
        let mut kept = self.kept();
        for (key, logit) in scores {
            kept.put(key, logit);
            if kept.len() > self.most.get() {
                kept.pop_lru();
            }
        }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, LruCache<Key, f32>> {
        // Each change of the map is whole, whatever its caller does afterwards.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(id: u32) -> Key {
        Cache::key(&Sequence {
            ids: vec![id],
            type_ids: vec![0],
        })
    }

    #[test]
    fn the_one_that_was_not_used_the_longest_goes_first() {
        assert!(Cache::new(0).is_none());
        let cache = Cache::new(2).expect("a cache");
        cache.put([(key(1), 0.1), (key(2), 0.2)]);
        assert_eq!(cache.get(&[key(1)]), [Some(0.1)]);
        cache.put([(key(3), 0.3)]);
        assert_eq!(
            cache.get(&[key(1), key(2), key(3)]),
            [Some(0.1), None, Some(0.3)]
        );
    }

    #[test]
    fn ids_and_segments_both_count() {
        let sequence = |ids: &[u32], type_ids: &[u32]| {
            Cache::key(&Sequence {
                ids: ids.to_vec(),
                type_ids: type_ids.to_vec(),
            })
        };
        assert_ne!(sequence(&[1, 2], &[0, 1]), sequence(&[1, 2], &[0, 0]));
        assert_ne!(sequence(&[1, 2], &[0, 1]), sequence(&[2, 1], &[0, 1]));
    }

    proptest! {
        #[test]
        fn it_is_a_list_by_last_use_that_is_cut_at_its_end(
            most in 1usize..6, uses in prop::collection::vec((any::<bool>(), 0u32..9), 0..80),
        ) {
            let cache = Cache::new(most).expect("a cache");
            // The most recently used first.
            let mut list: Vec<(u32, f32)> = Vec::new();
            for (time, (writes, id)) in uses.into_iter().enumerate() {
                let place = list.iter().position(|(known, _)| *known == id);
                if writes {
                    place.map(|place| list.remove(place));
                    list.insert(0, (id, time as f32));
                    list.truncate(most);
                    cache.put([(key(id), time as f32)]);
                } else {
                    let found = place.map(|place| list.remove(place));
                    prop_assert_eq!(cache.get(&[key(id)]), [found.map(|(_, score)| score)]);
                    list.splice(0..0, found);
                }
            }
            prop_assert_eq!(cache.kept().len(), list.len());
        }
    }
}
