//! The real program on a plain port: start-up, draining, the queue, and what clients do wrong.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::client::{Reply, connect, get, metric, post, read_reply, send, write_head};
use crate::support::group::MemoryGroup;
use crate::support::models::{GatedModel, SlowModel, broken_model};
use crate::support::process::{PATIENCE, Process, ready, start, tiny, tiny_model};

const JSON: (&str, &str) = ("content-type", "application/json");

fn code(reply: &Reply) -> Value {
    reply.json()["error"]["code"].clone()
}

fn pair() -> Value {
    json!({"query": "when does the library open?", "passage": "The library opens at nine on weekdays."})
}

/// Posts from another thread.
fn post_aside(address: SocketAddr, path: &'static str, body: Value) -> JoinHandle<Reply> {
    std::thread::spawn(move || post(address, path, &body))
}

/// Waits until one of two long requests computes and the other waits behind it.
fn wait_until_one_waits(server: &Process) {
    // A request that has just come counts as waiting too, for as long as the compute thread takes to wake up. So the count must
    // stay the same for a while.
    const WHILE: Duration = Duration::from_millis(300);
    let start = Instant::now();
    let mut since = None;
    loop {
        let info = get(server.address(), "/info").json();
        if info["queued"] != 1 {
            since = None;
        } else if since.get_or_insert_with(Instant::now).elapsed() > WHILE {
            return;
        }
        assert!(
            start.elapsed() < PATIENCE,
            "none waits: {info}\n{}",
            server.log()
        );
    }
}

/// How many pairs of [`SlowModel::batch`] take about this many seconds here.
fn pairs_for(address: SocketAddr, seconds: f64) -> usize {
    let reply = post(address, "/rerank/batch", &SlowModel::batch(2));
    assert_eq!(reply.status, 200);
    let ms = reply.json()["ms"].as_f64().expect("a time");
    let pairs = (seconds * 1e3 / (ms / 2.0)).ceil() as usize;
    println!("two long pairs take {ms} ms: {pairs} for {seconds} s");
    pairs.clamp(2, 1000)
}

#[test]
fn the_port_answers_while_the_model_loads() {
    let model = GatedModel::new();
    let server = start(model.path(), &[]);
    let address = server.address();
    let early = post(address, "/rerank", &pair());
    assert_eq!((early.status, code(&early)), (503, json!("not_ready")));
    let wait: u64 = early
        .header("retry-after")
        .and_then(|seconds| seconds.parse().ok())
        .expect("Retry-After in seconds");
    assert!(wait > 0);
    assert_eq!(get(address, "/live").status, 200);
    assert_eq!(get(address, "/").status, 200);
    for path in ["/ready", "/info"] {
        assert_eq!(get(address, path).status, 503, "{path}");
    }
    let health = get(address, "/health");
    assert_eq!(
        (health.status, &health.json()["status"]),
        (503, &json!("loading"))
    );
    assert_eq!(health.json()["loaded"], false);

    model.open();
    server.wait_for_message("model ready");
    for path in ["/ready", "/info", "/health"] {
        assert_eq!(get(address, path).status, 200, "{path}");
    }
    assert_eq!(post(address, "/rerank", &pair()).status, 200);
}

#[test]
fn the_health_command_says_what_the_ready_route_says() {
    let health = |address: SocketAddr| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_reranker"))
            .arg("health")
            .env_clear()
            .env("HOST", address.ip().to_string())
            .env("PORT", address.port().to_string())
            .output()
            .expect("the program starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        (output.status.code(), out, err)
    };
    let model = GatedModel::new();
    let server = start(model.path(), &[]);
    let address = server.address();
    let (code, out, err) = health(address);
    assert_eq!(
        (code, out.as_str()),
        (Some(1), "503 Service Unavailable\n"),
        "{err}"
    );
    model.open();
    server.wait_for_message("model ready");
    let (code, out, err) = health(address);
    assert_eq!((code, out.as_str()), (Some(0), "200 OK\n"), "{err}");
    drop(server);
    let (code, _, err) = health(address);
    assert_eq!(code, Some(1));
    assert!(err.contains(&address.to_string()), "{err}");
}

#[test]
fn health_tells_what_is_known_of_a_model_by_its_name_and_the_size_of_any() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/bert");
    let health = |variables: &[(&str, &str)]| {
        let (_server, address) = ready(folder, variables);
        let [health, info] = ["/health", "/info"].map(|path| get(address, path).json());
        assert_eq!(health["parameters"], info["parameters"]);
        assert!(health["parameters"].as_u64() > Some(1000), "{health}");
        assert_eq!(health["architecture"], "bert");
        health["known"].clone()
    };
    assert_eq!(health(&[]), Value::Null);
    assert_eq!(health(&[("MODEL_NAME", "nobody/knows-it")]), Value::Null);
    let known = health(&[("MODEL_NAME", "cross-encoder/ms-marco-MiniLM-L6-v2")]);
    assert_eq!(
        (&known["family"], &known["licence"]),
        (&json!("BERT"), &json!("Apache-2.0"))
    );
    let quality = known["quality"].as_array().expect("a list");
    assert!(!quality.is_empty());
    for figure in quality {
        assert!(figure["value"].as_f64() > Some(0.0), "{figure}");
        let source = figure["source"].as_str().unwrap_or_default();
        assert!(source.starts_with("https://"), "{figure}");
    }
    assert!(known["time"]["ms"].as_f64() > Some(0.0), "{known}");
}

#[test]
fn a_broken_model_is_said_and_a_missing_one_ends_the_start() {
    let (folder, path) = broken_model();
    let server = start(path.to_str().expect("a UTF-8 path"), &[]);
    let address = server.address();
    server.wait_for_message("model not loaded");
    let health = get(address, "/health");
    assert_eq!(
        (health.status, &health.json()["status"]),
        (503, &json!("failed"))
    );
    let reason = health.json()["reason"].to_string();
    println!("{reason}");
    assert!(reason.contains("model.safetensors"), "{reason}");
    let refused = post(address, "/rerank", &pair());
    assert_eq!(
        (refused.status, code(&refused)),
        (503, json!("model_unavailable"))
    );
    assert_eq!(get(address, "/live").status, 200);
    drop(folder);

    let (status, log) = start("/no/such/model", &[]).wait();
    println!("{}", log.join("\n"));
    assert_eq!(status, Some(1));
    let error = only_error(&log);
    assert!(error.contains("MODEL_DIR") && error.contains("/no/such/model"));
}

/// What a start that failed says: its one line of JSON on the level of errors.
fn only_error(log: &[String]) -> String {
    let lines: Vec<Value> = log
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}")))
        .filter(|line: &Value| line["level"] == "ERROR")
        .collect();
    assert_eq!(lines.len(), 1, "{}", log.join("\n"));
    assert_eq!(lines[0]["message"], "failed");
    lines[0]["error"].as_str().expect("the error").to_owned()
}

