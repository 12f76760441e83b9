//! Quantizing rows of activations, and multiplying them with a packed matrix.
//!
//! Quantized rows lie in tiles of as many rows as the register tile has, each `[k / 4, rows, 4]` bytes or as [`Int8::pack_rows`] has
//! it, so that the product reads both operands from one end to the other. The residual rows of high-precision rows come first, so that their products are
//! there when those of the rows themselves are finished.

use crate::elementwise::gelu_row;
use crate::int8::{Int8Matrix, Levels, PANEL, Smooth};
use crate::scratch::as_bytes;
use crate::simd::{Factors, Int8, Kernel};
use crate::tile::{dispatch_rows, panel_start, panels};

/// How to read a row's bytes: `x = low + step * byte`, `byte` as it lies in memory (signed or not).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Scale {
    pub(super) step: f32,
    pub(super) low: f32,
    /// What the integer sums begin with: with two planes of bytes, what the products leave out.
    start: i32,
    /// Of a high-precision row, 1 + the number of its residual row.
    pub(super) residual: usize,
}

/// How many products of byte pairs this instruction set adds up in 16 bits for operands of such levels; 0 where it takes a product
/// that any bytes may have.
pub(crate) const fn depth<S: Int8>(levels: Levels) -> usize {
    if S::NARROW { levels.depth() } else { 0 }
}

/// How a row's values become bytes.
#[derive(Clone, Copy)]
struct Coding {
    /// The largest byte, before 128 is taken from signed ones.
    most: u8,
    /// For products that are added up in 16 bits.
    narrow: bool,
    signed: bool,
    planes: usize,
}

