//! The output file of a bulk run, and `FILE.about` beside it, which says what its rows came from.
//!
//! The first line of `FILE.about` has the model and the settings; each further one belongs to a row
//! of FILE, and has the digests of the input line and of the row. It is written first, so a killed
//! run leaves it with at least as many lines as FILE has rows: the next run checks each row by it
//! and goes on. A file that does not fit is refused and left as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, BufWriter, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use kernels::Isa;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::input::digest;
use crate::cli::Usage;
use crate::cli::origin::{Origin, differences};

/// What the rows of a file came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Tells the file from others that happen to be called so.
    pub reranker: String,
    #[serde(flatten)]
    pub origin: Origin,
    /// The instruction set, or the GPU.
    pub computed_on: String,
    pub raw: bool,
}

impl About {
    pub const SCORES: &str = "scores";
}

/// Where a file is, whatever it is called.
pub type Identity = (u64, u64);

pub fn identity(file: &File) -> std::io::Result<Identity> {
    let meta = file.metadata()?;
    Ok((meta.dev(), meta.ino()))
}

/// The output file, open behind its last row.
pub struct Kept {
    path: PathBuf,
    /// As the caller named it.
    named: PathBuf,
    rows: BufWriter<File>,
    about: BufWriter<File>,
    about_line: String,
    /// Digests of the input lines that the rows came from.
    pub inputs: Vec<u64>,
    /// Rows that have no score but the reason why not.
    pub failed: BTreeSet<usize>,
}

/// What a row must have; the rest is the caller's.
#[derive(Deserialize)]
struct Row {
    score: Option<IgnoredAny>,
    error: Option<IgnoredAny>,
}

/// The ending of a file that takes the place of another once it is whole.
const PARTIAL: &str = ".partial";

pub fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

pub fn io<T>(path: &Path, result: std::io::Result<T>) -> anyhow::Result<T> {
    result.with_context(|| format!("{}", path.display()))
}

pub fn usage(path: &Path, what: &str) -> anyhow::Error {
    Usage(format!("--out {}: {what}", path.display())).into()
}

/// Opens a plain file, or makes one; nothing else is touched.
fn open_plain(path: &Path) -> anyhow::Result<File> {
    match fs::metadata(path) {
        Ok(meta) if !meta.is_file() => {
            return Err(usage(
                path,
                "not a plain file; leave --out away to write to stdout",
            ));
        }
        Err(error) if error.kind() != ErrorKind::NotFound => return io(path, Err(error)),
        _ => {}
    }
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path);
    io(path, opened)
}

