//! API keys: who may call.
//!
//! Keys are compared as SHA-256 hashes, all of them and in constant time, so that neither a key nor which of several it was can be
//! learned from the time that a refusal takes. AWS's clients send no key but a signature made with it (`sigv4`). Every route needs one
//! but those that a probe or a browser must reach without.

mod sigv4;

use std::fmt;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::body::Whole;
use super::error::Refusal;
use super::observe::{callers_timeout, unix_seconds};
use super::path::SentUri;
use super::room::{Taken, Use};
use super::voice::Voice;
use super::{App, Deadline, body};
use crate::dialect::bedrock::Bedrock;
use sigv4::{Claim, SignedRequest};

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

/// The keys that are let in; everyone is where there are none.
#[derive(Clone, Default, PartialEq)]
pub struct Keys {
    hashes: Vec<[u8; 32]>,
    /// Those that were given as they are: signatures cannot be verified with a hash.
    plain: Vec<String>,
}

/// A key that cannot be one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("key {place} begins with sha256: but is not followed by 64 hexadecimal digits")]
pub struct BadKey {
    /// Counted from 1; the key itself is not repeated.
    place: usize,
}

impl Keys {
    /// From keys as they are, or as `sha256:` and the hash in hexadecimal.
    pub fn parse(keys: &[String]) -> Result<Self, BadKey> {
        let mut parsed = Self::default();
        for (index, key) in keys.iter().enumerate() {
            parsed.hashes.push(match key.strip_prefix("sha256:") {
                Some(hex) => unhex(hex).ok_or(BadKey { place: index + 1 })?,
                None => {
                    parsed.plain.push(key.clone());
                    hash(key.as_bytes())
                }
            });
        }
        Ok(parsed)
    }

    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    fn has(&self, key: &[u8]) -> bool {
        let given = hash(key);
        let equal = self.hashes.iter().map(|known| known.ct_eq(&given));
        equal.fold(Choice::from(0), |any, this| any | this).into()
    }

    /// Whether one of them has signed this, with a body of this digest.
    fn signed(&self, claim: &Claim, body_hash: &str) -> bool {
        let signature = claim.signature(body_hash);
        signature.is_some_and(|signature| self.plain.iter().any(|key| signature.is_by(key)))
    }
}

/// Not even hashes are shown.
impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} keys", self.hashes.len())
    }
}

fn hash(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

fn unhex<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if hex.len() != 2 * N || !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(hex.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// Lets a request through where its route is open or it brings a key.
pub async fn guard(State(app): State<App>, request: Request, next: Next) -> Response {
    let keys = &app.settings.keys;
    // The pattern that matched, not the path: no way of writing a path can make another route look open.
    let route = request.extensions().get::<MatchedPath>();
    let open = route.is_some_and(|route| is_open(route.as_str()));
    if keys.is_empty() || open || candidates(request.headers()).any(|key| keys.has(key)) {
        return let_in(request, next).await;
    }
    if is_signed(request.headers()) {
        return match signed(&app, request).await {
            Ok(request) => let_in(request, next).await,
            Err(refusal) => {
                let mut response = refusal.into_response();
                // Nobody else signs, so the path need not tell.
                response.extensions_mut().insert(Voice::of::<Bedrock>());
                response
            }
        };
    }
    let given = candidates(request.headers()).next().is_some();
    Refusal::Unauthorized { given }.into_response()
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

/// The request, where it is signed with a key. The signature covers the body, of which a client may have signed a digest: then the
/// body is read only once the signature holds. One that has to be read for it gets little room and little time.
async fn signed(app: &App, request: Request) -> Result<Request, Refusal> {
    let wrong = Refusal::Unauthorized { given: true };
    let (keys, limit) = (&app.settings.keys, app.settings.body_bytes);
    let (mut head, body) = request.into_parts();
    let deadline = head.extensions.get::<Deadline>().map(|deadline| deadline.0);
    let sent = head.extensions.get::<SentUri>().map(|sent| &sent.0);
    let claim = SignedRequest {
        method: &head.method,
        uri: sent.unwrap_or(&head.uri),
        headers: &head.headers,
    };
    // Nothing is read for those who cannot be let in whatever it is.
    let Some(claim) = Claim::of(claim, now()).filter(|_| !keys.plain.is_empty()) else {
        return Err(wrong);
    };
    let (what, deadline) = match claim.signed_hash() {
        Some(hash) if keys.signed(&claim, hash) => (Use::Body, deadline),
        Some(_) => return Err(wrong),
        None => {
            let soon = Instant::now() + UNPROVEN_TIME;
            let deadline = deadline.map_or(soon, |deadline| deadline.min(soon));
            (Use::Unproven, Some(deadline))
        }
    };
    let mut hash = Sha256::new();
    let mut request = Request::new(body);
    *request.headers_mut() = head.headers.clone();
    let taken = Taken::none(&app.room, what);
    let (bytes, mut taken) =
        body::read_into(taken, request, limit, &app.room, deadline, Some(&mut hash)).await?;
    let hash = sigv4::hex(&hash.finalize());
    let holds = match claim.signed_hash() {
        Some(signed) => signed == hash,
        None => keys.signed(&claim, &hash),
    };
    if !holds {
        return Err(wrong);
    }
    taken.prove();
    head.extensions.insert(Whole::new(bytes, taken));
    Ok(Request::from_parts(head, Body::empty()))
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

    fn keys(keys: &[&str]) -> Result<Keys, BadKey> {
        Keys::parse(&keys.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_key_may_be_given_as_its_hash() {
        // printf secret | sha256sum
        let hashed = "sha256:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
        let keys = keys(&["first", hashed]).expect("keys");
        assert!(keys.has(b"secret") && keys.has(b"first"));
        assert!(!keys.has(b"Secret") && !keys.has(b"") && !keys.has(hashed.as_bytes()));
    }

    #[test]
    fn a_hash_that_is_none_is_named_by_its_place() {
        for wrong in [
            "sha256:abc",
            "sha256:",
            &format!("sha256:{}", "g".repeat(64)),
        ] {
            let error = keys(&["first", wrong]).expect_err("refused");
            assert_eq!(error, BadKey { place: 2 });
            assert!(!error.to_string().contains(&wrong[7..].to_owned()) || wrong.len() == 7);
        }
    }

    #[test]
    fn every_style_of_header_is_read() {
        let keys = keys(&["k"]).expect("a key");
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
                found.into_iter().any(|key| keys.has(key)),
                "{name}: {value}"
            );
        }
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer "));
        assert_eq!(candidates(&headers).count(), 0);
    }
}
