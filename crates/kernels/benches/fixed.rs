//! `cargo bench -p kernels --bench fixed -- KERNEL RUNS`: so many runs of one kernel on one thread, on the instruction set named in
//! `KERNELS_ISA` or the best one, to count instructions instead of time: `valgrind --tool=callgrind` of the program with 1 and with
//! 3 runs, whose difference is that of two runs. Kernels: `encoder`, `high` (the same of high precision), `narrow` (of 7 bits),
//! `linear`, `attention`, both in f32.

use std::hint::black_box;

use kernels::{
    AttentionKind, EncoderSpace, Epilogue, Int8Layer, Int8Matrix, Isa, Kernels, LayerNorm, Levels,
    LinearShape, Norms, PackedInt8, Pooling, pack_int8,
};

const HIDDEN: usize = 384;
const INNER: usize = 1536;
const HEADS: usize = 6;
const SEQUENCES: [usize; 3] = [0, 150, 231];
const TOKENS: usize = SEQUENCES[2];

fn main() {
    // Cargo passes --bench.
    let mut args = std::env::args().skip(1).filter(|arg| !arg.starts_with('-'));
    let kernel = args.next().unwrap_or_else(|| "encoder".into());
    let runs: usize = args.next().map_or(1, |arg| arg.parse().expect("a number"));
    let kernels = match std::env::var("KERNELS_ISA") {
        Ok(name) => {
            let isa: Isa = name.parse().expect("the name of an instruction set");
            Kernels::with(isa).expect("an instruction set of this machine")
        }
        Err(_) => Kernels::detect(),
    };
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .expect("a thread pool");
    pool.install(|| match &*kernel {
        "encoder" => encoder(kernels, runs, Levels::FULL, false),
        "high" => encoder(kernels, runs, Levels::FULL, true),
        "narrow" => encoder(kernels, runs, Levels::of_bits(7, 7), false),
        "linear" => linear(kernels, runs),
        "attention" => attention(kernels, runs),
        other => panic!("unknown kernel {other}"),
    });
}

/// Values in -1..1 that only have to be ordinary.
fn values(len: usize, mut state: u64) -> Vec<f32> {
    let next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(len).collect()
}

fn encoder(kernels: Kernels, runs: usize, levels: Levels, high_precision: bool) {
    let shapes = [
        (3 * HIDDEN, HIDDEN),
        (HIDDEN, HIDDEN),
        (INNER, HIDDEN),
        (HIDDEN, INNER),
    ];
    let packed: [PackedInt8; 4] = std::array::from_fn(|i| {
        let (n, k) = shapes[i];
        pack_int8(&values(n * k, i as u64), n, k, None, levels)
    });
    let bias = vec![0.0; Int8Matrix::channels(3 * HIDDEN.max(INNER))];
    let matrix = |i: usize| Int8Matrix {
        n: shapes[i].0,
        k: shapes[i].1,
        panels: &packed[i].panels,
        scales: &packed[i].scales,
        sums: &packed[i].sums,
        bias: &bias[..Int8Matrix::channels(shapes[i].0)],
        smooth: None,
        high_precision,
        levels,
    };
    let (ones, zeros) = ([1.0; HIDDEN], [0.0; HIDDEN]);
    let norm = LayerNorm {
        gamma: &ones,
        beta: &zeros,
        eps: 1e-5,
    };
    let layer = Int8Layer {
        qkv: matrix(0),
        attention_out: matrix(1),
        up: matrix(2),
        down: matrix(3),
        norms: Norms::After {
            attention: norm,
            output: norm,
        },
        gated: false,
        kind: AttentionKind::default(),
    };
    let mut space = EncoderSpace::default();
    for _ in 0..runs {
        let mut x = values(TOKENS * HIDDEN, 5);
        let layers = [layer, layer];
        let pooled = Pooling::All;
        kernels.int8_encoder(&layers, HEADS, &SEQUENCES, pooled, &mut x, &mut space);
        black_box(x);
    }
}

fn linear(kernels: Kernels, runs: usize) {
    let (x, w) = (values(TOKENS * HIDDEN, 1), values(INNER * HIDDEN, 2));
    let bias = vec![0.1; INNER];
    let mut out = vec![0.0; TOKENS * INNER];
    let shape = LinearShape {
        m: TOKENS,
        k: HIDDEN,
        n: INNER,
    };
    for _ in 0..runs {
        kernels.linear(&x, &w, shape, Epilogue::BiasGelu(&bias), &mut out);
        black_box(&out);
    }
}

fn attention(kernels: Kernels, runs: usize) {
    let qkv = values(TOKENS * 3 * HIDDEN, 1);
    let mut out = vec![0.0; TOKENS * HIDDEN];
    let kind = AttentionKind::default();
    for _ in 0..runs {
        kernels.attention(&qkv, &SEQUENCES, HEADS, HIDDEN / HEADS, &kind, &mut out);
        black_box(&out);
    }
}
