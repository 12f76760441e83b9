//! A transformer encoder on int8 weights, over packed sequences; a layer says where its norms are, whether its feed-forward layer has
//! a gate, and what its attention has beside the products.
//!
//! Between one attention and the next every token is on its own. So a thread takes a block of tokens through all of it
//! (output projection, residual and norm, the two feed-forward layers, residual and norm, and the next layer's queries, keys
//! and values) while the block's activations stay in its second-level cache: two waits for the other threads a layer, and
//! no intermediate matrix in memory but queries, keys, values and attention's result.

use crate::attention::{AttentionKind, Item, Layout, items};
use crate::elementwise::GateRows;
use crate::int8::columns::{Own, Pass};
use crate::int8::means::{Dots, Means};
use crate::int8::product::{Out, Rows, Scale};
use crate::int8::tiles::OnTiles;
use crate::int8::{Int8Matrix, PANEL};
use crate::isa::Kernels;
use crate::layer_norm::{Between, RowsMut};
use crate::matrix_unit::{MatrixUnit, UnitKernel};
use crate::parallel::{self, Shared};
use crate::scratch::{Buffer, Slot};
use crate::simd::{Int8, Kernel};
use crate::tile::panel_start;

/// The most tokens of a block: their widest activations, f32, and the quantized ones fill most of a second-level cache of
/// 1 MiB at an inner width of 4096.
const BLOCK: usize = 72;
/// The same on a matrix unit, which is so fast that the weights' way to it is the limit: the more rows share them, the better,
/// even if the widest activations do not stay in the second-level cache.
const UNIT_BLOCK: usize = 128;
/// With fewer tokens a thread the columns of each matrix are split between threads on a matrix unit, instead of the rows.
const COLUMNS_BELOW: usize = 192;
/// The most of both.
const MOST: usize = if UNIT_BLOCK > BLOCK {
    UNIT_BLOCK
} else {
    BLOCK
};
/// Sequences go through the layers together until they have so many tokens, or half as many for each thread: more would not
/// make the products faster, but leave the last-level cache between a stage and the next.
const GROUP: usize = 512;

/// Rows of activations lie a cache line further apart than they are long: at a distance of a power of two, the rows of a tile
/// would compete for the same few lines of the first-level cache.
pub(super) const PAD: usize = 16;

/// A layer normalisation's parameters, `gamma` and `beta` `[hidden]` each.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm<'a> {
    /// What normalised values are multiplied by.
    pub gamma: &'a [f32],
    /// What is added then.
    pub beta: &'a [f32],
    /// What is added to the variance.
    pub eps: f32,
}

/// Where a layer's norms are.
#[derive(Clone, Copy, Debug)]
pub enum Norms<'a> {
    /// Of attention and of the feed-forward layer `f` it takes `norm(x + f(x))`.
    After {
        /// After attention.
        attention: LayerNorm<'a>,
        /// After the feed-forward layer.
        output: LayerNorm<'a>,
    },
    /// `x + f(norm(x))`; without a norm attention reads `x` as it is.
    Before {
        /// Before attention.
        attention: Option<LayerNorm<'a>>,
        /// Before the feed-forward layer.
        output: LayerNorm<'a>,
    },
}

/// Of which tokens an encoder's output is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Each sequence's first: what follows the last attention is computed for those alone.
    First,
    /// All.
    All,
}

/// One encoder layer.
#[derive(Clone, Copy, Debug)]
pub struct Int8Layer<'a> {
    /// Queries, keys and values, one after the other: `3 * hidden` channels.
    pub qkv: Int8Matrix<'a>,
    /// Of attention's result: `hidden` channels of `hidden` inputs.
    pub attention_out: Int8Matrix<'a>,
    /// To the inner width: so many channels of `hidden` inputs. With a gate the activated channels, then as many that they are
    /// multiplied with.
    pub up: Int8Matrix<'a>,
    /// Back again: `hidden` channels of as many inputs as the inner width.
    pub down: Int8Matrix<'a>,
    /// Where the norms are, and their parameters.
    pub norms: Norms<'a>,
    /// Whether `up` has a gate.
    pub gated: bool,
    /// What attention has beside its products.
    pub kind: AttentionKind<'a>,
}

