//! The x86-64 instruction sets, one file each, and the product that those without VNNI share.

pub(crate) mod amx;
pub(crate) mod avx2;
pub(crate) mod avx512;
mod narrow;
