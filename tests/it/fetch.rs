//! Downloads from a hub on loopback with the real one's layout: whole, resumed, dropped, lied to,
//! refused; and models served by name, from an empty cache to an answer.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use crate::support::client;
use crate::support::hub::{self, COMMIT, Hub, NAME, State};
use crate::support::process::Process;
use serde_json::{Value, json};
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
fn the_modules_of_a_head_are_fetched_with_the_encoder() {
    let (cache, hub) = (Cache::new(), Hub::start(modules()));
    // Twice: the second time over what is there.
    for _ in 0..2 {
        let fetched = cache.fetch(&hub);
        assert!(fetched.status.success(), "{}", said(&fetched));
        assert_whole(&cache, &hub);
    }
    let server = cache.serve(NOWHERE, &["--model", NAME], &[("PRECISION", "f32")]);
    assert_eq!(answered(&server).0, "f32");
    // Without one of them it is said which, before the large files come.
    for file in [
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "4_Dense/model.safetensors",
    ] {
        let mut state = modules();
        state.files.remove(file);
        let (cache, hub) = (Cache::new(), Hub::start(state));
        let (code, log) = cache.serve(&hub.endpoint, &["--model", NAME], &[]).wait();
        assert_eq!(code, Some(1), "{file}: {log:?}");
        assert!(log.join("\n").contains(file), "{file}: {log:?}");
        assert_eq!(hub.requests("model.safetensors").len(), 0, "{file}");
        assert!(!cache.snapshot().exists(), "{file}");
    }
}

/// A head in modules of its own.
fn modules() -> State {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/modernbert-modules");
    let files = [
        "config.json",
        "tokenizer.json",
        "model.safetensors",
        "modules.json",
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_Dense/model.safetensors",
        "3_LayerNorm/config.json",
        "3_LayerNorm/model.safetensors",
        "4_Dense/config.json",
        "4_Dense/model.safetensors",
    ];
    let content = |file: &str| std::fs::read(root.join(file)).expect("a fixture");
    State {
        files: files.map(|file| (file.to_owned(), content(file))).into(),
        ..State::default()
    }
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
    // Whichever of them were dropped: somebody goes on in the middle of a range.
    let resumed = requests.iter().any(|(range, _)| {
        let start = range.as_deref().and_then(|range| {
            let (start, _) = range.strip_prefix("bytes=")?.split_once('-')?;
            start.parse::<usize>().ok()
        });
        start.is_some_and(|start| start % RANGE >= 1_000_003)
    });
    assert!(resumed, "{requests:?}");
}

