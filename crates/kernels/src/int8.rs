//! The int8 engine: linear layers of int8 weights over activations that are quantized on the way, and the encoder made of
//! them.
//!
//! **Weights** are symmetric per output channel: `w[n, k] ≈ scale[n] * q[n, k]` with `q` in -127..=127. They lie in
//! *panels* of [`PANEL`] channels, each `[k / 4, PANEL, 4]` bytes: four consecutive inputs of one channel share a 32-bit lane,
//! which is what the byte dot products of x86-64 and AArch64 multiply, and what AVX2 and plain NEON can multiply as well. The
//! one layout serves every instruction set.
//!
//! **Activations** are quantized per token, asymmetrically: `x[k] ≈ low + step * u[k]` with `u` in 0..=255. The
//! product is `scale[n] * (step * Σ u q + low * Σ q)`; the sums `Σ q` come with the weights. The i32 sums are exact on every
//! instruction set: where the dot product wants signed bytes it gets `u - 128`, and where a product of two bytes would
//! saturate 16 bits the sign moves from the activation to the weight first. A matrix may promise smaller operands, its
//! [`Levels`]: then instruction sets without a dot product of bytes multiply them as they are, and add up several products in
//! 16 bits before they widen them.
//!
//! **High-precision rows** are quantized twice: the first quantization's residual becomes a row of bytes of its own, whose product
//! is added, so that their activations have 16 bits. In the encoder these are every sequence's first token, one row in a
//! hundred that makes half of the logit's error when it is coarse, and all rows of a matrix that is [`Int8Matrix::high_precision`].
//!
//! A row's result depends on that row alone, to the bit, whatever is computed beside it and on however many threads.

mod columns;
mod encoder;
mod means;
pub(crate) mod product;
pub(crate) mod quads;
mod tiles;

use crate::isa::Kernels;
use crate::simd::{Int8, Kernel};

pub use encoder::{EncoderSpace, Int8Layer, LayerNorm, Norms, Pooling};

/// Output channels that lie together.
pub const PANEL: usize = 32;
/// Name of the layout of [`pack_int8`]: changes whenever the meaning of the bytes does.
pub const INT8_LAYOUT: &str = "panel32x4";

/// A linear layer's int8 weights and bias, as [`pack_int8`] lays them out.
#[derive(Clone, Copy, Debug)]
pub struct Int8Matrix<'a> {
    /// Output channels.
    pub n: usize,
    /// Inputs.
    pub k: usize,
    /// [`Int8Matrix::panel_bytes`] of weights.
    pub panels: &'a [i8],
    /// Scale of each channel, [`Int8Matrix::channels`] of them; 0 beyond `n`.
    pub scales: &'a [f32],
    /// Sum of each channel's quantized weights; exact in f32.
    pub sums: &'a [f32],
    /// What is added to each channel's product, [`Int8Matrix::channels`] of them; 0 beyond `n`.
    pub bias: &'a [f32],
    /// What is done to the inputs first, if anything.
    pub smooth: Option<Smooth<'a>>,
    /// Whether the encoder quantizes all rows to 16 bits; it does so with first tokens' rows in any case.
    pub high_precision: bool,
    /// The largest weights and quantized inputs.
    pub levels: Levels,
}

/// How large a product's operands become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Levels {
    /// No weight's magnitude is larger. A larger weight makes the product wrong, not unsafe.
    pub weights: u8,
    /// Inputs are quantized to 0..=this.
    pub inputs: u8,
}

impl Levels {
    /// Eight bits of both.
    pub const FULL: Levels = Levels {
        weights: 127,
        inputs: 255,
    };

    /// The levels of so many bits, weights 6 to 8 and inputs 7 or 8. A weight of 7 bits may be 64: with a byte of 255 twice that is
    /// still within 16 bits.
    ///
    /// # Panics
    /// If there are no such levels.
    pub const fn of_bits(weights: u32, inputs: u32) -> Levels {
        assert!(matches!(weights, 6..=8) && matches!(inputs, 7..=8));
        Levels {
            weights: if weights == 8 {
                127
            } else {
                1 << (weights - 1)
            },
            inputs: if inputs == 8 { 255 } else { 127 },
        }
    }

    /// As many inputs as the next slower product bears with these weights; all where it bears any.
    pub fn more_inputs(self) -> u8 {
        let most = |depth: usize| i16::MAX as usize / (2 * depth * usize::from(self.weights));
        let inputs = match self.depth() {
            0 | 1 => 255,
            depth => most(depth / 2).min(255),
        };
        // At most 255.
        u8::try_from(inputs).unwrap_or(u8::MAX)
    }

    /// How many sums of two products fit 16 bits with certainty, as far as the kernels make use of it: 0, 1, 2 or 4. The more, the
    /// faster is the product on instruction sets that gain by it.
    pub const fn depth(self) -> usize {
        let pair = 2 * self.weights as usize * self.inputs as usize;
        let most = i16::MAX as usize;
        if 4 * pair <= most {
            4
        } else if 2 * pair <= most {
            2
        } else if pair <= most {
            1
        } else {
            0
        }
    }
}

impl Kernels {
    /// Whether products are faster on this instruction set where [`Levels`] are small.
    pub fn gains_by_levels(self) -> bool {
        struct Narrow;
        impl Kernel for Narrow {
            type Output = bool;

            #[inline(always)]
            fn run<S: Int8>(self, _: S) -> bool {
                S::NARROW
            }
        }
        self.dispatch(Narrow)
    }
}

