//! A matrix unit: registers of 16 rows of 64 bytes ("tiles"), and products of whole tiles of bytes, as Intel's AMX has them.
//!
//! Two products are all that the kernels ask of it; both are exact in i32. [`MatrixUnit`] is what they are written over:
//! `x86_64/amx.rs` runs them on the chip, [`Modelled`] in plain loops, so that all around them is tested on any machine.

use crate::simd::{Int8, Kernel};

/// Rows of a tile, and 32-bit columns.
pub(crate) const ROWS: usize = 16;
/// Bytes of a tile's row: what one step of a product multiplies of each row.
pub(crate) const STEP: usize = 64;
/// Rows and columns of the largest block of [`MatrixUnit::product`]: two tiles each way.
pub(crate) const BLOCK: usize = 2 * ROWS;

/// The sums of a block, row by row.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Sums(pub(crate) [[i32; BLOCK]; BLOCK]);

impl Sums {
    pub(crate) const ZERO: Sums = Sums([[0; BLOCK]; BLOCK]);
}

/// The sums of the four products of two planes: of upper with upper bytes, upper with lower, lower with upper, lower with lower.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct PlaneSums(pub(crate) [[[i32; ROWS]; ROWS]; 4]);

impl PlaneSums {
    pub(crate) const ZERO: PlaneSums = PlaneSums([[[0; ROWS]; ROWS]; 4]);

    /// The sums of products of `256 * upper + lower`. Exact within i32, whatever the parts: they wrap, and wrap back. (Without
    /// closures, which would not be compiled for the instruction set.)
    #[inline(always)]
    pub(crate) fn combine(&self, all: &mut TileSums) {
        let [high, middle, other, low] = &self.0;
        let terms = high.as_flattened().iter().zip(middle.as_flattened());
        let terms = terms.zip(other.as_flattened()).zip(low.as_flattened());
        for (sum, (((high, middle), other), low)) in all.0.as_flattened_mut().iter_mut().zip(terms)
        {
            let middle = middle.wrapping_add(*other).wrapping_shl(8);
            *sum = high
                .wrapping_shl(16)
                .wrapping_add(middle)
                .wrapping_add(*low);
        }
    }
}

/// The sums of one tile, row by row.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct TileSums(pub(crate) [[i32; ROWS]; ROWS]);

impl TileSums {
    pub(crate) const ZERO: TileSums = TileSums([[0; ROWS]; ROWS]);
}

/// The first sums of a row, a vector of them.
#[inline(always)]
pub(crate) fn as_floats<S: Int8>(s: S, sums: &[i32]) -> S::V {
    let sums = &sums[..S::LANES];
    // SAFETY: LANES sums of four bytes.
    s.int_to_float(unsafe { s.load_bytes(sums.as_ptr().cast()) })
}

/// The first operand of [`MatrixUnit::product`]: rows of bytes, `stride` apart.
#[derive(Clone, Copy)]
pub(crate) struct Left {
    pub(crate) bytes: *const u8,
    pub(crate) stride: usize,
}

/// Where to read ahead while a product is computed: so many cache lines a step, from `address` on. Any address will do.
#[derive(Clone, Copy)]
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "only AMX reads ahead")
)]
pub(crate) struct Ahead {
    pub(crate) address: *const u8,
    pub(crate) lines: usize,
}

/// A matrix unit whose tiles are set up for as long as the value lives, on the thread that made it.
pub(crate) trait MatrixUnit: Copy + Send + Sync + 'static {
    /// The unit at work: tiles are configured when it is made, and left clean when it is dropped.
    type Tiles;

    fn configure(self) -> Self::Tiles;

    /// `sums[i][j] = Σ over steps, 64 bytes each, of left[i] · right[j]`, of 16 rows or, `TALL`, 32, and of 32 columns. Left
    /// bytes are signed if `S::SIGNED`, right ones always.
    ///
    /// The right operand lies as a panel of packed weights does: for each four bytes of a row, 32 columns of four bytes.
    ///
    /// # Safety
    /// `left` must be readable for `64 * steps` bytes at each row start, `right` for `2048 * steps` bytes.
    unsafe fn product<S: Int8, const TALL: bool>(
        tiles: &Self::Tiles,
        left: Left,
        right: *const u8,
        steps: usize,
        ahead: Ahead,
        sums: &mut Sums,
    );

    /// The four products of two planes of bytes each, the upper ones signed and the lower ones not, of 16 rows and 16 columns.
    ///
    /// Of the right operand, each four bytes of a row are 16 columns of four bytes.
    ///
    /// # Safety
    /// In both planes, `left` must be readable for `64 * steps` bytes at each of 16 row starts, `right` for `1024 * steps` bytes.
    unsafe fn product_of_planes(
        tiles: &Self::Tiles,
        left: [Left; 2],
        right: [*const u8; 2],
        steps: usize,
        sums: &mut PlaneSums,
    );
}

/// A piece of work for a matrix unit, beside the vector registers. `run` must be `#[inline(always)]`.
pub(crate) trait UnitKernel {
    fn run<S: Int8, U: MatrixUnit>(self, s: S, unit: U);
}

/// A [`UnitKernel`] for one unit.
pub(crate) struct With<U, K>(pub(crate) U, pub(crate) K);

impl<U: MatrixUnit, K: UnitKernel> Kernel for With<U, K> {
    type Output = ();

    #[inline(always)]
    fn run<S: Int8>(self, s: S) {
        self.1.run(s, self.0);
    }
}

/// The unit in plain loops.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Modelled;

impl MatrixUnit for Modelled {
    type Tiles = ();

    fn configure(self) {}

    #[inline(always)]
    unsafe fn product<S: Int8, const TALL: bool>(
        (): &(),
        left: Left,
        right: *const u8,
        steps: usize,
        _: Ahead,
        sums: &mut Sums,
    ) {
        let rows = if TALL { BLOCK } else { ROWS };
        for (i, sums) in sums.0[..rows].iter_mut().enumerate() {
            *sums = [0; BLOCK];
            for at in 0..STEP * steps {
                // SAFETY: byte `at` of row `i`, and of each column; both promised by the caller.
                unsafe {
                    let a = left.bytes.add(i * left.stride + at).read();
                    let a = if S::SIGNED {
                        i32::from(a.cast_signed())
                    } else {
                        i32::from(a)
                    };
                    let column = right.add(at / 4 * 4 * BLOCK + at % 4);
                    for (j, sum) in sums.iter_mut().enumerate() {
                        *sum += a * i32::from(column.add(4 * j).read().cast_signed());
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn product_of_planes(
        (): &(),
        left: [Left; 2],
        right: [*const u8; 2],
        steps: usize,
        sums: &mut PlaneSums,
    ) {
        let value = |byte: u8, plane: usize| match plane {
            0 => i32::from(byte.cast_signed()),
            _ => i32::from(byte),
        };
        for (which, sums) in sums.0.iter_mut().enumerate() {
            let (a, b) = (which / 2, which % 2);
            for (i, sums) in sums.iter_mut().enumerate() {
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum = (0..STEP * steps)
                        .map(|at| {
                            let column = at / 4 * 4 * ROWS + 4 * j + at % 4;
                            // SAFETY: byte `at` of row `i` and of column `j`; both promised by the caller.
                            let (x, y) = unsafe {
                                let row = left[a].bytes.add(i * left[a].stride);
                                (row.add(at).read(), right[b].add(column).read())
                            };
                            value(x, a) * value(y, b)
                        })
                        .sum();
                }
            }
        }
    }
}
