//! From many requests to forward passes: what is computed together (`plan`) and where (`worker`).

mod plan;
mod worker;

pub use plan::{share, tokens_ahead};
pub use worker::{Compute, ComputeSettings, Done, Forward, Item, Permit};
