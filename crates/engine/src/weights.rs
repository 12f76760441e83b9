//! Model weights as they lie on disk: safetensors files, mapped, never copied whole.
//!
//! Owns the files' structure and the dtypes: a tensor is asked for by name and shape and comes out
//! as f32, straight from the map where the file holds f32 and widened where it holds f16, bf16 or
//! int8 with a scale per row (`<name>.scale`). Refuses, naming file and tensor, whatever is
//! missing, truncated, of another shape or of another dtype.

mod folder;
mod mapped;
mod packed;
mod prefetch;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::tensor::Metadata;
use safetensors::{SafeTensorError, SafeTensors};

use crate::error::ModelError;
pub use folder::{
    ListedModule, check_packed, is_plain, is_plain_path, other_tokenizer, other_weights,
    parse_index, parse_modules, read_file, require, require_weights,
};
pub(crate) use folder::{lacking_module, listed_modules};
pub use mapped::Mapped;
pub use packed::{
    FORMAT, Fidelity, Levels, Manifest, PackedWriter, Sureness, check_payload, fingerprint, hex,
    is_packed, sha256_of,
};
pub use prefetch::Prefetch;
pub(crate) use prefetch::PrefetchReport;
pub use safetensors::Dtype;

/// Where a model folder keeps its packed form.
pub const PACKED_FILE: &str = "packed.safetensors";
/// A model folder's weights in one file.
pub const SINGLE_FILE: &str = "model.safetensors";
/// A model folder's list of shards.
pub const INDEX_FILE: &str = "model.safetensors.index.json";
/// Files of a model folder that decide ids and logits, besides the weights.
const DECIDING: [&str; 3] = ["config.json", "tokenizer.json", "tokenizer_config.json"];
/// The list of sentence-transformers' modules behind the encoder; each module has a folder.
pub const MODULES_FILE: &str = "modules.json";

/// Every tensor of a model folder.
pub struct Weights {
    tensors: HashMap<String, Located>,
    root: PathBuf,
    bytes: u64,
    dtypes: BTreeMap<String, usize>,
    manifest: Option<Manifest>,
}

struct Located {
    /// Whether the model has asked for it.
    used: AtomicBool,
    file: Arc<Mapped>,
    dtype: Dtype,
    shape: Vec<usize>,
    offset: usize,
    len: usize,
}

impl Located {
    fn window(&self) -> Raw {
        Raw {
            file: Arc::clone(&self.file),
            offset: self.offset,
            len: self.len,
        }
    }

    fn bytes(&self) -> &[u8] {
        &self.file.bytes()[self.offset..self.offset + self.len]
    }
}

/// A run of f32 values: a window into a mapped file, or owned where the file holds another dtype.
#[derive(Clone)]
pub(crate) enum Floats {
    /// Where the file holds f32, aligned.
    Mapped {
        /// The file.
        file: Arc<Mapped>,
        /// Of the first value, in bytes from the file's beginning.
        offset: usize,
        /// How many values there are.
        len: usize,
    },
    /// Widened from another dtype.
    Owned(Arc<Vec<f32>>),
}

impl std::ops::Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Self::Mapped { file, offset, len } => file.f32s(*offset, *len),
            Self::Owned(values) => values,
        }
    }
}

/// Plain bytes in a mapped file.
pub struct Raw {
    file: Arc<Mapped>,
    offset: usize,
    len: usize,
}

impl AsRef<[u8]> for Raw {
    fn as_ref(&self) -> &[u8] {
        &self.file.bytes()[self.offset..][..self.len]
    }
}

/// The same, read as signed bytes.
pub(crate) struct Int8s(Raw);

impl std::ops::Deref for Int8s {
    type Target = [i8];

    fn deref(&self) -> &[i8] {
        self.0.file.i8s(self.0.offset, self.0.len)
    }
}

impl Floats {
    /// So many zeros.
    pub(crate) fn zeros(len: usize) -> Self {
        Self::Owned(Arc::new(vec![0.0; len]))
    }

    /// Some of its values: of a mapped run the same ones, else a copy, unless it is all of them.
    pub(crate) fn part(&self, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= self.len(),
            "a part lies within the whole"
        );
        match self {
            whole if range == (0..whole.len()) => whole.clone(),
            Self::Mapped { file, offset, .. } => Self::Mapped {
                file: Arc::clone(file),
                offset: offset + 4 * range.start,
                len: range.len(),
            },
            Self::Owned(values) => Self::Owned(Arc::new(values[range].to_vec())),
        }
    }

    /// Gives the pages of a mapped run back; they are read again when touched.
    pub(crate) fn release(&self) {
        if let Self::Mapped { file, offset, len } = self {
            file.release(*offset..*offset + 4 * len);
        }
    }
}

