//! A file mapped into memory. The one place outside `kernels` with `unsafe`.
#![allow(unsafe_code)]

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use memmap2::{Advice, Mmap, UncheckedAdvice};

use crate::error::ModelError;

/// A read-only map of a whole file. Pages are read when touched, and shared with every process that
/// maps the same file.
pub struct Mapped {
    map: Mmap,
    file: File,
    path: PathBuf,
    /// When it had been written to last.
    modified: SystemTime,
}

impl Mapped {
    /// An empty file cannot be mapped and is refused like a truncated one.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let io = |source| ModelError::io(path, source);
        super::folder::plain(path)?;
        let file = File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        let modified = metadata.modified().map_err(io)?;
        if metadata.len() == 0 {
            return Err(ModelError::unfit(path, "file size", "0 bytes", "a model"));
        }
        // SAFETY: the map is private and read-only, so nothing in this process writes to it.
        // Another process that rewrites the file in place could change the bytes under us, or end
        // us with SIGBUS by cutting it; a model file is replaced by renaming a new one over it,
        // never written in place, as docs/guides/models.md says, and `is_unchanged` finds out who
        // did not read that.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        Ok(Self {
            map,
            file,
            path: path.to_owned(),
            modified,
        })
    }

    /// As it was opened.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether nobody has written to the file since, or cut it. Another name or none does not
    /// matter: the map holds the file itself.
    pub(crate) fn is_unchanged(&self) -> bool {
        let now = self.file.metadata();
        now.is_ok_and(|now| {
            now.len() == self.map.len() as u64
                && now.modified().is_ok_and(|when| when == self.modified)
        })
    }

    /// All of the file.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Whether the system seems to hold these bytes in memory, by what it says of a byte in every
    /// 128 KiB of them; false where it does not say.
    #[cfg(target_os = "linux")]
    pub(crate) fn is_in_memory(&self, bytes: Range<usize>) -> bool {
        use rustix::io::{ReadWriteFlags, preadv2};
        let last = bytes.end.saturating_sub(1);
        bytes.step_by(128 << 10).chain([last]).all(|at| {
            let mut byte = [0];
            let mut into = [std::io::IoSliceMut::new(&mut byte)];
            preadv2(&self.file, &mut into, at as u64, ReadWriteFlags::NOWAIT) == Ok(1)
        })
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn is_in_memory(&self, _: Range<usize>) -> bool {
        let _ = &self.file;
        false
    }

    /// Brings the pages of these bytes, and no others, into memory and maps them, so that touching
    /// them does not wait. Blocks until they are there.
    pub(crate) fn populate(&self, bytes: Range<usize>) {
        // All of it is asked for at once, and the system's own guess at what comes next, up to
        // megabytes of it, is left out.
        self.advise(Advice::Random, &bytes);
        self.advise(Advice::WillNeed, &bytes);
        if !self.map_pages(&bytes) {
            for page in self.map[bytes.clone()].chunks(4096) {
                std::hint::black_box(page[0]);
            }
        }
        // Should the system need the memory for something else, they are read again in its own way.
        self.advise(Advice::Normal, &bytes);
    }

    /// Waits for pages and maps them, where the kernel can: from 5.14 on. Another failure is left
    /// to whoever needs the bytes.
    #[cfg(target_os = "linux")]
    fn map_pages(&self, bytes: &Range<usize>) -> bool {
        let advised = self
            .map
            .advise_range(Advice::PopulateRead, bytes.start, bytes.len());
        !advised.is_err_and(|error| error.kind() == std::io::ErrorKind::InvalidInput)
    }

    #[cfg(not(target_os = "linux"))]
    fn map_pages(&self, _: &Range<usize>) -> bool {
        false
    }

    /// Tells the system how these bytes will be read. A hint: without it more is waited for, and
    /// nothing else changes.
    fn advise(&self, advice: Advice, bytes: &Range<usize>) {
        let _ = self.map.advise_range(advice, bytes.start, bytes.len());
    }

    /// Has the pages of these bytes read without waiting for them.
    pub(crate) fn read_soon(&self, bytes: Range<usize>) {
        self.advise(Advice::WillNeed, &bytes);
    }

    /// Says that single places of these bytes will be read, so that the system does not read their
    /// neighbourhood with them.
    pub(crate) fn read_sparsely(&self, bytes: Range<usize>) {
        self.advise(Advice::Random, &bytes);
    }

    /// Gives the pages of these bytes back to the system; touching them reads them from the file
    /// again.
    pub(crate) fn release(&self, bytes: Range<usize>) {
        // SAFETY: the map is a private one of a file and never written to, so its pages come back
        // with the same content.
        let _ = unsafe {
            self.map
                .unchecked_advise_range(UncheckedAdvice::DontNeed, bytes.start, bytes.len())
        };
    }

    /// `len` signed bytes from `offset` on. Panics where they are out of bounds.
    pub(crate) fn i8s(&self, offset: usize, len: usize) -> &[i8] {
        let bytes = &self.map[offset..][..len];
        // SAFETY: i8 has the size and alignment of u8, every bit pattern is valid, and the slice
        // lives as long as `self`.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast::<i8>(), len) }
    }

    /// Whether f32 values at this offset can be read in place: aligned, and on a machine with the
    /// file's byte order.
    pub(crate) fn holds_f32s_at(&self, offset: usize) -> bool {
        cfg!(target_endian = "little") && (self.map.as_ptr() as usize + offset).is_multiple_of(4)
    }

    /// `len` f32 values that start at byte `offset`. Panics where they are out of bounds or not
    /// [`Self::holds_f32s_at`].
    pub(crate) fn f32s(&self, offset: usize, len: usize) -> &[f32] {
        assert!(self.holds_f32s_at(offset), "f32 values are not in place");
        let bytes = &self.map[offset..][..len * 4];
        // SAFETY: `bytes` lies within the map and is len * 4 long by the slicing above, aligned for
        // f32 by the assertion, lives as long as `self`, and every bit pattern is a valid f32.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast::<f32>(), len) }
    }
}