#[test]
fn a_wrong_configuration_is_reported_whole() {
    let wrong = [
        ("MODEL_DIR", "models/none"),
        ("PORT", "http"),
        ("MAX_LENGTH", "0"),
        ("CORS_ORIGINS", "example.org"),
        ("REQUEST_TIMEOUT_S", "soon"),
        ("LOG_FORMAT", "xml"),
    ];
    let (status, log) = Process::serve(&wrong).wait();
    println!("{}", log.join("\n"));
    assert_eq!(status, Some(2));
    let named_in = |lines: &[&str]| {
        for (name, value) in &wrong[1..] {
            let named = lines
                .iter()
                .any(|line| line.starts_with(name) && line.contains(value));
            assert!(named, "{name} is not reported in {lines:?}");
        }
    };
    named_in(&only_error(&log).lines().collect::<Vec<_>>());

    // For a reader of text it is text.
    let mut wrong_text = wrong;
    wrong_text[5] = ("LOG_FORMAT", "text");
    let (status, log) = Process::serve(&wrong_text).wait();
    assert_eq!(status, Some(2));
    assert!(
        log[0].starts_with("reranker: wrong configuration"),
        "{log:?}"
    );
    assert!(log.iter().any(|line| line.starts_with("PORT=")), "{log:?}");
}

#[test]
fn a_port_that_is_taken_is_said_by_its_address() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let model = tiny_model();
    let (status, log) = Process::serve(&[
        ("MODEL_DIR", model.to_str().expect("a UTF-8 path")),
        ("HOST", "127.0.0.1"),
        ("PORT", &port),
    ])
    .wait();
    assert_eq!(status, Some(1));
    let error = only_error(&log);
    assert!(error.contains(&format!("127.0.0.1:{port}")), "{error}");
    assert!(error.contains("set PORT to another"), "{error}");
}

