//! The int8 engine on every instruction set of this machine against plain loops.

use kernels::{
    EncoderSpace, Int8Layer, Int8Matrix, Isa, Kernels, LayerNorm, PackedInt8, pack_int8, reference,
};

/// Uniform in -1..1.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn vec(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.next()).collect()
    }
}

fn every_isa() -> impl Iterator<Item = Kernels> {
    Isa::ALL.into_iter().filter_map(Kernels::with)
}

struct Weights {
    w: Vec<f32>,
    packed: PackedInt8,
    bias: Vec<f32>,
    n: usize,
    k: usize,
}

impl Weights {
    fn new(random: &mut Random, n: usize, k: usize) -> Self {
        let w: Vec<f32> = random
            .vec(n * k)
            .iter()
            .map(|w| w / (k as f32).sqrt())
            .collect();
        let mut bias = random.vec(n);
        bias.resize(Int8Matrix::channels(n), 0.0);
        Self {
            packed: pack_int8(&w, n, k, None),
            w,
            bias,
            n,
            k,
        }
    }

    fn matrix(&self) -> Int8Matrix<'_> {
        Int8Matrix {
            n: self.n,
            k: self.k,
            panels: &self.packed.panels,
            scales: &self.packed.scales,
            sums: &self.packed.sums,
            bias: &self.bias,
            smooth: None,
        }
    }
}

#[test]
fn int8_linear_is_near_the_exact_product_at_every_shape() {
    let mut random = Random(1);
    for (m, k, n) in [
        (1, 4, 32),
        (1, 1, 1),
        (5, 30, 33),
        (13, 70, 100),
        (50, 128, 64),
        (7, 1024, 96),
    ] {
        let weights = Weights::new(&mut random, n, k);
        let x = random.vec(m * k);
        for kernels in every_isa() {
            let mut out = vec![f32::NAN; m * n];
            kernels.int8_linear(&x, &weights.matrix(), &mut out);
            for row in 0..m {
                for channel in 0..n {
                    let exact: f32 = (0..k)
                        .map(|i| x[row * k + i] * weights.w[channel * k + i])
                        .sum::<f32>()
                        + weights.bias[channel];
                    let got = out[row * n + channel];
                    assert!(
                        (got - exact).abs() < 0.02,
                        "{} {m}x{k}x{n} [{row}, {channel}]: {got} for {exact}",
                        kernels.isa()
                    );
                }
            }
        }
    }
}

#[test]
fn an_encoder_layer_is_near_the_f32_kernels() {
    let mut random = Random(2);
    let (hidden, inner, heads) = (64, 128, 4);
    let layers: Vec<[Weights; 4]> = (0..3)
        .map(|_| {
            [
                Weights::new(&mut random, 3 * hidden, hidden),
                Weights::new(&mut random, hidden, hidden),
                Weights::new(&mut random, inner, hidden),
                Weights::new(&mut random, hidden, inner),
            ]
        })
        .collect();
    let gamma = vec![1.0; hidden];
    let beta = vec![0.1; hidden];
    let cu = [0usize, 3, 50, 51, 400];
    let x = random.vec(400 * hidden);
    let norm = LayerNorm {
        gamma: &gamma,
        beta: &beta,
        eps: 1e-5,
    };
    let reference = {
        let kernels = Kernels::with(Isa::Scalar).expect("runs everywhere");
        let mut h = x.clone();
        for [qkv, out, up, down] in &layers {
            let linear = |x: &[f32], w: &Weights, gelu: bool| {
                let m = x.len() / w.k;
                let mut y = vec![0.0; m * w.n];
                let e = if gelu {
                    kernels::Epilogue::BiasGelu(&w.bias[..w.n])
                } else {
                    kernels::Epilogue::Bias(&w.bias[..w.n])
                };
                kernels.linear(
                    x,
                    &w.w,
                    kernels::LinearShape { m, k: w.k, n: w.n },
                    e,
                    &mut y,
                );
                y
            };
            let q = linear(&h, qkv, false);
            let mut context = vec![0.0; h.len()];
            reference::attention(&q, &cu, heads, hidden / heads, &mut context);
            let zero = vec![0.0; hidden];
            let mut a = linear(&context, out, false);
            kernels.bias_residual_layer_norm(&mut a, &zero, &h, &gamma, &beta, 1e-5);
            let mut d = linear(&linear(&a, up, true), down, false);
            kernels.bias_residual_layer_norm(&mut d, &zero, &a, &gamma, &beta, 1e-5);
            h = d;
        }
        h
    };
    for kernels in every_isa() {
        let int8: Vec<Int8Layer> = layers
            .iter()
            .map(|[qkv, attention_out, up, down]| Int8Layer {
                qkv: qkv.matrix(),
                attention_out: attention_out.matrix(),
                attention_norm: norm,
                up: up.matrix(),
                down: down.matrix(),
                output_norm: norm,
            })
            .collect();
        let mut h = x.clone();
        kernels.int8_encoder(&int8, heads, &cu, &mut h, &mut EncoderSpace::default());
        let mut worst = 0f32;
        for (i, first) in cu[..4].iter().enumerate() {
            for j in 0..hidden {
                worst = worst.max((h[i * hidden + j] - reference[first * hidden + j]).abs());
            }
        }
        println!("{}: {worst}", kernels.isa());
        assert!(worst < 0.1, "{}: {worst}", kernels.isa());
        // Alone, each sequence gives the same bits.
        for i in 0..4 {
            let mut alone = x[cu[i] * hidden..cu[i + 1] * hidden].to_vec();
            kernels.int8_encoder(
                &int8,
                heads,
                &[0, cu[i + 1] - cu[i]],
                &mut alone,
                &mut EncoderSpace::default(),
            );
            assert_eq!(
                alone[..hidden],
                h[i * hidden..(i + 1) * hidden],
                "{} sequence {i}",
                kernels.isa()
            );
        }
    }
}
