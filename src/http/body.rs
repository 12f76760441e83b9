//! Request bodies: bounded in size and time, JSON, and errors that name the field instead of quoting the text.

use std::time::Instant;

use axum::extract::Request;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use super::Deadline;
use super::error::Refusal;
use crate::dialect::Object;
use crate::error::Invalid;

/// The body of a request that is declared to be JSON.
pub async fn bytes(request: Request, limit: usize) -> Result<Bytes, Refusal> {
    check_media_type(&request)?;
    let deadline = request.extensions().get::<Deadline>().copied();
    read(request, limit, deadline.map(|Deadline(at)| at)).await
}

/// JSON by any of its names; a request that names no type is taken at its word too.
fn check_media_type(request: &Request) -> Result<(), Refusal> {
    let Some(declared) = request.headers().get(CONTENT_TYPE) else {
        return Ok(());
    };
    let declared = String::from_utf8_lossy(declared.as_bytes());
    let essence = declared
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let is_json = essence == "application/json"
        || essence == "text/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"));
    if is_json {
        Ok(())
    } else {
        // Long enough for any real type; a header may hold kilobytes.
        Err(Refusal::MediaType(essence.chars().take(80).collect()))
    }
}

pub async fn read(
    request: Request,
    limit: usize,
    deadline: Option<Instant>,
) -> Result<Bytes, Refusal> {
    let announced = request
        .headers()
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if let Some(got) = announced
        && got > limit as u64
    {
        return Err(Refusal::BodyTooLarge {
            got: Some(got),
            limit,
        });
    }
    let collect = Limited::new(request.into_body(), limit).collect();
    let collected = match deadline {
        Some(at) => tokio::time::timeout_at(at.into(), collect)
            .await
            .map_err(|_| Refusal::BodyTooSlow)?,
        None => collect.await,
    };
    match collected {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(Refusal::BodyTooLarge { got: None, limit })
        }
        Err(_) => Err(Refusal::BodyUnreadable),
    }
}

/// A JSON object; the error names the field at fault.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Invalid> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize::<_, Object<T>>(&mut json).map_err(|error| {
        let path = error.path().to_string();
        explain(&path, &error.into_inner())
    })?;
    json.end().map_err(|error| explain(".", &error))?;
    Ok(parsed.0)
}

/// Says what is wrong without repeating what the caller sent.
fn explain(path: &str, error: &serde_json::Error) -> Invalid {
    use serde_json::error::Category;
    let text = error.to_string();
    match error.classify() {
        Category::Data
            if text.starts_with("invalid type: ") || text.starts_with("invalid value: ") =>
        {
            let found = text
                .split_once(": ")
                .map_or("", |(_, rest)| rest)
                .split([' ', ',', '`', '"'])
                .next()
                .unwrap_or_default();
            let expected = text
                .rsplit_once(", expected ")
                .map_or("", |(_, rest)| rest)
                .split(" at line ")
                .next()
                .unwrap_or_default();
            let field = if path == "." { "body" } else { path };
            Invalid::new(
                "wrong_type",
                format!(
                    "{field} is {}, expected {}",
                    in_json(found),
                    in_json(expected)
                ),
            )
            .field(field)
        }
        Category::Data if text.starts_with("unknown variant ") => {
            let expected = text.rsplit_once(", expected ").map_or("", |(_, rest)| rest);
            let expected = expected.split(" at line ").next().unwrap_or_default();
            let message = format!("{path} is none of its values, expected {expected}");
            Invalid::new("wrong_type", message).field(path)
        }
        Category::Data if text.starts_with("duplicate field ") => {
            let name = text.split('`').nth(1).unwrap_or_default();
            Invalid::new("malformed_json", format!("{name} is given twice")).field(name)
        }
        _ => Invalid::new(
            "malformed_json",
            format!(
                "the body is not valid JSON: {} at line {} column {}",
                match error.classify() {
                    Category::Eof => "it ends early",
                    _ => "unexpected character, escape or depth",
                },
                error.line(),
                error.column()
            ),
        ),
    }
}

