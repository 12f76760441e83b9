//! Processes that are killed anywhere, files that cannot be read, and model files that change under a running server: what is there
//! afterwards is whole, and nothing wrong is served.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::client::{Reply, get, post};
use crate::support::process::{Process, tiny_model};
use serde_json::json;

/// Processes that are killed before one may come to its end.
const KILLS: u32 = 8;

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reranker"));
    command
        .args(arguments)
        .env_clear()
        .env("MODEL_DIR", tiny_model())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// How long the command takes.
fn whole(arguments: &[&str]) -> Duration {
    let begun = Instant::now();
    let ended = command(arguments).status().expect("runs");
    assert!(ended.success());
    begun.elapsed()
}

/// Kills the command at places that are spread over its whole time, and looks at what is there each time; then lets it end.
fn killed(arguments: &[&str], time: Duration, look: impl Fn()) {
    for number in 0..KILLS {
        let mut child = command(arguments).spawn().expect("starts");
        std::thread::sleep(time * number / KILLS);
        child.kill().expect("killed");
        child.wait().expect("ended");
        look();
    }
    let ended = command(arguments).status().expect("runs");
    assert!(ended.success());
}

fn copy_of_the_model() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        fs::copy(tiny_model().join(file), folder.path().join(file)).expect("copied");
    }
    folder
}

#[test]
fn scoring_that_was_killed_anywhere_goes_on_to_the_same_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("plain").to_owned();
    let pairs = path("pairs.jsonl");
    let mut file = File::create(&pairs).expect("made");
    for number in 0..3_000 {
        let words = "panda bear ".repeat(1 + number % 20);
        writeln!(
            file,
            r#"{{"id": {number}, "query": "what is {number}?", "passage": "{words}"}}"#
        )
        .expect("written");
    }
    drop(file);
    let (unbroken, broken) = (path("unbroken.jsonl"), path("broken.jsonl"));
    let time = whole(&["score", "--jsonl", &pairs, "--out", &unbroken]);
    let expected = fs::read(&unbroken).expect("scores");
    assert_eq!(
        expected.iter().filter(|byte| **byte == b'\n').count(),
        3_000
    );
    // Each run has less to do than the one before it.
    killed(
        &["score", "--jsonl", &pairs, "--out", &broken],
        time / 2,
        || {
            // Killed before it came to open it.
            let found = fs::read(&broken).unwrap_or_default();
            assert!(expected.starts_with(&found), "{} bytes", found.len());
        },
    );
    assert!(fs::read(&broken).expect("scores") == expected);
}

#[test]
fn trying_rows_again_that_was_killed_anywhere_leaves_each_row_old_or_new() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("plain").to_owned();
    let write = |name: &str, broken: bool| {
        let mut file = File::create(path(name)).expect("made");
        for number in 0..2_000 {
            let words = "panda bear ".repeat(1 + number % 20);
            let field = match broken && number % 3 == 0 {
                true => "text",
                false => "passage",
            };
            writeln!(
                file,
                r#"{{"id": {number}, "query": "what?", "{field}": "{words}"}}"#
            )
            .expect("written");
        }
    };
    write("right.jsonl", false);
    write("pairs.jsonl", true);
    let (pairs, unbroken, broken) = (
        path("pairs.jsonl"),
        path("unbroken.jsonl"),
        path("broken.jsonl"),
    );
    whole(&["score", "--jsonl", &path("right.jsonl"), "--out", &unbroken]);
    let run = ["score", "--jsonl", &pairs, "--out", &broken];
    let begun = Instant::now();
    assert_eq!(command(&run).status().expect("runs").code(), Some(1));
    let time = begun.elapsed();
    let expected = fs::read_to_string(&unbroken).expect("scores");
    let failed = fs::read_to_string(&broken).expect("scores");
    write("pairs.jsonl", false);
    killed(&run, time, || {
        let found = fs::read_to_string(&broken).expect("scores");
        assert_eq!(found.lines().count(), 2_000);
        let each = found.lines().zip(failed.lines()).zip(expected.lines());
        for ((found, old), new) in each {
            assert!(found == old || found == new, "{found}");
        }
    });
    assert!(fs::read_to_string(&broken).expect("scores") == expected);
}

