//! `cargo bench -p kernels --bench int8 [-- FILTER [THREADS]]`: the int8 kernels on the best instruction set (or the one named
//! in `KERNELS_ISA`), of matrices of the bits in `KERNELS_BITS` (`7,7`: weights, inputs), against the chip's own peak, measured in the same run. FILTER is a part of a line's beginning, such as
//! `encoder 1 x 512`.
//!
//! The weights cycle through 24 sets, as the layers of a model do, so that they come from memory.

use std::time::{Duration, Instant};

use kernels::{
    AttentionKind, EncoderSpace, Int8Layer, Int8Matrix, Isa, Kernels, LayerNorm, Levels, Norms,
    PackedInt8, Pooling, pack_int8,
};

const LAYERS: usize = 24;
const SECONDS: f64 = 1.5;
const REPEATS: usize = 5;

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
    pool.install(|| {
        let peak = kernels.int8_peak(levels(), Duration::from_secs(1));
        println!(
            "{} on {threads} threads, peak {:.0} GOP/s, medians",
            kernels.isa(),
            peak / 1e9
        );
        for (name, bench) in [
            ("linear", linear as fn(Kernels, f64, &str)),
            ("encoder", encoder),
        ] {
            if name.contains(&filter) || filter.starts_with(name) {
                bench(kernels, peak, &filter);
            }
        }
    });
}

/// Of the bits in `KERNELS_BITS`, of weights and inputs, such as `7,7`: eight of both where it is not set.
fn levels() -> Levels {
    let Ok(bits) = std::env::var("KERNELS_BITS") else {
        return Levels::FULL;
    };
    let bits: Vec<u32> = bits.split(',').filter_map(|n| n.parse().ok()).collect();
    let [weights, inputs] = bits[..] else {
        panic!("two numbers with a comma");
    };
    Levels::of_bits(weights, inputs)
}

/// Uniform in -1..1, from a linear congruential generator: the values only have to be ordinary.
fn values(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    (0..len)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

/// Median and least seconds of a run.
fn measure(mut run: impl FnMut()) -> (f64, f64) {
    run();
    let mut times = Vec::new();
    let begin = Instant::now();
    while times.len() < REPEATS || begin.elapsed().as_secs_f64() < SECONDS {
        let start = Instant::now();
        run();
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times[0])
}

struct Weights {
    packed: PackedInt8,
    /// Where the panels begin, on a cache line as in a packed file.
    start: usize,
    bias: Vec<f32>,
    n: usize,
    k: usize,
}

impl Weights {
    fn new(n: usize, k: usize, seed: u64) -> Self {
        let mut packed = pack_int8(&values(n * k, seed), n, k, None, levels());
        let len = packed.panels.len();
        packed.panels.resize(len + 64, 0);
        let start = packed.panels.as_ptr().align_offset(64);
        packed.panels.copy_within(..len, start);
        packed.panels.truncate(start + len);
        Self {
            packed,
            start,
            bias: vec![0.0; Int8Matrix::channels(n)],
            n,
            k,
        }
    }

    fn matrix(&self) -> Int8Matrix<'_> {
        Int8Matrix {
            n: self.n,
            k: self.k,
            panels: &self.packed.panels[self.start..],
            scales: &self.packed.scales,
            sums: &self.packed.sums,
            bias: &self.bias,
            smooth: None,
            high_precision: false,
            levels: levels(),
        }
    }
}

fn linear(kernels: Kernels, peak: f64, filter: &str) {
    for (m, k, n) in [
        (512, 1024, 1024),
        (512, 1024, 4096),
        (512, 4096, 1024),
        (128, 1024, 4096),
        (16, 1024, 4096),
        (1, 1024, 4096),
    ] {
        if !format!("linear {m} x {k} x {n}").contains(filter) {
            continue;
        }
        let sets: Vec<Weights> = (0..LAYERS).map(|i| Weights::new(n, k, i as u64)).collect();
        let x = values(m * k, 77);
        let mut out = vec![0.0; m * n];
        let mut next = 0;
        let (seconds, least) = measure(|| {
            kernels.int8_linear(&x, &sets[next % LAYERS].matrix(), &mut out);
            next += 1;
        });
        let rate = 2.0 * (m * k * n) as f64 / seconds;
        println!(
            "linear {m:4} x {k:4} x {n:4}: {:8.3} ms {:7.0} GOP/s {:5.1} % of the peak (least {:.3} ms, {:.1} %)",
            seconds * 1e3,
            rate / 1e9,
            100.0 * rate / peak,
            least * 1e3,
            100.0 * rate / peak * seconds / least,
        );
    }
}

fn encoder(kernels: Kernels, peak: f64, filter: &str) {
    const MIXED: [usize; 32] = [
        101, 81, 160, 52, 197, 356, 297, 96, 126, 47, 119, 91, 134, 171, 24, 213, 183, 71, 66, 34,
        107, 62, 113, 142, 57, 497, 234, 41, 260, 150, 76, 85,
    ];
    let (hidden, inner, heads) = (1024, 4096, 16);
    let shapes = [
        (3 * hidden, hidden),
        (hidden, hidden),
        (inner, hidden),
        (hidden, inner),
    ];
    let weights: Vec<[Weights; 4]> = (0..LAYERS)
        .map(|layer| {
            std::array::from_fn(|i| Weights::new(shapes[i].0, shapes[i].1, (layer * 4 + i) as u64))
        })
        .collect();
    let ones = vec![1.0; hidden];
    let zeros = vec![0.0; hidden];
    let norm = LayerNorm {
        gamma: &ones,
        beta: &zeros,
        eps: 1e-5,
    };
    let layers: Vec<Int8Layer> = weights
        .iter()
        .map(|[qkv, attention_out, up, down]| Int8Layer {
            qkv: qkv.matrix(),
            attention_out: attention_out.matrix(),
            up: up.matrix(),
            down: down.matrix(),
            norms: Norms::After {
                attention: norm,
                output: norm,
            },
            gated: false,
            kind: AttentionKind::default(),
        })
        .collect();
    let mut space = EncoderSpace::default();
    for (name, lengths) in [
        ("1 x 16", &[16][..]),
        ("1 x 128", &[128]),
        ("1 x 512", &[512]),
        ("mixed", &MIXED),
        ("8 x 512", &[512; 8]),
    ] {
        if !format!("encoder {name}").contains(filter) {
            continue;
        }
        let mut cu_seqlens = vec![0];
        for length in lengths {
            cu_seqlens.push(cu_seqlens[cu_seqlens.len() - 1] + length);
        }
        let tokens: usize = lengths.iter().sum();
        let x = values(tokens * hidden, 5);
        let mut state = x.clone();
        let (seconds, least) = measure(|| {
            state.copy_from_slice(&x);
            let first = Pooling::First;
            kernels.int8_encoder(&layers, heads, &cu_seqlens, first, &mut state, &mut space);
        });
        let operations: f64 = lengths
            .iter()
            .map(|&l| {
                let l = l as f64;
                2.0 * 302e6 * l + 4.0 * l * l * 1024.0 * 24.0
            })
            .sum();
        println!(
            "encoder {name:8} {tokens:5} tokens: {:8.1} ms {:7.0} GOP/s {:5.1} % of the peak (least {:.1} ms, {:.1} %)",
            seconds * 1e3,
            operations / seconds / 1e9,
            100.0 * operations / seconds / peak,
            least * 1e3,
            100.0 * operations / least / peak,
        );
    }
}
