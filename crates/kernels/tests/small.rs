//! Every kernel once on small and awkward shapes, on every instruction set, alone and on two threads, against the plain code: few
//! enough steps for an interpreter, which finds in them what no CPU shows (`make suite SUITES=miri`).

use kernels::{
    AttentionKind, EncoderSpace, Epilogue, Int8Layer, Int8Matrix, Isa, Kernels, LayerNorm, Levels,
    LinearShape, Norms, PackedInt8, Pooling, RelativeBias, Rotary, Smooth, pack_int8, reference,
};

fn ramp(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i * 7 % 11) as f32 / 4.0 - 1.25).collect()
}

/// Runs `check` with each set of kernels, and again on a pool of two threads.
fn everywhere(check: impl Fn(Kernels) + Sync) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build();
    let pool = pool.expect("two threads");
    let model = Kernels::modelled_unit();
    for kernels in Isa::ALL
        .into_iter()
        .filter_map(Kernels::with)
        .chain([model])
    {
        check(kernels);
        pool.install(|| check(kernels));
    }
}

fn near(got: &[f32], want: &[f32], bound: f32, what: &str) {
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!(
            (got - want).abs() <= bound,
            "{what}, value {i}: {got} for {want}"
        );
    }
}

#[test]
fn rows_are_biased_and_normed() {
    everywhere(|kernels| {
        for n in [1, 5, 17, 33] {
            let (x, bias, gamma) = (ramp(2 * n), ramp(n), ramp(n));
            let (mut got, mut want) = (x.clone(), x.clone());
            kernels.bias_gelu(&mut got, &bias);
            reference::bias_gelu(&mut want, &bias);
            near(&got, &want, 1e-5, "bias_gelu");
            let (mut got, mut want) = (x.clone(), x.clone());
            kernels.bias_residual_layer_norm(&mut got, &bias, &x, &gamma, &bias, 1e-3);
            reference::bias_residual_layer_norm(&mut want, &bias, &x, &gamma, &bias, 1e-3);
            near(&got, &want, 1e-4, "bias_residual_layer_norm");
        }
    });
}

#[test]
fn rows_are_multiplied() {
    everywhere(|kernels| {
        for (m, k, n) in [(1, 1, 1), (3, 5, 9), (7, 3, 34), (2, 17, 5)] {
            let (x, w, bias) = (ramp(m * k), ramp(n * k), ramp(n));
            let mut got = vec![f32::NAN; m * n];
            let shape = LinearShape { m, k, n };
            kernels.linear(&x, &w, shape, Epilogue::BiasGelu(&bias), &mut got);
            let mut want: Vec<f32> = (0..m * n)
                .map(|i| (0..k).map(|c| x[i / n * k + c] * w[i % n * k + c]).sum())
                .collect();
            reference::bias_gelu(&mut want, &bias);
            near(&got, &want, 1e-4, "linear");
        }
    });
}

#[test]
fn sequences_attend_to_themselves() {
    everywhere(|kernels| {
        for (cu_seqlens, heads, head_dim) in [(vec![0, 1], 1, 1), (vec![0, 3, 3, 8], 2, 5)] {
            let tokens = cu_seqlens[cu_seqlens.len() - 1];
            let hidden = heads * head_dim;
            let qkv = ramp(tokens * 3 * hidden);
            let mut got = vec![f32::NAN; tokens * hidden];
            let kind = AttentionKind::default();
            kernels.attention(&qkv, &cu_seqlens, heads, head_dim, &kind, &mut got);
            let mut want = vec![f32::NAN; tokens * hidden];
            reference::attention(&qkv, &cu_seqlens, heads, head_dim, &kind, &mut want);
            near(&got, &want, 1e-4, "attention");
        }
    });
}

struct Weights {
    packed: PackedInt8,
    bias: Vec<f32>,
    factor: Vec<f32>,
    offset: Vec<f32>,
    n: usize,
    k: usize,
}

