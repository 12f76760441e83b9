//! The pipeline behind every dialect and command: encode, cut, plan, compute, answer.
//!
//! `Engine` is a loaded model with its tokenizer and works synchronously; `Service` puts it on the compute thread, knows whether
//! it is ready, and is what requests go to.

mod engine;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;

pub use engine::{Engine, EngineSettings, Info, LoadTimes};

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
    started: Instant,
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
            started,
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

    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
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
