//! `cargo bench -p kernels [-- FILTER [THREADS]]`: the speed of each f32 kernel on the best instruction set (or the one named
//! in `KERNELS_ISA`), in GFLOP/s or GB/s.
//!
//! `linear` is timed beside the gemm crate, call about, in the same run: on a shared machine only the ratio means much.
//! The weights cycle through several copies, as the layers of a model do, so that they come from memory.

use std::hint::black_box;
use std::time::Instant;

use gemm::Parallelism;
use kernels::{AttentionKind, Epilogue, Isa, Kernels, LinearShape};

/// The time every contestant gets per case, and the fewest repetitions.
const SECONDS: f64 = 0.6;
const REPEATS: usize = 7;

fn main() {
    // Cargo passes --bench.
    let mut args = std::env::args().skip(1).filter(|arg| !arg.starts_with('-'));
    let filter = args.next().unwrap_or_default();
    let threads = args
        .next()
        .map_or(0, |arg| arg.parse().expect("the number of threads"));
    let kernels = match std::env::var("KERNELS_ISA") {
        Ok(name) => {
            let isa: Isa = name.parse().expect("the name of an instruction set");
            Kernels::with(isa).expect("an instruction set of this machine")
        }
        Err(_) => Kernels::detect(),
    };
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .expect("a thread pool");
    let threads = pool.current_num_threads();
    println!("{} on {threads} threads, medians", kernels.isa());
    pool.install(|| {
        for (name, bench) in [
            ("linear", linear as fn(Kernels)),
            ("attention", attention),
            ("elementwise", elementwise),
        ] {
            if name.contains(&filter) {
                bench(kernels);
            }
        }
    });
}

/// Uniform in -1..1, from a linear congruential generator: the values only have to be ordinary.
fn values(len: usize) -> Vec<f32> {
    let mut state = 1u64;
    (0..len)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

/// The median seconds of each contestant, run in turns.
fn race<const N: usize>(mut contestants: [&mut dyn FnMut(); N]) -> [f64; N] {
    let mut times = [const { Vec::new() }; N];
    let begin = Instant::now();
    while times[0].len() < REPEATS || begin.elapsed().as_secs_f64() < SECONDS * N as f64 {
        for (run, times) in contestants.iter_mut().zip(&mut times) {
            let start = Instant::now();
            run();
            times.push(start.elapsed().as_secs_f64());
        }
    }
    times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    })
}

fn linear(kernels: Kernels) {
    println!("\nlinear, GFLOP/s          kernels   gemm  ratio");
    for (k, n) in [
        (1024, 1024),
        (1024, 3072),
        (1024, 4096),
        (4096, 1024),
        (384, 384),
        (384, 1536),
    ] {
        let copies = (64 << 20) / (4 * k * n) + 1;
        let weights = values(copies * k * n);
        for m in [1, 4, 8, 16, 34, 64, 128, 512, 2048, 8000] {
            let x = values(m * k);
            let mut ours = vec![0.0; m * n];
            let mut theirs = vec![0.0; m * n];
            let shape = LinearShape { m, k, n };
            let mut layer = 0;
            let mut run_ours = || {
                let w = &weights[layer * k * n..][..k * n];
                layer = (layer + 1) % copies;
                kernels.linear(&x, w, shape, Epilogue::None, &mut ours);
                black_box(&mut ours);
            };
            let mut other = 0;
            let mut run_theirs = || {
                let w = &weights[other * k * n..][..k * n];
                other = (other + 1) % copies;
                gemm_linear(&x, w, shape, &mut theirs);
                black_box(&mut theirs);
            };
            let [a, b] = race([&mut run_ours, &mut run_theirs]);
            let flop = 2e-9 * (m * k * n) as f64;
            println!(
                "{m:5} x {k:4} x {n:4}      {:8.1} {:6.1} {:6.2}",
                flop / a,
                flop / b,
                b / a
            );
        }
    }
}

fn gemm_linear(x: &[f32], w: &[f32], LinearShape { m, k, n }: LinearShape, out: &mut [f32]) {
    assert!(x.len() == m * k && w.len() == n * k && out.len() == m * n);
    // SAFETY: the strides (column, row) are those of the three row-major matrices, `w` read as its transpose, and the
    // lengths were just checked.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            false,
            x.as_ptr(),
            1,
            k as isize,
            w.as_ptr(),
            k as isize,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            Parallelism::Rayon(0),
        );
    }
}

fn attention(kernels: Kernels) {
    println!("\nattention                                   ms  GFLOP/s");
    for (heads, head_dim) in [(16, 64), (12, 32)] {
        for (sequences, len) in [
            (64, 16),
            (32, 64),
            (8, 128),
            (1, 512),
            (4, 512),
            (1, 2048),
            (1, 8192),
        ] {
            let hidden = heads * head_dim;
            let tokens = sequences * len;
            let qkv = values(tokens * 3 * hidden);
            let cu_seqlens: Vec<usize> = (0..=sequences).map(|i| i * len).collect();
            let mut out = vec![0.0; tokens * hidden];
            let [time] = race([&mut || {
                let kind = AttentionKind::default();
                kernels.attention(&qkv, &cu_seqlens, heads, head_dim, &kind, &mut out);
                black_box(&mut out);
            }]);
            let flop = 4e-9 * (tokens * len * hidden) as f64;
            println!(
                "{sequences:3} x {len:4} tokens, {heads} heads of {head_dim}  {:10.3} {:8.1}",
                1e3 * time,
                flop / time
            );
        }
    }
}

fn elementwise(kernels: Kernels) {
    println!("\nelement-wise                                 ms     GB/s read and written");
    for (rows, n) in [(16, 1024), (512, 1024), (512, 4096), (4443, 4096)] {
        let original = values(rows * n);
        let residual = values(rows * n);
        let bias = values(n);
        let mut x = original.clone();
        let mut report = |name: &str, streams: f64, run: &mut dyn FnMut(&mut [f32])| {
            // In place again and again, values may drift; a fresh copy between the runs would be timed too.
            x.copy_from_slice(&original);
            let [time] = race([&mut || {
                run(&mut x);
                black_box(&mut x);
            }]);
            let bytes = streams * 4e-9 * (rows * n) as f64;
            println!(
                "{rows:4} x {n:4} {name:26} {:10.3} {:8.1}",
                1e3 * time,
                bytes / time
            );
        };
        report("bias_add", 2.0, &mut |x| kernels.bias_add(x, &bias));
        report("bias_gelu", 2.0, &mut |x| kernels.bias_gelu(x, &bias));
        report("layer_norm", 2.0, &mut |x| {
            kernels.layer_norm(x, &bias, &bias, 1e-5);
        });
        report("bias_residual_layer_norm", 3.0, &mut |x| {
            kernels.bias_residual_layer_norm(x, &bias, &residual, &bias, &bias, 1e-5);
        });
    }
}
