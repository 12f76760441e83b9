//! Every instruction set of this machine against the scalar oracle, at all tail lengths, and the promises of the crate's
//! front page: batch and thread invariance to the bit, special values, checked shapes.

use std::panic::{AssertUnwindSafe, catch_unwind};

use kernels::{
    AttentionKind, Epilogue, Isa, Kernels, LinearShape, RelativeBias, Rotary, reference,
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

    fn scaled(&mut self, len: usize, scale: f32) -> Vec<f32> {
        (0..len).map(|_| self.next() * scale).collect()
    }
}

/// The kernels on each instruction set this machine has.
fn every_isa() -> impl Iterator<Item = Kernels> {
    let model = Kernels::modelled_unit();
    Isa::ALL
        .into_iter()
        .filter_map(Kernels::with)
        .chain([model])
}

fn on_threads<R: Send>(threads: usize, f: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .expect("a thread pool")
        .install(f)
}

/// The largest `|got - want| / max(1, |want|)`; infinite where exactly one is NaN.
fn error(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    got.iter().zip(want).fold(0.0, |worst, (&got, &want)| {
        if got.is_nan() || want.is_nan() {
            if got.is_nan() == want.is_nan() {
                worst
            } else {
                f32::INFINITY
            }
        } else {
            worst.max((got - want).abs() / want.abs().max(1.0))
        }
    })
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn says_which_instruction_sets_ran_and_which_could_not() {
    for isa in Isa::ALL {
        let state = if isa.is_available() {
            "tested"
        } else {
            "NOT TESTED: this machine lacks it"
        };
        println!("{isa}: {state}");
    }
    assert!(every_isa().count() >= 1);
}

#[test]
fn bias_add_and_gelu_match_the_oracle_at_every_row_length() {
    let mut random = Random(1);
    for n in (1..=70).chain([384, 1000, 1024]) {
        for rows in [1, 2, 5] {
            let x = random.scaled(rows * n, 6.0);
            let bias = random.vec(n);
            let mut sum = x.clone();
            reference::bias_add(&mut sum, &bias);
            let mut gelu = x.clone();
            reference::bias_gelu(&mut gelu, &bias);
            for kernels in every_isa() {
                let mut got = x.clone();
                kernels.bias_add(&mut got, &bias);
                assert_eq!(got, sum, "{} n {n}", kernels.isa());
                let mut got = x.clone();
                kernels.bias_gelu(&mut got, &bias);
                let error = error(&got, &gelu);
                assert!(error < 4e-7, "{} n {n}: {error:e}", kernels.isa());
            }
        }
    }
}

#[test]
fn gates_match_the_oracle_at_every_row_length() {
    let mut random = Random(13);
    for inner in (1..=70).chain([384, 1000, 2624]) {
        for rows in [1, 2, 5] {
            let up = random.scaled(rows * 2 * inner, 6.0);
            let mut want = vec![0.0; rows * inner];
            reference::gated_gelu(&up, inner, &mut want);
            for kernels in every_isa() {
                let mut got = vec![f32::NAN; rows * inner];
                kernels.gated_gelu(&up, inner, &mut got);
                let error = error(&got, &want);
                assert!(error < 3e-6, "{} {inner}: {error:e}", kernels.isa());
            }
        }
    }
    Kernels::detect().gated_gelu(&[], 3, &mut []);
}

#[test]
fn layer_norms_match_the_oracle_at_every_row_length() {
    let mut random = Random(2);
    for n in (1..=70).chain([127, 384, 1000, 1024, 4096]) {
        for (scale, offset) in [(1.0, 0.0), (1e-3, 0.0), (1e3, 0.0), (1.0, 30.0)] {
            let rows = 3;
            let x: Vec<f32> = (0..rows * n)
                .map(|_| random.next() * scale + offset)
                .collect();
            let residual = random.scaled(rows * n, scale);
            let (bias, gamma, beta) = (random.scaled(n, scale), random.vec(n), random.vec(n));
            let mut plain = x.clone();
            reference::layer_norm(&mut plain, &gamma, &beta, 1e-5);
            let mut added = x.clone();
            reference::bias_residual_layer_norm(&mut added, &bias, &residual, &gamma, &beta, 1e-5);
            for kernels in every_isa() {
                // An offset costs the digits it takes from the differences.
                let bound = 3e-6 * (1.0 + offset);
                let mut got = x.clone();
                kernels.layer_norm(&mut got, &gamma, &beta, 1e-5);
                let e = error(&got, &plain);
                assert!(e < bound, "{} n {n} scale {scale}: {e:e}", kernels.isa());
                let mut got = x.clone();
                kernels.bias_residual_layer_norm(&mut got, &bias, &residual, &gamma, &beta, 1e-5);
                let e = error(&got, &added);
                assert!(e < bound, "{} n {n} scale {scale}: {e:e}", kernels.isa());
            }
        }
    }
}

#[test]
fn layer_norm_of_equal_extreme_and_denormal_rows_stays_finite() {
    let n = 37;
    let gamma = vec![2.0; n];
    let beta = vec![0.5; n];
    for kernels in every_isa() {
        for value in [0.0, 1.0, -1e4, 1e4, 1e-40] {
            let mut x = vec![value; n];
            kernels.layer_norm(&mut x, &gamma, &beta, 1e-5);
            assert!(
                x.iter().all(|x| (x - 0.5).abs() < 0.5),
                "{} {value}: {x:?}",
                kernels.isa()
            );
        }
        let mut x: Vec<f32> = (0..n)
            .map(|i| if i % 2 == 0 { 1e4 } else { -1e4 })
            .collect();
        let mut want = x.clone();
        kernels.layer_norm(&mut x, &gamma, &beta, 1e-5);
        reference::layer_norm(&mut want, &gamma, &beta, 1e-5);
        assert!(error(&x, &want) < 1e-5);
    }
}

/// `|got - want| <= bound * (Σ|x w| + |bias|)` for every output, which is how f32 sums err.
fn assert_linear_close(
    kernels: Kernels,
    x: &[f32],
    w: &[f32],
    shape: LinearShape,
    bias: &[f32],
    got: &[f32],
) {
    let LinearShape { m, k, n } = shape;
    let mut want = vec![0.0; m * n];
    reference::linear(x, w, k, bias, &mut want);
    let abs = |x: &[f32]| x.iter().map(|x| x.abs()).collect::<Vec<_>>();
    let mut size = vec![0.0; m * n];
    reference::linear(&abs(x), &abs(w), k, &abs(bias), &mut size);
    for (i, ((got, want), size)) in got.iter().zip(&want).zip(&size).enumerate() {
        assert!(
            (got - want).abs() <= 1e-6 * size + 1e-37,
            "{} {shape:?} output {i}: {got} for {want}",
            kernels.isa()
        );
    }
}

#[test]
fn linear_matches_the_oracle_for_every_tail_of_m_n_and_k() {
    let mut random = Random(3);
    let mut shapes = Vec::new();
    shapes.extend((1..=70).map(|m| (m, 20, 33)));
    shapes.extend((1..=70).map(|n| (14, 20, n)));
    shapes.extend((1..=70).map(|k| (13, k, 35)));
    shapes.extend([
        (1, 1, 1),
        (5, 0, 7),
        (0, 3, 4),
        (4, 3, 0),
        (2, 1024, 1),
        (1, 256, 40),
    ]);
    shapes.extend([
        (25, 257, 65),
        (17, 513, 96),
        (30, 700, 130),
        (800, 64, 70),
        (14, 530, 1100),
    ]);
    for (m, k, n) in shapes {
        let shape = LinearShape { m, k, n };
        let (x, w, bias) = (random.vec(m * k), random.vec(n * k), random.vec(n));
        for kernels in every_isa() {
            let mut out = vec![f32::NAN; m * n];
            kernels.linear(&x, &w, shape, Epilogue::None, &mut out);
            assert_linear_close(kernels, &x, &w, shape, &vec![0.0; n], &out);

            let mut biased = vec![f32::NAN; m * n];
            kernels.linear(&x, &w, shape, Epilogue::Bias(&bias), &mut biased);
            assert_linear_close(kernels, &x, &w, shape, &bias, &biased);
            if n > 0 {
                kernels.bias_add(&mut out, &bias);
                assert_eq!(bits(&biased), bits(&out), "{} {shape:?}", kernels.isa());
            }

            let mut gelu = vec![f32::NAN; m * n];
            kernels.linear(&x, &w, shape, Epilogue::BiasGelu(&bias), &mut gelu);
            if n > 0 {
                kernels.bias_gelu(&mut biased, &vec![0.0; n]);
                assert_eq!(bits(&gelu), bits(&biased), "{} {shape:?}", kernels.isa());
            }
        }
    }
}

#[test]
fn linear_into_columns_writes_the_same_bits_and_nothing_between_them() {
    let mut random = Random(11);
    for (m, k, n, stride) in [
        (1, 20, 7, 7),
        (3, 20, 7, 9),
        (50, 600, 40, 120),
        (900, 64, 33, 99),
    ] {
        let shape = LinearShape { m, k, n };
        let (x, w, bias) = (random.vec(m * k), random.vec(n * k), random.vec(n));
        for kernels in every_isa() {
            let mut want = vec![0.0; m * n];
            kernels.linear(&x, &w, shape, Epilogue::BiasGelu(&bias), &mut want);
            // Ends with the last row's columns, as the last of several matrices side by side does.
            let mut out = vec![7.5; (m - 1) * stride + n];
            kernels.linear_columns(&x, &w, shape, Epilogue::BiasGelu(&bias), &mut out, stride);
            for (i, row) in out.chunks(stride).enumerate() {
                assert_eq!(
                    bits(&row[..n]),
                    bits(&want[i * n..][..n]),
                    "{} {shape:?}",
                    kernels.isa()
                );
                assert!(
                    row[n..].iter().all(|x| *x == 7.5),
                    "{} {shape:?}",
                    kernels.isa()
                );
            }
        }
    }
}

#[test]
fn linear_handles_large_zero_and_denormal_values() {
    let mut random = Random(4);
    let shape = LinearShape { m: 9, k: 40, n: 21 };
    for scale in [1e4, 0.0, 1e-40, 1e15] {
        let x = random.scaled(shape.m * shape.k, scale);
        let w = random.scaled(shape.n * shape.k, 1e4);
        for kernels in every_isa() {
            let mut out = vec![f32::NAN; shape.m * shape.n];
            kernels.linear(&x, &w, shape, Epilogue::None, &mut out);
            assert_linear_close(kernels, &x, &w, shape, &vec![0.0; shape.n], &out);
        }
    }
}

#[test]
fn a_row_of_linear_has_the_same_bits_alone_in_any_place_and_on_any_number_of_threads() {
    let mut random = Random(5);
    for (k, n) in [(64, 96), (300, 50), (1024, 130), (384, 1)] {
        let m = 1000;
        let (x, w, bias) = (random.vec(m * k), random.vec(n * k), random.vec(n));
        for kernels in every_isa() {
            let run = |first: usize, rows: usize, threads| {
                let shape = LinearShape { m: rows, k, n };
                let mut out = vec![0.0; rows * n];
                let x = &x[first * k..][..rows * k];
                on_threads(threads, || {
                    kernels.linear(x, &w, shape, Epilogue::BiasGelu(&bias), &mut out);
                });
                bits(&out)
            };
            let all = run(0, m, 2);
            for threads in [1, 3, 7] {
                assert!(
                    run(0, m, threads) == all,
                    "{} threads {threads}",
                    kernels.isa()
                );
            }
            for (first, rows) in [
                (0, 1),
                (1, 1),
                (5, 2),
                (11, 3),
                (7, 12),
                (3, 13),
                (100, 31),
                (767, 2),
                (999, 1),
                (200, 800),
            ] {
                assert!(
                    run(first, rows, 2) == all[first * n..][..rows * n],
                    "{} k {k} n {n}: rows {first}+{rows}",
                    kernels.isa()
                );
            }
        }
    }
}

#[test]
fn a_row_of_linear_has_the_same_bits_where_many_columns_are_worked_on_together() {
    let mut random = Random(12);
    // Wide enough for groups of column panels, and more than 4 MiB of packed rows.
    let (m, k, n) = (720, 1500, 1100);
    let (x, w) = (random.vec(m * k), random.vec(n * k));
    for kernels in every_isa() {
        let run = |first: usize, rows: usize| {
            let shape = LinearShape { m: rows, k, n };
            let mut out = vec![0.0; rows * n];
            let x = &x[first * k..][..rows * k];
            on_threads(1, || kernels.linear(x, &w, shape, Epilogue::None, &mut out));
            bits(&out)
        };
        let all = run(0, m);
        for (first, rows) in [(0, 1), (355, 30), (700, 20)] {
            assert!(
                run(first, rows) == all[first * n..][..rows * n],
                "{}: rows {first}+{rows}",
                kernels.isa()
            );
        }
    }
}

/// Packed sequences of the given lengths.
fn cu_seqlens(lens: &[usize]) -> Vec<usize> {
    let mut cu = vec![0];
    for len in lens {
        cu.push(cu[cu.len() - 1] + len);
    }
    cu
}

fn attend_as(
    kernels: Kernels,
    qkv: &[f32],
    cu: &[usize],
    heads: usize,
    head_dim: usize,
    kind: &AttentionKind<'_>,
) -> Vec<f32> {
    let mut out = vec![f32::NAN; qkv.len() / 3];
    kernels.attention(qkv, cu, heads, head_dim, kind, &mut out);
    out
}

fn attend(kernels: Kernels, qkv: &[f32], cu: &[usize], heads: usize, head_dim: usize) -> Vec<f32> {
    attend_as(kernels, qkv, cu, heads, head_dim, &PLAIN)
}

const PLAIN: AttentionKind<'static> = AttentionKind {
    rotary: None,
    window: None,
    bias: None,
};

