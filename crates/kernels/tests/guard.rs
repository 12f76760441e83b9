//! No kernel reads or writes beyond its slices: every operand lies right before, or right behind, a page that may not be touched,
//! on every instruction set of this machine and at every tail length. A kernel that goes one value too far ends the process.
//!
//! What comes out must be what comes out of ordinary memory, to the bit.

use std::ops::{Deref, DerefMut};

use kernels::{
    AttentionKind, EncoderSpace, Epilogue, Int8Layer, Int8Matrix, Isa, Kernels, LayerNorm, Levels,
    LinearShape, Norms, Pooling, RelativeBias, Rotary, Smooth, pack_int8,
};

/// At which end of the values the forbidden page begins.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Edge {
    Before,
    After,
}

const EDGES: [Edge; 2] = [Edge::Before, Edge::After];

/// Values of which one end lies at a page that may not be touched. The other end's page has room, where a stray write would
/// do no harm and be seen by nobody; that is what the other edge is for.
struct Guarded<T: Copy> {
    map: *mut u8,
    mapped: usize,
    values: *mut T,
    len: usize,
}

impl<T: Copy> Guarded<T> {
    fn new(values: &[T], edge: Edge) -> Self {
        // SAFETY: sysconf has no preconditions.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).expect("a size");
        let bytes = size_of_val(values);
        let inner = bytes.next_multiple_of(page).max(page);
        let mapped = inner + 2 * page;
        // SAFETY: a new private map, of no file; the two calls forbid its first and last page.
        let map = unsafe {
            let map = libc::mmap(
                std::ptr::null_mut(),
                mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            assert!(map != libc::MAP_FAILED, "no memory");
            let map = map.cast::<u8>();
            assert_eq!(libc::mprotect(map.cast(), page, libc::PROT_NONE), 0);
            let last = map.add(page + inner);
            assert_eq!(libc::mprotect(last.cast(), page, libc::PROT_NONE), 0);
            map
        };
        let offset = match edge {
            Edge::Before => page,
            Edge::After => page + inner - bytes,
        };
        // SAFETY: within the pages that may be written; the end of a page is aligned for T, and so is what lies whole values
        // before it.
        let start = unsafe {
            let start = map.add(offset).cast::<T>();
            std::ptr::copy_nonoverlapping(values.as_ptr(), start, values.len());
            start
        };
        Self {
            map,
            mapped,
            values: start,
            len: values.len(),
        }
    }
}

impl<T: Copy> Deref for Guarded<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `len` values were written there, and the map lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.values, self.len) }
    }
}

impl<T: Copy> DerefMut for Guarded<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; the map belongs to `self` alone.
        unsafe { std::slice::from_raw_parts_mut(self.values, self.len) }
    }
}

impl<T: Copy> Drop for Guarded<T> {
    fn drop(&mut self) {
        // SAFETY: the whole of what `new` mapped, which nothing refers to any more.
        unsafe { libc::munmap(self.map.cast(), self.mapped) };
    }
}

/// Uniform in -1..1.
struct Random(u64);

