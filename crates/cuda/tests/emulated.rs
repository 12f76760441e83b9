//! The kernels themselves, compiled for the CPU and held to plain loops: every index, every tile,
//! and every place in shared memory.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use cuda_kernels::{WARPS, Work};
use half::{bf16, f16};

/// The kernels as a program of this machine's own; tests/emulate.cpp says how it is called.
fn program() -> &'static Path {
    static BUILT: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = BUILT.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let done = Command::new("c++")
            .args([
                "-std=c++17",
                "-O2",
                "-DEMULATED",
                "-Wno-unknown-pragmas",
                "-I",
            ])
            .args([&here.join("tests"), Path::new("-I"), &here.join("kernels")])
            .arg(here.join("tests/emulate.cpp"))
            .arg("-o")
            .arg(folder.path().join("emulate"))
            .output()
            .expect("a C++ compiler");
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
        folder
    });
    static PATH: OnceLock<std::path::PathBuf> = OnceLock::new();
    PATH.get_or_init(|| folder.path().join("emulate"))
}

enum Argument<'a> {
    Int(i32),
    Float(f32),
    Null,
    Floats(&'a [f32]),
    Ints(&'a [i32]),
    Halves(&'a [u16]),
}
use Argument::{Float, Floats, Halves, Int, Ints, Null};

/// Runs a kernel; the bytes of each of its buffers after it.
fn run(name: &str, blocks: (usize, usize), threads: usize, arguments: &[Argument]) -> Vec<Vec<u8>> {
    let mut input = Vec::new();
    let mut sizes = Vec::new();
    for argument in arguments {
        let mut buffer = |bytes: Vec<u8>| {
            sizes.push(bytes.len());
            input.push(b'b');
            input.extend((bytes.len() as u64).to_le_bytes());
            input.extend(bytes);
        };
        match argument {
            Floats(values) => buffer(values.iter().flat_map(|x| x.to_le_bytes()).collect()),
            Ints(values) => buffer(values.iter().flat_map(|x| x.to_le_bytes()).collect()),
            Halves(values) => buffer(values.iter().flat_map(|x| x.to_le_bytes()).collect()),
            Int(value) => {
                input.push(b'i');
                input.extend(value.to_le_bytes());
            }
            Float(value) => {
                input.push(b'f');
                input.extend(value.to_le_bytes());
            }
            Null => input.push(b'n'),
        }
    }
    let outputs = ["0", "1"].map(|backwards| {
        let mut child = Command::new(program())
            .arg(name)
            .args([blocks.0, blocks.1, threads].map(|n| n.to_string()))
            .arg(backwards)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        let input = input.clone();
        let writing = std::thread::spawn(move || stdin.write_all(&input));
        let done = child.wait_with_output().expect("ends");
        writing.join().expect("no panic").expect("is read");
        assert!(done.status.success(), "{name}");
        done.stdout
    });
    assert!(
        outputs[0] == outputs[1],
        "{name}: the order of the threads changes the result"
    );
    let mut rest = outputs[0].as_slice();
    let part = |size| {
        let (one, others) = rest.split_at(size);
        rest = others;
        one.to_vec()
    };
    sizes.into_iter().map(part).collect()
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Half {
    F16,
    Bf16,
}

impl Half {
    const ALL: [Self; 2] = [Self::F16, Self::Bf16];

    fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    fn bits(self, x: f32) -> u16 {
        match self {
            Self::F16 => f16::from_f32(x).to_bits(),
            Self::Bf16 => bf16::from_f32(x).to_bits(),
        }
    }

    fn value(self, bits: u16) -> f32 {
        match self {
            Self::F16 => f16::from_bits(bits).to_f32(),
            Self::Bf16 => bf16::from_bits(bits).to_f32(),
        }
    }

    /// How far a value may be off that was rounded a few times.
    fn slack(self) -> f64 {
        match self {
            Self::F16 => 2e-3,
            Self::Bf16 => 2e-2,
        }
    }

    fn values(self, bytes: &[u8]) -> Vec<f32> {
        let pair = |pair: &[u8]| self.value(u16::from_le_bytes([pair[0], pair[1]]));
        bytes.chunks(2).map(pair).collect()
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let four = |four: &[u8]| f32::from_le_bytes([four[0], four[1], four[2], four[3]]);
    bytes.chunks(4).map(four).collect()
}

/// Values between -1 and 1, the same in every run.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> f32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 40) as f32 / (1 << 23) as f32) - 1.0
    }

    fn many(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.next()).collect()
    }
}

fn near(found: &[f32], wanted: &[f64], slack: f64, what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    let worst = found.iter().zip(wanted).map(|(&a, b)| {
        let off = (f64::from(a) - b).abs();
        if off.is_nan() { f64::INFINITY } else { off }
    });
    let worst = worst.fold(0.0, f64::max);
    println!("{what}: {worst:.1e}");
    assert!(worst <= slack, "{what}: off by {worst}");
    assert!(
        wanted.iter().any(|x| x.abs() > 0.01),
        "{what}: nothing but zeros"
    );
}

/// What attention gives for the rows of `qkv`, in f64.
fn plain_attention(
    qkv: &[f64],
    bias: &[f32],
    starts: &[usize],
    heads: usize,
    width: usize,
) -> Vec<f64> {
    let hidden = heads * width;
    let row = |token: usize, part: usize, head: usize| {
        &qkv[token * 3 * hidden + part * hidden + head * width..][..width]
    };
    let mut out = vec![0.0; starts[starts.len() - 1] * hidden];
    for bounds in starts.windows(2) {
        for token in bounds[0]..bounds[1] {
            for head in 0..heads {
                let query: Vec<f64> = row(token, 0, head)
                    .iter()
                    .zip(&bias[head * width..])
                    .map(|(q, &b)| q + f64::from(b))
                    .collect();
                let scores: Vec<f64> = (bounds[0]..bounds[1])
                    .map(|key| {
                        query
                            .iter()
                            .zip(row(key, 1, head))
                            .map(|(q, k)| q * k)
                            .sum::<f64>()
                            .exp2()
                    })
                    .collect();
                let sum: f64 = scores.iter().sum();
                for (key, score) in (bounds[0]..bounds[1]).zip(scores) {
                    for (at, value) in row(key, 2, head).iter().enumerate() {
                        out[token * hidden + head * width + at] += score / sum * value;
                    }
                }
            }
        }
    }
    out
}

fn starts(lengths: &[usize]) -> Vec<usize> {
    let mut starts = vec![0];
    for length in lengths {
        starts.push(starts[starts.len() - 1] + length);
    }
    starts
}

#[test]
fn attention_is_that_of_plain_loops() {
    let heads = 2;
    for half in Half::ALL {
        for width in [32, 64] {
            for lengths in [vec![1], vec![64, 1, 65], vec![150, 17, 63], vec![400, 3]] {
                let hidden = heads * width;
                let starts = starts(&lengths);
                let tokens = starts[lengths.len()];
                let mut draw = Draw(tokens as u64);
                let qkv: Vec<u16> = draw
                    .many(tokens * 3 * hidden)
                    .iter()
                    .map(|x| half.bits(2.0 * x))
                    .collect();
                let bias = draw.many(hidden);
                let wide: Vec<f64> = qkv
                    .iter()
                    .map(|&bits| f64::from(half.value(bits)))
                    .collect();
                let wanted = plain_attention(&wide, &bias, &starts, heads, width);
                let work = Work::plan(
                    &vec![0; tokens],
                    &vec![0; tokens],
                    &vec![0; tokens],
                    &starts,
                )
                .expect("fits");
                let poison = half.bits(f32::NAN);
                for (tiles, times, first_only) in
                    [(&work.tiles, work.times, 0), (&work.first_tiles, 1, 1)]
                {
                    let rows = if first_only == 1 {
                        lengths.len()
                    } else {
                        tokens
                    };
                    let name = format!("attention_{}_{width}_{times}_{WARPS}", half.name());
                    // One row more, which nobody may write.
                    let out = vec![poison; (rows + 1) * hidden];
                    let arguments = [
                        Halves(&qkv),
                        Floats(&bias),
                        Halves(&out),
                        Ints(tiles),
                        Int(hidden as i32),
                        Int(first_only),
                    ];
                    let done = run(&name, (tiles.len() / 4, heads), WARPS * 32, &arguments);
                    let found = half.values(&done[2]);
                    let wanted: Vec<f64> = if first_only == 1 {
                        starts[..lengths.len()]
                            .iter()
                            .flat_map(|&row| wanted[row * hidden..][..hidden].to_vec())
                            .collect()
                    } else {
                        wanted.clone()
                    };
                    near(
                        &found[..rows * hidden],
                        &wanted,
                        4.0 * half.slack(),
                        &format!("{name} {lengths:?}"),
                    );
                    assert!(
                        found[rows * hidden..].iter().all(|x| x.is_nan()),
                        "{name} writes beyond its rows"
                    );
                }
            }
        }
    }
}

fn plain_norm(row: &[f64], gamma: &[f32], beta: &[f32], eps: f64) -> Vec<f64> {
    let mean = row.iter().sum::<f64>() / row.len() as f64;
    let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / row.len() as f64;
    let scaled = row.iter().zip(gamma).zip(beta);
    scaled
        .map(|((x, &g), &b)| (x - mean) / (variance + eps).sqrt() * f64::from(g) + f64::from(b))
        .collect()
}

#[test]
fn residual_and_norm_are_those_of_plain_loops() {
    let (rows, eps) = (6, 1e-5);
    for half in Half::ALL {
        for units in [3, 8] {
            for picked in [None, Some(vec![8, 0, 3, 3, 5, 7])] {
                let width = units * 128;
                let mut draw = Draw(units as u64);
                let before = draw.many(9 * width);
                let added: Vec<u16> = draw
                    .many(rows * width)
                    .iter()
                    .map(|&x| half.bits(x))
                    .collect();
                let [bias, gamma, beta] = [(); 3].map(|()| draw.many(width));
                let name = format!("add_norm_{}_{units}", half.name());
                let from = picked
                    .as_ref()
                    .map_or(Null, |picked: &Vec<i32>| Ints(picked));
                let (wide, narrow) = (
                    vec![f32::NAN; (rows + 1) * width],
                    vec![half.bits(f32::NAN); (rows + 1) * width],
                );
                let arguments = [
                    Floats(&before),
                    from,
                    Halves(&added),
                    Floats(&bias),
                    Floats(&gamma),
                    Floats(&beta),
                    Float(eps),
                    Floats(&wide),
                    Halves(&narrow),
                    Int(rows as i32),
                ];
                let done = run(&name, (rows.div_ceil(4), 1), 128, &arguments);
                let wanted: Vec<f64> = (0..rows)
                    .flat_map(|row| {
                        let from = picked.as_ref().map_or(row, |picked| picked[row] as usize);
                        let sum: Vec<f64> = (0..width)
                            .map(|at| {
                                f64::from(before[from * width + at])
                                    + f64::from(half.value(added[row * width + at]))
                                    + f64::from(bias[at])
                            })
                            .collect();
                        plain_norm(&sum, &gamma, &beta, f64::from(eps))
                    })
                    .collect();
                let (wide, narrow) = (
                    floats(&done[done.len() - 2]),
                    half.values(&done[done.len() - 1]),
                );
                near(&wide[..rows * width], &wanted, 1e-5, &name);
                near(&narrow[..rows * width], &wanted, half.slack(), &name);
                assert!(
                    wide[rows * width..]
                        .iter()
                        .chain(&narrow[rows * width..])
                        .all(|x| x.is_nan()),
                    "{name} writes beyond its rows"
                );
            }
        }
    }
}

#[test]
fn embeddings_are_looked_up_and_normalised() {
    for half in Half::ALL {
        for units in [3, 8] {
            let (width, eps) = (units * 128, 1e-12);
            let mut draw = Draw(units as u64);
            let [words, positions, segments] = [10, 7, 2].map(|rows| {
                draw.many(rows * width)
                    .iter()
                    .map(|&x| half.bits(x))
                    .collect::<Vec<u16>>()
            });
            let [gamma, beta] = [(); 2].map(|()| draw.many(width));
            let ids = [9, 0, 1, 0, 6, 0, 5, 3, 1, 4, 4, 1, 1, 2, 0];
            let rows = ids.len() / 3;
            let name = format!("embed_{}_{units}", half.name());
            let (wide, narrow) = (
                vec![f32::NAN; (rows + 1) * width],
                vec![half.bits(f32::NAN); (rows + 1) * width],
            );
            let arguments = [
                Halves(&words),
                Halves(&positions),
                Halves(&segments),
                Ints(&ids),
                Floats(&gamma),
                Floats(&beta),
                Float(eps),
                Floats(&wide),
                Halves(&narrow),
                Int(rows as i32),
            ];
            let done = run(&name, (rows.div_ceil(4), 1), 128, &arguments);
            let wanted: Vec<f64> = ids
                .chunks(3)
                .flat_map(|ids| {
                    let value = |table: &[u16], id: i32, at: usize| {
                        f64::from(half.value(table[id as usize * width + at]))
                    };
                    let sum: Vec<f64> = (0..width)
                        .map(|at| {
                            value(&words, ids[0], at)
                                + value(&positions, ids[1], at)
                                + value(&segments, ids[2], at)
                        })
                        .collect();
                    plain_norm(&sum, &gamma, &beta, f64::from(eps))
                })
                .collect();
            let (wide, narrow) = (floats(&done[6]), half.values(&done[7]));
            near(&wide[..rows * width], &wanted, 1e-5, &name);
            near(&narrow[..rows * width], &wanted, half.slack(), &name);
            assert!(
                wide[rows * width..]
                    .iter()
                    .chain(&narrow[rows * width..])
                    .all(|x| x.is_nan()),
                "{name} writes beyond its rows"
            );
        }
    }
}

/// The error function, by its series.
fn erf(x: f64) -> f64 {
    let mut term = x;
    let mut sum = x;
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

#[test]
fn the_activation_is_gelu_by_the_error_function() {
    let (rows, width) = (5, 1000);
    for half in Half::ALL {
        let mut draw = Draw(1);
        let x: Vec<u16> = draw
            .many(rows * width + 8)
            .iter()
            .map(|x| half.bits(4.0 * x))
            .collect();
        let bias = draw.many(width);
        let name = format!("bias_gelu_{}", half.name());
        let blocks = (rows * width / 8).div_ceil(256);
        let done = run(
            &name,
            (blocks, 1),
            256,
            &[
                Halves(&x),
                Floats(&bias),
                Int(width as i32),
                Int(rows as i32),
            ],
        );
        let found = half.values(&done[0]);
        for (at, (&before, &found)) in x.iter().zip(&found).enumerate() {
            let before = f64::from(half.value(before));
            if at >= rows * width {
                assert_eq!(f64::from(found), before, "{name} writes beyond its rows");
                continue;
            }
            let x = before + f64::from(bias[at % width]);
            let wanted = 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2));
            let off = (f64::from(found) - wanted).abs();
            assert!(
                off <= half.slack() / 2.0 * wanted.abs() + 1e-6,
                "{name}: {x} becomes {found}, not {wanted}"
            );
        }
    }
}

