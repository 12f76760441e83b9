//! The one thread that computes, the pool that helps it, and the bounded queue in front.
//!
//! Whatever takes time on all cores runs here; async code only waits. Knows nothing of models: a job is a list of items, each of a
//! length, and whoever submits it brings the function that scores a slice of them. The items of several jobs share a pass, as
//! [`share`] decides. A pass that panics harms no job but its own; a job whose caller has gone, or whose time is up, is dropped
//! between passes. After [`PANICS`] of them in a row the thread trusts itself no more: it fails what it has and ends.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use super::{share, tokens_ahead};
use reranker_domain::Error;

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

enum Message<T> {
    Task(Box<dyn FnOnce() + Send>),
    Job(Job<T>),
}

/// Items that one caller waits for.
struct Job<T> {
    /// Of its entry in [`LoadMeter::pending`].
    number: u64,
    items: Vec<T>,
    lengths: Vec<usize>,
    /// Scores so far; the next item is the one at its length.
    logits: Vec<f32>,
    forward: Forward<T>,
    deadline: Option<Instant>,
    submitted: Instant,
    begun: Option<Instant>,
    reply: oneshot::Sender<Result<Done, Error>>,
    span: tracing::Span,
    permit: Permit,
}

/// The scores of a job's items, in their order.
#[derive(Debug, Default)]
pub struct Done {
    pub logits: Vec<f32>,
    /// From submitting until the first of its passes began, and from there to the end.
    pub queued: Duration,
    pub computed: Duration,
}

/// How much there is to do, and how fast it is done.
#[derive(Default)]
struct LoadMeter {
    /// Requests that hold a permit, the running ones included.
    unfinished: AtomicUsize,
    /// Tokens that each submitted job still has to do, by the jobs' numbers.
    pending: Mutex<BTreeMap<u64, usize>>,
    /// Tokens and seconds of past passes, old ones counting less and less: bits of an f32 each, in one word so that they fit together.
    speed: AtomicU64,
    /// The highest speed that any pass has had, as bits of an f32.
    best: AtomicU32,
    /// All passes and their tokens.
    passes: AtomicU64,
    computed: AtomicU64,
    /// Whether a pass has been made: the first one also reads the weights, and says little of the others.
    warm: AtomicBool,
}

/// That many jobs or tasks that panic with nothing done in between are no bad requests any more: memory may be damaged, or the model.
const PANICS: usize = 2;

/// What a pass leaves of the weight of those before it.
const SPEED_DECAY: f32 = 0.9;

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
        let worker = Worker {
            _alive: alive,
            panics: 0,
            messages,
            pool: Arc::clone(&pool),
            load: Arc::clone(&load),
            batch_tokens: settings.batch_tokens,
            jobs: Vec::new(),
        };
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
        let load = &self.load;
        (
            load.passes.load(Ordering::Relaxed),
            load.computed.load(Ordering::Relaxed),
        )
    }

    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    pub fn settings(&self) -> ComputeSettings {
        self.settings
    }

    /// Requests that wait, one that is being computed not counted.
    pub fn queued(&self) -> usize {
        self.load
            .unfinished
            .load(Ordering::Acquire)
            .saturating_sub(1)
    }

    /// Whether no request waits or is computed.
    pub fn idle(&self) -> bool {
        self.load.unfinished.load(Ordering::Acquire) == 0
    }

    /// Tokens that were submitted and are not scored yet.
    pub fn pending_tokens(&self) -> usize {
        self.load.pending().values().sum()
    }

    /// Tokens that would be computed until a job of `own` tokens is done, those of others included.
    pub fn tokens_until_done(&self, own: usize) -> usize {
        let jobs: Vec<usize> = self.load.pending().values().copied().collect();
        tokens_ahead(own, &jobs, self.settings.batch_tokens)
    }

    /// Measured on past passes; nothing before the second, as the first one also reads the weights.
    pub fn tokens_per_second(&self) -> Option<f64> {
        self.load.tokens_per_second()
    }

    /// The highest speed that has been measured.
    pub fn best_tokens_per_second(&self) -> Option<f64> {
        let best = f32::from_bits(self.load.best.load(Ordering::Relaxed));
        (best > 0.0).then(|| best.into())
    }

    /// A permit for the queue, if it is not full. It is given back when the permit, or the job that took it, is dropped.
    pub fn admit(&self) -> Result<Permit, Error> {
        let limit = self.settings.queue_limit;
        self.load
            .unfinished
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |unfinished| {
                (unfinished <= limit).then_some(unfinished + 1)
            })
            .map(|_| Permit(Arc::clone(&self.load)))
            .map_err(|unfinished| Error::Busy {
                queued: unfinished.saturating_sub(1),
                limit,
                retry_after: self.load.retry_after(),
            })
    }

    /// Scores `items` with `forward`, between those of other callers, and waits for the result. Where `deadline` passes before the
    /// last pass, nothing partial is returned.
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
        let tokens = lengths.iter().sum();
        let number = {
            let mut pending = self.load.pending();
            let number = pending.last_key_value().map_or(0, |(last, _)| last + 1);
            pending.insert(number, tokens);
            number
        };
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

