//! The pipeline behind every dialect and command: encode, cut, plan, compute, answer.
//!
//! `Engine` is a loaded model with its tokenizer and works synchronously; `Service` puts it on the compute thread, knows whether
//! it is ready, and is what requests go to.

mod engine;
mod receipt;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

pub use engine::{Engine, EngineSettings, Info};
pub use receipt::{LoadTimes, Prefetched, Receipt, Span};

use crate::batch::Compute;
use crate::error::{Error, ModelError, Result};
use crate::rerank::{Ranking, Request};

/// A caller that came too early is told to come back after this.
const LOADING_RETRY: Duration = Duration::from_secs(2);

#[derive(Clone)]
pub struct Service {
    compute: Compute,
    state: watch::Sender<State>,
    draining: Arc<AtomicBool>,
    /// When the process began, or was restored from a snapshot.
    awake_since: Arc<Mutex<Instant>>,
    answered: Arc<AtomicBool>,
}

#[derive(Clone)]
pub enum State {
    Loading,
    Ready(Arc<Engine>),
    /// Loading failed, and why.
    Failed(String),
}

impl Service {
    /// A service without a model; [`Self::load`] gives it one. `started` is when the process began.
    pub fn new(compute: Compute, started: Instant) -> Self {
        Self {
            compute,
            state: watch::Sender::new(State::Loading),
            draining: Arc::default(),
            awake_since: Arc::new(Mutex::new(started)),
            answered: Arc::default(),
        }
    }

    /// Loads on the compute thread, so that a request that arrives meanwhile is answered "not ready" instead of waiting.
    pub async fn load(
        &self,
        load: impl FnOnce() -> Result<Engine, ModelError> + Send + 'static,
    ) -> Result<Arc<Engine>, Error> {
        let loaded = match self.compute.run(move |_| load()).await {
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

    /// Waits until the loaded model's weights have been read ahead; does not wait where there is none.
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

    /// The process goes on from a snapshot of itself: what it counts from its start it counts from now.
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

    pub async fn rerank(&self, request: Request) -> Result<Ranking> {
        if self.draining() {
            return Err(Error::Draining);
        }
        let engine = self.engine()?;
        engine.check(&request)?;
        let (deadline, pairs) = (request.deadline, request.pairs.len());
        let asked = Instant::now();
        let answer = self.compute.run(move |stop| {
            let queued = asked.elapsed();
            engine.score(&request, stop).map(|scores| Ranking {
                scores,
                queued,
                computed: asked.elapsed().saturating_sub(queued),
            })
        });
        match deadline {
            // The task looks at the deadline between batches; this one holds while a batch runs or the task waits.
            Some(at) => tokio::time::timeout_at(at.into(), answer)
                .await
                .unwrap_or(Ok(Err(Error::Deadline { pairs })))?,
            None => answer.await?,
        }
    }
}
