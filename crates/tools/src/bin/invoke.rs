//! `invoke EVENT.json`: sends one event through the program's Lambda runtime loop and prints its
//! answer. For `make invoke`.
//!
//! Plays the platform with the same small runtime API as the tests. The program is the `reranker`
//! that was built beside this one; its environment is the caller's, so `MODEL_DIR` and the rest
//! work as ever.

#[path = "../../../../tests/it/support/runtime_api.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod runtime_api;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use runtime_api::{Deadline, Invocation, Outcome, RuntimeApi};

/// What the function is given; loading a large model counts too.
const TIMEOUT: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("invoke: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run() -> anyhow::Result<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(path), None) = (arguments.next(), arguments.next()) else {
        bail!("give one event, such as events/apigw-v2.json");
    };
    let event = std::fs::read(&path).with_context(|| Path::new(&path).display().to_string())?;
    let platform = RuntimeApi::start();
    let Ok(invocation) = platform.invoke(event, Deadline::In(TIMEOUT)) else {
        bail!("the event exceeds the 6 MB that Lambda takes");
    };
    let program = program()?;
    let mut function = Function(
        Command::new(&program)
            .arg("serve")
            .envs(platform.variables())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?,
    );
    let outcome = wait(&invocation, &mut function)?;
    Ok(print(&outcome))
}

/// The program beside this one: `target/PROFILE/reranker` for `target/PROFILE/invoke`.
fn program() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("where is this program?")?;
    let folder = own
        .parent()
        .context("this program lies in no target folder")?;
    let program = folder.join("reranker");
    if !program.is_file() {
        let release = if folder.ends_with("release") {
            " --release"
        } else {
            ""
        };
        bail!(
            "there is no {}: build it with `cargo build{release}`",
            program.display()
        );
    }
    Ok(program)
}

/// Ends with whatever happens to it: the process does not outlive this one.
struct Function(Child);

impl Drop for Function {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits for the outcome as long as the function lives.
fn wait(invocation: &Invocation, function: &mut Function) -> anyhow::Result<Outcome> {
    let start = Instant::now();
    while start.elapsed() < TIMEOUT + Duration::from_secs(30) {
        if let Some(outcome) = invocation.wait(Duration::from_millis(200)) {
            return Ok(outcome);
        }
        if let Some(status) = function
            .0
            .try_wait()
            .context("the function cannot be waited for")?
        {
            bail!("the function ended before it answered: {status}");
        }
    }
    bail!("the function did not answer within {} s", TIMEOUT.as_secs());
}

/// The response as Lambda gets it, then the body as a caller does.
fn print(outcome: &Outcome) -> ExitCode {
    match outcome {
        Outcome::Response(response) => {
            println!("{response:#}");
            println!("{}", body(response));
            ExitCode::SUCCESS
        }
        Outcome::Error(error) => {
            println!("{error:#}");
            eprintln!("invoke: the function reported an error");
            ExitCode::FAILURE
        }
        Outcome::TooLarge { bytes } => {
            eprintln!(
                "invoke: the response has {bytes} bytes, more than the 6 MB that Lambda sends"
            );
            ExitCode::FAILURE
        }
    }
}

fn body(response: &Value) -> String {
    let text = response["body"].as_str().unwrap_or_default();
    if response["isBase64Encoded"] != true {
        return serde_json::from_str::<Value>(text)
            .map_or_else(|_| text.to_owned(), |body| format!("{body:#}"));
    }
    match BASE64_STANDARD.decode(text) {
        Ok(bytes) => format!("{} bytes that are no text", bytes.len()),
        Err(error) => format!("a body that is no base64: {error}"),
    }
}