#[test]
fn a_start_that_fails_says_so_whatever_the_log_shows() {
    let model = tiny_model();
    let model = model.to_str().expect("a UTF-8 path");
    let none = tempfile::tempdir().expect("a folder");
    let no_folder = format!("cd {}", none.path().display());
    /// The shell's first words, variables, the exit code and what is said.
    type Start<'a> = (&'a str, &'a [(&'a str, &'a str)], i32, &'a [&'a str]);
    let empty = none.path().join("keys");
    std::fs::write(&empty, "# nobody yet\n").expect("written");
    let empty = empty.to_str().expect("a UTF-8 path");
    let starts: [Start<'_>; 12] = [
        (
            ":",
            &[("MODEL_DIR", "/no/such"), ("LOG_LEVEL", "none")],
            1,
            &["MODEL_DIR", "/no/such"],
        ),
        (
            ":",
            &[("MODEL_DIR", "/no/such"), ("LOG_LEVEL", "CRITICAL")],
            1,
            &["/no/such"],
        ),
        (
            ":",
            &[("LOG_LEVEL", "loud")],
            2,
            &["LOG_LEVEL=\"loud\"", "error, warn, info"],
        ),
        (":", &[("API_KEYS", "\n")], 2, &["API_KEYS", "white space"]),
        (
            ":",
            &[
                ("API_KEYS", "a,sha256:b"),
                ("BASE_PATH", "//"),
                ("CORS_ORIGINS", "null"),
            ],
            2,
            &["API_KEYS: key 2", "BASE_PATH=", "CORS_ORIGINS="],
        ),
        (
            ":",
            &[("MODEL_DIR", model), ("API_KEYS_FILE", "/no/such")],
            2,
            &["API_KEYS_FILE: /no/such: it cannot be read"],
        ),
        (
            ":",
            &[("MODEL_DIR", model), ("API_KEYS_FILE", empty)],
            2,
            &["API_KEYS_FILE: ", "it has no key"],
        ),
        (
            ":",
            &[("API_KEYS_FILE", empty), ("API_KEYS", "k")],
            2,
            &["API_KEYS_FILE: API_KEYS is set too"],
        ),
        (
            ":",
            &[("API_KEYS", "k"), ("KEY_LIMITS", "mobile:rpm=1")],
            2,
            &["KEY_LIMITS=", "mobile: no key of API_KEYS has this name"],
        ),
        (
            &no_folder,
            &[],
            1,
            &["models/demo", "MODEL_DIR", "MODEL_NAME"],
        ),
        (
            "ulimit -n 12",
            &[("MODEL_DIR", model), ("PORT", "0")],
            1,
            &["limit of open files is 12", "24 are needed"],
        ),
        (
            "ulimit -n 7",
            &[("MODEL_DIR", model), ("PORT", "0")],
            1,
            &["limit of open files is 7"],
        ),
    ];
    for (first, variables, code, parts) in starts {
        let (status, log) = Process::serve_after(first, &[], variables).wait();
        let error = only_error(&log);
        assert_eq!(status, Some(code), "{variables:?}: {error}");
        for part in parts {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
    // The fewest files are enough for a connection.
    let variables = [("MODEL_DIR", model), ("PORT", "0"), ("HOST", "127.0.0.1")];
    let server = Process::serve_after("ulimit -n 24", &[], &variables);
    server.wait_for_message("model ready");
    assert_eq!(post(server.address(), "/rerank", &pair()).status, 200);
}

#[test]
fn flags_go_before_variables_and_what_is_misspelt_is_noted() {
    let model = tiny_model();
    let flags = [
        "--model",
        model.to_str().expect("a UTF-8 path"),
        "--port",
        "0",
        "--host",
        "localhost",
    ];
    let variables = [
        ("MODEL_DIR", "/no/such"),
        ("PORT", "1"),
        ("HOST", "::1"),
        ("MAX_LENTH", "secret"),
        ("WORKERS", "3"),
    ];
    let server = Process::serve_after(":", &flags, &variables);
    server.wait_for_message("model ready");
    assert_eq!(post(server.address(), "/rerank", &pair()).status, 200);
    for meant in [
        "MAX_LENTH is set, which means nothing here: did you mean MAX_LENGTH?",
        "WORKERS is set, which means nothing here: did you mean THREADS?",
    ] {
        let note = server.wait_for_message(meant);
        assert_eq!(note["level"], "WARN");
    }
    assert!(!server.log().contains("secret"));
    let wrong = Process::serve_after(":", &["--port", "70000"], &[]).wait();
    assert_eq!(wrong.0, Some(2), "{:?}", wrong.1);
}

#[test]
fn people_are_greeted_with_links_and_lines_without_empty_fields() {
    let (server, address) = ready_in_text(&[("API_KEYS", "k")]);
    for part in [
        format!("playground  http://{address}/"),
        format!("API         http://{address}/docs"),
        "may call    whoever has an API key".into(),
    ] {
        server.wait_for(&part, |line| line.as_str()?.contains(&part).then_some(()));
    }
    assert_eq!(get(address, "/live").status, 200);
    let line = server.wait_for("the request", |line| {
        let line = line.as_str()?;
        line.contains("route=\"/live\"").then(|| line.to_owned())
    });
    assert!(!line.contains("\"\""), "{line}");
    // Nobody is greeted where the log is for programs.
    let (server, address) = tiny(&[]);
    assert_eq!(get(address, "/live").status, 200);
    let line = server.wait_for("the request", |line| {
        (line["route"] == "/live").then(|| line.clone())
    });
    for absent in ["code", "dialect", "trace_id"] {
        assert!(line.get(absent).is_none(), "{line}");
    }
    assert!(!server.log().contains("playground"));
}

/// A server whose log is text, once it scores.
fn ready_in_text(more: &[(&str, &str)]) -> (Process, SocketAddr) {
    let model = tiny_model();
    let mut more = more.to_vec();
    more.push(("LOG_FORMAT", "text"));
    let server = start(model.to_str().expect("a UTF-8 path"), &more);
    let address = server.wait_for("the address", |line| {
        let (_, address) = line.as_str()?.split_once("listening address=")?;
        address.trim().parse().ok()
    });
    server.wait_for("the model", |line| {
        line.as_str()?.contains("model ready").then_some(())
    });
    (server, address)
}

/// The program with a log and metrics that are not read on, and what of its log was read.
fn with_a_log_that_stands_still(
    more: &[(&str, &str)],
) -> (Child, SocketAddr, BufReader<ChildStderr>) {
    let model = tiny_model();
    let mut child = Command::new(env!("CARGO_BIN_EXE_reranker"))
        .arg("serve")
        .env_clear()
        .envs([
            ("HOST", "127.0.0.1"),
            ("PORT", "0"),
            ("EMF_METRICS", "true"),
        ])
        .env("MODEL_DIR", model)
        .envs(more.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut log = BufReader::with_capacity(1, child.stderr.take().expect("a pipe"));
    let (mut address, mut is_ready) = (None, false);
    while address.is_none() || !is_ready {
        let mut line = String::new();
        assert!(log.read_line(&mut line).expect("a line") > 0, "it ended");
        let line: Value = serde_json::from_str(&line).expect("JSON");
        is_ready |= line["message"] == "model ready";
        address = address.or_else(|| line["address"].as_str()?.parse().ok());
    }
    (child, address.expect("it listens"), log)
}

#[test]
fn a_log_that_nobody_reads_stops_no_answer_and_no_end() {
    let (mut child, address, log) = with_a_log_that_stands_still(&[]);
    // Many requests on one connection, until lines find no room any more.
    let id = "x".repeat(128);
    let request = format!("GET /live HTTP/1.1\r\nhost: a\r\nx-request-id: {id}\r\n\r\n");
    let mut stream = connect(address);
    while metric(address, "reranker_log_lines_dropped_total") == 0.0 {
        for _ in 0..20 {
            stream
                .write_all(request.repeat(50).as_bytes())
                .expect("sent");
            let (mut answers, mut part) = (0, [0; 1 << 16]);
            while answers < 50 {
                let read = stream.read(&mut part).expect("answered");
                assert!(read > 0, "it was closed");
                // Each answer ends with its body.
                answers += part[..read].iter().filter(|&&byte| byte == b'}').count();
            }
        }
    }
    assert_eq!(post(address, "/rerank", &pair()).status, 200);
    // Lines of metrics are the longer ones, so theirs were dropped. Once they are read again the log tells what is missing.
    let mut metrics = child.stdout.take().expect("a pipe");
    let metrics = std::thread::spawn(move || std::io::copy(&mut metrics, &mut std::io::sink()));
    let mut log = BufReader::new(log.into_inner());
    let mut line = String::new();
    while !line.contains("log lines were dropped") {
        line.clear();
        assert!(log.read_line(&mut line).expect("a line") > 0, "it ended");
    }
    let line: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(line["stream"], "stdout");
    assert!(
        line["lines"].as_u64().is_some_and(|lines| lines > 0),
        "{line}"
    );
    // The log stands still again, and may be full.
    signal(&child, "TERM");
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    assert!(metrics.join().expect("joins").is_ok());
}

#[test]
fn a_second_signal_ends_the_process_whatever_waits() {
    let model = SlowModel::new();
    for log_is_read in [true, false] {
        let more = [
            ("THREADS", "1"),
            ("SHUTDOWN_GRACE_S", "600"),
            ("MODEL_DIR", model.path()),
        ];
        let (mut child, address, mut log) = with_a_log_that_stands_still(&more);
        let accepted =
            [(); 2].map(|()| post_aside(address, "/rerank/batch", SlowModel::batch(1000)));
        while get(address, "/info").json()["queued"] != 1 {}
        signal(&child, "TERM");
        if log_is_read {
            let mut line = String::new();
            while !line.contains("draining") {
                line.clear();
                assert!(log.read_line(&mut line).expect("a line") > 0, "it ended");
            }
        } else {
            // Until it takes no connection any more.
            while TcpStream::connect(address).is_ok() {}
        }
        assert_eq!(child.try_wait().expect("it lives"), None);
        signal(&child, "INT");
        assert_eq!(child.wait().expect("it ends").code(), Some(1));
        assert!(accepted.into_iter().all(|reply| reply.join().is_err()));
    }
}

#[test]
fn where_memory_is_short_the_process_serves_or_ends() {
    let model = tiny_model();
    let variables = [
        ("MODEL_DIR", model.to_str().expect("a UTF-8 path")),
        ("HOST", "127.0.0.1"),
        ("PORT", "0"),
        ("THREADS", "2"),
    ];
    for mib in [96, 128, 160, 192, 208, 224, 240, 256, 272, 288, 320, 400] {
        let limit = format!("ulimit -c 0; ulimit -v {}", mib * 1024);
        let server = Process::serve_after(&limit, &[], &variables);
        // It may also end after that, while the model is loaded.
        let live = |address| std::panic::catch_unwind(|| get(address, "/live").status == 200);
        match server.listening_or_ended().map(live) {
            Some(Ok(live)) => {
                assert!(live, "{mib} MiB");
                println!("{mib} MiB: serves");
            }
            Some(Err(_)) | None => {
                let (status, log) = server.wait();
                println!(
                    "{mib} MiB: {status:?}: {}",
                    log.last().map_or("", String::as_str)
                );
                // Without a code where an allocation failed, which aborts.
                assert!(
                    [Some(1), Some(127), None].contains(&status),
                    "{mib} MiB: {status:?}"
                );
                assert!(!log.is_empty(), "{mib} MiB: it ended without a word");
            }
        }
    }
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("sh")
        .args(["-c", &format!("kill -{name} {}", child.id())])
        .status()
        .expect("a shell");
    assert!(sent.success());
}

#[test]
fn sigterm_answers_what_was_accepted_and_takes_nothing_new() {
    let model = SlowModel::new();
    let more = [
        ("THREADS", "1"),
        ("BATCH_TOKENS", "512"),
        ("SHUTDOWN_GRACE_S", "600"),
    ];
    let (server, address) = ready(model.path(), &more);
    let pairs = pairs_for(address, 3.0);
    // Whichever comes first runs, the other waits.
    let accepted = [(); 2].map(|()| post_aside(address, "/rerank/batch", SlowModel::batch(pairs)));
    wait_until_one_waits(&server);
    // A connection whose request has not come yet.
    let idle = connect(address);
    server.terminate();
    server.wait_for_message("draining");
    // The listener goes before that line is written.
    let refused = TcpStream::connect(address);
    assert!(refused.is_err(), "a new connection was accepted");
    for reply in accepted {
        let reply = reply.join().expect("answered");
        assert_eq!((reply.status, &reply.json()["count"]), (200, &json!(pairs)));
    }
    drop(idle);
    let (status, log) = server.wait();
    assert_eq!(status, Some(0), "{}", log.join("\n"));
    assert!(log.iter().any(|line| line.contains("stopped")));
}

#[test]
fn a_grace_that_runs_out_ends_the_process_all_the_same() {
    let model = SlowModel::new();
    let more = [("THREADS", "1"), ("SHUTDOWN_GRACE_S", "0.2")];
    let (server, address) = ready(model.path(), &more);
    let accepted = [(); 2].map(|()| post_aside(address, "/rerank/batch", SlowModel::batch(1000)));
    wait_until_one_waits(&server);
    server.terminate();
    let (status, log) = server.wait();
    assert_eq!(status, Some(1), "{}", log.join("\n"));
    let error = only_error(&log);
    assert!(error.contains("SHUTDOWN_GRACE_S ran out"), "{error}");
    // Their connections broke; that is no answer, and nobody waits for one.
    assert!(accepted.into_iter().all(|reply| reply.join().is_err()));
}

#[test]
fn a_full_queue_answers_429_and_loses_nothing() {
    let model = SlowModel::new();
    let more = [
        ("THREADS", "1"),
        ("MAX_QUEUE", "1"),
        ("BATCH_TOKENS", "512"),
    ];
    let (server, address) = ready(model.path(), &more);
    let pairs = pairs_for(address, 4.0);
    // Whichever comes first runs, the other waits. The first may still be on its way from the queue when the second comes.
    let accepted = [(); 2].map(|()| {
        std::thread::spawn(move || {
            let body = SlowModel::batch(pairs);
            loop {
                let reply = post(address, "/rerank/batch", &body);
                if reply.status != 429 {
                    return reply;
                }
            }
        })
    });
    wait_until_one_waits(&server);
    let more: Vec<JoinHandle<Reply>> = (0..8)
        .map(|_| post_aside(address, "/rerank", pair()))
        .collect();
    let more: Vec<Reply> = more
        .into_iter()
        .map(|reply| reply.join().expect("answered"))
        .collect();
    let refused: Vec<&Reply> = more.iter().filter(|reply| reply.status == 429).collect();
    println!("{} of {} were refused", refused.len(), more.len());
    assert!(!refused.is_empty());
    for reply in &more {
        assert!([200, 429].contains(&reply.status), "{}", reply.status);
    }
    for reply in refused {
        let error = reply.json()["error"].clone();
        assert_eq!(
            (&error["code"], &error["limit"]),
            (&json!("busy"), &json!(1))
        );
        let wait = reply
            .header("retry-after")
            .and_then(|wait| wait.parse::<u64>().ok());
        assert!(
            wait.is_some_and(|wait| wait >= 1),
            "{:?}",
            reply.header("retry-after")
        );
    }
    for reply in accepted {
        assert_eq!(reply.join().expect("answered").status, 200);
    }
    assert_eq!(post(address, "/rerank", &pair()).status, 200);
}

#[test]
fn a_client_that_leaves_does_not_keep_the_model_from_the_next() {
    let model = SlowModel::new();
    let (server, address) = ready(model.path(), &[("THREADS", "1"), ("BATCH_TOKENS", "512")]);
    // So much that the next request would not be answered in this test's time if it went on.
    let body = SlowModel::batch(1000).to_string();
    let length = body.len().to_string();
    let leaving = [(); 2].map(|()| {
        let mut stream = connect(address);
        let headers = [JSON, ("content-length", &length)];
        write_head(&mut stream, "POST", "/rerank/batch", &headers);
        stream.write_all(body.as_bytes()).expect("sent");
        stream
    });
    wait_until_one_waits(&server);
    // Until they have become tokens and wait, or compute.
    let begun = Instant::now();
    let queued = loop {
        let pending = get(address, "/info").json()["pending_tokens"].as_f64();
        let pending = pending.expect("a number");
        if pending > 100_000.0 {
            break pending;
        }
        assert!(begun.elapsed() < PATIENCE, "{pending} tokens wait");
    };
    drop(leaving);
    assert_eq!(post(address, "/rerank", &pair()).status, 200);
    // What they had queued was not computed.
    let computed = metric(address, "reranker_computed_tokens_total");
    println!("{queued} tokens were queued, {computed} were computed");
    assert!(computed < queued / 2.0);
    assert_eq!(get(address, "/info").json()["pending_tokens"], 0);
    // One that leaves in the middle of its body, and one in the middle of its head.
    let mut half = connect(address);
    write_head(
        &mut half,
        "POST",
        "/rerank/batch",
        &[JSON, ("content-length", &length)],
    );
    half.write_all(&body.as_bytes()[..body.len() / 2])
        .expect("sent");
    drop(half);
    connect(address)
        .write_all(b"POST /rerank HT")
        .expect("sent");
    assert_eq!(post(address, "/rerank", &pair()).status, 200);
    server.terminate();
    let (status, log) = server.wait();
    assert_eq!(status, Some(0), "{}", log.join("\n"));
    let gone = log.iter().filter(|line| line.contains("client_gone"));
    assert!(gone.count() >= 2, "{}", log.join("\n"));
}

#[test]
fn a_body_over_the_limit_is_refused_by_its_announced_and_by_its_true_length() {
    let (_server, address) = tiny(&[("MAX_BODY_BYTES", "4096")]);
    // Announced only: the answer comes without a byte of it.
    let mut announced = connect(address);
    write_head(
        &mut announced,
        "POST",
        "/rerank",
        &[JSON, ("content-length", "99999999")],
    );
    let reply = read_reply(announced);
    let error = reply.json()["error"].clone();
    assert_eq!(
        (reply.status, &error["code"], &error["got"], &error["limit"]),
        (
            413,
            &json!("body_too_large"),
            &json!(99_999_999),
            &json!(4096)
        )
    );
    let chunked = |body: &str| {
        let mut stream = connect(address);
        write_head(
            &mut stream,
            "POST",
            "/rerank",
            &[JSON, ("transfer-encoding", "chunked")],
        );
        let mut chunks = Vec::new();
        for chunk in body.as_bytes().chunks(1000) {
            chunks.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
            chunks.extend(chunk);
            chunks.extend(b"\r\n");
        }
        chunks.extend(b"0\r\n\r\n");
        stream.write_all(&chunks).expect("sent");
        read_reply(stream)
    };
    let over = json!({"query": "q", "passage": "p".repeat(5000)}).to_string();
    let reply = chunked(&over);
    assert_eq!((reply.status, code(&reply)), (413, json!("body_too_large")));
    assert_eq!(chunked(&pair().to_string()).status, 200);
    assert_eq!(
        send(address, "POST", "/rerank", &[JSON], over.as_bytes()).status,
        413
    );
}

#[test]
fn a_body_that_does_not_come_is_given_up_at_the_requests_timeout() {
    let (_server, address) = tiny(&[("REQUEST_TIMEOUT_S", "0.5")]);
    let mut stalled = connect(address);
    write_head(
        &mut stalled,
        "POST",
        "/rerank",
        &[JSON, ("content-length", "100")],
    );
    stalled.write_all(b"{\"query\":").expect("sent");
    let reply = read_reply(stalled);
    assert_eq!(
        (reply.status, code(&reply)),
        (408, json!("request_timeout"))
    );
}

#[test]
fn a_client_that_sends_no_head_is_cut_off_and_one_with_a_slow_body_is_not() {
    const TIMEOUT: Duration = Duration::from_millis(700);
    let (_server, address) = tiny(&[("HEADER_TIMEOUT_S", "0.7")]);
    let stalled: Vec<JoinHandle<Duration>> = [
        "",
        // What HTTP/2 would begin with, too.
        "P",
        "POST /rer",
        "POST /rerank HTTP/1.1\r\nhost: reranker.test\r\ncontent-le",
    ]
    .into_iter()
    .map(|head| {
        std::thread::spawn(move || {
            let begun = Instant::now();
            let mut stream = connect(address);
            stream.write_all(head.as_bytes()).expect("sent");
            let mut answer = Vec::new();
            let ended = stream.read_to_end(&mut answer);
            assert!(ended.is_ok(), "{head:?} was not cut off: {ended:?}");
            assert!(
                answer.is_empty() || answer.starts_with(b"HTTP/1.1 408"),
                "{head:?}: {}",
                String::from_utf8_lossy(&answer)
            );
            begun.elapsed()
        })
    })
    .collect();
    let body = pair().to_string();
    let length = body.len().to_string();
    let mut slow = connect(address);
    write_head(
        &mut slow,
        "POST",
        "/rerank",
        &[JSON, ("content-length", &length)],
    );
    std::thread::sleep(TIMEOUT * 2);
    slow.write_all(body.as_bytes()).expect("sent");
    assert_eq!(read_reply(slow).status, 200);
    for stalled in stalled {
        let after = stalled.join().expect("cut off");
        println!("cut off after {after:?}");
        assert!(after >= TIMEOUT, "{after:?}");
    }
}

#[test]
fn the_first_answer_with_a_score_tells_what_the_start_took() {
    let (server, address) = tiny(&[]);
    let timing = |reply: &Reply| reply.header("server-timing").map(str::to_owned);
    let before = get(address, "/health");
    assert_eq!(timing(&before), None);
    let cold_start = before.json()["cold_start"].clone();
    println!("{cold_start:#}");
    for name in [
        "process_ms",
        "tokenizer_ms",
        "weights_ms",
        "warm_up_ms",
        "first_inference_ms",
        "first_score_ms",
        "total_ms",
    ] {
        assert!(
            cold_start[name].as_f64().is_some_and(|ms| ms > 0.0),
            "{name}"
        );
    }
    let ms = |name: &str| cold_start[name].as_f64().expect("a time");
    let parts = ms("process_ms") + ms("tokenizer_ms").max(ms("weights_ms"));
    assert!(parts + ms("first_inference_ms") <= ms("first_score_ms"));
    assert!(ms("first_score_ms") <= ms("total_ms"));
    let prefetch = &cold_start["prefetch"];
    assert!(
        prefetch["planned_bytes"]
            .as_u64()
            .is_some_and(|bytes| bytes > 0)
    );
    assert!(prefetch["ms"].as_f64().is_some_and(|ms| ms > 0.0));

    let refused = post(address, "/rerank", &json!({"query": "", "passage": "p"}));
    assert_eq!((refused.status, timing(&refused)), (422, None));
    let first = timing(&post(address, "/rerank", &pair())).expect("the receipt");
    println!("{first}");
    // A description holds commas too, but no duration.
    let metrics: Vec<(&str, f64)> = first
        .split(", ")
        .filter_map(|metric| {
            let (name, parameters) = metric.split_once(";dur=")?;
            let duration = parameters.split(';').next()?;
            Some((name, duration.parse().ok()?))
        })
        .collect();
    let names: Vec<&str> = metrics.iter().map(|(name, _)| *name).collect();
    let expected = [
        "tokenize",
        "queue",
        "infer",
        "process",
        "tokenizer",
        "weights",
        "prefetch",
        "ready",
        "inference",
        "total",
    ];
    assert_eq!(names, expected);
    assert!(first.contains(";desc=\""), "{first}");
    assert_eq!(metrics[9].1, ms("first_score_ms"));
    // Every answer tells its own times, and only the first those of the start.
    let second = timing(&post(address, "/rerank", &pair())).expect("its own times");
    assert!(
        second.contains("infer;dur=") && !second.contains("total;dur="),
        "{second}"
    );

    let line = server.wait_for_message("cold start");
    // The log rounds to tenths.
    let tenths = (ms("first_score_ms") * 10.0).round() / 10.0;
    assert_eq!(line["first_score_ms"].as_f64(), Some(tenths));
    assert_eq!(line["prefetch_done"], true);
    for name in [
        "process_ms",
        "tokenizer_ms",
        "weights_ms",
        "ready_ms",
        "prefetch_ms",
    ] {
        assert!(
            line[name].as_f64().is_some_and(|n| n >= 0.0),
            "{name}: {line}"
        );
    }
    server.terminate();
    let (_, log) = server.wait();
    let told = log
        .iter()
        .filter(|line| line.contains("cold start"))
        .count();
    assert_eq!(told, 1);
}

#[test]
fn wrong_requests_are_refused_with_what_would_be_right() {
    let (_server, address) = tiny(&[]);
    let body = pair().to_string();
    let reply = send(
        address,
        "POST",
        "/rerank",
        &[("content-type", "text/plain")],
        body.as_bytes(),
    );
    assert_eq!(
        (reply.status, code(&reply)),
        (415, json!("unsupported_media_type"))
    );
    for (method, path, allow) in [
        ("GET", "/rerank", "POST"),
        ("PUT", "/rerank/batch", "POST"),
        ("DELETE", "/health", "GET,HEAD"),
    ] {
        let reply = send(address, method, path, &[], b"");
        assert_eq!(
            (reply.status, code(&reply)),
            (405, json!("method_not_allowed")),
            "{path}"
        );
        assert_eq!(reply.header("allow"), Some(allow), "{path}");
    }
    let reply = get(address, "/rerankk");
    assert_eq!((reply.status, code(&reply)), (404, json!("not_found")));
    let routes = reply.json()["error"]["routes"].clone();
    for route in [
        "POST /rerank",
        "POST /rerank/batch",
        "GET /health",
        "GET /openapi.json",
    ] {
        assert!(
            routes
                .as_array()
                .is_some_and(|routes| routes.contains(&route.into())),
            "{routes}"
        );
    }
}

#[test]
fn what_is_no_http_is_answered_or_cut_and_harms_nothing() {
    let (_server, address) = tiny(&[]);
    let framing =
        "POST /rerank HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n";
    let long_header = format!(
        "GET / HTTP/1.1\r\nhost: a\r\nx-long: {}\r\n\r\n",
        "a".repeat(1 << 20)
    );
    for bytes in [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".as_slice(),
        b"nonsense\r\n\r\n",
        framing.as_bytes(),
        long_header.as_bytes(),
    ] {
        let mut stream = connect(address);
        // The server may have answered and closed before all of it is sent.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let line = String::from_utf8_lossy(&answer)
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned();
        println!(
            "{:?}… is answered {line:?}",
            String::from_utf8_lossy(&bytes[..10])
        );
        assert!(line.is_empty() || line.starts_with("HTTP/1.1 4"), "{line}");
    }
    assert_eq!(post(address, "/rerank", &pair()).status, 200);
}

#[test]
fn browsers_of_allowed_origins_may_call_with_authorization() {
    let preflight = |address, origin| {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            (
                "access-control-request-headers",
                "authorization,content-type",
            ),
        ];
        send(address, "OPTIONS", "/rerank", &headers, b"")
    };
    let (_server, address) = tiny(&[]);
    let reply = preflight(address, "https://app.example.org");
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("access-control-allow-origin"), Some("*"));
    assert_eq!(
        reply.header("access-control-allow-headers"),
        Some("authorization,content-type")
    );
    assert!(
        reply
            .header("access-control-allow-methods")
            .is_some_and(|allowed| allowed.contains("POST"))
    );
    // Errors carry the header too, else a page could not read them.
    let origin = ("origin", "https://app.example.org");
    let refused = send(address, "POST", "/rerank", &[origin, JSON], b"{");
    assert_eq!(
        (
            refused.status,
            refused.header("access-control-allow-origin")
        ),
        (400, Some("*"))
    );

    let (_server, address) = tiny(&[("CORS_ORIGINS", "https://app.example.org")]);
    let allowed = preflight(address, "https://app.example.org");
    assert_eq!(
        allowed.header("access-control-allow-origin"),
        Some("https://app.example.org")
    );
    let other = preflight(address, "https://other.example.org");
    assert_eq!(other.header("access-control-allow-origin"), None);
}

#[test]
fn a_callers_request_id_is_kept_where_it_is_one() {
    let (server, address) = tiny(&[]);
    let with = |id| send(address, "GET", "/live", &[("x-request-id", id)], b"");
    assert_eq!(
        with("order-17:a.b").header("x-request-id"),
        Some("order-17:a.b")
    );
    for id in ["a b", "{\"level\":\"ERROR\"}", ""] {
        let reply = with(id);
        let given = reply.header("x-request-id").expect("an id").to_owned();
        assert_ne!(given, id);
        let line = server.wait_for("the request", |line| {
            (line["id"] == given.as_str()).then(|| line.clone())
        });
        assert_eq!(line["route"], "/live");
    }
}

#[test]
fn no_text_reaches_the_log_at_any_level() {
    let (server, address) = tiny(&[("LOG_LEVEL", "trace")]);
    let canary = "xylophonequagga";
    let bodies = [
        json!({"query": canary, "passage": canary}).to_string(),
        json!({"query": canary, "passage": {canary: canary}}).to_string(),
        json!({"query": canary, "passage": canary, "truncation": canary}).to_string(),
        format!("{{\"query\": \"{canary}\", \"passage\": {canary}"),
        canary.to_owned(),
    ];
    for body in &bodies {
        let reply = send(address, "POST", "/rerank", &[JSON], body.as_bytes());
        println!("{} {}", reply.status, reply.json());
    }
    let batch = json!({"pairs": [{"query": canary, "passage": canary}, {"query": canary}]});
    assert_eq!(post(address, "/rerank/batch", &batch).status, 422);
    assert_eq!(get(address, &format!("/{canary}")).status, 404);
    server.terminate();
    let (status, log) = server.wait();
    assert_eq!(status, Some(0));
    for line in &log {
        assert!(!line.contains(canary), "{line}");
    }
    let requests: Vec<Value> = log
        .iter()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap_or_else(|_| panic!("not JSON: {line}"))
        })
        .filter(|line| line["message"] == "request")
        .collect();
    assert_eq!(requests.len(), bodies.len() + 2);
    let first = &requests[0];
    assert_eq!(
        (&first["route"], &first["status"], &first["pairs"]),
        (&json!("/rerank"), &json!(200), &json!(1))
    );
    for line in &requests {
        for name in ["ms", "documents", "pairs", "tokens", "status"] {
            assert!(line[name].is_number(), "{name} in {line}");
        }
        assert!(
            line["id"].is_string() && line["route"].is_string(),
            "{line}"
        );
    }
}