#[test]
fn packing_that_was_killed_anywhere_leaves_the_old_file_or_the_whole_new_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("plain").to_owned();
    let (unbroken, out) = (path("unbroken.safetensors"), path("packed.safetensors"));
    let time = whole(&["pack", "--out", &unbroken]);
    let expected = fs::read(&unbroken).expect("packed");
    let pack = ["pack", "--out", &out];
    killed(&pack, time * 6 / 5, || {
        if let Ok(found) = fs::read(&out) {
            assert!(found == expected, "{} bytes", found.len());
        }
    });
    assert!(fs::read(&out).expect("packed") == expected);
    // Two at once: one of them may be refused, and neither spoils the other's.
    let mut both = [0, 1].map(|_| command(&pack).spawn().expect("starts"));
    let ended = both.each_mut().map(|child| child.wait().expect("ended"));
    assert!(
        ended.iter().any(std::process::ExitStatus::success),
        "{ended:?}"
    );
    assert!(fs::read(&out).expect("packed") == expected);
}

#[test]
fn a_file_that_cannot_be_read_is_named_and_nothing_is_written() {
    // The process's own memory begins with a page that is not there: reading it fails as reading a broken disk does.
    let broken = Path::new("/proc/self/mem");
    let failed = |model: &Path, arguments: &[&str], file: &Path| {
        let ended = command(arguments)
            .env("MODEL_DIR", model)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .output()
            .expect("runs");
        assert_eq!(ended.status.code(), Some(1), "{arguments:?}");
        assert!(ended.stdout.is_empty(), "{arguments:?}");
        let told = String::from_utf8(ended.stderr).expect("text");
        assert!(told.contains(file.to_str().expect("plain")), "{told}");
        assert_eq!(told.matches("Input/output error").count(), 1, "{told}");
    };
    for name in ["config.json", "tokenizer.json"] {
        let model = copy_of_the_model();
        let file = model.path().join(name);
        fs::remove_file(&file).expect("removed");
        std::os::unix::fs::symlink(broken, &file).expect("linked");
        failed(model.path(), &["score", "--query", "q", "p"], &file);
        let model_dir = model.path().to_str().expect("plain");
        failed(model.path(), &["pack", "--model", model_dir], &file);
        assert!(!model.path().join("packed.safetensors").exists());
    }
    let pairs = broken.to_str().expect("plain");
    failed(&tiny_model(), &["score", "--jsonl", pairs], broken);
}

/// A server of a copy of the model, and where that is.
struct Served {
    process: Process,
    folder: tempfile::TempDir,
}

impl Served {
    fn new() -> Self {
        let folder = copy_of_the_model();
        let model = folder.path().to_str().expect("plain").to_owned();
        let process = Process::serve(&[
            ("HOST", "127.0.0.1"),
            ("PORT", "0"),
            ("LOG_FORMAT", "json"),
            ("MODEL_DIR", &model),
        ]);
        process.wait_for_message("model ready");
        Self { process, folder }
    }

    fn weights(&self) -> PathBuf {
        self.folder.path().join("model.safetensors")
    }

    fn score(&self) -> Reply {
        let body = json!({"query": "what is a panda?", "passage": "a bear"});
        post(self.process.address(), "/rerank", &body)
    }
}

fn overwrite(path: &Path, change: impl FnOnce(&File)) {
    let file = OpenOptions::new().write(true).open(path).expect("opened");
    change(&file);
    file.sync_all().expect("on the disk");
}

#[test]
fn a_model_folder_that_goes_away_or_is_replaced_changes_nothing_for_a_running_server() {
    let served = Served::new();
    let logit = || {
        let reply = served.score();
        assert_eq!(reply.status, 200, "{}", reply.json());
        reply.json()["logit"].clone()
    };
    let before = logit();
    // As a new model should come: by its name, in one step.
    let new = served.folder.path().join("new");
    fs::write(&new, vec![0; 1000]).expect("written");
    fs::rename(&new, served.weights()).expect("renamed");
    assert_eq!(logit(), before);
    fs::remove_dir_all(served.folder.path()).expect("removed");
    assert_eq!(logit(), before);
}

#[test]
fn weights_that_are_changed_in_place_are_never_served() {
    let served = Served::new();
    assert_eq!(served.score().status, 200);
    overwrite(&served.weights(), |file| {
        file.write_all_at(&[1; 64], 400_000).expect("written");
    });
    for _ in 0..2 {
        let reply = served.score();
        assert_eq!(reply.status, 503);
        let message = reply.json()["error"]["message"].to_string();
        assert!(message.contains("changed in place"), "{message}");
    }
    let health = get(served.process.address(), "/health");
    assert_eq!(
        (health.status, &health.json()["status"]),
        (503, &json!("failed"))
    );
}

#[test]
fn weights_that_are_cut_in_place_are_never_served() {
    let served = Served::new();
    assert_eq!(served.score().status, 200);
    overwrite(&served.weights(), |file| {
        file.set_len(100_000).expect("cut");
    });
    assert_eq!(served.score().status, 503);
}
