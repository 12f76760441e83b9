//! What an event asks for. Any bytes are read as something: a request, a sign of life, or an event
//! that nothing here can answer.
//!
//! lambda_http's own reading is not used: it takes an address apart that it made of the caller's
//! host header, and panics where that is none; it refuses whole events for a claim that is a
//! number; and it puts the stage in front of a path by the path's text.

use std::borrow::Cow;
use std::collections::BTreeSet;

use axum::body::Body;
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::host::lenient::{Fields, Json, readable};
use crate::http::{Rejection, SentUri};

/// Gateways and load balancers pass on about a hundred at most.
const MAX_HEADERS: usize = 1000;
/// The longest address that `http` takes, which is about what a socket's request may have.
const MAX_ADDRESS_BYTES: usize = 65_534;

/// What may stand in a path or a query as it is: all that is no control, no space, and begins no
/// other part of an address.
const ADDRESS: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');
const PATH: &AsciiSet = &ADDRESS.add(b'?');
/// Of a name or value in a query that comes decoded.
const PARAMETER: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// In which form an answer is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// REST APIs, and HTTP APIs with payload format 1.0.
    V1,
    /// HTTP APIs and Function URLs.
    V2,
    /// Application load balancers.
    Alb,
    /// Whoever invoked gets the body itself, and an error of the function where there is none.
    Direct,
    /// The body itself, whatever it says.
    Data,
}

/// What an event asks for.
#[derive(Debug)]
pub enum Wish {
    Request(Request<Body>),
    /// It cannot be made a request.
    Refused(Rejection),
    /// Nothing: a ping that keeps the function warm.
    Warm,
    /// An event of another service. Where it is a batch of which each record can be said to have
    /// failed, what names them.
    Foreign {
        kind: &'static str,
        records: Vec<String>,
    },
}

#[derive(Debug)]
pub struct Event {
    pub form: Form,
    pub wish: Wish,
    /// When a gateway that waits for no longer than thirty seconds took the request, in
    /// milliseconds since 1970.
    pub gateway_since: Option<u64>,
}

/// Fields of an event, besides those of the three tables below.
const TOP: &[&str] = &[
    "requestContext",
    "version",
    "httpMethod",
    "path",
    "rawPath",
    "rawQueryString",
    "headers",
    "multiValueHeaders",
    "queryStringParameters",
    "multiValueQueryStringParameters",
    "body",
    "isBase64Encoded",
    "resource",
    "routeKey",
    "pathParameters",
    "methodArn",
    "routeArn",
    "raw_path",
    "Records",
    "source",
];

const CONTEXT: &[&str] = &[
    "elb",
    "http",
    "stage",
    "path",
    "httpMethod",
    "domainName",
    "timeEpoch",
    "requestTimeEpoch",
    "connectionId",
    "serviceNetworkArn",
];

/// Fields that only bodies of requests have.
const SCORED: &[&str] = &[
    "query",
    "queries",
    "passage",
    "pairs",
    "texts",
    "documents",
    "text_1",
    "data_1",
];

const PINGS: &[&str] = &[
    "warmer",
    "warmup",
    "warmUp",
    "keepWarm",
    "keep_warm",
    "keep-warm",
    "ping",
    "heartbeat",
    // What the console's test sends.
    "key1",
];

/// Fields that name an event's service.
const SERVICES: &[(&str, &str)] = &[
    ("triggerSource", "a Cognito trigger"),
    ("awslogs", "a CloudWatch Logs subscription"),
    ("invokingEvent", "an AWS Config rule"),
    ("deliveryStreamArn", "a Firehose transformation"),
    ("ResponseURL", "a CloudFormation custom resource"),
    ("messageVersion", "a call of a Bedrock agent or a Lex bot"),
    ("typeName", "an AppSync resolver"),
    ("session", "an Alexa skill"),
    ("CodePipeline.job", "a CodePipeline job"),
    ("eventSource", "a batch from a message broker"),
    ("detail-type", "an EventBridge event"),
];

