//! How much there is to compute, how fast it is computed, and the permits that bound it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reranker_domain::Error;

/// What a pass leaves of the weight of those before it.
const SPEED_DECAY: f32 = 0.9;

/// How much there is to do, and how fast it is done.
#[derive(Default)]
pub(super) struct LoadMeter {
    /// Requests that hold a permit, the running ones included.
    unfinished: AtomicUsize,
    /// Tokens that each submitted job still has to do, by the jobs' numbers.
    pending: Mutex<BTreeMap<u64, usize>>,
    /// Tokens and seconds of past passes, old ones counting less and less: bits of an f32 each, in
    /// one word so that they fit together.
    speed: AtomicU64,
    /// The highest speed that any pass has had, as bits of an f32.
    best: AtomicU32,
    /// All passes and their tokens.
    passes: AtomicU64,
    computed: AtomicU64,
    /// Whether a pass has been made: the first one also reads the weights, and says little of the
    /// others.
    warm: AtomicBool,
}

/// Counts a request as unfinished until it is dropped.
pub struct Permit(Arc<LoadMeter>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.unfinished.fetch_sub(1, Ordering::Release);
    }
}

impl LoadMeter {
    /// A permit, if no more than `limit` requests wait.
    pub(super) fn admit(self: &Arc<Self>, limit: usize) -> Result<Permit, Error> {
        self.unfinished
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |unfinished| {
                (unfinished <= limit).then_some(unfinished + 1)
            })
            .map(|_| Permit(Arc::clone(self)))
            .map_err(|unfinished| Error::Busy {
                queued: unfinished.saturating_sub(1),
                limit,
                retry_after: self.retry_after(),
            })
    }

    /// Requests that hold a permit.
    pub(super) fn unfinished(&self) -> usize {
        self.unfinished.load(Ordering::Acquire)
    }

    /// A job of so many tokens begins to wait; returns its number.
    pub(super) fn submitted(&self, tokens: usize) -> u64 {
        let mut pending = self.pending();
        let number = pending.last_key_value().map_or(0, |(last, _)| last + 1);
        pending.insert(number, tokens);
        number
    }

    /// Some of a job's tokens are scored.
    pub(super) fn scored(&self, job: u64, tokens: usize) {
        if let Some(left) = self.pending().get_mut(&job) {
            *left = left.saturating_sub(tokens);
        }
    }

    /// A job has ended, whatever was left of it.
    pub(super) fn ended(&self, job: u64) {
        self.pending().remove(&job);
    }

    /// Tokens that each job still has to do, in the order of their arrival.
    pub(super) fn left(&self) -> Vec<usize> {
        self.pending().values().copied().collect()
    }

    /// A pass begins.
    pub(super) fn pass(&self) {
        self.passes.fetch_add(1, Ordering::Relaxed);
    }

    /// A pass over so many tokens has ended without a panic.
    pub(super) fn passed(&self, tokens: usize) {
        let tokens = u64::try_from(tokens).unwrap_or(u64::MAX);
        self.computed.fetch_add(tokens, Ordering::Relaxed);
    }

    /// Passes so far, and their tokens.
    pub(super) fn computed(&self) -> (u64, u64) {
        (
            self.passes.load(Ordering::Relaxed),
            self.computed.load(Ordering::Relaxed),
        )
    }

    fn pending(&self) -> MutexGuard<'_, BTreeMap<u64, usize>> {
        // Each change of the map is whole, whatever its caller does afterwards.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long a pass took.
    pub(super) fn note(&self, tokens: usize, elapsed: Duration) {
        if !self.warm.swap(true, Ordering::Relaxed) || elapsed.is_zero() {
            return;
        }
        let speed = tokens as f32 / elapsed.as_secs_f32();
        if speed > f32::from_bits(self.best.load(Ordering::Relaxed)) {
            self.best.store(speed.to_bits(), Ordering::Relaxed);
        }
        let (old_tokens, old_seconds) = unpack(self.speed.load(Ordering::Relaxed));
        let tokens = old_tokens * SPEED_DECAY + tokens as f32;
        let seconds = old_seconds * SPEED_DECAY + elapsed.as_secs_f32();
        // Only the compute thread writes.
        self.speed.store(pack(tokens, seconds), Ordering::Relaxed);
    }

    pub(super) fn tokens_per_second(&self) -> Option<f64> {
        let (tokens, seconds) = unpack(self.speed.load(Ordering::Relaxed));
        (seconds > 0.0).then(|| f64::from(tokens) / f64::from(seconds))
    }

    pub(super) fn best_tokens_per_second(&self) -> Option<f64> {
        let best = f32::from_bits(self.best.load(Ordering::Relaxed));
        (best > 0.0).then(|| best.into())
    }

    /// When the queue should have emptied, between one second and a minute.
    fn retry_after(&self) -> Duration {
        let tokens = self.left().iter().sum::<usize>() as f64;
        let seconds = tokens / self.tokens_per_second().unwrap_or(f64::INFINITY);
        Duration::from_secs_f64(seconds.ceil().clamp(1.0, 60.0))
    }
}

fn pack(tokens: f32, seconds: f32) -> u64 {
    u64::from(tokens.to_bits()) << 32 | u64::from(seconds.to_bits())
}

fn unpack(speed: u64) -> (f32, f32) {
    let half = |bits: u64| f32::from_bits(bits as u32);
    (half(speed >> 32), half(speed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_measured_speed_lies_between_the_slowest_and_the_fastest_pass(
            passes in prop::collection::vec((1usize..20_000, 1u64..5_000_000), 0..60),
        ) {
            let load = LoadMeter::default();
            for &(tokens, micros) in &passes {
                load.note(tokens, Duration::from_micros(micros));
            }
            // The first pass also reads the weights, and does not count.
            let counted = passes.get(1..).unwrap_or_default();
            let speeds = || counted.iter().map(|&(tokens, micros)| tokens as f64 / micros as f64 * 1e6);
            let (low, high) = (speeds().fold(f64::MAX, f64::min), speeds().fold(0.0, f64::max));
            match load.tokens_per_second() {
                None => prop_assert!(counted.is_empty()),
                Some(speed) => {
                    prop_assert!(speed >= low * 0.999 && speed <= high * 1.001, "{low} <= {speed} <= {high}");
                    let best = load.best_tokens_per_second().expect("passes were counted");
                    prop_assert!((best / high - 1.0).abs() < 1e-3, "{best} for {high}");
                }
            }
        }

        #[test]
        fn what_is_left_of_a_job_never_goes_below_nothing(
            jobs in prop::collection::vec((0usize..500, prop::collection::vec(0usize..300, 0..6)), 0..12),
        ) {
            let load = LoadMeter::default();
            let mut left = 0;
            for (tokens, passes) in &jobs {
                let number = load.submitted(*tokens);
                passes.iter().for_each(|&done| load.scored(number, done));
                left += tokens.saturating_sub(passes.iter().sum());
            }
            prop_assert_eq!(load.left().iter().sum::<usize>(), left);
            // One that is unknown has ended, and changes nothing.
            load.scored(99, 7);
            prop_assert_eq!(load.left().len(), jobs.len());
        }
    }
}