/// Memory that a forward pass needs and the next one uses again: 16 bytes a token and hidden value, of some
/// hundreds of tokens or the longest sequence.
#[derive(Default)]
pub struct EncoderSpace {
    qkv: Vec<f32>,
    context: Vec<f32>,
    /// Only for few tokens on a matrix unit.
    bytes: Vec<f32>,
    scales: Vec<Scale>,
    attended: Vec<f32>,
    wide: Vec<f32>,
}

impl Kernels {
    /// Runs the layers over packed sequences, in place.
    ///
    /// `hidden` is `[tokens, hidden]`, the embeddings' output; sequence `i` is the tokens `cu_seqlens[i]..cu_seqlens[i + 1]`,
    /// at least one. Pooled by [`Pooling::All`] it has the last layer's output of every token afterwards. By [`Pooling::First`]
    /// its first rows have that of each sequence's first token, and the others nothing of use. A norm after the last layer and a
    /// mean are the caller's.
    ///
    /// # Panics
    /// If sizes do not fit each other, or a sequence is empty.
    pub fn int8_encoder(
        self,
        layers: &[Int8Layer<'_>],
        heads: usize,
        cu_seqlens: &[usize],
        pooled: Pooling,
        hidden: &mut [f32],
        space: &mut EncoderSpace,
    ) {
        assert!(
            cu_seqlens.first() == Some(&0) && cu_seqlens.windows(2).all(|w| w[0] < w[1]),
            "int8_encoder: cu_seqlens must rise strictly from 0, got {cu_seqlens:?}"
        );
        let tokens = cu_seqlens[cu_seqlens.len() - 1];
        let Some(width) = layers.first().map(|layer| layer.qkv.k) else {
            return;
        };
        assert!(
            hidden.len() == tokens * width && width.is_multiple_of(heads),
            "int8_encoder: hidden of {} values does not fit {tokens} tokens of {width} in {heads} heads",
            hidden.len()
        );
        let longest = cu_seqlens
            .windows(2)
            .map(|w| w[1] - w[0])
            .max()
            .unwrap_or(0);
        for layer in layers {
            layer.check(width);
            layer
                .kind
                .check("int8_encoder", heads, width / heads, longest);
        }
        let threads = rayon::current_num_threads();
        let sequences = cu_seqlens.len() - 1;
        let mut first = 0;
        while first < sequences {
            let begin = cu_seqlens[first];
            let mut end = first + 1;
            while end < sequences && cu_seqlens[end] - begin < GROUP.max(GROUP / 2 * threads) {
                end += 1;
            }
            let cu: Vec<usize> = cu_seqlens[first..=end].iter().map(|c| c - begin).collect();
            let rows = &mut hidden[begin * width..];
            self.group(layers, heads, &cu, pooled, rows, space);
            if pooled == Pooling::First {
                // Rows before `begin` are no longer needed, and no fewer than `first`, as no sequence is empty.
                hidden.copy_within(begin * width..(begin + end - first) * width, first * width);
            }
            first = end;
        }
    }

    /// [`Kernels::int8_encoder`] of a few sequences, from number 0 of `hidden` on.
    fn group(
        self,
        layers: &[Int8Layer<'_>],
        heads: usize,
        cu_seqlens: &[usize],
        pooled: Pooling,
        hidden: &mut [f32],
        space: &mut EncoderSpace,
    ) {
        let [first_layer, ..] = layers else {
            return;
        };
        let width = first_layer.qkv.k;
        let tokens = cu_seqlens[cu_seqlens.len() - 1];
        let firsts = &cu_seqlens[..cu_seqlens.len() - 1];
        let qkv_len = 3 * tokens * width;
        let qkv = Shared::new(grown(&mut space.qkv, qkv_len));
        let context_len = tokens * (width + PAD);
        let context = Shared::new(grown(&mut space.context, context_len));
        let head_dim = width / heads;
        // A head of all tokens in one place, if the product can put it there, is what attention reads fastest.
        let layout = if head_dim.is_multiple_of(PANEL) {
            Layout::slabs(heads, head_dim, tokens)
        } else {
            Layout::rows(heads, head_dim)
        };
        let hidden = Shared::new(&mut hidden[..tokens * width]);
        let attentions = Attentions::new(layers, heads, cu_seqlens, pooled);
        let threads = rayon::current_num_threads();
        if self.has_unit() && threads > 1 && tokens < COLUMNS_BELOW * threads {
            let [bytes, scales, attended, wide] = Own::lens(layers, tokens);
            let own = Own {
                bytes: Shared::new(grown(&mut space.bytes, bytes)),
                scales: Shared::new(grown(&mut space.scales, scales)),
                attended: Shared::new(grown(&mut space.attended, attended)),
                wide: Shared::new(grown(&mut space.wide, wide)),
            };
            let pass = Pass {
                layers,
                firsts,
                tokens,
                pooled,
                attentions: &attentions,
                layout,
                hidden,
                qkv,
                qkv_len,
                context,
                own,
            };
            pass.run(self);
            return;
        }
        let last = layers.len() - 1;
        let block = self.block();
        let all = (tokens, blocks(tokens, threads, block));
        let ends = match pooled {
            Pooling::First => (firsts.len(), blocks(firsts.len(), threads, block)),
            Pooling::All => all,
        };
        // The steps, and of how many items each is.
        let mut steps = vec![(Step::Project, all.1)];
        for layer in 0..last {
            steps.push((Step::Attend(layer), attentions.items(layer).len()));
            steps.push((Step::Between(layer), all.1));
        }
        steps.push((Step::Attend(last), attentions.items(last).len()));
        if pooled == Pooling::First {
            steps.push((Step::GatherFirst, 1));
        }
        steps.push((Step::Finish, ends.1));
        let (steps, counts): (Vec<Step>, Vec<usize>) = steps.into_iter().unzip();
        let stage = |(rows, blocks): (usize, usize), block: usize| {
            let first = panel_start(block, blocks, rows);
            Stage {
                firsts: Some(firsts),
                layer: None,
                next: None,
                first,
                rows: panel_start(block + 1, blocks, rows) - first,
                context,
                hidden,
                qkv,
                layout,
            }
        };
        // What every access rests on: an item of a step writes rows, or heads of rows, that no other item of the step touches, and
        // the steps follow each other.
        parallel::for_each_phase(&counts, |number, i| match steps[number] {
            Step::Project => self.on_means(Stage {
                next: Some(first_layer),
                ..stage(all, i)
            }),
            Step::Attend(layer) => {
                let (item, kind) = (&attentions.items(layer)[i], &layers[layer].kind);
                // SAFETY: see above. All of `qkv` was written by the step before and is only read in this one.
                unsafe {
                    let qkv = qkv.read(0, qkv_len);
                    self.attend(item, qkv, layout, kind, true, (context, width + PAD));
                }
            }
            Step::Between(layer) => self.on_means(Stage {
                layer: layers.get(layer),
                next: layers.get(layer + 1),
                ..stage(all, i)
            }),
            Step::GatherFirst => {
                // SAFETY: see above; the only item of its step.
                let (context, hidden) = unsafe {
                    (
                        context.write(0, context_len),
                        hidden.write(0, tokens * width),
                    )
                };
                for (row, &first) in firsts.iter().enumerate() {
                    // In ascending order no row is overwritten before it was read, because no sequence is empty.
                    let stride = width + PAD;
                    context.copy_within(first * stride..(first + 1) * stride, row * stride);
                    hidden.copy_within(first * width..(first + 1) * width, row * width);
                }
            }
            Step::Finish => self.on_means(Stage {
                firsts: (pooled == Pooling::All).then_some(firsts),
                layer: layers.get(last),
                ..stage(ends, i)
            }),
        });
    }

    /// `x · wᵀ + bias` of one matrix on its own: `[m, k]` to `[m, n]`, `x` quantized on the way, to 16 bits if the matrix has
    /// high precision.
    ///
    /// # Panics
    /// If sizes do not fit each other.
    pub fn int8_linear(self, x: &[f32], matrix: &Int8Matrix<'_>, out: &mut [f32]) {
        matrix.check("int8_linear");
        let (n, k) = (matrix.n, matrix.k);
        let rows = x.len().checked_div(k).unwrap_or(0);
        assert!(
            x.len() == rows * k && out.len() == rows * n,
            "int8_linear: x of {} and out of {} values do not fit {n} channels of {k} inputs",
            x.len(),
            out.len()
        );
        let out = Shared::new(out);
        let blocks = blocks(rows, rayon::current_num_threads(), self.block());
        parallel::for_each(blocks, |block| {
            let first = panel_start(block, blocks, rows);
            let rows = panel_start(block + 1, blocks, rows) - first;
            self.on_means(Linear {
                x: &x[first * k..][..rows * k],
                matrix,
                out,
                first,
            });
        });
    }
}

/// A step of [`Kernels::group`]; those of a layer are told its number.
#[derive(Clone, Copy)]
enum Step {
    /// The first layer's queries, keys and values.
    Project,
    Attend(usize),
    /// All of a layer that follows its attention, and the next one's queries, keys and values.
    Between(usize),
    /// First tokens' rows move together: what follows is for them alone.
    GatherFirst,
    /// What follows the last attention.
    Finish,
}

/// The items of every layer's attention; layers that see the same share them.
pub(super) struct Attentions {
    lists: Vec<Vec<Item>>,
    /// Of each layer, the number of its list.
    of_layer: Vec<usize>,
}

impl Attentions {
    fn new(layers: &[Int8Layer<'_>], heads: usize, cu_seqlens: &[usize], pooled: Pooling) -> Self {
        let mut kinds = Vec::new();
        let mut lists = Vec::new();
        let of_layer = layers.iter().enumerate().map(|(number, layer)| {
            let first_only = pooled == Pooling::First && number + 1 == layers.len();
            let kind = (layer.kind.window, first_only);
            let known = kinds.iter().position(|known| *known == kind);
            known.unwrap_or_else(|| {
                kinds.push(kind);
                lists.push(items(cu_seqlens, heads, layer.kind.window, first_only));
                kinds.len() - 1
            })
        });
        let of_layer = of_layer.collect();
        Self { lists, of_layer }
    }

    pub(super) fn items(&self, layer: usize) -> &[Item] {
        &self.lists[self.of_layer[layer]]
    }
}

impl Kernels {
    /// The most rows of a block.
    fn block(self) -> usize {
        if self.has_unit() { UNIT_BLOCK } else { BLOCK }
    }

    /// Runs `work` on the matrix unit where there is one, on the vector registers where not.
    fn on_means(self, work: impl Work) {
        if self.has_unit() {
            self.dispatch_unit(OnUnit(work));
        } else {
            self.dispatch(OnVectors(work));
        }
    }
}

/// A piece of work, whatever its products are made with.
trait Work {
    fn run<S: Int8, M: Means>(self, s: S, means: M);
}

struct OnVectors<W>(W);

impl<W: Work> Kernel for OnVectors<W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Int8>(self, s: S) {
        self.0.run(s, Dots);
    }
}

struct OnUnit<W>(W);

impl<W: Work> UnitKernel for OnUnit<W> {
    #[inline(always)]
    fn run<S: Int8, U: MatrixUnit>(self, s: S, unit: U) {
        let tiles = unit.configure();
        self.0.run(s, OnTiles::<U>(&tiles));
    }
}

/// The first `len` values of a buffer that only grows; what they hold is overwritten before it is read.
fn grown<T: Clone + Default>(buffer: &mut Vec<T>, len: usize) -> &mut [T] {
    if buffer.len() < len {
        buffer.resize(len, T::default());
    }
    &mut buffer[..len]
}

/// Into how many blocks of at most `block` rows: a multiple of the threads, unless the rows are fewer.
fn blocks(rows: usize, threads: usize, block: usize) -> usize {
    rows.div_ceil(block).next_multiple_of(threads).min(rows)
}

impl Int8Layer<'_> {
    fn check(&self, width: usize) {
        let inner = self.down.k;
        let up = if self.gated { 2 * inner } else { inner };
        for (name, matrix, n, k) in [
            ("qkv", &self.qkv, 3 * width, width),
            ("attention_out", &self.attention_out, width, width),
            ("up", &self.up, up, width),
            ("down", &self.down, width, inner),
        ] {
            assert!(
                (matrix.n, matrix.k) == (n, k),
                "{name} of {} channels and {} inputs, expected {n} and {k}",
                matrix.n,
                matrix.k
            );
            matrix.check(name);
        }
        let (attention, output) = match &self.norms {
            Norms::After { attention, output } => (Some(attention), output),
            Norms::Before { attention, output } => (attention.as_ref(), output),
        };
        for norm in attention.into_iter().chain([output]) {
            assert!(
                norm.gamma.len() == width && norm.beta.len() == width,
                "a layer norm of {} and {} values, expected {width}",
                norm.gamma.len(),
                norm.beta.len()
            );
        }
    }
}

/// A block of rows of one product.
struct Linear<'a> {
    x: &'a [f32],
    matrix: &'a Int8Matrix<'a>,
    out: Shared,
    first: usize,
}