impl Event {
    pub fn read(bytes: &Bytes) -> Self {
        let text = readable(bytes);
        let Some(json) = Json::parse(&text) else {
            let refusal = Rejection::MalformedEvent {
                field: None,
                problem: "the event is no JSON",
            };
            return Self::of(Form::Data, Wish::Refused(refusal));
        };
        if json.is_list() {
            let mut empty = true;
            json.items(|_| empty = false);
            let wish = if empty {
                Wish::Warm
            } else {
                foreign("a list of something")
            };
            return Self::of(Form::Data, wish);
        }
        if !json.is_object() {
            return Self::of(Form::Data, Wish::Warm);
        }
        let services = SERVICES.iter().map(|(name, _)| name);
        let names = TOP.iter().chain(SCORED).chain(PINGS).chain(services);
        let top = json.select(&names.copied().collect::<Vec<_>>());
        if top.has("methodArn") || top.has("routeArn") {
            return Self::of(Form::Data, foreign("an API Gateway authorizer's event"));
        }
        if top.get("requestContext").is_some_and(Json::is_object) {
            return Self::of_gateway(&top);
        }
        if top.has("raw_path") {
            return Self::of(Form::V1, foreign("a VPC Lattice request"));
        }
        if top.get("Records").is_some_and(Json::is_list) {
            return Self::of(Form::Data, records(&top));
        }
        let is = |name, value: &str| top.text(name).is_some_and(|text| text == value);
        let schedule = is("detail-type", "Scheduled Event")
            && (is("source", "aws.events") || is("source", "aws.scheduler"));
        if schedule || is("source", "serverless-plugin-warmup") {
            return Self::of(Form::Data, Wish::Warm);
        }
        if SCORED.iter().any(|name| top.has(name)) {
            return Self::of(Form::Direct, direct(&top, bytes.clone()).into());
        }
        if let Some((_, kind)) = SERVICES.iter().find(|(name, _)| top.has(name)) {
            return Self::of(Form::Data, foreign(kind));
        }
        if ["path", "rawPath", "body"].iter().any(|name| top.has(name)) {
            let body = body(&top);
            return Self::of(
                Form::Direct,
                body.and_then(|body| direct(&top, body)).into(),
            );
        }
        let mut members = 0;
        json.members(|_, _| members += 1);
        if members == 0 || PINGS.iter().any(|name| top.has(name)) {
            return Self::of(Form::Data, Wish::Warm);
        }
        Self::of(Form::Data, foreign("an event of no known kind"))
    }

    fn of(form: Form, wish: Wish) -> Self {
        Self {
            form,
            wish,
            gateway_since: None,
        }
    }

    /// Of an event that something in front of the function made from an HTTP request.
    fn of_gateway(top: &Fields) -> Self {
        let context = top.object("requestContext", CONTEXT);
        if context.has("connectionId") {
            return Self::of(Form::V1, foreign("a WebSocket event"));
        }
        if context.has("serviceNetworkArn") {
            return Self::of(Form::V1, foreign("a VPC Lattice request"));
        }
        let version_2 = top
            .text("version")
            .is_some_and(|version| version.starts_with('2'));
        let form = if context.has("elb") {
            Form::Alb
        } else if context.has("http") || (version_2 && !top.has("httpMethod")) {
            Form::V2
        } else {
            Form::V1
        };
        let gateway = Gateway {
            form,
            top,
            context: &context,
        };
        Self {
            form,
            wish: gateway.request().into(),
            gateway_since: gateway.since(),
        }
    }
}

impl From<Result<Request<Body>, Rejection>> for Wish {
    fn from(request: Result<Request<Body>, Rejection>) -> Self {
        match request {
            Ok(request) => Self::Request(request),
            Err(refusal) => Self::Refused(refusal),
        }
    }
}

fn foreign(kind: &'static str) -> Wish {
    Wish::Foreign {
        kind,
        records: Vec::new(),
    }
}

