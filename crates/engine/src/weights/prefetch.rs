//! Reading weights ahead: which bytes of which files, in the order in which a forward pass needs
//! them, and the threads that bring them into memory.
//!
//! Data in: the places of tensors, and an order of their names. Data out: pages that are in memory
//! and mapped before they are needed, and a report of how far that has come. Leaves out what has no
//! place in the order, such as tables of which a request touches a few rows. Nothing depends on it:
//! what has not been read ahead is read when it is touched.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Mapped, Weights};

/// What a reader takes at a time: large enough for the disk, small enough that the order of the
/// layers is kept.
const PIECE: usize = 4 << 20;
/// Readers where the disk is waited for: 16 MiB are asked for at any time, which storage behind a
/// network answers late but all at once.
const READERS: usize = 4;
/// Tensors this close to each other are read in one run.
const GAP: usize = 1 << 16;

/// Reading ahead that is under way or done. Goes on when dropped.
#[derive(Clone)]
pub struct Prefetch(Arc<Shared>);

/// How far reading ahead has come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct PrefetchReport {
    /// When it began.
    pub began: Instant,
    /// Until the end, or so far.
    pub time: Duration,
    /// Bytes that were read.
    pub bytes: u64,
    /// Bytes that were found in memory before anything had to be read.
    pub cached_bytes: u64,
    /// Bytes that a forward pass reads.
    pub planned_bytes: u64,
    /// Whether it has ended.
    pub done: bool,
}

impl PrefetchReport {
    /// 10⁶ bytes a second; 0 where nothing was read.
    pub(crate) fn mb_per_s(&self) -> f64 {
        if self.bytes == 0 {
            0.0
        } else {
            self.bytes as f64 / 1e6 / self.time.as_secs_f64().max(1e-9)
        }
    }
}

struct Shared {
    plan: Vec<Piece>,
    planned_bytes: u64,
    next: AtomicUsize,
    bytes: AtomicU64,
    cached_bytes: AtomicU64,
    /// Set by whoever first finds a piece that is not in memory.
    many: AtomicBool,
    began: Instant,
    progress: Mutex<Progress>,
    ended: Condvar,
}

struct Progress {
    readers: usize,
    /// How long it took, once the last reader has ended.
    time: Option<Duration>,
}

struct Piece {
    file: Arc<Mapped>,
    bytes: Range<usize>,
}

impl Weights {
    /// Memory that every forward pass reads, in the form in which it is computed. `order` has a
    /// place for each tensor that is read whole, by its name.
    pub fn working_bytes<O>(&self, order: impl Fn(&str) -> Option<O>) -> u64 {
        let packed = self.manifest().is_some();
        let read = self
            .tensors
            .iter()
            .filter(|(name, _)| order(name).is_some());
        read.map(|(_, tensor)| {
            // A folder's matrices are widened where they are no f32.
            let widened = 4 * tensor.shape.iter().product::<usize>();
            (if packed { tensor.len } else { widened }) as u64
        })
        .sum()
    }

    /// Begins to read every tensor that has a place in `order`, the least first.
    pub fn prefetch<O: Ord>(&self, order: impl Fn(&str) -> Option<O>) -> Prefetch {
        Prefetch::start(self.plan(order))
    }

    fn plan<O: Ord>(&self, order: impl Fn(&str) -> Option<O>) -> Vec<Piece> {
        let mut wanted: Vec<(O, &Arc<Mapped>, Range<usize>)> = self
            .tensors
            .iter()
            .filter_map(|(name, tensor)| {
                let need = order(name)?;
                Some((
                    need,
                    &tensor.file,
                    tensor.offset..tensor.offset + tensor.len,
                ))
            })
            .filter(|(_, _, bytes)| !bytes.is_empty())
            .collect();
        wanted.sort_by(
            |(need, file, bytes), (other_need, other_file, other_bytes)| {
                (need, file.path(), bytes.start).cmp(&(
                    other_need,
                    other_file.path(),
                    other_bytes.start,
                ))
            },
        );
        let mut runs: Vec<Piece> = Vec::new();
        for (_, file, bytes) in wanted {
            match runs.last_mut() {
                Some(run)
                    if Arc::ptr_eq(&run.file, file)
                        && (run.bytes.end..=run.bytes.end + GAP).contains(&bytes.start) =>
                {
                    run.bytes.end = bytes.end;
                }
                _ => runs.push(Piece {
                    file: Arc::clone(file),
                    bytes,
                }),
            }
        }
        let pieces = runs.into_iter().flat_map(|Piece { file, bytes }| {
            bytes.clone().step_by(PIECE).map(move |start| Piece {
                file: Arc::clone(&file),
                bytes: start..(start + PIECE).min(bytes.end),
            })
        });
        pieces.collect()
    }
}

