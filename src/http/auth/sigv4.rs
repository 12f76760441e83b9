//! AWS Signature Version 4, verified: how AWS's own clients prove a key without sending it. Our API key is the secret access key; the
//! access key id, the region and the service may be anything.
//!
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>

use std::fmt::{self, Write};

use chrono::NaiveDateTime;
use hmac::{Hmac, Mac};
use http::{HeaderMap, Method, Uri, header};
use sha2::{Digest, Sha256};

pub const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// How far the signer's clock may be from ours, in seconds; AWS's own tolerance.
const CLOCK_TOLERANCE: i64 = 15 * 60;
/// All of this is looked at before anybody has proven a key, so it is bounded well above what AWS's clients send: bytes of the
/// `Authorization` header, names in it, bytes of path and query together, and parameters of the query.
const MAX_AUTHORIZATION_BYTES: usize = 4096;
const MAX_SIGNED_HEADERS: usize = 100;
const MAX_TARGET_BYTES: usize = 2048;
const MAX_PARAMETERS: usize = 32;
/// What a client says its body's digest is.
const CONTENT_HASH: &str = "x-amz-content-sha256";

/// A request as it was signed: before any prefix was taken off its path.
pub struct SignedRequest<'a> {
    pub method: &'a Method,
    pub uri: &'a Uri,
    pub headers: &'a HeaderMap,
}

/// What the headers of a signed request say, as far as it holds without the body.
pub struct Claim<'a> {
    request: SignedRequest<'a>,
    authorization: Authorization<'a>,
    time: &'a str,
    /// In hexadecimal, where it is sent.
    content_hash: Option<&'a str>,
}

/// What the `Authorization` header says.
struct Authorization<'a> {
    date: &'a str,
    region: &'a str,
    service: &'a str,
    signed_headers: SignedHeaders<'a>,
    signature: [u8; 32],
}

/// Names of headers, joined by semicolons: in lower case, sorted, each once, as AWS wants them.
#[derive(Clone, Copy)]
struct SignedHeaders<'a>(&'a str);

impl<'a> Claim<'a> {
    /// Nothing where the request is not signed, or not as it should be, or by a clock that is far from `now` (seconds since 1970).
    pub fn of(request: SignedRequest<'a>, now: i64) -> Option<Self> {
        let headers = request.headers;
        let target = request
            .uri
            .path_and_query()
            .map_or(0, |it| it.as_str().len());
        let query = request.uri.query().unwrap_or_default();
        if target > MAX_TARGET_BYTES || query.split('&').count() > MAX_PARAMETERS {
            return None;
        }
        let authorization = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        if authorization.len() > MAX_AUTHORIZATION_BYTES {
            return None;
        }
        let authorization = Authorization::parse(authorization)?;
        let time = headers.get("x-amz-date")?.to_str().ok()?;
        let signed_at = NaiveDateTime::parse_from_str(time, "%Y%m%dT%H%M%SZ").ok()?;
        let skew = now.checked_sub(signed_at.and_utc().timestamp())?;
        if skew.abs() > CLOCK_TOLERANCE || !time.starts_with(authorization.date) {
            return None;
        }
        // A signature that does not cover these would hold for another host or another day.
        let covers = |name| authorization.signed_headers.has(name);
        if !covers("x-amz-date") || !(covers("host") || covers(":authority")) {
            return None;
        }
        let content_hash = match headers.get(CONTENT_HASH) {
            // Other words stand for bodies that are signed piece by piece, or not at all.
            Some(value) => Some(
                value
                    .to_str()
                    .ok()
                    .filter(|hash| super::unhex::<32>(hash).is_some())?,
            ),
            None => None,
        };
        Some(Self {
            request,
            authorization,
            time,
            content_hash,
        })
    }

