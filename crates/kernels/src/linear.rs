//! The linear layer: `x · wᵀ` with the weights in the natural row-major layout `[n, k]` in which Hugging Face stores them,
//! so that a memory-mapped file is used as it lies there.
//!
//! Both operands are packed on the way: a chunk of `x` once per call, in panels of a register tile's rows, shared by all
//! threads; `w` panel by panel of two vectors of columns, by the thread that multiplies it, into memory that stays in its
//! second-level cache. Packing handles each value once where it is then used for every row of the other operand: some
//! 2-4 % of the time at 512 rows, most of it waiting for weights from memory.
//!
//! Each output is summed over k in blocks of [`BLOCK`], each block from 0 with one multiply-add a term, the blocks then
//! added in order. Nothing in this depends on the number of rows or threads.

use crate::elementwise::gelu_row;
use crate::isa::Kernels;
use crate::parallel::{self, Shared};
use crate::scratch::{Buffer, Slot};
use crate::simd::{Kernel, Simd, transpose};
use crate::tile::{dispatch_rows, pack_panel, panel_start, panels, product};

/// Terms summed in registers before they are added to the output.
const BLOCK: usize = 512;
/// Rows of `x` packed at a time: bounds the scratch memory (4 * CHUNK * k bytes).
const CHUNK: usize = 768;
/// Column panels a thread packs and multiplies together: a panel of `x` is read from the first-level cache for all but the
/// first of them.
const GROUP: usize = 4;
/// The same where the packed rows are more than [`FAR`] values and so come from far away each time: measured at
/// 512 x 4096 x 1024, 13 % faster on AVX2 and 2 % on AVX-512, while smaller rows lose 1-4 %.
const FAR_GROUP: usize = 8;
/// See [`FAR_GROUP`]: 4 MiB.
const FAR: usize = 1 << 20;
/// Multiply-adds below which the work stays on the calling thread.
const SERIAL: usize = 1 << 16;
/// Vectors in a row of the register tile.
const VECTORS: usize = 2;

/// The sizes of a linear layer's operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinearShape {
    /// Rows of `x` and of the output: tokens.
    pub m: usize,
    /// Columns of `x` and of `w`: input features.
    pub k: usize,
    /// Rows of `w`, columns of the output: output features.
    pub n: usize,
}

/// What is done to the product while it is still in the cache.
#[derive(Clone, Copy, Debug)]
pub enum Epilogue<'a> {
    /// Nothing: `x · wᵀ`.
    None,
    /// `x · wᵀ + bias`, `bias` being `[n]`.
    Bias(&'a [f32]),
    /// `gelu(x · wᵀ + bias)`, with the GELU of [`Kernels::bias_gelu`].
    BiasGelu(&'a [f32]),
}

impl<'a> Epilogue<'a> {
    fn bias(self) -> Option<&'a [f32]> {
        match self {
            Epilogue::None => None,
            Epilogue::Bias(bias) | Epilogue::BiasGelu(bias) => Some(bias),
        }
    }
}

impl Kernels {
    /// `out[m, n] = epilogue(x[m, k] · w[n, k]ᵀ)`, all row-major and contiguous; what `out` held before
    /// does not matter.
    ///
    /// The error is that of f32 sums of blocks of 512 terms: below `1e-6 · Σ|x w|` up to k = 4096, typically a tenth of it.
    /// Row `i` of `out` has the same bits for every `m`, every place of the row, and any number of threads.
    ///
    /// Runs on rayon's current pool; a small product stays on the calling thread.
    ///
    /// # Panics
    /// If the length of `x`, `w`, `out` or the bias does not fit `shape`.
    pub fn linear(
        self,
        x: &[f32],
        w: &[f32],
        shape: LinearShape,
        epilogue: Epilogue<'_>,
        out: &mut [f32],
    ) {
        assert!(
            Some(out.len()) == shape.m.checked_mul(shape.n),
            "linear: out of {} values does not fit {shape:?}",
            out.len()
        );
        self.linear_columns(x, w, shape, epilogue, out, shape.n);
    }

