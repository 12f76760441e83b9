//! A large file that comes in ranges over several connections, straight to where they belong in it.
//!
//! What has come is noted beside the unfinished file, so that a later run goes on from there.
//! Refuses to begin where the disk has no space for all of it. What a range is asked from, and
//! how often, is the business of whoever downloads.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

/// Bytes of one ranged request.
pub(crate) const RANGE: u64 = 16 << 20;

/// Why downloaded bytes could not be stored.
#[allow(missing_docs, reason = "each variant's message says it")]
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error("{}: {reason}", path.display())]
    Io { path: PathBuf, reason: io::Error },
    #[error(
        "{}: the disk is too small: {needed} bytes are needed, {free} are free: delete something, or name another folder",
        path.display()
    )]
    Full {
        path: PathBuf,
        needed: u64,
        free: u64,
    },
}

impl DiskError {
    /// For `map_err`: what failed, with its path.
    pub fn at(path: &Path) -> impl Fn(io::Error) -> Self {
        let path = path.to_owned();
        move |reason| Self::Io {
            path: path.clone(),
            reason,
        }
    }
}

/// Progress of a download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that are there, those of earlier runs included.
    pub done: u64,
    /// Bytes of all files.
    pub total: u64,
}

/// Counts for several connections.
pub(crate) struct DownloadCounter<'a> {
    done: AtomicU64,
    downloaded: AtomicU64,
    total: u64,
    report: &'a (dyn Fn(Progress) + Sync),
}

impl<'a> DownloadCounter<'a> {
    pub(crate) fn new(total: u64, report: &'a (dyn Fn(Progress) + Sync)) -> Self {
        Self {
            done: AtomicU64::new(0),
            downloaded: AtomicU64::new(0),
            total,
            report,
        }
    }

    /// Bytes that were there before.
    pub(crate) fn found(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        (self.report)(Progress {
            done,
            total: self.total,
        });
    }

    fn came(&self, bytes: u64) {
        self.downloaded.fetch_add(bytes, Ordering::Relaxed);
        self.found(bytes);
    }

    /// Bytes that came over the network.
    pub(crate) fn downloaded(&self) -> u64 {
        self.downloaded.load(Ordering::Relaxed)
    }
}

/// A file on its way, under the name that it has until it is whole.
pub(crate) struct PartialFile<'a> {
    file: File,
    path: PathBuf,
    notes: PathBuf,
    size: u64,
    /// Whether it has to outlive a loss of power, which takes waiting for the disk.
    durable: bool,
    counter: &'a DownloadCounter<'a>,
}

/// Where a range's bytes go, from its first that is still missing on.
pub(crate) struct RangeWriter<'a> {
    unfinished: &'a PartialFile<'a>,
    at: u64,
    end: u64,
}

impl RangeWriter<'_> {
    /// The first byte that is missing, and the one after the last.
    pub(crate) fn missing(&self) -> (u64, u64) {
        (self.at, self.end)
    }

    /// Writes the next bytes. Bytes beyond the range are not written, and the result is `false`.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<bool, DiskError> {
        if bytes.len() as u64 > self.end - self.at {
            return Ok(false);
        }
        let PartialFile {
            file,
            path,
            counter,
            ..
        } = self.unfinished;
        file.write_all_at(bytes, self.at)
            .map_err(|error| full_or(error, path, bytes.len() as u64))?;
        self.at += bytes.len() as u64;
        counter.came(bytes.len() as u64);
        Ok(true)
    }
}

