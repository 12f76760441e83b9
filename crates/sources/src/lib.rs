//! Finds and downloads models: from a folder, the Hugging Face hub with its local cache, or S3.
//!
//! | To … | Use |
//! |---|---|
//! | find a model on this machine | [`locate`], with a folder or a hub id; [`hub_name`] reads ids as people write them |
//! | download one from the hub | [`Hub::fetch`] |
//! | download one from S3 | [`S3Model::parse`], then [`S3Model::fetch`] |
//! | accept only known bytes | [`Pin`]: a commit and the digest of each file |
//! | list, protect and remove models of the cache | [`cached_models`], [`Hold`], [`remove`] |
//!
//! Both downloads have the same promises. Disk space is reserved first. Large files come in ranges
//! over several connections, and an interrupted download resumes. A model gets its name only when
//! it is complete and every known digest matches.
//!
//! Everything here blocks: async programs call it from a blocking thread. The engine
//! alone interprets weights and tokenizers.

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
