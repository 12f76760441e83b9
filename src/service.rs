//! The pipeline behind every dialect: encode, cut, plan, compute, answer.
//!
//! An `Engine` is a loaded model with its tokenizer and works synchronously; `Service` puts it on
//! the compute thread, knows whether it is ready, and is what requests go to. It refuses what
//! cannot be done in its time.

mod cache;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tracing::Instrument;

use crate::batch::{Compute, ComputeSettings, Done, Forward, Item};
use crate::fault::fault_point;
use cache::Cache;
use reranker_domain::{Error, Estimate, Ranking, Request, Result, Score};
use reranker_engine::tokenizer::Sequence;
use reranker_engine::{Engine, Halt, Info, ModelError, Prepared, Receipt};

/// A caller that came too early is told to come back after this.
const LOADING_RETRY: Duration = Duration::from_secs(2);
/// Requests of any size that are turned into tokens at a time: few, as the cores belong to
/// computing.
const TOKENIZING: usize = 2;
/// More of them for those of no more than so many bytes of text, which so pass large ones.
const TOKENIZING_SMALL: usize = 1;
const SMALL_TEXT: usize = 64 << 10;

impl Item for Sequence {
    fn tokens(&self) -> usize {
        self.ids.len()
    }
}

#[derive(Clone)]
pub struct Service {
    compute: Compute<Sequence>,
    turns: Arc<Turns>,
    cache: Option<Arc<Cache>>,
    state: watch::Sender<State>,
    draining: Arc<AtomicBool>,
    /// When the process began, or was restored from a snapshot.
    awake_since: Arc<Mutex<Instant>>,
    answered: Arc<AtomicBool>,
}

/// A ranking, and the model that it is of: another may be served by now, or none.
pub struct Scored {
    pub ranking: Ranking,
    pub model: Arc<Info>,
}

#[derive(Clone)]
pub enum State {
    Loading,
    Ready(Arc<Engine>),
    /// Loading failed, and why.
    Failed(String),
}

impl Service {
    /// A service without a model; [`Self::load`] gives it one. `cache_pairs` is how many scores are
    /// kept, `started` when the process began.
    pub fn new(compute: Compute<Sequence>, cache_pairs: usize, started: Instant) -> Self {
        Self {
            compute,
            turns: Arc::new(Turns::new()),
            cache: Cache::new(cache_pairs).map(Arc::new),
            state: watch::Sender::new(State::Loading),
            draining: Arc::default(),
            awake_since: Arc::new(Mutex::new(started)),
            answered: Arc::default(),
        }
    }

    /// Loads on the compute thread, so that a request that arrives meanwhile is answered "not
    /// ready" instead of waiting.
    pub async fn load(
        &self,
        load: impl FnOnce() -> Result<Engine, ModelError> + Send + 'static,
    ) -> Result<Arc<Engine>, Error> {
        let loaded = match self.compute.run(load).await {
            Ok(Ok(engine)) => Ok(Arc::new(engine)),
            Ok(Err(error)) => Err(Error::Model(error.to_string())),
            Err(error) => Err(error),
        };
        self.state.send_replace(match &loaded {
            Ok(engine) => State::Ready(Arc::clone(engine)),
            Err(Error::Model(reason)) => State::Failed(reason.clone()),
            Err(error) => State::Failed(error.to_string()),
        });
        loaded
    }

    /// There is no model, and why; one may still come.
    pub fn failed(&self, reason: String) {
        self.state.send_replace(State::Failed(reason));
    }

    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Waits until loading has ended, well or badly, or until `deadline`.
    pub async fn settled(&self, deadline: Option<Instant>) -> State {
        let mut state = self.state.subscribe();
        let settled = state.wait_for(|state| !matches!(state, State::Loading));
        match deadline {
            Some(at) => drop(tokio::time::timeout_at(at.into(), settled).await),
            None => drop(settled.await),
        }
        self.state()
    }

