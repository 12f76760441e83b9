//! Quantizing rows of activations, and multiplying them with a packed matrix.
//!
//! Quantized rows lie in tiles of as many rows as the register tile has, each `[k / 4, rows, 4]` bytes, so that the product
//! reads both operands from one end to the other. The residual rows of high-precision rows come first, so that their products are
//! there when those of the rows themselves are finished.

use crate::elementwise::gelu_row;
use crate::int8::{Int8Matrix, Levels, PANEL, Smooth};
use crate::scratch::as_bytes;
use crate::simd::{Kernel, Simd};
use crate::tile::{STRIPS, dispatch_rows, for_rows, load_words, pack_panel, panel_start, panels};

/// How to read a row's bytes: `x = low + step * byte`, `byte` as it lies in memory (signed or not).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Scale {
    pub(super) step: f32,
    pub(super) low: f32,
    /// What the integer sums begin with: with two planes of bytes, what [`Simd::dot4`] leaves out.
    start: i32,
    /// Of a high-precision row, 1 + the number of its residual row.
    pub(super) residual: usize,
}

/// How many products of byte pairs this instruction set adds up in 16 bits for operands of such levels; 0 where it takes
/// [`Simd::dot4`] or [`Simd::dot_blocks`], which any bytes may have.
pub(crate) const fn depth<S: Simd>(levels: Levels) -> usize {
    if S::NARROW { levels.depth() } else { 0 }
}

/// How a row's values become bytes.
#[derive(Clone, Copy)]
struct Coding {
    /// The largest byte, before 128 is taken from signed ones.
    most: u8,
    /// For [`Simd::dot_narrow`].
    narrow: bool,
    signed: bool,
    planes: usize,
}

impl Coding {
    #[inline(always)]
    fn of<S: Simd>(levels: Levels) -> Self {
        let narrow = depth::<S>(levels) > 0;
        Self {
            most: levels.inputs,
            narrow,
            signed: S::SIGNED && !narrow,
            planes: if narrow { 1 } else { S::PLANES },
        }
    }
}

/// The rows that are quantized together, and the numbers of the high-precision ones among them, ascending.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows<'a> {
    pub(super) count: usize,
    pub(super) high_precision: &'a [usize],
}

impl Rows<'_> {
    /// Rows of bytes, residual rows included.
    pub(super) fn total(self) -> usize {
        self.count + self.high_precision.len()
    }
}

/// Floats of scratch memory for `count` rows of `k` values and `residuals` residual rows: the tiles, then one tile row by row, then
/// one row of values, then the products of the residual rows with one part of the columns.
pub(super) const fn scratch_len<S: Simd>(count: usize, residuals: usize, k: usize) -> usize {
    S::PLANES * ((count + residuals) * k.div_ceil(4) + S::INT8_ROWS * staged_len(k))
        + k
        + residuals * PANEL
}

/// Words from one staged row to the next: a cache line more than needed, so that rows of a power of two do not compete for
/// the same few lines of the cache, and room for a last whole vector.
const fn staged_len(k: usize) -> usize {
    k.div_ceil(4) + 16
}

/// Quantizes rows of `x`, `stride` values apart, for a product with `m`: `scratch` ([`scratch_len`] floats of it) gets the
/// tiles, `scales` (at least as many as rows in total) each row's scale.
///
/// A row that holds a NaN or an infinity gets a scale that makes every product with it NaN.
#[inline(always)]
pub(super) fn quantize_rows<S: Simd>(
    s: S,
    (x, stride): (&[f32], usize),
    m: &Int8Matrix<'_>,
    rows: Rows<'_>,
    scratch: &mut [f32],
    scales: &mut [Scale],
) {
    // Compiled once, and not for each of the encoder's products.
    s.vectorize(Quantize {
        x,
        stride,
        m,
        rows,
        scratch,
        scales,
    });
}

