//! From many sequences to forward passes: what is computed together (`plan`) and where (`worker`).

mod plan;
mod worker;

pub use plan::{plan, share, until_done};
pub use worker::{Compute, ComputeSettings, Done, Forward, Item, Place};
