//! The int8 engine on every instruction set of this machine against plain loops.

use kernels::{
    AttentionKind, EncoderSpace, Int8Layer, Int8Matrix, Isa, Kernels, LayerNorm, Levels,
    PackedInt8, Smooth, pack_int8, reference,
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
    let model = Kernels::modelled_unit();
    Isa::ALL
        .into_iter()
        .filter_map(Kernels::with)
        .chain([model])
}

/// Those of all bits, and some between, whose sums of products in 16 bits just fit.
const LEVELS: [Levels; 8] = [
    Levels::FULL,
    Levels::of_bits(7, 8),
    Levels::of_bits(7, 7),
    Levels::of_bits(6, 8),
    Levels::of_bits(6, 7),
    Levels::of_bits(8, 7),
    Levels {
        weights: 90,
        inputs: 91,
    },
    Levels {
        weights: 45,
        inputs: 91,
    },
];

struct Weights {
    w: Vec<f32>,
    packed: PackedInt8,
    bias: Vec<f32>,
    n: usize,
    k: usize,
    levels: Levels,
}

impl Weights {
    fn new(random: &mut Random, n: usize, k: usize, levels: Levels) -> Self {
        let w: Vec<f32> = random
            .vec(n * k)
            .iter()
            .map(|w| w / (k as f32).sqrt())
            .collect();
        let mut bias = random.vec(n);
        bias.resize(Int8Matrix::channels(n), 0.0);
        Self {
            packed: pack_int8(&w, n, k, None, levels),
            w,
            bias,
            n,
            k,
            levels,
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
            fine: false,
            levels: self.levels,
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
        let levels = LEVELS[(m + n) % LEVELS.len()];
        let weights = Weights::new(&mut random, n, k, levels);
        let bound = 0.02 * 127.0 / f32::from(levels.weights.min(levels.inputs / 2));
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
                        (got - exact).abs() < bound,
                        "{} {m}x{k}x{n} [{row}, {channel}]: {got} for {exact}",
                        kernels.isa()
                    );
                }
            }
        }
    }
}

/// A matrix unit's sums are exact, and what becomes of them afterwards is the same: at every tail of rows, inputs and channels.
#[test]
fn a_matrix_unit_changes_no_bit() {
    let mut random = Random(8);
    let pairs = [
        (Kernels::with(Isa::Amx), Kernels::with(Isa::Avx512Vnni)),
        (Some(Kernels::modelled_unit()), Kernels::with(Isa::Scalar)),
    ];
    for (unit, vectors) in pairs {
        let (Some(unit), Some(vectors)) = (unit, vectors) else {
            println!("NOT TESTED: this machine lacks AMX");
            continue;
        };
        for (k, n) in [
            (1, 1),
            (60, 31),
            (64, 32),
            (65, 33),
            (127, 64),
            (130, 100),
            (312, 40),
        ] {
            let levels = LEVELS[(k + n) % LEVELS.len()];
            let weights = Weights::new(&mut random, n, k, levels);
            for m in [1, 2, 15, 16, 17, 31, 32, 33, 47, 49, 64, 150] {
                let x = random.vec(m * k);
                for fine in [false, true] {
                    let run = |kernels: Kernels| {
                        let matrix = Int8Matrix {
                            fine,
                            ..weights.matrix()
                        };
                        let mut out = vec![f32::NAN; m * n];
                        kernels.int8_linear(&x, &matrix, &mut out);
                        out
                    };
                    assert!(run(unit) == run(vectors), "{m}x{k}x{n}, fine {fine}");
                }
            }
        }
    }
}

