//! A post-LN transformer encoder on int8 weights, over packed sequences.
//!
//! Between one attention and the next every token is on its own. So a thread takes a block of tokens through all of it
//! (output projection, residual and norm, the two feed-forward layers, residual and norm, and the next layer's queries, keys
//! and values) while the block's activations stay in its second-level cache: two waits for the other threads a layer, and
//! no intermediate matrix in memory but queries, keys, values and attention's result.

use crate::attention::items;
use crate::int8::Int8Matrix;
use crate::int8::product::{Out, Scale, multiply_rows, quantize_rows, quantized_len};
use crate::isa::Kernels;
use crate::layer_norm::add_norm_row;
use crate::parallel::{self, Shared};
use crate::scratch::{Buffer, Slot, as_bytes};
use crate::simd::{Kernel, Simd};
use crate::tile::panel_start;

/// The most tokens of a block: their widest activations, f32, and the quantized ones fill most of a second-level cache of
/// 1 MiB at an inner width of 4096.
const BLOCK: usize = 72;

/// A layer normalisation's parameters, each `[hidden]`.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm<'a> {
    pub gamma: &'a [f32],
    pub beta: &'a [f32],
    pub eps: f32,
}

/// One encoder layer.
#[derive(Clone, Copy, Debug)]
pub struct Int8Layer<'a> {
    /// Queries, keys and values, one after the other: `3 * hidden` channels.
    pub qkv: Int8Matrix<'a>,
    pub attention_out: Int8Matrix<'a>,
    pub attention_norm: LayerNorm<'a>,
    pub up: Int8Matrix<'a>,
    pub down: Int8Matrix<'a>,
    pub output_norm: LayerNorm<'a>,
}

/// Memory that a forward pass needs and the next one uses again: 16 bytes a token and hidden value.
#[derive(Default)]
pub struct EncoderSpace {
    qkv: Vec<f32>,
    context: Vec<f32>,
}

impl Kernels {
    /// Runs the layers over packed sequences and leaves the last one's output for each sequence's first token in the first
    /// rows of `hidden`.
    ///
    /// `hidden` is `[tokens, hidden]`, the embeddings' output; sequence `i` is the tokens `cu_seqlens[i]..cu_seqlens[i + 1]`,
    /// at least one. The rows after the first `cu_seqlens.len() - 1` hold nothing of use afterwards. In the last layer only
    /// what first tokens need is computed.
    ///
    /// # Panics
    /// If sizes do not fit each other, or a sequence is empty.
    pub fn int8_encoder(
        self,
        layers: &[Int8Layer<'_>],
        heads: usize,
        cu_seqlens: &[usize],
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
        layers.iter().for_each(|layer| layer.check(width));
        let EncoderSpace { qkv, context } = space;
        let qkv = grown(qkv, 3 * tokens * width);
        let context = grown(context, tokens * width);
        let Some((last, others)) = layers.split_last() else {
            return;
        };
        let head_dim = width / heads;
        let all = items(cu_seqlens, heads, false);
        self.stage(None, layers.first(), tokens, context, hidden, qkv);
        for (layer, next) in others.iter().zip(&layers[1..]) {
            self.attend(&all, qkv, heads, head_dim, true, context);
            self.stage(Some(layer), Some(next), tokens, context, hidden, qkv);
        }
        let firsts = items(cu_seqlens, heads, true);
        self.attend(&firsts, qkv, heads, head_dim, true, context);
        let firsts = &cu_seqlens[..cu_seqlens.len() - 1];
        for (row, &first) in firsts.iter().enumerate() {
            // In ascending order no row is overwritten before it was read, because no sequence is empty.
            context.copy_within(first * width..(first + 1) * width, row * width);
            hidden.copy_within(first * width..(first + 1) * width, row * width);
        }
        self.stage(Some(last), None, firsts.len(), context, hidden, qkv);
    }

    /// `x · wᵀ + bias` of one matrix on its own: `[m, k]` to `[m, n]`, `x` quantized on the way.
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
        let blocks = blocks(rows, rayon::current_num_threads());
        parallel::for_each(blocks, |block| {
            let first = panel_start(block, blocks, rows);
            let rows = panel_start(block + 1, blocks, rows) - first;
            self.dispatch(Linear {
                x: &x[first * k..][..rows * k],
                matrix,
                out,
                first,
            });
        });
    }

    /// What lies between two attentions, for the first `rows` tokens: the rest of `layer`, if any, and the start of `next`.
    fn stage(
        self,
        layer: Option<&Int8Layer<'_>>,
        next: Option<&Int8Layer<'_>>,
        rows: usize,
        context: &[f32],
        hidden: &mut [f32],
        qkv: &mut [f32],
    ) {
        let hidden = Shared::new(hidden);
        let qkv = Shared::new(qkv);
        let blocks = blocks(rows, rayon::current_num_threads());
        parallel::for_each(blocks, |block| {
            let first = panel_start(block, blocks, rows);
            self.dispatch(Stage {
                layer,
                next,
                first,
                rows: panel_start(block + 1, blocks, rows) - first,
                context,
                hidden,
                qkv,
            });
        });
    }
}

