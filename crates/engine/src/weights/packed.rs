//! The packed model: one safetensors file that holds a whole model as the kernels read it, its
//! configuration and its tokenizer.
//!
//! Owns the container: aligned tensors, the manifest in the header's metadata, and the digests.
//! What the tensors mean is the model's business. Refuses a file of another format, a header that
//! was altered (at every start, from its digest) and tensors that were ([`check_payload`], which
//! reads all of them). Layout of a file:
//!
//! ```text
//! length of the header | header, padded | tensors, each at a multiple of 64 bytes | digest of the header
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Mapped, deciding_files, folder, weight_files};
use crate::error::{ModelError, Remedy};

/// Version of the container and of the tensors' names.
pub const FORMAT: u32 = 4;
/// The metadata's key for the manifest, JSON in a string as safetensors wants it.
pub(super) const MANIFEST: &str = "reranker";
/// The last tensor: SHA-256 of the header as it lies in the file.
pub(super) const HEADER_DIGEST: &str = "integrity.header_sha256";
const ALIGNMENT: usize = 64;
/// Bytes that are read at a time to check them.
const CHECKED: usize = 4 << 20;
/// No packed file's header is longer; safetensors itself takes no more.
const LONGEST_HEADER: u64 = 100_000_000;

/// The manifest of a packed file: its origin, its settings and its measured fidelity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`] of the program that wrote it.
    pub format: u32,
    /// Name of the kernels' weight layout.
    pub layout: String,
    /// Program and version that wrote the file.
    pub tool: String,
    /// The model's name.
    pub name: Option<String>,
    /// Its commit or version.
    pub revision: Option<String>,
    /// The source's `config.json`.
    pub config: serde_json::Value,
    /// Sentence-transformers' modules, if they hold the head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modules: Option<serde_json::Value>,
    /// SHA-256 of every source file, in hexadecimal.
    pub sources: BTreeMap<String, String>,
    /// [`fingerprint`] of those that hold weights.
    pub fingerprints: BTreeMap<String, String>,
    /// Maximum length of a sequence in tokens, if the source's tokenizer has one.
    pub max_length: Option<usize>,
    /// SHA-256 of all tensors but the header's digest, padding included, in hexadecimal.
    pub payload_sha256: String,
    /// The matrices of which all inputs are quantized to 16 bits. Files have it under its first
    /// name, which stays.
    #[serde(rename = "fine")]
    pub high_precision: BTreeSet<String>,
    /// How large the operands of the matrices' products become; those that are not named have all
    /// eight bits.
    pub levels: BTreeMap<String, Levels>,
    /// How near it is to its source, on every instruction set.
    pub fidelity: Option<Fidelity>,
    /// The same where products gain by small levels, which only differs from it where a matrix has
    /// fewer of inputs.
    pub narrow_fidelity: Option<Fidelity>,
}

/// The largest magnitude of a matrix's weights, and the largest byte of its inputs on instruction
/// sets whose products are faster for it (AVX2, and AVX-512 without VNNI). On others inputs have
/// all eight bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Levels {
    /// The largest magnitude of a weight, up to 127.
    pub weights: u8,
    /// The largest byte of an input, up to 255.
    pub inputs: u8,
}

/// How near the packed model's results are to the f32 model's, on the texts that the packer
/// carries.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Fidelity {
    /// Pairs that were compared.
    pub pairs: usize,
    /// Tokens of those.
    pub tokens: usize,
    /// Mean of the logits' absolute differences.
    pub mean_logit_difference: f64,
    /// Largest of them.
    pub max_logit_difference: f64,
    /// Mean of the absolute differences of the scores, the logits' sigmoids.
    pub mean_score_difference: f64,
    /// Largest of them.
    pub max_score_difference: f64,
    /// Kendall's rank correlation (tau-b) of all pairs by logit; nothing where the logits are all
    /// alike.
    pub kendall_tau: Option<f64>,
}