/// The tables of attentions with positions.
struct Tables {
    cos: Vec<f32>,
    sin: Vec<f32>,
    bias: Vec<f32>,
    reach: usize,
}

impl Tables {
    fn new(
        random: &mut Random,
        heads: usize,
        head_dim: usize,
        positions: usize,
        reach: usize,
    ) -> Self {
        let half = head_dim / 2;
        let angle = |i: usize| {
            let exponent = (i % half) as f64 / half as f64;
            (i / half) as f64 * 1e4f64.powf(-exponent)
        };
        let angles = || (0..positions * half).map(angle);
        Self {
            cos: angles().map(|angle| angle.cos() as f32).collect(),
            sin: angles().map(|angle| angle.sin() as f32).collect(),
            bias: random.scaled(heads * (2 * reach + 1), 2.0),
            reach,
        }
    }

    fn kind(&self, rotary: bool, window: Option<usize>, bias: bool) -> AttentionKind<'_> {
        AttentionKind {
            rotary: rotary.then_some(Rotary {
                cos: &self.cos,
                sin: &self.sin,
            }),
            window,
            bias: bias.then_some(RelativeBias {
                table: &self.bias,
                reach: self.reach,
            }),
        }
    }
}

#[test]
fn attention_with_positions_and_windows_matches_the_oracle() {
    let mut random = Random(14);
    // Around the borders of vectors, tiles, windows, a windowed item's 128 queries and a block's 256 keys.
    let lens = [
        1, 2, 5, 6, 7, 11, 12, 16, 17, 33, 63, 64, 65, 66, 127, 128, 129, 130, 191, 193, 255, 256,
        257, 258, 513,
    ];
    let cu = cu_seqlens(&lens);
    for (heads, head_dim, reach) in [(2, 32, 20), (1, 20, 1000), (3, 2, 0)] {
        let hidden = heads * head_dim;
        let tables = Tables::new(&mut random, heads, head_dim, 513, reach);
        let qkv = random.scaled(cu[lens.len()] * 3 * hidden, 2.0);
        for (rotary, window, bias) in [
            (true, None, false),
            (false, None, true),
            (false, Some(0), false),
            (false, Some(5), true),
            (true, Some(64), false),
            (true, Some(65), true),
            (false, Some(200), false),
            (true, Some(usize::MAX), true),
        ] {
            let kind = tables.kind(rotary, window, bias);
            let mut want = vec![0.0; qkv.len() / 3];
            reference::attention(&qkv, &cu, heads, head_dim, &kind, &mut want);
            for kernels in every_isa() {
                let got = attend_as(kernels, &qkv, &cu, heads, head_dim, &kind);
                let error = error(&got, &want);
                assert!(
                    error < 8e-6,
                    "{} {heads} heads of {head_dim}, rotary {rotary}, window {window:?}, bias {bias}: {error:e}",
                    kernels.isa()
                );
            }
        }
    }
}

