//! Where models come from: a folder, the Hugging Face hub and its local cache, or S3.
//!
//! Brings files, checks them against digests and pins, and tells where they are. What is in them is the business of the engine.

#![warn(missing_docs, unreachable_pub)]

mod cache;
mod hub;
mod locate;
mod pins;
mod ranges;
mod s3;

pub use cache::{CachedModel, Hold, Holding, bytes_below, cached_models, record, recorded, remove};
pub use hub::{FetchError, Fetched, Hub, Looks};
pub use locate::{HubName, Located as LocatedModel, hub_name, locate};
pub use pins::{Pin, PinError, is_sha256};
pub use ranges::{DiskError, Progress, room_for};
pub use s3::{S3Error, S3Fetched, S3Model, S3Settings};
