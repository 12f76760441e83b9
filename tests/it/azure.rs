//! The real program behind the contract that Azure Functions documents for custom handlers, with the app in `azure/`: start, wait
//! for the port, route by `host.json` and `function.json`, pass requests on by proxying or by the older forwarding.
//!
//! The host itself cannot be had here; what this plays of it is what its documentation promises.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

use serde_json::{Value, json};

use crate::support::client::{Reply, connect, get, post, read_reply, send, write_head};
use crate::support::models::GatedModel;
use crate::support::process::{Process, tiny_model};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    /// `enableProxyingHttpRequest`.
    Proxying,
    /// `enableForwardingHttpRequest`.
    Forwarding,
}

fn app_file(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("azure")
        .join(name);
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What the host reads from the app's files.
#[derive(Clone)]
struct App {
    mode: Mode,
    /// `/`, or the route prefix between slashes.
    prefix: String,
    methods: Vec<String>,
}

impl App {
    /// The app as it is in the repository.
    fn ours() -> Self {
        let host = app_file("host.json");
        assert_eq!(host["version"], "2.0");
        let handler = &host["customHandler"];
        assert_eq!(handler["description"]["defaultExecutablePath"], "reranker");
        assert_eq!(handler["description"]["arguments"], json!(["serve"]));
        assert_eq!(handler["enableProxyingHttpRequest"], true);
        let prefix = host["extensions"]["http"]["routePrefix"]
            .as_str()
            .unwrap_or("api");
        let function = app_file("rerank/function.json");
        let triggers: Vec<&Value> = function["bindings"]
            .as_array()
            .expect("bindings")
            .iter()
            .filter(|binding| binding["type"] == "httpTrigger")
            .collect();
        let [trigger] = triggers.as_slice() else {
            panic!("one HTTP trigger: {function}");
        };
        assert_eq!(
            trigger["route"], "{*path}",
            "the one function takes every path"
        );
        // A function's key in the query would not reach the parts of the pages, and no client of another service sends one.
        assert_eq!(
            trigger["authLevel"], "anonymous",
            "the program checks API_KEYS"
        );
        let methods = trigger["methods"].as_array().expect("methods").iter();
        Self {
            mode: Mode::Proxying,
            prefix: format!("/{prefix}"),
            methods: methods
                .map(|method| method.as_str().expect("a name").to_uppercase())
                .collect(),
        }
    }

    fn with(mode: Mode, prefix: &str) -> Self {
        Self {
            mode,
            prefix: format!("/{prefix}"),
            ..Self::ours()
        }
    }
}

/// The host with its handler.
struct Host {
    app: App,
    model: String,
    handler: Process,
    address: SocketAddr,
}

impl Host {
    fn start(app: App, model: &str, port_variable: &str) -> Self {
        // The host picks a free port and tells it; nobody holds it in between.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|listener| listener.local_addr())
            .expect("a free port");
        let host = Self {
            app,
            model: model.to_owned(),
            handler: Self::handler(model, port_variable, address),
            address,
        };
        host.wait_until_initialised();
        host
    }

    fn handler(model: &str, port_variable: &str, address: SocketAddr) -> Process {
        Process::serve(&[
            (port_variable, &address.port().to_string()),
            ("FUNCTIONS_WORKER_RUNTIME", "custom"),
            ("MODEL_DIR", model),
            // A function app may have settings of these names for its containers elsewhere; the host's port goes before them.
            ("PORT", "1"),
            ("HOST", "0.0.0.0"),
        ])
    }

    /// What the host does when its handler's process has ended: another one, for the same port.
    fn restart(&mut self) {
        self.handler = Self::handler(&self.model, "FUNCTIONS_CUSTOMHANDLER_PORT", self.address);
        self.wait_until_initialised();
    }

    /// The host asks for `GET /` until there is any answer. Here the first request waits until the handler says that it listens: what
    /// answers earlier is the socket that found the port, which lives on in the processes that other tests are just starting.
    fn wait_until_initialised(&self) {
        assert_eq!(self.handler.address(), self.address);
        println!("GET / is answered {}", get(self.address, "/").status);
    }

    /// A request to the function app's own address, as the host passes it on.
    fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Option<Reply> {
        let below = path.strip_prefix(&self.app.prefix)?;
        let matches = self.app.prefix == "/" || below.is_empty() || below.starts_with('/');
        if !matches || !self.app.methods.iter().any(|allowed| allowed == method) {
            // The host's own 404: the handler never sees it.
            return None;
        }
        let mut headers = headers.to_vec();
        headers.push((
            "x-azure-functions-invocationid",
            "5b1b4c1e-2f43-4c7e-9d8a-0a6f3d2b1c90",
        ));
        headers.push(("x-azure-functions-hostversion", "4.1050.0"));
        if self.app.mode == Mode::Proxying {
            headers.push(("x-forwarded-host", "reranker.azurewebsites.net"));
            headers.push(("x-forwarded-proto", "https"));
            headers.push(("x-ms-invocation-id", "5b1b4c1e-2f43-4c7e-9d8a-0a6f3d2b1c90"));
        }
        Some(send(self.address, method, path, &headers, body))
    }

    /// A body in chunks, of which the caller did not say how long they will be in all. Proxying streams them on; forwarding copies only
    /// bodies whose length was announced.
    fn post_in_chunks(&self, path: &str, body: &Value) -> Reply {
        let json = ("content-type", "application/json");
        if self.app.mode == Mode::Forwarding {
            return self.send("POST", path, &[json], b"").expect("routed");
        }
        let mut stream = connect(self.address);
        let headers = [json, ("transfer-encoding", "chunked")];
        write_head(&mut stream, "POST", path, &headers);
        for chunk in body.to_string().as_bytes().chunks(7) {
            write!(stream, "{:x}\r\n", chunk.len()).expect("a chunk's size");
            stream.write_all(chunk).expect("a chunk");
            stream.write_all(b"\r\n").expect("a chunk's end");
        }
        stream.write_all(b"0\r\n\r\n").expect("the last chunk");
        read_reply(stream)
    }

    fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], b"").expect("routed")
    }

    fn post(&self, path: &str, body: &Value) -> Reply {
        let headers = [("content-type", "application/json")];
        self.send("POST", path, &headers, body.to_string().as_bytes())
            .expect("routed")
    }

    fn stop(self) {
        self.handler.terminate();
        let (status, log) = self.handler.wait();
        assert_eq!(status, Some(0), "{}", log.join("\n"));
    }
}