/// Files of a model folder that decide ids and logits, besides the weights, by their names in it.
/// Those that are there.
pub fn deciding_files(folder: &Path) -> Result<Vec<String>, ModelError> {
    let own = DECIDING.iter().map(|name| (*name).to_owned());
    let mut files: Vec<String> = own.filter(|name| folder.join(name).exists()).collect();
    let modules = listed_modules(folder)?;
    // A list of the encoder alone says nothing.
    if modules.iter().any(|module| !module.path.is_empty()) {
        files.push(MODULES_FILE.to_owned());
        files.extend(folder::module_files(folder, "config.json")?);
    }
    Ok(files)
}

/// Whether there is a model at `path`, and in packed form only.
pub fn is_packed_only(path: &Path) -> bool {
    let there = |file| path.join(file).is_file();
    path.is_file() || (there(PACKED_FILE) && !there(SINGLE_FILE) && !there(INDEX_FILE))
}

impl Weights {
    /// Opens a packed file, or of a folder `model.safetensors` or the shards that
    /// `model.safetensors.index.json` names.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        if path.is_file() {
            let mut weights = Self::empty(path.to_owned());
            let (file, header, metadata) = weights.add_file(path, "", None)?;
            weights.manifest = Some(packed::manifest(&file, header, &metadata)?);
            return Ok(weights);
        }
        let folder = path;
        let Some((root, shards)) = weight_files(folder)? else {
            return Err(folder::lacking(folder, SINGLE_FILE));
        };
        let mut weights = Self::empty(root);
        for (file, names) in &shards {
            let path = folder.join(file);
            // A module's tensors are called by its folder, since each has the same names.
            let prefix = file
                .rsplit_once('/')
                .map(|(module, _)| format!("{module}."));
            weights.add_file(&path, prefix.as_deref().unwrap_or_default(), names.as_ref())?;
            let missing = names.iter().flatten();
            if let Some(name) = missing
                .into_iter()
                .find(|name| !weights.tensors.contains_key(*name))
            {
                return Err(ModelError::unfit(
                    &path,
                    format!("tensor {name}"),
                    "nothing of that name",
                    format!("one, by {INDEX_FILE}"),
                ));
            }
        }
        weights.rename_norms();
        Ok(weights)
    }

    /// Checkpoints of old call a layer norm's parameters by Greek letters.
    fn rename_norms(&mut self) {
        for (old, new) in [("gamma", "weight"), ("beta", "bias")] {
            let end = format!("LayerNorm.{old}");
            let names: Vec<String> = self.tensors.keys().cloned().collect();
            for name in names.into_iter().filter(|name| name.ends_with(&end)) {
                let renamed = format!("{}{new}", &name[..name.len() - old.len()]);
                if let Some(tensor) = self.tensors.remove(&name) {
                    self.tensors.entry(renamed).or_insert(tensor);
                }
            }
        }
    }

    /// Names of the tensors that nothing has asked for, but buffers that older versions of
    /// transformers saved, in order.
    pub fn unused(&self) -> Vec<&str> {
        let is_buffer = |name: &str| name.ends_with("embeddings.position_ids");
        let mut names: Vec<&str> = self
            .tensors
            .iter()
            .filter(|(name, tensor)| !tensor.used.load(Ordering::Relaxed) && !is_buffer(name))
            .map(|(name, _)| name.as_str())
            .collect();
        names.sort_unstable();
        names
    }

    fn empty(root: PathBuf) -> Self {
        Self {
            tensors: HashMap::new(),
            root,
            bytes: 0,
            dtypes: BTreeMap::new(),
            manifest: None,
        }
    }

    /// The manifest of a packed file; `None` for a folder.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// Adds the file's tensors with `prefix` before their names, of a shard those that the index
    /// places in it: it may hold a copy of others. Returns it with its header's length and content.
    fn add_file(
        &mut self,
        path: &Path,
        prefix: &str,
        listed: Option<&BTreeSet<String>>,
    ) -> Result<(Arc<Mapped>, usize, Metadata), ModelError> {
        let file = Arc::new(Mapped::open(path)?);
        let size = file.bytes().len();
        if let Some(error) = folder::other_format(path) {
            return Err(error);
        }
        let (header, metadata) =
            SafeTensors::read_metadata(file.bytes()).map_err(|error| match error {
                SafeTensorError::MetadataIncompleteBuffer => {
                    let described = described_size(file.bytes())
                        .map_or_else(|| "more".to_owned(), |size| size.to_string());
                    ModelError::unfit(
                        path,
                        "file size",
                        format!("{size} bytes"),
                        format!("{described} bytes by its header (is the download complete?)"),
                    )
                }
                error => ModelError::unfit(
                    path,
                    "safetensors header",
                    format!("{error} in a file of {size} bytes"),
                    "a whole safetensors file",
                ),
            })?;
        // 8 bytes hold the header's length; offsets count from the header's end.
        let start = 8 + header;
        self.bytes += size as u64;
        for (name, info) in metadata.tensors() {
            if listed.is_some_and(|listed| !listed.contains(&name)) {
                continue;
            }
            let (from, to) = info.data_offsets;
            *self.dtypes.entry(format!("{:?}", info.dtype)).or_default() += to - from;
            self.tensors.insert(
                format!("{prefix}{name}"),
                Located {
                    used: AtomicBool::new(false),
                    file: Arc::clone(&file),
                    dtype: info.dtype,
                    shape: info.shape.clone(),
                    offset: start + from,
                    len: to - from,
                },
            );
        }
        Ok((file, header, metadata))
    }

    /// Bytes of a tensor of dtype I8, as they lie in the file.
    pub(crate) fn int8s(&self, name: &str, shape: &[usize]) -> Result<Int8s, ModelError> {
        let found = self.locate(name, shape)?;
        if found.dtype != Dtype::I8 {
            return Err(ModelError::unfit(
                found.file.path(),
                format!("tensor {name}"),
                format!("dtype {:?}", found.dtype),
                "dtype I8",
            ));
        }
        Ok(Int8s(found.window()))
    }

    /// The whole content of a tensor of bytes, if there is one of that name.
    pub fn raw(&self, name: &str) -> Option<Raw> {
        Some(self.tensors.get(name)?.window())
    }

    /// Every file that holds a tensor.
    pub fn files(&self) -> BTreeSet<PathBuf> {
        let files = self.tensors.values().map(|tensor| tensor.file.path());
        files.map(Path::to_owned).collect()
    }

    /// The same, each once, as they are mapped.
    pub(crate) fn mapped(&self) -> Vec<Arc<Mapped>> {
        let mut files: Vec<Arc<Mapped>> = Vec::new();
        for tensor in self.tensors.values() {
            if !files.iter().any(|file| Arc::ptr_eq(file, &tensor.file)) {
                files.push(Arc::clone(&tensor.file));
            }
        }
        files
    }

    /// The packed file, the folder's one file, or its index.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Bytes of all files together.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The dtype that holds most of the bytes, in lower case: `f32`, `f16`, `bf16` or `i8`.
    pub fn stored_dtype(&self) -> String {
        self.dtypes
            .iter()
            .max_by_key(|(_, bytes)| **bytes)
            .map_or_else(|| "none".into(), |(dtype, _)| dtype.to_lowercase())
    }

    /// The first dimension of a tensor; 0 without a tensor of that name.
    pub fn rows(&self, name: &str) -> usize {
        let shape = self.tensors.get(name).map(|tensor| &tensor.shape[..]);
        shape.and_then(|shape| shape.first()).copied().unwrap_or(0)
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    fn locate(&self, name: &str, shape: &[usize]) -> Result<&Located, ModelError> {
        let Some(found) = self.tensors.get(name) else {
            return Err(ModelError::unfit(
                &self.root,
                format!("tensor {name}"),
                "nothing of that name",
                format!("shape {shape:?}"),
            ));
        };
        if found.shape != shape {
            return Err(ModelError::unfit(
                found.file.path(),
                format!("tensor {name}"),
                format!("shape {:?}", found.shape),
                format!("shape {shape:?}"),
            ));
        }
        found.used.store(true, Ordering::Relaxed);
        Ok(found)
    }

    fn wrong_dtype(found: &Located, name: &str) -> ModelError {
        ModelError::unfit(
            found.file.path(),
            format!("tensor {name}"),
            format!("dtype {:?}", found.dtype),
            "dtype F32, F16, BF16, or I8 with a scale per row",
        )
    }

    /// `len` values. Those of a folder are found to be numbers, because an infinite bias may come
    /// out of the layers as a finite score; a packed file's were when it was made.
    pub(crate) fn vector(&self, name: &str, len: usize) -> Result<Floats, ModelError> {
        let found = self.locate(name, &[len])?;
        if found.dtype == Dtype::I8 {
            return Err(Self::wrong_dtype(found, name));
        }
        let values = self.widen(name, found, 1, len)?;
        if self.manifest.is_none()
            && let Some(at) = values.iter().position(|value| !value.is_finite())
        {
            return Err(not_finite(found.file.path(), name, at, values[at]));
        }
        Ok(values)
    }

    /// `rows` by `columns` values, row-major.
    pub(crate) fn matrix(
        &self,
        name: &str,
        rows: usize,
        columns: usize,
    ) -> Result<Floats, ModelError> {
        let found = self.locate(name, &[rows, columns])?;
        self.widen(name, found, rows, columns)
    }

    /// Like [`Self::matrix`], but nothing is read before a row is asked for: for embeddings, of
    /// which a request touches little.
    pub(crate) fn table(
        &self,
        name: &str,
        rows: usize,
        columns: usize,
    ) -> Result<Table, ModelError> {
        let found = self.locate(name, &[rows, columns])?;
        // What is wanted of it is said row by row.
        found
            .file
            .read_sparsely(found.offset..found.offset + found.len);
        let values = match found.dtype {
            Dtype::F32 => TableValues::F32(self.widen(name, found, rows, columns)?),
            Dtype::F16 | Dtype::BF16 => TableValues::Half,
            Dtype::I8 => TableValues::Int8(self.vector(&format!("{name}.scale"), rows)?),
            _ => return Err(Self::wrong_dtype(found, name)),
        };
        Ok(Table {
            file: Arc::clone(&found.file),
            dtype: found.dtype,
            offset: found.offset,
            rows,
            columns,
            values,
            expected: AtomicU32::new(0),
        })
    }

    fn widen(
        &self,
        name: &str,
        found: &Located,
        rows: usize,
        columns: usize,
    ) -> Result<Floats, ModelError> {
        let len = rows * columns;
        let bytes = found.bytes();
        Ok(match found.dtype {
            Dtype::F32 if found.file.holds_f32s_at(found.offset) => Floats::Mapped {
                file: Arc::clone(&found.file),
                offset: found.offset,
                len,
            },
            Dtype::F32 => {
                let values = bytes.chunks_exact(4);
                let values = values.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
                Floats::Owned(Arc::new(values.collect()))
            }
            Dtype::F16 | Dtype::BF16 => {
                let mut values = vec![0.0; len];
                let wide = if found.dtype == Dtype::F16 {
                    f16_to_f32
                } else {
                    bf16_to_f32
                };
                values
                    .par_chunks_mut(1 << 16)
                    .zip(bytes.par_chunks(2 << 16))
                    .for_each(|(values, bytes)| wide(bytes, values));
                Floats::Owned(Arc::new(values))
            }
            Dtype::I8 => {
                let scales = self.vector(&format!("{name}.scale"), rows)?;
                let mut values = vec![0.0; len];
                values
                    .par_chunks_mut(columns.max(1))
                    .zip(bytes.par_chunks(columns.max(1)))
                    .zip(scales.par_iter())
                    .for_each(|((values, bytes), &scale)| i8_to_f32(bytes, scale, values));
                Floats::Owned(Arc::new(values))
            }
            _ => return Err(Self::wrong_dtype(found, name)),
        })
    }
}