impl Work for Linear<'_> {
    #[inline(always)]
    fn run<S: Int8, M: Means>(self, s: S, means: M) {
        let (n, k) = (self.matrix.n, self.matrix.k);
        let count = self.x.len() / k;
        let rows = high_precision_rows(self.matrix, count, &[]);
        let mut scratch = Buffer::take(
            Slot::Thread,
            M::scratch_len::<S>(count, rows.high_precision.len(), k),
        );
        let scales = &mut [Scale::default(); 2 * MOST];
        means.quantize_rows(s, (self.x, k), self.matrix, rows, &mut scratch, scales);
        // SAFETY: rows first.. of the output belong to this item alone, and it has them by the caller's check.
        unsafe {
            let values = self.out.at(self.first * n);
            let out = Out {
                values,
                stride: n,
                slab: usize::MAX,
                slab_stride: 0,
            };
            means.multiply_rows(s, (&mut scratch, scales), self.matrix, rows, false, &out);
        }
    }
}

fn rows_mut(values: &mut [f32], stride: usize) -> RowsMut<'_> {
    RowsMut { values, stride }
}

/// The numbers of a block's rows.
const ALL: [usize; MOST] = {
    let mut all = [0; MOST];
    let mut i = 0;
    while i < MOST {
        all[i] = i;
        i += 1;
    }
    all
};