fn tiny() -> String {
    tiny_model().to_str().expect("a UTF-8 path").to_owned()
}

fn without_ms(reply: &Reply) -> Value {
    let mut body = reply.json();
    if let Some(body) = body.as_object_mut() {
        body.remove("ms");
    }
    body
}

fn pair() -> Value {
    json!({"query": "how hot is the sun?", "passage": "The sun's surface has about 5,500 degrees Celsius."})
}

#[test]
fn the_app_answers_as_plain_http_does_in_both_modes_with_and_without_the_prefix() {
    let server = Process::serve(&[("MODEL_DIR", &tiny()), ("HOST", "127.0.0.1"), ("PORT", "0")]);
    server.wait_for_message("model ready");
    let plain = server.address();
    let apps = [
        (App::ours(), "FUNCTIONS_CUSTOMHANDLER_PORT"),
        (
            App::with(Mode::Proxying, "api"),
            "FUNCTIONS_CUSTOMHANDLER_PORT",
        ),
        (App::with(Mode::Forwarding, ""), "FUNCTIONS_HTTPWORKER_PORT"),
        (
            App::with(Mode::Forwarding, "api"),
            "FUNCTIONS_HTTPWORKER_PORT",
        ),
    ];
    for (app, port_variable) in apps {
        let host = Host::start(app.clone(), &tiny(), port_variable);
        println!("{:?} below {:?} by {port_variable}", app.mode, app.prefix);
        let line = host.handler.wait_for_message("starting");
        assert_eq!(line["host"], "azure");
        host.handler.wait_for_message("model ready");
        let below = app.prefix.trim_end_matches('/');
        let at = |path: &str| format!("{below}{path}");
        let reply = host.post(&at("/rerank"), &pair());
        assert_eq!(reply.status, 200);
        assert_eq!(
            without_ms(&reply),
            without_ms(&post(plain, "/rerank", &pair()))
        );
        for (path, body) in [
            ("/rerank/batch", json!({"pairs": [pair(), pair()]})),
            ("/rerank/batch", json!({"pairs": []})),
            ("/rerank", json!({"query": "q"})),
        ] {
            let (reply, expected) = (host.post(&at(path), &body), post(plain, path, &body));
            assert_eq!(reply.status, expected.status, "{path}");
            assert_eq!(without_ms(&reply), without_ms(&expected), "{path}");
        }
        assert_eq!(host.get(&at("/health?code=key")).status, 200);
        assert_eq!(host.get(&at("/docs")).body, get(plain, "/docs").body);
        assert_eq!(host.get(&at("/")).body, get(plain, "/").body);
        let unknown = host.get(&at("/rank"));
        assert_eq!(
            (unknown.status, &unknown.json()["error"]["code"]),
            (404, &json!("not_found"))
        );
        let wrong = host.get(&at("/rerank"));
        assert_eq!((wrong.status, wrong.header("allow")), (405, Some("POST")));
        let preflight = [
            ("origin", "https://app.example.org"),
            ("access-control-request-method", "POST"),
            (
                "access-control-request-headers",
                "x-functions-key,content-type",
            ),
        ];
        let allowed = host
            .send("OPTIONS", &at("/rerank"), &preflight, b"")
            .expect("routed");
        assert_eq!(allowed.status, 200);
        assert_eq!(
            allowed.header("access-control-allow-headers"),
            Some("x-functions-key,content-type")
        );
        // What the host itself refuses.
        assert!(host.send("DELETE", &at("/rerank"), &[], b"").is_none());
        if app.prefix == "/api" {
            assert!(host.send("GET", "/health", &[], b"").is_none());
        }
        host.stop();
    }
}