#[test]
fn keys_beyond_a_window_do_not_matter_however_large() {
    let mut random = Random(15);
    let (head_dim, len, window) = (16, 700, 64);
    let row = 3 * head_dim;
    let plain = random.vec(len * row);
    let mut strange = plain.clone();
    for token in (0..len).filter(|token| token.abs_diff(350) > window) {
        for v in &mut strange[token * row + head_dim..(token + 1) * row] {
            *v *= 1e4;
        }
    }
    let kind = AttentionKind {
        window: Some(window),
        ..PLAIN
    };
    for kernels in every_isa() {
        let [a, b] = [&plain, &strange].map(|qkv| {
            let out = attend_as(kernels, qkv, &[0, len], 1, head_dim, &kind);
            out[350 * head_dim..][..head_dim].to_vec()
        });
        assert_eq!(bits(&a), bits(&b), "{}", kernels.isa());
    }
}

#[test]
fn attention_matches_the_oracle_for_every_length_and_head_size() {
    let mut random = Random(6);
    let mut cases: Vec<(Vec<usize>, usize, usize)> = Vec::new();
    for head_dim in [1, 5, 8, 20, 32, 64, 100] {
        cases.push(((1..=70).step_by(3).collect(), 2, head_dim));
    }
    cases.push(((1..=70).collect(), 1, 16));
    cases.push((vec![0, 3, 0, 0, 5, 0], 3, 24));
    cases.push((vec![255, 256, 257], 1, 32));
    cases.push((vec![600, 1, 513], 2, 64));
    for (lens, heads, head_dim) in cases {
        let cu = cu_seqlens(&lens);
        let hidden = heads * head_dim;
        let qkv = random.scaled(cu[lens.len()] * 3 * hidden, 2.0);
        let mut want = vec![0.0; qkv.len() / 3];
        reference::attention(&qkv, &cu, heads, head_dim, &PLAIN, &mut want);
        for kernels in every_isa() {
            let error = error(&attend(kernels, &qkv, &cu, heads, head_dim), &want);
            assert!(
                error < 4e-6,
                "{} {heads} heads of {head_dim}, {lens:?}: {error:e}",
                kernels.isa()
            );
        }
    }
}

