//! The encoder on NVIDIA GPUs of compute capability 8.0 and later, in 16 bits.
//!
//! cuBLAS computes matrix products. A few kernels of our own (`kernels/`) compute everything
//! between two products, one kernel each. Attention runs over packed sequences, and its scores
//! never reach memory. Residuals, sums and norms are f32. Sequences lie one after the other,
//! without padding.
//!
//! Without the feature `cuda` the crate has only [`Shape`] and [`Work`]: the sizes of a model, and
//! the arguments of one pass. The tests compile the kernels' own source for the CPU
//! (`tests/emulator.h`).

#![warn(missing_docs, unreachable_pub)]

#[cfg(feature = "cuda")]
mod encoder;
mod work;

#[cfg(feature = "cuda")]
pub use encoder::{BUILT_WITH, Encoder, Error, Half, Head, Layer, Linear, Norm, driver_version};
pub use work::{WARPS, Work};

/// Hidden widths, in units of 128, that there are kernels for.
const WIDTHS: [usize; 3] = [3, 6, 8];
/// Widths of heads that there are kernels for.
const HEAD_WIDTHS: [usize; 2] = [32, 64];
/// Values that a thread of the activation has.
const AT_ONCE: usize = 8;

/// A model's dimensions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// Width of a token's vector.
    pub hidden: usize,
    /// Width of the feed-forward network's inner vector.
    pub inner: usize,
    /// Number of attention heads.
    pub heads: usize,
    /// Added to the variance in layer norms.
    pub eps: f32,
}

impl Shape {
    /// Width of one head's part of a token's vector.
    pub fn head_width(&self) -> usize {
        self.hidden / self.heads
    }

    /// Why there are no kernels for it on a chip of this compute capability.
    pub fn lacks(&self, chip: (u32, u32)) -> Option<String> {
        if chip < (8, 0) {
            return Some(format!(
                "they need compute capability 8.0, this chip has {}.{}",
                chip.0, chip.1
            ));
        }
        if !WIDTHS.map(|units| units * 128).contains(&self.hidden) {
            return Some(format!(
                "hidden_size {} is none of 384, 768, 1024",
                self.hidden
            ));
        }
        if !HEAD_WIDTHS.contains(&self.head_width()) {
            return Some(format!(
                "heads of width {} are none of 32, 64",
                self.head_width()
            ));
        }
        if !self.inner.is_multiple_of(AT_ONCE) {
            return Some(format!(
                "intermediate_size {} is no multiple of {AT_ONCE}",
                self.inner
            ));
        }
        None
    }
}