impl Random {
    fn vec(&mut self, len: usize) -> Vec<f32> {
        let next = |_| {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        (0..len).map(next).collect()
    }
}

/// Every instruction set of this machine and the model of a matrix unit, at both edges.
fn everywhere() -> impl Iterator<Item = (Kernels, Edge)> {
    Isa::ALL
        .into_iter()
        .filter_map(Kernels::with)
        .chain([Kernels::modelled_unit()])
        .flat_map(|kernels| EDGES.map(|edge| (kernels, edge)))
}

fn same(got: &[f32], want: &[f32], what: &str, kernels: Kernels, edge: Edge) {
    let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(
        bits(got),
        bits(want),
        "{what} on {} {edge:?}",
        kernels.isa()
    );
}

#[test]
fn touching_the_guard_ends_a_process() {
    for (edge, offset) in [(Edge::After, 3isize), (Edge::Before, -1)] {
        let guarded = Guarded::new(&[1.0f32, 2.0, 3.0], edge);
        // SAFETY: the child calls nothing but a read, which is expected to end it, and `_exit`.
        let status = unsafe {
            let child = libc::fork();
            if child == 0 {
                std::hint::black_box(guarded.values.offset(offset).read_volatile());
                libc::_exit(0);
            }
            assert!(child > 0, "no process");
            let mut status = 0;
            assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
            status
        };
        assert_ne!(status, 0, "{edge:?}: the guard was read");
    }
}

/// A kernel that changes its first operand by the others.
type Call<'a> = dyn Fn(&mut [f32], [&[f32]; 4]) + 'a;

#[test]
fn gates_stay_within_their_slices() {
    let mut random = Random(6);
    for inner in (1..=70).chain([127, 128, 384, 1000]) {
        for rows in [1, 3] {
            let up = random.vec(rows * 2 * inner);
            for (kernels, edge) in everywhere() {
                let mut want = vec![f32::NAN; rows * inner];
                kernels.gated_gelu(&up, inner, &mut want);
                let mut got = Guarded::new(&vec![f32::NAN; rows * inner], edge);
                kernels.gated_gelu(&Guarded::new(&up, edge), inner, &mut got);
                let what = format!("gated_gelu of {rows} x {inner}");
                same(&got, &want, &what, kernels, edge);
            }
        }
    }
}

#[test]
fn element_wise_kernels_and_norms_stay_within_their_slices() {
    let mut random = Random(1);
    for n in (1..=70).chain([127, 128, 384, 1000]) {
        for rows in [1, 3] {
            let (x, residual) = (random.vec(rows * n), random.vec(rows * n));
            let (bias, gamma, beta) = (random.vec(n), random.vec(n), random.vec(n));
            for (kernels, edge) in everywhere() {
                let guard = |values: &[f32]| Guarded::new(values, edge);
                let run = |what: &str, call: &Call| {
                    let mut want = x.clone();
                    call(&mut want, [&bias, &residual, &gamma, &beta]);
                    let mut got = guard(&x);
                    let others = [&bias, &residual, &gamma, &beta].map(|values| guard(values));
                    let [a, b, c, d] = &others;
                    call(&mut got, [a, b, c, d]);
                    same(
                        &got,
                        &want,
                        &format!("{what} of {rows} x {n}"),
                        kernels,
                        edge,
                    );
                };
                run("bias_add", &|x, [bias, ..]| kernels.bias_add(x, bias));
                run("bias_gelu", &|x, [bias, ..]| kernels.bias_gelu(x, bias));
                run("layer_norm", &|x, [_, _, gamma, beta]| {
                    kernels.layer_norm(x, gamma, beta, 1e-5);
                });
                run("bias_residual_layer_norm", &|x,
                                                  [
                    bias,
                    residual,
                    gamma,
                    beta,
                ]| {
                    kernels.bias_residual_layer_norm(x, bias, residual, gamma, beta, 1e-5);
                });
            }
        }
    }
}

/// Every tail of rows, inputs and columns around the tiles of all instruction sets, and shapes that are split into blocks and shared
/// by threads.
fn linear_shapes() -> Vec<LinearShape> {
    let tails = (1..=34).map(|n| (n, n, n));
    let rows = (1..=26).map(|m| (m, 5, 33));
    let inputs = (1..=34).map(|k| (3, k, 17));
    let columns = (1..=66).map(|n| (2, 7, n));
    let large = [(40, 513, 65), (300, 130, 70), (13, 1030, 31)];
    tails
        .chain(rows)
        .chain(inputs)
        .chain(columns)
        .chain(large)
        .map(|(m, k, n)| LinearShape { m, k, n })
        .collect()
}

#[test]
fn the_linear_layer_stays_within_its_slices() {
    let mut random = Random(2);
    for shape in linear_shapes() {
        let LinearShape { m, k, n } = shape;
        let (x, w, bias) = (random.vec(m * k), random.vec(n * k), random.vec(n));
        for (kernels, edge) in everywhere() {
            let guard = |values: &[f32]| Guarded::new(values, edge);
            let (guarded_x, guarded_w, guarded_bias) = (guard(&x), guard(&w), guard(&bias));
            for gelu in [false, true] {
                let call = |x: &[f32], w: &[f32], bias: &[f32], out: &mut [f32]| {
                    let epilogue = if gelu {
                        Epilogue::BiasGelu(bias)
                    } else {
                        Epilogue::Bias(bias)
                    };
                    kernels.linear(x, w, shape, epilogue, out);
                };
                let mut want = vec![f32::NAN; m * n];
                call(&x, &w, &bias, &mut want);
                let mut got = guard(&vec![f32::NAN; m * n]);
                call(&guarded_x, &guarded_w, &guarded_bias, &mut got);
                same(&got, &want, &format!("linear {shape:?}"), kernels, edge);
            }
            // Into columns of a wider matrix, whose last row ends with them.
            let stride = n + 3;
            let len = (m - 1) * stride + n;
            let mut got = guard(&vec![7.0; len]);
            let mut want = vec![7.0; len];
            kernels.linear_columns(&x, &w, shape, Epilogue::None, &mut want, stride);
            kernels.linear_columns(
                &guarded_x,
                &guarded_w,
                shape,
                Epilogue::None,
                &mut got,
                stride,
            );
            same(
                &got,
                &want,
                &format!("linear_columns {shape:?}"),
                kernels,
                edge,
            );
        }
    }
}

#[test]
fn attention_stays_within_its_slices() {
    let mut random = Random(3);
    let lengths = (1..=36).map(|tokens| (vec![0, tokens], 2, 8));
    let dims = (1..=34).map(|head_dim| (vec![0, 3, 3, 8], 2, head_dim));
    let large = [(vec![0, 1, 70, 370], 1, 64), (vec![0, 300, 301], 3, 20)];
    for (cu_seqlens, heads, head_dim) in lengths.chain(dims).chain(large) {
        let tokens = cu_seqlens[cu_seqlens.len() - 1];
        let hidden = heads * head_dim;
        let qkv = random.vec(tokens * 3 * hidden);
        let reach = 4;
        let longest = cu_seqlens.windows(2).map(|bounds| bounds[1] - bounds[0]);
        let places = longest.max().unwrap_or(0) * (head_dim / 2);
        let (cos, sin) = (random.vec(places), random.vec(places));
        let table = random.vec(heads * (2 * reach + 1));
        for (kernels, edge) in everywhere() {
            let guarded = Guarded::new(&qkv, edge);
            let (cos, sin, table) = (
                Guarded::new(&cos, edge),
                Guarded::new(&sin, edge),
                Guarded::new(&table, edge),
            );
            let placed = AttentionKind {
                rotary: head_dim.is_multiple_of(2).then_some(Rotary {
                    cos: &cos,
                    sin: &sin,
                }),
                window: None,
                bias: Some(RelativeBias {
                    table: &table,
                    reach,
                }),
            };
            let windowed = AttentionKind {
                window: Some(7),
                ..placed
            };
            for kind in [AttentionKind::default(), placed, windowed] {
                let mut want = vec![f32::NAN; tokens * hidden];
                kernels.attention(&qkv, &cu_seqlens, heads, head_dim, &kind, &mut want);
                let mut got = Guarded::new(&vec![f32::NAN; tokens * hidden], edge);
                kernels.attention(&guarded, &cu_seqlens, heads, head_dim, &kind, &mut got);
                let what = format!(
                    "attention {cu_seqlens:?} of {heads} heads of {head_dim}, window {:?}",
                    kind.window
                );
                same(&got, &want, &what, kernels, edge);
            }
        }
    }
}

/// An int8 matrix, each of its parts at an edge.
struct GuardedMatrix {
    n: usize,
    k: usize,
    panels: Guarded<i8>,
    scales: Guarded<f32>,
    sums: Guarded<f32>,
    bias: Guarded<f32>,
    smooth: Option<(Guarded<f32>, Guarded<f32>)>,
    high_precision: bool,
    levels: Levels,
}

impl GuardedMatrix {
    fn new(matrix: &Int8Matrix<'_>, edge: Edge) -> Self {
        let guard = |values: &[f32]| Guarded::new(values, edge);
        Self {
            n: matrix.n,
            k: matrix.k,
            panels: Guarded::new(matrix.panels, edge),
            scales: guard(matrix.scales),
            sums: guard(matrix.sums),
            bias: guard(matrix.bias),
            smooth: matrix.smooth.map(|s| (guard(s.factor), guard(s.offset))),
            high_precision: matrix.high_precision,
            levels: matrix.levels,
        }
    }

