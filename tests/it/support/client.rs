//! A small HTTP/1.1 client that shows what goes over the socket: one request for each connection, nothing added, nothing hidden.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

use super::process::PATIENCE;

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }
}

/// One request and its answer.
pub fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Reply {
    let mut stream = connect(address);
    let length = body.len().to_string();
    let mut all = headers.to_vec();
    if !body.is_empty() {
        all.push(("content-length", &length));
    }
    write_head(&mut stream, method, path, &all);
    // A server may answer and close before it has read all of a body that it refuses.
    let _ = stream.write_all(body);
    read_reply(stream)
}

pub fn get(address: SocketAddr, path: &str) -> Reply {
    send(address, "GET", path, &[], b"")
}

pub fn post(address: SocketAddr, path: &str, body: &Value) -> Reply {
    let headers = [("content-type", "application/json")];
    send(address, "POST", path, &headers, body.to_string().as_bytes())
}

pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("connects");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

/// Writes the request line and the headers, with `connection: close`.
pub fn write_head(stream: &mut TcpStream, method: &str, path: &str, headers: &[(&str, &str)]) {
    let mut head =
        format!("{method} {path} HTTP/1.1\r\nhost: reranker.test\r\nconnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    stream.write_all(head.as_bytes()).expect("the head is sent");
}

pub fn read_reply(stream: TcpStream) -> Reply {
    let mut stream = BufReader::new(stream);
    let status_line = read_line(&mut stream);
    let status = status_line
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or_else(|| panic!("no status in {status_line:?}"));
    let headers: Vec<(String, String)> = std::iter::from_fn(|| {
        let line = read_line(&mut stream);
        line.split_once(':')
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
    })
    .collect();
    let mut body = Vec::new();
    let mut reply = Reply {
        status,
        headers,
        body: Vec::new(),
    };
    if let Some(length) = reply.header("content-length") {
        let length: u64 = length.parse().expect("a length");
        let read = stream.take(length).read_to_end(&mut body).expect("a body");
        assert_eq!(read as u64, length, "the answer broke off");
    } else {
        assert_eq!(
            reply.header("transfer-encoding"),
            None,
            "answers are sent whole"
        );
        stream.read_to_end(&mut body).expect("a body");
    }
    reply.body = body;
    reply
}

fn read_line(stream: &mut impl BufRead) -> String {
    let mut line = String::new();
    stream.read_line(&mut line).expect("a line of the head");
    line.trim_end().to_owned()
}

/// A number of /metrics.
pub fn metric(address: SocketAddr, name: &str) -> f64 {
    let text = String::from_utf8(get(address, "/metrics").body).expect("text");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value = line.and_then(|rest| rest.parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in\n{text}"))
}