/// A batch of records, and what names each of them for its source.
fn records(top: &Fields) -> Wish {
    let mut kind = None;
    let mut records = Vec::new();
    if let Some(list) = top.get("Records") {
        list.items(|record| {
            let record = record.select(&[
                "eventSource",
                "EventSource",
                "messageId",
                "kinesis",
                "dynamodb",
                "cf",
            ]);
            let source = record
                .text("eventSource")
                .or_else(|| record.text("EventSource"));
            kind.get_or_insert(match source.as_deref() {
                Some("aws:sqs") => "a batch of SQS messages",
                Some("aws:sns") => "an SNS notification",
                Some("aws:s3") => "an S3 notification",
                Some("aws:kinesis") => "a batch of Kinesis records",
                Some("aws:dynamodb") => "a batch of DynamoDB's changes",
                Some("aws:ses") => "an SES event",
                _ if record.has("cf") => "a CloudFront event",
                _ => "a batch of records",
            });
            let id = match source.as_deref() {
                Some("aws:sqs") => record.text("messageId"),
                Some("aws:kinesis") => record
                    .object("kinesis", &["sequenceNumber"])
                    .text("sequenceNumber"),
                Some("aws:dynamodb") => record
                    .object("dynamodb", &["SequenceNumber"])
                    .text("SequenceNumber"),
                _ => None,
            };
            records.extend(id);
        });
    }
    Wish::Foreign {
        kind: kind.unwrap_or("a batch of records"),
        records,
    }
}

/// A request of whoever invokes the function by itself: a body, which may be put into one with a
/// path and headers.
fn direct(top: &Fields, body: Bytes) -> Result<Request<Body>, Rejection> {
    let path = top.text("path").or_else(|| top.text("rawPath"));
    let scored = SCORED.iter().any(|name| top.has(name));
    // The fields beside a body's own are the dialect's business.
    let wrapped = !scored;
    let path = path.filter(|_| wrapped).unwrap_or_else(|| "/rerank".into());
    let method = match top.text("httpMethod").filter(|_| wrapped) {
        // People write it, and no method that is served has small letters.
        Some(method) => method_of(&method.to_ascii_uppercase())?,
        None if body.is_empty() => Method::GET,
        None => Method::POST,
    };
    let mut headers = if wrapped {
        headers(top)?
    } else {
        HeaderMap::new()
    };
    let json = HeaderValue::from_static("application/json");
    headers.entry(CONTENT_TYPE).or_insert(json);
    let query = if wrapped { query(top, true) } else { None };
    build(method, address(&path, query.as_deref())?, headers, body)
}

