//! The CPU kernels of an encoder's forward pass, in f32.
//!
//! Owns all SIMD of the project and all `unsafe` that goes with it: the linear layer, attention over packed sequences,
//! GELU and its gate, layer normalisation and bias addition, written once over the trait `simd::Simd` and compiled for each
//! instruction set in [`Isa`]. Knows no model, no tensor type, no file and no environment variable.
//!
//! Data in and out: flat row-major `f32` slices. Hidden states are *packed*: `[tokens, hidden]`, the sequences one after
//! the other without padding, their borders in `cu_seqlens` (`[0, len0, len0 + len1, …]`).
//!
//! What every kernel promises, and the tests hold:
//! - **Instruction sets are proven, not assumed.** A [`Kernels`] exists only for a set that this CPU was seen to have.
//! - **Batch invariance to the bit.** On one instruction set, an output row depends on its own input row (for attention:
//!   its own sequence) and on nothing else: not on the number of rows, its place among them, or the number of threads.
//!   Every sum runs in an order fixed by the row's own length.
//! - **Special values pass through.** A NaN in makes NaN out, in the rows it belongs to; nothing panics on a value.
//! - **Shapes are checked.** A length that does not fit is a bug of the caller and panics, naming the operation and both
//!   lengths.
//!
//! Work is spread over rayon's current pool: call inside `ThreadPool::install` to choose it.

#![warn(missing_docs, unreachable_pub)]

mod attention;
mod elementwise;
mod int8;
mod isa;
mod layer_norm;
mod linear;
mod math;
mod matrix_unit;
mod parallel;
mod peak;
mod portable;
pub mod reference;
mod scratch;
mod simd;
mod tile;

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

pub use attention::{AttentionKind, RelativeBias, Rotary};
pub use int8::{
    EncoderSpace, INT8_LAYOUT, Int8Layer, Int8Matrix, LayerNorm, Levels, Norms, PANEL, PackedInt8,
    Pooling, Smooth, lay_out_int8, pack_int8,
};
pub use isa::{Isa, Kernels, UnknownIsa};
pub use linear::{Epilogue, LinearShape};