/// How surely a packed file is compared with its sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sureness {
    /// Weights by their fingerprints, and whole where they were written after the packed file.
    Quick,
    /// Every byte.
    Whole,
}

impl Manifest {
    /// Refuses a packed file that lies in a folder with other files than those that it was made
    /// from. Files that are gone do not matter: most images hold none of them.
    pub fn check_sources(&self, packed: &Path, how: Sureness) -> Result<(), ModelError> {
        let folder = packed.parent().unwrap_or(Path::new("."));
        let stale = |file: &str, found: &str| {
            Err(ModelError::unfit(
                packed,
                "source",
                format!("another {file} than the folder's{found}"),
                "the folder's: pack the model again, or set PRECISION=f32",
            )
            .with(Remedy::Pack))
        };
        for file in deciding_files(folder)? {
            let recorded = self.sources.get(&file);
            if recorded != Some(&source_digest(&folder.join(&file))?) {
                return stale(&file, "");
            }
        }
        let Some((_, shards)) = weight_files(folder)? else {
            return Ok(());
        };
        let modified = |path: &Path| std::fs::metadata(path).and_then(|file| file.modified());
        let packed_at = modified(packed).map_err(|source| ModelError::io(packed, source))?;
        for (file, _) in shards {
            let path = folder.join(&file);
            let Some(recorded) = self.sources.get(&file) else {
                return stale(&file, ", which is none of its sources");
            };
            if !path.exists() {
                continue;
            }
            if let Some(digest) = folder::pointed_at(&path) {
                if digest != *recorded {
                    return stale(&file, "");
                }
                continue;
            }
            let written = modified(&path).map_err(|source| ModelError::io(&path, source))?;
            // Copying may leave any order of times, so a later time is no fault, only a reason to
            // look.
            let whole = how == Sureness::Whole || written > packed_at;
            let print = self.fingerprints.get(&file);
            let same = if whole {
                source_digest(&path)? == *recorded
            } else {
                print == fingerprint(&path).ok().as_ref()
            };
            if !same {
                return stale(&file, "");
            }
        }
        Ok(())
    }
}

/// Bytes of each tensor's two ends that go into a fingerprint.
const PRINTED: usize = 1024;

/// A digest of a weight file's header and of both ends of each tensor: training changes all of
/// them, and reading them takes milliseconds.
pub fn fingerprint(path: &Path) -> Result<String, ModelError> {
    let file = Mapped::open(path)?;
    let bytes = file.bytes();
    let (header, metadata) = safetensors::SafeTensors::read_metadata(bytes).map_err(|error| {
        ModelError::unfit(
            path,
            "safetensors header",
            error,
            "a whole safetensors file",
        )
    })?;
    let start = 8 + header;
    let mut ends: Vec<std::ops::Range<usize>> = Vec::new();
    for info in metadata.tensors().values() {
        let (from, to) = (start + info.data_offsets.0, start + info.data_offsets.1);
        ends.push(from..to.min(from + PRINTED));
        ends.push(from.max(to.saturating_sub(PRINTED))..to);
    }
    ends.sort_by_key(|range| (range.start, range.end));
    // All at once: read one by one, each would be waited for.
    ends.iter().for_each(|range| file.read_soon(range.clone()));
    let mut sum = Sha256::new();
    sum.update(&bytes[..start]);
    ends.into_iter().for_each(|range| sum.update(&bytes[range]));
    Ok(hex(&sum.finalize()))
}

/// SHA-256 of a source, or what a pointer of Git LFS in its place says.
fn source_digest(path: &Path) -> Result<String, ModelError> {
    match folder::pointed_at(path) {
        Some(digest) => Ok(digest),
        None => sha256_of(path),
    }
}

#[derive(Serialize)]
struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    data_offsets: [usize; 2],
}

/// Writes a packed file tensor by tensor. Nothing is at the final path before
/// [`PackedWriter::finish`].
pub struct PackedWriter {
    file: BufWriter<File>,
    partial: PathBuf,
    path: PathBuf,
    header_len: usize,
    entries: BTreeMap<String, Entry>,
    position: usize,
    digest: Sha256,
    paddings: usize,
}

