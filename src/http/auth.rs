//! API keys: who may call.
//!
//! Keys are compared as SHA-256 hashes, all of them and in constant time, so that neither a key nor which of several it was can be
//! learned from the time that a refusal takes. AWS's clients send no key but a signature made with it (`sigv4`). Every route needs one
//! but those that a probe or a browser must reach without.

mod keyring;
mod keys;
mod limits;
mod sigv4;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use sha2::{Digest, Sha256};

use super::body::ReadBody;
use super::budget::{Reservation, Use};
use super::error::Rejection;
use super::error_format::ErrorFormat;
use super::observe::{Work, callers_timeout, unix_seconds};
use super::path::SentUri;
use super::{App, Deadline, body};
use keys::{KeyName, unhex};
use reranker_dialects::bedrock::Bedrock;
use sigv4::{Claim, SignedRequest};

pub use keyring::{BadKeyFile, Keyring};
pub use keys::{BadKey, Keys};
pub use limits::KeyLimits;

/// Routes that need no key: probes, and the pages, which hold no secret and send the key that is typed into them.
const OPEN: [&str; 8] = [
    "/",
    "/health",
    "/live",
    "/ready",
    "/ping",
    "/docs",
    "/docs/{file}",
    "/openapi.json",
];

/// Whether a route, by its pattern, needs no key.
pub fn is_open(route: &str) -> bool {
    OPEN.contains(&route)
}

/// For a body that has to be read before its signature can be judged.
const UNPROVEN_TIME: Duration = Duration::from_secs(10);

/// Where clients put a key besides `Authorization`.
static HEADERS: [HeaderName; 3] = [
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
    HeaderName::from_static("ocp-apim-subscription-key"),
];

/// Whose key a request brought, where it has a name. Known to `observe` also where the request is never answered.
#[derive(Clone, Default)]
pub struct Caller(Arc<OnceLock<KeyName>>);

impl Caller {
    pub fn name(&self) -> Option<&KeyName> {
        self.0.get()
    }
}

/// Lets a request through where its route is open or it brings a key.
pub async fn guard(State(app): State<App>, request: Request, next: Next) -> Response {
    let keyring = &app.settings.keys;
    let keys = keyring.current(&app.settings.telemetry.metrics).await;
    // The pattern that matched, not the path: no way of writing a path can make another route look open.
    let route = request.extensions().get::<MatchedPath>();
    let open = route.is_some_and(|route| is_open(route.as_str()));
    if keys.is_empty() || open {
        return let_in(request, next).await;
    }
    let key = candidates(request.headers()).find_map(|key| keys.find(key));
    if let Some(key) = key {
        return let_in_as(key.name.as_ref(), keyring, request, next).await;
    }
    if is_signed(request.headers()) {
        let mut response = match signed(&app, &keys, request).await {
            Ok((request, name)) => return let_in_as(name.as_ref(), keyring, request, next).await,
            Err(refusal) => refusal.into_response(),
        };
        // Nobody else signs, so the path need not tell.
        response
            .extensions_mut()
            .insert(ErrorFormat::of::<Bedrock>());
        return response;
    }
    let given = candidates(request.headers()).next().is_some();
    Rejection::Unauthorized { given }.into_response()
}

/// Lets a key's request in, as far as the limits of its name allow. What is asked with GET costs nothing, and is not counted.
async fn let_in_as(
    name: Option<&KeyName>,
    keyring: &Keyring,
    request: Request,
    next: Next,
) -> Response {
    let Some(name) = name else {
        return let_in(request, next).await;
    };
    if let Some(Caller(caller)) = request.extensions().get() {
        // Set nowhere else.
        let _ = caller.set(name.clone());
    }
    if request.method() != Method::POST {
        return let_in(request, next).await;
    }
    let meter = keyring.meter();
    if let Err(refusal) = meter.admit(name, SystemTime::now()) {
        return refusal.into_response();
    }
    let response = let_in(request, next).await;
    if let Some(work) = response.extensions().get::<Work>() {
        meter.scored(name, work.tokens, SystemTime::now());
    }
    response
}