impl<'a> PartialFile<'a> {
    /// Opens or makes the file and reserves its disk space. Its notes are beside it, under its name
    /// with `.ranges`.
    pub(crate) fn open(
        path: &Path,
        size: u64,
        durable: bool,
        counter: &'a DownloadCounter<'a>,
    ) -> Result<Self, DiskError> {
        let mut notes = path.as_os_str().to_owned();
        notes.push(".ranges");
        let notes = PathBuf::from(notes);
        if !path.exists() {
            // Left by a process that was killed between the file's new name and the notes' end:
            // they tell of another file.
            discard(&notes)?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(DiskError::at(path))?;
        if let Err(error) = reserve(&file, size) {
            let error = full_or(error, path, size);
            // A part of the space may have been reserved, and nobody else could use it.
            drop(file);
            discard(path)?;
            discard(&notes)?;
            return Err(error);
        }
        Ok(Self {
            file,
            path: path.to_owned(),
            notes,
            size,
            durable,
            counter,
        })
    }

    /// Gets what is missing, checks the whole and gives it its name `path`. `check` returns what is
    /// wrong with the content, and the file is then removed: another try would find nothing wrong
    /// with its length. A file that could not be checked stays.
    pub(crate) fn complete<E: From<DiskError> + Send>(
        self,
        connections: usize,
        get: &(dyn Fn(&mut RangeWriter) -> Result<(), E> + Sync),
        check: impl FnOnce(&Path) -> Result<Option<E>, E>,
        path: &Path,
    ) -> Result<(), E> {
        self.fill(connections, get)?;
        self.settle()?;
        if let Some(wrong) = check(&self.path)? {
            self.discard()?;
            return Err(wrong);
        }
        Ok(self.finish(path)?)
    }

    /// Gets every range that the notes do not have; `get` fills the writer, and may be asked from
    /// `connections` threads at a time.
    fn fill<E: From<DiskError> + Send>(
        &self,
        connections: usize,
        get: &(dyn Fn(&mut RangeWriter) -> Result<(), E> + Sync),
    ) -> Result<(), E> {
        // Of a file that fits into the memory of an address, so its number of ranges does too.
        #[allow(clippy::cast_possible_truncation)]
        let count = self.size.div_ceil(RANGE) as usize;
        let range = |number: usize| {
            let start = number as u64 * RANGE;
            (start, self.size.min(start + RANGE))
        };
        let done = self.noted()?;
        for &number in done.iter().filter(|&&number| number < count) {
            let (start, end) = range(number);
            self.counter.found(end - start);
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.notes)
            .map_err(DiskError::at(&self.notes))?;
        let log = Mutex::new(log);
        let missing: Vec<usize> = (0..count).filter(|number| !done.contains(number)).collect();
        let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let work = || -> Result<(), E> {
            while !failed.load(Ordering::Relaxed) {
                let Some(&number) = missing.get(next.fetch_add(1, Ordering::Relaxed)) else {
                    return Ok(());
                };
                let (at, end) = range(number);
                let mut writer = RangeWriter {
                    unfinished: self,
                    at,
                    end,
                };
                get(&mut writer)?;
                if self.durable {
                    // The bytes first: a note of what is not on the disk would be a lie after a
                    // crash.
                    self.file.sync_data().map_err(DiskError::at(&self.path))?;
                }
                let mut log = log
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
                // In one piece: half a line counts for nothing.
                log.write_all(format!("{number}\n").as_bytes())
                    .map_err(DiskError::at(&self.notes))?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let connections = connections.clamp(1, missing.len().max(1));
            let workers: Vec<_> = (0..connections)
                .map(|_| {
                    scope.spawn(|| {
                        let ended = work();
                        if ended.is_err() {
                            failed.store(true, Ordering::Relaxed);
                        }
                        ended
                    })
                })
                .collect();
            let ended = workers.into_iter().map(|worker| {
                worker
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            // All are joined before the first error is looked at.
            ended.collect::<Vec<_>>().into_iter().collect()
        })
    }

    /// All ranges are there: sees to it that they stay there.
    fn settle(&self) -> Result<(), DiskError> {
        if self.durable {
            self.file.sync_all().map_err(DiskError::at(&self.path))?;
        }
        Ok(())
    }

    /// The file turned out to be wrong.
    fn discard(self) -> Result<(), DiskError> {
        discard(&self.path)?;
        discard(&self.notes)
    }

    /// It is whole and right, and gets its name.
    fn finish(self, path: &Path) -> Result<(), DiskError> {
        if path != self.path {
            fs::rename(&self.path, path).map_err(DiskError::at(path))?;
        }
        discard(&self.notes)
    }

    /// Numbers of the ranges that are there already. A last line that was cut off counts for
    /// nothing.
    fn noted(&self) -> Result<BTreeSet<usize>, DiskError> {
        let text = match fs::read_to_string(&self.notes) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(DiskError::at(&self.notes)(error)),
        };
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        Ok(whole.lines().filter_map(|line| line.parse().ok()).collect())
    }
}

/// Reserves the disk space, so that a disk that is too small says so before anything is downloaded.
fn reserve(file: &File, size: u64) -> io::Result<()> {
    if size > 0 {
        match fallocate(file, FallocateFlags::empty(), 0, size) {
            // Some file systems cannot promise it: those fail when they are full.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) | Ok(()) => {}
            Err(error) => return Err(error.into()),
        }
    }
    file.set_len(size)
}

fn full_or(error: io::Error, path: &Path, needed: u64) -> DiskError {
    let full = matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    );
    match free_bytes(path) {
        Some(free) if full => DiskError::Full {
            path: path.to_owned(),
            needed,
            free,
        },
        _ => DiskError::at(path)(error),
    }
}

/// Free bytes of the file system of `path`; `None` if it does not say.
fn free_bytes(path: &Path) -> Option<u64> {
    let disk = statvfs(path).ok()?;
    Some(disk.f_bavail * disk.f_frsize)
}

/// Refuses if `folder` has no space for `needed` more bytes.
pub fn room_for(folder: &Path, needed: u64) -> Result<(), DiskError> {
    match free_bytes(folder) {
        Some(free) if free < needed => Err(DiskError::Full {
            path: folder.to_owned(),
            needed,
            free,
        }),
        _ => Ok(()),
    }
}

/// Held while a file is written: two processes at once would write over each other's notes. Ends
/// with the process, however it ends.
pub(crate) fn lock(path: &Path) -> Result<File, DiskError> {
    let file = File::create(path).map_err(DiskError::at(path))?;
    file.lock().map_err(DiskError::at(path))?;
    Ok(file)
}

/// Removes a file that may not be there.
pub(crate) fn discard(path: &Path) -> Result<(), DiskError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(DiskError::at(path)(error)),
        _ => Ok(()),
    }
}