struct Quantize<'a> {
    x: &'a [f32],
    stride: usize,
    m: &'a Int8Matrix<'a>,
    rows: Rows<'a>,
    scratch: &'a mut [f32],
    scales: &'a mut [Scale],
}

impl Kernel for Quantize<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self {
            x,
            stride,
            m,
            rows,
            scratch,
            scales,
        } = self;
        let total = rows.total();
        let residuals = rows.high_precision.len();
        let scales = &mut scales[..total];
        let width = m.k.div_ceil(4);
        let coding = Coding::of::<S>(m.levels);
        let planes = coding.planes;
        let staged_width = staged_len(m.k);
        let (tiles, rest) = scratch.split_at_mut(planes * total * width);
        let plane = S::INT8_ROWS * staged_width;
        let (staged, rest) = rest.split_at_mut(planes * plane);
        let room = &mut rest[..m.k];
        let count = panels(total, S::INT8_ROWS);
        for tile in 0..count {
            let first = panel_start(tile, count, total);
            let height = panel_start(tile + 1, count, total) - first;
            for i in 0..height {
                let (row, signs) = staged[i * staged_width..].split_at_mut(staged_width);
                let row = as_bytes(row);
                let number = first + i;
                scales[number] = quantize_numbered(s, (x, stride), m, rows, number, row, room);
                if planes == 2 {
                    let signs = as_bytes(&mut signs[plane - staged_width..][..width]);
                    scales[number].start = split_signs(&mut row[..width * 4], signs);
                }
            }
            let tile = &mut tiles[planes * first * width..][..planes * height * width];
            for (staged, tile) in staged
                .chunks_exact(plane)
                .zip(tile.chunks_exact_mut(height * width))
            {
                // SAFETY: `height <= INT8_ROWS` rows of `width` words lie `staged_width` apart in the staged plane, and as many in
                // the tile's.
                unsafe {
                    let staged = (staged.as_ptr(), staged_width);
                    pack_panel(s, staged, (height, width), tile.as_mut_ptr());
                }
            }
        }
        for (residual, &row) in rows.high_precision.iter().enumerate() {
            scales[residuals + row].residual = 1 + residual;
        }
    }
}

/// Quantizes row `number` of `rows`, whose residual rows come first: the bytes of a residual row are its row's residual, for which
/// there is `room`, `k` values.
#[inline(always)]
pub(super) fn quantize_numbered<S: Simd>(
    s: S,
    (x, stride): (&[f32], usize),
    m: &Int8Matrix<'_>,
    rows: Rows<'_>,
    number: usize,
    bytes: &mut [u8],
    room: &mut [f32],
) -> Scale {
    let residuals = rows.high_precision.len();
    if number >= residuals {
        let x = &x[(number - residuals) * stride..][..m.k];
        return quantize_smoothed(s, x, m, bytes);
    }
    let x = &x[rows.high_precision[number] * stride..][..m.k];
    let scale = quantize_smoothed(s, x, m, bytes);
    residual_into::<S>(s, x, m, scale, bytes, room);
    quantize_residual(s, room, m, bytes)
}

/// What the bytes of a row leave out of its smoothed values.
#[inline(always)]
pub(super) fn residual_into<S: Simd>(
    s: S,
    x: &[f32],
    m: &Int8Matrix<'_>,
    scale: Scale,
    bytes: &[u8],
    residual: &mut [f32],
) {
    let coding = Coding::of::<S>(m.levels);
    residual.copy_from_slice(x);
    if let Some(smooth) = m.smooth {
        let smoothed = Smoothed { x, smooth };
        let whole = x.len() / S::LANES * S::LANES;
        for at in (0..whole).step_by(S::LANES) {
            s.store(&mut residual[at..], smoothed.at(s, at));
        }
        if whole < x.len() {
            s.store_first(&mut residual[whole..], smoothed.last(s, whole));
        }
    }
    for (v, byte) in residual.iter_mut().zip(bytes) {
        let byte = if coding.signed {
            f32::from(byte.cast_signed())
        } else {
            f32::from(*byte)
        };
        *v -= scale.low + scale.step * byte;
    }
}

