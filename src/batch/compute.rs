//! The face of the compute thread: async callers submit jobs and tasks here, and wait for their
//! results.
//!
//! Whatever takes time on all cores runs on that thread; async code only waits. Knows nothing of
//! models: a job is a list of items, each of a length, and its caller brings the function that
//! scores a slice of them.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use reranker_domain::Error;
use tokio::sync::{oneshot, watch};

use super::load::{LoadMeter, Permit};
use super::tokens_ahead;
use super::worker::{Job, Message, Worker};

/// What is scored: it has a length in tokens.
pub trait Item: Send + Sync + 'static {
    fn tokens(&self) -> usize;
}

/// Scores items of one pass, in their order.
pub type Forward<T> = Arc<dyn Fn(&[&T]) -> Result<Vec<f32>, Error> + Send + Sync>;

pub struct Compute<T> {
    inbox: Sender<Message<T>>,
    pool: Arc<rayon::ThreadPool>,
    load: Arc<LoadMeter>,
    settings: ComputeSettings,
    /// Closed when the thread has ended.
    ended: watch::Sender<()>,
}

impl<T> Clone for Compute<T> {
    fn clone(&self) -> Self {
        Self {
            inbox: self.inbox.clone(),
            pool: Arc::clone(&self.pool),
            load: Arc::clone(&self.load),
            settings: self.settings,
            ended: self.ended.clone(),
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub struct ComputeSettings {
    pub threads: usize,
    /// Most requests that wait behind the one that is computed.
    pub queue_limit: usize,
    /// Tokens of one pass; bounds the memory of activations.
    pub batch_tokens: usize,
}

impl Default for ComputeSettings {
    /// All cores, and a queue as long as the server's.
    fn default() -> Self {
        Self {
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            queue_limit: 64,
            batch_tokens: 4096,
        }
    }
}

/// The scores of a job's items, in their order.
#[derive(Debug, Default)]
pub struct Done {
    pub logits: Vec<f32>,
    /// From submitting until the first of its passes began, and from there to the end.
    pub queued: Duration,
    pub computed: Duration,
}

impl<T: Item> Compute<T> {
    /// Starts the thread and its pool.
    pub fn start(settings: ComputeSettings) -> Result<Self, Error> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(settings.threads)
            .thread_name(|index| format!("compute-{index}"))
            .build()
            .map_err(|error| Error::Internal(format!("cannot start the compute pool: {error}")))?;
        let pool = Arc::new(pool);
        // Permits are counted, so the channel needs no bound of its own.
        let (inbox, messages) = channel();
        let load = Arc::<LoadMeter>::default();
        let (ended, alive) = watch::channel(());
        let worker = Worker::new(
            messages,
            Arc::clone(&pool),
            Arc::clone(&load),
            settings.batch_tokens,
            alive,
        );
        std::thread::Builder::new()
            .name("compute".into())
            .spawn(move || worker.run())
            .map_err(|error| {
                Error::Internal(format!("cannot start the compute thread: {error}"))
            })?;
        Ok(Self {
            inbox,
            pool,
            load,
            settings,
            ended,
        })
    }

    /// Waits until the compute thread has ended because it panicked too often in a row.
    pub async fn ended(&self) {
        self.ended.closed().await;
    }

    /// Forward passes so far, and the tokens in them.
    pub fn computed(&self) -> (u64, u64) {
        self.load.computed()
    }

    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    pub fn settings(&self) -> ComputeSettings {
        self.settings
    }

    /// Requests that wait, one that is being computed not counted.
    pub fn queued(&self) -> usize {
        self.load.unfinished().saturating_sub(1)
    }

    /// Whether no request waits or is computed.
    pub fn idle(&self) -> bool {
        self.load.unfinished() == 0
    }

    /// Tokens that were submitted and are not scored yet.
    pub fn pending_tokens(&self) -> usize {
        self.load.left().iter().sum()
    }

    /// Tokens that would be computed until a job of `own` tokens is done, those of others included.
    pub fn tokens_until_done(&self, own: usize) -> usize {
        tokens_ahead(own, &self.load.left(), self.settings.batch_tokens)
    }

    /// Measured on past passes; nothing before the second, as the first one also reads the weights.
    pub fn tokens_per_second(&self) -> Option<f64> {
        self.load.tokens_per_second()
    }

    /// The highest speed that has been measured.
    pub fn best_tokens_per_second(&self) -> Option<f64> {
        self.load.best_tokens_per_second()
    }

    /// A permit for the queue, if it is not full. It is given back when the permit, or the job that
    /// took it, is dropped.
    pub fn admit(&self) -> Result<Permit, Error> {
        self.load.admit(self.settings.queue_limit)
    }

    /// Scores `items` with `forward`, between those of other callers, and waits for the result.
    /// Where `deadline` passes before the last pass, nothing partial is returned.
    ///
    /// Dropping the returned future drops the job before its next pass.
    pub async fn score(
        &self,
        permit: Permit,
        items: Vec<T>,
        forward: Forward<T>,
        deadline: Option<Instant>,
    ) -> Result<Done, Error> {
        let lengths: Vec<usize> = items.iter().map(T::tokens).collect();
        let (reply, answer) = oneshot::channel();
        let number = self.load.submitted(lengths.iter().sum());
        let job = Job {
            number,
            logits: Vec::with_capacity(items.len()),
            items,
            lengths,
            forward,
            deadline,
            submitted: Instant::now(),
            begun: None,
            reply,
            span: tracing::Span::current(),
            permit,
        };
        let wait = async {
            answer
                .await
                .map_err(|_| Error::Internal("the computation failed".into()))?
        };
        self.send(Message::Job(job))?;
        match deadline {
            // The thread looks at the deadline between passes; this one holds while a pass runs.
            Some(at) => tokio::time::timeout_at(at.into(), wait)
                .await
                .unwrap_or(Err(Error::Deadline)),
            None => wait.await,
        }
    }

    /// Runs `task` on the compute thread, before any job's next pass, and waits for its result.
    pub async fn run<R: Send + 'static>(
        &self,
        task: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, Error> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Task(Box::new(move || {
            // The caller may have gone in the meantime; its answer then has no reader.
            let _ = reply.send(task());
        })))?;
        answer
            .await
            .map_err(|_| Error::Internal("the computation failed".into()))
    }