#[test]
fn what_a_repository_says_to_sentence_transformers_comes_too() {
    let mut state = model();
    let modules = json!([
        {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
    ]);
    let few = [
        ("modules.json", modules.to_string()),
        ("config_sentence_transformers.json", "{}".into()),
        ("1_Pooling/config.json", "{}".into()),
        ("2_Dense/config.json", r#"{"in_features": 4}"#.into()),
        ("2_Dense/model.safetensors", "weights ".repeat(200)),
    ];
    let few = few.map(|(file, content)| (file.to_owned(), content.into_bytes()));
    state.files.extend(few);
    let (cache, hub) = (Cache::new(), Hub::start(state));
    let fetched = cache.fetch(&hub);
    assert!(fetched.status.success(), "{}", said(&fetched));
    assert_whole(&cache, &hub);
    // Beside what is there already.
    std::fs::remove_file(cache.snapshot().join("2_Dense/config.json")).expect("removed");
    assert!(cache.fetch(&hub).status.success());
    assert_whole(&cache, &hub);
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
        said(&fetched).contains("model.safetensors: the download has the digest"),
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
        said(&refused).contains("401: set HF_TOKEN"),
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

/// One that can be served, and whose weights come in several ranges: a tensor that nothing reads
/// makes them long.
fn large_model() -> State {
    let mut state = model();
    let whole = &state.files["model.safetensors"];
    let length = u64::from_le_bytes(whole[..8].try_into().expect("eight bytes")) as usize;
    let mut header: Value = serde_json::from_slice(&whole[8..8 + length]).expect("a header");
    let tensors = &whole[8 + length..];
    let more = 3 * RANGE;
    header["filling"] = json!({
        "dtype": "F32",
        "shape": [more / 4],
        "data_offsets": [tensors.len(), tensors.len() + more],
    });
    let mut header = header.to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let length = (header.len() as u64).to_le_bytes();
    let bytes = [&length[..], &header, tensors, &vec![0; more]].concat();
    state.files.insert("model.safetensors".into(), bytes);
    state
}

impl Cache {
    /// `reranker serve` with these flags and variables besides.
    fn serve(&self, hub: &str, flags: &[&str], variables: &[(&str, &str)]) -> Process {
        self.serve_after(":", hub, flags, variables)
    }

    /// The same, in a shell that has done `first`.
    fn serve_after(
        &self,
        first: &str,
        hub: &str,
        flags: &[&str],
        variables: &[(&str, &str)],
    ) -> Process {
        let cache = self.0.path().to_str().expect("plain");
        let ours = [
            ("HF_ENDPOINT", hub),
            ("HF_HUB_CACHE", cache),
            ("HOST", "127.0.0.1"),
            ("PORT", "0"),
            ("LOG_FORMAT", "json"),
        ];
        Process::serve_after(first, flags, &[&ours[..], variables].concat())
    }

    fn run(&self, hub: &Hub, arguments: &[&str]) -> Output {
        self.command(hub, arguments).output().expect("runs")
    }

    /// What `reranker list` knows.
    fn list(&self, hub: &Hub) -> Vec<Value> {
        let listed = self.run(hub, &["list", "--json"]);
        assert!(listed.status.success(), "{}", said(&listed));
        let rows: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
        rows.as_array().expect("a list").clone()
    }

    fn packed(&self) -> PathBuf {
        self.snapshot().join("packed.safetensors")
    }
}

/// Scores with a server, once it is ready, in the precision that it says.
fn answered(server: &Process) -> (String, f64) {
    let ready = server.wait_for_message("model ready");
    let body = json!({"query": "what is a panda?", "passage": "a bear"});
    let reply = client::post(server.address(), "/rerank", &body);
    assert_eq!(reply.status, 200, "{}", reply.json());
    let precision = ready["precision"].as_str().expect("a name").to_owned();
    (precision, reply.json()["logit"].as_f64().expect("a number"))
}

const NOWHERE: &str = "http://127.0.0.1:1";

#[test]
fn one_command_leads_from_an_empty_cache_to_an_answer_and_a_second_one_needs_no_network() {
    let (cache, hub) = (Cache::new(), Hub::start(model()));
    let server = cache.serve(&hub.endpoint, &["--model", NAME], &[]);
    let (precision, first) = answered(&server);
    assert_eq!(precision, "int8");
    for what in ["downloading: 100 %", "trying: ", "measuring: ", "packing: "] {
        server.wait_for(what, |line| {
            line["message"].as_str()?.strip_prefix(what).map(drop)
        });
    }
    assert_whole(&cache, &hub);
    // What came is pinned.
    let record = cache.repository().join("reranker.json");
    let record = std::fs::read_to_string(record).expect("a record");
    let digest = hub::hex(&Sha256::digest(golden("model.safetensors")));
    assert!(
        record.contains(COMMIT) && record.contains(&digest),
        "{record}"
    );

    let rows = cache.list(&hub);
    assert_eq!(rows.len(), 1, "{rows:?}");
    let row = &rows[0];
    assert_eq!(
        (&row["name"], &row["revision"]),
        (&json!(NAME), &json!(COMMIT))
    );
    assert_eq!(row["precision"], "int8");
    assert!(row["fidelity"]["max_score_difference"].is_number(), "{row}");
    assert!(
        row["last_used"]
            .as_u64()
            .is_some_and(|time| time > 1_700_000_000)
    );
    let folder = std::fs::read_dir(cache.snapshot()).expect("a folder");
    let sizes = folder.map(|file| {
        std::fs::metadata(file.expect("one").path())
            .expect("one")
            .len()
    });
    assert_eq!(row["bytes"].as_u64(), Some(sizes.sum()));
    let table = cache.run(&hub, &["list"]);
    let table = String::from_utf8(table.stdout).expect("text");
    for part in ["NAME", NAME, &COMMIT[..12], "int8", "at most", "just now"] {
        assert!(table.contains(part), "{part} is not in\n{table}");
    }

    // What is served stays.
    let refused = cache.run(&hub, &["rm", NAME]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("another process serves it"));
    let packed_at = std::fs::metadata(cache.packed()).expect("there").modified();
    server.terminate();
    assert_eq!(server.wait().0, Some(0));

    let asked = hub.state.seen.lock().expect("no panic").len();
    let again = cache.serve(NOWHERE, &["--model", NAME], &[]);
    assert_eq!(answered(&again), ("int8".to_owned(), first));
    drop(again);
    // The variable finds it too.
    let again = cache.serve(NOWHERE, &[], &[("MODEL_NAME", NAME)]);
    assert_eq!(answered(&again), ("int8".to_owned(), first));
    drop(again);
    assert_eq!(hub.state.seen.lock().expect("no panic").len(), asked);
    let now = std::fs::metadata(cache.packed()).expect("there").modified();
    assert_eq!(now.expect("a time"), packed_at.expect("a time"));

    let removed = cache.run(&hub, &["rm", NAME]);
    assert!(removed.status.success(), "{}", said(&removed));
    let freed = String::from_utf8(removed.stdout).expect("text");
    assert!(
        freed.contains("owner/model is removed, which freed "),
        "{freed}"
    );
    assert!(!cache.repository().exists());
    assert_eq!(cache.list(&hub), [] as [Value; 0]);
    for (name, reason) in [
        (NAME, "it is empty"),
        ("owner/model@main", "name owner/model"),
        ("tests/golden/xlm-roberta", "is its owner's to remove"),
    ] {
        let refused = cache.run(&hub, &["rm", name]);
        assert_eq!(refused.status.code(), Some(2), "{name}");
        assert!(said(&refused).contains(reason), "{}", said(&refused));
    }
}

/// Waits until something is in the file, or `or` is there.
fn wait_for_content(path: &Path, or: &Path) {
    while !(std::fs::metadata(path).is_ok_and(|file| file.len() > 0) || or.exists()) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn what_is_interrupted_goes_on_and_nothing_half_is_served() {
    let kill = |mut server: Process| server.kill();
    let terminate = |server: Process| {
        server.terminate();
        let (code, log) = server.wait();
        assert_eq!(code, Some(128 + 15), "{log:?}");
        assert!(
            log.join("\n").contains("ended before it listened"),
            "{log:?}"
        );
    };
    let ends: [(&str, &dyn Fn(Process)); 2] = [("SIGKILL", &kill), ("SIGTERM", &terminate)];
    for (how, end) in ends {
        let (cache, hub) = (Cache::new(), Hub::start(large_model()));
        let digest = hub::hex(&Sha256::digest(&hub.state.files["model.safetensors"]));
        let blobs = cache.repository().join("blobs");
        let notes = blobs.join(digest + ".incomplete.ranges");
        // In the download, as soon as one range is noted.
        let server = cache.serve(&hub.endpoint, &["--model", NAME], &[]);
        wait_for_content(&notes, &cache.packed());
        end(server);
        assert!(
            !cache.packed().exists(),
            "{how}: it packs what is not whole"
        );
        let before = hub.requests("model.safetensors").len();
        if !cache.snapshot().exists() {
            let rows = cache.list(&hub);
            assert_eq!(rows[0]["revision"], Value::Null, "{how}: {rows:?}");
            let problem = rows[0]["problem"].as_str().expect("a sentence");
            assert!(problem.contains("incomplete"), "{how}: {problem}");
        }
        // In packing, as soon as some of it is written.
        let server = cache.serve(&hub.endpoint, &["--model", NAME], &[]);
        let partial = cache.snapshot().join("packed.safetensors.partial");
        wait_for_content(&partial, &cache.packed());
        end(server);
        assert!(
            !cache.packed().exists(),
            "{how}: packing ended before it was"
        );
        assert_whole(&cache, &hub);
        let again = hub.requests("model.safetensors").len() - before;
        assert!(again < 4, "{how}: at least one range was there: {again}");
        // What was whole came once.
        assert_eq!(hub.requests("tokenizer.json").len(), 1, "{how}");
        assert_eq!(cache.list(&hub)[0]["precision"], "f32", "{how}");
        // The third gets through, without the network, by the variable too: it is known who brought
        // it.
        let server = cache.serve(NOWHERE, &[], &[("MODEL_NAME", NAME)]);
        assert_eq!(answered(&server).0, "int8", "{how}");
        assert!(!partial.exists(), "{how}");
        // A packed file that was cut is made again, to the same bytes.
        drop(server);
        let bytes = std::fs::read(cache.packed()).expect("there");
        std::fs::write(cache.packed(), &bytes[..bytes.len() / 2]).expect("written");
        let server = cache.serve(NOWHERE, &["--model", NAME], &[]);
        assert_eq!(answered(&server).0, "int8", "{how}");
        assert!(
            std::fs::read(cache.packed()).expect("there") == bytes,
            "{how}"
        );
    }
}

/// What is done before a start, and what its shell does first.
type Break<'a> = &'a dyn Fn(&Cache, &Hub) -> String;

#[test]
fn a_disk_that_is_full_ends_the_start_and_the_next_one_goes_on() {
    // No file longer than this: writing fails as on a full disk, but for the error's number.
    let full = |kilobytes: usize| format!("trap '' XFSZ; ulimit -f {}", kilobytes * 2);
    let cases: [(&str, Break, &str, &str); 3] = [
        (
            "while weights come",
            &|_, _| full(500),
            ".incomplete",
            "model.safetensors",
        ),
        (
            "when it is written down what came",
            &|cache, _| {
                let record = cache.repository().join("reranker.json/in-the-way");
                std::fs::create_dir_all(record).expect("made");
                ":".into()
            },
            "reranker.json",
            "",
        ),
        (
            // Which is shorter than its source.
            "while it is packed",
            &|cache, hub| {
                assert!(cache.fetch(hub).status.success());
                full(300)
            },
            "packed.safetensors.partial",
            "",
        ),
    ];
    let (whole, hub) = (Cache::new(), Hub::start(model()));
    let server = whole.serve(&hub.endpoint, &["--model", NAME], &[]);
    let (_, expected) = answered(&server);
    drop(server);
    for (when, break_it, named, twice) in cases {
        let (cache, hub) = (Cache::new(), Hub::start(model()));
        let first = break_it(&cache, &hub);
        let server = cache.serve_after(&first, &hub.endpoint, &["--model", NAME], &[]);
        let (code, log) = server.wait();
        assert_eq!(code, Some(1), "{when}: {log:?}");
        assert!(log.join("\n").contains(named), "{when}: {log:?}");
        assert!(!cache.packed().exists(), "{when}");
        let partial = cache.packed().with_extension("safetensors.partial");
        assert!(!partial.exists(), "{when}");
        let in_the_way = cache.repository().join("reranker.json");
        if in_the_way.is_dir() {
            assert!(!cache.snapshot().exists(), "{when}");
            std::fs::remove_dir_all(in_the_way).expect("removed");
        }
        let server = cache.serve(&hub.endpoint, &["--model", NAME], &[]);
        assert_eq!(answered(&server), ("int8".to_owned(), expected), "{when}");
        assert_whole(&cache, &hub);
        for file in hub.state.files.keys().filter(|file| *file != twice) {
            assert_eq!(hub.requests(file).len(), 1, "{when}: {file}");
        }
        let [packed, one] = [&cache, &whole].map(|cache| std::fs::read(cache.packed()));
        assert!(packed.expect("there") == one.expect("there"), "{when}");
    }
}

#[test]
fn nothing_is_fetched_for_an_address_that_cannot_be_listened_to() {
    let busy = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = busy.local_addr().expect("an address").port().to_string();
    for (variable, said) in [
        (("PORT", port.as_str()), "the port is in use: set PORT"),
        // Of a net that is for documentation alone.
        (("HOST", "203.0.113.7"), "no such address: set HOST"),
    ] {
        let (cache, hub) = (Cache::new(), Hub::start(model()));
        let server = cache.serve(&hub.endpoint, &["--model", NAME], &[variable]);
        let (code, log) = server.wait();
        assert_eq!(code, Some(1), "{log:?}");
        assert!(log.join("\n").contains(said), "{log:?}");
        assert!(hub.state.seen.lock().expect("no panic").is_empty());
        assert!(!cache.repository().exists());
    }
}

#[test]
fn the_variable_brings_what_is_not_here_on_plain_servers_alone_and_leaves_what_is_here_as_it_is() {
    let (cache, hub) = (Cache::new(), Hub::start(model()));
    let server = cache.serve(&hub.endpoint, &[], &[("MODEL_NAME", NAME)]);
    assert_eq!(answered(&server).0, "int8");
    drop(server);
    // Fetched by the command, it is served as it came; and packed where the command line names it.
    let cache = Cache::new();
    assert!(cache.fetch(&hub).status.success());
    let server = cache.serve(NOWHERE, &[], &[("MODEL_NAME", NAME)]);
    assert_eq!(answered(&server).0, "f32");
    drop(server);
    let server = cache.serve(NOWHERE, &["--model", NAME], &[("PRECISION", "f32")]);
    assert_eq!(answered(&server).0, "f32");
    drop(server);
    assert!(!cache.packed().exists());
    let server = cache.serve(NOWHERE, &["--model", NAME], &[]);
    assert_eq!(answered(&server).0, "int8");
    drop(server);
    // Beside a folder it is a label, and functions hold their model.
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/xlm-roberta");
    let golden = golden.to_str().expect("plain");
    let (cache, hub) = (Cache::new(), Hub::start(model()));
    let named = ("MODEL_NAME", NAME);
    let server = cache.serve(&hub.endpoint, &[], &[named, ("MODEL_DIR", golden)]);
    answered(&server);
    drop(server);
    for variables in [
        &[named, ("FUNCTIONS_CUSTOMHANDLER_PORT", "0")][..],
        &[named, ("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:1")],
        &[named, ("HF_HUB_OFFLINE", "1")],
    ] {
        let server = cache.serve(&hub.endpoint, &[], variables);
        let (code, log) = server.wait();
        assert_eq!(code, Some(1), "{log:?}");
        let log = log.join("\n");
        assert!(log.contains("is not in "), "{variables:?}: {log}");
    }
    assert!(hub.state.seen.lock().expect("no panic").is_empty());
}

#[test]
fn a_folder_of_the_same_name_goes_before_the_hub() {
    let (cache, hub) = (Cache::new(), Hub::start(model()));
    let folder = tempfile::tempdir().expect("a folder");
    let own = folder.path().join(NAME);
    std::fs::create_dir_all(&own).expect("made");
    for (file, content) in model().files {
        std::fs::write(own.join(file), content).expect("written");
    }
    // What sentence-transformers does otherwise is said.
    let mut config: Value = serde_json::from_slice(&golden("config.json")).expect("JSON");
    config["sentence_transformers"] = json!({"activation_fn": "torch.nn.modules.linear.Identity"});
    std::fs::write(own.join("config.json"), config.to_string()).expect("written");
    let doctor = cache.run(&hub, &["doctor", "--model", own.to_str().expect("plain")]);
    assert!(doctor.status.success(), "{}", said(&doctor));
    let doctor = String::from_utf8(doctor.stdout).expect("text");
    assert!(
        doctor.contains("\"normalize\": false gives equal numbers"),
        "{doctor}"
    );
    let there = format!("cd {}", folder.path().display());
    let variables = [
        ("HF_ENDPOINT", hub.endpoint.as_str()),
        ("HF_HUB_CACHE", cache.0.path().to_str().expect("plain")),
        ("HOST", "127.0.0.1"),
        ("PORT", "0"),
        ("LOG_FORMAT", "json"),
    ];
    // It is its owner's: nothing is written into it unasked.
    let server = Process::serve_after(&there, &["--model", NAME], &variables);
    assert_eq!(answered(&server).0, "f32");
    drop(server);
    assert!(!own.join("packed.safetensors").exists());
    let server = Process::serve_after(&there, &["--model", NAME, "--pack"], &variables);
    assert_eq!(answered(&server).0, "int8");
    assert!(own.join("packed.safetensors").exists());
    drop(server);
    let flags = ["--model", "s3://bucket/folder/", "--pack"];
    let (code, log) = Process::serve_after(&there, &flags, &variables).wait();
    assert_eq!(code, Some(2), "{log:?}");
    let function = [("FUNCTIONS_CUSTOMHANDLER_PORT", "0")];
    let (code, log) = Process::serve_after(&there, &["--pack"], &function).wait();
    assert_eq!(code, Some(2), "{log:?}");
    // Fetching it would hide it.
    let mut fetch = cache.command(&hub, &["fetch", NAME]);
    let fetch = fetch.current_dir(folder.path()).output();
    let fetch = fetch.expect("the program runs");
    assert_eq!(fetch.status.code(), Some(2), "{}", said(&fetch));
    let advice = format!("a folder of this machine: set MODEL_DIR={NAME}");
    assert!(said(&fetch).contains(&advice), "{}", said(&fetch));
    assert!(hub.state.seen.lock().expect("no panic").is_empty());
}

#[test]
fn what_cannot_be_served_by_name_is_said_before_it_is_served() {
    let lied = || {
        let mut state = model();
        let mut wrong = state.files["model.safetensors"].clone();
        *wrong.last_mut().expect("bytes") ^= 1;
        state.lies.insert("model.safetensors".into(), wrong);
        state
    };
    let endless = || {
        let mut state = model();
        state.sizes.insert("model.safetensors".into(), 1 << 50);
        state
    };
    let foreign = || {
        let mut state = model();
        let config = json!({"model_type": "deberta-v2", "architectures": ["DebertaV2ForSequenceClassification"]});
        state
            .files
            .insert("config.json".into(), config.to_string().into_bytes());
        state
    };
    let other = |file: &str, in_its_place: &str| {
        let mut state = model();
        state.files.remove(file);
        state.files.insert(in_its_place.into(), b"PK".to_vec());
        state
    };
    for (what, state, name, code, said) in [
        (
            "PyTorch's weights alone",
            other("model.safetensors", "pytorch_model.bin"),
            NAME,
            1,
            "pytorch_model.bin has the weights in PyTorch's format: python3 -c",
        ),
        (
            "ONNX alone",
            other("model.safetensors", "onnx/model.onnx"),
            NAME,
            1,
            "onnx is of a format that is not read",
        ),
        (
            "GGUF alone",
            other("model.safetensors", "model-q8_0.gguf"),
            NAME,
            1,
            "model-q8_0.gguf is of a format that is not read",
        ),
        (
            "a slow tokenizer alone",
            other("tokenizer.json", "sentencepiece.bpe.model"),
            NAME,
            1,
            "sentencepiece.bpe.model is a slow tokenizer's: python3 -c",
        ),
        (
            "a lie",
            lied(),
            NAME,
            1,
            "model.safetensors: the download has the digest",
        ),
        ("a large model", endless(), NAME, 1, "the disk is too small"),
        (
            "another kind",
            foreign(),
            NAME,
            1,
            "config.json: model_type: found \"deberta-v2\"",
        ),
        (
            "no model",
            model(),
            "owner/none",
            1,
            "404: there is no such model",
        ),
        (
            "no revision",
            model(),
            "owner/model@v9",
            1,
            "404: there is no such model",
        ),
        (
            "a misspelling",
            model(),
            "BAAI/bge-reranker-v2-m4",
            1,
            "is BAAI/bge-reranker-v2-m3 meant?",
        ),
        (
            "no owner",
            model(),
            "ettin-reranker-32m-v1",
            2,
            "is cross-encoder/ettin-reranker-32m-v1 meant?",
        ),
        (
            "no folder",
            model(),
            "./none",
            1,
            "there is no folder or packed file ./none",
        ),
        ("no name", model(), "a/b/c", 2, "not a hub id"),
        (
            "terms",
            model(),
            "jinaai/jina-reranker-v2-base-multilingual",
            1,
            "CC-BY-NC-4.0, forbids commercial use",
        ),
    ] {
        let (cache, hub) = (Cache::new(), Hub::start(state));
        let server = cache.serve(&hub.endpoint, &["--model", name], &[]);
        let (ended, log) = server.wait();
        let log = log.join("\n").replace("\\\"", "\"");
        assert_eq!(ended, Some(code), "{what}: {log}");
        assert!(log.contains(said), "{what}: {log}");
        assert!(!log.contains("listening"), "{what}: {log}");
        assert!(!cache.snapshot().exists(), "{what}");
        let asked = !hub.requests("model.safetensors").is_empty();
        assert_eq!(asked, what == "a lie", "{what}");
    }
}

#[test]
fn other_bytes_under_the_commit_that_was_pinned_are_refused() {
    let (cache, hub) = (Cache::new(), Hub::start(model()));
    drop({
        let server = cache.serve(&hub.endpoint, &["--model", NAME], &[]);
        answered(&server);
        server
    });
    for part in ["snapshots", "blobs"] {
        std::fs::remove_dir_all(cache.repository().join(part)).expect("removed");
    }
    let mut state = model();
    state
        .files
        .get_mut("config.json")
        .expect("there")
        .push(b' ');
    let other = Hub::start(state);
    let server = cache.serve(&other.endpoint, &["--model", NAME], &[]);
    let (code, log) = server.wait();
    assert_eq!(code, Some(1));
    assert!(log.join("\n").contains("config.json: SHA-256 "), "{log:?}");
    // From the hub that has it, it comes again.
    let server = cache.serve(&hub.endpoint, &["--model", NAME], &[]);
    assert_eq!(answered(&server).0, "int8");
}