/// Takes signed bytes apart into magnitudes, left in `bytes`, and signs, 0 or -1; returns the negative ones' sum of magnitudes.
#[inline(always)]
fn split_signs(bytes: &mut [u8], signs: &mut [u8]) -> i32 {
    let mut sum = 0;
    for (byte, sign) in bytes.iter_mut().zip(signs) {
        let signed = byte.cast_signed();
        *byte = signed.unsigned_abs();
        *sign = (signed >> 7).cast_unsigned();
        sum += i32::from(*byte & *sign);
    }
    sum
}

/// A row as it is to be quantized.
trait Row {
    fn len(&self) -> usize;

    /// The vector from `at` on.
    fn at<S: Simd>(&self, s: S, at: usize) -> S::V;

    fn value(&self, at: usize) -> f32;

    /// The values from `at` on, fewer than a vector but not none, then the last of them again and again, which changes neither
    /// extreme.
    #[inline(always)]
    fn last<S: Simd>(&self, s: S, at: usize) -> S::V {
        let mut lanes = [0.0; 16];
        for (lane, v) in lanes[..S::LANES].iter_mut().enumerate() {
            *v = self.value((at + lane).min(self.len() - 1));
        }
        s.load(&lanes)
    }
}

struct Plain<'a>(&'a [f32]);

impl Row for Plain<'_> {
    #[inline(always)]
    fn len(&self) -> usize {
        self.0.len()
    }

    #[inline(always)]
    fn at<S: Simd>(&self, s: S, at: usize) -> S::V {
        s.load(&self.0[at..])
    }

    #[inline(always)]
    fn value(&self, at: usize) -> f32 {
        self.0[at]
    }
}

struct Smoothed<'a> {
    x: &'a [f32],
    smooth: Smooth<'a>,
}

impl Row for Smoothed<'_> {
    #[inline(always)]
    fn len(&self) -> usize {
        self.x.len()
    }

    #[inline(always)]
    fn at<S: Simd>(&self, s: S, at: usize) -> S::V {
        let Smooth { factor, offset } = self.smooth;
        s.mul_add(
            s.load(&self.x[at..]),
            s.load(&factor[at..]),
            s.load(&offset[at..]),
        )
    }

    #[inline(always)]
    fn value(&self, at: usize) -> f32 {
        self.x[at] * self.smooth.factor[at] + self.smooth.offset[at]
    }
}

/// The extremes of what it saw.
struct Extremes<V> {
    low: V,
    high: V,
    /// 0, or NaN if a value was not finite: the extremes may lose a NaN.
    poison: V,
}

impl<V: Copy> Extremes<V> {
    #[inline(always)]
    fn new<S: Simd<V = V>>(s: S) -> Self {
        Self {
            low: s.splat(f32::INFINITY),
            high: s.splat(f32::NEG_INFINITY),
            poison: s.splat(0.0),
        }
    }

    #[inline(always)]
    fn see<S: Simd<V = V>>(&mut self, s: S, v: V) {
        self.low = s.min(self.low, v);
        self.high = s.max(self.high, v);
        self.poison = s.mul_add(v, s.splat(0.0), self.poison);
    }
}

/// Quantizes one row of a product with `m` to `bytes`, which have room for a whole last vector.
#[inline(always)]
pub(super) fn quantize_smoothed<S: Simd>(
    s: S,
    x: &[f32],
    m: &Int8Matrix<'_>,
    bytes: &mut [u8],
) -> Scale {
    let coding = Coding::of::<S>(m.levels);
    match m.smooth {
        Some(Smooth { factor, offset }) => {
            let (factor, offset) = (&factor[..x.len()], &offset[..x.len()]);
            let smooth = Smooth { factor, offset };
            quantize_row(s, &Smoothed { x, smooth }, coding, bytes)
        }
        None => quantize_row(s, &Plain(x), coding, bytes),
    }
}