    /// The loaded model, or why there is none.
    pub fn engine(&self) -> Result<Arc<Engine>> {
        match self.state() {
            State::Ready(engine) => Ok(engine),
            State::Loading => Err(Error::NotReady {
                retry_after: LOADING_RETRY,
            }),
            State::Failed(reason) => Err(Error::Model(reason)),
        }
    }

    /// Waits until the loaded model's weights have been read ahead; does not wait where there is
    /// none.
    pub async fn prefetched(&self) {
        if let Ok(engine) = self.engine() {
            let prefetch = engine.model().prefetch().clone();
            // Fails only when the runtime ends, and then nobody waits any more.
            let _ = tokio::task::spawn_blocking(move || prefetch.wait()).await;
        }
    }

    /// The receipt of the start, once: for the first answer that has a score.
    pub fn first_receipt(&self) -> Option<Receipt> {
        if self.answered.swap(true, Ordering::Relaxed) {
            return None;
        }
        self.engine().ok().map(|engine| engine.receipt())
    }

    /// The process goes on from a snapshot of itself: what it counts from its start it counts from
    /// now.
    pub fn restored(&self) {
        *self.awake_since() = Instant::now();
    }

    pub fn uptime(&self) -> Duration {
        self.awake_since().elapsed()
    }

    fn awake_since(&self) -> std::sync::MutexGuard<'_, Instant> {
        self.awake_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub fn threads(&self) -> usize {
        self.compute.threads()
    }

    pub fn queued(&self) -> usize {
        self.compute.queued()
    }

    /// Whether nothing is being computed and nothing waits for it.
    pub fn idle(&self) -> bool {
        self.compute.idle()
    }