/// A block's rows: of a high-precision matrix all have high precision, of any other the first tokens'.
#[inline(always)]
fn high_precision_rows<'a>(matrix: &Int8Matrix<'_>, count: usize, firsts: &'a [usize]) -> Rows<'a> {
    let high_precision = if matrix.high_precision {
        &ALL[..count]
    } else {
        firsts
    };
    Rows {
        count,
        high_precision,
    }
}

/// A block of tokens between two attentions.
struct Stage<'a> {
    /// The sequences' first tokens; nothing where all rows are first tokens.
    firsts: Option<&'a [usize]>,
    layer: Option<&'a Int8Layer<'a>>,
    next: Option<&'a Int8Layer<'a>>,
    first: usize,
    /// At most [`MOST`].
    rows: usize,
    context: Shared,
    hidden: Shared,
    qkv: Shared,
    layout: Layout,
}

impl Work for Stage<'_> {
    #[inline(always)]
    fn run<S: Int8, M: Means>(self, s: S, means: M) {
        let rows = self.rows;
        let Some(width) = self.layer.or(self.next).map(|layer| layer.qkv.k) else {
            return;
        };
        // The feed-forward layers' inner width; the residual rows share the buffer of their result.
        let inner = self.layer.map_or(width, |layer| layer.up.n.max(width));
        let (near, far) = (width + PAD, inner + PAD);
        let mut in_block = [0; MOST];
        let firsts = match self.firsts {
            Some(firsts) => {
                let within = &firsts[firsts.partition_point(|&row| row < self.first)..];
                let within = &within[..within.partition_point(|&row| row < self.first + rows)];
                for (place, first) in in_block.iter_mut().zip(within) {
                    *place = first - self.first;
                }
                &in_block[..within.len()]
            }
            None => &ALL[..rows],
        };
        let matrices = self
            .layer
            .map(|layer| [&layer.attention_out, &layer.up, &layer.down]);
        let matrices = matrices.into_iter().flatten();
        let matrices = matrices.chain(self.next.map(|next| &next.qkv));
        let words_len = matrices
            .map(|m| {
                M::scratch_len::<S>(
                    rows,
                    high_precision_rows(m, rows, firsts).high_precision.len(),
                    m.k,
                )
            })
            .max()
            .unwrap_or_default();
        let mut scratch = Buffer::take(Slot::Thread, words_len + rows * (near + far));
        let (words, rest) = scratch.split_at_mut(words_len);
        let (wide, attended) = rest.split_at_mut(rows * far);
        let scales = &mut [Scale::default(); 2 * MOST];
        // SAFETY: rows first.. of `hidden` belong to this item alone, for as long as it runs.
        let hidden = unsafe { self.hidden.write(self.first * width, rows * width) };
        if let Some(layer) = self.layer {
            // SAFETY: nothing writes `context` while this item runs.
            let context = unsafe { self.context.read(self.first * near, rows * near) };
            let matrix = &layer.attention_out;
            let which = high_precision_rows(matrix, rows, firsts);
            means.quantize_rows(s, (context, near), matrix, which, words, scales);
            let out = Out::rows(attended, near);
            // SAFETY: `attended` has `rows` rows of `near > width` values, and nothing else refers to it meanwhile.
            unsafe { means.multiply_rows(s, (words, scales), matrix, which, false, &out) };
            match &layer.norms {
                Norms::After { attention, .. } => s.vectorize(Between::AddNorm {
                    x: rows_mut(attended, near),
                    residual: (hidden, width),
                    norm: attention,
                }),
                Norms::Before { output, .. } => {
                    s.vectorize(Between::Add {
                        x: rows_mut(hidden, width),
                        other: (attended, near),
                        width,
                    });
                    s.vectorize(Between::Norm {
                        from: (hidden, width),
                        to: rows_mut(attended, near),
                        norm: output,
                    });
                }
            }
            let which = high_precision_rows(&layer.up, rows, firsts);
            means.quantize_rows(s, (attended, near), &layer.up, which, words, scales);
            let out = Out::rows(wide, far);
            // SAFETY: `wide` has `rows` rows of `far` values, more than the inner width, and nothing else refers to it meanwhile.
            unsafe {
                means.multiply_rows(s, (words, scales), &layer.up, which, !layer.gated, &out)
            };
            if layer.gated {
                s.vectorize(GateRows {
                    values: wide,
                    stride: far,
                    inner: layer.down.k,
                });
            }
            let which = high_precision_rows(&layer.down, rows, firsts);
            means.quantize_rows(s, (wide, far), &layer.down, which, words, scales);
            let out = Out::rows(wide, near);
            // SAFETY: as before, in rows of `near <= far` values; what they held was quantized and is no longer read.
            unsafe { means.multiply_rows(s, (words, scales), &layer.down, which, false, &out) };
            match &layer.norms {
                Norms::After { output, .. } => {
                    for (hidden, x) in hidden.chunks_exact_mut(width).zip(wide.chunks(near)) {
                        hidden.copy_from_slice(&x[..width]);
                    }
                    s.vectorize(Between::AddNorm {
                        x: rows_mut(hidden, width),
                        residual: (attended, near),
                        norm: output,
                    });
                }
                Norms::Before { .. } => s.vectorize(Between::Add {
                    x: rows_mut(hidden, width),
                    other: (wide, near),
                    width,
                }),
            }
        }
        if let Some(next) = self.next {
            let x = match &next.norms {
                Norms::Before {
                    attention: Some(norm),
                    ..
                } => {
                    s.vectorize(Between::Norm {
                        from: (hidden, width),
                        to: rows_mut(attended, near),
                        norm,
                    });
                    (&*attended, near)
                }
                _ => (&*hidden, width),
            };
            let which = high_precision_rows(&next.qkv, rows, firsts);
            means.quantize_rows(s, x, &next.qkv, which, words, scales);
            // SAFETY: rows first.. of `qkv`, of each slab (a head of all tokens) where it lies in slabs, belong to this item alone;
            // row `first` begins within them.
            unsafe {
                let stride = self.layout.token;
                let in_slabs = stride == self.layout.head_dim;
                let out = Out {
                    values: self.qkv.at(self.first * stride),
                    stride,
                    slab: if in_slabs { stride } else { usize::MAX },
                    slab_stride: self.layout.head,
                };
                means.multiply_rows(s, (words, scales), &next.qkv, which, false, &out);
            }
        }
    }
}