/// The compute thread's own state.
struct Worker<T> {
    messages: Receiver<Message<T>>,
    pool: Arc<rayon::ThreadPool>,
    load: Arc<LoadMeter>,
    batch_tokens: usize,
    /// In the order of their arrival.
    jobs: Vec<Job<T>>,
    /// In a row, with nothing done in between.
    panics: usize,
    _alive: watch::Receiver<()>,
}

impl<T: Item> Worker<T> {
    /// Works until no [`Compute`] is left that could send anything, or until it has panicked too often.
    fn run(mut self) {
        while self.panics < PANICS {
            if self.jobs.is_empty() {
                match self.messages.recv() {
                    Ok(message) => self.take(message),
                    Err(_) => return,
                }
            }
            while let Ok(message) = self.messages.try_recv() {
                self.take(message);
            }
            self.drop_abandoned();
            self.pass();
        }
        tracing::error!(
            panics = self.panics,
            "the compute thread panicked too often and ends"
        );
        for job in std::mem::take(&mut self.jobs) {
            let ended = Error::Internal("the compute thread has ended".into());
            job.end(&self.load, Some(Err(ended)));
        }
    }

    fn take(&mut self, message: Message<T>) {
        match message {
            Message::Job(job) => self.jobs.push(job),
            Message::Task(task) => {
                // A panic has dropped the task's reply, which its caller reads as an internal error. Tasks share nothing that they
                // change, so nothing is left half done.
                match catch_unwind(AssertUnwindSafe(|| self.pool.install(task))) {
                    Ok(()) => self.panics = 0,
                    Err(_) => {
                        self.panics += 1;
                        tracing::error!("a task panicked on the compute thread");
                    }
                }
            }
        }
    }

    /// Ends the jobs that nobody waits for, and those whose time is up.
    fn drop_abandoned(&mut self) {
        let now = Instant::now();
        for job in std::mem::take(&mut self.jobs) {
            if job.reply.is_closed() {
                tracing::debug!(parent: &job.span, "the caller has gone");
                job.end(&self.load, None);
            } else if job.deadline.is_some_and(|at| now >= at) {
                job.end(&self.load, Some(Err(Error::Deadline)));
            } else if job.lengths.is_empty() {
                job.end(&self.load, Some(Ok(())));
            } else {
                self.jobs.push(job);
            }
        }
    }

    /// One pass over items of as many jobs as fit.
    fn pass(&mut self) {
        let left: Vec<&[usize]> = self
            .jobs
            .iter()
            .map(|job| &job.lengths[job.logits.len()..])
            .collect();
        let counts = share(&left, self.batch_tokens);
        let taking: Vec<usize> = (0..counts.len()).filter(|&job| counts[job] > 0).collect();
        let begun = Instant::now();
        for &job in &taking {
            self.jobs[job].begun.get_or_insert(begun);
        }
        if taking.is_empty() {
            return;
        }
        let alone = |&job| self.forward(&[job], &counts).map(|mut all| all.remove(0));
        // Nothing stands for a panic.
        let results: Vec<Option<_>> = match self.forward(&taking, &counts) {
            Some(results) if taking.len() == 1 || results.iter().all(Result::is_ok) => {
                results.into_iter().map(Some).collect()
            }
            // Someone's items made the pass fail: each job alone, and only that one fails.
            _ if taking.len() > 1 => taking.iter().map(alone).collect(),
            _ => vec![None],
        };
        for result in &results {
            self.panics = result.as_ref().map_or(self.panics + 1, |_| 0);
        }
        let mut results: Vec<_> = results
            .into_iter()
            .map(|result| result.unwrap_or_else(|| Err(panicked())))
            .collect();
        let tokens = |job: &Job<T>, count| -> usize {
            let done = job.logits.len();
            job.lengths[done..done + count].iter().sum()
        };
        let scored: usize = taking
            .iter()
            .map(|&job| tokens(&self.jobs[job], counts[job]))
            .sum();
        if results.iter().all(Result::is_ok) {
            self.load.note(scored, begun.elapsed());
        }
        // From the last, so that a job that ends does not move those before it.
        for &index in taking.iter().rev() {
            let job = &mut self.jobs[index];
            match results.pop().unwrap_or_else(|| Err(panicked())) {
                Ok(logits) => {
                    let tokens = tokens(job, counts[index]);
                    self.load.done(job.number, tokens);
                    job.logits.extend(logits);
                    if job.logits.len() == job.items.len() {
                        self.jobs.remove(index).end(&self.load, Some(Ok(())));
                    }
                }
                Err(error) => self.jobs.remove(index).end(&self.load, Some(Err(error))),
            }
        }
    }