/// Three pairs of different lengths, each with its tokens.
fn measured() -> [(Value, u64); 3] {
    let (_server, address) = tiny(&[]);
    [3, 9, 20].map(|words| {
        let passage = "a mile and a half ".repeat(words);
        let body = json!({"query": "how far?", "passage": passage});
        let tokens = post(address, "/rerank", &body).json()["tokens"].as_u64();
        (body, tokens.expect("its tokens"))
    })
}

#[test]
fn a_panic_in_one_request_is_a_500_with_its_id_and_harms_no_other() {
    let [in_tokenizing, in_computing, in_answering] = measured();
    let places = format!(
        "tokenize:{},compute:{},answer:{}",
        in_tokenizing.1, in_computing.1, in_answering.1
    );
    let (server, address) = tiny(&[("INJECT_PANIC", &places)]);
    let others: Vec<JoinHandle<()>> = (0..3)
        .map(|_| {
            std::thread::spawn(move || {
                for _ in 0..20 {
                    assert_eq!(post(address, "/rerank", &pair()).status, 200);
                }
            })
        })
        .collect();
    for (n, (body, _)) in [&in_tokenizing, &in_computing, &in_answering]
        .into_iter()
        .enumerate()
    {
        let id = format!("panic-{n}");
        let headers = [JSON, ("x-request-id", id.as_str())];
        let reply = send(
            address,
            "POST",
            "/rerank",
            &headers,
            body.to_string().as_bytes(),
        );
        assert_eq!(
            (reply.status, code(&reply), reply.header("x-request-id")),
            (500, json!("internal"), Some(id.as_str()))
        );
        assert_eq!(reply.json()["error"]["message"], "internal error");
        let logged = server.wait_for("the request", |line| {
            (line["id"] == id.as_str() && line["message"] == "request").then(|| line.clone())
        });
        assert_eq!(
            (&logged["status"], &logged["level"]),
            (&json!(500), &json!("WARN"))
        );
        // One that is well in between: two in a row on the compute thread would be another matter.
        assert_eq!(post(address, "/rerank", &pair()).status, 200);
    }
    for other in others {
        other.join().expect("nobody else is harmed");
    }
    // Alone or with others in its pass: what panics is tried again by itself.
    let panics = metric(address, "reranker_panics_total");
    assert!((3.0..=4.0).contains(&panics), "{panics}");
    server.terminate();
    let (status, log) = server.wait();
    assert_eq!(status, Some(0), "{}", log.join("\n"));
    let places = log
        .iter()
        .filter(|line| line.contains("\"message\":\"panic\""));
    assert!(places.count() >= 3);
    // The panics' messages quote a text, as those of other people's code may.
    for line in log {
        assert!(
            !line.contains("half") && !line.contains("on purpose"),
            "{line}"
        );
    }
}