impl PackedWriter {
    /// `tensors` is an upper bound of how many will follow; `manifest_bytes` of the manifest's
    /// length.
    pub fn create(path: &Path, tensors: usize, manifest_bytes: usize) -> Result<Self, ModelError> {
        // An entry takes some 150 bytes; quotes in the manifest are escaped.
        let header_len =
            (8 + 256 * (tensors + 16) + 2 * manifest_bytes + 4096).next_multiple_of(ALIGNMENT) - 8;
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let io = |source| ModelError::io(&partial, source);
        // What lies there may be of a killed process, but a link or a device is nobody's
        // half-written model: it is not written through.
        let foreign = |found: &str| {
            let expected = "a plain file, or no file: remove it";
            ModelError::unfit(&partial, "file", found, expected)
        };
        let is_other = std::fs::symlink_metadata(&partial).is_ok_and(|meta| !meta.is_file());
        if is_other {
            return Err(foreign("no plain file"));
        }
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(&partial)
            .map_err(io)?;
        if file.metadata().map_err(io)?.nlink() > 1 {
            return Err(foreign("another name of a file"));
        }
        // Two at once would write into each other's file; the lock ends with the process, however
        // it ends.
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => ModelError::unfit(
                &partial,
                "file",
                "another process that writes it",
                "none: wait for its end, or choose another --out",
            ),
            TryLockError::Error(error) => io(error),
        })?;
        // What a killed process left.
        file.set_len(0).map_err(io)?;
        let mut file = BufWriter::with_capacity(1 << 20, file);
        file.seek(SeekFrom::Start(8 + header_len as u64))
            .map_err(io)?;
        Ok(Self {
            file,
            path: path.to_owned(),
            header_len,
            entries: BTreeMap::new(),
            position: 0,
            digest: Sha256::new(),
            paddings: 0,
            partial,
        })
    }

    /// Begins anew. The file stays locked, so that no other process comes in between; nothing may
    /// have it mapped any more.
    pub fn restart(&mut self) -> Result<(), ModelError> {
        let io = |source| ModelError::io(&self.partial, source);
        self.file.flush().map_err(io)?;
        self.file.get_ref().set_len(0).map_err(io)?;
        let start = SeekFrom::Start(8 + self.header_len as u64);
        self.file.seek(start).map_err(io)?;
        self.entries.clear();
        self.position = 0;
        self.digest = Sha256::new();
        self.paddings = 0;
        Ok(())
    }

    /// Appends a tensor, its bytes in pieces.
    pub fn tensor<B: AsRef<[u8]>>(
        &mut self,
        name: &str,
        dtype: Dtype,
        shape: &[usize],
        pieces: impl IntoIterator<Item = B>,
    ) -> Result<(), ModelError> {
        let start = self.position;
        for piece in pieces {
            self.write(piece.as_ref())?;
        }
        self.enter(name.to_owned(), dtype, shape.to_vec(), start);
        let over = self.position % ALIGNMENT;
        if over > 0 {
            // The format allows no holes, so the padding is a tensor too.
            let (start, missing) = (self.position, ALIGNMENT - over);
            self.write(&[0; ALIGNMENT][..missing])?;
            let name = format!("padding.{}", self.paddings);
            self.paddings += 1;
            self.enter(name, Dtype::U8, vec![missing], start);
        }
        Ok(())
    }

    /// Appends a tensor of f32.
    pub fn floats(
        &mut self,
        name: &str,
        shape: &[usize],
        values: &[f32],
    ) -> Result<(), ModelError> {
        let pieces = values.chunks(1 << 16).map(|chunk| {
            let bytes: Vec<u8> = chunk.iter().flat_map(|v| v.to_le_bytes()).collect();
            bytes
        });
        self.tensor(name, Dtype::F32, shape, pieces)
    }

    /// The names of the matrices that were written in panels, and each one's number of weights.
    pub fn matrices(&self) -> Vec<(String, usize)> {
        let entries = self.entries.iter();
        entries
            .filter_map(|(name, entry)| {
                let matrix = name.strip_suffix(".panels")?;
                Some((matrix.to_owned(), entry.shape.iter().product()))
            })
            .collect()
    }

    fn enter(&mut self, name: String, dtype: Dtype, shape: Vec<usize>, start: usize) {
        let entry = Entry {
            dtype,
            shape,
            data_offsets: [start, self.position],
        };
        self.entries.insert(name, entry);
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ModelError> {
        self.digest.update(bytes);
        self.position += bytes.len();
        self.file
            .write_all(bytes)
            .map_err(|source| ModelError::io(&self.partial, source))
    }

    /// The tensors are complete: makes them readable, with a manifest that says nothing of fidelity
    /// yet. The file is still the partial one, whose path this returns.
    pub fn seal(&mut self, manifest: &mut Manifest) -> Result<&Path, ModelError> {
        if manifest.payload_sha256.is_empty() {
            manifest.payload_sha256 = hex(&self.digest.clone().finalize());
        }
        let metadata = BTreeMap::from([(MANIFEST, json(manifest)?)]);
        let digest_at = [self.position, self.position + 32];
        let digest = Entry {
            dtype: Dtype::U8,
            shape: vec![32],
            data_offsets: digest_at,
        };
        let mut entries: BTreeMap<&str, serde_json::Value> = BTreeMap::new();
        entries.insert("__metadata__", to_value(&metadata)?);
        entries.insert(HEADER_DIGEST, to_value(&digest)?);
        for (name, entry) in &self.entries {
            entries.insert(name, to_value(entry)?);
        }
        let mut header = json(&entries)?.into_bytes();
        if header.len() > self.header_len {
            return Err(ModelError::Compute(format!(
                "a header of {} bytes does not fit the {} that were kept for it",
                header.len(),
                self.header_len
            )));
        }
        header.resize(self.header_len, b' ');
        let io = |source| ModelError::io(&self.partial, source);
        self.file.seek(SeekFrom::Start(0)).map_err(io)?;
        self.file
            .write_all(&(self.header_len as u64).to_le_bytes())
            .map_err(io)?;
        self.file.write_all(&header).map_err(io)?;
        let end = 8 + self.header_len + self.position;
        self.file.seek(SeekFrom::Start(end as u64)).map_err(io)?;
        self.file.write_all(&Sha256::digest(&header)).map_err(io)?;
        self.file.flush().map_err(io)?;
        Ok(&self.partial)
    }

    /// Renames the sealed file to its final name, or removes it if that fails.
    pub fn finish(self) -> Result<(), ModelError> {
        let synced = self.file.get_ref().sync_all();
        let placed = synced.and_then(|()| std::fs::rename(&self.partial, &self.path));
        placed.map_err(|source| {
            let error = ModelError::io(&self.path, source);
            self.discard();
            error
        })
    }

    /// Removes the unfinished file.
    pub fn discard(self) {
        // It is the caller's failure that matters; what cannot be removed is named as partial.
        let _ = std::fs::remove_file(&self.partial);
    }
}