    fn send(&self, message: Message<T>) -> Result<(), Error> {
        self.inbox
            .send(message)
            .map_err(|_| Error::Internal("the compute thread has ended".into()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// An item of some length whose score is the length.
    struct Length(usize);

    impl Item for Length {
        fn tokens(&self) -> usize {
            self.0
        }
    }

    fn start(queue_limit: usize, batch_tokens: usize) -> Compute<Length> {
        Compute::start(ComputeSettings {
            threads: 1,
            queue_limit,
            batch_tokens,
        })
        .expect("starts")
    }

    fn lengths(lengths: &[usize]) -> Vec<Length> {
        lengths.iter().copied().map(Length).collect()
    }

    fn echo() -> Forward<Length> {
        Arc::new(|items| Ok(items.iter().map(|item| item.0 as f32).collect()))
    }

    /// The lengths of the items of each pass.
    type Passes = Arc<Mutex<Vec<Vec<usize>>>>;

    /// A forward pass that notes its lengths, and waits for the gate before it answers.
    fn gated() -> (Forward<Length>, std::sync::mpsc::Sender<()>, Passes) {
        let (open, gate) = channel();
        let (gate, passes) = (Mutex::new(gate), Arc::new(Mutex::new(Vec::new())));
        let noted = Arc::clone(&passes);
        let forward: Forward<Length> = Arc::new(move |items| {
            let lengths: Vec<usize> = items.iter().map(|item| item.0).collect();
            noted.lock().expect("no panic").push(lengths);
            gate.lock().expect("no panic").recv().expect("is opened");
            Ok(items.iter().map(|item| item.0 as f32).collect())
        });
        (forward, open, passes)
    }

    /// Submits in the background, and returns once the thread or its queue has it.
    async fn submit(
        compute: &Compute<Length>,
        items: &[usize],
        forward: &Forward<Length>,
    ) -> tokio::task::JoinHandle<Result<Done, Error>> {
        let before = compute.pending_tokens();
        let permit = compute.admit().expect("a permit");
        let (items, forward) = (lengths(items), Arc::clone(forward));
        let job = tokio::spawn({
            let compute = compute.clone();
            async move { compute.score(permit, items, forward, None).await }
        });
        while compute.pending_tokens() <= before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        job
    }

    async fn until(condition: impl Fn() -> bool) {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn a_panicking_task_is_an_error_for_its_caller_and_harms_no_other() {
        let compute = start(4, 100);
        let failed: Result<(), Error> = compute.run(|| panic!("injected")).await;
        assert!(matches!(failed, Err(Error::Internal(_))));
        assert_eq!(compute.run(|| 7).await.expect("runs"), 7);
    }

    #[tokio::test]
    async fn a_full_queue_refuses_at_once_and_says_when_to_return() {
        let compute = start(1, 100);
        let running = compute.admit().expect("a permit");
        let waiting = compute.admit().expect("a permit");
        match compute.admit() {
            Err(Error::Busy {
                queued: 1,
                limit: 1,
                retry_after,
            }) => assert!(retry_after >= Duration::from_secs(1)),
            Err(other) => panic!("expected a refusal, got {other:?}"),
            Ok(_) => panic!("expected a refusal"),
        }
        drop(waiting);
        let job = compute.score(running, lengths(&[3, 4]), echo(), None);
        assert_eq!(job.await.expect("runs").logits, [3.0, 4.0]);
        assert!(compute.idle());
        assert_eq!(compute.pending_tokens(), 0);
        // The first pass says nothing of the speed.
        assert!(compute.tokens_per_second().is_none());
        let permit = compute.admit().expect("a permit");
        let job = compute.score(permit, lengths(&[3]), echo(), None);
        assert_eq!(job.await.expect("runs").logits, [3.0]);
        assert!(compute.tokens_per_second().is_some());
        assert!(compute.best_tokens_per_second().is_some());
    }

    #[tokio::test]
    async fn jobs_share_passes_and_each_gets_its_own_scores() {
        let compute = start(8, 100);
        let (forward, open, passes) = gated();
        let large = submit(&compute, &[50; 6], &forward).await;
        until(|| passes.lock().expect("no panic").len() == 1).await;
        let small = submit(&compute, &[20], &forward).await;
        for _ in 0..5 {
            // One too many for those that come after the last pass; nobody waits for them then.
            let _ = open.send(());
        }
        let done = small.await.expect("joins").expect("runs");
        assert_eq!(done.logits, [20.0]);
        assert_eq!(large.await.expect("joins").expect("runs").logits, [50.0; 6]);
        let passes = passes.lock().expect("no panic");
        assert_eq!(passes[0], [50, 50]);
        assert_eq!(passes[1], [50, 20], "the small one joins the next pass");
    }

    #[tokio::test]
    async fn a_pass_that_panics_fails_only_the_job_that_made_it() {
        let compute = start(8, 100);
        let (gate, open, passes) = gated();
        let forward: Forward<Length> = Arc::new(move |items| {
            assert!(items.iter().all(|item| item.0 != 13), "injected");
            gate(items)
        });
        let first = submit(&compute, &[1], &forward).await;
        until(|| passes.lock().expect("no panic").len() == 1).await;
        let good = submit(&compute, &[5], &forward).await;
        let bad = submit(&compute, &[13], &forward).await;
        for _ in 0..3 {
            let _ = open.send(());
        }
        assert!(first.await.expect("joins").is_ok());
        assert_eq!(good.await.expect("joins").expect("runs").logits, [5.0]);
        let error = bad.await.expect("joins").expect_err("panicked");
        assert!(matches!(error, Error::Internal(_)));
        // The first pass, the shared one, and its two parts again; what panicked was not computed.
        assert_eq!(compute.computed(), (4, 6));
        assert!(compute.idle());
        assert_eq!(compute.pending_tokens(), 0);
    }

    #[tokio::test]
    async fn two_panics_in_a_row_end_the_thread_and_one_between_good_passes_does_not() {
        let compute = start(8, 100);
        let forward: Forward<Length> = Arc::new(|items| {
            assert!(items.iter().all(|item| item.0 != 13), "injected");
            Ok(items.iter().map(|item| item.0 as f32).collect())
        });
        let score = async |length| {
            let permit = compute.admit().expect("a permit");
            let items = lengths(&[length]);
            compute
                .score(permit, items, Arc::clone(&forward), None)
                .await
        };
        for _ in 0..3 {
            assert!(score(13).await.is_err());
            assert_eq!(score(5).await.expect("runs").logits, [5.0]);
        }
        let alive = tokio::time::timeout(Duration::from_millis(20), compute.ended());
        assert!(alive.await.is_err(), "the thread ended too early");
        assert!(score(13).await.is_err());
        assert!(score(13).await.is_err());
        compute.ended().await;
        // Who comes now is told, and does not wait.
        assert!(matches!(score(5).await, Err(Error::Internal(_))));
        let waited: Result<(), Error> = compute.run(|| ()).await;
        assert!(matches!(waited, Err(Error::Internal(_))));
    }

    #[tokio::test]
    async fn jobs_whose_shared_pass_fails_are_computed_one_by_one() {
        let compute = start(8, 100);
        let (gate, open, passes) = gated();
        let forward: Forward<Length> = Arc::new(move |items| {
            let scores = gate(items)?;
            // As a GPU fails whose memory holds one of them only.
            if items.len() > 1 {
                return Err(Error::Internal("no memory left".into()));
            }
            Ok(scores)
        });
        let first = submit(&compute, &[1], &forward).await;
        until(|| passes.lock().expect("no panic").len() == 1).await;
        let second = submit(&compute, &[5], &forward).await;
        let third = submit(&compute, &[6], &forward).await;
        for _ in 0..4 {
            let _ = open.send(());
        }
        assert!(first.await.expect("joins").is_ok());
        assert_eq!(second.await.expect("joins").expect("runs").logits, [5.0]);
        assert_eq!(third.await.expect("joins").expect("runs").logits, [6.0]);
        let passes = passes.lock().expect("no panic");
        assert_eq!(*passes, [vec![1], vec![5, 6], vec![5], vec![6]]);
    }

    #[tokio::test]
    async fn a_job_whose_caller_has_gone_is_dropped_before_its_next_pass() {
        let compute = start(8, 10);
        let (forward, open, passes) = gated();
        let gone = submit(&compute, &[10; 5], &forward).await;
        until(|| passes.lock().expect("no panic").len() == 1).await;
        gone.abort();
        let _ = gone.await;
        open.send(()).expect("the first pass waits");
        until(|| compute.idle()).await;
        assert_eq!(passes.lock().expect("no panic").len(), 1);
        assert_eq!(compute.pending_tokens(), 0);
    }

    #[tokio::test]
    async fn a_job_ends_at_its_deadline_though_a_pass_still_runs() {
        let compute = start(8, 10);
        let (forward, open, passes) = gated();
        let permit = compute.admit().expect("a permit");
        let soon = Some(Instant::now() + Duration::from_millis(30));
        let late = compute.score(permit, lengths(&[10; 5]), forward, soon);
        assert!(matches!(late.await, Err(Error::Deadline)));
        open.send(()).expect("the first pass waits");
        until(|| compute.idle()).await;
        assert_eq!(passes.lock().expect("no panic").len(), 1);
    }
}