#[test]
fn two_panics_of_the_compute_thread_in_a_row_end_the_process_with_its_own_code() {
    let [_, (body, tokens), _] = measured();
    let place = format!("compute:{tokens}");
    let (server, address) = tiny(&[("INJECT_PANIC", &place)]);
    // A core file would hold what its requests said.
    let filter = std::fs::read_to_string(format!("/proc/{}/coredump_filter", server.id()));
    assert_eq!(filter.expect("a running process").trim(), "00000000");
    for _ in 0..3 {
        assert_eq!(post(address, "/rerank", &body).status, 500);
        assert_eq!(post(address, "/rerank", &pair()).status, 200);
    }
    assert_eq!(post(address, "/rerank", &body).status, 500);
    // The one that ends it is answered too.
    assert_eq!(post(address, "/rerank", &body).status, 500);
    let (status, log) = server.wait();
    assert_eq!(status, Some(70), "{}", log.join("\n"));
    let said = log.iter().any(|line| line.contains("ending with code 70"));
    assert!(said, "{}", log.join("\n"));
}

#[test]
fn at_sigterm_what_has_not_been_accepted_yet_is_told_503() {
    let (server, address) = tiny(&[]);
    let body = pair().to_string();
    let length = body.len().to_string();
    let mut half = connect(address);
    write_head(
        &mut half,
        "POST",
        "/rerank",
        &[JSON, ("content-length", &length)],
    );
    half.write_all(&body.as_bytes()[..10]).expect("sent");
    // Until the server has seen its head.
    while metric(address, "reranker_body_bytes") < 10.0 {}
    server.terminate();
    server.wait_for_message("draining");
    half.write_all(&body.as_bytes()[10..]).expect("sent");
    let reply = read_reply(half);
    assert_eq!((reply.status, code(&reply)), (503, json!("draining")));
    let (status, log) = server.wait();
    assert_eq!(status, Some(0), "{}", log.join("\n"));
}