#[test]
fn attention_takes_huge_logits_without_overflow() {
    let mut random = Random(7);
    let (heads, head_dim) = (1, 64);
    let cu = cu_seqlens(&[300, 17]);
    // Logits up to about 1e10: each query's weight goes to one key, and the output is that key's value.
    let qkv = random.scaled(317 * 3 * 64, 1e4);
    let mut want = vec![0.0; 317 * 64];
    reference::attention(&qkv, &cu, heads, head_dim, &PLAIN, &mut want);
    for kernels in every_isa() {
        let got = attend(kernels, &qkv, &cu, heads, head_dim);
        assert!(got.iter().all(|x| x.is_finite()));
        assert!(error(&got, &want) < 1e-5, "{}", kernels.isa());
    }
}

#[test]
fn attention_of_equal_tokens_returns_their_value() {
    for kernels in every_isa() {
        for value in [0.0, 1.0, -1e4, 1e-40] {
            let qkv = vec![value; 270 * 3 * 20];
            let out = attend(kernels, &qkv, &[0, 270], 1, 20);
            assert!(
                out.iter().all(|x| (x - value).abs() <= value.abs() * 1e-5),
                "{} {value}",
                kernels.isa()
            );
        }
    }
}

#[test]
fn a_sequence_of_attention_has_the_same_bits_alone_in_any_batch_and_on_any_number_of_threads() {
    let mut random = Random(8);
    let (heads, head_dim) = (3, 32);
    let row = 3 * heads * head_dim;
    let lens = [16, 1, 300, 47, 700, 33];
    let cu = cu_seqlens(&lens);
    let qkv = random.vec(cu[lens.len()] * row);
    let tables = Tables::new(&mut random, heads, head_dim, 700, 128);
    let kinds = [
        PLAIN,
        tables.kind(true, None, true),
        tables.kind(true, Some(64), false),
        tables.kind(false, Some(150), true),
    ];
    for (kernels, kind) in every_isa().flat_map(|kernels| kinds.map(|kind| (kernels, kind))) {
        let attend =
            |qkv: &[f32], cu: &[usize]| bits(&attend_as(kernels, qkv, cu, heads, head_dim, &kind));
        let what = format!("{}, window {:?}", kernels.isa(), kind.window);
        let batch = on_threads(2, || attend(&qkv, &cu));
        for threads in [1, 3, 16] {
            let again = on_threads(threads, || attend(&qkv, &cu));
            assert!(again == batch, "{what}: {threads} threads");
        }
        for bounds in cu.windows(2) {
            let (start, end) = (bounds[0], bounds[1]);
            let alone = attend(&qkv[start * row..end * row], &[0, end - start]);
            assert!(
                alone == batch[start * row / 3..end * row / 3],
                "{what}: tokens {start}..{end}"
            );
        }
    }
}