impl Prefetch {
    /// No reading ahead, for callers that read the weights once and in order.
    pub fn none() -> Self {
        Self::start(Vec::new())
    }

    fn start(plan: Vec<Piece>) -> Self {
        let shared = Arc::new(Shared {
            planned_bytes: plan.iter().map(|piece| piece.bytes.len() as u64).sum(),
            plan,
            next: AtomicUsize::new(0),
            bytes: AtomicU64::new(0),
            cached_bytes: AtomicU64::new(0),
            many: AtomicBool::new(false),
            began: Instant::now(),
            progress: Mutex::new(Progress {
                readers: 0,
                time: None,
            }),
            ended: Condvar::new(),
        });
        // Held for as long as the first reader is not, so that the end is seen even where no thread
        // can be started.
        let starting = Reader::enter(&shared);
        Reader::spawn(&shared);
        drop(starting);
        Self(shared)
    }

    /// How far it has come.
    pub(crate) fn report(&self) -> PrefetchReport {
        let shared = &self.0;
        let time = shared.lock().time;
        PrefetchReport {
            began: shared.began,
            time: time.unwrap_or_else(|| shared.began.elapsed()),
            bytes: shared.bytes.load(Ordering::Relaxed),
            cached_bytes: shared.cached_bytes.load(Ordering::Relaxed),
            planned_bytes: shared.planned_bytes,
            done: time.is_some(),
        }
    }