/// Quantizes what [`residual_into`] found, as it is.
#[inline(always)]
pub(super) fn quantize_residual<S: Simd>(
    s: S,
    residual: &[f32],
    m: &Int8Matrix<'_>,
    bytes: &mut [u8],
) -> Scale {
    quantize_row(s, &Plain(residual), Coding::of::<S>(m.levels), bytes)
}

#[inline(always)]
fn quantize_row<S: Simd>(s: S, row: &impl Row, coding: Coding, bytes: &mut [u8]) -> Scale {
    let len = row.len();
    let whole = len / S::LANES * S::LANES;
    let mut seen = [Extremes::new(s), Extremes::new(s)];
    let mut at = 0;
    while at + 2 * S::LANES <= whole {
        seen[0].see(s, row.at(s, at));
        seen[1].see(s, row.at(s, at + S::LANES));
        at += 2 * S::LANES;
    }
    if at < whole {
        seen[0].see(s, row.at(s, at));
    }
    if whole < len {
        seen[1].see(s, row.last(s, whole));
    }
    let [a, b] = seen;
    let low = -s.largest(s.sub(s.splat(0.0), s.min(a.low, b.low)));
    let range = s.largest(s.max(a.high, b.high)) - low;
    let poison = s.sum(s.add(a.poison, b.poison));
    let most = f32::from(coding.most);
    // Of a constant row every byte is 0 and `low` says it all; the same where the range is no normal number.
    let (step, inverse) = if range > f32::MIN_POSITIVE * 256.0 {
        (range / most, most / range)
    } else {
        (0.0, 0.0)
    };

    let (factor, offset) = (s.splat(inverse), s.splat(-low * inverse));
    assert!(bytes.len() >= whole + S::LANES);
    let most = s.splat(most);
    let mut store = |v: S::V, at: usize| {
        let v = s.mul_add(v, factor, offset);
        assert!(at <= whole);
        // SAFETY: LANES bytes from `at <= whole` on are within `bytes`, by the assertions.
        unsafe {
            let bytes = bytes.as_mut_ptr().add(at);
            if S::NARROW && coding.narrow {
                // Rounding may lead a little beyond, which the product could not bear. A NaN is no number afterwards, which
                // `poison` has seen.
                s.store_narrow(bytes, s.min(v, most));
            } else {
                s.store_activations(bytes, v);
            }
        }
    };
    let mut at = 0;
    while at < whole {
        store(row.at(s, at), at);
        at += S::LANES;
    }
    if whole < len {
        store(row.last(s, whole), whole);
    }
    let low = if coding.signed {
        low + 128.0 * step
    } else {
        low
    };
    Scale {
        step: step + poison,
        low: low + poison,
        ..Scale::default()
    }
}

/// Where a product goes: rows `stride` values apart.
pub(super) struct Out {
    pub(super) values: *mut f32,
    pub(super) stride: usize,
    /// So many columns, a multiple of [`PANEL`], lie side by side; the next ones begin `slab_stride` values further on.
    pub(super) slab: usize,
    pub(super) slab_stride: usize,
}

impl Out {
    pub(super) fn rows(values: &mut [f32], stride: usize) -> Self {
        Self {
            values: values.as_mut_ptr(),
            stride,
            slab: usize::MAX,
            slab_stride: 0,
        }
    }
}

/// Quantized rows times the matrix, plus bias, then GELU if asked. `scratch` and `scales` are as [`quantize_rows`] left them
/// with the same rows.
///
/// # Safety
/// `out.values` must be writable for `m.n` f32 at each of `rows.count` row starts (for each slab's columns, in slabs), and
/// nothing else may refer to them meanwhile.
#[inline(always)]
pub(super) unsafe fn multiply_rows<S: Simd>(
    s: S,
    scratch: &mut [f32],
    scales: &[Scale],
    m: &Int8Matrix<'_>,
    rows: Rows<'_>,
    gelu: bool,
    out: &Out,
) {
    // Compiled once, and not for each of the encoder's products: there is a tile for each height and depth.
    s.vectorize(Multiply {
        scratch,
        scales,
        m,
        rows,
        gelu,
        out,
    });
}

