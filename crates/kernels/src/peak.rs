//! How many int8 operations a second this machine can do at most: the yardstick of the int8 engine.

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::int8::Levels;
use crate::int8::product::depth;
use crate::isa::Kernels;
use crate::matrix_unit::{Ahead, BLOCK, Left, MatrixUnit, STEP, Sums, UnitKernel};
use crate::parallel;
use crate::simd::{Kernel, Simd};

/// A tile of independent sums: enough to hide the latency of the dot product on every chip, few enough for the registers.
const ROWS: usize = 4;
const COLUMNS: usize = 2;
const STEPS: usize = 20_000;

impl Kernels {
    /// Operations a second (a multiplication and an addition count as two) of the byte dot product that the instruction set has
    /// for operands of such levels, on registers alone, or of its matrix unit on operands in the first-level cache, all threads of the current pool together, measured for about `time`.
    pub fn int8_peak(self, levels: Levels, time: Duration) -> f64 {
        let threads = rayon::current_num_threads();
        let rates = std::sync::Mutex::new(vec![0.0; threads]);
        parallel::for_each(threads, |thread| {
            let mut best = 0f64;
            let begin = Instant::now();
            while begin.elapsed() < time {
                let start = Instant::now();
                let operations = if self.has_unit() {
                    self.dispatch_unit(SpinUnit);
                    UNIT_RUNS * 2 * BLOCK * BLOCK * UNIT_STEPS * STEP
                } else {
                    self.dispatch(Spin(levels))
                };
                // The best of many short runs: what the chip can do, not what others left of it.
                best = best.max(operations as f64 / start.elapsed().as_secs_f64());
            }
            rates.lock().expect("no other item panics")[thread] = best;
        });
        rates.into_inner().expect("no item panicked").iter().sum()
    }
}

/// Steps of a block's product, the operands of which fill two thirds of a first-level cache of 48 KiB; and blocks of a run.
const UNIT_STEPS: usize = 8;
const UNIT_RUNS: usize = 50;

/// Rows and a panel, on cache lines as the engine has them.
#[repr(C, align(64))]
struct Operands(
    [u8; BLOCK * STEP * UNIT_STEPS],
    [u8; BLOCK * STEP * UNIT_STEPS],
);

impl Operands {
    const ONES: Operands = Operands(
        [1; BLOCK * STEP * UNIT_STEPS],
        [1; BLOCK * STEP * UNIT_STEPS],
    );
}

/// A run of a matrix unit's products.
struct SpinUnit;

impl UnitKernel for SpinUnit {
    #[inline(always)]
    fn run<S: Simd, U: MatrixUnit>(self, _: S, unit: U) {
        let tiles = unit.configure();
        let Operands(rows, panel) = &Operands::ONES;
        let mut sums = Sums::ZERO;
        for _ in 0..UNIT_RUNS {
            let left = Left {
                bytes: black_box(rows.as_ptr()),
                stride: STEP * UNIT_STEPS,
            };
            let ahead = Ahead {
                address: panel.as_ptr(),
                lines: 1,
            };
            // SAFETY: BLOCK rows of UNIT_STEPS steps, and as many bytes of the other operand.
            unsafe {
                let panel = black_box(panel.as_ptr());
                U::product::<S, true>(&tiles, left, panel, UNIT_STEPS, ahead, &mut sums);
            }
            black_box(&sums);
        }
    }
}

/// A run of dot products; returns the operations done.
struct Spin(Levels);

impl Kernel for Spin {
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> usize {
        match depth::<S>(self.0) {
            4 => spin_narrow::<S, 4>(s),
            2 => spin_narrow::<S, 2>(s),
            1 => spin_narrow::<S, 1>(s),
            _ => spin(s),
        }
    }
}

/// [`Simd::dot_narrow`], with as many rows as the register tile has.
#[inline(always)]
fn spin_narrow<S: Simd, const DEPTH: usize>(s: S) -> usize {
    let bytes = [1u8; 64 * (4 * COLUMNS + ROWS)];
    let mut sums = [[s.splat_int(0); COLUMNS]; ROWS];
    for _ in 0..STEPS {
        // As below.
        let bytes = black_box(bytes.as_ptr());
        for (i, sums) in sums.iter_mut().enumerate() {
            let mut quads = [s.splat_int(0); DEPTH];
            for (step, quad) in quads.iter_mut().enumerate() {
                // SAFETY: at most four quads, after four times COLUMNS vectors of at most 64 bytes.
                *quad = s.splat_int(unsafe {
                    let quad = bytes.add(64 * (4 * COLUMNS + i) + 4 * step);
                    quad.cast::<i32>().read_unaligned()
                });
            }
            for (j, sum) in sums.iter_mut().enumerate() {
                let mut weights = [s.splat_int(0); DEPTH];
                for (step, weights) in weights.iter_mut().enumerate() {
                    // SAFETY: one of four times COLUMNS vectors of at most 64 bytes.
                    *weights = unsafe { s.load_bytes(bytes.add(64 * (step * COLUMNS + j))) };
                }
                *sum = s.dot_narrow(*sum, quads, weights);
            }
        }
    }
    for sum in sums.as_flattened() {
        black_box(s.sum(s.int_to_float(*sum)));
    }
    STEPS * ROWS * COLUMNS * S::LANES * DEPTH * 4 * 2
}

#[inline(always)]
fn spin<S: Simd>(s: S) -> usize {
    // Words, as vectors of them are read.
    let words = [f32::from_bits(0x0101_0101); 16 * (COLUMNS + ROWS)];
    let mut sums = [[s.splat_int(0); COLUMNS]; ROWS];
    for _ in 0..STEPS {
        // Other operands for every product and every step, for all that the compiler can tell: else it would work out
        // once what they have in common.
        let bytes = black_box(words.as_ptr()).cast::<u8>();
        // SAFETY: COLUMNS vectors of at most 64 bytes, after them in as many bytes each a quad in two planes, or four words.
        unsafe {
            let mut weights = [s.splat_int(0); COLUMNS];
            for (i, weights) in weights.iter_mut().enumerate() {
                *weights = s.load_bytes(bytes.add(64 * i));
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                if S::BLOCKS {
                    let rows = s.load_bytes(bytes.add(64 * (COLUMNS + i)));
                    for (sum, weights) in sums.iter_mut().zip(weights) {
                        *sum = s.dot_blocks(*sum, rows, weights);
                    }
                    continue;
                }
                if S::LANED {
                    let words = s.load_words(bytes.add(64 * (COLUMNS + i)).cast(), 4);
                    for (sum, weights) in sums.iter_mut().zip(weights) {
                        *sum = s.dot4_lane::<0>(*sum, words, weights);
                    }
                    continue;
                }
                let quad = s.load_quad(bytes.add(64 * (COLUMNS + i)), 4);
                for (sum, weights) in sums.iter_mut().zip(weights) {
                    *sum = s.dot4(*sum, quad, weights);
                }
            }
        }
    }
    for sum in sums.as_flattened() {
        black_box(s.sum(s.int_to_float(*sum)));
    }
    let products = if S::BLOCKS { 8 } else { 4 };
    STEPS * ROWS * COLUMNS * S::LANES * products * 2
}
