//! `cargo run --release --manifest-path bench/gemm/Cargo.toml [THREADS]`: our int8 product beside `rten-gemm`'s, in turns on the same
//! shapes, as a table.
//!
//! Ours takes f32 rows, quantizes them, and writes f32 with scales and bias. `rten-gemm` is timed on bytes that are there already, to
//! i32 that nobody has scaled yet, its weights packed ahead: less work, in its favour. Weights go through 24 matrices in turn, as
//! the layers of a model do, so that they come from memory.

use std::hint::black_box;
use std::time::Instant;

use kernels::{Int8Matrix, Kernels, Levels, PackedInt8, pack_int8};
use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions};
use rten_tensor::NdTensor;
use rten_tensor::prelude::*;

const MATRICES: usize = 24;
const ROUNDS: usize = 31;
const SHAPES: [(usize, usize, usize); 9] = [
    (1, 1024, 1024),
    (16, 1024, 1024),
    (128, 1024, 1024),
    (512, 1024, 1024),
    (128, 1024, 4096),
    (512, 1024, 4096),
    (128, 4096, 1024),
    (512, 4096, 1024),
    (4096, 1024, 1024),
];

/// Uniform in -1..1; the values only have to be ordinary.
struct Values(u64);

impl Iterator for Values {
    type Item = f32;

    fn next(&mut self) -> Option<f32> {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        Some((self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0)
    }
}

struct Ours {
    packed: PackedInt8,
    bias: Vec<f32>,
}

fn main() {
    let threads = std::env::args()
        .nth(1)
        .map_or(0, |threads| threads.parse().expect("the number of threads"));
    // `rten-gemm` computes in the global pool, ours in whichever it is called from.
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
        .expect("a thread pool");
    let kernels = Kernels::detect();
    let executor = GemmExecutor::<u8, i8, i32>::new();
    println!(
        "{} threads; ours: {}; rten-gemm: {}; medians of {ROUNDS} rounds",
        rayon::current_num_threads(),
        kernels.isa(),
        executor.kernel_name(),
    );
    println!("rows x inputs x channels   ours, ms   rten-gemm, ms   rten-gemm / ours");
    for (m, k, n) in SHAPES {
        let x: Vec<f32> = Values(1).take(m * k).collect();
        let ours: Vec<Ours> = (0..MATRICES)
            .map(|seed| {
                let w: Vec<f32> = Values(seed as u64 + 2).take(n * k).collect();
                Ours {
                    packed: pack_int8(&w, n, k, None, Levels::FULL),
                    bias: vec![0.0; Int8Matrix::channels(n)],
                }
            })
            .collect();
        let bytes: Vec<u8> = x.iter().map(|x| (x * 127.0 + 128.0) as u8).collect();
        let a = NdTensor::from_data([m, k], bytes);
        let theirs: Vec<_> = (0..MATRICES)
            .map(|seed| {
                let w: Vec<i8> = Values(seed as u64 + 2).take(n * k).map(|w| (w * 127.0) as i8).collect();
                executor.prepack_b(NdTensor::from_data([k, n], w).view())
            })
            .collect();
        let (mut floats, mut sums) = (vec![0f32; m * n], vec![0i32; m * n]);
        let mut times = [Vec::new(), Vec::new()];
        for round in 0..=ROUNDS {
            let which = round % MATRICES;
            let start = Instant::now();
            rayon::scope(|_| {
                let Ours { packed, bias } = &ours[which];
                let matrix = Int8Matrix {
                    n,
                    k,
                    panels: &packed.panels,
                    scales: &packed.scales,
                    sums: &packed.sums,
                    bias,
                    smooth: None,
                    high_precision: false,
                    levels: Levels::FULL,
                };
                kernels.int8_linear(black_box(&x), &matrix, &mut floats);
            });
            let between = Instant::now();
            executor
                .gemm(
                    black_box(&mut sums),
                    GemmInputA::Unpacked(a.view()),
                    GemmInputB::Packed(&theirs[which]),
                    GemmOptions::default(),
                )
                .expect("the shapes fit");
            let end = Instant::now();
            // The first round warms both.
            if round > 0 {
                times[0].push((between - start).as_secs_f64());
                times[1].push((end - between).as_secs_f64());
            }
        }
        let [ours, theirs] = times.map(|mut times| {
            times.sort_by(f64::total_cmp);
            times[ROUNDS / 2] * 1e3
        });
        println!(
            "{:24} {ours:10.3} {theirs:15.3} {:18.2}",
            format!("{m} x {k} x {n}"),
            theirs / ours
        );
    }
}