/// A matrix of which single rows are read.
pub(crate) struct Table {
    file: Arc<Mapped>,
    dtype: Dtype,
    offset: usize,
    rows: usize,
    columns: usize,
    values: TableValues,
    /// How often [`Table::expect`] has been called.
    expected: AtomicU32,
}

/// By then the rows that requests share are in memory, and asking for them costs more than it
/// saves.
const COLD_CALLS: u32 = 64;

enum TableValues {
    F32(Floats),
    Half,
    /// Scale of each row.
    Int8(Floats),
}

impl Table {
    /// How many rows it has.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Gives the pages of `count` rows from `first` on back; they are read again when touched.
    pub(crate) fn release(&self, first: usize, count: usize) {
        let width = self.row_bytes();
        let start = self.offset + first * width;
        self.file.release(start..start + count * width);
    }

    fn row_bytes(&self) -> usize {
        let width = match self.dtype {
            Dtype::F32 => 4,
            Dtype::I8 => 1,
            _ => 2,
        };
        width * self.columns
    }

    /// Says that these rows will be read, so that those that lie on the disk come all at the same
    /// time: read one by one, each would be waited for. Rows that there are not are passed over.
    pub(crate) fn expect(&self, rows: impl IntoIterator<Item = Range<usize>>) {
        if self.expected.fetch_add(1, Ordering::Relaxed) >= COLD_CALLS {
            return;
        }
        let width = self.row_bytes();
        for rows in rows {
            let (first, end) = (rows.start, rows.end.min(self.rows));
            if first < end {
                let bytes = self.offset + first * width..self.offset + end * width;
                self.file.read_soon(bytes);
            }
        }
    }

