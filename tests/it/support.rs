//! What several modules of tests share: the program as a process, its peers on loopback, small models.

pub mod client;
pub mod collector;
pub mod families;
pub mod group;
pub mod http2;
pub mod hub;
pub mod models;
pub mod process;
pub mod router;
pub mod runtime_api;
pub mod texts;
