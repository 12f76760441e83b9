//! Downloads from a hub on loopback with the real one's layout: whole, resumed, dropped, lied to, refused.

#[path = "support/hub.rs"]
mod hub;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use hub::{COMMIT, Hub, NAME, State};
use sha2::{Digest, Sha256};

/// Of one ranged request.
const RANGE: usize = 16 << 20;

fn golden(file: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/xlm-roberta");
    std::fs::read(path.join(file)).expect("a fixture")
}

/// A model that can be served.
fn model() -> State {
    let files = ["config.json", "tokenizer.json", "model.safetensors"];
    State {
        files: files.map(|file| (file.to_owned(), golden(file))).into(),
        ..State::default()
    }
}

/// One whose weights come in several ranges; no two of them are alike.
fn large() -> State {
    let mut state = model();
    let bytes = (0..(3 * RANGE + 12345) as u32 / 4)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes());
    state
        .files
        .insert("model.safetensors".into(), bytes.collect());
    state
}

struct Cache(tempfile::TempDir);

impl Cache {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn command(&self, hub: &Hub, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reranker"));
        command
            .args(arguments)
            .env_clear()
            .env("HF_ENDPOINT", &hub.endpoint)
            .env("HF_HUB_CACHE", self.0.path())
            .stdin(Stdio::null());
        command
    }

    fn fetch(&self, hub: &Hub) -> Output {
        let output = self.command(hub, &["fetch", NAME]).output();
        output.expect("the program runs")
    }

    fn repository(&self) -> PathBuf {
        self.0.path().join("models--owner--model")
    }

    fn snapshot(&self) -> PathBuf {
        self.repository().join("snapshots").join(COMMIT)
    }

    /// Files that are not finished.
    fn unfinished(&self) -> usize {
        let blobs = std::fs::read_dir(self.repository().join("blobs")).expect("blobs");
        let names = blobs.map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .into_string()
                .expect("text")
        });
        names.filter(|name| name.contains("incomplete")).count()
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn assert_whole(cache: &Cache, hub: &Hub) {
    for (file, content) in &hub.state.files {
        let found = std::fs::read(cache.snapshot().join(file)).expect("is there");
        assert!(found == *content, "{file}");
    }
    assert_eq!(cache.unfinished(), 0);
}

#[test]
fn a_fetched_model_is_found_by_its_name_and_scores() {
    let (cache, hub) = (Cache::new(), Hub::start(model()));
    let fetched = cache.fetch(&hub);
    assert!(fetched.status.success(), "{}", said(&fetched));
    let folder = String::from_utf8(fetched.stdout).expect("a path");
    assert_eq!(Path::new(folder.trim()), cache.snapshot());
    assert_whole(&cache, &hub);
    let reference =
        std::fs::read_to_string(cache.repository().join("refs/main")).expect("a reference");
    assert_eq!(reference, COMMIT);
    let score = cache
        .command(&hub, &["score", "--query", "what is a panda?", "a bear"])
        .env("MODEL_NAME", NAME)
        .output()
        .expect("the program runs");
    assert!(score.status.success(), "{}", said(&score));
    // What is there is not asked for again, and without the network it is enough.
    let before = hub.requests("model.safetensors").len();
    assert!(cache.fetch(&hub).status.success());
    assert_eq!(hub.requests("model.safetensors").len(), before);
    let offline = cache
        .command(&hub, &["fetch", NAME])
        .env("HF_HUB_OFFLINE", "1")
        .env("HF_ENDPOINT", "http://127.0.0.1:1")
        .output();
    assert!(offline.expect("the program runs").status.success());
}

#[test]
fn large_files_come_in_ranges_and_what_breaks_off_is_asked_for_from_there() {
    let state = State {
        drops: AtomicUsize::new(5),
        drop_after: 1_000_003,
        ..large()
    };
    let (cache, hub) = (Cache::new(), Hub::start(state));
    let fetched = cache.fetch(&hub);
    assert!(fetched.status.success(), "{}", said(&fetched));
    assert_whole(&cache, &hub);
    let requests = hub.requests("model.safetensors");
    assert!(requests.len() > 4, "{requests:?}");
    let resumed = requests.iter().any(|(range, _)| {
        range
            .as_deref()
            .is_some_and(|range| range.starts_with("bytes=1000003-"))
    });
    assert!(resumed, "{requests:?}");
}

#[test]
fn a_killed_download_goes_on_with_what_is_missing() {
    let (cache, hub) = (Cache::new(), Hub::start(large()));
    let mut child = cache
        .command(&hub, &["fetch", NAME])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    // As soon as one range of the weights is noted.
    let digest = hub::hex(&Sha256::digest(&hub.state.files["model.safetensors"]));
    let notes = cache
        .repository()
        .join("blobs")
        .join(digest + ".incomplete.ranges");
    let noted = || std::fs::metadata(&notes).is_ok_and(|notes| notes.len() > 0);
    while !noted() && child.try_wait().expect("a child").is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().expect("killed");
    let _ = child.wait();
    if !cache.snapshot().exists() {
        let before = hub.requests("model.safetensors").len();
        let fetched = cache.fetch(&hub);
        assert!(fetched.status.success(), "{}", said(&fetched));
        let again = hub.requests("model.safetensors").len() - before;
        println!("{before} ranges before, {again} after");
        assert!(again < 4, "at least one range was there");
    }
    assert_whole(&cache, &hub);
}