#[test]
fn fine_rows_are_a_hundred_and_fifty_times_nearer() {
    let mut random = Random(6);
    let shapes = [(1, 3, 5), (29, 70, 65), (80, 384, 40)];
    for ((m, k, n), levels) in shapes
        .into_iter()
        .flat_map(|shape| LEVELS.map(|levels| (shape, levels)))
    {
        // Weights that are exact, so that the activations' error is all there is.
        let weights = integral_weights(&mut random, n, k, false, levels);
        let times = 150.0 * f64::from(levels.inputs) / 255.0;
        let x = random.vec(m * k);
        for kernels in every_isa() {
            let error = |fine| {
                let matrix = Int8Matrix {
                    fine,
                    ..weights.matrix()
                };
                let mut out = vec![f32::NAN; m * n];
                kernels.int8_linear(&x, &matrix, &mut out);
                let errors = out.iter().enumerate().map(|(i, got)| {
                    let (row, channel) = (i / n, i % n);
                    let terms = (0..k)
                        .map(|c| f64::from(x[row * k + c]) * f64::from(weights.w[channel * k + c]));
                    (f64::from(*got) - terms.sum::<f64>()).powi(2)
                });
                errors.sum::<f64>().sqrt()
            };
            let (coarse, fine) = (error(false), error(true));
            assert!(
                coarse > 0.0 && fine < coarse / times,
                "{} {m}x{k}x{n} {levels:?}: {fine} for {coarse}",
                kernels.isa()
            );
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
                Weights::new(&mut random, 3 * hidden, hidden, Levels::of_bits(7, 7)),
                Weights::new(&mut random, hidden, hidden, Levels::FULL),
                Weights::new(&mut random, inner, hidden, Levels::of_bits(7, 8)),
                Weights::new(&mut random, hidden, inner, Levels::of_bits(6, 7)),
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
            let kind = AttentionKind::default();
            reference::attention(&q, &cu, heads, hidden / heads, &kind, &mut context);
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

/// Integral weights of which each channel's largest is the levels', so that they quantize to themselves with a scale of 1.
fn integral_weights(
    random: &mut Random,
    n: usize,
    k: usize,
    extreme: bool,
    levels: Levels,
) -> Weights {
    let most = f32::from(levels.weights);
    let mut w: Vec<f32> = random
        .vec(n * k)
        .iter()
        .map(|w| {
            if extreme {
                w.signum() * most
            } else {
                (w * most).round()
            }
        })
        .collect();
    for row in w.chunks_exact_mut(k) {
        row[0] = -most;
    }
    Weights {
        packed: pack_int8(&w, n, k, None, levels),
        levels,
        w,
        bias: vec![0.0; Int8Matrix::channels(n)],
        n,
        k,
    }
}

/// Integers whose row's least is `low` and largest `low + most`, so that they quantize with a step of 1.
fn integral_rows(
    random: &mut Random,
    (m, k): (usize, usize),
    (low, most): (f32, f32),
    extreme: bool,
) -> Vec<f32> {
    let mut x: Vec<f32> = random
        .vec(m * k)
        .iter()
        .map(|x| {
            let byte = ((x + 1.0) / 2.0 * most).round();
            low + if !extreme {
                byte
            } else if byte < most / 2.0 {
                0.0
            } else {
                most
            }
        })
        .collect();
    for row in x.chunks_exact_mut(k) {
        (row[0], row[k - 1]) = (low, low + most);
    }
    x
}

#[test]
fn integers_are_multiplied_exactly_on_every_set() {
    let mut random = Random(3);
    let shapes = [(1, 2, 1), (3, 9, 40), (14, 100, 32), (37, 500, 65)];
    for ((m, k, n), levels) in shapes
        .into_iter()
        .flat_map(|shape| LEVELS.map(|levels| (shape, levels)))
    {
        for (low, extreme) in [(0.0, false), (-100.0, false), (-128.0, true), (0.0, true)] {
            let weights = integral_weights(&mut random, n, k, extreme, levels);
            let range = (low, f32::from(levels.inputs));
            let x = integral_rows(&mut random, (m, k), range, extreme);
            // A power of two either way changes no bit.
            let factor: Vec<f32> = (0..k).map(|i| [1.0, 4.0, 0.125][i % 3]).collect();
            let offset: Vec<f32> = (0..k).map(|i| [0.0, -3.0][i % 2]).collect();
            let rough: Vec<f32> = x
                .iter()
                .enumerate()
                .map(|(i, x)| (x - offset[i % k]) / factor[i % k])
                .collect();
            let smooth = Smooth {
                factor: &factor,
                offset: &offset,
            };
            for kernels in every_isa() {
                // What is exact in 8 bits leaves nothing for 16.
                for (x, smooth, fine) in [
                    (&x, None, false),
                    (&rough, Some(smooth), false),
                    (&x, None, true),
                    (&rough, Some(smooth), true),
                ] {
                    let matrix = Int8Matrix {
                        smooth,
                        fine,
                        ..weights.matrix()
                    };
                    let mut out = vec![f32::NAN; m * n];
                    kernels.int8_linear(x, &matrix, &mut out);
                    for (i, got) in out.iter().enumerate() {
                        let (row, channel) = (i / n, i % n);
                        let exact: f64 = (0..k)
                            .map(|c| {
                                let x = x[row * k + c];
                                let x = smooth.map_or(x, |s| x * s.factor[c] + s.offset[c]);
                                f64::from(x) * f64::from(weights.w[channel * k + c])
                            })
                            .sum();
                        assert_eq!(
                            f64::from(*got),
                            exact,
                            "{} {m}x{k}x{n} {levels:?} from {low}, extreme {extreme}, smooth {}, fine {fine} [{row}, {channel}]",
                            kernels.isa(),
                            smooth.is_some()
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_hostile_row_stays_alone_and_finite_rows_stay_finite() {
    let mut random = Random(4);
    let (m, k, n) = (15, 70, 48);
    for levels in LEVELS {
        hostile_rows_stay_alone(&mut random, (m, k, n), levels);
    }
}

fn hostile_rows_stay_alone(random: &mut Random, (m, k, n): (usize, usize, usize), levels: Levels) {
    let weights = Weights::new(random, n, k, levels);
    let x = random.vec(m * k);
    for kernels in every_isa() {
        let run = |x: &[f32]| {
            let mut out = vec![0.0; m * n];
            kernels.int8_linear(x, &weights.matrix(), &mut out);
            out
        };
        let clean = run(&x);
        for place in [0, 33, 69] {
            for (value, finite) in [
                (f32::NAN, false),
                (f32::INFINITY, false),
                (f32::NEG_INFINITY, false),
                (1e30, true),
                (-1e30, true),
                (1e-40, true),
            ] {
                let mut hostile = x.clone();
                hostile[7 * k + place] = value;
                for (i, (a, b)) in run(&hostile).iter().zip(&clean).enumerate() {
                    if i / n != 7 {
                        assert_eq!(a.to_bits(), b.to_bits(), "{} {value} {i}", kernels.isa());
                    } else if finite {
                        assert!(a.is_finite(), "{} {value} gives {a}", kernels.isa());
                    } else {
                        assert!(a.is_nan(), "{} {value} gives {a}", kernels.isa());
                    }
                }
            }
        }
        // A constant row has no range to quantize: the product is the constant times the weights' sum.
        for constant in [0.0, -3.5, 1e-41] {
            let out = run(&vec![constant; m * k]);
            for (channel, got) in out[..n].iter().enumerate() {
                let sum = weights.packed.scales[channel] * weights.packed.sums[channel];
                let exact = constant * sum + weights.bias[channel];
                assert!(
                    (got - exact).abs() < 1e-5,
                    "{}: {got} for {exact}",
                    kernels.isa()
                );
            }
        }
    }
}

#[test]
fn neither_threads_nor_a_matrix_unit_change_a_bit() {
    let mut random = Random(5);
    let (hidden, inner, heads) = (64, 96, 2);
    let shapes = [
        (3 * hidden, hidden),
        (hidden, hidden),
        (inner, hidden),
        (hidden, inner),
    ];
    let mut levels = LEVELS.into_iter();
    let layers: Vec<[Weights; 4]> = (0..2)
        .map(|_| {
            shapes.map(|(n, k)| {
                let levels = levels.next().expect("as many as matrices");
                Weights::new(&mut random, n, k, levels)
            })
        })
        .collect();
    let (gamma, beta) = (vec![1.0; hidden], vec![0.0; hidden]);
    let norm = LayerNorm {
        gamma: &gamma,
        beta: &beta,
        eps: 1e-5,
    };
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
    // More tokens than go through the layers together, among them a sequence longer than that; and few.
    for lengths in [&[3, 700, 1, 90, 200, 300, 40][..], &[3, 90, 1], &[1]] {
        let mut cu = vec![0usize];
        for length in lengths {
            cu.push(cu[cu.len() - 1] + length);
        }
        let x = random.vec(cu[cu.len() - 1] * hidden);
        let mut on_vectors = None;
        for kernels in every_isa() {
            let run = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .build()
                    .expect("a pool");
                let mut h = x.clone();
                let mut space = EncoderSpace::default();
                pool.install(|| kernels.int8_encoder(&int8, heads, &cu, &mut h, &mut space));
                h.truncate((cu.len() - 1) * hidden);
                h
            };
            let one = run(1);
            assert!(one.iter().all(|x| x.is_finite()));
            for threads in [2, 3, 7] {
                assert!(
                    run(threads) == one,
                    "{} on {threads} threads",
                    kernels.isa()
                );
            }
            // Nor does a matrix unit beside the same vectors.
            match (kernels.isa(), &on_vectors) {
                (Isa::Avx512Vnni, _) => on_vectors = Some(one),
                (Isa::Amx, Some(want)) if Isa::Amx.is_available() => {
                    assert!(one == *want, "other bits on a matrix unit");
                    on_vectors = None;
                }
                _ => {}
            }
        }
    }
}

/// A range that is small beside the values loses digits, and the largest may come out a little beyond the largest byte: which the
/// products of narrow operands could not bear.
#[test]
fn rounding_never_takes_inputs_beyond_their_levels() {
    let (m, k, n) = (5, 64, 32);
    for levels in LEVELS {
        let most = f32::from(levels.weights);
        let w = vec![most; n * k];
        let packed = pack_int8(&w, n, k, None, levels);
        let bias = vec![0.0; n];
        let matrix = Int8Matrix {
            n,
            k,
            panels: &packed.panels,
            scales: &packed.scales,
            sums: &packed.sums,
            bias: &bias,
            smooth: None,
            fine: false,
            levels,
        };
        for low in [1e4f32, 1e6, 8e6, -8e6, 3e7] {
            // All but one at the top.
            let mut x = vec![low + 3.0; m * k];
            x.iter_mut().step_by(k).for_each(|x| *x = low);
            let exact: f64 = x[..k].iter().map(|x| f64::from(*x) * f64::from(most)).sum();
            for kernels in every_isa() {
                let mut out = vec![f32::NAN; m * n];
                kernels.int8_linear(&x, &matrix, &mut out);
                // A sum that wrapped would be off by 65536 times the step, for all of the row's sums.
                let bound = exact.abs() * 1e-6 + 3.0 * f64::from(most) * k as f64 / 64.0;
                assert!(
                    out.iter()
                        .all(|got| (f64::from(*got) - exact).abs() < bound),
                    "{} {levels:?} from {low}: {} for {exact}",
                    kernels.isa(),
                    out[0]
                );
            }
        }
    }
}