fn build(
    method: Method,
    uri: Uri,
    mut headers: HeaderMap,
    body: Bytes,
) -> Result<Request<Body>, Rejection> {
    // REST APIs leave the header out, and what a client announced need not hold for what the event
    // carries.
    if body.is_empty() {
        headers.remove(CONTENT_LENGTH);
    } else {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    let mut request = Request::new(Body::from(body));
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    Ok(request)
}

/// An event from a gateway or a load balancer.
struct Gateway<'e, 'a> {
    form: Form,
    top: &'e Fields<'a>,
    context: &'e Fields<'a>,
}

impl Gateway<'_, '_> {
    fn request(&self) -> Result<Request<Body>, Rejection> {
        let Self { form, top, context } = *self;
        let http = context.object("http", &["method", "path"]);
        let method = match form {
            Form::V2 => http.text("method"),
            _ => None,
        };
        let method = method
            .or_else(|| top.text("httpMethod"))
            .or_else(|| context.text("httpMethod"))
            .ok_or(Rejection::MalformedEvent {
                field: Some("httpMethod"),
                problem: "the event names no method",
            })?;
        let method = method_of(&method)?;
        let path = match form {
            Form::V2 => top.text("rawPath").or_else(|| http.text("path")),
            _ => top.text("path"),
        };
        let path = path.unwrap_or_else(|| "/".into());
        let query = match form {
            Form::V2 => top
                .text("rawQueryString")
                .map(|query| utf8_percent_encode(&query, ADDRESS).to_string())
                .or_else(|| query(top, true)),
            // What a load balancer passes on is as the client encoded it.
            _ => query(top, form == Form::V1),
        };
        let own = address(self.below_gateway(&path), query.as_deref())?;
        let mut request = build(method, own, headers(top)?, body(top)?)?;
        // Signatures are made over what the client sent. A REST API tells it; for others it is the
        // path as it came.
        let sent = match form {
            Form::V1 => context.text("path").unwrap_or(path),
            _ => path,
        };
        let sent = address(&sent, query.as_deref())?;
        if sent != *request.uri() {
            request.extensions_mut().insert(SentUri(sent));
        }
        Ok(request)
    }

    /// The path without what the gateway put in front of it: a stage, or the base path of a custom
    /// domain. What the path itself looks like says nothing: a stage may be called like a route.
    fn below_gateway<'p>(&self, path: &'p str) -> &'p str {
        let Self { form, top, context } = *self;
        let own_domain = context.text("domainName").is_some_and(|domain| {
            !domain.contains(".execute-api.") && !domain.contains(".lambda-url.")
        });
        let rest_api = form == Form::V1 && !top.has("version");
        let stage = context.text("stage").unwrap_or_default();
        match form {
            Form::Alb => path,
            // `path` has no stage, and a base path only where the client's whole path is the same.
            Form::V1 if rest_api => match context.text("path") {
                Some(whole) if whole == path => self.below_base(path),
                _ => path,
            },
            _ if own_domain => self.below_base(path),
            _ if stage.is_empty() || stage == "$default" => path,
            _ => below(path, &stage),
        }
    }

    /// The path below a base path of a custom domain, which is what stands in front of the route
    /// that the gateway has found.
    fn below_base<'p>(&self, path: &'p str) -> &'p str {
        let route = match self.form {
            // `ANY /{proxy+}`
            Form::V2 => self
                .top
                .text("routeKey")
                .and_then(|key| key.split_once(' ').map(|(_, route)| route.to_owned())),
            _ => self.top.text("resource"),
        };
        let Some(route) = route.filter(|route| route.starts_with('/')) else {
            return path;
        };
        if route == "/" {
            return "/";
        }
        let mut parameters = Vec::new();
        if let Some(object) = self.top.get("pathParameters") {
            object.members(|name, value| parameters.extend(value.text().map(|text| (name, text))));
        }
        let mut own = String::new();
        for segment in route.split('/').skip(1) {
            own.push('/');
            let name = segment
                .strip_prefix('{')
                .and_then(|name| name.strip_suffix('}'))
                .map(|name| name.trim_end_matches('+'));
            match name {
                None => own.push_str(segment),
                Some(name) => match parameters.iter().find(|(known, _)| known == name) {
                    Some((_, value)) => own.push_str(value),
                    None => return path,
                },
            }
        }
        let base = path
            .trim_end_matches('/')
            .strip_suffix(own.trim_end_matches('/'));
        base.map_or(path, |base| &path[base.len()..])
    }

    /// When an HTTP API took the request. It waits for thirty seconds and no longer, however long
    /// the function may run.
    fn since(&self) -> Option<u64> {
        let Self { form, top, context } = *self;
        let is_url = context
            .text("domainName")
            .is_some_and(|domain| domain.contains(".lambda-url."));
        match form {
            Form::V2 if !is_url => context.get("timeEpoch")?.whole(),
            Form::V1 if top.has("version") => context.get("requestTimeEpoch")?.whole(),
            _ => None,
        }
    }
}

/// The path below `/stage`, once.
fn below<'p>(path: &'p str, stage: &str) -> &'p str {
    let rest = path
        .strip_prefix('/')
        .and_then(|path| path.strip_prefix(stage));
    match rest {
        Some("") => "/",
        Some(rest) if rest.starts_with('/') => rest,
        _ => path,
    }
}

fn method_of(text: &str) -> Result<Method, Rejection> {
    Method::from_bytes(text.as_bytes()).map_err(|_| Rejection::MalformedEvent {
        field: Some("httpMethod"),
        problem: "the method is none that HTTP can have",
    })
}