    /// Blocks until everything is in memory.
    pub fn wait(&self) {
        let mut progress = self.0.lock();
        while progress.time.is_none() {
            progress = self
                .0
                .ended
                .wait(progress)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts as reading until it is dropped; the last one to go notes the time.
struct Reader(Arc<Shared>);

impl Reader {
    fn enter(shared: &Arc<Shared>) -> Self {
        shared.lock().readers += 1;
        Self(Arc::clone(shared))
    }

    /// Where the system gives no thread, there is one reader less.
    fn spawn(shared: &Arc<Shared>) {
        let reader = Self::enter(shared);
        let _ = std::thread::Builder::new()
            .name("prefetch".into())
            .spawn(move || reader.read());
    }

    /// Takes piece after piece. What is in memory already is passed over: mapping it ahead costs
    /// more than the few faults that it saves. From the first piece on that is not, everything is
    /// read, and others help.
    fn read(&self) {
        let shared = &self.0;
        while let Some(piece) = shared.plan.get(shared.next.fetch_add(1, Ordering::Relaxed)) {
            let len = piece.bytes.len() as u64;
            if !shared.many.load(Ordering::Relaxed) {
                if piece.file.is_in_memory(piece.bytes.clone()) {
                    shared.cached_bytes.fetch_add(len, Ordering::Relaxed);
                    continue;
                }
                if !shared.many.swap(true, Ordering::Relaxed) {
                    (1..READERS).for_each(|_| Self::spawn(shared));
                }
            }
            piece.file.populate(piece.bytes.clone());
            shared.bytes.fetch_add(len, Ordering::Relaxed);
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut progress = self.0.lock();
        progress.readers -= 1;
        if progress.readers == 0 {
            progress.time = Some(self.0.began.elapsed());
            self.0.ended.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::model::Need;
    use proptest::prelude::*;
    use rustix::fs::{Advice, fadvise};
    use safetensors::Dtype;
    use safetensors::tensor::{TensorView, serialize_to_file};

    /// A file with these tensors of so many bytes each, in the order of their names.
    fn weights(tensors: &[(&str, usize)]) -> (tempfile::TempDir, Weights) {
        let dir = tempfile::tempdir().expect("a folder");
        let zeros = vec![0; tensors.iter().map(|(_, len)| *len).max().unwrap_or(0)];
        let views = tensors.iter().map(|(name, len)| {
            let view = TensorView::new(Dtype::U8, vec![*len], &zeros[..*len]).expect("a tensor");
            ((*name).to_owned(), view)
        });
        serialize_to_file(views, None, &dir.path().join("model.safetensors")).expect("written");
        let weights = Weights::open(dir.path()).expect("opens");
        (dir, weights)
    }

    const PART: usize = 5 << 20;

    /// As a model of twelve layers has them, in the order of a file.
    fn model() -> (tempfile::TempDir, Weights) {
        let names: Vec<String> = [0, 1, 10, 11, 2]
            .iter()
            .flat_map(|layer| {
                [
                    "attention.output.dense",
                    "attention.self.query",
                    "output.dense",
                ]
                .map(|part| format!("roberta.encoder.layer.{layer}.{part}.weight"))
            })
            .chain([
                "classifier.dense.weight".to_owned(),
                "roberta.embeddings.LayerNorm.weight".to_owned(),
                "roberta.embeddings.word_embeddings.weight".to_owned(),
                "roberta.embeddings.word_embeddings.weight.scale".to_owned(),
            ])
            .collect();
        let tensors: Vec<(&str, usize)> = names.iter().map(|name| (&**name, PART)).collect();
        weights(&tensors)
    }

    fn range(weights: &Weights, name: &str) -> Range<usize> {
        let tensor = &weights.tensors[name];
        tensor.offset..tensor.offset + tensor.len
    }

    #[test]
    fn layers_are_read_in_their_order_and_embedding_tables_not_at_all() {
        let (_dir, weights) = model();
        let plan = weights.plan(Need::of);
        let place = |name: &str| {
            let range = range(&weights, name);
            let holds = |piece: &Piece| piece.bytes.contains(&range.start);
            plan.iter().position(holds)
        };
        let order: Vec<Option<usize>> = [
            "roberta.embeddings.LayerNorm.weight",
            "roberta.encoder.layer.0.attention.self.query.weight",
            "roberta.encoder.layer.0.attention.output.dense.weight",
            "roberta.encoder.layer.0.output.dense.weight",
            "roberta.encoder.layer.1.attention.self.query.weight",
            "roberta.encoder.layer.2.output.dense.weight",
            "roberta.encoder.layer.10.attention.self.query.weight",
            "roberta.encoder.layer.11.output.dense.weight",
            "classifier.dense.weight",
        ]
        .into_iter()
        .map(place)
        .collect();
        assert_eq!(order[0], Some(0));
        assert!(order.is_sorted_by(|a, b| a < b), "{order:?}");
        for table in ["", ".scale"] {
            let name = format!("roberta.embeddings.word_embeddings.weight{table}");
            assert_eq!(place(&name), None, "{name}");
        }
    }

    #[test]
    fn every_byte_but_the_tables_is_planned_once_in_pieces() {
        let (_dir, weights) = model();
        let plan = weights.plan(Need::of);
        let mut ranges: Vec<Range<usize>> = plan.iter().map(|piece| piece.bytes.clone()).collect();
        assert!(
            ranges
                .iter()
                .all(|range| (1..=PIECE).contains(&range.len()))
        );
        ranges.sort_by_key(|range| range.start);
        assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start));
        let planned: usize = ranges.iter().map(Range::len).sum();
        assert_eq!(planned, (weights.tensors.len() - 2) * PART);
    }

    #[test]
    fn tensors_of_any_name_are_read_and_a_model_of_none_ends_at_once() {
        for (tensors, bytes) in [
            (&[("alone", 5000), ("encoder.layer.x.weight", 7)][..], 5007),
            (&[("word_embeddings.weight", 8)], 0),
            (&[], 0),
        ] {
            let (_dir, weights) = weights(tensors);
            let prefetch = weights.prefetch(Need::of);
            prefetch.wait();
            let report = prefetch.report();
            assert!(report.done);
            assert_eq!(report.planned_bytes, bytes);
            assert_eq!(report.bytes + report.cached_bytes, bytes);
            assert_eq!(prefetch.report(), report, "the time stands still");
        }
    }

    #[test]
    fn what_is_not_in_memory_is_read_and_what_is_there_is_passed_over() {
        let (_dir, weights) = model();
        let file = Arc::clone(&weights.tensors["classifier.dense.weight"].file);
        let read_ahead = || {
            let prefetch = weights.prefetch(Need::of);
            prefetch.wait();
            prefetch.report()
        };
        read_ahead();
        let again = read_ahead();
        assert_eq!((again.bytes, again.cached_bytes), (0, again.planned_bytes));
        assert_eq!(again.mb_per_s(), 0.0);
        let on_disk = File::open(file.path()).expect("opens");
        on_disk.sync_all().expect("written");
        // Pages that are mapped are not dropped, so this map has to go first, and the readers' hold
        // on it before.
        while Arc::strong_count(&file) > weights.tensors.len() + 1 {
            std::thread::yield_now();
        }
        let path = file.path().parent().expect("a folder").to_owned();
        drop((file, weights));
        fadvise(&on_disk, 0, None, Advice::DontNeed).expect("dropped");
        let weights = Weights::open(&path).expect("opens");
        let layer = range(&weights, "roberta.encoder.layer.2.output.dense.weight");
        let file = Arc::clone(&weights.tensors["classifier.dense.weight"].file);
        // A file system in memory has nowhere to drop them to.
        let kept = file.is_in_memory(layer.clone());
        let prefetch = weights.prefetch(Need::of);
        prefetch.wait();
        let report = prefetch.report();
        println!("{report:?}");
        assert_eq!(report.bytes + report.cached_bytes, report.planned_bytes);
        assert_eq!(report.bytes == 0, kept);
        assert_eq!(report.mb_per_s() > 0.0, !kept);
        assert!(file.is_in_memory(layer));
    }

    #[test]
    fn populating_maps_the_pages() {
        let (_dir, weights) = model();
        let file = Arc::clone(&weights.tensors["classifier.dense.weight"].file);
        // Threads of other tests fault too, so only this mapping is asked.
        let mapped = || {
            let maps = std::fs::read_to_string("/proc/self/smaps").expect("smaps");
            let path = file.path().to_string_lossy().into_owned();
            let lines = maps.lines().skip_while(|line| !line.ends_with(&path));
            let kib: usize = lines
                .take_while(|line| !line.starts_with("VmFlags"))
                .find_map(|line| line.strip_prefix("Rss:"))
                .and_then(|rest| rest.split_whitespace().next())
                .and_then(|kib| kib.parse().ok())
                .expect("its Rss");
            kib << 10
        };
        let before = mapped();
        assert!(before < PART, "{before} bytes were mapped before");
        file.populate(0..5 * PART);
        assert!(mapped() >= 5 * PART, "{} bytes are mapped", mapped());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_is_wanted_is_read_once_and_in_the_order_of_need(
            tensors in prop::collection::btree_map((0usize..14, 0usize..6), 1usize..200_000, 1..40),
        ) {
            const PARTS: [&str; 4] = ["attention.self.query", "attention.output.dense", "intermediate.dense", "output.dense"];
            let named: Vec<(String, usize)> = tensors
                .iter()
                .map(|(&(layer, part), &len)| {
                    let name = match part {
                        4 => format!("bert.embeddings.x{layer}_embeddings.weight"),
                        5 => format!("classifier.{layer}.weight"),
                        part => format!("bert.encoder.layer.{layer}.{}.weight", PARTS[part]),
                    };
                    (name, len)
                })
                .collect();
            let borrowed: Vec<(&str, usize)> = named.iter().map(|(name, len)| (&**name, *len)).collect();
            let (_dir, weights) = weights(&borrowed);
            let plan = weights.plan(Need::of);
            prop_assert!(plan.iter().all(|piece| !piece.bytes.is_empty() && piece.bytes.len() <= PIECE));
            // Of each wanted tensor the first and the last piece that has bytes of it, and when it
            // is needed.
            let mut read: Vec<(Need, usize, usize)> = Vec::new();
            for (name, _) in &named {
                let Some(need) = Need::of(name) else { continue };
                let wanted = range(&weights, name);
                let overlaps = |piece: &Piece| piece.bytes.start < wanted.end && wanted.start < piece.bytes.end;
                let mut pieces: Vec<usize> = (0..plan.len()).filter(|&at| overlaps(&plan[at])).collect();
                prop_assert!(!pieces.is_empty(), "{} is not read", name);
                read.push((need, pieces[0], pieces[pieces.len() - 1]));
                pieces.sort_by_key(|&at| plan[at].bytes.start);
                let mut upto = wanted.start;
                for at in pieces {
                    prop_assert!(plan[at].bytes.start <= upto, "a hole in {}", name);
                    upto = upto.max(plan[at].bytes.end);
                }
                prop_assert!(upto >= wanted.end, "{} is not read to its end", name);
            }
            // Runs take small gaps with them, so that a tensor may be read twice, but never only
            // after one that is needed later.
            for &(need, first, _) in &read {
                for &(other, _, last) in &read {
                    prop_assert!(need >= other || first <= last, "{:?} after {:?}", need, other);
                }
            }
        }
    }
}
