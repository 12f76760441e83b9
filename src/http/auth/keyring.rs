//! The keys as they are now. Those of a file are read again when it has changed, while requests are answered.
//!
//! Requests drive it, no timer: a function that was frozen looks at the file before it lets its next caller in. At most one
//! request a second looks, and the others go on with the keys that there are.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::keys::Keys;
use super::limits::{KeyLimits, Meter};
use crate::telemetry::Metrics;

/// Between two looks at the file, and for one of them.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const LOOK_TIME: Duration = Duration::from_secs(1);
/// File systems keep times in steps: a file that changed so lately may change again without another time.
const STEP: Duration = Duration::from_secs(2);
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Of a file that is being written.
const READS: usize = 3;

/// Who is let in, and how much each may ask. Clones are the same one.
#[derive(Clone, Default)]
pub struct Keyring(Arc<Ring>);

#[derive(Default)]
struct Ring {
    now: RwLock<Arc<Keys>>,
    file: Option<KeyFile>,
    meter: Meter,
}

struct KeyFile {
    path: PathBuf,
    /// When to look next, in milliseconds since 1970.
    look_at: AtomicU64,
    seen: Mutex<Seen>,
}

/// What the last look saw.
#[derive(Default)]
struct Seen {
    stamp: Option<Stamp>,
    /// Why the file's keys do not hold.
    problem: Option<String>,
}

/// By what a changed file is known.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Stamp {
    file: (u64, u64),
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    /// The file may change again without another stamp.
    fresh: bool,
}

/// Why the server does not start with a file of keys.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct BadKeyFile {
    path: PathBuf,
    problem: String,
}

impl From<Keys> for Keyring {
    fn from(keys: Keys) -> Self {
        Self::new(keys, KeyLimits::default())
    }
}

impl Keyring {
    /// Keys that stay.
    pub fn new(keys: Keys, limits: KeyLimits) -> Self {
        Self(Arc::new(Ring {
            now: RwLock::new(Arc::new(keys)),
            file: None,
            meter: Meter::new(limits),
        }))
    }

    /// The keys of a file, for as long as it does not change.
    pub fn of_file(path: &Path, limits: KeyLimits) -> Result<Self, BadKeyFile> {
        let (stamp, keys) = read(path).map_err(|problem| BadKeyFile {
            path: path.to_owned(),
            problem,
        })?;
        limits.tell_unknown(&keys);
        let file = KeyFile {
            path: path.to_owned(),
            look_at: AtomicU64::new(0),
            seen: Mutex::new(Seen {
                stamp: Some(stamp),
                problem: None,
            }),
        };
        Ok(Self(Arc::new(Ring {
            now: RwLock::new(Arc::new(keys)),
            file: Some(file),
            meter: Meter::new(limits),
        })))
    }

    /// Whether everyone is let in. A file always has a key.
    pub fn is_empty(&self) -> bool {
        self.keys().is_empty()
    }

    pub(super) fn meter(&self) -> &Meter {
        &self.0.meter
    }

    fn keys(&self) -> Arc<Keys> {
        let now = self.0.now.read().unwrap_or_else(PoisonError::into_inner);
        now.clone()
    }

    /// The keys that hold now.
    pub(super) async fn current(&self, metrics: &Metrics) -> Arc<Keys> {
        if let Some(file) = &self.0.file
            && file.is_due(SystemTime::now())
        {
            let (ring, metrics) = (self.clone(), metrics.clone());
            let look = tokio::task::spawn_blocking(move || ring.look(&metrics));
            // A file system that hangs holds up one request, and for no longer than this. The next look waits for the one that hangs.
            let _ = tokio::time::timeout(LOOK_TIME, look).await;
        }
        self.keys()
    }

    /// Takes up what the file has now, where it is another than before. Keys that cannot be read leave the earlier ones in place.
    fn look(&self, metrics: &Metrics) {
        let Some(file) = &self.0.file else { return };
        // The look before holds it if it hangs.
        let Ok(mut seen) = file.seen.try_lock() else {
            return;
        };
        let path = &file.path;
        if let (Some(known), Ok(stamp)) = (seen.stamp, Stamp::of(path))
            && known == stamp
            && !known.fresh
        {
            return;
        }
        match read(path) {
            Ok((stamp, keys)) => {
                seen.stamp = Some(stamp);
                let mended = seen.problem.take().is_some();
                metrics.key_file_broken(false);
                if keys != *self.keys() {
                    tracing::info!(
                        keys = keys.len(),
                        "the keys of API_KEYS_FILE were read again"
                    );
                    self.0.meter.limits().tell_unknown(&keys);
                    let mut now = self.0.now.write().unwrap_or_else(PoisonError::into_inner);
                    *now = Arc::new(keys);
                    metrics.key_file_read();
                } else if mended {
                    tracing::info!("API_KEYS_FILE has its keys again");
                }
            }
            Err(problem) => {
                seen.stamp = None;
                metrics.key_file_broken(true);
                if seen.problem.as_ref() != Some(&problem) {
                    tracing::error!(
                        error = problem,
                        "API_KEYS_FILE cannot be used: its earlier keys hold"
                    );
                    seen.problem = Some(problem);
                }
            }
        }
    }
}

