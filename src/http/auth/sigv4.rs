//! AWS Signature Version 4, verified: how AWS's own clients prove a key without sending it. Our API key is the secret access key; the
//! access key id, the region and the service may be anything.
//!
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>

use std::fmt::Write;

use chrono::NaiveDateTime;
use hmac::{Hmac, Mac};
use http::{HeaderMap, Method, Uri, header};
use sha2::{Digest, Sha256};

pub const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// How far the signer's clock may be from ours, in seconds; AWS's own tolerance.
const CLOCK_TOLERANCE: i64 = 15 * 60;

/// A request as it was signed: before any prefix was taken off its path.
pub struct SignedRequest<'a> {
    pub method: &'a Method,
    pub uri: &'a Uri,
    pub headers: &'a HeaderMap,
    pub body: &'a [u8],
}

/// What the `Authorization` header says.
struct Authorization<'a> {
    date: &'a str,
    region: &'a str,
    service: &'a str,
    signed_headers: Vec<&'a str>,
    signature: Vec<u8>,
}

/// The signature with what it was made of, but for the key.
pub struct Signature {
    string_to_sign: String,
    scope: [String; 3],
    signature: Vec<u8>,
}

impl Signature {
    /// Nothing where the request is not signed, or not as it should be, or by a clock that is far from `now` (seconds since 1970).
    pub fn of(request: &SignedRequest, now: i64) -> Option<Self> {
        let (authorization, time) = Authorization::of(request.headers, now)?;
        let canonical = canonical_request(request, &authorization.signed_headers)?;
        let Authorization {
            date,
            region,
            service,
            ..
        } = authorization;
        let hash = hex(&Sha256::digest(canonical));
        Some(Self {
            string_to_sign: format!(
                "{ALGORITHM}\n{time}\n{date}/{region}/{service}/aws4_request\n{hash}"
            ),
            scope: [date, region, service].map(str::to_owned),
            signature: authorization.signature,
        })
    }

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

/// Whether the headers could be those of a signed request, as far as they tell without its body.
pub fn is_plausible(headers: &HeaderMap, now: i64) -> bool {
    Authorization::of(headers, now).is_some()
}

impl<'a> Authorization<'a> {
    /// With the time of signing, as it is written.
    fn of(headers: &'a HeaderMap, now: i64) -> Option<(Self, &'a str)> {
        let authorization = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        let authorization = Self::parse(authorization)?;
        let time = headers.get("x-amz-date")?.to_str().ok()?;
        let signed_at = NaiveDateTime::parse_from_str(time, "%Y%m%dT%H%M%SZ").ok()?;
        let skew = now.checked_sub(signed_at.and_utc().timestamp())?;
        if skew.abs() > CLOCK_TOLERANCE || !time.starts_with(authorization.date) {
            return None;
        }
        // A signature that does not cover these would hold for another host or another day.
        let covers = |name: &str| authorization.signed_headers.contains(&name);
        let covered = covers("x-amz-date") && (covers("host") || covers(":authority"));
        covered.then_some((authorization, time))
    }

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
            signed_headers: value("SignedHeaders")?.split(';').collect(),
            signature: super::unhex::<32>(value("Signature")?)?.to_vec(),
        })
    }
}

fn mac(key: &[u8], text: &str) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(text.as_bytes());
    mac
}

fn canonical_request(request: &SignedRequest, signed_headers: &[&str]) -> Option<String> {
    let SignedRequest {
        method,
        uri,
        headers,
        body,
    } = request;
    let hash = hex(&Sha256::digest(body));
    // What the client says of the body must be true of it.
    if let Some(said) = headers.get("x-amz-content-sha256")
        && said.as_bytes() != hash.as_bytes()
    {
        return None;
    }
    let mut canonical = format!(
        "{method}\n{}\n{}\n",
        encode(uri.path(), true),
        canonical_query(uri.query().unwrap_or_default())
    );
    for name in signed_headers {
        let value = match *name {
            // HTTP/2 has it in its pseudo header, which some clients sign by that name.
            "host" | ":authority" => match uri.authority() {
                Some(authority) => authority.as_str().to_owned(),
                None => headers.get(header::HOST)?.to_str().ok()?.to_owned(),
            },
            name => {
                let values = headers.get_all(name).iter();
                let values: Vec<String> = values
                    .map(|value| {
                        Some(
                            value
                                .to_str()
                                .ok()?
                                .split_whitespace()
                                .collect::<Vec<_>>()
                                .join(" "),
                        )
                    })
                    .collect::<Option<_>>()?;
                (!values.is_empty()).then_some(())?;
                values.join(",")
            }
        };
        writeln!(canonical, "{name}:{value}").ok()?;
    }
    Some(format!("{canonical}\n{}\n{hash}", signed_headers.join(";")))
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

fn hex(bytes: &[u8]) -> String {
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
        let signature = Signature::of(
            &SignedRequest {
                method: &sent.method,
                uri: &sent.uri,
                headers: &sent.headers,
                body: sent.body.as_bytes(),
            },
            now,
        );
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
        for authorization in [
            "AWS4-HMAC-SHA256",
            "AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=host, Signature=00",
            "AWS4-HMAC-SHA256 Credential=////, SignedHeaders=, Signature=",
            "Bearer x",
        ] {
            let mut sent = recorded().remove(0);
            let now = signed_at(&sent);
            let value = authorization.parse().expect("a value");
            sent.headers.insert(header::AUTHORIZATION, value);
            assert!(!verify(&sent, "secret", now), "{authorization}");
        }
    }

    #[test]
    fn queries_are_sorted_and_escaped_once() {
        assert_eq!(canonical_query("b=2&a=%2F/&a=&c"), "a=&a=%2F%2F&b=2&c=");
        assert_eq!(encode("/a b%20/ä", true), "/a%20b%2520/%C3%A4");
    }
}