    fn view(&self) -> Int8Matrix<'_> {
        Int8Matrix {
            n: self.n,
            k: self.k,
            panels: &self.panels,
            scales: &self.scales,
            sums: &self.sums,
            bias: &self.bias,
            smooth: self
                .smooth
                .as_ref()
                .map(|(factor, offset)| Smooth { factor, offset }),
            high_precision: self.high_precision,
            levels: self.levels,
        }
    }
}

/// A random matrix, owned.
struct Weights {
    packed: kernels::PackedInt8,
    bias: Vec<f32>,
    factor: Vec<f32>,
    offset: Vec<f32>,
    n: usize,
    k: usize,
    levels: Levels,
}

impl Weights {
    fn new(random: &mut Random, n: usize, k: usize, levels: Levels) -> Self {
        let mut bias = random.vec(n);
        bias.resize(Int8Matrix::channels(n), 0.0);
        Self {
            packed: pack_int8(&random.vec(n * k), n, k, None, levels),
            levels,
            bias,
            factor: random.vec(k),
            offset: random.vec(k),
            n,
            k,
        }
    }

    fn matrix(&self, smooth: bool, high_precision: bool) -> Int8Matrix<'_> {
        Int8Matrix {
            n: self.n,
            k: self.k,
            panels: &self.packed.panels,
            scales: &self.packed.scales,
            sums: &self.packed.sums,
            bias: &self.bias,
            smooth: smooth.then_some(Smooth {
                factor: &self.factor,
                offset: &self.offset,
            }),
            high_precision,
            levels: self.levels,
        }
    }
}

