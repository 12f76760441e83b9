//! The one thread that computes, the pool that helps it, and the bounded queue in front.
//!
//! Whatever takes time runs here, one task after another; async code only waits. Knows nothing of models. A task that panics
//! harms no other; a task whose caller has gone can see it and stop.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::error::Error;

type Task = Box<dyn FnOnce() + Send>;

#[derive(Clone)]
pub struct Compute {
    tasks: Sender<Task>,
    pool: Arc<rayon::ThreadPool>,
    load: Arc<Load>,
    queue_limit: usize,
}

#[derive(Default)]
struct Load {
    /// Tasks that were accepted and have not ended, the running one included.
    unfinished: AtomicUsize,
    /// Moving average of a task's time, for telling callers when to come back.
    task_micros: AtomicU64,
}

/// Tells a running task that nobody waits for its answer any more.
pub struct Stop<'a>(Box<dyn Fn() -> bool + 'a>);

impl Stop<'_> {
    pub fn requested(&self) -> bool {
        (self.0)()
    }

    /// For callers that wait for the answer themselves.
    pub fn never() -> Self {
        Self(Box::new(|| false))
    }
}

impl Compute {
    /// Starts the thread and a pool of `threads`; at most `queue_limit` tasks wait behind the running one.
    pub fn start(threads: usize, queue_limit: usize) -> Result<Self, Error> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("compute-{index}"))
            .build()
            .map_err(|error| Error::Internal(format!("cannot start the compute pool: {error}")))?;
        let pool = Arc::new(pool);
        // The bound is kept by counting tasks: a channel's own would count a task until the thread has woken up.
        let (tasks, inbox) = channel::<Task>();
        let thread_pool = Arc::clone(&pool);
        std::thread::Builder::new()
            .name("compute".into())
            .spawn(move || {
                for task in inbox {
                    // A panic has dropped the task's reply, which its caller reads as an internal error. Tasks share nothing
                    // that they change, so nothing is left half done.
                    if catch_unwind(AssertUnwindSafe(|| thread_pool.install(task))).is_err() {
                        tracing::error!("a task panicked on the compute thread");
                    }
                }
            })
            .map_err(|error| {
                Error::Internal(format!("cannot start the compute thread: {error}"))
            })?;
        Ok(Self {
            tasks,
            pool,
            load: Arc::default(),
            queue_limit,
        })
    }

    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Tasks that wait, the running one not counted.
    pub fn queued(&self) -> usize {
        self.load
            .unfinished
            .load(Ordering::Acquire)
            .saturating_sub(1)
    }

    /// Whether no task waits or runs.
    pub fn idle(&self) -> bool {
        self.load.unfinished.load(Ordering::Acquire) == 0
    }

    /// Runs `task` on the compute thread and waits for its result. Refuses at once when the queue is full.
    ///
    /// Dropping the returned future makes [`Stop::requested`] true, and a task that has not begun is skipped.
    pub async fn run<T: Send + 'static>(
        &self,
        task: impl FnOnce(&Stop) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let accepted = Accepted::admit(&self.load, self.queue_limit)?;
        let (reply, answer) = oneshot::channel();
        let task: Task = Box::new(move || {
            if reply.is_closed() {
                return;
            }
            let started = Instant::now();
            let result = task(&Stop(Box::new(|| reply.is_closed())));
            accepted.0.note(started.elapsed());
            // The caller may have gone in the meantime; its answer then has no reader.
            let _ = reply.send(result);
        });
        self.tasks
            .send(task)
            .map_err(|_| Error::Internal("the compute thread has ended".into()))?;
        answer
            .await
            .map_err(|_| Error::Internal("the computation failed".into()))
    }
}

/// Counts a task as unfinished until it is dropped: run, skipped, refused or panicked.
struct Accepted(Arc<Load>);

impl Accepted {
    /// Takes a place, where fewer tasks than the running one and `queue_limit` behind it are unfinished.
    fn admit(load: &Arc<Load>, queue_limit: usize) -> Result<Self, Error> {
        load.unfinished
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |unfinished| {
                (unfinished <= queue_limit).then_some(unfinished + 1)
            })
            .map(|_| Self(Arc::clone(load)))
            .map_err(|unfinished| Error::Busy {
                queued: unfinished.saturating_sub(1),
                limit: queue_limit,
                retry_after: load.retry_after(unfinished),
            })
    }
}

impl Drop for Accepted {
    fn drop(&mut self) {
        self.0.unfinished.fetch_sub(1, Ordering::Release);
    }
}

impl Load {
    fn note(&self, elapsed: Duration) {
        let new = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        let old = self.task_micros.load(Ordering::Relaxed);
        let average = if old == 0 {
            new
        } else {
            (old / 8) * 7 + new / 8
        };
        self.task_micros.store(average, Ordering::Relaxed);
    }

    /// When the queue should have emptied, between one second and a minute.
    fn retry_after(&self, unfinished: usize) -> Duration {
        let average = self.task_micros.load(Ordering::Relaxed);
        let micros = average.saturating_mul(unfinished as u64);
        Duration::from_secs(micros.div_ceil(1_000_000).clamp(1, 60))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panicking_task_is_an_error_for_its_caller_and_harms_no_other() {
        let compute = Compute::start(1, 4).expect("starts");
        let failed: Result<(), Error> = compute.run(|_| panic!("injected")).await;
        assert!(matches!(failed, Err(Error::Internal(_))));
        assert_eq!(compute.run(|_| 7).await.expect("runs"), 7);
        assert_eq!(compute.queued(), 0);
        // A task counts as unfinished until its answer is sent, so it may be so for a moment longer.
        while !compute.idle() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_full_queue_refuses_at_once_and_says_when_to_return() {
        let compute = Compute::start(1, 1).expect("starts");
        let (release, gate) = std::sync::mpsc::channel::<()>();
        let running = tokio::spawn({
            let compute = compute.clone();
            async move { compute.run(move |_| gate.recv().is_ok()).await }
        });
        // Wait until the first task has left the queue, then fill its one place.
        while compute.idle() || compute.queued() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let waiting = tokio::spawn({
            let compute = compute.clone();
            async move { compute.run(|_| 2).await }
        });
        while compute.queued() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        match compute.run(|_| 3).await {
            Err(Error::Busy {
                limit: 1,
                retry_after,
                ..
            }) => assert!(retry_after >= Duration::from_secs(1)),
            other => panic!("expected a refusal, got {other:?}"),
        }
        release.send(()).expect("the first task waits");
        assert!(running.await.expect("joins").expect("runs"));
        assert_eq!(waiting.await.expect("joins").expect("runs"), 2);
    }

    #[tokio::test]
    async fn a_task_sees_that_its_caller_has_gone_and_an_unbegun_one_is_skipped() {
        let compute = Compute::start(1, 4).expect("starts");
        let (started, begun) = oneshot::channel();
        let (stopped, saw_stop) = oneshot::channel();
        let call = tokio::spawn({
            let compute = compute.clone();
            async move {
                compute
                    .run(move |stop| {
                        let _ = started.send(());
                        while !stop.requested() {
                            std::thread::yield_now();
                        }
                        let _ = stopped.send(());
                    })
                    .await
            }
        });
        begun.await.expect("begins");
        let skipped = tokio::spawn({
            let compute = compute.clone();
            async move { compute.run(|_| -> () { panic!("must not run") }).await }
        });
        while compute.queued() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        skipped.abort();
        let _ = skipped.await;
        call.abort();
        saw_stop
            .await
            .expect("the task saw that its caller had gone");
        assert_eq!(compute.run(|_| 1).await.expect("runs"), 1);
    }
}