#[test]
fn a_body_in_chunks_is_scored_where_the_host_passes_it_on_and_missed_where_not() {
    for mode in [Mode::Proxying, Mode::Forwarding] {
        let app = App::with(mode, "api");
        let host = Host::start(app, &tiny(), "FUNCTIONS_CUSTOMHANDLER_PORT");
        host.handler.wait_for_message("model ready");
        let reply = host.post_in_chunks("/api/rerank", &pair());
        match mode {
            Mode::Proxying => {
                assert_eq!(reply.status, 200);
                let whole = host.post("/api/rerank", &pair());
                assert_eq!(without_ms(&reply), without_ms(&whole));
            }
            Mode::Forwarding => assert_eq!(
                (reply.status, &reply.json()["error"]["code"]),
                (400, &json!("malformed_json")),
                "what did not come is asked for, not guessed"
            ),
        }
        host.stop();
    }
}

#[test]
fn after_a_crash_the_hosts_next_handler_answers_on_the_same_port() {
    let mut host = Host::start(App::ours(), &tiny(), "FUNCTIONS_CUSTOMHANDLER_PORT");
    host.handler.wait_for_message("model ready");
    let before = host.post("/rerank", &pair());
    // In the middle of a request, with connections open: the port must be free for the next process all the same.
    let mut cut = connect(host.address);
    let headers = [
        ("content-type", "application/json"),
        ("content-length", "1000"),
    ];
    write_head(&mut cut, "POST", "/rerank", &headers);
    host.handler.kill();
    host.restart();
    host.handler.wait_for_message("model ready");
    let after = host.post("/rerank", &pair());
    assert_eq!((before.status, after.status), (200, 200));
    assert_eq!(without_ms(&before), without_ms(&after));
    host.stop();
}

#[test]
fn the_hosts_wait_ends_before_the_model_is_loaded() {
    let model = GatedModel::new();
    // Returns only after the handler has answered.
    let host = Host::start(App::ours(), model.path(), "FUNCTIONS_CUSTOMHANDLER_PORT");
    let early = host.post("/rerank", &pair());
    assert_eq!(
        (early.status, &early.json()["error"]["code"]),
        (503, &json!("not_ready"))
    );
    assert!(early.header("retry-after").is_some());
    assert_eq!(host.get("/health").json()["status"], "loading");
    model.open();
    host.handler.wait_for_message("model ready");
    assert_eq!(host.post("/rerank", &pair()).status, 200);
    host.stop();
}

#[test]
fn the_handler_listens_for_the_host_alone() {
    let host = Host::start(App::ours(), &tiny(), "FUNCTIONS_CUSTOMHANDLER_PORT");
    let line = host.handler.wait_for_message("listening");
    assert_eq!(line["address"], host.address.to_string());
    host.stop();
}

/// What the host sends for a trigger that is no HTTP.
fn trigger(data: Value) -> Value {
    json!({"Data": data, "Metadata": {"sys": {"MethodName": "t", "UtcNow": "2026-11-23T10:15:05Z", "RandGuid": "x"}}})
}