struct Multiply<'a> {
    scratch: &'a mut [f32],
    scales: &'a [Scale],
    m: &'a Int8Matrix<'a>,
    rows: Rows<'a>,
    gelu: bool,
    /// Keeps what [`multiply_rows`] was promised.
    out: &'a Out,
}

impl Kernel for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // A constant, so that sets without narrow products compile one depth and not four.
        if !S::NARROW {
            return self.tiles::<S, 0>(s);
        }
        match depth::<S>(self.m.levels) {
            4 => self.tiles::<S, 4>(s),
            2 => self.tiles::<S, 2>(s),
            1 => self.tiles::<S, 1>(s),
            _ => self.tiles::<S, 0>(s),
        }
    }
}

impl Multiply<'_> {
    #[inline(always)]
    fn tiles<S: Simd, const DEPTH: usize>(self, s: S) {
        let Self { m, rows, out, .. } = self;
        let total = rows.total();
        let residuals = rows.high_precision.len();
        let width = m.k.div_ceil(4);
        let planes = Coding::of::<S>(m.levels).planes;
        let (words, rest) = self.scratch.split_at_mut(planes * total * width);
        let residual_products = &mut rest[..residuals * PANEL];
        assert!(out.slab >= PANEL);
        let part = S::INT8_VECTORS * S::LANES;
        let tiles = panels(total, S::INT8_ROWS);
        for column in (0..m.n).step_by(part) {
            let place = column / out.slab * out.slab_stride + column % out.slab;
            for tile in 0..tiles {
                let row = panel_start(tile, tiles, total);
                let height = panel_start(tile + 1, tiles, total) - row;
                // The next part's weights come from far away while this part's are in use: the first two tiles ask for a line
                // a step, which for two vectors of 64 bytes is all of them.
                let ahead = ((column + part) / PANEL * PANEL * 4 + tile.min(1) * 64) * width;
                let tile = Tile {
                    words: &words[planes * row * width..][..planes * height * width],
                    scales: &self.scales[row..row + height],
                    residuals: residuals.saturating_sub(row).min(height),
                    row,
                    column,
                    ahead: m.panels.as_ptr().cast::<u8>().wrapping_add(ahead),
                    gelu: self.gelu,
                };
                // SAFETY: rows row..row + height, residual rows not counted, are among the caller's.
                unsafe {
                    let values = out.values.add(place);
                    let first = (values, out.stride, residuals);
                    dispatch_rows!(height, S, INT8_ROWS, |ROWS| match S::INT8_VECTORS {
                        1 => multiply_tile::<S, DEPTH, ROWS, 1>(
                            s,
                            &tile,
                            m,
                            residual_products,
                            first
                        ),
                        2 => multiply_tile::<S, DEPTH, ROWS, 2>(
                            s,
                            &tile,
                            m,
                            residual_products,
                            first
                        ),
                        4 => multiply_tile::<S, DEPTH, ROWS, 4>(
                            s,
                            &tile,
                            m,
                            residual_products,
                            first
                        ),
                        vectors => unreachable!("a tile of {vectors} vectors"),
                    });
                }
            }
        }
    }
}

struct Tile<'a> {
    words: &'a [f32],
    scales: &'a [Scale],
    /// So many of its rows, its first, are residual rows.
    residuals: usize,
    /// Number of its first row, residual rows counted.
    row: usize,
    column: usize,
    /// Where to prefetch, a cache line for each step of the product.
    ahead: *const u8,
    gelu: bool,
}