impl Coding {
    #[inline(always)]
    fn of<S: Int8>(levels: Levels) -> Self {
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

/// Floats of scratch memory for `count` rows of `k` values and `residuals` residual rows: the tiles, then one tile row by row, later
/// a part's weights ([`Int8::lay_out`]), then one row of values, then the products of the residual rows with one part of the columns.
pub(super) const fn scratch_len<S: Int8>(count: usize, residuals: usize, k: usize) -> usize {
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
pub(super) fn quantize_rows<S: Int8>(
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
    fn run<S: Int8>(self, s: S) {
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
                    s.pack_rows(staged, (height, width), tile.as_mut_ptr());
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
pub(super) fn quantize_numbered<S: Int8>(
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
pub(super) fn residual_into<S: Int8>(
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
    fn at<S: Int8>(&self, s: S, at: usize) -> S::V;

    fn value(&self, at: usize) -> f32;

    /// The values from `at` on, fewer than a vector but not none, then the last of them again and again, which changes neither
    /// extreme.
    #[inline(always)]
    fn last<S: Int8>(&self, s: S, at: usize) -> S::V {
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
    fn at<S: Int8>(&self, s: S, at: usize) -> S::V {
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
    fn at<S: Int8>(&self, s: S, at: usize) -> S::V {
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
    fn new<S: Int8<V = V>>(s: S) -> Self {
        Self {
            low: s.splat(f32::INFINITY),
            high: s.splat(f32::NEG_INFINITY),
            poison: s.splat(0.0),
        }
    }

    #[inline(always)]
    fn see<S: Int8<V = V>>(&mut self, s: S, v: V) {
        self.low = s.min(self.low, v);
        self.high = s.max(self.high, v);
        self.poison = s.mul_add(v, s.splat(0.0), self.poison);
    }
}

/// Quantizes one row of a product with `m` to `bytes`, which have room for a whole last vector.
#[inline(always)]
pub(super) fn quantize_smoothed<S: Int8>(
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
pub(super) fn quantize_residual<S: Int8>(
    s: S,
    residual: &[f32],
    m: &Int8Matrix<'_>,
    bytes: &mut [u8],
) -> Scale {
    quantize_row(s, &Plain(residual), Coding::of::<S>(m.levels), bytes)
}

#[inline(always)]
fn quantize_row<S: Int8>(s: S, row: &impl Row, coding: Coding, bytes: &mut [u8]) -> Scale {
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
                s.store_activations::<false>(bytes, s.min(v, most));
            } else if S::SIGNED {
                s.store_activations::<true>(bytes, v);
            } else {
                s.store_activations::<false>(bytes, v);
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
pub(super) unsafe fn multiply_rows<S: Int8>(
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
    fn run<S: Int8>(self, s: S) {
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
    fn tiles<S: Int8, const DEPTH: usize>(self, s: S) {
        let Self { m, rows, out, .. } = self;
        let total = rows.total();
        let residuals = rows.high_precision.len();
        let width = m.k.div_ceil(4);
        let planes = Coding::of::<S>(m.levels).planes;
        let (words, rest) = self.scratch.split_at_mut(planes * total * width);
        // What rows were staged in is room again.
        let (residual_products, room) = rest.split_at_mut(residuals * PANEL);
        assert!(out.slab >= PANEL);
        let part = S::INT8_VECTORS * S::LANES;
        let tiles = panels(total, S::INT8_ROWS);
        for column in (0..m.n).step_by(part) {
            let place = column / out.slab * out.slab_stride + column % out.slab;
            if S::LAYS_OUT {
                let weights = part_weights(m, column, part);
                // SAFETY: `width` times `part` quads, PANEL quads apart.
                unsafe { s.lay_out(weights, width, room) };
            }
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
                    laid_out: room,
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
    /// The weights of its columns by [`Int8::lay_out`], where the instruction set takes them so.
    laid_out: &'a [f32],
    /// Where to prefetch, a cache line for each step of the product.
    ahead: *const u8,
    gelu: bool,
}

/// The weights of the `part` columns from `column` on: so many quads for each four inputs, [`PANEL`] quads apart.
#[inline(always)]
fn part_weights(m: &Int8Matrix<'_>, column: usize, part: usize) -> *const u8 {
    let steps = m.k.div_ceil(4);
    let panel = column / PANEL * steps * PANEL * 4 + column % PANEL * 4;
    assert!(
        PANEL.is_multiple_of(part)
            && m.panels.len() >= panel + ((steps.max(1) - 1) * PANEL + part) * 4 * steps.min(1)
    );
    m.panels.as_ptr().cast::<u8>().wrapping_add(panel)
}

/// # Safety
/// `out` must be writable for the tile's columns within `m.n` at each of its rows, `stride` apart and counted from 0 after all
/// `residuals` residual rows, and what is laid out be of the tile's columns.
#[inline(always)]
unsafe fn multiply_tile<S: Int8, const DEPTH: usize, const ROWS: usize, const VECTORS: usize>(
    s: S,
    tile: &Tile<'_>,
    m: &Int8Matrix<'_>,
    residual_products: &mut [f32],
    (out, stride, residuals): (*mut f32, usize, usize),
) {
    let steps = m.k.div_ceil(4);
    let width = VECTORS * S::LANES;
    let column = tile.column;
    assert!(
        tile.words.len() == Coding::of::<S>(m.levels).planes * ROWS * steps
            && DEPTH == depth::<S>(m.levels)
            && tile.scales.len() == ROWS
            && residual_products.len() >= residuals * PANEL
    );
    let mut sums = [[s.splat_int(0); VECTORS]; ROWS];
    if DEPTH == 0 && S::PLANES == 2 {
        for (sums, scale) in sums.iter_mut().zip(tile.scales) {
            *sums = [s.splat_int(scale.start); VECTORS];
        }
    }
    let weights = if S::LAYS_OUT {
        tile.laid_out.as_ptr().cast()
    } else {
        part_weights(m, column, width)
    };
    // SAFETY: the tile is `steps` quads of ROWS rows, and so many the weights have of their columns.
    let sums = unsafe {
        let factors = Factors {
            rows: tile.words.as_ptr().cast(),
            weights,
            steps,
            ahead: tile.ahead,
        };
        s.dot_rows::<DEPTH, ROWS, VECTORS>(sums, factors)
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