    /// [`Kernels::linear`] into some columns of a wider matrix: `out` begins at the first of them, and its rows are
    /// `stride` values apart. What lies between the columns is left alone.
    ///
    /// # Panics
    /// As [`Kernels::linear`], and if `stride` is below `n` or `out` ends before the last row's columns.
    pub fn linear_columns(
        self,
        x: &[f32],
        w: &[f32],
        shape: LinearShape,
        epilogue: Epilogue<'_>,
        out: &mut [f32],
        stride: usize,
    ) {
        let LinearShape { m, k, n } = shape;
        let reach = m
            .saturating_sub(1)
            .checked_mul(stride)
            .and_then(|reach| reach.checked_add(if m == 0 { 0 } else { n }));
        assert!(
            stride >= n && reach.is_some_and(|reach| out.len() >= reach),
            "linear: out of {} values in rows {stride} apart does not fit {shape:?}",
            out.len()
        );
        for (name, got, want) in [
            ("x", x.len(), m.checked_mul(k)),
            ("w", w.len(), n.checked_mul(k)),
            ("bias", epilogue.bias().map_or(n, <[f32]>::len), Some(n)),
        ] {
            assert!(
                Some(got) == want,
                "linear: {name} of {got} values does not fit {shape:?}"
            );
        }
        if m == 0 || n == 0 {
            return;
        }
        let out = Shared::new(out);
        for first in (0..m).step_by(CHUNK) {
            let rows = CHUNK.min(m - first);
            let mut packed = Buffer::take(Slot::Call, rows * k);
            self.multiply(&Chunk {
                x: &x[first * k..][..rows * k],
                w,
                packed: Shared::new(&mut packed),
                rows,
                k,
                n,
                epilogue,
                stride,
                // SAFETY: row `first` of `m` begins within `out`, which reaches to the end of row `m - 1`.
                out: unsafe { out.skip(first * stride) },
            });
        }
    }

    fn multiply(self, chunk: &Chunk<'_>) {
        let (panels, width) = self.dispatch_f32(Geometry { rows: chunk.rows });
        let column_panels = chunk.n.div_ceil(width);
        if chunk.rows * chunk.k * chunk.n <= SERIAL {
            for panel in 0..panels {
                self.dispatch_f32(PackRows { chunk, panel });
            }
            let (rows, columns) = (0..panels, 0..column_panels);
            self.dispatch_f32(MultiplyGroup {
                chunk,
                rows,
                columns,
            });
            return;
        }
        parallel::for_each(panels, |panel| self.dispatch_f32(PackRows { chunk, panel }));
        // Where the columns alone would leave threads idle at the end, the rows are split too.
        let wanted = 4 * rayon::current_num_threads();
        let most = if chunk.rows * chunk.k > FAR {
            FAR_GROUP
        } else {
            GROUP
        };
        let group = (column_panels / wanted).clamp(1, most);
        let column_groups = column_panels.div_ceil(group);
        let row_groups = wanted
            .div_ceil(column_groups)
            .min(panels.div_ceil(4))
            .max(1);
        parallel::for_each(column_groups * row_groups, |item| {
            let (column, row) = (item / row_groups, item % row_groups);
            let rows =
                panel_start(row, row_groups, panels)..panel_start(row + 1, row_groups, panels);
            let columns = column * group..(column * group + group).min(column_panels);
            self.dispatch_f32(MultiplyGroup {
                chunk,
                rows,
                columns,
            });
        });
    }
}

/// A run of at most [`CHUNK`] rows, and everything its items share.
struct Chunk<'a> {
    x: &'a [f32],
    w: &'a [f32],
    /// `x` in panels one after the other, each `[k, rows of the panel]`; `rows * k` long.
    packed: Shared,
    rows: usize,
    k: usize,
    n: usize,
    epilogue: Epilogue<'a>,
    /// From the start of a row of the output to the next.
    stride: usize,
    /// The chunk's rows of the output; the last of them is `n` long at least.
    out: Shared,
}

/// How many row panels `rows` make, and how many columns a column panel has.
struct Geometry {
    rows: usize,
}

impl Kernel for Geometry {
    type Output = (usize, usize);

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> (usize, usize) {
        (panels(self.rows, S::TILE_ROWS), VECTORS * S::LANES)
    }
}

