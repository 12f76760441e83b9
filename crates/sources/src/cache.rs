//! The rerankers in Hugging Face's local cache: which there are, how large, when each was last
//! served, and who holds one.
//!
//! A lock of the operating system says that a model is used, brought or removed: it ends with its
//! process, however that ends. It lies where Hugging Face's own tools keep theirs. What a serve by
//! name brought is recorded beside it, as a pin.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::locate::{is_hub_id, repository_folder};
use crate::pins::{Pin, PinError};
use reranker_engine::weights::is_plain;

const MODELS: &str = "models--";

/// A model of the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedModel {
    /// `owner/name`.
    pub name: String,
    /// Where the cache keeps it.
    pub folder: PathBuf,
    /// The folder of each commit that is there, by the commit.
    pub snapshots: Vec<(String, PathBuf)>,
    /// Whether a download is unfinished.
    pub unfinished: bool,
    /// Time of its last use by this program, if any.
    pub last_used: Option<SystemTime>,
}

/// The models of the hub that the cache has something of, by name.
pub fn cached_models(cache: &Path) -> io::Result<Vec<CachedModel>> {
    let mut models = Vec::new();
    for folder in entries(cache)? {
        let file_name = folder.file_name().unwrap_or_default().to_string_lossy();
        let Some(name) = file_name.strip_prefix(MODELS) else {
            continue;
        };
        let name = name.replacen("--", "/", 1);
        if !folder.is_dir() || !(is_hub_id(&name) || is_plain(&name)) {
            continue;
        }
        let snapshots = entries(&folder.join("snapshots"))?
            .into_iter()
            .filter_map(|path| {
                let commit = path.file_name()?.to_str()?.to_owned();
                (path.is_dir() && !commit.starts_with('.')).then_some((commit, path))
            });
        let is_note = |path: &PathBuf| path.to_string_lossy().ends_with(".incomplete.ranges");
        models.push(CachedModel {
            last_used: last_used(&lock_path(cache, &name, Holding::Used)),
            snapshots: snapshots.collect(),
            unfinished: entries(&folder.join("blobs"))?.iter().any(is_note),
            name,
            folder,
        });
    }
    models.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(models)
}

/// A lock that was never noted as used is empty.
fn last_used(lock: &Path) -> Option<SystemTime> {
    let lock = fs::metadata(lock).ok()?;
    lock.modified().ok().filter(|_| lock.len() > 0)
}

/// Paths in a folder, in order; none if the folder does not exist.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let listed = match fs::read_dir(folder) {
        Ok(listed) => listed,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut paths = listed
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// The bytes of all files below a folder, each once, links not followed.
pub fn bytes_below(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for path in entries(folder)? {
        let metadata = fs::symlink_metadata(&path)?;
        bytes += if metadata.is_dir() {
            bytes_below(&path)?
        } else if metadata.is_file() {
            metadata.len()
        } else {
            0
        };
    }
    Ok(bytes)
}

/// Records the pin of a downloaded model, for the next request of the same `revision`.
pub fn record(cache: &Path, pin: Pin, revision: Option<&str>) -> Result<(), PinError> {
    let path = record_path(cache, &pin.name, revision);
    pin.write(&path)
}

/// The pin that [`record`] wrote, if any.
pub fn recorded(cache: &Path, name: &str, revision: Option<&str>) -> Result<Option<Pin>, PinError> {
    let path = record_path(cache, name, revision.filter(|revision| is_plain(revision)));
    path.exists().then(|| Pin::read(&path, name)).transpose()
}

fn record_path(cache: &Path, name: &str, revision: Option<&str>) -> PathBuf {
    let file = match revision {
        Some(revision) => format!("reranker@{revision}.json"),
        None => "reranker.json".to_owned(),
    };
    repository_folder(cache, name).join(file)
}

/// A lock on a model of the cache; dropping it releases the lock.
#[derive(Debug)]
pub struct Hold(File);

/// Purpose of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holding {
    /// The model is served or downloaded, and may not be removed.
    Used,
    /// The model is downloaded, by one process at a time.
    Brought,
    /// The model is removed; nobody may use it meanwhile.
    Removed,
}

