//! How many int8 operations a second this machine can do at most: the yardstick of the int8 engine.

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::int8::Levels;
use crate::int8::product::depth;
use crate::isa::Kernels;
use crate::matrix_unit::{Ahead, BLOCK, Left, MatrixUnit, STEP, Sums, UnitKernel};
use crate::parallel;
use crate::simd::{Int8, Kernel, SPIN_BYTES, SPIN_COLUMNS, SPIN_ROWS};

const STEPS: usize = 20_000;

impl Kernels {
    /// Operations a second (a multiplication and an addition count as two) of all threads of the current pool together, measured for
    /// about `time`: of the byte dot product that the instruction set has for operands of such levels, on registers alone, or of its
    /// matrix unit on operands in the first-level cache.
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
    fn run<S: Int8, U: MatrixUnit>(self, _: S, unit: U) {
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
    fn run<S: Int8>(self, s: S) -> usize {
        // A constant, so that sets without narrow products compile one depth and not four.
        if !S::NARROW {
            return spin::<S, 0>(s);
        }
        match depth::<S>(self.0) {
            4 => spin::<S, 4>(s),
            2 => spin::<S, 2>(s),
            1 => spin::<S, 1>(s),
            _ => spin::<S, 0>(s),
        }
    }
}

/// Operands, on a cache line.
#[repr(C, align(64))]
struct Bytes([u8; SPIN_BYTES]);

#[inline(always)]
fn spin<S: Int8, const DEPTH: usize>(s: S) -> usize {
    let bytes = Bytes([1; SPIN_BYTES]);
    let mut sums = [[s.splat_int(0); SPIN_COLUMNS]; SPIN_ROWS];
    for _ in 0..STEPS {
        // Other operands for every product and every step, for all that the compiler can tell: else it would work out
        // once what they have in common.
        let bytes = black_box(bytes.0.as_ptr());
        // SAFETY: so many bytes on a cache line.
        unsafe { s.spin::<DEPTH>(&mut sums, bytes) };
    }
    for sum in sums.as_flattened() {
        black_box(s.sum(s.int_to_float(*sum)));
    }
    let products = if DEPTH > 0 { 4 * DEPTH } else { S::PRODUCTS };
    STEPS * SPIN_ROWS * SPIN_COLUMNS * S::LANES * products * 2
}