/// Packs one panel of `x`. Each panel of a chunk must be packed once, before any [`MultiplyGroup`].
struct PackRows<'a> {
    chunk: &'a Chunk<'a>,
    panel: usize,
}

impl Kernel for PackRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Chunk {
            x, packed, rows, k, ..
        } = *self.chunk;
        let count = panels(rows, S::TILE_ROWS);
        let start = panel_start(self.panel, count, rows);
        let height = panel_start(self.panel + 1, count, rows) - start;
        // SAFETY: rows start..start + height lie within `x`. The panel takes `height * k` values from `start * k` of
        // `packed`, and is written by this item alone.
        unsafe {
            pack_panel(
                s,
                (x.as_ptr().add(start * k), k),
                (height, k),
                packed.at(start * k),
            );
        }
    }
}

/// Multiplies a range of row panels with a range of column panels, which it packs.
struct MultiplyGroup<'a> {
    chunk: &'a Chunk<'a>,
    rows: std::ops::Range<usize>,
    columns: std::ops::Range<usize>,
}

impl Kernel for MultiplyGroup<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let width = VECTORS * S::LANES;
        let count = self.columns.len();
        let k = self.chunk.k;
        let blocks = k.div_ceil(BLOCK).max(1);
        let panels = panels(self.chunk.rows, S::TILE_ROWS);
        let first_row = panel_start(self.rows.start, panels, self.chunk.rows);
        let rows = panel_start(self.rows.end, panels, self.chunk.rows) - first_row;
        let packed_len = count * width * BLOCK.min(k);
        let partial_len = if blocks > 1 { rows * count * width } else { 0 };
        let mut scratch = Buffer::take(Slot::Thread, packed_len + partial_len);
        let (packed, partial) = scratch.split_at_mut(packed_len);
        for block in 0..blocks {
            let start = block * BLOCK;
            let depth = BLOCK.min(k - start);
            for (i, column) in self.columns.clone().enumerate() {
                let packed = &mut packed[i * width * depth..][..width * depth];
                pack_columns(s, self.chunk, column * width, start, packed);
            }
            for panel in self.rows.clone() {
                let row = panel_start(panel, panels, self.chunk.rows);
                let height = panel_start(panel + 1, panels, self.chunk.rows) - row;
                for (i, column) in self.columns.clone().enumerate() {
                    let place = Place {
                        row,
                        height,
                        column: column * width,
                        start,
                        depth,
                        last: block + 1 == blocks,
                    };
                    let columns = &packed[i * width * depth..][..width * depth];
                    let partial = if blocks > 1 {
                        let tile = (row - first_row) * count + i * height;
                        &mut partial[tile * width..][..height * width]
                    } else {
                        &mut []
                    };
                    multiply_panels(s, self.chunk, place, columns, partial);
                }
            }
        }
    }
}

/// Packs the terms `start..` of the weights' rows `column..` as `[depth, VECTORS * LANES]`, with zeros for rows that
/// `w` does not have.
#[inline(always)]
fn pack_columns<S: Simd>(s: S, chunk: &Chunk<'_>, column: usize, start: usize, packed: &mut [f32]) {
    let width = VECTORS * S::LANES;
    let depth = packed.len() / width;
    assert!(start + depth <= chunk.k && column < chunk.n && chunk.w.len() == chunk.n * chunk.k);
    for vector in 0..VECTORS {
        let row = (column + vector * S::LANES).min(chunk.n);
        let rows = S::LANES.min(chunk.n - row);
        // SAFETY: rows row..row + rows of `w` have `depth` values from `start` on (asserted; with no rows nothing is
        // read, and the address, computed by wrapping, is not used); `packed` has `depth` rows of `width`, of which this
        // writes LANES from `vector * LANES` on.
        unsafe {
            transpose(
                s,
                (
                    chunk.w.as_ptr().wrapping_add(row * chunk.k + start),
                    chunk.k,
                ),
                (rows, depth),
                (packed.as_mut_ptr().add(vector * S::LANES), width),
                depth,
            );
        }
    }
}