    /// The body's digest, where the client has signed it: then the signature can be judged before there is a body.
    pub fn signed_hash(&self) -> Option<&'a str> {
        let signed = self.authorization.signed_headers.has(CONTENT_HASH);
        self.content_hash.filter(|_| signed)
    }

    /// The signature over a body of this digest, in hexadecimal. Nothing where the client says that its body has another.
    pub fn signature(&self, body_hash: &str) -> Option<Signature> {
        if self.content_hash.is_some_and(|said| said != body_hash) {
            return None;
        }
        let Authorization {
            date,
            region,
            service,
            signed_headers,
            signature,
        } = &self.authorization;
        let hash = canonical_hash(&self.request, *signed_headers, body_hash)?;
        let time = self.time;
        Some(Signature {
            string_to_sign: format!(
                "{ALGORITHM}\n{time}\n{date}/{region}/{service}/aws4_request\n{hash}"
            ),
            scope: [date, region, service].map(|part| (*part).to_owned()),
            signature: *signature,
        })
    }
}

/// The signature with what it was made of, but for the key.
pub struct Signature {
    string_to_sign: String,
    scope: [String; 3],
    signature: [u8; 32],
}

impl Signature {
    /// Whether it was made with this key. Takes as long whatever differs.
    pub fn is_by(&self, key: &str) -> bool {
        let first = format!("AWS4{key}").into_bytes();
        let scope = self.scope.iter().map(String::as_str);
        let key = scope.chain(["aws4_request"]).fold(first, |key, part| {
            mac(&key, part).finalize().into_bytes().to_vec()
        });
        mac(&key, &self.string_to_sign)
            .verify_slice(&self.signature)
            .is_ok()
    }
}

impl<'a> Authorization<'a> {
    fn parse(header: &'a str) -> Option<Self> {
        let parameters = header.strip_prefix(ALGORITHM)?;
        let value = |name: &str| {
            let mut parts = parameters.split(',').map(str::trim);
            parts.find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
        };
        let mut scope = value("Credential")?.rsplit('/');
        let (end, service, region, date) =
            (scope.next()?, scope.next()?, scope.next()?, scope.next()?);
        (end == "aws4_request").then_some(())?;
        Some(Self {
            date,
            region,
            service,
            signed_headers: SignedHeaders::parse(value("SignedHeaders")?)?,
            signature: super::unhex(value("Signature")?)?,
        })
    }
}

impl<'a> SignedHeaders<'a> {
    fn parse(names: &'a str) -> Option<Self> {
        let mut last = "";
        for (index, name) in names.split(';').enumerate() {
            let upper = name.bytes().any(|byte| byte.is_ascii_uppercase());
            if index >= MAX_SIGNED_HEADERS || upper || name <= last {
                return None;
            }
            last = name;
        }
        Some(Self(names))
    }

    fn names(self) -> impl Iterator<Item = &'a str> {
        self.0.split(';')
    }

    fn has(self, name: &str) -> bool {
        self.names().any(|known| known == name)
    }
}

fn mac(key: &[u8], text: &str) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(text.as_bytes());
    mac
}

/// Text that is hashed as it is written, and kept nowhere.
struct Hashed(Sha256);

impl Write for Hashed {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.update(text.as_bytes());
        Ok(())
    }
}

/// The hash of the request in its canonical form, which names every header once and so is no longer than the request's head.
fn canonical_hash(
    request: &SignedRequest,
    signed_headers: SignedHeaders,
    body_hash: &str,
) -> Option<String> {
    let SignedRequest {
        method,
        uri,
        headers,
    } = request;
    let mut canonical = Hashed(Sha256::new());
    write!(
        canonical,
        "{method}\n{}\n{}\n",
        encode(uri.path(), true),
        canonical_query(uri.query().unwrap_or_default())
    )
    .ok()?;
    for name in signed_headers.names() {
        write!(canonical, "{name}:").ok()?;
        match (name, uri.authority()) {
            // HTTP/2 has it in its pseudo header, which some clients sign by that name.
            ("host" | ":authority", Some(authority)) => canonical.write_str(authority.as_str()),
            ("host" | ":authority", None) => {
                canonical.write_str(headers.get(header::HOST)?.to_str().ok()?)
            }
            (name, _) => {
                headers.get(name)?;
                for (index, value) in headers.get_all(name).iter().enumerate() {
                    let separator = if index > 0 { "," } else { "" };
                    canonical.write_str(separator).ok()?;
                    let words = value.to_str().ok()?.split_whitespace();
                    for (place, word) in words.enumerate() {
                        let separator = if place > 0 { " " } else { "" };
                        write!(canonical, "{separator}{word}").ok()?;
                    }
                }
                Ok(())
            }
        }
        .ok()?;
        canonical.write_str("\n").ok()?;
    }
    write!(canonical, "\n{}\n{body_hash}", signed_headers.0).ok()?;
    Some(hex(&canonical.0.finalize()))
}

