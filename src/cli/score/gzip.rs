//! Gzip around the files of a bulk run. The output is worked on unpacked, so that an interrupted
//! run goes on, and packed when it is whole.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Cursor, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use flate2::{Compression, GzBuilder};

use super::kept::{self, Identity, beside, identity, io as told, lock, partial};

const MAGIC: [u8; 2] = [0x1f, 0x8b];

fn is_named(path: &Path) -> bool {
    path.extension()
        .is_some_and(|ending| ending.eq_ignore_ascii_case("gz"))
}

/// The text of an input, unpacked where it begins as gzip does, whatever it is called; and whether
/// it was.
pub fn reader(path: &Path, file: File) -> io::Result<(Box<dyn BufRead>, bool)> {
    let mut file = BufReader::new(file);
    let mut head = Vec::new();
    file.by_ref()
        .take(MAGIC.len() as u64)
        .read_to_end(&mut head)?;
    let packed = head == MAGIC;
    if !packed && is_named(path) {
        let what = "its name ends in .gz, but it is not a gzip file: rename it, or compress it";
        return Err(io::Error::new(ErrorKind::InvalidData, what));
    }
    let whole = Cursor::new(head).chain(file);
    Ok(if packed {
        let unpacked = MultiGzDecoder::new(whole);
        (Box::new(BufReader::new(unpacked)), true)
    } else {
        (Box::new(whole), false)
    })
}

/// An output that is packed in the end.
pub struct Packed {
    path: PathBuf,
    /// Without `.gz`: what is worked on.
    plain: PathBuf,
    /// Held while it is there: two runs at once would unpack it both.
    found: Option<File>,
}

impl Packed {
    /// Nothing where `out` is not to be packed. What an earlier run has packed is unpacked.
    pub fn of(out: &Path, input: Identity) -> anyhow::Result<Option<Self>> {
        if !is_named(out) {
            return Ok(None);
        }
        let plain = out.with_extension("");
        let found = match File::open(out) {
            Ok(found) => Some(found),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return told(out, Err(error)),
        };
        if let Some(found) = &found {
            if !told(out, found.metadata())?.is_file() {
                return Err(kept::usage(out, "not a plain file"));
            }
            if told(out, identity(found))? == input {
                return Err(kept::usage(out, "that is the file to read: choose another"));
            }
            lock(found, out)?;
            if told(&plain, plain.try_exists())? {
                // A run that was killed after it had packed leaves both.
                if !same(
                    &mut unpacking(found),
                    &mut told(&plain, File::open(&plain))?,
                ) {
                    let what = format!(
                        "{} is there too, and holds something else: choose another file, or remove one",
                        plain.display()
                    );
                    return Err(kept::usage(out, &what));
                }
            } else {
                let about = beside(&plain, ".about");
                if !told(&about, about.try_exists())? {
                    let what = format!(
                        "not written by `score`, which keeps {} beside it: choose another file, or remove it",
                        about.display()
                    );
                    return Err(kept::usage(out, &what));
                }
                let (mut file, path) = partial(&plain)?;
                told(out, io::copy(&mut unpacking(found), &mut file))?;
                told(&path, file.flush())?;
                told(&path, fs::rename(&path, &plain))?;
            }
        }
        Ok(Some(Self {
            path: out.to_owned(),
            plain,
            found,
        }))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn plain(&self) -> &Path {
        &self.plain
    }

    /// The unpacked file is ours and is worked on: the packed one is made anew in the end.
    pub fn begun(&mut self) -> anyhow::Result<()> {
        if self.found.take().is_some() {
            told(&self.path, fs::remove_file(&self.path))?;
        }
        Ok(())
    }

    /// Packs what is whole now, the same bytes from the same rows.
    pub fn finish(self) -> anyhow::Result<()> {
        let (file, path) = partial(&self.path)?;
        let mut packer = GzBuilder::new().write(file, Compression::default());
        let mut rows = told(&self.plain, File::open(&self.plain))?;
        told(&path, io::copy(&mut rows, &mut packer))?;
        let mut file = told(&path, packer.finish())?;
        told(&path, file.flush())?;
        told(&path, file.get_ref().sync_all())?;
        told(&self.path, fs::rename(&path, &self.path))?;
        told(&self.plain, fs::remove_file(&self.plain))
    }
}

fn unpacking(file: &File) -> MultiGzDecoder<BufReader<&File>> {
    MultiGzDecoder::new(BufReader::new(file))
}

/// Whether both hold the same to their ends. What cannot be read is not the same.
fn same(left: &mut impl Read, right: &mut impl Read) -> bool {
    let mut bytes = [[0; 1 << 14], [0; 1 << 14]];
    loop {
        let lengths = [filled(left, &mut bytes[0]), filled(right, &mut bytes[1])];
        match lengths {
            [Ok(left), Ok(right)] if left == right && bytes[0][..left] == bytes[1][..right] => {
                if left == 0 {
                    return true;
                }
            }
            _ => return false,
        }
    }
}

/// Reads until there is no more room, or no more to read.
fn filled(from: &mut impl Read, bytes: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < bytes.len() {
        match from.read(&mut bytes[length..])? {
            0 => break,
            read => length += read,
        }
    }
    Ok(length)
}
