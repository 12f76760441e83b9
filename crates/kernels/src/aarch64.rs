//! The AArch64 instruction sets, and their products by lanes.

mod lanes;
pub(crate) mod neon;