/// What makes a matrix's inputs alike before they are quantized: `x[k]` becomes `x[k] * factor[k] + offset[k]`. The weights
/// were divided by the factor, and the bias makes up for the offset.
#[derive(Clone, Copy, Debug)]
pub struct Smooth<'a> {
    /// `[k]`, no element 0.
    pub factor: &'a [f32],
    /// `[k]`.
    pub offset: &'a [f32],
}

impl Int8Matrix<'_> {
    /// `n` rounded up to whole panels: the length of `scales`, `sums` and `bias`.
    pub const fn channels(n: usize) -> usize {
        n.next_multiple_of(PANEL)
    }

    /// Length of `panels` of a matrix of `n` channels and `k` inputs.
    pub const fn panel_bytes(n: usize, k: usize) -> usize {
        Self::channels(n) * k.next_multiple_of(4)
    }

    fn check(&self, name: &str) {
        let channels = Self::channels(self.n);
        for (what, got, want) in [
            (
                "panels",
                self.panels.len(),
                Self::panel_bytes(self.n, self.k),
            ),
            ("scales", self.scales.len(), channels),
            ("sums", self.sums.len(), channels),
            ("bias", self.bias.len(), channels),
            (
                "factor",
                self.smooth.map_or(self.k, |smooth| smooth.factor.len()),
                self.k,
            ),
            (
                "offset",
                self.smooth.map_or(self.k, |smooth| smooth.offset.len()),
                self.k,
            ),
        ] {
            assert!(
                got == want,
                "{name}: {what} of {got} values does not fit {} channels of {} inputs",
                self.n,
                self.k
            );
        }
    }
}

/// What [`pack_int8`] makes: an [`Int8Matrix`] without its bias.
#[derive(Clone, Debug, PartialEq)]
pub struct PackedInt8 {
    /// [`Int8Matrix::panel_bytes`] of weights; 0 beyond the matrix.
    pub panels: Vec<i8>,
    /// What a channel's quantized weights are multiplied by, [`Int8Matrix::channels`] of them; 0 beyond `n`.
    pub scales: Vec<f32>,
    /// The sum of a channel's quantized weights, as many.
    pub sums: Vec<f32>,
}

/// Quantizes `w`, `[n, k]` row-major, each channel to its own scale (its largest magnitude becomes `levels.weights`), and lays it
/// out in panels. With `factor` the weights are divided by it, input by input, first.
///
/// # Panics
/// If `w` is not `n * k` long or `factor` not `k`.
pub fn pack_int8(
    w: &[f32],
    n: usize,
    k: usize,
    factor: Option<&[f32]>,
    levels: Levels,
) -> PackedInt8 {
    assert!(
        w.len() == n * k && factor.is_none_or(|factor| factor.len() == k),
        "pack_int8: {} weights do not fit {n} channels of {k} inputs",
        w.len()
    );
    let mut rounded = vec![0i8; n * k];
    let mut scales = vec![0.0; n];
    let mut row = vec![0.0; k];
    for channel in 0..n {
        row.copy_from_slice(&w[channel * k..][..k]);
        if let Some(factor) = factor {
            row.iter_mut().zip(factor).for_each(|(w, f)| *w /= f);
        }
        let largest = row.iter().fold(0f32, |largest, w| largest.max(w.abs()));
        let scale = largest / f32::from(levels.weights);
        // A channel of zeros, or so small that its scale is no normal number, is one of zeros.
        if scale < f32::MIN_POSITIVE {
            continue;
        }
        for (q, w) in rounded[channel * k..].iter_mut().zip(&row) {
            // Within the levels, as `largest` is the largest.
            #[allow(clippy::cast_possible_truncation)]
            let nearest = (w / scale).round_ties_even() as i8;
            *q = nearest;
        }
        scales[channel] = scale;
    }
    lay_out_int8(&rounded, &scales, k)
}

/// Lays out weights that are rounded already, `[n, k]` row-major, in panels; `scales` has each channel's.
///
/// # Panics
/// If `rounded` is not as many times `k` long as there are scales.
pub fn lay_out_int8(rounded: &[i8], scales: &[f32], k: usize) -> PackedInt8 {
    let n = scales.len();
    assert!(
        rounded.len() == n * k,
        "lay_out_int8: {} weights do not fit {n} channels of {k} inputs",
        rounded.len()
    );
    let channels = Int8Matrix::channels(n);
    let mut packed = PackedInt8 {
        panels: vec![0; Int8Matrix::panel_bytes(n, k)],
        scales: scales.to_vec(),
        sums: vec![0.0; channels],
    };
    packed.scales.resize(channels, 0.0);
    let quads = k.div_ceil(4);
    for channel in 0..n {
        let (panel, column) = (channel / PANEL, channel % PANEL);
        let row = &rounded[channel * k..][..k];
        for (quad, weights) in row.chunks(4).enumerate() {
            let at = ((panel * quads + quad) * PANEL + column) * 4;
            packed.panels[at..][..weights.len()].copy_from_slice(weights);
        }
        let sum: i32 = row.iter().map(|q| i32::from(*q)).sum();
        // Below 2^24 for any k up to 132,000, so exact.
        packed.sums[channel] = sum as f32;
    }
    packed
}