/// The first `len` values of a buffer that only grows; what they hold is overwritten before it is read.
fn grown(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

/// Into how many blocks of at most [`BLOCK`] rows: a multiple of the threads, unless the rows are fewer.
fn blocks(rows: usize, threads: usize) -> usize {
    rows.div_ceil(BLOCK).next_multiple_of(threads).min(rows)
}

impl Int8Layer<'_> {
    fn check(&self, width: usize) {
        for (name, matrix, n, k) in [
            ("qkv", &self.qkv, 3 * width, width),
            ("attention_out", &self.attention_out, width, width),
            ("up", &self.up, self.up.n, width),
            ("down", &self.down, width, self.up.n),
        ] {
            assert!(
                (matrix.n, matrix.k) == (n, k),
                "{name} of {} channels and {} inputs, expected {n} and {k}",
                matrix.n,
                matrix.k
            );
            matrix.check(name);
        }
        for norm in [&self.attention_norm, &self.output_norm] {
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

impl Kernel for Linear<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (n, k) = (self.matrix.n, self.matrix.k);
        let rows = self.x.len() / k;
        let mut scratch = Buffer::take(Slot::Thread, quantized_len(rows, k).div_ceil(4));
        let bytes = as_bytes(&mut scratch);
        let scales = &mut [Scale::default(); BLOCK][..rows];
        quantize_rows(s, self.x, k, self.matrix, bytes, scales);
        // SAFETY: rows first.. of the output belong to this item alone, and it has them by the caller's check.
        unsafe {
            let values = self.out.at(self.first * n);
            let out = Out { values, stride: n };
            multiply_rows(s, bytes, scales, self.matrix, false, &out);
        }
    }
}

/// A block of tokens between two attentions.
struct Stage<'a> {
    layer: Option<&'a Int8Layer<'a>>,
    next: Option<&'a Int8Layer<'a>>,
    first: usize,
    /// At most [`BLOCK`].
    rows: usize,
    context: &'a [f32],
    hidden: Shared,
    qkv: Shared,
}

impl Kernel for Stage<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let rows = self.rows;
        let widest =
            |layer: Option<&Int8Layer<'_>>| layer.map_or(0, |layer| layer.up.n.max(layer.up.k));
        let inner = widest(self.layer).max(widest(self.next));
        let width = self.layer.or(self.next).map_or(0, |layer| layer.up.k);
        let bytes_len = quantized_len(rows, inner);
        let mut scratch =
            Buffer::take(Slot::Thread, bytes_len.div_ceil(4) + rows * (inner + width));
        let (bytes, rest) = scratch.split_at_mut(bytes_len.div_ceil(4));
        let (wide, attended) = rest.split_at_mut(rows * inner);
        let bytes = as_bytes(bytes);
        let scales = &mut [Scale::default(); BLOCK][..rows];
        // SAFETY: rows first.. of `hidden` belong to this item alone, for as long as it runs.
        let hidden = unsafe {
            std::slice::from_raw_parts_mut(self.hidden.at(self.first * width), rows * width)
        };
        // SAFETY of every product: `out` has `rows` rows of the matrix's channels: `attended` and `wide` by their lengths,
        // `qkv` because its rows first.. belong to this item alone.
        if let Some(layer) = self.layer {
            let context = &self.context[self.first * width..][..rows * width];
            let matrix = &layer.attention_out;
            quantize_rows(s, context, width, matrix, bytes, scales);
            unsafe { multiply_rows(s, bytes, scales, matrix, false, &Out::rows(attended, width)) };
            for (x, residual) in attended
                .chunks_exact_mut(width)
                .zip(hidden.chunks_exact(width))
            {
                add_norm_row(s, x, residual, &layer.attention_norm);
            }
            quantize_rows(s, attended, width, &layer.up, bytes, scales);
            unsafe {
                multiply_rows(
                    s,
                    bytes,
                    scales,
                    &layer.up,
                    true,
                    &Out::rows(wide, layer.up.n),
                )
            };
            quantize_rows(s, wide, layer.up.n, &layer.down, bytes, scales);
            unsafe {
                multiply_rows(
                    s,
                    bytes,
                    scales,
                    &layer.down,
                    false,
                    &Out::rows(hidden, width),
                )
            };
            for (x, residual) in hidden
                .chunks_exact_mut(width)
                .zip(attended.chunks_exact(width))
            {
                add_norm_row(s, x, residual, &layer.output_norm);
            }
        }
        if let Some(next) = self.next {
            quantize_rows(s, hidden, width, &next.qkv, bytes, scales);
            let stride = 3 * width;
            // SAFETY: see above; row `first` begins within `qkv`.
            unsafe {
                let values = self.qkv.at(self.first * stride);
                multiply_rows(s, bytes, scales, &next.qkv, false, &Out { values, stride });
            }
        }
    }
}
