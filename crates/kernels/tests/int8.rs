//! The int8 engine on every instruction set of this machine against plain loops.

use kernels::{
    AttentionKind, EncoderSpace, Int8Layer, Int8Matrix, Isa, Kernels, LayerNorm, Levels, Norms,
    PackedInt8, Pooling, RelativeBias, Rotary, Smooth, pack_int8, reference,
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

#[derive(Clone)]
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
        Self::louder(random, n, k, levels, 0)
    }

    /// With twice the weights and biases in the first channels.
    fn louder(random: &mut Random, n: usize, k: usize, levels: Levels, loud: usize) -> Self {
        let mut w: Vec<f32> = random
            .vec(n * k)
            .iter()
            .map(|w| w / (k as f32).sqrt())
            .collect();
        let mut bias = random.vec(n);
        bias.resize(Int8Matrix::channels(n), 0.0);
        let (w_loud, bias_loud) = (&mut w[..loud * k], &mut bias[..loud]);
        w_loud.iter_mut().chain(bias_loud).for_each(|x| *x *= 2.0);
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
            high_precision: false,
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
                for high_precision in [false, true] {
                    let run = |kernels: Kernels| {
                        let matrix = Int8Matrix {
                            high_precision,
                            ..weights.matrix()
                        };
                        let mut out = vec![f32::NAN; m * n];
                        kernels.int8_linear(&x, &matrix, &mut out);
                        out
                    };
                    assert!(
                        run(unit) == run(vectors),
                        "{m}x{k}x{n}, high precision {high_precision}"
                    );
                }
            }
        }
    }
}

#[test]
fn high_precision_rows_are_a_hundred_and_fifty_times_nearer() {
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
            let error = |high_precision| {
                let matrix = Int8Matrix {
                    high_precision,
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
            let (coarse, precise) = (error(false), error(true));
            assert!(
                coarse > 0.0 && precise < coarse / times,
                "{} {m}x{k}x{n} {levels:?}: {precise} for {coarse}",
                kernels.isa()
            );
        }
    }
}

/// What an encoder's layers have.
#[derive(Clone, Copy, Debug, Default)]
struct Shape {
    before: bool,
    gated: bool,
    rotary: bool,
    /// On two of three layers.
    windows: bool,
    bias: bool,
}

const BERT: Shape = Shape {
    before: false,
    gated: false,
    rotary: false,
    windows: false,
    bias: false,
};
const SHAPES: [Shape; 4] = [
    BERT,
    // As GTE's.
    Shape {
        gated: true,
        rotary: true,
        ..BERT
    },
    // As ModernBERT's.
    Shape {
        before: true,
        gated: true,
        rotary: true,
        windows: true,
        bias: false,
    },
    // As MPNet's.
    Shape { bias: true, ..BERT },
];

/// An encoder's layers, owned.
struct Encoder {
    shape: Shape,
    heads: usize,
    layers: Vec<[Weights; 4]>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
    /// Cosines and sines of layers without and with a window.
    angles: [[Vec<f32>; 2]; 2],
    table: Vec<f32>,
}

const WINDOW: usize = 64;
const REACH: usize = 20;

impl Encoder {
    fn new(
        random: &mut Random,
        shape: Shape,
        (hidden, inner, heads): (usize, usize, usize),
        positions: usize,
    ) -> Self {
        let half = hidden / heads / 2;
        let up = if shape.gated { 2 * inner } else { inner };
        let mut levels = LEVELS.into_iter().cycle();
        let mut weights = |n, k, loud| {
            let levels = levels.next().expect("a cycle");
            Weights::louder(random, n, k, levels, loud)
        };
        let layers: Vec<[Weights; 4]> = (0..3)
            .map(|_| {
                [
                    // Queries and keys, so that where tokens are matters.
                    weights(3 * hidden, hidden, 2 * hidden),
                    weights(hidden, hidden, 0),
                    weights(up, hidden, 0),
                    weights(hidden, inner, 0),
                ]
            })
            .collect();
        let angles = [1e4f32, 100.0].map(|theta| {
            let angles = (0..positions * half)
                .map(|i| (i / half) as f32 * theta.powf(-((i % half) as f32) / half as f32));
            let (cos, sin) = angles.map(|angle| (angle.cos(), angle.sin())).unzip();
            [cos, sin]
        });
        Self {
            shape,
            heads,
            layers,
            gamma: random.vec(hidden).iter().map(|x| 1.0 + x / 4.0).collect(),
            beta: random.vec(hidden).iter().map(|x| x / 4.0).collect(),
            angles,
            table: random
                .vec(heads * (2 * REACH + 1))
                .iter()
                .map(|x| 3.0 * x)
                .collect(),
        }
    }

