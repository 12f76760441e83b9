//! The real program as a child process. Its environment is only what the test gives, its log is kept line by line, and it
//! never outlives the value that holds it.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longer than anything here takes on a slow and busy machine: reaching it means that something hangs.
pub const PATIENCE: Duration = Duration::from_secs(180);

pub struct Process {
    child: Child,
    log: Arc<Log>,
    /// What it prints besides, on stdout.
    out: Arc<Log>,
    readers: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Log {
    lines: Mutex<Lines>,
    grown: Condvar,
}

#[derive(Default)]
struct Lines {
    lines: Vec<String>,
    ended: bool,
}

impl Process {
    /// Starts `reranker serve` with exactly these variables.
    pub fn serve(variables: &[(&str, &str)]) -> Self {
        Self::start(
            Command::new(env!("CARGO_BIN_EXE_reranker")).arg("serve"),
            variables,
        )
    }

    /// The same with flags, in a shell that has done `first`: set a limit, say.
    pub fn serve_after(first: &str, flags: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut shell = Command::new("/bin/sh");
        shell
            .args(["-c", &format!(r#"{first}; exec "$@""#), "sh"])
            .args([env!("CARGO_BIN_EXE_reranker"), "serve"])
            .args(flags);
        Self::start(&mut shell, variables)
    }

    /// The same in a control group: its processes are listed in `processes`, where this one enters itself.
    pub fn serve_in_group(processes: &Path, variables: &[(&str, &str)]) -> Self {
        let enter = r#"echo $$ > "$0" && exec "$@""#;
        let program = env!("CARGO_BIN_EXE_reranker");
        let mut shell = Command::new("/bin/sh");
        shell
            .args(["-c", enter])
            .arg(processes)
            .args([program, "serve"]);
        Self::start(&mut shell, variables)
    }

    fn start(command: &mut Command, variables: &[(&str, &str)]) -> Self {
        let mut child = command
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env_clear()
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let (log, of_log) = Log::of(child.stderr.take().expect("stderr is piped"));
        let (out, of_out) = Log::of(child.stdout.take().expect("stdout is piped"));
        Self {
            child,
            log,
            out,
            readers: vec![of_log, of_out],
        }
    }

    /// What it has printed on stdout, once that has so many lines.
    pub fn printed(&self, lines: usize) -> Vec<String> {
        let found = self
            .out
            .find(|out| (out.len() >= lines).then(|| out.to_vec()));
        found.unwrap_or_else(|| panic!("less than {lines} lines:\n{}", self.out.text()))
    }

    /// Waits for a log line from which `find` makes something. Lines that are no JSON come as JSON strings.
    pub fn wait_for<T>(&self, what: &str, find: impl Fn(&Value) -> Option<T>) -> T {
        let mut seen = 0;
        let found = self.log.find(|lines| {
            let new = &lines[seen..];
            seen = lines.len();
            new.iter().find_map(|line| {
                let value = serde_json::from_str(line).unwrap_or_else(|_| line.clone().into());
                find(&value)
            })
        });
        found.unwrap_or_else(|| panic!("no log line about {what}:\n{}", self.log()))
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The log so far.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// Waits for the line whose message is `message`.
    pub fn wait_for_message(&self, message: &str) -> Value {
        self.wait_for(message, |line| {
            (line["message"] == message).then(|| line.clone())
        })
    }

    /// Where it listens; nothing where it ends before it does.
    pub fn listening_or_ended(&self) -> Option<SocketAddr> {
        self.log.find(|lines| {
            let lines = lines
                .iter()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let mut addresses = lines.filter_map(|line| line["address"].as_str()?.parse().ok());
            addresses.next()
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.wait_for_message("listening")["address"]
            .as_str()
            .expect("the line has the address")
            .parse()
            .expect("an address")
    }

    pub fn terminate(&self) {
        let signalled = Command::new("sh")
            .args(["-c", &format!("kill -TERM {}", self.child.id())])
            .status()
            .expect("a shell");
        assert!(signalled.success(), "SIGTERM did not reach the process");
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        self.child.kill().expect("SIGKILL reaches the process");
        self.child.wait().expect("the process can be waited for");
    }

    /// Waits for the process to end by itself: its exit code (none where a signal ended it) and its whole log.
    pub fn wait(mut self) -> (Option<i32>, Vec<String>) {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self
                .child
                .try_wait()
                .expect("the process can be waited for")
            {
                break status;
            }
            assert!(start.elapsed() < PATIENCE, "the process does not end");
            std::thread::sleep(Duration::from_millis(5));
        };
        for reader in self.readers.drain(..) {
            reader.join().expect("the output was read");
        }
        let lines = self.log.lock().lines.clone();
        (status.code(), lines)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Log {
    /// Everything that comes from `source`, line by line, and the thread that reads it.
    fn of(source: impl Read + Send + 'static) -> (Arc<Self>, JoinHandle<()>) {
        let log = Arc::new(Self::default());
        let writer = Arc::clone(&log);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(source).lines().map_while(Result::ok) {
                writer.change(|lines| lines.lines.push(line));
            }
            writer.change(|lines| lines.ended = true);
        });
        (log, reader)
    }

    /// Waits until `find` makes something of the lines; nothing where they end without it.
    fn find<T>(&self, mut find: impl FnMut(&[String]) -> Option<T>) -> Option<T> {
        let start = Instant::now();
        let mut lines = self.lock();
        loop {
            let found = find(&lines.lines);
            if found.is_some() || lines.ended || start.elapsed() > PATIENCE {
                return found;
            }
            lines = self
                .grown
                .wait_timeout(lines, Duration::from_secs(1))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn text(&self) -> String {
        self.lock().lines.join("\n")
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Lines)) {
        change(&mut self.lock());
        self.grown.notify_all();
    }
}

/// The small real model of the golden tests.
pub fn tiny_model() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/xlm-roberta")
}

/// A server on a free port of this machine, with more variables than its model's.
pub fn start(model: &str, more: &[(&str, &str)]) -> Process {
    let mut variables = vec![("MODEL_DIR", model), ("HOST", "127.0.0.1"), ("PORT", "0")];
    variables.extend(more);
    Process::serve(&variables)
}

/// The same, once it scores, and where it listens.
pub fn ready(model: &str, more: &[(&str, &str)]) -> (Process, SocketAddr) {
    let server = start(model, more);
    server.wait_for_message("model ready");
    let address = server.address();
    (server, address)
}

/// The same with the small model.
pub fn tiny(more: &[(&str, &str)]) -> (Process, SocketAddr) {
    ready(tiny_model().to_str().expect("a UTF-8 path"), more)
}