#[test]
fn the_int8_product_stays_within_its_slices() {
    let mut random = Random(4);
    for LinearShape { m, k, n } in linear_shapes() {
        let levels = [(8, 8), (7, 8), (7, 7), (6, 7)][(m + n + k) % 4];
        let levels = Levels::of_bits(levels.0, levels.1);
        let weights = Weights::new(&mut random, n, k, levels);
        let x = random.vec(m * k);
        for (kernels, edge) in everywhere() {
            for (smooth, high_precision) in [(false, false), (true, true)] {
                let matrix = weights.matrix(smooth, high_precision);
                let mut want = vec![f32::NAN; m * n];
                kernels.int8_linear(&x, &matrix, &mut want);
                let guarded = GuardedMatrix::new(&matrix, edge);
                let mut got = Guarded::new(&vec![f32::NAN; m * n], edge);
                kernels.int8_linear(&Guarded::new(&x, edge), &guarded.view(), &mut got);
                same(
                    &got,
                    &want,
                    &format!("int8_linear {m}x{k}x{n}"),
                    kernels,
                    edge,
                );
            }
        }
    }
}

#[test]
fn the_int8_encoder_stays_within_its_slices() {
    let mut random = Random(5);
    // Heads of whole panels, which lie in slabs, and others, which lie in rows; inner widths of any tail.
    for (modern, (heads, head_dim, inner)) in [false, true].into_iter().flat_map(|modern| {
        [(1, 32, 40), (2, 6, 13), (3, 5, 31), (1, 7, 3), (2, 64, 130)].map(|shape| (modern, shape))
    }) {
        let hidden = heads * head_dim;
        let up = if modern { 2 * inner } else { inner };
        let layers: Vec<[Weights; 4]> = (0..2)
            .map(|_| {
                [
                    Weights::new(&mut random, 3 * hidden, hidden, Levels::FULL),
                    Weights::new(&mut random, hidden, hidden, Levels::of_bits(7, 8)),
                    Weights::new(&mut random, up, hidden, Levels::of_bits(6, 7)),
                    Weights::new(&mut random, hidden, inner, Levels::of_bits(7, 7)),
                ]
            })
            .collect();
        let (gamma, beta) = (random.vec(hidden), random.vec(hidden));
        let (angles, table) = (random.vec(90 * (head_dim / 2)), random.vec(heads * 9));
        for cu_seqlens in [vec![0, 1], vec![0, 5, 6, 23], vec![0, 90, 91, 180]] {
            let tokens = cu_seqlens[cu_seqlens.len() - 1];
            let x = random.vec(tokens * hidden);
            for (kernels, edge) in everywhere() {
                let guarded: Vec<[GuardedMatrix; 4]> = layers
                    .iter()
                    .map(|layer| {
                        layer
                            .each_ref()
                            .map(|w| GuardedMatrix::new(&w.matrix(true, false), edge))
                    })
                    .collect();
                let (gamma_there, beta_there) =
                    (Guarded::new(&gamma, edge), Guarded::new(&beta, edge));
                let angles = Guarded::new(&angles, edge);
                let table = Guarded::new(&table, edge);
                let kind = if modern {
                    AttentionKind {
                        rotary: head_dim.is_multiple_of(2).then_some(Rotary {
                            cos: &angles,
                            sin: &angles,
                        }),
                        window: Some(11),
                        bias: Some(RelativeBias {
                            table: &table,
                            reach: 4,
                        }),
                    }
                } else {
                    AttentionKind::default()
                };
                let pooled = if modern { Pooling::All } else { Pooling::First };
                let encode = |views: &[[Int8Matrix<'_>; 4]], norm: LayerNorm<'_>, x: &mut [f32]| {
                    let layers: Vec<Int8Layer<'_>> = views
                        .iter()
                        .map(|&[qkv, attention_out, up, down]| Int8Layer {
                            qkv,
                            attention_out,
                            up,
                            down,
                            norms: if modern {
                                Norms::Before {
                                    attention: Some(norm),
                                    output: norm,
                                }
                            } else {
                                Norms::After {
                                    attention: norm,
                                    output: norm,
                                }
                            },
                            gated: modern,
                            kind,
                        })
                        .collect();
                    let mut space = EncoderSpace::default();
                    kernels.int8_encoder(&layers, heads, &cu_seqlens, pooled, x, &mut space);
                };
                let norm = |gamma, beta| LayerNorm {
                    gamma,
                    beta,
                    eps: 1e-5,
                };
                let mut want = x.clone();
                let plain: Vec<_> = layers
                    .iter()
                    .map(|layer| layer.each_ref().map(|w| w.matrix(true, false)))
                    .collect();
                encode(&plain, norm(&gamma, &beta), &mut want);
                let mut got = Guarded::new(&x, edge);
                let views: Vec<_> = guarded
                    .iter()
                    .map(|layer| layer.each_ref().map(GuardedMatrix::view))
                    .collect();
                encode(&views, norm(&gamma_there, &beta_there), &mut got);
                let of_use = match pooled {
                    Pooling::First => (cu_seqlens.len() - 1) * hidden,
                    Pooling::All => x.len(),
                };
                let what = format!("int8_encoder of {heads} x {head_dim}, {cu_seqlens:?}");
                same(&got[..of_use], &want[..of_use], &what, kernels, edge);
            }
        }
    }
}