/// # Safety
/// `out` must be writable for the tile's columns within `m.n` at each of its rows, `stride` apart and counted from 0 after all
/// `residuals` residual rows.
#[inline(always)]
unsafe fn multiply_tile<S: Simd, const DEPTH: usize, const ROWS: usize, const VECTORS: usize>(
    s: S,
    tile: &Tile<'_>,
    m: &Int8Matrix<'_>,
    residual_products: &mut [f32],
    (out, stride, residuals): (*mut f32, usize, usize),
) {
    let steps = m.k.div_ceil(4);
    let width = VECTORS * S::LANES;
    let column = tile.column;
    let panel = column / PANEL * steps * PANEL * 4 + column % PANEL * 4;
    assert!(
        tile.words.len() == Coding::of::<S>(m.levels).planes * ROWS * steps
            && DEPTH == depth::<S>(m.levels)
            && tile.scales.len() == ROWS
            && residual_products.len() >= residuals * PANEL
            && PANEL.is_multiple_of(width)
            && m.panels.len() >= panel + ((steps.max(1) - 1) * PANEL + width) * 4 * steps.min(1)
    );
    // SAFETY: the tile is `steps` quads of ROWS rows; the weights are `steps` times `width` lanes, PANEL lanes apart; both
    // asserted.
    let sums = unsafe {
        product::<S, DEPTH, ROWS, VECTORS>(
            s,
            steps,
            tile,
            m.panels.as_ptr().cast::<u8>().add(panel),
        )
    };
    let columns = width.min(m.n - column);
    for j in 0..VECTORS {
        let first = j * S::LANES;
        let weight_sums = s.load(&m.sums[column + first..]);
        let weight_scales = s.load(&m.scales[column + first..]);
        let bias = s.load(&m.bias[column + first..]);
        for (i, (sums, scale)) in sums.iter().zip(tile.scales).enumerate() {
            let v = s.mul(s.int_to_float(sums[j]), s.splat(scale.step));
            let v = s.mul_add(weight_sums, s.splat(scale.low), v);
            if i < tile.residuals {
                let v = s.mul(v, weight_scales);
                s.store(&mut residual_products[(tile.row + i) * PANEL + first..], v);
                continue;
            }
            let mut v = s.mul_add(v, weight_scales, bias);
            if scale.residual > 0 {
                v = s.add(
                    v,
                    s.load(&residual_products[(scale.residual - 1) * PANEL + first..]),
                );
            }
            // Of a tile's last vectors all may lie beyond the columns, and beyond what the caller owns.
            let out = out.wrapping_add((tile.row + i - residuals) * stride + first);
            // SAFETY: the vector's columns within `columns`, in a row of the caller's.
            unsafe {
                if first + S::LANES <= columns {
                    s.store_ptr(out, v);
                } else if first < columns {
                    s.store_first(std::slice::from_raw_parts_mut(out, columns - first), v);
                }
            }
        }
    }
    if tile.gelu {
        for i in tile.residuals..ROWS {
            // SAFETY: the row's columns, just written.
            gelu_row::<S, true>(s, unsafe {
                let row = out.add((tile.row + i - residuals) * stride);
                std::slice::from_raw_parts_mut(row, columns)
            });
        }
    }
}

