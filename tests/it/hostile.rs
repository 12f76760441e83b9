//! What no well-meaning client sends, against the real program: each kind has the answer that docs/reliability.md promises for it, and
//! the next client is served as ever.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::client::{Reply, connect, get, metric, post, read_reply, send, write_head};
use crate::support::http2::{self, Frame, Http2};
use crate::support::process::{PATIENCE, Process, tiny};

const JSON: (&str, &str) = ("content-type", "application/json");
const PAIR: &str = r#"{"query":"when does it open?","passage":"At nine."}"#;

fn code(reply: &Reply) -> String {
    let body = reply.json();
    body["error"]["code"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn resident_bytes(server: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id()));
    let status = status.expect("a running process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.expect("the resident memory") << 10
}

/// Everything that comes until the other side closes; what comes after it was reset is lost.
fn read_all(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let mut part = [0; 1 << 16];
    loop {
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(read) => answer.extend(&part[..read]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => panic!("{error} after {}", String::from_utf8_lossy(&answer)),
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// What came of it, in the words of the documentation: the answers in their order, then how the connection ended.
fn told(answer: &str) -> String {
    let mut rest = answer;
    let mut all = Vec::new();
    while let Some((head, after)) = rest.split_once("\r\n\r\n") {
        let status = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            let is_it = name.eq_ignore_ascii_case("content-length");
            is_it.then(|| value.trim().parse::<usize>().ok())?
        });
        let body = &after[..length.unwrap_or(0).min(after.len())];
        rest = &after[body.len()..];
        let code = serde_json::from_str::<Value>(body).ok();
        let code = code.and_then(|body| body["error"]["code"].as_str().map(str::to_owned));
        all.push(match code {
            Some(code) => format!("{status} `{code}`"),
            None => status,
        });
    }
    assert_eq!(rest, "", "a part of an answer");
    if all.is_empty() {
        "closed".into()
    } else {
        all.join(", then ")
    }
}

/// A request for one pair, with these headers besides.
fn request(headers: &str, body: &str) -> Vec<u8> {
    format!(
        "POST /rerank HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\nconnection: close\r\n{headers}\r\n{body}"
    )
    .into_bytes()
}

fn with_length(body: &str) -> Vec<u8> {
    request(&format!("content-length: {}\r\n", body.len()), body)
}

fn chunked(body: &str) -> String {
    format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
}

/// What is sent, the answer that the documentation promises, and the bytes. They are sent as fast as they are taken, and the sending side
/// stays open.
fn rows() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let mut rows: Vec<(&str, &str, Vec<u8>)> = Vec::new();
    let mut row = |what, answer, bytes: Vec<u8>| rows.push((what, answer, bytes));
    let length = PAIR.len();
    let next = "GET /live HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

    // Framing.
    row(
        "an announced length over `MAX_BODY_BYTES`",
        "413 `body_too_large`",
        request("content-length: 99999999\r\n", ""),
    );
    let endless = format!("10000\r\n{}\r\n", " ".repeat(1 << 16)).repeat(40);
    row(
        "a body in chunks without an end",
        "413 `body_too_large`",
        request("transfer-encoding: chunked\r\n", &endless),
    );
    row(
        "a chunk's length that is no number",
        "400 `unreadable_body`",
        request("transfer-encoding: chunked\r\n", "zz\r\n"),
    );
    row(
        "a chunk's length beyond 64 bits",
        "400 `unreadable_body`",
        request("transfer-encoding: chunked\r\n", "fffffffffffffffff\r\n"),
    );
    row(
        "chunk extensions without an end",
        "400 `unreadable_body`",
        request(
            "transfer-encoding: chunked\r\n",
            &format!("1;{}", "x".repeat(1 << 17)),
        ),
    );
    row(
        "trailers without an end",
        "400 `unreadable_body`",
        request(
            "transfer-encoding: chunked\r\n",
            &format!("0\r\n{}", "x: y\r\n".repeat(20_000)),
        ),
    );
    row(
        "a length shorter than the body",
        "400 `malformed_json`",
        request(&format!("content-length: {}\r\n", length - 5), PAIR),
    );
    row(
        "two lengths that differ",
        "400",
        request(
            &format!("content-length: {length}\r\ncontent-length: 3\r\n"),
            PAIR,
        ),
    );
    for (what, value) in [
        ("a length with a sign", "+50"),
        ("a negative length", "-1"),
        ("a list as length", "50, 50"),
        ("a length beyond 64 bits", "99999999999999999999999"),
    ] {
        row(
            what,
            "400",
            request(&format!("content-length: {value}\r\n"), PAIR),
        );
    }
    row(
        "a length before `transfer-encoding: chunked`",
        "200",
        request(
            &format!("content-length: {length}\r\ntransfer-encoding: chunked\r\n"),
            &(chunked(PAIR) + next),
        ),
    );
    row(
        "a length behind `transfer-encoding: chunked`",
        "200",
        request(
            "transfer-encoding: chunked\r\ncontent-length: 3\r\n",
            &(chunked(PAIR) + next),
        ),
    );
    for (what, value) in [
        ("`transfer-encoding: gzip`", "gzip"),
        ("`transfer-encoding: chunked, gzip`", "chunked, gzip"),
        ("`transfer-encoding: xchunked`", "xchunked"),
    ] {
        row(
            what,
            "400",
            request(&format!("transfer-encoding: {value}\r\n"), &chunked(PAIR)),
        );
    }
    row(
        "`transfer-encoding` in HTTP/1.0",
        "400",
        format!(
            "POST /rerank HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n{}",
            chunked(PAIR)
        )
        .into(),
    );
    row(
        "`content-encoding: gzip`",
        "415 `unsupported_media_type`",
        request(
            &format!("content-encoding: gzip\r\ncontent-length: {length}\r\n"),
            PAIR,
        ),
    );
    row(
        "a content type that is no JSON",
        "415 `unsupported_media_type`",
        format!("POST /rerank HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\n\r\n{PAIR}").into(),
    );
    let expecting = request("expect: 100-continue\r\ncontent-length: 99999999\r\n", "");
    row(
        "`expect: 100-continue` for too large a body",
        "413 `body_too_large`",
        expecting,
    );
    row(
        "three requests in one breath",
        "200, then 200, then 200",
        format!(
            "GET /live HTTP/1.1\r\nhost: a\r\n\r\nPOST /rerank HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n{PAIR}{next}"
        )
        .into(),
    );

    // Heads.
    let many: String = (0..101).map(|n| format!("x-{n}: y\r\n")).collect();
    let head = |headers: &str| {
        format!("GET /live HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{headers}\r\n").into_bytes()
    };
    row("more than 100 headers", "431", head(&many));
    let long = format!("x-long: {}\r\n", "y".repeat(70_000));
    row("a head of more than 64 KiB", "431", head(&long));
    row(
        "a header folded over two lines",
        "400",
        head("x-a: b\r\n c\r\n"),
    );
    row(
        "a space before a header's colon",
        "400",
        head("x-a : b\r\n"),
    );
    row("a NUL in a header", "400", head("x-a: b\0c\r\n"));
    row("a header without a name", "400", head(": b\r\n"));
    let line = |line: &str| format!("{line}\r\nhost: a\r\nconnection: close\r\n\r\n").into_bytes();
    row("a NUL in the path", "400", line("GET /li\0ve HTTP/1.1"));
    row("a space in the path", "400", line("GET /li ve HTTP/1.1"));
    row(
        "a path of 20,000 characters",
        "404 `not_found`",
        line(&format!("GET /{} HTTP/1.1", "x".repeat(20_000))),
    );
    row(
        "a path of 70,000 characters",
        "431",
        line(&format!("GET /{} HTTP/1.1", "x".repeat(70_000))),
    );
    row("HTTP/0.9", "400", b"GET /live\r\n\r\n".into());
    row("HTTP/3.0 in words", "400", line("GET /live HTTP/3.0"));
    row("what is no HTTP", "400", b"nonsense\r\n\r\n".into());
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x20\x0d\x0a".repeat(4);
    row("a TLS handshake", "400", hello);
    row(
        "an unknown method",
        "405 `method_not_allowed`",
        line("FROB /live HTTP/1.1"),
    );
    row(
        "TRACE",
        "405 `method_not_allowed`",
        line("TRACE /live HTTP/1.1"),
    );
    row(
        "CONNECT",
        "404 `not_found`",
        line("CONNECT example.org:443 HTTP/1.1"),
    );
    row(
        "PUT",
        "405 `method_not_allowed`",
        line("PUT /rerank HTTP/1.1"),
    );
    row("`OPTIONS *`", "200", line("OPTIONS * HTTP/1.1"));
    row(
        "a path in absolute form",
        "200",
        line("GET http://other.example/live HTTP/1.1"),
    );
    row(
        "an upgrade to HTTP/2 or WebSocket",
        "200",
        head(
            "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n",
        ),
    );

    row(
        "two Host headers",
        "400 `malformed_request`",
        head("host: b\r\n"),
    );
    row(
        "no Host header",
        "200",
        b"GET /live HTTP/1.1\r\nconnection: close\r\n\r\n".to_vec(),
    );
    row(
        "line ends without CR",
        "200",
        b"GET /live HTTP/1.1\nhost: a\nconnection: close\n\n".to_vec(),
    );
    row(
        "`transfer-encoding: x, chunked`",
        "400 `malformed_request`",
        request("transfer-encoding: x, chunked\r\n", &chunked(PAIR)),
    );

    // Bodies.
    let json = |body: &str| with_length(body);
    let passage = |passage: &str| json(&format!(r#"{{"query":"q","passage":{passage}}}"#));
    row("an empty body", "400 `malformed_json`", json(""));
    let mut invalid = passage("\"?\"");
    let at = invalid
        .iter()
        .rposition(|&byte| byte == b'?')
        .expect("there");
    invalid[at] = 0xff;
    row("invalid UTF-8", "400 `malformed_json`", invalid);
    row("a lone surrogate", "200", passage(r#""\ud800""#));
    row("a byte order mark", "200", json(&format!("\u{feff}{PAIR}")));
    row(
        "a control character as it is",
        "400 `malformed_json`",
        passage("\"a\x01b\""),
    );
    row(
        "a control character or NUL, escaped",
        "200",
        passage(r#""a\u0000\u0001\u007f b""#),
    );
    row(
        "a field that is given twice",
        "400 `malformed_json`",
        json(r#"{"query":"q","query":"r","passage":"p"}"#),
    );
    let limited = |value: &str| {
        json(&format!(
            r#"{{"query":"q","passage":"p","max_length":{value}}}"#
        ))
    };
    row("1e999", "422 `wrong_type`", limited("1e999"));
    row("NaN", "400 `malformed_json`", limited("NaN"));
    row(
        "a whole number of 400 digits",
        "422 `wrong_type`",
        limited(&"9".repeat(400)),
    );
    row(
        "2^63 where a length is due",
        "422 `invalid_max_length`",
        limited("9223372036854775808"),
    );
    row(
        "2^64 where a length is due",
        "422 `wrong_type`",
        limited("18446744073709551616"),
    );
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    row(
        "100,000 brackets in a field that nobody reads",
        "200",
        json(&format!(r#"{{"query":"q","passage":"p","x":{deep}}}"#)),
    );
    row(
        "100,000 brackets in one that is read",
        "422 `wrong_type`",
        passage(&deep),
    );
    row(
        "100,000 brackets that never close",
        "400 `malformed_json`",
        json(&format!(
            r#"{{"query":"q","passage":"p","x":{}"#,
            "[".repeat(100_000)
        )),
    );
    row(
        "a word of a million characters",
        "422 `text_too_long`",
        passage(&format!("\"{}\"", "x".repeat(1_000_000))),
    );
    let empty = vec!["\"\""; 100_000].join(",");
    row(
        "`rank_fields` of 100,000 names",
        "422 `invalid_rank_fields`",
        json(&format!(
            r#"{{"query":"q","documents":["d"],"rank_fields":[{empty}]}}"#
        )),
    );
    row(
        "100,000 empty passages",
        "422 `too_many_pairs`",
        json(&format!(r#"{{"query":"q","documents":[{empty}]}}"#)),
    );
    rows
}

#[test]
fn everything_hostile_has_its_documented_answer() {
    let (server, address) = tiny(&[("MAX_BODY_BYTES", "2000000")]);
    let documents = std::fs::read_to_string("docs/reliability.md").expect("docs/reliability.md");
    let mut wrong = Vec::new();
    for (what, answer, bytes) in rows() {
        let mut stream = connect(address);
        let begun = Instant::now();
        // The server may have answered and closed before all of it is sent.
        let _ = stream.write_all(&bytes);
        let got = told(&read_all(&mut stream));
        let took = begun.elapsed();
        println!("{what}: {got} in {took:?}");
        if got != answer {
            wrong.push(format!("{what}: {got}, expected {answer}"));
        }
        if !documents.contains(&format!("| {what} | {answer} |")) {
            wrong.push(format!("docs/reliability.md lacks | {what} | {answer} |"));
        }
        // Nothing takes the time that a hanging connection would.
        assert!(took < Duration::from_secs(10), "{what} took {took:?}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(
        post(address, "/rerank", &json!({"query": "q", "passage": "p"})).status,
        200
    );
    assert_eq!(metric(address, "reranker_panics_total"), 0.0);
    assert_eq!(metric(address, "reranker_body_bytes"), 0.0);
    drop(server);
}

/// Slow senders: each takes one connection, and gets so much time.
#[test]
fn slow_senders_are_cut_off_and_keep_nobody_out() {
    const HEADER: Duration = Duration::from_millis(600);
    const TIMEOUT: Duration = Duration::from_millis(1200);
    const IDLE: Duration = Duration::from_millis(900);
    let (server, address) = tiny(&[
        ("HEADER_TIMEOUT_S", "0.6"),
        ("REQUEST_TIMEOUT_S", "1.2"),
        ("IDLE_TIMEOUT_S", "0.9"),
    ]);
    // One byte at a time, for as long as it is taken: what came back, and when the connection ended.
    let dripped = |at_once: Vec<u8>, bytes: Vec<u8>| {
        std::thread::spawn(move || {
            let begun = Instant::now();
            let mut stream = connect(address);
            stream.write_all(&at_once).expect("sent");
            let pause = Duration::from_millis(50);
            stream.set_read_timeout(Some(pause)).expect("a timeout");
            let mut answer = Vec::new();
            for byte in bytes {
                let _ = stream.write_all(&[byte]);
                let mut part = [0; 4096];
                match stream.read(&mut part) {
                    Ok(0) => break,
                    Ok(read) => answer.extend(&part[..read]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(_) => break,
                }
            }
            (
                String::from_utf8_lossy(&answer).into_owned(),
                begun.elapsed(),
            )
        })
    };
    let head = format!("GET /live HTTP/1.1\r\nx-slow: {}", "x".repeat(2000));
    let head = dripped(Vec::new(), head.into());
    let head_of_the_second = {
        let mut bytes = b"GET /live HTTP/1.1\r\nhost: a\r\n\r\n".to_vec();
        bytes.extend("GET /live HTTP/1.1\r\nx-slow: ".bytes());
        bytes.extend([b'x'; 2000]);
        std::thread::spawn(move || {
            let mut stream = connect(address);
            stream.write_all(&bytes[..31]).expect("sent");
            let pause = Duration::from_millis(50);
            stream.set_read_timeout(Some(pause)).expect("a timeout");
            let begun = Instant::now();
            let mut part = [0; 4096];
            for byte in &bytes[31..] {
                let _ = stream.write_all(&[*byte]);
                if matches!(stream.read(&mut part), Ok(0)) {
                    break;
                }
            }
            begun.elapsed()
        })
    };
    let body = dripped(request("content-length: 2000\r\n", ""), [b' '; 2000].into());
    let mut slow_body = connect(address);
    slow_body
        .write_all(&request("content-length: 200\r\n", "{"))
        .expect("sent");
    let stalled = std::thread::spawn(move || {
        let begun = Instant::now();
        (told(&read_all(&mut slow_body)), begun.elapsed())
    });
    // A connection that was answered and asks nothing more, in either version.
    let mut idle = connect(address);
    idle.write_all(b"GET /live HTTP/1.1\r\nhost: a\r\n\r\n")
        .expect("sent");
    let idle = std::thread::spawn(move || {
        let begun = Instant::now();
        (told(&read_all(&mut idle)), begun.elapsed())
    });
    let mut idle_2 = Http2::connect(address);
    idle_2.send(&[Frame::head(1, "GET", "/live", &[], http2::END_STREAM)]);
    let idle_2 = std::thread::spawn(move || {
        let begun = Instant::now();
        let status = idle_2.status(1);
        // Pings keep a connection alive for its client, not for us.
        let mut goaway = false;
        let pause = Duration::from_millis(100);
        idle_2
            .0
            .set_read_timeout(Some(PATIENCE))
            .expect("a timeout");
        while idle_2.try_send(&[Frame::new(http2::kind::PING, 0, 0, &[7; 8])]) {
            match idle_2.receive() {
                Some(frame) if frame.kind == http2::kind::GOAWAY => {
                    assert_eq!(frame.error_code(), 0);
                    goaway = true;
                }
                Some(_) => std::thread::sleep(pause),
                None => break,
            }
        }
        (status, goaway, begun.elapsed())
    });

    // Meanwhile others are served.
    for _ in 0..10 {
        assert_eq!(
            send(address, "POST", "/rerank", &[JSON], PAIR.as_bytes()).status,
            200
        );
    }
    // A busy machine is late; what is not cut off would take a hundred seconds.
    let late = Duration::from_secs(20);
    let within = |what: &str, took: Duration, least: Duration| {
        println!("{what}: {took:?}");
        // Their clocks began with an answer that was on its way by then.
        let least = least - Duration::from_millis(50);
        assert!(took >= least && took < least + late, "{what}: {took:?}");
    };
    let (answer, took) = head.join().expect("joins");
    assert_eq!(answer, "");
    within("a head byte by byte", took, HEADER);
    within(
        "the second head on a connection",
        head_of_the_second.join().expect("joins"),
        HEADER,
    );
    let (answer, took) = body.join().expect("joins");
    assert_eq!(told(&answer), "408 `request_timeout`");
    within("a body byte by byte", took, TIMEOUT);
    let (answer, took) = stalled.join().expect("joins");
    assert_eq!(answer, "408 `request_timeout`");
    within("a body that stalls", took, TIMEOUT);
    let (answer, took) = idle.join().expect("joins");
    assert_eq!(answer, "200");
    within("an idle connection", took, IDLE);
    let (status, goaway, took) = idle_2.join().expect("joins");
    assert_eq!((status, goaway), (Some(200), true));
    within("an idle HTTP/2 connection that pings", took, IDLE);
    only_the_asking_connection_is_left(address);
    drop(server);
}

/// Waits until the server holds no connection but the one that asks for its metrics. A client sees the end of a connection before the
/// server has taken it off the count, so the first reading may still hold one that is closed.
fn only_the_asking_connection_is_left(address: SocketAddr) {
    let begun = Instant::now();
    while metric(address, "reranker_connections") > 1.0 {
        assert!(begun.elapsed() < PATIENCE, "a connection is still open");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn an_answer_that_nobody_reads_is_given_up() {
    let (_server, address) = tiny(&[
        ("HEADER_TIMEOUT_S", "0.5"),
        ("IDLE_TIMEOUT_S", "0.5"),
        ("MAX_PAIRS", "100000"),
    ]);
    // Larger than what the kernel takes of it on both sides.
    let body = json!({"query": "q", "texts": vec!["p"; 100_000], "return_text": true}).to_string();
    let mut deaf = connect(address);
    let length = body.len().to_string();
    let headers = [JSON, ("content-length", &length)];
    write_head(&mut deaf, "POST", "/tei/rerank", &headers);
    deaf.write_all(body.as_bytes()).expect("sent");
    let begun = Instant::now();
    only_the_asking_connection_is_left(address);
    let cut = read_all(&mut deaf).len();
    println!("cut after {:?} and {cut} bytes", begun.elapsed());
    let whole = send(address, "POST", "/tei/rerank", &[JSON], body.as_bytes());
    assert_eq!(whole.status, 200);
    assert!(cut < whole.body.len(), "{cut} of {}", whole.body.len());
}

#[test]
fn connections_over_the_limit_are_told_and_those_that_end_make_room() {
    let (_server, address) = tiny(&[("MAX_CONNECTIONS", "4")]);
    let held: Vec<TcpStream> = (0..4)
        .map(|_| {
            let mut stream = connect(address);
            stream
                .write_all(b"GET /live HTTP/1.1\r\nhost: a\r\n\r\n")
                .expect("sent");
            let mut part = [0; 4096];
            assert!(stream.read(&mut part).expect("an answer") > 0);
            stream
        })
        .collect();
    for _ in 0..20 {
        let reply = send(address, "POST", "/rerank", &[JSON], PAIR.as_bytes());
        assert_eq!((reply.status, code(&reply)), (503, "busy".into()));
        assert_eq!(reply.header("retry-after"), Some("1"));
        assert_eq!(reply.json()["error"]["limit"], 4);
        assert_eq!(reply.json()["error_type"], "overloaded_error");
    }
    drop(held);
    let begun = Instant::now();
    while send(address, "GET", "/live", &[], b"").status == 503 {
        assert!(begun.elapsed() < PATIENCE, "there is no room again");
    }
    let refused = metric(address, "reranker_connections_refused_total");
    assert!(refused >= 20.0, "{refused}");
}

#[test]
fn large_bodies_wait_outside_while_small_ones_are_served() {
    const MIB: usize = 1 << 20;
    let (server, address) = tiny(&[
        ("MAX_BODY_BYTES", "4194304"),
        ("MAX_BODY_BYTES_IN_FLIGHT", "8388608"),
        ("REQUEST_TIMEOUT_S", "60"),
    ]);
    let before = resident_bytes(&server);
    // Two bodies of which all but the end has come: six of the seven MiB that large ones may have.
    let body = format!(
        r#"{{"query":"q","passage":"p","x":"{}"}}"#,
        "x".repeat(3 * MIB)
    );
    let length = body.len().to_string();
    let mut held: Vec<TcpStream> = (0..2)
        .map(|_| {
            let mut stream = connect(address);
            write_head(
                &mut stream,
                "POST",
                "/rerank",
                &[JSON, ("content-length", &length)],
            );
            stream
                .write_all(&body.as_bytes()[..body.len() - 1])
                .expect("sent");
            stream
        })
        .collect();
    let begun = Instant::now();
    while metric(address, "reranker_body_bytes") < (6 * MIB) as f64 {
        assert!(begun.elapsed() < PATIENCE, "they do not come");
    }
    // By its announced length, by what has come of it, and over HTTP/2.
    for _ in 0..20 {
        let refused = send(address, "POST", "/rerank", &[JSON], body.as_bytes());
        assert_eq!((refused.status, code(&refused)), (429, "busy".into()));
        assert_eq!(refused.header("retry-after"), Some("1"));
        assert_eq!(refused.json()["error"]["limit"], 8 * MIB);
    }
    let mut in_chunks = connect(address);
    let _ = in_chunks.write_all(&request("transfer-encoding: chunked\r\n", &chunked(&body)));
    assert_eq!(told(&read_all(&mut in_chunks)), "429 `busy`");
    // A small one is served, also while large ones push.
    for _ in 0..20 {
        assert_eq!(
            send(address, "POST", "/rerank", &[JSON], PAIR.as_bytes()).status,
            200
        );
    }
    // Who announces and sends nothing keeps nobody out.
    let _announced: Vec<TcpStream> = (0..50)
        .map(|_| {
            let mut stream = connect(address);
            write_head(
                &mut stream,
                "POST",
                "/rerank",
                &[JSON, ("content-length", "500000")],
            );
            stream
        })
        .collect();
    let fits = format!(
        r#"{{"query":"q","passage":"p","x":"{}"}}"#,
        "x".repeat(MIB / 2)
    );
    assert_eq!(
        send(address, "POST", "/rerank", &[JSON], fits.as_bytes()).status,
        200
    );
    // The held ones get their answers, and give their room back.
    for stream in &mut held {
        stream.write_all(b"}").expect("sent");
    }
    for stream in held {
        assert_eq!(read_reply(stream).status, 200);
    }
    assert_eq!(
        send(address, "POST", "/rerank", &[JSON], body.as_bytes()).status,
        200
    );
    // A crowd of large bodies at once: each is answered or told to come back, and memory stays bounded.
    let crowd: Vec<_> = (0..48)
        .map(|_| {
            let body = body.clone();
            std::thread::spawn(move || {
                send(address, "POST", "/rerank", &[JSON], body.as_bytes()).status
            })
        })
        .collect();
    let mut most = 0;
    while crowd.iter().any(|client| !client.is_finished()) {
        most = most.max(resident_bytes(&server));
    }
    let statuses: Vec<u16> = crowd
        .into_iter()
        .map(|c| c.join().expect("answered"))
        .collect();
    let served = statuses.iter().filter(|&&status| status == 200).count();
    println!("{served} of 48 were served; memory {before} before, {most} at most");
    assert!(served > 0 && statuses.iter().all(|status| [200, 429].contains(status)));
    // Bodies, what is made of them, and the buffers of 48 connections.
    assert!(most < before + (40 * MIB) as u64, "{before} {most}");
    assert_eq!(metric(address, "reranker_body_bytes"), 0.0);
}

/// The most memory that the process ever had.
fn peak_bytes(server: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id()));
    let status = status.expect("a running process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.expect("the peak") << 10
}

/// AWS's way of writing the time, now.
fn amz_date() -> String {
    let date = Command::new("date")
        .args(["-u", "+%Y%m%dT%H%M%SZ"])
        .output();
    let text = String::from_utf8(date.expect("the time").stdout).expect("text");
    text.trim().to_owned()
}

/// An `Authorization` header that looks like AWS's, with a signature that nobody made.
fn made_up(signed_headers: &str) -> String {
    let day = amz_date()[..8].to_owned();
    let signature = "0".repeat(64);
    format!(
        "AWS4-HMAC-SHA256 Credential=x/{day}/r/s/aws4_request, SignedHeaders={signed_headers}, Signature={signature}"
    )
}

#[test]
fn without_a_key_nothing_costs_more_than_its_head() {
    let (server, address) = tiny(&[("API_KEYS", "the-key,another,a-third")]);
    let post = |target: &str, headers: &str| {
        format!(
            "POST {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-amz-date: {}\r\n{headers}content-length: 2\r\n\r\n{{}}",
            amz_date()
        )
    };
    let signed = |names: &str| format!("authorization: {}\r\n", made_up(names));
    let long = "b".repeat(30_000);
    let many: String = (0..90)
        .map(|n| format!("x-{n:02}: {}\r\n", "v".repeat(600)))
        .collect();
    let names: String = (0..90).map(|n| format!(";x-{n:02}")).collect();
    let heads = [
        post(
            "/rerank",
            &format!(
                "a: {long}\r\n{}",
                signed(&format!("{}host;x-amz-date", "a;".repeat(15_000)))
            ),
        ),
        post(
            "/rerank",
            &format!(
                "z: {long}\r\n{}",
                signed(&format!("host;x-amz-date{}", ";z".repeat(15_000)))
            ),
        ),
        post(
            "/rerank",
            &format!("{many}{}", signed(&format!("host;x-amz-date{names}"))),
        ),
        post("/rerank", &signed(&format!("host;x-amz-date;{long}"))),
        post(
            &format!("/rerank?{}", "a&".repeat(15_000)),
            &signed("host;x-amz-date"),
        ),
        post(
            &format!("/rerank?{}", "%".repeat(50_000)),
            &signed("host;x-amz-date"),
        ),
        post(
            "/rerank",
            &format!("authorization: Bearer {long}\r\nx-api-key: {long}\r\n"),
        ),
        post("/rerank", &"x-api-key: wrong\r\n".repeat(90)),
        post(
            "/rerank",
            &format!(
                "authorization: AWS4-HMAC-SHA256 Credential={}\r\n",
                "/".repeat(50_000)
            ),
        ),
        post(
            "/rerank",
            &format!("authorization: AWS4-HMAC-SHA256 {}\r\n", ",".repeat(50_000)),
        ),
    ];
    let ask = |head: &str| {
        let mut stream = connect(address);
        stream.write_all(head.as_bytes()).expect("sent");
        told(&read_all(&mut stream))
    };
    // What threads and connections take, first.
    for _ in 0..20 {
        assert!(ask(&heads[2]).starts_with("401"));
    }
    let before = peak_bytes(&server);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for head in &heads {
                    let answer = ask(head);
                    assert!(answer.starts_with("401"), "{answer}: {}", &head[..80]);
                }
            });
        }
    });
    let after = peak_bytes(&server);
    println!("memory {before} before, {after} at most");
    // Eight times the eight heads of at most 64 KiB that are there at once, and the buffers of their connections.
    assert!(after < before + (8 << 20), "{before} {after}");
}

#[test]
fn bodies_that_nobody_has_proven_have_a_share_of_their_own() {
    const MIB: usize = 1 << 20;
    let (server, address) = tiny(&[
        ("API_KEYS", "the-key"),
        ("MAX_BODY_BYTES", "1048576"),
        ("MAX_BODY_BYTES_IN_FLIGHT", "8388608"),
        ("REQUEST_TIMEOUT_S", "300"),
    ]);
    let held_bytes = || {
        let headers = [("x-api-key", "the-key")];
        let text =
            String::from_utf8(send(address, "GET", "/metrics", &headers, b"").body).expect("text");
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("reranker_body_bytes "));
        line.and_then(|number| number.parse::<f64>().ok())
            .expect("a number") as usize
    };
    let before = peak_bytes(&server);
    let authorization = made_up("host;x-amz-date");
    let date = amz_date();
    let stall = |size: usize| {
        let mut stream = connect(address);
        let length = size.to_string();
        let headers = [
            JSON,
            ("authorization", &authorization),
            ("x-amz-date", &date),
            ("content-length", &length),
        ];
        write_head(&mut stream, "POST", "/rerank", &headers);
        // It may be refused before all of it is sent.
        let _ = stream.write_all(&vec![b' '; size - 1]);
        stream
    };
    // One after the other: bodies that come at once push each other out, and small ones may be what is left.
    let mut stalled = vec![stall(900_000)];
    let begun = Instant::now();
    while held_bytes() < 899_999 {
        assert!(begun.elapsed() < PATIENCE, "the first does not come");
    }
    stalled.extend((1..24).map(|n| stall(if n < 12 { 900_000 } else { 50_000 })));
    assert!(held_bytes() <= MIB, "{}", held_bytes());
    // Whoever has a key has all the rest.
    let body = format!(
        r#"{{"query":"q","passage":"p","x":"{}"}}"#,
        "x".repeat(900_000)
    );
    for _ in 0..5 {
        let headers = [JSON, ("x-api-key", "the-key")];
        assert_eq!(
            send(address, "POST", "/rerank", &headers, body.as_bytes()).status,
            200
        );
    }
    drop(stalled);
    let begun = Instant::now();
    while held_bytes() > 0 {
        assert!(begun.elapsed() < PATIENCE, "they are still held");
    }
    let after = peak_bytes(&server);
    println!("memory {before} before, {after} at most");
    assert!(after < before + (8 * 8 * MIB) as u64, "{before} {after}");
}

#[test]
fn answers_hold_room_until_they_are_taken() {
    const MIB: usize = 1 << 20;
    let (server, address) = tiny(&[
        ("MAX_BODY_BYTES", "1048576"),
        ("MAX_BODY_BYTES_IN_FLIGHT", "4194304"),
    ]);
    // Equal documents are computed once and come back each.
    let documents = vec!["a mile and a half ".repeat(100); 110];
    let body = json!({"query": "q", "documents": documents, "return_documents": true}).to_string();
    assert!((190_000..250_000).contains(&body.len()), "{}", body.len());
    let length = body.len().to_string();
    let headers = [JSON, ("content-length", length.as_str())];
    let ask = |connection: &mut Http2, stream| {
        let mut frames = vec![Frame::head(stream, "POST", "/v1/rerank", &headers, 0)];
        let parts: Vec<&[u8]> = body.as_bytes().chunks(16_000).collect();
        for (n, part) in parts.iter().enumerate() {
            let flags = if n + 1 == parts.len() {
                http2::END_STREAM
            } else {
                0
            };
            frames.push(Frame::new(http2::kind::DATA, flags, stream, part));
        }
        connection.send(&frames);
        connection.status(stream)
    };
    let whole = send(address, "POST", "/v1/rerank", &[JSON], body.as_bytes());
    assert_eq!(whole.status, 200);
    let before = peak_bytes(&server);
    // One that takes nothing of any answer, and says so.
    let mut deaf = Http2::deaf(address);
    let served = (0..60)
        .take_while(|n| ask(&mut deaf, 2 * n + 1) == Some(200))
        .count();
    let held = metric(address, "reranker_answer_bytes") as usize;
    println!(
        "{served} served, {held} bytes held, {} each",
        whole.body.len()
    );
    // As many as there is room for, but for what the others' bodies take, and those are counted to the byte.
    assert!((8..20).contains(&served));
    assert!(
        held >= served * whole.body.len() && held <= 4 * MIB,
        "{held}"
    );
    // A large one is told to come back, by its body or its answer; a small one is served.
    let refused = send(address, "POST", "/v1/rerank", &[JSON], body.as_bytes());
    assert_eq!((refused.status, code(&refused)), (429, "busy".into()));
    assert_eq!(
        send(address, "POST", "/rerank", &[JSON], PAIR.as_bytes()).status,
        200
    );
    drop(deaf);
    let begun = Instant::now();
    while metric(address, "reranker_answer_bytes") > 0.0 {
        assert!(begun.elapsed() < PATIENCE, "they are still held");
    }
    assert_eq!(
        send(address, "POST", "/v1/rerank", &[JSON], body.as_bytes()).status,
        200
    );
    let after = peak_bytes(&server);
    println!("memory {before} before, {after} at most");
    assert!(after < before + (8 * 4 * MIB) as u64, "{before} {after}");
}

#[test]
fn an_answer_that_is_taken_too_slowly_is_given_up_though_its_connection_is_busy() {
    let (_server, address) = tiny(&[("REQUEST_TIMEOUT_S", "1"), ("IDLE_TIMEOUT_S", "600")]);
    let mut deaf = Http2::deaf(address);
    // Nothing of any answer is taken; new requests come all the time, until there are as many as a connection may have.
    let open = |n: u32| Frame::head(2 * n + 1, "GET", "/openapi.json", &[], http2::END_STREAM);
    let begun = Instant::now();
    let mut asked = 0;
    while asked < 90 && deaf.try_send(&[open(asked)]) {
        asked += 1;
        std::thread::sleep(Duration::from_millis(50));
    }
    while deaf.receive().is_some() {
        assert!(begun.elapsed() < PATIENCE, "it is still open");
    }
    // Over HTTP/1, one byte at a time.
    let mut slow = connect(address);
    let many = "GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nhost: a\r\n\r\n".repeat(20);
    slow.write_all(many.as_bytes()).expect("sent");
    let (mut byte, mut taken) = ([0], 0);
    while taken < 100_000 && matches!(slow.read(&mut byte), Ok(1)) {
        taken += 1;
        std::thread::sleep(Duration::from_millis(20));
        if metric(address, "reranker_connections") < 2.0 {
            break;
        }
    }
    only_the_asking_connection_is_left(address);
}

#[test]
fn pages_that_nobody_takes_are_there_once() {
    let (server, address) = tiny(&[("API_KEYS", "k")]);
    let pages = [
        "/docs/swagger-ui-bundle.js",
        "/openapi.json",
        "/",
        "/docs",
        "/health",
    ];
    let ask = |stream, page| Frame::head(stream, "GET", page, &[], http2::END_STREAM);
    for page in pages {
        assert_eq!(get(address, page).status, 200);
    }
    let before = resident_bytes(&server);
    let deaf: Vec<Http2> = (0..4)
        .map(|_| {
            let mut deaf = Http2::deaf(address);
            for n in 0..90 {
                deaf.send(&[ask(2 * n + 1, pages[n as usize % pages.len()])]);
                assert_eq!(deaf.status(2 * n + 1), Some(200));
            }
            deaf
        })
        .collect();
    let after = resident_bytes(&server);
    println!("memory {before} before, {after} after");
    // Each of the 360 would be up to 1.4 MB.
    assert!(after < before + (16 << 20), "{before} {after}");
    drop(deaf);
}

#[test]
fn http_2_is_bounded() {
    let (server, address) = tiny(&[]);
    let before = resident_bytes(&server);
    let ask = |connection: &mut Http2, stream| {
        let length = PAIR.len().to_string();
        let headers = [JSON, ("content-length", length.as_str())];
        connection.send(&[
            Frame::head(stream, "POST", "/rerank", &headers, 0),
            Frame::new(
                http2::kind::DATA,
                http2::END_STREAM,
                stream,
                PAIR.as_bytes(),
            ),
        ]);
        connection.status(stream)
    };
    // As it is meant.
    let mut connection = Http2::connect(address);
    assert_eq!(ask(&mut connection, 1), Some(200));
    assert_eq!(ask(&mut connection, 3), Some(200));
    // Requests that are cancelled as soon as they are made.
    let mut rapid = Http2::connect(address);
    let mut taken = 0;
    for n in 0..5000 {
        let stream = 2 * n + 1;
        let frames = [
            Frame::head(stream, "GET", "/live", &[], http2::END_STREAM),
            Frame::new(http2::kind::RST_STREAM, 0, stream, &8u32.to_be_bytes()),
        ];
        if !rapid.try_send(&frames) {
            break;
        }
        taken += 1;
    }
    let goaway = rapid.until(|frame| frame.kind == http2::kind::GOAWAY);
    println!("{taken} cancelled requests, {goaway:?}");
    // ENHANCE_YOUR_CALM, unless the connection was reset before it could be read.
    assert!(goaway.is_none_or(|goaway| goaway.error_code() == 11));
    assert!(taken < 5000, "nobody minded");
    // More requests at a time than are allowed.
    let mut crowd = Http2::connect(address);
    let open = |n: u32| Frame::head(2 * n + 1, "POST", "/rerank", &[JSON], 0);
    let frames: Vec<Frame> = (0..120).map(open).collect();
    crowd.send(&frames);
    let refused = crowd.until(|frame| frame.kind == http2::kind::RST_STREAM);
    let refused = refused.expect("one is refused");
    assert_eq!((refused.stream, refused.error_code()), (201, 7));
    // Headers without an end.
    let mut endless = Http2::connect(address);
    let mut head = Frame::head(1, "GET", "/live", &[], http2::END_STREAM);
    head.flags = http2::END_STREAM;
    let mut taken = endless.try_send(&[head]);
    let more = Frame::head(1, "GET", "/live", &[("x-more", &"y".repeat(10_000))], 0);
    let more = Frame::new(http2::kind::CONTINUATION, 0, 1, &more.payload);
    for _ in 0..2000 {
        taken = taken && endless.try_send(std::slice::from_ref(&more));
    }
    let end = endless.until(|frame| frame.kind == http2::kind::GOAWAY);
    println!("headers without an end: {end:?}");
    assert!(!taken || end.is_some(), "nobody minded");
    // A head that is too large, and one that is not HTTP.
    let mut large = Http2::connect(address);
    let long: Vec<(String, String)> = (0..20)
        .map(|n| (format!("x-{n}"), "y".repeat(4000)))
        .collect();
    let long: Vec<(&str, &str)> = long.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let whole = Frame::head(1, "GET", "/live", &long, http2::END_STREAM);
    let (first, rest) = whole.payload.split_at(16_000);
    let mut frames = vec![Frame::new(
        http2::kind::HEADERS,
        http2::END_STREAM,
        1,
        first,
    )];
    let parts: Vec<&[u8]> = rest.chunks(16_000).collect();
    for (n, part) in parts.iter().enumerate() {
        let flags = if n + 1 == parts.len() {
            http2::END_HEADERS
        } else {
            0
        };
        frames.push(Frame::new(http2::kind::CONTINUATION, flags, 1, part));
    }
    large.try_send(&frames);
    assert_eq!(large.status(1), Some(431));
    let mut odd = Http2::connect(address);
    odd.send(&[Frame::new(
        http2::kind::HEADERS,
        5,
        1,
        b"\xff\xff\xff\xff\xff\xff",
    )]);
    let end = odd.until(|frame| frame.kind == http2::kind::GOAWAY);
    assert!(end.is_some_and(|end| end.error_code() != 0));
    // Settings and pings over and over: answered, and nothing is kept of them.
    let mut flood = Http2::connect(address);
    let settings = Frame::new(http2::kind::SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]);
    let ping = Frame::new(http2::kind::PING, 0, 0, &[1; 8]);
    flood.0.set_nonblocking(false).expect("blocking");
    for _ in 0..2000 {
        let pair = [settings.clone(), ping.clone()];
        if !flood.try_send(&pair) || flood.receive().is_none() {
            break;
        }
    }
    // All of it harmed nobody.
    assert_eq!(ask(&mut connection, 5), Some(200));
    assert_eq!(
        post(address, "/rerank", &json!({"query": "q", "passage": "p"})).status,
        200
    );
    let after = resident_bytes(&server);
    println!("memory {before} before, {after} after");
    assert!(after < before + (32 << 20), "{before} {after}");
    assert_eq!(metric(address, "reranker_panics_total"), 0.0);
}

#[test]
fn a_client_that_expects_to_be_asked_for_its_body_is_asked() {
    let (_server, address) = tiny(&[]);
    let mut stream = connect(address);
    let length = PAIR.len().to_string();
    let headers = [
        JSON,
        ("expect", "100-continue"),
        ("content-length", &length),
    ];
    write_head(&mut stream, "POST", "/rerank", &headers);
    let mut asked = [0; 25];
    stream.read_exact(&mut asked).expect("it is asked");
    assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(PAIR.as_bytes()).expect("sent");
    assert_eq!(read_reply(stream).status, 200);
}

#[test]
fn a_refusal_is_read_by_a_client_that_goes_on_sending() {
    let (_server, address) = tiny(&[("MAX_BODY_BYTES", "100000"), ("API_KEYS", "k")]);
    // Larger than what the kernel takes of it, so that it is still on its way when the answer is.
    let body = " ".repeat(20_000_000);
    for (key, status) in [("k", 413), ("wrong", 401)] {
        let mut stream = connect(address);
        let length = body.len().to_string();
        let headers = [JSON, ("x-api-key", key), ("content-length", &length)];
        write_head(&mut stream, "POST", "/rerank", &headers);
        stream
            .write_all(body.as_bytes())
            .expect("all of it is taken");
        assert_eq!(read_reply(stream).status, status);
    }
}

#[test]
fn a_large_text_is_read_in_time_that_grows_with_its_length() {
    let (_server, address) = tiny(&[("MAX_TEXT_CHARS", "10000000"), ("MAX_PAIRS", "200000")]);
    let timed = |passage: &str| {
        let begun = Instant::now();
        let reply = post(
            address,
            "/rerank",
            &json!({"query": "q", "passage": passage}),
        );
        assert_eq!(reply.status, 200);
        begun.elapsed()
    };
    // A word without an end, and what normalisation makes more of.
    for piece in ["x", "ﷺ", "é", "</s>", "\u{301}"] {
        let times = [10_000, 100_000].map(|pieces| timed(&piece.repeat(pieces)));
        println!("{piece:?} ten and a hundred thousand times: {times:?}");
        // Ten times as long; what grows with the square would take a hundred times.
        let most = times[0].max(Duration::from_millis(50)) * 40;
        assert!(times[1] < most, "{piece:?}: {times:?}");
    }
    let texts = json!({"query": "q", "texts": vec![""; 100_000]});
    let reply = post(address, "/rerank", &texts);
    assert_eq!(reply.status, 200);
    assert_eq!(reply.json().as_array().map(Vec::len), Some(100_000));
}

/// Ways of writing a path that some server, somewhere, takes for another.
fn disguises(path: &str) -> Vec<String> {
    let rest = path.trim_start_matches('/');
    let first = rest.chars().next().unwrap_or('x') as u8;
    let tail = rest.get(1..).unwrap_or_default();
    vec![
        path.to_owned(),
        format!("/{path}"),
        format!("{path}/"),
        format!("{path}//"),
        format!("/.{path}"),
        format!("/x/..{path}"),
        format!("/health/..{path}"),
        format!("/docs/..{path}"),
        format!("/docs/%2e%2e{path}"),
        format!("/health;{path}"),
        format!("/health%2f..{path}"),
        format!("/health%00{path}"),
        format!("/%{first:02x}{tail}"),
        format!("/%25{first:02x}{tail}"),
        format!("{path}%2f"),
        format!("{path}%20"),
        format!("{path};a=/health"),
        format!("{path}?/health"),
        format!("{path}?file=page.js"),
        format!("{path}/../health"),
        format!("/base{path}"),
        format!("/base/base{path}"),
        format!("/base/{path}"),
        format!("/api{path}"),
        format!("/prod{path}"),
        path.to_uppercase(),
        path.replacen('/', "\\", 1),
        path.replace('/', "/./"),
        format!("http://reranker.test{path}"),
        format!("http://reranker.test/health{path}"),
    ]
}

#[test]
fn no_way_of_writing_a_request_passes_without_a_key() {
    let (_server, address) = tiny(&[("API_KEYS", "the-key"), ("BASE_PATH", "/base")]);
    let documents = get(address, "/openapi.json").json();
    let paths = documents["paths"].as_object().expect("paths").clone();
    const OPEN: [&str; 7] = [
        "/",
        "/health",
        "/live",
        "/ready",
        "/ping",
        "/docs",
        "/openapi.json",
    ];
    let closed: Vec<&String> = paths
        .keys()
        .filter(|p| !OPEN.contains(&p.as_str()))
        .collect();
    assert!(closed.len() > 25, "{closed:?}");
    // On one connection after the other, each for one route.
    // The status, and the bytes of the body.
    let ask = |stream: &mut TcpStream, method: &str, path: &str, more: &str| {
        let head =
            format!("{method} {path} HTTP/1.1\r\nhost: a\r\n{more}content-length: 0\r\n\r\n");
        stream.write_all(head.as_bytes()).ok()?;
        let (mut answer, mut part) = (Vec::new(), [0; 1 << 14]);
        loop {
            match stream.read(&mut part) {
                Ok(read) if read > 0 => answer.extend(&part[..read]),
                _ => return None,
            }
            let text = String::from_utf8_lossy(&answer);
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head
                    .lines()
                    .find_map(|l| l.strip_prefix("content-length: "));
                let length: usize = length.and_then(|l| l.parse().ok()).unwrap_or(0);
                if method == "HEAD" || body.len() >= length {
                    return Some((head.split(' ').nth(1)?.parse::<u16>().ok()?, body.len()));
                }
            }
        }
    };
    let overrides = "x-http-method-override: GET\r\nx-method-override: HEAD\r\nx-original-url: /health\r\nx-rewrite-url: /health\r\n\
                     x-forwarded-prefix: /health\r\nx-forwarded-uri: /health\r\nauthorization: Basic dGhlLWtleTo=\r\n";
    let mut asked = 0;
    for path in closed {
        let mut stream = connect(address);
        for disguise in disguises(path) {
            for (method, more) in [
                ("POST", ""),
                ("GET", overrides),
                ("HEAD", ""),
                ("OPTIONS", "origin: https://a.example\r\n"),
            ] {
                asked += 1;
                // What is no URI is answered 400, and ends the connection.
                let answer = ask(&mut stream, method, &disguise, more);
                let (status, body) = answer.unwrap_or((400, 0));
                // A file of the page that there is not; it is open to all.
                let of_page = disguise.starts_with("/docs/%2e%2e%2f");
                // A browser asks without a key what it may ask with one, and is told no more than that.
                let preflight = method == "OPTIONS" && body == 0;
                assert!(
                    [400, 401].contains(&status)
                        || of_page && status == 404
                        || preflight && status == 200,
                    "{method} {disguise}: {status}"
                );
                if status == 400 {
                    stream = connect(address);
                }
            }
        }
        let method = if paths[path].get("post").is_some() {
            "POST"
        } else {
            "GET"
        };
        let with_key = ask(
            &mut connect(address),
            method,
            path,
            "x-api-key: the-key\r\n",
        );
        assert!(
            with_key.is_some_and(|(status, _)| status != 401),
            "{path}: {with_key:?}"
        );
    }
    println!("{asked} ways in, none of them open");
}

#[test]
fn browsers_are_never_told_to_send_credentials_and_pages_are_locked_down() {
    for origins in ["*", "https://app.example", ""] {
        let (_server, address) = tiny(&[("CORS_ORIGINS", origins), ("API_KEYS", "k")]);
        for (method, path) in [
            ("OPTIONS", "/rerank"),
            ("POST", "/rerank"),
            ("GET", "/health"),
        ] {
            for origin in ["https://app.example", "null", "https://evil.example"] {
                let headers = [
                    ("origin", origin),
                    ("access-control-request-method", "POST"),
                    ("access-control-request-headers", "authorization, cookie"),
                    ("cookie", "session=1"),
                ];
                let reply = send(address, method, path, &headers, b"");
                assert_eq!(reply.header("access-control-allow-credentials"), None);
                let allowed = reply.header("access-control-allow-origin");
                let expected = match origins {
                    "*" => Some("*"),
                    _ if origin == origins => Some(origin),
                    _ => None,
                };
                assert_eq!(allowed, expected, "{method} {path} from {origin}");
            }
        }
        for page in [
            "/",
            "/?file=page.js",
            "/?file=page.css",
            "/docs",
            "/docs/page.js",
            "/docs/swagger-ui.css",
        ] {
            let reply = get(address, page);
            assert_eq!(reply.status, 200, "{page}");
            let policy = reply.header("content-security-policy").expect("a policy");
            for part in [
                "default-src 'none'",
                "frame-ancestors 'none'",
                "base-uri 'none'",
                "form-action 'none'",
            ] {
                assert!(policy.contains(part), "{page}: {policy}");
            }
            assert!(!policy.contains("unsafe"), "{page}: {policy}");
            for (name, value) in [
                ("x-content-type-options", "nosniff"),
                ("x-frame-options", "DENY"),
                ("referrer-policy", "no-referrer"),
            ] {
                assert_eq!(reply.header(name), Some(value), "{page}");
            }
        }
    }
}