/// serde's words for types in JSON's.
fn in_json(serde: &str) -> &str {
    match serde {
        "map" => "an object",
        "sequence" | "a sequence" => "an array",
        "null" | "unit" => "null",
        "string" => "a string",
        "boolean" => "a boolean",
        "integer" => "an integer that does not fit",
        "floating" => "a number with a fraction",
        "usize" => "a whole number, 0 or more",
        "i64" => "a whole number",
        "f64" => "a number",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    fn request(headers: &[(http::HeaderName, &str)], body: impl Into<Body>) -> Request {
        let mut request = Request::new(body.into());
        for (name, value) in headers {
            request
                .headers_mut()
                .insert(name, value.parse().expect("a header value"));
        }
        request
    }

    use crate::dialect::native::BatchBody;

    fn error(json: &str) -> Invalid {
        parse::<BatchBody>(json.as_bytes())
            .map(|_| ())
            .expect_err("refused")
    }

    #[test]
    fn a_wrong_type_is_named_by_its_path_and_never_quoted() {
        let cases = [
            (
                r#"{"pairs":[{"query":"q","passage":7}]}"#,
                "pairs[0].passage",
                "expected a string",
            ),
            (
                r#"{"pairs":[{"query":["secret"],"passage":""}]}"#,
                "pairs[0].query",
                "is an array",
            ),
            (
                r#"{"pairs":"secret"}"#,
                "pairs",
                "is a string, expected an array",
            ),
            (r#"{"pairs":["secret"]}"#, "pairs[0]", "expected an object"),
            (
                r#"{"pairs":[["secret","too"]]}"#,
                "pairs[0]",
                "is an array, expected an object",
            ),
            (
                r#"{"pairs":[],"normalize":"secret"}"#,
                "normalize",
                "expected a boolean",
            ),
            (
                r#"{"pairs":[],"max_length":-1}"#,
                "max_length",
                "expected a whole number",
            ),
            (
                r#"{"pairs":[],"max_length":1.5}"#,
                "max_length",
                "a number with a fraction",
            ),
            (r#"["secret"]"#, "body", "is an array, expected an object"),
            ("null", "body", "is null, expected an object"),
        ];
        for (json, field, says) in cases {
            let error = error(json);
            assert_eq!(
                (error.code, error.field.as_deref()),
                ("wrong_type", Some(field)),
                "{json}"
            );
            assert!(error.message.contains(says), "{json}: {}", error.message);
            assert!(
                !error.message.contains("secret"),
                "{json}: {}",
                error.message
            );
        }
    }

    #[test]
    fn what_is_not_json_says_where_it_breaks() {
        for json in [
            "",
            "{",
            r#"{"pairs":[]}}"#,
            "{'pairs':[]}",
            r#"{"pairs":[{"query":"\ud800"}]}"#,
            "\u{feff}{}",
        ] {
            assert_eq!(error(json).code, "malformed_json", "{json}");
        }
        // A field that nobody reads is skipped without recursion, however deep; one that is read has the wrong type at once.
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(parse::<BatchBody>(format!(r#"{{"x":{deep}}}"#).as_bytes()).is_ok());
        assert_eq!(
            error(&format!(r#"{{"pairs":[{deep}]}}"#)).code,
            "wrong_type"
        );
        assert_eq!(
            error(r#"{"pairs":[],"pairs":[]}"#).message,
            "pairs is given twice"
        );
        let invalid_utf8 = parse::<BatchBody>(b"{\"pairs\":[{\"query\":\"\xff\"}]}");
        assert_eq!(
            invalid_utf8.map(|_| ()).expect_err("refused").code,
            "malformed_json"
        );
    }

    #[test]
    fn json_goes_by_several_names() {
        for name in [
            "application/json",
            "Application/JSON; charset=utf-8",
            "application/problem+json",
        ] {
            assert!(
                check_media_type(&request(&[(CONTENT_TYPE, name)], "")).is_ok(),
                "{name}"
            );
        }
        assert!(check_media_type(&request(&[], "")).is_ok());
        for name in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "json",
            "multipart/form-data; boundary=x",
        ] {
            assert!(
                check_media_type(&request(&[(CONTENT_TYPE, name)], "")).is_err(),
                "{name}"
            );
        }
    }

    #[tokio::test]
    async fn a_body_is_refused_by_its_announced_or_its_true_length() {
        let announced = request(&[(CONTENT_LENGTH, "2000")], "x");
        assert!(matches!(
            read(announced, 1000, None).await,
            Err(Refusal::BodyTooLarge {
                got: Some(2000),
                limit: 1000
            })
        ));
        assert!(matches!(
            read(request(&[], vec![b' '; 1001]), 1000, None).await,
            Err(Refusal::BodyTooLarge { got: None, .. })
        ));
        assert_eq!(
            read(request(&[], vec![b' '; 1000]), 1000, None)
                .await
                .expect("fits")
                .len(),
            1000
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_meets_the_deadline() {
        let endless = Body::new(http_body_util::StreamBody::new(tokio_stream::pending::<
            Result<http_body::Frame<Bytes>, std::io::Error>,
        >()));
        let deadline = Some(Instant::now() + std::time::Duration::from_secs(5));
        assert!(matches!(
            read(request(&[], endless), 1000, deadline).await,
            Err(Refusal::BodyTooSlow)
        ));
    }
}