#[test]
fn a_memory_limit_that_cannot_do_is_said_at_the_start() {
    let model = SlowModel::new();
    let serve = |bytes: u64, more: &[(&str, &str)]| {
        let group = MemoryGroup::new(bytes)?;
        let mut variables = vec![
            ("MODEL_DIR", model.path()),
            ("HOST", "127.0.0.1"),
            ("PORT", "0"),
        ];
        variables.extend(more);
        Some((
            Process::serve_in_group(&group.processes(), &variables),
            group,
        ))
    };
    // Its weights alone are 40 MB.
    let Some((server, _group)) = serve(40 << 20, &[]) else {
        println!("NOT RUN: no control group can be made here");
        return;
    };
    let (status, log) = server.wait();
    let error = only_error(&log);
    println!("{error}");
    assert_eq!(status, Some(1));
    for part in [
        "the model needs at least",
        "allows 40 MiB",
        "memory.",
        "pack",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    // What is enough is enough, also for more and larger bodies than fit.
    let in_flight = [
        ("MAX_BODY_BYTES", "4000000"),
        ("MAX_BODY_BYTES_IN_FLIGHT", "16000000"),
        ("BATCH_TOKENS", "512"),
        ("THREADS", "1"),
    ];
    let (server, _group) = serve(288 << 20, &in_flight).expect("there was one before");
    server.wait_for_message("model ready");
    let address = server.address();
    let body = json!({"query": "q", "passage": "p", "x": "x".repeat(3_900_000)}).to_string();
    let crowd: Vec<JoinHandle<u16>> = (0..100)
        .map(|_| {
            let body = body.clone();
            std::thread::spawn(move || {
                send(address, "POST", "/rerank", &[JSON], body.as_bytes()).status
            })
        })
        .collect();
    for client in crowd {
        let status = client.join().expect("answered");
        assert!([200, 429].contains(&status), "{status}");
    }
    assert_eq!(post(address, "/rerank", &pair()).status, 200);
}

/// Posts with a key.
fn post_with(address: SocketAddr, path: &str, key: &str, body: &Value) -> Reply {
    let headers = [JSON, ("x-api-key", key)];
    send(address, "POST", path, &headers, body.to_string().as_bytes())
}

/// Asks until it is so: a file of keys is looked at once a second, when somebody asks.
fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn keys_of_a_file_change_without_a_restart() {
    const OLD: &str = "quagga-old";
    const NEW: &str = "quagga-new";
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("keys");
    let hashed = |key: &str| format!("mobile=sha256:{:x}\n", Sha256::digest(key));
    let put = |text: &str| {
        let whole = folder.path().join("keys.new");
        std::fs::write(&whole, text).expect("written");
        std::fs::rename(&whole, &file).expect("renamed");
    };
    put(&format!("# callers\n{}", hashed(OLD)));
    let path = file.to_str().expect("a UTF-8 path");
    let (server, address) = tiny(&[("API_KEYS_FILE", path), ("LOG_FORMAT", "json")]);
    let status = |key: &str| post_with(address, "/rerank", key, &pair()).status;
    let metrics = |key: &str| {
        let reply = send(address, "GET", "/metrics", &[("x-api-key", key)], b"");
        assert_eq!(reply.status, 200);
        String::from_utf8(reply.body).expect("text")
    };
    let broken = |key: &str| metrics(key).contains("reranker_key_file_broken 1\n");
    assert_eq!((status(OLD), status(NEW)), (200, 401));

    // Both hold for as long as callers change.
    put(&(hashed(OLD) + &hashed(NEW)));
    until("the new key is taken", || status(NEW) == 200);
    assert_eq!(status(OLD), 200);
    put(&hashed(NEW));
    until("the old key is refused", || status(OLD) == 401);
    assert_eq!(status(NEW), 200);

    // A file that opens no door, or every door, changes nothing, and is told once.
    for wrong in ["", "mobile=sha256:12\n", "# all are gone\n"] {
        put(wrong);
        until("the broken file is noticed", || broken(NEW));
        assert_eq!((status(NEW), status(OLD), status("")), (200, 401, 401));
        put(&hashed(NEW));
        until("the whole file is noticed", || !broken(NEW));
    }
    std::fs::remove_file(&file).expect("removed");
    until("the missing file is noticed", || broken(NEW));
    assert_eq!(status(NEW), 200);
    put(&hashed(OLD));
    until("the last keys hold", || status(OLD) == 200);
    assert_eq!(status(NEW), 401);

    let counted = metrics(OLD);
    assert!(
        counted.contains("reranker_key_file_reads_total 3\n"),
        "{counted}"
    );
    assert!(counted.contains(r#"reranker_key_requests_total{key_name="mobile",status="200"}"#));
    server.terminate();
    let (code, log) = server.wait();
    assert_eq!(code, Some(0));
    let errors = log
        .iter()
        .filter(|line| line.contains("API_KEYS_FILE cannot be used"));
    assert_eq!(errors.count(), 4, "{}", log.join("\n"));
    let lines: Vec<Value> = log
        .iter()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    for line in lines.iter().filter(|line| line["message"] == "request") {
        let name = (line["status"] == 200).then_some("mobile");
        // Somebody without a key has no name.
        assert_eq!(line["key_name"].as_str(), name, "{line}");
    }
    for secret in [OLD, NEW] {
        let hash = format!("{:x}", Sha256::digest(secret));
        for line in log.iter().map(String::as_str).chain(counted.lines()) {
            assert!(!line.contains(secret) && !line.contains(&hash), "{line}");
        }
    }
}

#[test]
fn a_key_over_its_limits_is_told_429_in_every_dialects_words() {
    let documents = json!({"query": "when?", "documents": ["At nine.", "At ten."]});
    let texts = json!({"query": "when?", "texts": ["At nine."]});
    let input = json!({"query": "when?", "input": ["At nine."]});
    let batch = json!({"pairs": [pair()]});
    let bedrock = json!({
        "queries": [{"type": "TEXT", "textQuery": {"text": "when?"}}],
        "sources": [{"type": "INLINE", "inlineDocumentSource": {"type": "TEXT", "textDocument": {"text": "At nine."}}}],
        "rerankingConfiguration": {"type": "BEDROCK_RERANKING_MODEL"},
    });
    /// The path, a body, where the message is, and what else the body says, which need not be the same for both limits.
    type Refused<'a> = (
        &'a str,
        &'a Value,
        &'a [&'a str],
        &'a [&'a str],
        [&'a str; 2],
    );
    let dialects: [Refused; 14] = [
        (
            "/rerank",
            &pair(),
            &["error", "message"],
            &["error", "code"],
            ["rate_limited", "quota_exceeded"],
        ),
        (
            "/rerank/batch",
            &batch,
            &["message"],
            &["error", "code"],
            ["rate_limited", "quota_exceeded"],
        ),
        (
            "/v2/rerank",
            &documents,
            &["message"],
            &["code"],
            ["rate_limited", "quota_exceeded"],
        ),
        (
            "/cohere/v1/rerank",
            &documents,
            &["message"],
            &["code"],
            ["rate_limited", "quota_exceeded"],
        ),
        (
            "/jina/v1/rerank",
            &documents,
            &["detail"],
            &["code"],
            ["rate_limited", "quota_exceeded"],
        ),
        (
            "/voyage/rerank",
            &documents,
            &["detail"],
            &["code"],
            ["rate_limited", "quota_exceeded"],
        ),
        (
            "/vllm/rerank",
            &documents,
            &["error", "message"],
            &["error", "type"],
            ["rate_limit_error"; 2],
        ),
        (
            "/infinity/rerank",
            &documents,
            &["error", "message"],
            &["error", "type"],
            ["rate_limit_error"; 2],
        ),
        (
            "/llamacpp/rerank",
            &documents,
            &["error", "message"],
            &["error", "type"],
            ["rate_limit_error"; 2],
        ),
        (
            "/pinecone/rerank",
            &documents,
            &["error", "message"],
            &["error", "code"],
            ["RESOURCE_EXHAUSTED"; 2],
        ),
        (
            "/azure/inference/semanticReranking",
            &documents,
            &["error", "message"],
            &["error", "code"],
            ["rate_limited", "quota_exceeded"],
        ),
        (
            "/tei/rerank",
            &texts,
            &["error"],
            &["error_type"],
            ["Overloaded"; 2],
        ),
        (
            "/mixedbread/reranking",
            &input,
            &["message"],
            &["code"],
            ["rate_limited", "quota_exceeded"],
        ),
        ("/bedrock/rerank", &bedrock, &["message"], &[], [""; 2]),
    ];
    let each = |of: &dyn Fn(usize) -> [String; 2], between: &str| -> String {
        let all: Vec<String> = (0..dialects.len()).flat_map(of).collect();
        all.join(between)
    };
    let keys = each(
        &|i| [format!("r{i}=plain:kr{i}"), format!("t{i}=plain:kt{i}")],
        ",",
    );
    let limits = each(
        &|i| [format!("r{i}:rpm=1"), format!("t{i}:tokens_per_day=1")],
        ";",
    );
    let keys = keys + ",free=plain:free,nameless";
    let (_server, address) = tiny(&[("API_KEYS", &keys), ("KEY_LIMITS", &limits)]);
    for (i, (path, body, message, more, codes)) in dialects.into_iter().enumerate() {
        for (key, code, says, longest) in [
            (
                format!("kr{i}"),
                codes[0],
                "the API key may send 1 requests a minute",
                60,
            ),
            (
                format!("kt{i}"),
                codes[1],
                "the API key may use 1 tokens a day, and has used",
                86_400,
            ),
        ] {
            let first = post_with(address, path, &key, body);
            assert_eq!(first.status, 200, "{path}: {}", first.json());
            // A minute or a day may end in between.
            let refused = (0..3)
                .map(|_| post_with(address, path, &key, body))
                .find(|reply| reply.status != 200)
                .unwrap_or_else(|| panic!("{path}: {key} has no limit"));
            let told = refused.json();
            let at = |place: &[&str]| {
                let found = place.iter().fold(&told, |value, name| &value[*name]);
                found.as_str().unwrap_or_default().to_owned()
            };
            assert_eq!(refused.status, 429, "{path}: {told}");
            assert!(at(message).starts_with(says), "{path}: {told}");
            assert_eq!(at(more), code, "{path}: {told}");
            let number = |name: &str| -> u64 {
                let value = refused
                    .header(name)
                    .unwrap_or_else(|| panic!("{path}: no {name}"));
                value.parse().expect("a number")
            };
            assert!((1..=longest).contains(&number("retry-after")), "{path}");
            assert!(
                (1..=longest * 1000).contains(&number("retry-after-ms")),
                "{path}"
            );
            let error_type = (path == "/bedrock/rerank").then_some("ThrottlingException");
            assert_eq!(refused.header("x-amzn-errortype"), error_type, "{path}");
        }
    }
    // Nobody else is bound, and what is asked with GET is not counted.
    for key in ["free", "nameless", "free", "nameless"] {
        assert_eq!(post_with(address, "/rerank", key, &pair()).status, 200);
    }
    let metrics = send(address, "GET", "/metrics", &[("x-api-key", "kr0")], b"");
    assert_eq!(metrics.status, 200);
    let metrics = String::from_utf8(metrics.body).expect("text");
    for line in [
        r#"reranker_key_requests_total{key_name="r0",status="429"}"#,
        r#"reranker_key_tokens_total{key_name="t0"}"#,
        r#"reranker_key_requests_total{key_name="free",status="200"} 2"#,
        r#"reranker_errors_total{code="rate_limited"}"#,
        r#"reranker_errors_total{code="quota_exceeded"}"#,
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}