    /// Writes row `row` into `out`, which is as long as the table is wide. `row` is below
    /// [`Self::rows`].
    pub(crate) fn read_row(&self, row: usize, out: &mut [f32]) {
        let range = row * self.columns..(row + 1) * self.columns;
        let stored = |width: usize| {
            &self.file.bytes()[self.offset + range.start * width..self.offset + range.end * width]
        };
        match &self.values {
            TableValues::F32(values) => out.copy_from_slice(&values[range]),
            TableValues::Half if self.dtype == Dtype::F16 => f16_to_f32(stored(2), out),
            TableValues::Half => bf16_to_f32(stored(2), out),
            TableValues::Int8(scales) => i8_to_f32(stored(1), scales[row], out),
        }
    }
}

fn f16_to_f32(bytes: &[u8], out: &mut [f32]) {
    for (value, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
        *value = f16::from_le_bytes([b[0], b[1]]).to_f32();
    }
}

fn bf16_to_f32(bytes: &[u8], out: &mut [f32]) {
    for (value, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
        *value = bf16::from_le_bytes([b[0], b[1]]).to_f32();
    }
}

fn i8_to_f32(bytes: &[u8], scale: f32, out: &mut [f32]) {
    for (value, &b) in out.iter_mut().zip(bytes) {
        *value = f32::from(b.cast_signed()) * scale;
    }
}

