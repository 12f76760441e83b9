//! From many requests to forward passes: what is computed together (`plan`), where (`worker`), how
//! callers reach it (`compute`), and how much of it there is (`load`).

mod compute;
mod load;
mod plan;
mod worker;

pub use compute::{Compute, ComputeSettings, Done, Forward, Item};
pub use load::Permit;
pub use plan::{share, tokens_ahead};