    /// The next items of these jobs through the model: a result for each job, or nothing where it panicked.
    fn forward(&self, jobs: &[usize], counts: &[usize]) -> Option<Vec<Result<Vec<f32>, Error>>> {
        let jobs: Vec<(&Job<T>, usize)> = jobs
            .iter()
            .map(|&job| (&self.jobs[job], counts[job]))
            .collect();
        let items: Vec<&T> = jobs
            .iter()
            .flat_map(|(job, count)| &job.items[job.logits.len()..][..*count])
            .collect();
        let (oldest, _) = jobs.first()?;
        let tokens: usize = items.iter().map(|item| item.tokens()).sum();
        let span = tracing::debug_span!(
            parent: &oldest.span, "forward", sequences = items.len(), tokens, requests = jobs.len()
        );
        for (job, _) in &jobs[1..] {
            span.follows_from(&job.span);
        }
        let forward = &oldest.forward;
        let compute = || span.in_scope(|| self.pool.install(|| forward(&items)));
        self.load.passes.fetch_add(1, Ordering::Relaxed);
        let logits = catch_unwind(AssertUnwindSafe(compute)).ok()?;
        let tokens = u64::try_from(tokens).unwrap_or(u64::MAX);
        self.load.computed.fetch_add(tokens, Ordering::Relaxed);
        Some(match logits {
            Ok(logits) if logits.len() == items.len() => {
                let mut logits = logits.into_iter();
                let part = |(_, count): &(_, usize)| Ok(logits.by_ref().take(*count).collect());
                jobs.iter().map(part).collect()
            }
            Ok(logits) => {
                let (got, wanted) = (logits.len(), items.len());
                let error = Error::Internal(format!("{got} scores for {wanted} sequences"));
                jobs.iter().map(|_| Err(error.clone())).collect()
            }
            Err(error) => jobs.iter().map(|_| Err(error.clone())).collect(),
        })
    }
}

fn panicked() -> Error {
    Error::Internal("the computation panicked".into())
}

impl<T> Job<T> {
    /// Answers, where there is anything to say, and gives back its permit and what it would still have computed.
    fn end(self, load: &LoadMeter, outcome: Option<Result<(), Error>>) {
        load.pending().remove(&self.number);
        let begun = self.begun.unwrap_or_else(Instant::now);
        let done = Done {
            logits: self.logits,
            queued: begun.saturating_duration_since(self.submitted),
            computed: begun.elapsed(),
        };
        // Before the answer: whoever has it may look at once whether there is a permit again, or send the request's spans away.
        drop((self.permit, self.span));
        if let Some(outcome) = outcome {
            // The caller may have gone in the meantime; its answer then has no reader.
            let _ = self.reply.send(outcome.map(|()| done));
        }
    }
}

/// Counts a request as unfinished until it is dropped.
pub struct Permit(Arc<LoadMeter>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.unfinished.fetch_sub(1, Ordering::Release);
    }
}

impl LoadMeter {
    fn pending(&self) -> MutexGuard<'_, BTreeMap<u64, usize>> {
        // Each change of the map is whole, whatever its caller does afterwards.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn done(&self, job: u64, tokens: usize) {
        if let Some(left) = self.pending().get_mut(&job) {
            *left = left.saturating_sub(tokens);
        }
    }

    fn note(&self, tokens: usize, elapsed: Duration) {
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

    fn tokens_per_second(&self) -> Option<f64> {
        let (tokens, seconds) = unpack(self.speed.load(Ordering::Relaxed));
        (seconds > 0.0).then(|| f64::from(tokens) / f64::from(seconds))
    }

    /// When the queue should have emptied, between one second and a minute.
    fn retry_after(&self) -> Duration {
        let tokens = self.pending().values().sum::<usize>() as f64;
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
                    let best = f64::from(f32::from_bits(load.best.load(Ordering::Relaxed)));
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
            for (number, (tokens, passes)) in jobs.iter().enumerate() {
                let number = number as u64;
                load.pending().insert(number, *tokens);
                passes.iter().for_each(|&done| load.done(number, done));
                left += tokens.saturating_sub(passes.iter().sum());
            }
            prop_assert_eq!(load.pending().values().sum::<usize>(), left);
            // One that is unknown has ended, and changes nothing.
            load.done(99, 7);
            prop_assert_eq!(load.pending().len(), jobs.len());
        }
    }
}