    fn kind(&self, layer: usize) -> AttentionKind<'_> {
        let windowed = self.shape.windows && !layer.is_multiple_of(3);
        let [cos, sin] = &self.angles[usize::from(windowed)];
        AttentionKind {
            rotary: self.shape.rotary.then_some(Rotary { cos, sin }),
            window: windowed.then_some(WINDOW),
            bias: self.shape.bias.then_some(RelativeBias {
                table: &self.table,
                reach: REACH,
            }),
        }
    }

    fn int8(&self) -> Vec<Int8Layer<'_>> {
        let norm = LayerNorm {
            gamma: &self.gamma,
            beta: &self.beta,
            eps: 1e-5,
        };
        let layers = self.layers.iter().enumerate();
        let layers = layers.map(|(number, [qkv, attention_out, up, down])| Int8Layer {
            qkv: qkv.matrix(),
            attention_out: attention_out.matrix(),
            up: up.matrix(),
            down: down.matrix(),
            norms: if self.shape.before {
                Norms::Before {
                    attention: (number > 0).then_some(norm),
                    output: norm,
                }
            } else {
                Norms::After {
                    attention: norm,
                    output: norm,
                }
            },
            gated: self.shape.gated,
            kind: self.kind(number),
        });
        layers.collect()
    }

    /// Every token's output, in plain loops.
    fn plain(&self, x: &[f32], cu: &[usize]) -> Vec<f32> {
        let linear = |x: &[f32], w: &Weights| {
            let mut y = vec![0.0; x.len() / w.k * w.n];
            reference::linear(x, &w.w, w.k, &w.bias[..w.n], &mut y);
            y
        };
        let norm = |mut x: Vec<f32>| {
            reference::layer_norm(&mut x, &self.gamma, &self.beta, 1e-5);
            x
        };
        let add = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a + b).collect::<Vec<_>>();
        let before = self.shape.before;
        let mut h = x.to_vec();
        for (number, [qkv, out, up, down]) in self.layers.iter().enumerate() {
            let seen = if before && number > 0 {
                norm(h.clone())
            } else {
                h.clone()
            };
            let (mut context, head_dim) = (vec![0.0; h.len()], out.n / self.heads);
            let (qkv, kind) = (linear(&seen, qkv), self.kind(number));
            reference::attention(&qkv, cu, self.heads, head_dim, &kind, &mut context);
            let sum = add(&h, &linear(&context, out));
            let (stream, seen) = if before {
                (sum.clone(), norm(sum))
            } else {
                let normed = norm(sum);
                (normed.clone(), normed)
            };
            let mut wide = linear(&seen, up);
            if self.shape.gated {
                let up = wide;
                wide = vec![0.0; up.len() / 2];
                reference::gated_gelu(&up, down.k, &mut wide);
            } else {
                reference::bias_gelu(&mut wide, &vec![0.0; down.k]);
            }
            let sum = add(&stream, &linear(&wide, down));
            h = if before { sum } else { norm(sum) };
        }
        h
    }
}