#[test]
fn the_head_is_tanh_and_one_product_and_weights_are_narrowed() {
    let (rows, width) = (6, 384);
    let mut draw = Draw(1);
    let x = draw.many(rows * width);
    let [bias, weight] = [(); 2].map(|()| draw.many(width));
    let out = [f32::NAN; 7];
    let done = run(
        "logits_f32",
        (2, 1),
        128,
        &[
            Floats(&x),
            Floats(&bias),
            Floats(&weight),
            Float(0.25),
            Floats(&out),
            Int(width as i32),
            Int(rows as i32),
        ],
    );
    let found = floats(&done[3]);
    let wanted: Vec<f64> = x
        .chunks(width)
        .map(|row| {
            0.25 + row
                .iter()
                .zip(&bias)
                .zip(&weight)
                .map(|((&x, &b), &w)| f64::from(x + b).tanh() * f64::from(w))
                .sum::<f64>()
        })
        .collect();
    near(&found[..rows], &wanted, 1e-5, "logits");
    assert!(found[rows].is_nan());
    for half in Half::ALL {
        let to = vec![0; x.len() + 2];
        let done = run(
            &format!("narrow_{}", half.name()),
            ((x.len() / 2).div_ceil(256), 1),
            256,
            &[
                Floats(&x),
                Float(0.125),
                Halves(&to),
                Int(x.len() as i32 / 2),
            ],
        );
        let found = half.values(&done[1]);
        let wanted: Vec<f32> = x
            .iter()
            .map(|&x| half.value(half.bits(x * 0.125)))
            .chain([0.0; 2])
            .collect();
        assert_eq!(found, wanted);
    }
}
