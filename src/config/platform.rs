//! Variables of the platforms: Lambda, Azure Functions, the Hugging Face hub and S3.

use std::path::PathBuf;

use super::LAMBDA_RUNTIME_API;
use super::reader::{Reader, boolean};
use crate::telemetry::Function;

/// Facts that the platforms give through variables of their own.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Platform {
    /// `AWS_LAMBDA_RUNTIME_API`: where events come from, on Lambda.
    pub lambda_api: Option<http::Uri>,
    /// `AWS_LAMBDA_FUNCTION_NAME` and `AWS_LAMBDA_FUNCTION_VERSION`: whose metrics they are.
    pub lambda_function: Option<Function>,
    /// `AWS_LAMBDA_INITIALIZATION_TYPE`: `on-demand`, `provisioned-concurrency` or `snap-start`.
    pub lambda_initialization: Option<String>,
    /// `AWS_LAMBDA_MAX_CONCURRENCY`: set on managed instances.
    pub lambda_concurrency: Option<usize>,
    /// `AWS_LAMBDA_FUNCTION_MEMORY_SIZE`: what is billed, in MB of 2^20 bytes.
    pub lambda_memory_mb: Option<u64>,
    /// `FUNCTIONS_CUSTOMHANDLER_PORT`, or its older name `FUNCTIONS_HTTPWORKER_PORT`.
    pub azure_port: Option<u16>,
    /// Where Hugging Face's own tools keep downloaded models.
    pub hub_cache: Option<PathBuf>,
    /// `HF_ENDPOINT` and `HF_TOKEN` (or its older name): the hub to download from, and the key to
    /// it; `HF_HUB_OFFLINE`: do not.
    pub hub_endpoint: Option<String>,
    pub hub_token: Option<String>,
    pub hub_offline: bool,
    /// `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL`, which the SDK reads itself, names another store
    /// than AWS's.
    pub s3_endpoint: bool,
}

pub(super) fn read(read: &mut Reader) -> Option<Platform> {
    let lambda_api = match (read.lookup)(LAMBDA_RUNTIME_API) {
        Some(text) => match text.parse::<http::Uri>() {
            Ok(address) if address.authority().is_some() => Some(Some(address)),
            _ => read.complain(LAMBDA_RUNTIME_API, &text, "an address, HOST:PORT"),
        },
        None => Some(None),
    };
    let mut number = |name: &str| match (read.lookup)(name) {
        Some(value) => value
            .parse::<u16>()
            .ok()
            .map(Some)
            .or_else(|| read.complain(name, &value, "a number from 0 to 65535")),
        None => Some(None),
    };
    let azure_port =
        number("FUNCTIONS_CUSTOMHANDLER_PORT")?.or(number("FUNCTIONS_HTTPWORKER_PORT")?);
    let lambda_memory_mb = number("AWS_LAMBDA_FUNCTION_MEMORY_SIZE")?.map(u64::from);
    let lambda_concurrency = number("AWS_LAMBDA_MAX_CONCURRENCY")?.map(usize::from);
    let text = |name: &str| (read.lookup)(name).filter(|value| !value.is_empty());
    Some(Platform {
        lambda_api: lambda_api?,
        lambda_function: text("AWS_LAMBDA_FUNCTION_NAME").map(|name| Function {
            name,
            version: text("AWS_LAMBDA_FUNCTION_VERSION").unwrap_or_else(|| "$LATEST".into()),
        }),
        lambda_initialization: (read.lookup)("AWS_LAMBDA_INITIALIZATION_TYPE"),
        lambda_concurrency,
        lambda_memory_mb,
        azure_port,
        hub_endpoint: text("HF_ENDPOINT"),
        hub_token: text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN")),
        hub_offline: text("HF_HUB_OFFLINE")
            .or_else(|| text("TRANSFORMERS_OFFLINE"))
            .is_some_and(|text| boolean(&text) == Some(true)),
        s3_endpoint: text("AWS_ENDPOINT_URL_S3")
            .or_else(|| text("AWS_ENDPOINT_URL"))
            .is_some(),
        hub_cache: hub_cache(&text),
    })
}

/// Where Hugging Face's own tools keep models, by all their names, in their order.
fn hub_cache(text: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let home = text("HOME").map(PathBuf::from);
    let path = |name: &str| {
        let value = text(name)?;
        Some(match (value.strip_prefix('~'), &home) {
            (Some(""), Some(home)) => home.clone(),
            (Some(rest), Some(home)) if rest.starts_with('/') => home.join(&rest[1..]),
            _ => PathBuf::from(value),
        })
    };
    path("HF_HUB_CACHE")
        .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
        .or_else(|| path("HF_HOME").map(|own| own.join("hub")))
        .or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("huggingface/hub")))
        .or_else(|| {
            home.as_ref()
                .map(|home| home.join(".cache/huggingface/hub"))
        })
}