/// `Σ over steps of the dot products of quads` for each row and lane.
///
/// # Safety
/// The tile must have ROWS rows of `steps` words (in each plane), `weights` be readable for `VECTORS * LANES` quads every [`PANEL`] quads.
#[inline(always)]
unsafe fn product<S: Simd, const DEPTH: usize, const ROWS: usize, const VECTORS: usize>(
    s: S,
    steps: usize,
    tile: &Tile<'_>,
    mut weights: *const u8,
) -> [[S::I; VECTORS]; ROWS] {
    if S::BLOCKS {
        // SAFETY: as promised.
        return unsafe { product_of_blocks::<S, ROWS, VECTORS>(s, steps, tile, weights) };
    }
    if DEPTH > 0 {
        // SAFETY: as promised.
        return unsafe { narrow_product::<S, DEPTH, ROWS, VECTORS>(s, steps, tile, weights) };
    }
    let mut sums = [[s.splat_int(0); VECTORS]; ROWS];
    if S::PLANES == 2 {
        for (sums, scale) in sums.iter_mut().zip(tile.scales) {
            *sums = [s.splat_int(scale.start); VECTORS];
        }
    }
    let mut rows = tile.words.as_ptr().cast::<u8>();
    let mut ahead = tile.ahead;
    let plane = 4 * ROWS * steps;
    for _ in 0..steps {
        // SAFETY: within the step; the pointers step past the end by wrapping arithmetic only.
        unsafe {
            let mut columns = [s.splat_int(0); VECTORS];
            for (j, column) in columns.iter_mut().enumerate() {
                *column = s.load_bytes(weights.add(j * S::LANES * 4));
            }
            if S::LANED {
                let words = load_words::<S, ROWS>(s, rows.cast());
                for_rows!(ROWS, |I| {
                    for (sum, column) in sums[I].iter_mut().zip(columns) {
                        *sum = s.dot4_lane::<{ I % 4 }>(*sum, words[I / 4], column);
                    }
                });
            } else {
                for (i, sums) in sums.iter_mut().enumerate() {
                    let quad = s.load_quad(rows.add(i * 4), plane);
                    for (sum, column) in sums.iter_mut().zip(columns) {
                        *sum = s.dot4(*sum, quad, column);
                    }
                }
            }
        }
        s.prefetch(ahead);
        ahead = ahead.wrapping_add(64);
        rows = rows.wrapping_add(4 * ROWS);
        weights = weights.wrapping_add(4 * PANEL);
    }
    sums
}

/// [`product`] by [`Simd::dot_narrow`], `DEPTH` steps at a time.
///
/// # Safety
/// As [`product`].
#[inline(always)]
unsafe fn narrow_product<S: Simd, const DEPTH: usize, const ROWS: usize, const VECTORS: usize>(
    s: S,
    steps: usize,
    tile: &Tile<'_>,
    weights: *const u8,
) -> [[S::I; VECTORS]; ROWS] {
    let mut sums = [[s.splat_int(0); VECTORS]; ROWS];
    let rows = tile.words.as_ptr().cast::<u8>();
    let (whole, last) = (steps / DEPTH, steps % DEPTH);
    // SAFETY: as promised, the whole groups of steps and then those that are left, one by one.
    unsafe {
        let mut at = (rows, weights, tile.ahead);
        narrow_steps::<S, DEPTH, ROWS, VECTORS>(s, whole, &mut at, &mut sums);
        narrow_steps::<S, 1, ROWS, VECTORS>(s, last, &mut at, &mut sums);
    }
    sums
}

/// `groups` times `DEPTH` steps of [`narrow_product`] from `at` on: rows, weights and where to prefetch.
///
/// # Safety
/// As [`product`], for so many steps.
#[inline(always)]
unsafe fn narrow_steps<S: Simd, const DEPTH: usize, const ROWS: usize, const VECTORS: usize>(
    s: S,
    groups: usize,
    (rows, weights, ahead): &mut (*const u8, *const u8, *const u8),
    sums: &mut [[S::I; VECTORS]; ROWS],
) {
    for _ in 0..groups {
        // SAFETY: within the steps; the pointers step past the end by wrapping arithmetic only.
        unsafe {
            for (i, sums) in sums.iter_mut().enumerate() {
                let mut quads = [s.splat_int(0); DEPTH];
                for (step, quad) in quads.iter_mut().enumerate() {
                    let quad_at = rows.add(4 * (step * ROWS + i)).cast::<i32>();
                    *quad = s.splat_int(quad_at.read_unaligned());
                }
                for (j, sum) in sums.iter_mut().enumerate() {
                    let mut columns = [s.splat_int(0); DEPTH];
                    for (step, column) in columns.iter_mut().enumerate() {
                        *column = s.load_bytes(weights.add(4 * (step * PANEL + j * S::LANES)));
                    }
                    *sum = s.dot_narrow(*sum, quads, columns);
                }
            }
        }
        for _ in 0..DEPTH {
            s.prefetch(*ahead);
            *ahead = ahead.wrapping_add(64);
        }
        *rows = rows.wrapping_add(4 * ROWS * DEPTH);
        *weights = weights.wrapping_add(4 * PANEL * DEPTH);
    }
}