#[test]
fn timers_and_warm_ups_are_answered_in_the_hosts_form_and_other_triggers_refused() {
    let host = Host::start(App::ours(), &tiny(), "FUNCTIONS_CUSTOMHANDLER_PORT");
    host.handler.wait_for_message("model ready");
    let done = json!({"Outputs": {}, "Logs": [], "ReturnValue": null});
    let timer =
        json!({"Schedule": {"AdjustForDST": true}, "ScheduleStatus": null, "IsPastDue": false});
    for (path, body) in [
        ("/warmup", trigger(json!({"warmupContext": {}}))),
        ("/warmup", trigger(json!({}))),
        ("/Warm", trigger(json!({"timer": timer}))),
        ("/Warm", trigger(json!({"timer": timer.to_string()}))),
        ("/rerank", json!({"Metadata": {}, "Data": {"timer": null}})),
        ("/Name", json!({"Metadata": {}})),
    ] {
        let reply = post(host.address, path, &body);
        assert_eq!(
            (reply.status, reply.json()),
            (200, done.clone()),
            "{path} {body}"
        );
        assert_eq!(reply.header("content-type"), Some("application/json"));
    }
    // A message that is answered with success would be gone.
    for data in [
        json!({"message": "a text"}),
        json!({"message": {"query": "q", "passage": "p"}}),
        json!({"blob": "{\"query\": \"q\"}"}),
        json!({"timer": timer, "message": [1]}),
    ] {
        let reply = post(host.address, "/Queue", &trigger(data.clone()));
        assert_eq!(
            (reply.status, &reply.json()["error"]["code"]),
            (400, &json!("unsupported_event")),
            "{data}"
        );
    }
    let headers = [("content-type", "application/json")];
    for (body, status) in [
        ("{\"Data\": ", 400),
        (
            "{\"Data\": {\"req\": {\"Url\": \"\", \"Method\": \"POST\"}}}",
            400,
        ),
        (
            "{\"Data\": {\"req\": {\"Url\": \"/rerank\", \"Method\": \"A B\"}}}",
            400,
        ),
        (
            "{\"Data\": {\"req\": {\"Url\": \"/x\", \"Method\": \"GET\", \"Headers\": {\"a\": \"b\\nc\"}}}}",
            400,
        ),
    ] {
        let reply = send(host.address, "POST", "/Name", &headers, body.as_bytes());
        assert_eq!(
            (reply.status, &reply.json()["error"]["code"]),
            (status, &json!("malformed_event")),
            "{body}"
        );
    }
    // Everything else goes on as it came, however it begins.
    for body in [
        "",
        "{",
        "{}",
        "{\"Dat",
        "[]",
        "{\"data\": {}}",
        "{\"Database\": 1}",
    ] {
        let through = send(host.address, "POST", "/rerank", &headers, body.as_bytes());
        assert!([400, 422].contains(&through.status), "{body}");
        assert!(
            through.json()["error"]["code"] != "malformed_event",
            "{body}"
        );
    }
    let long = json!({"query": "q".repeat(5000), "passage": "p"});
    assert_eq!(post(host.address, "/rerank", &long).status, 200);
    host.stop();
}

#[test]
fn an_http_trigger_that_is_not_forwarded_is_answered_in_the_hosts_form() {
    let host = Host::start(App::ours(), &tiny(), "FUNCTIONS_CUSTOMHANDLER_PORT");
    host.handler.wait_for_message("model ready");
    let request = |method: &str, path: &str, body: &Value| {
        let http = json!({
            "Url": format!("http://localhost:7071{path}"), "Method": method, "Query": {}, "Params": {"path": "x"},
            "Headers": {"Content-Type": ["application/json"], "Host": ["localhost:7071"], "x-request-id": "mine"},
            "Identities": [], "Body": body,
        });
        let reply = post(host.address, "/rerank", &trigger(json!({"req": http})));
        assert_eq!(reply.status, 200, "{method} {path}");
        let answer = reply.json();
        assert_eq!(
            (&answer["Logs"], &answer["ReturnValue"]),
            (&json!([]), &Value::Null)
        );
        answer["Outputs"]["res"].clone()
    };
    let without_ms = |text: &str| {
        let mut body: Value = serde_json::from_str(text).expect("JSON");
        body.as_object_mut().expect("an object").remove("ms");
        body
    };
    let plain = post(host.address, "/rerank", &pair());
    let plain = without_ms(&String::from_utf8(plain.body).expect("text"));
    for body in [pair(), pair().to_string().into()] {
        for path in ["/api/rerank", "/rerank?code=x"] {
            let output = request("POST", path, &body);
            assert_eq!(output["statusCode"], 200);
            assert_eq!(output["headers"]["content-type"], "application/json");
            assert_eq!(output["headers"]["x-request-id"], "mine");
            assert_eq!(without_ms(output["body"].as_str().expect("text")), plain);
        }
    }
    for (method, path, body, status, code) in [
        ("POST", "/api/rerank", json!("{"), 400, "malformed_json"),
        (
            "POST",
            "/api/rerank",
            json!({"query": "q"}),
            422,
            "unknown_shape",
        ),
        ("GET", "/api/rerank", Value::Null, 405, "method_not_allowed"),
        ("GET", "/nowhere", json!(""), 404, "not_found"),
    ] {
        let output = request(method, path, &body);
        assert_eq!(output["statusCode"], status, "{method} {path}");
        let body: Value =
            serde_json::from_str(output["body"].as_str().expect("text")).expect("JSON");
        assert_eq!(body["error"]["code"], code, "{method} {path}");
    }
    host.stop();
}