#[test]
fn element_wise_rows_have_the_same_bits_alone_and_on_any_number_of_threads() {
    let mut random = Random(9);
    let (rows, n) = (200, 1000);
    let (x, residual) = (random.vec(rows * n), random.vec(rows * n));
    let (bias, gamma, beta) = (random.vec(n), random.vec(n), random.vec(n));
    for kernels in every_isa() {
        let run = |range: std::ops::Range<usize>, threads| {
            let range = range.start * n..range.end * n;
            let mut y = x[range.clone()].to_vec();
            on_threads(threads, || {
                kernels.bias_gelu(&mut y, &bias);
                kernels.bias_residual_layer_norm(
                    &mut y,
                    &bias,
                    &residual[range],
                    &gamma,
                    &beta,
                    1e-5,
                );
            });
            bits(&y)
        };
        let all = run(0..rows, 1);
        assert!(run(0..rows, 5) == all);
        for row in [0, 31, 32, 33, 150, 199] {
            assert!(run(row..row + 1, 2) == all[row * n..][..n]);
        }
    }
}

#[test]
fn nan_reaches_its_own_rows_and_no_others() {
    let mut random = Random(10);
    for kernels in every_isa() {
        let isa = kernels.isa();
        for at in [0, 13, 40, 69] {
            let n = 70;
            let mut x = random.vec(3 * n);
            x[n + at] = f32::NAN;
            let ones = vec![1.0; n];

            let mut y = x.clone();
            kernels.bias_gelu(&mut y, &ones);
            let places: Vec<_> = (0..3 * n).filter(|&i| y[i].is_nan()).collect();
            assert_eq!(places, [n + at], "{isa} bias_gelu");

            let mut y = x.clone();
            kernels.layer_norm(&mut y, &ones, &ones, 1e-5);
            assert!(
                (0..3 * n).all(|i| y[i].is_nan() == (i / n == 1)),
                "{isa} layer_norm"
            );

            let w = random.vec(40 * n);
            let mut y = vec![0.0; 3 * 40];
            let shape = LinearShape { m: 3, k: n, n: 40 };
            kernels.linear(&x, &w, shape, Epilogue::BiasGelu(&ones[..40]), &mut y);
            assert!(
                (0..3 * 40).all(|i| y[i].is_nan() == (i / 40 == 1)),
                "{isa} linear"
            );
        }
        // Two sequences; a NaN in a query, a key or a value of the second.
        let (cu, row) = (cu_seqlens(&[30, 290]), 3 * 16);
        for part in 0..3 {
            for token in [30, 47, 300] {
                let mut qkv = random.vec(320 * row);
                qkv[token * row + part * 16 + 3] = f32::NAN;
                let out = attend(kernels, &qkv, &cu, 1, 16);
                for (i, x) in out.iter().enumerate() {
                    let expected = match part {
                        0 => i / 16 == token,
                        1 => i / 16 >= 30,
                        _ => i / 16 >= 30 && i % 16 == 3,
                    };
                    assert_eq!(
                        x.is_nan(),
                        expected,
                        "{isa} part {part} token {token} output {i}"
                    );
                }
            }
        }
    }
}