/// Pairs of rows of the largest tile of an instruction set with [`Simd::BLOCKS`].
const PAIRS: usize = 2 * STRIPS;

/// Of each pair of rows and vector of channels the sums with the first two channels, and with the last two.
type Blocks<I, const VECTORS: usize> = [[[I; 2]; VECTORS]; PAIRS];

/// [`product`] by [`Simd::dot_blocks`]: two steps, two rows and two channels at a time.
///
/// # Safety
/// As [`product`].
#[inline(always)]
unsafe fn product_of_blocks<S: Simd, const ROWS: usize, const VECTORS: usize>(
    s: S,
    steps: usize,
    tile: &Tile<'_>,
    weights: *const u8,
) -> [[S::I; VECTORS]; ROWS] {
    assert!(S::LANED && S::PLANES == 1);
    let mut blocks = [[[s.splat_int(0); 2]; VECTORS]; PAIRS];
    let mut at = (tile.words.as_ptr(), weights, tile.ahead);
    for _ in 0..steps / 2 {
        // SAFETY: both steps are within the tile and the weights.
        unsafe { block_steps::<S, ROWS, VECTORS, true>(s, &mut at, &mut blocks) };
    }
    if !steps.is_multiple_of(2) {
        // SAFETY: the last step is within the tile and the weights.
        unsafe { block_steps::<S, ROWS, VECTORS, false>(s, &mut at, &mut blocks) };
    }
    let mut sums = [[s.splat_int(0); VECTORS]; ROWS];
    for (i, sums) in sums.iter_mut().enumerate() {
        for (sum, [first, last]) in sums.iter_mut().zip(blocks[i / 2]) {
            *sum = s.halves(first, last)[i % 2];
        }
    }
    sums
}

/// Two steps of [`product_of_blocks`], or one and zeros, from `at` on: rows, weights and where to prefetch.
///
/// # Safety
/// As [`product`], for so many steps.
#[inline(always)]
// Vectors are the inner dimension: there is nothing of theirs alone to go through.
#[allow(clippy::needless_range_loop)]
unsafe fn block_steps<S: Simd, const ROWS: usize, const VECTORS: usize, const TWO: bool>(
    s: S,
    (words, weights, ahead): &mut (*const f32, *const u8, *const u8),
    blocks: &mut Blocks<S::I, VECTORS>,
) {
    let zero = s.splat_int(0);
    // SAFETY: within the steps; the pointers step past the end by wrapping arithmetic only.
    unsafe {
        let first = load_words::<S, ROWS>(s, *words);
        let second = if TWO {
            load_words::<S, ROWS>(s, words.add(ROWS))
        } else {
            [zero; STRIPS]
        };
        let mut rows = [[zero; 2]; STRIPS];
        for (strip, rows) in rows.iter_mut().enumerate() {
            *rows = s.interleave(first[strip], second[strip]);
        }
        for j in 0..VECTORS {
            let first = s.load_bytes(weights.add(j * S::LANES * 4));
            let second = if TWO {
                s.load_bytes(weights.add((PANEL + j * S::LANES) * 4))
            } else {
                zero
            };
            let channels = s.interleave(first, second);
            for pair in 0..ROWS.div_ceil(2) {
                let rows = rows[pair / 2][pair % 2];
                for (block, channels) in blocks[pair][j].iter_mut().zip(channels) {
                    *block = s.dot_blocks(*block, rows, channels);
                }
            }
        }
    }
    for _ in 0..2 {
        s.prefetch(*ahead);
        *ahead = ahead.wrapping_add(64);
    }
    *words = words.wrapping_add(2 * ROWS);
    *weights = weights.wrapping_add(8 * PANEL);
}