#[test]
fn encoders_are_near_plain_loops_and_the_same_to_the_bit_in_any_batch() {
    const BOUND: f32 = 0.1;
    let mut random = Random(2);
    let (hidden, inner, heads) = (64, 128, 4);
    let cu = [0usize, 3, 50, 51, 260];
    for shape in SHAPES {
        let encoder = Encoder::new(&mut random, shape, (hidden, inner, heads), 209);
        let x = random.vec(260 * hidden);
        let want = encoder.plain(&x, &cu);
        let encode = |kernels: Kernels, x: &[f32], cu: &[usize], pooled| {
            let mut h = x.to_vec();
            let mut space = EncoderSpace::default();
            kernels.int8_encoder(&encoder.int8(), heads, cu, pooled, &mut h, &mut space);
            h
        };
        let far = |got: &[f32], want: &[f32]| {
            let differences = got.iter().zip(want).map(|(a, b)| (a - b).abs());
            differences.fold(0f32, |worst, d| if d <= worst { worst } else { d })
        };
        // What the bound is worth: positions and windows change more than that.
        let other = Encoder {
            shape: Shape {
                rotary: false,
                windows: false,
                bias: false,
                ..shape
            },
            ..Encoder::new(&mut Random(3), shape, (hidden, inner, heads), 209)
        };
        let other = Encoder {
            layers: encoder.layers.clone(),
            gamma: encoder.gamma.clone(),
            beta: encoder.beta.clone(),
            ..other
        };
        let effect = far(&other.plain(&x, &cu), &want);
        assert!(
            effect > 3.0 * BOUND || shape.rotary == shape.bias,
            "{shape:?}: {effect}"
        );
        for kernels in every_isa() {
            let all = encode(kernels, &x, &cu, Pooling::All);
            let firsts = encode(kernels, &x, &cu, Pooling::First);
            let worst = far(&all, &want);
            let worst_first = (0..4)
                .map(|i| {
                    let row = &want[cu[i] * hidden..][..hidden];
                    far(&firsts[i * hidden..][..hidden], row)
                })
                .fold(0f32, f32::max);
            println!(
                "{shape:?} on {}: {worst}, first tokens {worst_first}, of {effect}",
                kernels.isa()
            );
            assert!(worst < BOUND, "{shape:?} on {}: {worst}", kernels.isa());
            assert!(
                worst_first < BOUND,
                "{shape:?} on {}: first tokens {worst_first}",
                kernels.isa()
            );
            // Alone, each sequence gives the same bits.
            for i in 0..4 {
                let tokens = cu[i] * hidden..cu[i + 1] * hidden;
                let alone = [0, cu[i + 1] - cu[i]];
                let one = encode(kernels, &x[tokens.clone()], &alone, Pooling::All);
                assert!(
                    one == all[tokens.clone()],
                    "{shape:?} on {}: sequence {i}",
                    kernels.isa()
                );
                let one = encode(kernels, &x[tokens], &alone, Pooling::First);
                assert!(
                    one[..hidden] == firsts[i * hidden..(i + 1) * hidden],
                    "{shape:?} on {}: first token of sequence {i}",
                    kernels.isa()
                );
            }
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
                for (x, smooth, high_precision) in [
                    (&x, None, false),
                    (&rough, Some(smooth), false),
                    (&x, None, true),
                    (&rough, Some(smooth), true),
                ] {
                    let matrix = Int8Matrix {
                        smooth,
                        high_precision,
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
                            "{} {m}x{k}x{n} {levels:?} from {low}, extreme {extreme}, smooth {}, high precision {high_precision} [{row}, {channel}]",
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
    // More tokens than go through the layers together, among them a sequence longer than that; and few.
    let (long, some) = (&[3, 520, 1, 90][..], &[200, 1, 90][..]);
    let batches = |shape: Shape| [if shape.windows { long } else { some }, &[3, 90, 1], &[1]];
    for (shape, lengths) in SHAPES
        .into_iter()
        .flat_map(|shape| batches(shape).map(|lengths| (shape, lengths)))
    {
        let encoder = Encoder::new(&mut random, shape, (hidden, inner, heads), 520);
        let layers = encoder.int8();
        // Where all of a mean is wanted, and where first tokens are.
        let pooled = if shape.before {
            Pooling::All
        } else {
            Pooling::First
        };
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
                pool.install(|| {
                    kernels.int8_encoder(&layers, heads, &cu, pooled, &mut h, &mut space);
                });
                if pooled == Pooling::First {
                    h.truncate((cu.len() - 1) * hidden);
                }
                h
            };
            let one = run(1);
            assert!(one.iter().all(|x| x.is_finite()));
            for threads in [2, 3, 7] {
                assert!(
                    run(threads) == one,
                    "{shape:?} on {} on {threads} threads",
                    kernels.isa()
                );
            }
            // Nor does a matrix unit beside the same vectors.
            match (kernels.isa(), &on_vectors) {
                (Isa::Avx512Vnni, _) => on_vectors = Some(one),
                (Isa::Amx, Some(want)) if Isa::Amx.is_available() => {
                    assert!(one == *want, "{shape:?}: other bits on a matrix unit");
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
            high_precision: false,
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
