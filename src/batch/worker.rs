//! The one thread that computes, and the jobs that it has.
//!
//! The items of several jobs share a pass, as [`share`] decides. A pass that panics harms no job
//! but its own; a job whose caller has gone, or whose time is up, is dropped between passes. After
//! [`PANICS`] panics in a row the thread fails what it has, and ends.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use reranker_domain::Error;
use tokio::sync::{oneshot, watch};

use super::compute::{Done, Forward, Item};
use super::load::{LoadMeter, Permit};
use super::share;

pub(super) enum Message<T> {
    Task(Box<dyn FnOnce() + Send>),
    Job(Job<T>),
}

/// Items that one caller waits for.
pub(super) struct Job<T> {
    /// Its own, by [`LoadMeter::submitted`].
    pub(super) number: u64,
    pub(super) items: Vec<T>,
    pub(super) lengths: Vec<usize>,
    /// Scores so far; the next item is the one at its length.
    pub(super) logits: Vec<f32>,
    pub(super) forward: Forward<T>,
    pub(super) deadline: Option<Instant>,
    pub(super) submitted: Instant,
    pub(super) begun: Option<Instant>,
    pub(super) reply: oneshot::Sender<Result<Done, Error>>,
    pub(super) span: tracing::Span,
    pub(super) permit: Permit,
}

/// After so many consecutive panics the cause is probably damaged memory or weights, and not a bad
/// request.
const PANICS: usize = 2;

/// The compute thread's own state.
pub(super) struct Worker<T> {
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
    pub(super) fn new(
        messages: Receiver<Message<T>>,
        pool: Arc<rayon::ThreadPool>,
        load: Arc<LoadMeter>,
        batch_tokens: usize,
        alive: watch::Receiver<()>,
    ) -> Self {
        Self {
            messages,
            pool,
            load,
            batch_tokens,
            jobs: Vec::new(),
            panics: 0,
            _alive: alive,
        }
    }

    /// Works until nobody is left who could send anything, or until it has panicked too often.
    pub(super) fn run(mut self) {
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
                // A panic has dropped the task's reply, which its caller reads as an internal
                // error. Tasks share nothing that they change, so nothing is left half done.
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
                    self.load.scored(job.number, tokens);
                    job.logits.extend(logits);
                    if job.logits.len() == job.items.len() {
                        self.jobs.remove(index).end(&self.load, Some(Ok(())));
                    }
                }
                Err(error) => self.jobs.remove(index).end(&self.load, Some(Err(error))),
            }
        }
    }

    /// The next items of these jobs through the model: a result for each job, or nothing where it
    /// panicked.
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
        self.load.pass();
        let logits = catch_unwind(AssertUnwindSafe(compute)).ok()?;
        self.load.passed(tokens);
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
    /// Answers, where there is anything to say, and gives back its permit and what it would still
    /// have computed.
    fn end(self, load: &LoadMeter, outcome: Option<Result<(), Error>>) {
        load.ended(self.number);
        let begun = self.begun.unwrap_or_else(Instant::now);
        let done = Done {
            logits: self.logits,
            queued: begun.saturating_duration_since(self.submitted),
            computed: begun.elapsed(),
        };
        // Before the answer: whoever has it may look at once whether there is a permit again, or
        // send the request's spans away.
        drop((self.permit, self.span));
        if let Some(outcome) = outcome {
            // The caller may have gone in the meantime; its answer then has no reader.
            let _ = self.reply.send(outcome.map(|()| done));
        }
    }
}