/// How large a safetensors file should be by its own header.
fn described_size(bytes: &[u8]) -> Option<usize> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    let header = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let metadata: Metadata = serde_json::from_slice(rest.get(..header)?).ok()?;
    Some(8 + header + metadata.data_len())
}

/// A value that is no number to compute with; `row` counts from 0.
pub(crate) fn not_finite(path: &Path, name: &str, row: usize, value: f32) -> ModelError {
    ModelError::unfit(
        path,
        format!("tensor {name}, row {row}"),
        value,
        "a finite number",
    )
}

/// A file with weights, and the tensors that the index places in it; all of them if there is no
/// index.
type Shard = (String, Option<BTreeSet<String>>);

/// The folder's one file, or its index, with the names of the files that hold the weights; nothing
/// where it has neither.
fn weight_files(folder: &Path) -> Result<Option<(PathBuf, Vec<Shard>)>, ModelError> {
    let modules = folder::module_files(folder, SINGLE_FILE)?;
    let modules = modules.into_iter().map(|file| (file, None));
    let single = folder.join(SINGLE_FILE);
    if single.exists() {
        let own = std::iter::once((SINGLE_FILE.to_owned(), None));
        return Ok(Some((single, own.chain(modules).collect())));
    }
    let index = folder.join(INDEX_FILE);
    if !index.exists() {
        return Ok(None);
    }
    let files = parse_index(&read_file(&index)?).map_err(|reason| {
        let expected = "a weight_map that gives each tensor a plain file name";
        ModelError::unfit(&index, "index", reason, expected)
    })?;
    let mut shards: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (tensor, file) in files {
        shards.entry(file).or_default().insert(tensor);
    }
    let shards = shards.into_iter().map(|(file, names)| (file, Some(names)));
    Ok(Some((index, shards.chain(modules).collect())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::tensor::{TensorView, serialize_to_file};

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary folder")
    }

    fn write(folder: &Path, tensors: &[(&str, Dtype, &[usize], Vec<u8>)]) {
        let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
            let view = TensorView::new(*dtype, shape.to_vec(), bytes).expect("a valid tensor");
            ((*name).to_string(), view)
        });
        serialize_to_file(views, None, &folder.join(SINGLE_FILE)).expect("written");
    }

    #[test]
    fn every_dtype_gives_the_same_values_whole_and_row_by_row() {
        let values = [1.0f32, -2.0, 0.5, 96.0, -0.25, 0.0];
        let dir = folder();
        let f32s = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let f16s = values
            .iter()
            .flat_map(|v| f16::from_f32(*v).to_le_bytes())
            .collect();
        let bf16s = values
            .iter()
            .flat_map(|v| bf16::from_f32(*v).to_le_bytes())
            .collect();
        let scales = [0.5f32, 1.0, 0.25];
        let ints = [2i8, -4, 0, 96, -1, 0].iter().map(|v| *v as u8).collect();
        write(
            dir.path(),
            &[
                ("f32", Dtype::F32, &[3, 2], f32s),
                ("f16", Dtype::F16, &[3, 2], f16s),
                ("bf16", Dtype::BF16, &[3, 2], bf16s),
                ("int8", Dtype::I8, &[3, 2], ints),
                (
                    "int8.scale",
                    Dtype::F32,
                    &[3],
                    scales.iter().flat_map(|v| v.to_le_bytes()).collect(),
                ),
            ],
        );
        let weights = Weights::open(dir.path()).expect("opens");
        let int8_values = [1.0f32, -2.0, 0.0, 96.0, -0.25, 0.0];
        for (name, expected) in [
            ("f32", values),
            ("f16", values),
            ("bf16", values),
            ("int8", int8_values),
        ] {
            assert_eq!(
                &weights.matrix(name, 3, 2).expect(name)[..],
                expected,
                "{name}"
            );
            let table = weights.table(name, 3, 2).expect(name);
            // A hint that changes nothing, for rows that there are not either.
            table.expect([0..1, 2..9, 3..4, usize::MAX - 1..usize::MAX]);
            for row in 0..3 {
                let mut out = [f32::NAN; 2];
                table.read_row(row, &mut out);
                assert_eq!(out, expected[row * 2..row * 2 + 2], "{name} row {row}");
            }
        }
    }

    #[test]
    fn a_missing_or_misshapen_tensor_is_named_with_what_was_found() {
        let dir = folder();
        write(
            dir.path(),
            &[
                ("w", Dtype::F32, &[2, 2], vec![0; 16]),
                ("i", Dtype::I64, &[2], vec![0; 16]),
            ],
        );
        let weights = Weights::open(dir.path()).expect("opens");
        let message =
            |result: Result<Floats, ModelError>| result.err().expect("refused").to_string();
        assert!(
            message(weights.matrix("w", 2, 3)).ends_with(
                "model.safetensors: tensor w: found shape [2, 2], expected shape [2, 3]"
            )
        );
        assert!(message(weights.vector("v", 3)).ends_with(
            "model.safetensors: tensor v: found nothing of that name, expected shape [3]"
        ));
        assert!(message(weights.vector("i", 2)).contains("found dtype I64"));
    }

    #[test]
    fn a_file_cut_at_any_length_is_refused() {
        let dir = folder();
        write(dir.path(), &[("w", Dtype::F32, &[4], vec![7; 16])]);
        let path = dir.path().join(SINGLE_FILE);
        let whole = std::fs::read(&path).expect("read");
        for len in 0..whole.len() {
            std::fs::write(&path, &whole[..len]).expect("written");
            let error = Weights::open(dir.path())
                .err()
                .expect("refused")
                .to_string();
            assert!(error.contains(SINGLE_FILE), "{error}");
        }
        let longer = [&whole[..], b"x"].concat();
        std::fs::write(&path, longer).expect("written");
        let error = Weights::open(dir.path())
            .err()
            .expect("refused")
            .to_string();
        assert!(error.contains("file size"), "{error}");
    }

    #[test]
    fn an_index_that_leaves_its_folder_is_refused() {
        let dir = folder();
        std::fs::write(
            dir.path().join(INDEX_FILE),
            r#"{"weight_map": {"w": "../elsewhere.safetensors"}}"#,
        )
        .expect("written");
        let error = Weights::open(dir.path())
            .err()
            .expect("refused")
            .to_string();
        assert!(error.contains("a plain file name"), "{error}");
    }
}