/// An address as a client writes it: from the path on, with everything encoded that cannot stand
/// there.
fn address(path: &str, query: Option<&str>) -> Result<Uri, Rejection> {
    let slash = if path.starts_with('/') { "" } else { "/" };
    let path = utf8_percent_encode(path, PATH);
    let text = match query {
        Some(query) if !query.is_empty() => format!("{slash}{path}?{query}"),
        _ => format!("{slash}{path}"),
    };
    if text.len() > MAX_ADDRESS_BYTES {
        return Err(Rejection::HeadTooLarge {
            what: "the address",
            limit: MAX_ADDRESS_BYTES,
        });
    }
    PathAndQuery::try_from(text)
        .map(Uri::from)
        .map_err(|_| Rejection::MalformedEvent {
            field: Some("path"),
            problem: "the path and query are no address",
        })
}

/// The query by its parameters, which come `decoded` or as the client wrote them.
fn query(top: &Fields, decoded: bool) -> Option<String> {
    let encode = |text: String| -> String {
        let set = if decoded { PARAMETER } else { ADDRESS };
        utf8_percent_encode(&text, set).to_string()
    };
    let mut parts = Vec::new();
    let mut add = |name: &str, value: Json| {
        let value = value.text().unwrap_or_default();
        parts.push(format!("{}={}", encode(name.to_owned()), encode(value)));
    };
    if let Some(object) = top.get("multiValueQueryStringParameters") {
        object.members(|name, values| {
            if values.is_list() {
                values.items(|value| add(&name, value));
            } else {
                add(&name, values);
            }
        });
    } else if let Some(object) = top.get("queryStringParameters") {
        object.members(|name, value| add(&name, value));
    }
    (!parts.is_empty()).then(|| parts.join("&"))
}

/// Headers with several values go before those with one, which are of the same request.
fn headers(top: &Fields) -> Result<HeaderMap, Rejection> {
    let mut headers = HeaderMap::new();
    let mut wrong = None;
    let mut add = |name: &str, value: Json| {
        let Some(value) = value.text().filter(|_| wrong.is_none()) else {
            return;
        };
        let name = HeaderName::from_bytes(name.as_bytes());
        let value = HeaderValue::from_bytes(value.trim().as_bytes());
        let (Ok(name), Ok(value)) = (name, value) else {
            wrong = Some(Rejection::MalformedEvent {
                field: Some("headers"),
                problem: "a header's name or value is none that HTTP can have",
            });
            return;
        };
        if headers.len() == MAX_HEADERS {
            wrong = Some(Rejection::HeadTooLarge {
                what: "the list of headers",
                limit: MAX_HEADERS,
            });
        } else {
            headers.append(name, value);
        }
    };
    let mut several = BTreeSet::new();
    if let Some(object) = top.get("multiValueHeaders") {
        object.members(|name, values| {
            if values.is_list() {
                values.items(|value| add(&name, value));
            } else {
                add(&name, values);
            }
            several.insert(name.to_ascii_lowercase());
        });
    }
    if let Some(object) = top.get("headers") {
        object.members(|name, value| {
            if several.contains(&name.to_ascii_lowercase()) {
                return;
            }
            if value.is_list() {
                value.items(|value| add(&name, value));
            } else {
                add(&name, value);
            }
        });
    }
    match wrong {
        Some(refusal) => Err(refusal),
        None => Ok(headers),
    }
}

fn body(top: &Fields) -> Result<Bytes, Rejection> {
    let Some(body) = top.get("body") else {
        return Ok(Bytes::new());
    };
    let Some(text) = body.text() else {
        // An object is taken for the JSON that it is.
        return Ok(Bytes::copy_from_slice(body.raw().as_bytes()));
    };
    if !top.get("isBase64Encoded").is_some_and(Json::is_true) {
        return Ok(text.into());
    }
    let text: Cow<str> = if text.contains(|c: char| c.is_ascii_whitespace()) {
        text.split_ascii_whitespace().collect::<String>().into()
    } else {
        text.into()
    };
    let bytes = BASE64.decode(text.as_bytes());
    bytes
        .map(Bytes::from)
        .map_err(|_| Rejection::MalformedEvent {
            field: Some("body"),
            problem: "isBase64Encoded is true, but the body is no base64",
        })
}