    /// From now on new requests are refused; accepted ones are answered.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub fn compute_settings(&self) -> ComputeSettings {
        self.compute.settings()
    }

    /// Requests that are turned into tokens at a time.
    pub fn tokenizing(&self) -> usize {
        TOKENIZING + TOKENIZING_SMALL
    }

    pub fn tokens_per_second(&self) -> Option<f64> {
        self.compute.tokens_per_second()
    }

    /// Forward passes so far, and the tokens in them.
    pub fn computed(&self) -> (u64, u64) {
        self.compute.computed()
    }

    /// Waits until nothing can be computed any more, because the compute thread has panicked too
    /// often.
    pub async fn broken(&self) {
        self.compute.ended().await;
    }

    /// Tokens of accepted requests that are still to be computed.
    pub fn pending_tokens(&self) -> usize {
        self.compute.pending_tokens()
    }

    /// Scores every pair of the request.
    pub async fn rerank(&self, request: Request) -> Result<Scored> {
        if self.draining() {
            return Err(Error::Draining);
        }
        let engine = self.engine()?;
        engine.check(&request)?;
        let model = engine.shared_info();
        let permit = self.compute.admit()?;
        let deadline = request.deadline;
        let begun = Instant::now();
        let cache = self.cache.clone();
        let mut pending = self.prepare(&engine, request, cache).await?;
        let tokenized = begun.elapsed();
        if let Some(at) = deadline {
            self.refuse_the_unreachable(&pending, at)?;
        }
        let service = self.clone();
        let forward: Forward<Sequence> = Arc::new(move |sequences| {
            fault_point!(Compute, sequences.iter().map(|it| it.tokens()), "a pass");
            engine.forward(sequences).map_err(|error| match error {
                // Nothing that this process computes from now on can be right.
                ModelError::Changed(_) | ModelError::Lost(_) => {
                    tracing::error!(%error, "the model is given up");
                    service.failed(error.to_string());
                    Error::Model(error.to_string())
                }
                error => Error::Internal(error.to_string()),
            })
        });
        let sequences = std::mem::take(&mut pending.missing);
        // What is known already waits for nobody.
        let done = if sequences.is_empty() {
            Done::default()
        } else {
            let scored = self.compute.score(permit, sequences, forward, deadline);
            scored.instrument(tracing::info_span!("infer")).await?
        };
        let (cache_lookups, cache_hits) = (pending.keys.len(), pending.hits());
        let ranking = Ranking {
            scores: pending.scores(&done.logits, self.cache.as_deref())?,
            tokenized,
            queued: done.queued,
            computed: done.computed,
            cache_lookups,
            cache_hits,
        };
        Ok(Scored { ranking, model })
    }

    /// What the request would cost, without scoring it. The cache is left out: what it holds is
    /// another caller's business.
    pub async fn estimate(&self, request: Request) -> Result<Estimate> {
        if self.draining() {
            return Err(Error::Draining);
        }
        let engine = self.engine()?;
        engine.check(&request)?;
        let pairs = request.pairs.len();
        let _permit = self.compute.admit()?;
        let pending = self.prepare(&engine, request, None).await?;
        let (compute, total) = self.times(&pending).unzip();
        Ok(Estimate {
            pairs,
            sequences: pending.missing.len(),
            tokens: pending.prepared.tokens(),
            computed_tokens: pending.tokens(),
            truncated: pending.prepared.truncated(),
            tokens_per_second: self.compute.tokens_per_second(),
            compute,
            total,
        })
    }

    /// Texts to tokens, away from the threads that answer and those that compute; and what of them
    /// the cache knows.
    async fn prepare(
        &self,
        engine: &Arc<Engine>,
        request: Request,
        cache: Option<Arc<Cache>>,
    ) -> Result<PendingRequest> {
        let engine = Arc::clone(engine);
        let deadline = request.deadline;
        let halt = Halt::at(deadline);
        let _waiting = halt.waiting();
        let tokenize = async {
            let turn = self.turns.take(is_small(&request)).await?;
            let work = move || {
                // Kept until the work is done or given up.
                let _turn = turn;
                let prepared = engine.prepare(&request, &halt)?;
                fault_point!(
                    Tokenize,
                    prepared.sequences.iter().map(Item::tokens),
                    request.pairs.first().map_or("", |pair| &pair.document)
                );
                Ok(PendingRequest::new(prepared, cache.as_deref()))
            };
            // Fails only where the work panicked.
            tokio::task::spawn_blocking(work)
                .await
                .map_err(|_| Error::Internal("the tokenizer panicked".into()))?
        }
        .instrument(tracing::info_span!("tokenize"));
        match deadline {
            Some(at) => tokio::time::timeout_at(at.into(), tokenize)
                .await
                .unwrap_or(Err(Error::Deadline)),
            None => tokenize.await,
        }
    }

    /// How long computing takes, alone and with what goes before it; nothing before this process
    /// has measured its speed.
    fn times(&self, pending: &PendingRequest) -> Option<(Duration, Duration)> {
        let speed = self.compute.tokens_per_second()?;
        let own = pending.tokens();
        let time = |tokens: usize| Duration::from_secs_f64(tokens as f64 / speed);
        Some((time(own), time(self.compute.tokens_until_done(own))))
    }

    /// Alone, a request is judged by the highest speed that was ever measured: a refused one is not
    /// computed, so by a low speed of the last minutes it could be refused for ever.
    fn refuse_the_unreachable(&self, pending: &PendingRequest, deadline: Instant) -> Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        let own = pending.tokens();
        let (Some((_, total)), Some(best)) =
            (self.times(pending), self.compute.best_tokens_per_second())
        else {
            return Ok(());
        };
        let at_best = Duration::from_secs_f64(own as f64 / best);
        let others = self.compute.tokens_until_done(own) > own;
        let busy = at_best <= left;
        if own == 0 || total <= left || (busy && !others) {
            return Ok(());
        }
        Err(Error::Unreachable {
            total: if busy { total } else { at_best },
            left,
            busy,
            retry_after: total.saturating_sub(at_best).max(Duration::from_secs(1)),
        })
    }
}

/// Whether turning it into tokens is done at once, judged by its texts. Sentences come with a query
/// each, so they may be much more.
fn is_small(request: &Request) -> bool {
    let texts = request.pairs.iter();
    let bytes: usize = texts
        .map(|pair| pair.query.len() + pair.document.len())
        .sum();
    bytes <= SMALL_TEXT && !request.sentences
}