/// Which tile of the output, and which terms of its sums.
#[derive(Clone, Copy)]
struct Place {
    row: usize,
    height: usize,
    column: usize,
    start: usize,
    depth: usize,
    last: bool,
}

/// Adds the place's terms to its tile. `columns` are the packed weights; `partial` holds the tile's sums between the blocks,
/// where there are several: next to each other, while the rows of the output may lie a power of two apart and would
/// drive each other out of the cache.
#[inline(always)]
fn multiply_panels<S: Simd>(
    s: S,
    chunk: &Chunk<'_>,
    place: Place,
    columns: &[f32],
    partial: &mut [f32],
) {
    dispatch_rows!(place.height, S, TILE_ROWS, |ROWS| multiply_tile::<S, ROWS>(
        s, chunk, place, columns, partial
    ));
    if place.last && matches!(chunk.epilogue, Epilogue::BiasGelu(_)) {
        for row in place.row..place.row + place.height {
            // SAFETY: a row of the tile just written; that reference to it is gone.
            let out = unsafe { out_row(chunk, row, place.column, VECTORS * S::LANES) };
            gelu_row::<S, false>(s, out);
        }
    }
}

#[inline(always)]
fn multiply_tile<S: Simd, const ROWS: usize>(
    s: S,
    chunk: &Chunk<'_>,
    place: Place,
    columns: &[f32],
    partial: &mut [f32],
) {
    let width = VECTORS * S::LANES;
    let Place {
        row,
        column,
        start,
        depth,
        last,
        ..
    } = place;
    assert!(columns.len() == width * depth);
    // SAFETY: `columns` is `depth` steps of `width`; the panel of `ROWS` rows from `row` begins at `row * k` of `packed`
    // and has ROWS values a step, of which `depth` from `start` on are within k.
    let mut sums = unsafe {
        let rows = chunk.packed.at(row * chunk.k + start * ROWS).cast_const();
        product::<S, ROWS, VECTORS>(s, depth, (rows, ROWS), (columns.as_ptr(), width))
    };
    if start > 0 {
        for (sums, partial) in sums.iter_mut().zip(partial.chunks_exact(width)) {
            for (sum, partial) in sums.iter_mut().zip(partial.chunks_exact(S::LANES)) {
                *sum = s.add(s.load(partial), *sum);
            }
        }
    }
    if !last {
        for (sums, partial) in sums.into_iter().zip(partial.chunks_exact_mut(width)) {
            for (sum, partial) in sums.into_iter().zip(partial.chunks_exact_mut(S::LANES)) {
                s.store(partial, sum);
            }
        }
        return;
    }
    for (i, sums) in sums.into_iter().enumerate() {
        // SAFETY: a row of this item's tile, the only reference to it.
        let out = unsafe { out_row(chunk, row + i, column, width) };
        for (j, sum) in sums.into_iter().enumerate() {
            let first = j * S::LANES;
            if first + S::LANES <= out.len() {
                let sum = match chunk.epilogue.bias() {
                    Some(bias) => s.add(sum, s.load(&bias[column + first..])),
                    None => sum,
                };
                s.store(&mut out[first..], sum);
            } else if first < out.len() {
                let sum = match chunk.epilogue.bias() {
                    Some(bias) => s.add(sum, s.load_first(&bias[column + first..])),
                    None => sum,
                };
                s.store_first(&mut out[first..], sum);
            }
        }
    }
}

/// The values of row `row` of the chunk's output from `column` on, `width` or as many as there are.
///
/// # Safety
/// They must lie in a tile of the item at hand (items do not share tiles), and nothing else may refer to them for as long
/// as the result lives.
#[inline(always)]
unsafe fn out_row<'a>(chunk: &Chunk<'_>, row: usize, column: usize, width: usize) -> &'a mut [f32] {
    assert!(row < chunk.rows && column < chunk.n);
    // SAFETY: asserted to begin within one of the chunk's rows and cut at that row's `n` values, which `out` was checked to
    // reach; exclusive as the caller promises.
    unsafe {
        std::slice::from_raw_parts_mut(
            chunk.out.at(row * chunk.stride + column),
            width.min(chunk.n - column),
        )
    }
}