fn json(value: &impl Serialize) -> Result<String, ModelError> {
    serde_json::to_string(value).map_err(|error| ModelError::Compute(error.to_string()))
}

fn to_value(value: &impl Serialize) -> Result<serde_json::Value, ModelError> {
    serde_json::to_value(value).map_err(|error| ModelError::Compute(error.to_string()))
}

/// Whether a file begins as those do that [`PackedWriter`] writes, of whatever version: what may be
/// replaced by another packed model.
pub fn is_packed(path: &Path) -> std::io::Result<bool> {
    #[derive(Deserialize)]
    struct Header {
        #[serde(rename = "__metadata__", default)]
        metadata: BTreeMap<String, String>,
    }
    let mut file = File::open(path)?;
    let mut length = [0; 8];
    if file.read_exact(&mut length).is_err() {
        return Ok(false);
    }
    let length = u64::from_le_bytes(length);
    if length > LONGEST_HEADER {
        return Ok(false);
    }
    let mut header = Vec::new();
    file.take(length).read_to_end(&mut header)?;
    let header: Option<Header> = serde_json::from_slice(&header).ok();
    Ok(header.is_some_and(|header| header.metadata.contains_key(MANIFEST)))
}

/// SHA-256 of a file, in hexadecimal.
pub fn sha256_of(path: &Path) -> Result<String, ModelError> {
    let io = |source| ModelError::io(path, source);
    folder::plain(path)?;
    let mut digest = Sha256::new();
    std::io::copy(&mut File::open(path).map_err(io)?, &mut digest).map_err(io)?;
    Ok(hex(&digest.finalize()))
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The manifest of a mapped file, after the fast checks: its format, and that its header is the one
/// that was written.
pub(super) fn manifest(
    file: &Mapped,
    header_len: usize,
    metadata: &safetensors::tensor::Metadata,
) -> Result<Manifest, ModelError> {
    let path = file.path();
    let stated = metadata
        .metadata()
        .as_ref()
        .and_then(|map| map.get(MANIFEST));
    let Some(stated) = stated else {
        return Err(ModelError::unfit(
            path,
            "metadata",
            "no manifest",
            "a file that `reranker pack` wrote; name the folder where this is a model's own file",
        )
        .with(Remedy::Set));
    };
    #[derive(Deserialize)]
    struct Versioned {
        format: u32,
    }
    let unreadable = |error: serde_json::Error| {
        ModelError::unfit(path, "manifest", error, "what `reranker pack` writes")
    };
    let Versioned { format } = serde_json::from_str(stated).map_err(unreadable)?;
    if format != FORMAT {
        return Err(ModelError::unfit(
            path,
            "format",
            format!("version {format}"),
            format!("version {FORMAT}: pack the model again with this program"),
        )
        .with(Remedy::Pack));
    }
    let header = &file.bytes()[8..8 + header_len];
    let digest = metadata.info(HEADER_DIGEST).and_then(|info| {
        let (from, to) = info.data_offsets;
        file.bytes().get(8 + header_len + from..8 + header_len + to)
    });
    if digest != Some(&Sha256::digest(header)[..]) {
        return Err(ModelError::unfit(
            path,
            "header",
            "another than its digest tells",
            "the header that was packed: the file is damaged",
        ));
    }
    serde_json::from_str(stated).map_err(unreadable)
}

/// Reads every tensor of a packed file and compares their digest with the manifest's.
pub fn check_payload(path: &Path) -> Result<(), ModelError> {
    let weights = super::Weights::open(path)?;
    let (Some(manifest), Some(digest)) = (weights.manifest(), weights.tensors.get(HEADER_DIGEST))
    else {
        return Err(ModelError::unfit(path, "file", "no packed model", "one"));
    };
    let bytes = digest.file.bytes();
    let (length, _) = bytes.split_first_chunk::<8>().expect("it was opened");
    // The header's length fits, or opening had failed.
    #[allow(clippy::cast_possible_truncation)]
    let start = 8 + u64::from_le_bytes(*length) as usize;
    let mut sum = Sha256::new();
    for from in (start..digest.offset).step_by(CHECKED) {
        let piece = from..digest.offset.min(from + CHECKED);
        sum.update(&bytes[piece.clone()]);
        // They stay in the page cache, but a check of a large file takes no more memory than one of
        // a small.
        digest.file.release(piece);
    }
    let found = hex(&sum.finalize());
    if found != manifest.payload_sha256 {
        return Err(ModelError::unfit(
            path,
            "tensors",
            format!("SHA-256 {found}"),
            format!("{}: the file is damaged", manifest.payload_sha256),
        ));
    }
    Ok(())
}