#[test]
fn wrong_lengths_panic_with_the_operation_and_both_lengths() {
    let kernels = Kernels::detect();
    let message = |f: &mut dyn FnMut()| {
        let panic = catch_unwind(AssertUnwindSafe(f)).expect_err("must panic");
        panic.downcast_ref::<String>().expect("a message").clone()
    };
    let mut x = vec![0.0; 10];
    let seen = message(&mut || kernels.bias_add(&mut x, &[0.0; 3]));
    assert!(
        seen.contains("bias_add") && seen.contains("10") && seen.contains('3'),
        "{seen}"
    );
    let seen = message(&mut || kernels.bias_gelu(&mut x, &[]));
    assert!(seen.contains("bias_gelu"), "{seen}");
    let seen = message(&mut || kernels.layer_norm(&mut x, &[0.0; 5], &[0.0; 4], 1e-5));
    assert!(seen.contains("beta of 4 values, gamma of 5"), "{seen}");
    let five = [0.0; 5];
    let seen = message(&mut || {
        kernels.bias_residual_layer_norm(&mut x, &five, &[0.0; 9], &five, &five, 1e-5);
    });
    assert!(seen.contains("residual of 9 values, x of 10"), "{seen}");
    let shape = LinearShape { m: 2, k: 5, n: 3 };
    let seen = message(&mut || {
        kernels.linear(&[0.0; 10], &[0.0; 14], shape, Epilogue::None, &mut [0.0; 6]);
    });
    assert!(seen.contains("linear: w of 14 values"), "{seen}");
    let seen = message(&mut || {
        kernels.linear(
            &[0.0; 10],
            &[0.0; 15],
            shape,
            Epilogue::Bias(&[0.0; 2]),
            &mut [0.0; 6],
        );
    });
    assert!(seen.contains("linear: bias of 2 values"), "{seen}");
    for (len, stride) in [(7, 2), (6, 4)] {
        let seen = message(&mut || {
            let out = &mut vec![0.0; len];
            kernels.linear_columns(&[0.0; 10], &[0.0; 15], shape, Epilogue::None, out, stride);
        });
        assert!(
            seen.contains(&format!("out of {len} values in rows {stride} apart")),
            "{seen}"
        );
    }
    let seen = message(&mut || kernels.attention(&[0.0; 24], &[0, 2], 1, 4, &PLAIN, &mut [0.0; 9]));
    assert!(seen.contains("attention: out of 9 values"), "{seen}");
    for cu in [&[][..], &[1, 2], &[0, 2, 1]] {
        let seen = message(&mut || kernels.attention(&[0.0; 24], cu, 1, 4, &PLAIN, &mut [0.0; 8]));
        assert!(seen.contains("cu_seqlens"), "{seen}");
    }
    let tables = Tables::new(&mut Random(16), 1, 4, 1, 3);
    for (kind, expected) in [
        (
            tables.kind(true, None, false),
            "cos of 2 and sin of 2 values do not fit 2 positions of 2",
        ),
        (
            AttentionKind {
                bias: Some(RelativeBias {
                    table: &[0.0; 6],
                    reach: 3,
                }),
                ..PLAIN
            },
            "bias of 6 values does not fit 1 heads of a reach of 3",
        ),
    ] {
        let seen =
            message(&mut || kernels.attention(&[0.0; 24], &[0, 2], 1, 4, &kind, &mut [0.0; 8]));
        assert!(seen.contains(expected), "{seen}");
    }
    let seen = message(&mut || kernels.gated_gelu(&[0.0; 9], 2, &mut [0.0; 4]));
    assert!(
        seen.contains("gated_gelu: up of 9 and out of 4 values"),
        "{seen}"
    );
}
