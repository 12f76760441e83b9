//! The AArch64 instruction sets, one file each.

pub(crate) mod neon;