async fn let_in(request: Request, next: Next) -> Response {
    match callers_timeout(&request) {
        Ok(_) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// Seconds since 1970.
fn now() -> i64 {
    i64::try_from(unix_seconds()).unwrap_or(i64::MAX)
}

fn is_signed(headers: &HeaderMap) -> bool {
    let authorization = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
    authorization.is_some_and(|value| value.starts_with(sigv4::ALGORITHM.as_bytes()))
}

/// The request, where it is signed with a key, and the key's name. The signature covers the body, of which a client may have signed
/// a digest: then the body is read only once the signature holds. One that has to be read for it gets a small budget and little time.
async fn signed(
    app: &App,
    keys: &Keys,
    request: Request,
) -> Result<(Request, Option<KeyName>), Rejection> {
    let wrong = Rejection::Unauthorized { given: true };
    let limit = app.settings.body_bytes;
    let (mut head, body) = request.into_parts();
    let deadline = head.extensions.get::<Deadline>().map(|deadline| deadline.0);
    let sent = head.extensions.get::<SentUri>().map(|sent| &sent.0);
    let claim = SignedRequest {
        method: &head.method,
        uri: sent.unwrap_or(&head.uri),
        headers: &head.headers,
    };
    // Nothing is read for those who cannot be let in whatever it is.
    let Some(claim) = Claim::of(claim, now()).filter(|_| keys.can_sign()) else {
        return Err(wrong);
    };
    let announced = claim
        .signed_hash()
        .map(|hash| (hash, keys.signer(&claim, hash)));
    let (what, deadline) = match announced {
        Some((_, Some(_))) => (Use::Body, deadline),
        Some((_, None)) => return Err(wrong),
        None => {
            let soon = Instant::now() + UNPROVEN_TIME;
            let deadline = deadline.map_or(soon, |deadline| deadline.min(soon));
            (Use::Unproven, Some(deadline))
        }
    };
    let mut hash = Sha256::new();
    let mut request = Request::new(body);
    *request.headers_mut() = head.headers.clone();
    let taken = Reservation::none(&app.budget, what);
    let (bytes, mut taken) = body::read_into(
        taken,
        request,
        limit,
        &app.budget,
        deadline,
        Some(&mut hash),
    )
    .await?;
    let hash = sigv4::hex(&hash.finalize());
    let signer = match announced {
        Some((said, signer)) => signer.filter(|_| said == hash),
        None => keys.signer(&claim, &hash),
    };
    let Some(signer) = signer else {
        return Err(wrong);
    };
    taken.prove();
    head.extensions.insert(ReadBody::new(bytes, taken));
    Ok((
        Request::from_parts(head, Body::empty()),
        signer.name.clone(),
    ))
}

/// Everything in the headers that may be a key: `Bearer` and alike, a bare value, and the headers of several vendors.
fn candidates(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let authorization = headers.get_all(AUTHORIZATION).iter().map(|value| {
        let value = value.as_bytes();
        let scheme = value
            .get(..7)
            .filter(|s| s.eq_ignore_ascii_case(b"bearer "));
        scheme.map_or(value, |scheme| &value[scheme.len()..])
    });
    let vendors = HEADERS
        .iter()
        .flat_map(|name| headers.get_all(name))
        .map(HeaderValue::as_bytes);
    authorization
        .chain(vendors)
        .map(<[u8]>::trim_ascii)
        .filter(|key| !key.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_style_of_header_is_read() {
        let keys = Keys::parse(&["k"]).expect("a key");
        for (name, value) in [
            ("authorization", "Bearer k"),
            ("authorization", "bearer  k"),
            ("authorization", "k"),
            ("x-api-key", "k"),
            ("api-key", "k "),
            ("ocp-apim-subscription-key", "k"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            let found: Vec<&[u8]> = candidates(&headers).collect();
            assert!(
                found.into_iter().any(|key| keys.find(key).is_some()),
                "{name}: {value}"
            );
        }
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer "));
        assert_eq!(candidates(&headers).count(), 0);
    }
}