#[test]
fn wrong_bytes_are_refused_deleted_and_never_a_model() {
    let mut state = large();
    let mut wrong = state.files["model.safetensors"].clone();
    wrong[2 * RANGE + 7] ^= 1;
    state.lies.insert("model.safetensors".into(), wrong);
    let (cache, hub) = (Cache::new(), Hub::start(state));
    let fetched = cache.fetch(&hub);
    assert_eq!(fetched.status.code(), Some(1));
    assert!(
        said(&fetched).contains("model.safetensors: what came has the digest"),
        "{}",
        said(&fetched)
    );
    assert!(!cache.snapshot().exists());
    assert_eq!(cache.unfinished(), 0);
}

#[test]
fn the_token_goes_to_the_hub_and_not_to_its_storage() {
    let state = State {
        token: Some("secret".into()),
        ..model()
    };
    let (cache, hub) = (Cache::new(), Hub::start(state));
    let refused = cache.fetch(&hub);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        said(&refused).contains("401: it wants a token (HF_TOKEN)"),
        "{}",
        said(&refused)
    );
    let fetched = cache
        .command(&hub, &["fetch", NAME])
        .env("HF_TOKEN", "secret")
        .output()
        .expect("runs");
    assert!(fetched.status.success(), "{}", said(&fetched));
    assert!(!said(&fetched).contains("secret"));
    let requests = hub.requests("model.safetensors");
    assert!(
        !requests.is_empty() && requests.iter().all(|(_, key)| !key),
        "{requests:?}"
    );
}

#[test]
fn what_there_is_not_is_said() {
    let mut state = model();
    state.files.remove("tokenizer.json");
    let (cache, hub) = (Cache::new(), Hub::start(state));
    let output = |arguments: &[&str]| cache.command(&hub, arguments).output().expect("runs");
    let lacks = output(&["fetch", NAME]);
    assert!(
        said(&lacks).contains("has no tokenizer.json"),
        "{}",
        said(&lacks)
    );
    let unknown = output(&["fetch", NAME, "--revision", "v9"]);
    assert!(
        said(&unknown).contains("404: there is no such model, revision or file"),
        "{}",
        said(&unknown)
    );
    for wrong in ["model", "../x", "a/b/c"] {
        let refused = output(&["fetch", wrong]);
        assert!(
            said(&refused).contains("not a hub id"),
            "{wrong}: {}",
            said(&refused)
        );
    }
    assert!(!cache.snapshot().exists());
}

#[test]
fn pins_that_were_written_once_are_held_to() {
    let folder = tempfile::tempdir().expect("a folder");
    let pins = folder.path().join("pins.json");
    let pins = pins.to_str().expect("plain");
    // One file is small enough for the hub to know no SHA-256 of it.
    let model = || {
        let mut state = model();
        let small = ("tokenizer_config.json".to_owned(), b"{}".to_vec());
        state.files.extend([small]);
        state
    };
    let (cache, hub) = (Cache::new(), Hub::start(model()));
    let run = |cache: &Cache, hub: &Hub, arguments: &[&str]| {
        cache.command(hub, arguments).output().expect("runs")
    };
    let at = format!("{NAME}@{COMMIT}");
    let written = run(&cache, &hub, &["fetch", &at, "--write-pins", pins]);
    assert!(written.status.success(), "{}", said(&written));
    let text = std::fs::read_to_string(pins).expect("pins");
    let digest = hub::hex(&Sha256::digest(golden("config.json")));
    assert!(text.contains(COMMIT) && text.contains(&digest), "{text}");
    // Again, elsewhere, and without the network.
    let pinned = ["fetch", NAME, "--pins", pins];
    let again = run(&Cache::new(), &hub, &pinned);
    assert!(again.status.success(), "{}", said(&again));
    let offline = |cache: &Cache| {
        let mut command = cache.command(&hub, &pinned);
        command.env("HF_HUB_OFFLINE", "1").output().expect("runs")
    };
    assert!(offline(&cache).status.success());
    // Of the same commit, but other bytes, which the hub vouches for.
    for (file, asked) in [
        ("model.safetensors", false),
        ("tokenizer_config.json", true),
    ] {
        let mut state = model();
        state.files.get_mut(file).expect("there").push(b' ');
        let (cache, other) = (Cache::new(), Hub::start(state));
        let refused = run(&cache, &other, &pinned);
        assert_eq!(refused.status.code(), Some(1));
        let reason = format!("{file}: SHA-256 ");
        assert!(said(&refused).contains(&reason), "{}", said(&refused));
        assert!(!cache.snapshot().exists());
        // A large file's digest is known before it comes.
        assert_eq!(!other.requests(file).is_empty(), asked, "{file}");
    }
    let blob = cache.snapshot().join("config.json");
    std::fs::write(&blob, "{}").expect("written");
    assert!(said(&offline(&cache)).contains("config.json: SHA-256 "));
    // Another commit.
    std::fs::write(pins, text.replace(COMMIT, &COMMIT.replace('0', "f"))).expect("written");
    let refused = run(&Cache::new(), &hub, &["fetch", &at, "--pins", pins]);
    assert!(
        said(&refused).contains("pinned is f123456789abcdef"),
        "{}",
        said(&refused)
    );
    let unknown = run(&cache, &hub, &["fetch", "owner/other", "--pins", pins]);
    assert!(
        said(&unknown).contains("owner/other is not pinned here"),
        "{}",
        said(&unknown)
    );
    let wrong = format!("config.json={}", "0".repeat(64));
    let refused = run(&Cache::new(), &hub, &["fetch", NAME, "--sha256", &wrong]);
    assert!(
        said(&refused).contains("config.json: SHA-256 "),
        "{}",
        said(&refused)
    );
    assert_eq!(refused.status.code(), Some(1));
}