impl KeyFile {
    /// Whether it is time to look, which is true for one caller alone. A clock that was set back makes it so, too.
    fn is_due(&self, now: SystemTime) -> bool {
        let now = millis(now.duration_since(UNIX_EPOCH).unwrap_or_default());
        let (at, next) = (
            self.look_at.load(Ordering::Relaxed),
            now + millis(LOOK_EVERY),
        );
        (now >= at || next < at)
            && self
                .look_at
                .compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX / 2)
}

impl Stamp {
    fn of(path: &Path) -> std::io::Result<Self> {
        let meta = std::fs::metadata(path)?;
        let long_ago = |time: SystemTime| time.elapsed().is_ok_and(|age| age > STEP);
        let modified = meta.modified()?;
        Ok(Self {
            file: (meta.dev(), meta.ino()),
            bytes: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
            fresh: !long_ago(modified),
        })
    }

    fn is_of_same(&self, other: &Self) -> bool {
        let fresh = self.fresh;
        *self == Self { fresh, ..*other }
    }
}

/// The keys of a file: one a line or several with commas between, `#` before what is no key.
fn read(path: &Path) -> Result<(Stamp, Keys), String> {
    let failed = |error: std::io::Error| format!("it cannot be read: {error}");
    for _ in 0..READS {
        let stamp = Stamp::of(path).map_err(failed)?;
        let mut text = String::new();
        File::open(path)
            .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text))
            .map_err(failed)?;
        if text.len() as u64 > MAX_FILE_BYTES {
            return Err(format!("it exceeds the limit of {MAX_FILE_BYTES} bytes"));
        }
        if Stamp::of(path).map_err(failed)?.is_of_same(&stamp) {
            return Ok((stamp, parse(&text)?));
        }
    }
    Err("it changes while it is read".into())
}

fn parse(text: &str) -> Result<Keys, String> {
    let mut keys = Vec::new();
    let mut lines = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        // A comma at a line's end separates as the line's end does.
        for key in line.strip_suffix(',').unwrap_or(line).split(',') {
            keys.push(key.trim());
            lines.push(number);
        }
    }
    if keys.is_empty() {
        return Err("it has no key".into());
    }
    Keys::parse(&keys).map_err(|bad| {
        let line: usize = lines[bad.place - 1];
        format!("line {line}: a key {}", bad.problem)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_keys_by_lines_and_commas() {
        let hash = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
        for (text, keys) in [
            ("first\n", vec!["first"]),
            ("first,second", vec!["first", "second"]),
            (
                "# who may call\r\n\r\n first , second,\r\nthird",
                vec!["first", "second", "third"],
            ),
        ] {
            assert_eq!(parse(text), Ok(Keys::parse(&keys).expect("keys")), "{text}");
        }
        let named = parse(&format!("mobile=sha256:{hash}\n")).expect("a key");
        assert!(named.has_name("mobile"));
        for (text, problem) in [
            ("", "it has no key"),
            ("\n# none\n", "it has no key"),
            ("first\n\nsecond,sha256:12\n", "line 3: a key has sha256:"),
            ("first\n,second", "line 2: a key is empty"),
            ("mobile=plain:", "line 1: a key is empty"),
        ] {
            let said = parse(text).expect_err(text);
            assert!(said.starts_with(problem), "{said}");
            assert!(
                !said.contains("first") && !said.contains("mobile"),
                "{said}"
            );
        }
    }

    #[test]
    fn one_request_a_second_looks_whatever_the_clock_does() {
        let file = KeyFile {
            path: PathBuf::new(),
            look_at: AtomicU64::new(0),
            seen: Mutex::default(),
        };
        let at = |ms| UNIX_EPOCH + Duration::from_millis(ms);
        for (ms, due) in [
            (50_000, true),
            (50_000, false),
            (50_999, false),
            (51_000, true),
            (51_001, false),
            // Set back.
            (10_000, true),
            (10_500, false),
            (11_000, true),
        ] {
            assert_eq!(file.is_due(at(ms)), due, "{ms}");
        }
    }

    #[test]
    fn a_changed_file_is_taken_up_and_a_broken_one_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys");
        std::fs::write(&path, "old").expect("written");
        let metrics = Metrics::new();
        let ring = Keyring::of_file(&path, KeyLimits::default()).expect("keys");
        let has = |key: &str| ring.keys().find(key.as_bytes()).is_some();
        let broken = || {
            let text = metrics.render(&crate::telemetry::Gauges::default());
            text.contains("reranker_key_file_broken 1\n")
        };
        assert!(has("old") && !broken());
        // Of the same length, in the same moment.
        for (text, key, is_broken) in [
            (Some("new"), "new", false),
            (Some("old"), "old", false),
            (Some(""), "old", true),
            (Some("sha256:12"), "old", true),
            (None, "old", true),
            (Some("new"), "new", false),
        ] {
            match text {
                Some(text) => std::fs::write(&path, text).expect("written"),
                None => std::fs::remove_file(&path).expect("removed"),
            }
            ring.look(&metrics);
            assert!(has(key), "{text:?}");
            assert!(!has(if key == "old" { "new" } else { "old" }), "{text:?}");
            assert_eq!(broken(), is_broken, "{text:?}");
        }
        let text = metrics.render(&crate::telemetry::Gauges::default());
        assert!(text.contains("reranker_key_file_reads_total 3\n"), "{text}");
    }
}