/// Names and values encoded anew, in their order.
fn canonical_query(query: &str) -> String {
    let mut pairs: Vec<(String, String)> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (encode_once(name), encode_once(value))
        })
        .collect();
    pairs.sort();
    let joined: Vec<String> = pairs.iter().map(|(n, v)| format!("{n}={v}")).collect();
    joined.join("&")
}

/// Escapes what is not escaped already.
fn encode_once(text: &str) -> String {
    let mut parts = text.split('%');
    let first = encode(parts.next().unwrap_or_default(), false);
    parts.fold(first, |encoded, part| {
        let escape = part
            .get(..2)
            .is_some_and(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let sign = if escape { "%" } else { "%25" };
        encoded + sign + &encode(part, false)
    })
}

/// `%` escapes for all bytes but unreserved ones, and slashes where they are kept. On a path that came escaped this is the second
/// time, which is what every service but S3 asks for.
fn encode(text: &str, keep_slashes: bool) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        let plain = byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
        if plain || (keep_slashes && byte == b'/') {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;

    /// What boto3, the AI SDK and AWS's SDK for JavaScript sent for one key.
    #[derive(serde::Deserialize)]
    struct Recorded {
        method: String,
        path: String,
        headers: Vec<(String, String)>,
        body: String,
        key: String,
    }

    struct Sent {
        method: Method,
        uri: Uri,
        headers: HeaderMap,
        body: String,
        key: String,
    }

    fn recorded() -> Vec<Sent> {
        let recorded: Vec<Recorded> =
            serde_json::from_str(include_str!("recorded.json")).expect("recorded requests");
        recorded
            .into_iter()
            .map(|recorded| {
                let mut uri = recorded.path;
                let mut headers = HeaderMap::new();
                for (name, value) in recorded.headers {
                    match name.as_str() {
                        ":authority" => uri = format!("http://{value}{uri}"),
                        name if name.starts_with(':') => {}
                        name => {
                            let name: HeaderName = name.parse().expect("a name");
                            headers.append(name, value.parse().expect("a value"));
                        }
                    }
                }
                Sent {
                    method: recorded.method.parse().expect("a method"),
                    uri: uri.parse().expect("an address"),
                    headers,
                    body: recorded.body,
                    key: recorded.key,
                }
            })
            .collect()
    }

    fn verify(sent: &Sent, key: &str, now: i64) -> bool {
        let claim = Claim::of(
            SignedRequest {
                method: &sent.method,
                uri: &sent.uri,
                headers: &sent.headers,
            },
            now,
        );
        let hash = hex(&Sha256::digest(&sent.body));
        let signature = claim.and_then(|claim| claim.signature(&hash));
        signature.is_some_and(|signature| signature.is_by(key))
    }

    fn signed_at(sent: &Sent) -> i64 {
        let time = sent.headers["x-amz-date"].to_str().expect("text");
        let time = NaiveDateTime::parse_from_str(time, "%Y%m%dT%H%M%SZ").expect("a time");
        time.and_utc().timestamp()
    }

    #[test]
    fn what_real_clients_sign_is_verified_and_nothing_may_be_changed() {
        let all = recorded();
        assert_eq!(all.len(), 3);
        for mut sent in all {
            let (now, key) = (signed_at(&sent), sent.key.clone());
            assert!(verify(&sent, &key, now + 60), "{}", sent.uri);
            assert!(!verify(&sent, "another", now), "another key");
            assert!(!verify(&sent, "", now), "no key");
            assert!(!verify(&sent, &key, now + 1000), "too old");
            assert!(!verify(&sent, &key, now - 1000), "of the future");
            sent.method = Method::GET;
            assert!(!verify(&sent, &key, now), "another method");
            sent.method = Method::POST;
            let uri =
                std::mem::replace(&mut sent.uri, "http://h/v1/rerank".parse().expect("a URI"));
            assert!(!verify(&sent, &key, now), "another path");
            sent.uri = uri;
            sent.body.push(' ');
            assert!(!verify(&sent, &key, now), "another body");
            sent.body.pop();
            assert!(verify(&sent, &key, now), "as it was");
        }
    }

    #[test]
    fn malformed_signatures_are_none() {
        let signed = |headers: &str| {
            let signature = "0".repeat(64);
            format!(
                "AWS4-HMAC-SHA256 Credential=a/20261123/r/s/aws4_request, SignedHeaders={headers}, Signature={signature}"
            )
        };
        let claimed = |authorization: &str, target: &str| {
            let mut sent = recorded().remove(0);
            let now = signed_at(&sent);
            let value = authorization.parse().expect("a value");
            sent.headers.insert(header::AUTHORIZATION, value);
            let uri = target.parse().expect("an address");
            let request = SignedRequest {
                method: &sent.method,
                uri: &uri,
                headers: &sent.headers,
            };
            Claim::of(request, now).is_some()
        };
        let headers = "content-type;host;x-amz-date";
        assert!(claimed(&signed(headers), "/rerank?a=b"), "as it should be");
        let many: Vec<String> = (0..MAX_SIGNED_HEADERS)
            .map(|n| format!("a{n:03}"))
            .collect();
        for wrong in [
            "AWS4-HMAC-SHA256",
            "AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=host, Signature=00",
            "AWS4-HMAC-SHA256 Credential=////, SignedHeaders=, Signature=",
            "Bearer x",
            // What is signed must be named in AWS's way: sorted, in lower case, each once.
            &signed(""),
            &signed("host"),
            &signed("x-amz-date"),
            &signed("x-amz-date;host"),
            &signed("Content-Type;host;x-amz-date"),
            &signed("host;host;x-amz-date"),
            &signed("host;x-amz-date;x-amz-date"),
            &signed(";host;x-amz-date"),
            &signed("host;x-amz-date;"),
            &signed(&format!("{};host;x-amz-date", "a;".repeat(1000))),
            &signed(&format!("{};host;x-amz-date", many.join(";"))),
            &signed(&format!(
                "{};host;x-amz-date",
                "a".repeat(MAX_AUTHORIZATION_BYTES)
            )),
        ] {
            assert!(!claimed(wrong, "/rerank"), "{wrong}");
        }
        for target in [
            format!("/{}", "a".repeat(MAX_TARGET_BYTES)),
            format!("/rerank?{}", "a&".repeat(MAX_PARAMETERS)),
        ] {
            assert!(!claimed(&signed(headers), &target), "{target}");
        }
    }

    #[test]
    fn a_digest_that_is_signed_is_known_before_the_body() {
        for sent in recorded() {
            let request = SignedRequest {
                method: &sent.method,
                uri: &sent.uri,
                headers: &sent.headers,
            };
            let claim = Claim::of(request, signed_at(&sent)).expect("signed");
            let hash = hex(&Sha256::digest(&sent.body));
            // The SDK for JavaScript sends it, boto3 does not.
            let sends = sent.headers.contains_key(CONTENT_HASH);
            assert_eq!(claim.signed_hash(), sends.then_some(hash.as_str()));
            let other = hex(&Sha256::digest("another body"));
            assert_eq!(claim.signature(&other).is_none(), sends);
        }
    }

    #[test]
    fn a_digest_that_is_none_is_refused() {
        for value in [
            "UNSIGNED-PAYLOAD",
            "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
            "",
            "00",
        ] {
            let mut sent = recorded().remove(2);
            let now = signed_at(&sent);
            let value = value.parse().expect("a value");
            sent.headers.insert(CONTENT_HASH, value);
            let key = sent.key.clone();
            assert!(!verify(&sent, &key, now));
        }
    }

    #[test]
    fn queries_are_sorted_and_escaped_once() {
        assert_eq!(canonical_query("b=2&a=%2F/&a=&c"), "a=&a=%2F%2F&b=2&c=");
        assert_eq!(encode("/a b%20/ä", true), "/a%20b%2520/%C3%A4");
    }
}
