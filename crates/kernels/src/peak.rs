//! How many int8 operations a second this machine can do at most: the yardstick of the int8 engine.

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::isa::Kernels;
use crate::parallel;
use crate::simd::{Kernel, Simd};

/// Independent sums, enough to hide the latency of the dot product on every chip, few enough for the registers.
const SUMS: usize = 8;
const STEPS: usize = 20_000;

impl Kernels {
    /// Operations a second (a multiplication and an addition count as two) of the instruction set's byte dot product on
    /// registers alone, all threads of the current pool together, measured for about `time`.
    pub fn int8_peak(self, time: Duration) -> f64 {
        let threads = rayon::current_num_threads();
        let rates = std::sync::Mutex::new(vec![0.0; threads]);
        parallel::for_each(threads, |thread| {
            let mut best = 0f64;
            let begin = Instant::now();
            while begin.elapsed() < time {
                let start = Instant::now();
                let operations = self.dispatch(Spin);
                // The best of many short runs: what the chip can do, not what others left of it.
                best = best.max(operations as f64 / start.elapsed().as_secs_f64());
            }
            rates.lock().expect("no other item panics")[thread] = best;
        });
        rates.into_inner().expect("no item panicked").iter().sum()
    }
}

/// A run of dot products; returns the operations done.
struct Spin;

impl Kernel for Spin {
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> usize {
        let bytes = black_box([1u8; 64]);
        // SAFETY: 64 bytes hold a quad and any vector.
        let (quad, weights) =
            unsafe { (s.load_quad(bytes.as_ptr()), s.load_bytes(bytes.as_ptr())) };
        let mut sums = [s.splat_int(0); SUMS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = s.dot4(*sum, quad, weights);
            }
        }
        black_box(sums.map(|sum| s.sum(s.int_to_float(sum))));
        STEPS * SUMS * S::LANES * 4 * 2
    }
}