/// Turns to make tokens of texts.
struct Turns {
    any: Arc<Semaphore>,
    small: Arc<Semaphore>,
}

impl Turns {
    fn new() -> Self {
        Self {
            any: Arc::new(Semaphore::new(TOKENIZING)),
            small: Arc::new(Semaphore::new(TOKENIZING_SMALL)),
        }
    }

    async fn take(&self, small: bool) -> Result<OwnedSemaphorePermit> {
        let any = Arc::clone(&self.any).acquire_owned();
        let turn = if small {
            tokio::select! {
                biased;
                turn = Arc::clone(&self.small).acquire_owned() => turn,
                turn = any => turn,
            }
        } else {
            any.await
        };
        turn.map_err(|_| Error::Internal("the tokenizer's turns have ended".into()))
    }
}

/// A request's sequences, and which of their scores are known already.
struct PendingRequest {
    prepared: Prepared,
    keys: Vec<cache::Key>,
    known: Vec<Option<f32>>,
    /// The sequences to compute; empty once they have been taken.
    missing: Vec<Sequence>,
}

impl PendingRequest {
    fn new(mut prepared: Prepared, cache: Option<&Cache>) -> Self {
        let sequences = std::mem::take(&mut prepared.sequences);
        let (keys, known) = match cache {
            Some(cache) => {
                let keys: Vec<cache::Key> = sequences.iter().map(Cache::key).collect();
                let known = cache.get(&keys);
                (keys, known)
            }
            None => (Vec::new(), vec![None; sequences.len()]),
        };
        let missing = sequences
            .into_iter()
            .zip(&known)
            .filter_map(|(sequence, known)| known.is_none().then_some(sequence))
            .collect();
        Self {
            prepared,
            keys,
            known,
            missing,
        }
    }

    /// Tokens that are to be computed.
    fn tokens(&self) -> usize {
        self.missing.iter().map(Item::tokens).sum()
    }

    fn hits(&self) -> usize {
        self.known.iter().flatten().count()
    }

    /// The request's scores, from the logits of what was missing, which the cache then knows too.
    fn scores(self, logits: &[f32], cache: Option<&Cache>) -> Result<Vec<Score>> {
        let mut fresh = logits.iter().copied();
        let all: Vec<f32> = self
            .known
            .iter()
            .map_while(|known| known.or_else(|| fresh.next()))
            .collect();
        let scores = self.prepared.scores(&all)?;
        if let Some(cache) = cache {
            cache.put(self.keys.into_iter().zip(all));
        }
        Ok(scores)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reranker_domain::Pair;

    #[tokio::test]
    async fn a_small_request_passes_large_ones() {
        let turns = Turns::new();
        let mut large = Vec::new();
        for _ in 0..TOKENIZING {
            large.push(turns.take(false).await.expect("a turn"));
        }
        let mut next = std::pin::pin!(turns.take(false));
        assert!(
            futures_are_pending(next.as_mut()).await,
            "all turns are taken"
        );
        let small = turns.take(true).await.expect("a turn of its own");
        let mut second = std::pin::pin!(turns.take(true));
        assert!(futures_are_pending(second.as_mut()).await);
        // Whichever is free first.
        drop(small);
        drop(second.await.expect("a turn"));
        large.pop();
        assert!(next.await.is_ok());
    }

    /// Whether it does not end at once.
    async fn futures_are_pending<F: Future>(future: std::pin::Pin<&mut F>) -> bool {
        tokio::select! {
            biased;
            _ = future => false,
            () = std::future::ready(()) => true,
        }
    }

    #[test]
    fn what_is_small_is_judged_by_texts_and_sentences() {
        let pair = |bytes: usize| Pair {
            query: "q".into(),
            document: "x".repeat(bytes).into(),
        };
        let mut request = Request::new(vec![pair(1000); 60]);
        assert!(is_small(&request));
        request.sentences = true;
        assert!(!is_small(&request));
        assert!(!is_small(&Request::new(vec![pair(1000); 70])));
    }
}
