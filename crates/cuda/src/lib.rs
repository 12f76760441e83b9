//! The encoder on NVIDIA GPUs of compute capability 8.0 and later, in 16 bits.
//!
//! Products of matrices are cuBLAS's; everything else is a few kernels of our own (`kernels/`): attention over packed sequences, whose
//! scores never lie in memory, and what stands between two products as one kernel each. Residuals, sums and norms are f32. Sequences
//! lie one after the other, with nothing between them.
//!
//! Without the feature `cuda` there is only [`Shape`] and [`Work`]: what a GPU can be given, and what it is told to do. The tests run the
//! kernels themselves, compiled for the CPU (`tests/emulator.h`).

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
    pub hidden: usize,
    pub inner: usize,
    pub heads: usize,
    pub eps: f32,
}

impl Shape {
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
