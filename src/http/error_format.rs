//! Error formats: the one place where the body of an error is written, in the words of a dialect.

use std::collections::BTreeMap;

use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Response};

use axum::body::Body;

use reranker_dialects::{Dialect, Failure, native};

const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");

/// A dialect's name and its error body. A handler that has found out whose body it reads attaches it to its response.
#[derive(Clone, Copy)]
pub struct ErrorFormat {
    pub name: &'static str,
    body: fn(&Failure) -> Vec<u8>,
    error_type: fn(&Failure) -> Option<&'static str>,
}

impl ErrorFormat {
    pub fn of<D: Dialect>() -> Self {
        fn body<D: Dialect>(failure: &Failure) -> Vec<u8> {
            serde_json::to_vec(&D::error(failure))
                .expect("an error body is made of plain strings and numbers")
        }
        Self {
            name: D::NAME,
            body: body::<D>,
            error_type: D::error_type,
        }
    }

    /// Puts the failure that a response carries into its body; status and headers are there already. Leaves word of it to whoever passes
    /// the response on.
    pub fn tell(self, response: &mut Response<Body>) -> Option<Failure> {
        let failure = response.extensions_mut().remove::<Failure>();
        if let Some(failure) = &failure {
            self.put(failure, response);
        }
        response.extensions_mut().insert(Told {
            error_format: self,
            failure: failure.clone(),
        });
        failure
    }

    fn put(self, failure: &Failure, response: &mut Response<Body>) {
        *response.body_mut() = Body::from((self.body)(failure));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // What a handler that never had a body left behind.
        headers.remove(http::header::CONTENT_LENGTH);
        if let Some(name) = (self.error_type)(failure) {
            headers.insert(ERROR_TYPE, HeaderValue::from_static(name));
        }
    }
}

/// In whose words a response is, and what it tells of where it is a failure. For hosts, whose callers may need it in other forms.
#[derive(Clone)]
pub struct Told {
    pub(super) error_format: ErrorFormat,
    failure: Option<Failure>,
}

impl Told {
    /// The code and the message of a failure.
    pub fn failure(&self) -> Option<(&'static str, String)> {
        let failure = self.failure.as_ref()?;
        Some((failure.code(), failure.message()))
    }
}

/// Which dialect a path belongs to, for failures before its body is read.
#[derive(Default)]
pub struct ErrorFormats {
    by_route: BTreeMap<String, ErrorFormat>,
    by_prefix: BTreeMap<String, ErrorFormat>,
}

impl ErrorFormats {
    pub fn add(&mut self, route: &str, error_format: ErrorFormat) {
        self.by_route.insert(route.to_owned(), error_format);
        // What is mounted under a dialect's own name speaks for all that lies there.
        if first_segment(route) == error_format.name {
            self.by_prefix
                .insert(error_format.name.to_owned(), error_format);
        }
    }

    pub fn find(&self, route: &str, path: &str) -> ErrorFormat {
        self.by_route
            .get(route)
            .or_else(|| self.by_prefix.get(first_segment(path)))
            .copied()
            .unwrap_or_else(ErrorFormat::of::<native::One>)
    }
}

fn first_segment(path: &str) -> &str {
    path.trim_start_matches('/')
        .split('/')
        .next()
        .unwrap_or_default()
}