pub(crate) fn create_folder(path: &Path) -> Result<(), DiskError> {
    fs::create_dir_all(path).map_err(DiskError::at(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn silent(_: Progress) {}

    /// Fills a writer with bytes that tell their places.
    fn content(writer: &mut RangeWriter) -> Result<(), DiskError> {
        let (at, end) = writer.missing();
        let bytes: Vec<u8> = (at..end).map(|place| (place % 251) as u8).collect();
        for piece in bytes.chunks(100_001) {
            assert!(writer.write(piece)?);
        }
        Ok(())
    }

    #[test]
    fn what_is_noted_is_not_asked_for_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model");
        let size = 2 * RANGE + 5;
        let counter = DownloadCounter::new(size, &silent);
        let first = PartialFile::open(&path, size, true, &counter).expect("opened");
        let lost = |writer: &mut RangeWriter| match writer.missing().0 {
            0 => content(writer),
            _ => Err(DiskError::at(Path::new("x"))(io::Error::other("lost"))),
        };
        first.fill(1, &lost).expect_err("lost");
        drop(first);
        // Half a line, as a killed process may leave it.
        let notes = path.with_extension("ranges");
        let noted = fs::read_to_string(&notes).expect("notes");
        assert_eq!(noted, "0\n");
        fs::write(&notes, "0\n1").expect("written");
        let counter = DownloadCounter::new(size, &silent);
        let second = PartialFile::open(&path, size, true, &counter).expect("opened");
        second.fill(2, &content).expect("the rest");
        assert_eq!(counter.downloaded(), RANGE + 5);
        second.finish(&path).expect("named");
        assert!(!notes.exists());
        let bytes = fs::read(&path).expect("whole");
        assert_eq!(bytes.len() as u64, size);
        assert!(bytes.iter().enumerate().all(|(n, b)| *b == (n % 251) as u8));
    }

    #[test]
    fn a_file_with_wrong_content_leaves_nothing_and_one_that_cannot_be_checked_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let counter = DownloadCounter::new(3, &silent);
        let (partial, whole) = (
            folder.path().join("model.incomplete"),
            folder.path().join("model"),
        );
        let error = || DiskError::at(&partial)(io::Error::other("wrong"));
        for (check, fails, expected) in [
            (Ok(Some(error())), true, 0),
            // The file and its notes.
            (Err(error()), true, 2),
            (Ok(None), false, 1),
        ] {
            let file = PartialFile::open(&partial, 3, false, &counter).expect("opened");
            let ended = file.complete(1, &content, |_| check, &whole);
            assert_eq!(ended.is_err(), fails);
            let left = fs::read_dir(folder.path()).expect("listed").count();
            assert_eq!(left, expected);
        }
        assert!(whole.exists());
    }

    #[test]
    fn more_than_was_asked_for_is_not_taken() {
        let folder = tempfile::tempdir().expect("a folder");
        let counter = DownloadCounter::new(3, &silent);
        let path = folder.path().join("model");
        let unfinished = PartialFile::open(&path, 3, false, &counter).expect("opened");
        let get = |writer: &mut RangeWriter| -> Result<(), DiskError> {
            assert!(!writer.write(b"four")?);
            assert!(writer.write(b"xyz")?);
            Ok(())
        };
        unfinished.fill(1, &get).expect("filled");
        assert_eq!(fs::read(&path).expect("there"), b"xyz");
    }

    #[test]
    fn a_disk_that_is_too_small_is_told_with_its_room() {
        let folder = tempfile::tempdir().expect("a folder");
        let error = room_for(folder.path(), u64::MAX).expect_err("no disk is that large");
        let said = error.to_string();
        assert!(
            said.contains(&format!("{} bytes are needed", u64::MAX)),
            "{said}"
        );
    }
}