impl Weights {
    fn new(n: usize, k: usize) -> Self {
        Self {
            packed: pack_int8(&ramp(n * k), n, k, None, Levels::FULL),
            bias: vec![0.25; Int8Matrix::channels(n)],
            factor: vec![1.0; k],
            offset: vec![0.0; k],
            n,
            k,
        }
    }

    fn matrix(&self, high_precision: bool) -> Int8Matrix<'_> {
        Int8Matrix {
            n: self.n,
            k: self.k,
            panels: &self.packed.panels,
            scales: &self.packed.scales,
            sums: &self.packed.sums,
            bias: &self.bias,
            smooth: high_precision.then_some(Smooth {
                factor: &self.factor,
                offset: &self.offset,
            }),
            high_precision,
            levels: Levels::FULL,
        }
    }
}

#[test]
fn quantized_rows_are_multiplied() {
    everywhere(|kernels| {
        for (m, k, n) in [(1, 1, 1), (3, 6, 5), (7, 9, 33)] {
            let (x, weights) = (ramp(m * k), Weights::new(n, k));
            let w = ramp(n * k);
            let want: Vec<f32> = (0..m * n)
                .map(|i| {
                    0.25 + (0..k)
                        .map(|c| x[i / n * k + c] * w[i % n * k + c])
                        .sum::<f32>()
                })
                .collect();
            for high_precision in [false, true] {
                let mut got = vec![f32::NAN; m * n];
                kernels.int8_linear(&x, &weights.matrix(high_precision), &mut got);
                near(&got, &want, 0.02 * k as f32, "int8_linear");
            }
        }
    });
}

#[test]
fn an_encoder_gives_the_same_bits_on_one_thread_and_on_two() {
    let (heads, head_dim, inner) = (1, 6, 7);
    let hidden = heads * head_dim;
    let weights = [
        (3 * hidden, hidden),
        (hidden, hidden),
        (inner, hidden),
        (hidden, inner),
        (2 * inner, hidden),
    ];
    let weights = weights.map(|(n, k)| Weights::new(n, k));
    let [qkv, attention_out, up, down, gates] = weights.each_ref().map(|w| w.matrix(false));
    let ones = vec![1.0; hidden];
    let norm = LayerNorm {
        gamma: &ones,
        beta: &ones,
        eps: 1e-3,
    };
    let layer = Int8Layer {
        qkv,
        attention_out,
        up,
        down,
        norms: Norms::After {
            attention: norm,
            output: norm,
        },
        gated: false,
        kind: AttentionKind::default(),
    };
    let (angles, table) = (ramp(3 * head_dim / 2), ramp(3 * heads));
    let modern = Int8Layer {
        up: gates,
        norms: Norms::Before {
            attention: None,
            output: norm,
        },
        gated: true,
        kind: AttentionKind {
            rotary: Some(Rotary {
                cos: &angles,
                sin: &angles,
            }),
            window: Some(1),
            bias: Some(RelativeBias {
                table: &table,
                reach: 1,
            }),
        },
        ..layer
    };
    for (layer, pooled, rows) in [(layer, Pooling::First, 2), (modern, Pooling::All, 5)] {
        let outputs = std::sync::Mutex::new(Vec::new());
        everywhere(|kernels| {
            let mut x = ramp(5 * hidden);
            let (layers, mut space) = ([layer, layer], EncoderSpace::default());
            kernels.int8_encoder(&layers, heads, &[0, 2, 5], pooled, &mut x, &mut space);
            x.truncate(rows * hidden);
            assert!(x.iter().all(|x| x.is_finite()));
            let bits: Vec<u32> = x.iter().map(|x| x.to_bits()).collect();
            outputs.lock().expect("no panic").push(bits);
        });
        let outputs = outputs.into_inner().expect("no panic");
        assert!(outputs.chunks(2).all(|pair| pair[0] == pair[1]));
    }
}
