//! Where requests come from: Lambda's runtime loop, or a socket (a plain port, or the one that
//! Azure Functions assigns). Both serve the same router.

pub mod azure;
pub mod lambda;
mod lenient;
pub mod server;
pub mod signals;

use std::fmt;

/// What runs us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum HostKind {
    /// AWS Lambda, by its runtime API.
    Lambda,
    /// Azure Functions, as a custom handler.
    Azure,
    /// A port of our own: a container, a virtual machine, a laptop.
    Http,
}

impl HostKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Lambda => "lambda",
            Self::Azure => "azure",
            Self::Http => "http",
        }
    }
}

impl fmt::Display for HostKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