impl Hold {
    /// Holds the model for as long as the value lives. `None` if another process has a lock that
    /// excludes this one. Fails if the cache may not be written to.
    pub fn try_take(cache: &Path, name: &str, how: Holding) -> io::Result<Option<Self>> {
        let file = lock_file(cache, name, how)?;
        let taken = match how {
            Holding::Used => file.try_lock_shared(),
            Holding::Brought | Holding::Removed => file.try_lock(),
        };
        match taken {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// The same, once no other process is in the way.
    pub fn take(cache: &Path, name: &str, how: Holding) -> io::Result<Self> {
        let file = lock_file(cache, name, how)?;
        match how {
            Holding::Used => file.lock_shared()?,
            Holding::Brought | Holding::Removed => file.lock()?,
        }
        Ok(Self(file))
    }

    /// Notes that the model is used now.
    pub fn used(&self) -> io::Result<()> {
        self.0.set_len(1)?;
        self.0.set_modified(SystemTime::now())
    }
}

fn lock_path(cache: &Path, name: &str, how: Holding) -> PathBuf {
    let folder = repository_folder(&cache.join(".locks"), name);
    folder.join(match how {
        Holding::Used | Holding::Removed => "reranker.lock",
        Holding::Brought => "reranker.brought.lock",
    })
}

fn lock_file(cache: &Path, name: &str, how: Holding) -> io::Result<File> {
    let path = lock_path(cache, name, how);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
}

/// Removes all of a model. The caller holds it by [`Holding::Removed`].
pub fn remove(model: &CachedModel, hold: &Hold) -> io::Result<u64> {
    let bytes = bytes_below(&model.folder)?;
    // The snapshots first: without them nothing finds what is left, should this be interrupted.
    let snapshots = model.folder.join("snapshots");
    if snapshots.is_dir() {
        fs::remove_dir_all(&snapshots)?;
    }
    fs::remove_dir_all(&model.folder)?;
    hold.0.set_len(0)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_listed_with_their_commits_and_removed_whole() {
        let cache = tempfile::tempdir().expect("a folder");
        let root = cache.path();
        for folder in [
            "models--own--tiny/snapshots/abc",
            "models--own--tiny/snapshots/.abc.7",
            "models--own--tiny/blobs",
            "models--bare/snapshots",
            "datasets--own--data/snapshots/abc",
            ".locks",
        ] {
            fs::create_dir_all(root.join(folder)).expect("made");
        }
        let repository = root.join("models--own--tiny");
        fs::write(repository.join("blobs/1"), [0; 10]).expect("written");
        fs::write(repository.join("blobs/2.incomplete.ranges"), "0\n").expect("written");
        std::os::unix::fs::symlink("../../blobs/1", repository.join("snapshots/abc/model"))
            .expect("linked");
        let models = cached_models(root).expect("listed");
        let names: Vec<&str> = models.iter().map(|model| model.name.as_str()).collect();
        assert_eq!(names, ["bare", "own/tiny"]);
        let tiny = &models[1];
        assert_eq!(tiny.snapshots.len(), 1);
        assert_eq!(
            (tiny.snapshots[0].0.as_str(), tiny.unfinished),
            ("abc", true)
        );
        assert_eq!(tiny.last_used, None);
        let hold = Hold::try_take(root, "own/tiny", Holding::Removed)
            .expect("a lock")
            .expect("free");
        let last_used = || cached_models(root).expect("listed").pop()?.last_used;
        assert_eq!(last_used(), None);
        hold.used().expect("noted");
        assert!(last_used().is_some());
        assert_eq!(remove(tiny, &hold).expect("removed"), 12);
        assert!(!repository.exists());
        assert_eq!(cached_models(root).expect("listed").len(), 1);
        let none = cached_models(&root.join("none")).expect("an empty list");
        assert_eq!(none, []);
    }

    #[test]
    fn who_uses_a_model_keeps_others_from_changing_it() {
        let cache = tempfile::tempdir().expect("a folder");
        let try_take = |how| Hold::try_take(cache.path(), "own/tiny", how).expect("a lock");
        let first = try_take(Holding::Used).expect("free");
        let second = try_take(Holding::Used).expect("beside another");
        let brought = try_take(Holding::Brought).expect("beside those that use it");
        assert!(try_take(Holding::Removed).is_none() && try_take(Holding::Brought).is_none());
        drop((first, second, brought));
        let removed = try_take(Holding::Removed).expect("free");
        assert!(try_take(Holding::Used).is_none() && try_take(Holding::Removed).is_none());
        drop(removed);
        Hold::take(cache.path(), "own/tiny", Holding::Used).expect("free again");
    }
}
