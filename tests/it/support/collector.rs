//! An OpenTelemetry collector on loopback: takes OTLP over HTTP, decodes it, and keeps it for the test to look at.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// How it treats those who connect.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Manner {
    Takes,
    /// Reads, and never answers.
    Hangs,
}

pub struct Collector {
    pub address: String,
    got: Arc<Got>,
}

#[derive(Default)]
struct Got {
    exports: Mutex<Exports>,
    grown: Condvar,
}

#[derive(Default)]
struct Exports {
    connections: usize,
    /// Request line and headers, in lower case.
    heads: Vec<String>,
    spans: Vec<Exported>,
}

/// A span, and who sent it.
#[derive(Debug, Clone)]
pub struct Exported {
    pub resource: Vec<KeyValue>,
    pub span: Span,
}

impl Collector {
    pub fn start(manner: Manner) -> Self {
        Self::over("http", move |stream, got| serve(stream, manner, got))
    }

    /// One that speaks TLS, and the authority that its certificate is from, as PEM.
    pub fn start_tls() -> (Self, String) {
        let key = || KeyPair::generate().expect("a key");
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, key()).expect("an authority");
        let own_key = key();
        let own = CertificateParams::new(["127.0.0.1".to_owned()])
            .and_then(|own| own.signed_by(&own_key, &authority))
            .expect("a certificate");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("TLS")
            .with_no_client_auth()
            .with_single_cert(
                vec![own.der().clone()],
                PrivatePkcs8KeyDer::from(own_key.serialize_der()).into(),
            )
            .expect("a key that fits");
        let config = Arc::new(config);
        let collector = Self::over("https", move |stream, got| {
            let connection = ServerConnection::new(config.clone()).expect("a connection");
            serve(StreamOwned::new(connection, stream), Manner::Takes, got);
        });
        (collector, authority.pem())
    }

    fn over(scheme: &str, serve: impl Fn(TcpStream, &Got) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let address = format!("{scheme}://{address}");
        let got = Arc::new(Got::default());
        let writer = got.clone();
        let serve = Arc::new(serve);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                writer.change(|exports| exports.connections += 1);
                let (serve, writer) = (serve.clone(), writer.clone());
                std::thread::spawn(move || serve(stream, &writer));
            }
        });
        Self { address, got }
    }

    /// Waits for the span of that name.
    pub fn wait_for(&self, name: &str) -> Exported {
        let mut exports = self.got.lock();
        loop {
            let found = exports.spans.iter().find(|found| found.span.name == name);
            if let Some(found) = found {
                return found.clone();
            }
            let (guard, waited) = self
                .got
                .grown
                .wait_timeout(exports, Duration::from_secs(60))
                .unwrap_or_else(PoisonError::into_inner);
            assert!(!waited.timed_out(), "no span {name}");
            exports = guard;
        }
    }

    /// All that has come, as text to be searched.
    pub fn everything(&self) -> String {
        let exports = self.got.lock();
        format!("{:?} {:?}", exports.heads, exports.spans)
    }

    pub fn heads(&self) -> Vec<String> {
        self.got.lock().heads.clone()
    }

    pub fn connections(&self) -> usize {
        self.got.lock().connections
    }
}

impl Exported {
    pub fn attribute(&self, key: &str) -> Option<Value> {
        value(&self.span.attributes, key)
    }

    pub fn resource(&self, key: &str) -> Option<Value> {
        value(&self.resource, key)
    }
}

pub fn text(text: &str) -> Option<Value> {
    Some(Value::StringValue(text.to_owned()))
}

fn value(attributes: &[KeyValue], key: &str) -> Option<Value> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    found.value.clone()?.value
}

impl Got {
    fn lock(&self) -> std::sync::MutexGuard<'_, Exports> {
        self.exports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Exports)) {
        change(&mut self.lock());
        self.grown.notify_all();
    }
}

/// One connection, until the other side closes it.
fn serve(stream: impl Read + Write, manner: Manner, got: &Got) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = String::new();
        loop {
            let mut line = String::new();
            match reader.read_line(&mut line) {
                Ok(read) if read > 0 => {}
                _ => return,
            }
            if line.trim().is_empty() {
                break;
            }
            head += &line.to_lowercase();
        }
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"))
            .expect("the length is told");
        let mut body = vec![0; length.trim().parse().expect("a length")];
        reader.read_exact(&mut body).expect("the whole body");
        let request = ExportTraceServiceRequest::decode(&body[..]).expect("OTLP");
        got.change(|exports| {
            exports.heads.push(head);
            for from in request.resource_spans {
                let resource = from.resource.unwrap_or_default().attributes;
                for span in from.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                    let resource = resource.clone();
                    exports.spans.push(Exported { resource, span });
                }
            }
        });
        if manner == Manner::Takes {
            let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
            if reader.get_mut().write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }
}