impl Kept {
    /// Opens the file for the rows that come after those it has. `input` is the file that is read,
    /// `longest` bounds a row.
    pub fn open(
        path: &Path,
        about: &About,
        input: Option<Identity>,
        longest: usize,
    ) -> anyhow::Result<Self> {
        let named = path.to_owned();
        // Behind a link, so that what lies beside is found again whatever the file is called by.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let is_input = |path: &Path| {
            fs::metadata(path).is_ok_and(|meta| input == Some((meta.dev(), meta.ino())))
        };
        let about_path = beside(&path, ".about");
        // What is written anew is another file first, and one that lies there is removed.
        let anew = [&path, &about_path].map(|path| beside(path, PARTIAL));
        if is_input(&path) || is_input(&about_path) || anew.iter().any(|path| is_input(path)) {
            return Err(usage(
                &named,
                "that is the file to read, or one that is written beside it: choose another",
            ));
        }
        let rows = open_plain(&path)?;
        // A link to nothing leads somewhere only now.
        let path = io(&path, fs::canonicalize(&path))?;
        let about_path = beside(&path, ".about");
        lock(&rows, &path)?;
        let about_line = serde_json::to_string(about)?;
        let found = io(&path, rows.metadata())?.len();
        let has_about = io(&about_path, about_path.try_exists())?;
        if found > 0 && !has_about {
            let what = "not written by `score`, which keeps FILE.about beside it: choose another file, or remove it";
            return Err(usage(&named, what));
        }
        let journal = open_plain(&about_path)?;
        let mut kept = Self {
            rows: BufWriter::new(rows),
            about: BufWriter::new(journal),
            about_line,
            inputs: Vec::new(),
            failed: BTreeSet::new(),
            path,
            named,
        };
        kept.read(about, longest)?;
        Ok(kept)
    }

    /// As the caller named it.
    pub fn named(&self) -> &Path {
        &self.named
    }

    fn about_path(&self) -> PathBuf {
        beside(&self.path, ".about")
    }

    /// Reads and checks what an earlier run left, and cuts off what it had not finished.
    fn read(&mut self, about: &About, longest: usize) -> anyhow::Result<()> {
        let about_path = self.about_path();
        let mut journal = BufReader::new(self.about.get_ref());
        let mut rows = BufReader::new(self.rows.get_ref());
        let mut line = Vec::new();
        io(&about_path, bounded(&mut journal, longest, &mut line))?;
        let foreign = || {
            usage(
                &about_path,
                "not written by `score`: choose another --out, or remove it",
            )
        };
        let empty = io(&self.path, self.rows.get_ref().metadata())?.len() == 0;
        let mut journal_bytes = 0;
        if !empty && line.last() != Some(&b'\n') {
            return Err(foreign());
        }
        if !line.is_empty() {
            let before: About = serde_json::from_slice(&line).map_err(|_| foreign())?;
            if before.reranker != About::SCORES {
                return Err(foreign());
            }
            let different = differences(&before, about);
            if !empty && !different.is_empty() {
                // Another machine's can be asked for; another GPU cannot.
                let other_set = before.computed_on != about.computed_on
                    && before.computed_on.parse::<Isa>().is_ok();
                let hint = match other_set {
                    true => format!(" (INSTRUCTION_SET={})", before.computed_on),
                    false => String::new(),
                };
                let what = format!(
                    "it has scores of another run: {}; choose another file, or give the same settings{hint}",
                    different.join("; ")
                );
                return Err(usage(&self.named, &what));
            }
            if !empty {
                journal_bytes = line.len() as u64;
            }
        }
        let mut row_bytes = 0;
        if journal_bytes > 0 {
            let mut row = Vec::new();
            loop {
                let number = self.inputs.len() + 1;
                io(&self.path, bounded(&mut rows, longest, &mut row))?;
                io(&about_path, bounded(&mut journal, longest, &mut line))?;
                let entry = entry(&line);
                if row.is_empty() {
                    break;
                }
                let Some((input, of_row)) = entry else {
                    let what = format!("line {number} was not written by `score`");
                    return Err(usage(&self.named, &what));
                };
                if row.last() != Some(&b'\n') {
                    if row.len() > longest {
                        let what = format!("line {number} was not written by `score`");
                        return Err(usage(&self.named, &what));
                    }
                    // What a killed run wrote half is written again.
                    break;
                }
                let parsed = serde_json::from_slice::<Row>(&row).ok();
                let failed = parsed.is_some_and(|row| row.error.is_some() && row.score.is_none());
                if !failed && digest(&row) != of_row {
                    let what = format!("line {number} was changed since `score` wrote it");
                    return Err(usage(&self.named, &what));
                }
                if failed {
                    self.failed.insert(self.inputs.len());
                }
                self.inputs.push(input);
                row_bytes += row.len() as u64;
                journal_bytes += line.len() as u64;
            }
        }
        for (path, file, bytes) in [
            (&self.path, self.rows.get_mut(), row_bytes),
            (&about_path, self.about.get_mut(), journal_bytes),
        ] {
            io(path, file.set_len(bytes))?;
            io(path, file.seek(SeekFrom::Start(bytes)))?;
        }
        if journal_bytes == 0 {
            let first = format!("{}\n", self.about_line);
            io(&about_path, self.about.write_all(first.as_bytes()))?;
            io(&about_path, self.about.flush())?;
        }
        Ok(())
    }

    /// Appends rows, each with the digest of the line that it came from.
    pub fn add(&mut self, rows: &[(u64, String)]) -> anyhow::Result<()> {
        let about_path = self.about_path();
        for (input, row) in rows {
            io(&about_path, write_entry(&mut self.about, *input, row))?;
        }
        io(&about_path, self.about.flush())?;
        for (_, row) in rows {
            io(&self.path, self.rows.write_all(row.as_bytes()))?;
        }
        io(&self.path, self.rows.flush())
    }

    /// Puts other rows in the places of those that failed, in one step: whenever the process is
    /// killed, each row is the old one or the new one.
    pub fn replace(&mut self, rows: &BTreeMap<usize, (u64, String)>) -> anyhow::Result<()> {
        let about_path = self.about_path();
        let mut old = BufReader::new(io(&self.path, File::open(&self.path))?);
        let (mut new, new_path) = partial(&self.path)?;
        let (mut new_about, new_about_path) = partial(&about_path)?;
        lock(new.get_ref(), &self.path)?;
        let first = format!("{}\n", self.about_line);
        io(&new_about_path, new_about.write_all(first.as_bytes()))?;
        let mut row = String::new();
        for (index, input) in self.inputs.iter_mut().enumerate() {
            row.clear();
            io(&self.path, old.read_line(&mut row))?;
            let (of_input, row) = match rows.get(&index) {
                Some((digest, row)) => (*digest, row.as_str()),
                None => (*input, row.as_str()),
            };
            *input = of_input;
            io(&new_path, new.write_all(row.as_bytes()))?;
            io(&new_about_path, write_entry(&mut new_about, of_input, row))?;
        }
        for (path, file) in [(&new_path, &mut new), (&new_about_path, &mut new_about)] {
            io(path, file.flush())?;
            io(path, file.get_ref().sync_all())?;
        }
        // Between the two the old rows stand by the new digests; those that failed are known by
        // what they hold.
        io(&about_path, fs::rename(&new_about_path, &about_path))?;
        io(&self.path, fs::rename(&new_path, &self.path))?;
        (self.rows, self.about) = (new, new_about);
        Ok(())
    }
}

/// Two runs at once would write between each other's rows; the lock ends with the process, however
/// it ends.
pub fn lock(file: &File, path: &Path) -> anyhow::Result<()> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(usage(path, "another process is writing it")),
        Err(TryLockError::Error(error)) => io(path, Err(error)),
    }
}

/// A new file beside `path`; what a killed run left there is removed, and no link is followed.
pub fn partial(path: &Path) -> anyhow::Result<(BufWriter<File>, PathBuf)> {
    let path = beside(path, PARTIAL);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return io(&path, Err(error)),
        _ => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).open(&path);
    Ok((BufWriter::new(io(&path, file)?), path))
}

/// Reads a line, of which no more than a byte above `most` is kept.
fn bounded(reader: &mut impl BufRead, most: usize, line: &mut Vec<u8>) -> std::io::Result<()> {
    line.clear();
    reader
        .by_ref()
        .take(most as u64 + 1)
        .read_until(b'\n', line)
        .map(drop)
}

fn write_entry(about: &mut impl Write, input: u64, row: &str) -> std::io::Result<()> {
    writeln!(about, "{input:016x} {:016x}", digest(row.as_bytes()))
}

/// The two digests of a whole line.
fn entry(line: &[u8]) -> Option<(u64, u64)> {
    let line = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
    let (input, row) = line.split_once(' ')?;
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    Some((hex(input)?, hex(row)?))
}
