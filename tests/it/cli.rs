//! The commands as a user calls them: the real program, on a tiny real model.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/xlm-roberta")
}

/// The program with nothing of this shell's environment but what it needs to run.
fn reranker(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reranker"));
    command
        .args(args)
        .env_clear()
        .env("MODEL_DIR", golden())
        .stdin(Stdio::null());
    command
}

fn run(mut command: Command) -> Output {
    command.output().expect("the program starts")
}

fn stdout(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}: {}",
        output.status,
        stderr(output)
    );
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect()
}

/// Some pairs as JSONL, with the ids 0, 1, ….
fn pairs(count: usize) -> String {
    (0..count)
        .map(|id| {
            let passage = "bamboo and water ".repeat(id % 9);
            format!(
                "{}\n",
                json!({"id": id, "query": "what is a panda?", "passage": passage})
            )
        })
        .collect()
}

#[test]
fn passages_are_printed_best_first_with_their_scores() {
    let output = run(reranker(&[
        "score",
        "--query",
        "what is a panda?",
        "water",
        "a bear",
        "",
    ]));
    let text = stdout(&output);
    let scores: Vec<f64> = text
        .lines()
        .map(|line| {
            let score = line.split_whitespace().next().expect("a score");
            score.parse().expect("a number")
        })
        .collect();
    assert_eq!(scores.len(), 3);
    assert!(scores.is_sorted_by(|a, b| a >= b), "{text}");
    assert!(scores.iter().all(|score| (0.0..=1.0).contains(score)));
}

#[test]
fn jsonl_in_gives_jsonl_out_in_order_from_a_file_and_from_stdin() {
    let folder = tempfile::tempdir().expect("a folder");
    let input = folder.path().join("in.jsonl");
    std::fs::write(&input, pairs(300)).expect("written");
    let from_file = stdout(&run(reranker(&[
        "score",
        "--jsonl",
        &input.to_string_lossy(),
    ])));
    let scored = lines(&from_file);
    assert_eq!(scored.len(), 300);
    for (index, line) in scored.iter().enumerate() {
        assert_eq!(line["id"], index);
        assert_eq!(line["truncated"], false);
        // Equal pairs have equal scores wherever they stand.
        assert_eq!(line["logit"], scored[index % 9]["logit"]);
    }
    let mut command = reranker(&["score", "--jsonl", "-", "--raw"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(pairs(3).as_bytes()).expect("written");
    drop(stdin);
    let output = child.wait_with_output().expect("ends");
    let raw = lines(&stdout(&output));
    assert_eq!(raw.len(), 3);
    assert_eq!(raw[2]["logit"], scored[2]["logit"]);
}

#[test]
fn an_interrupted_run_is_continued_to_the_same_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let (input, out) = (
        folder.path().join("in.jsonl"),
        folder.path().join("out.jsonl"),
    );
    std::fs::write(&input, pairs(40)).expect("written");
    let score = || {
        let args = [
            "score",
            "--jsonl",
            &input.to_string_lossy(),
            "--out",
            &out.to_string_lossy(),
        ];
        let output = run(reranker(&args));
        assert!(output.status.success(), "{}", stderr(&output));
        std::fs::read(&out).expect("read")
    };
    let whole = score();
    assert_eq!(whole.iter().filter(|b| **b == b'\n').count(), 40);
    // Whatever length a killed run left, half lines included.
    for cut in [
        0,
        1,
        whole.len() / 3,
        whole.len() / 2 + 1,
        whole.len() - 1,
        whole.len(),
    ] {
        std::fs::write(&out, &whole[..cut]).expect("written");
        assert_eq!(score(), whole, "continued from {cut} bytes");
    }
}

/// A folder with the pairs of a bulk run, and where its output goes.
struct Bulk {
    folder: tempfile::TempDir,
}

impl Bulk {
    fn new(input: impl AsRef<[u8]>) -> Self {
        let bulk = Self {
            folder: tempfile::tempdir().expect("a folder"),
        };
        std::fs::write(bulk.path("in.jsonl"), input).expect("written");
        bulk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, out: &str, more: &[&str]) -> Command {
        let (input, out) = (self.path("in.jsonl"), self.path(out));
        let mut command = reranker(&["score", "--jsonl"]);
        command.arg(input).arg("--out").arg(out).args(more);
        command
    }

    fn score(&self, more: &[&str]) -> Output {
        run(self.command("out.jsonl", more))
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).expect("read")
    }

    fn rows(&self) -> Vec<Value> {
        lines(&String::from_utf8(self.bytes("out.jsonl")).expect("text"))
    }
}

/// What cannot be scored, the code of its reason, and what the reason names.
const BAD_LINES: [(&[u8], &str, &str); 13] = [
    (br#"{"query": "q"}"#, "missing_field", "passage is missing"),
    (
        br#"{"query": "q", "passage": null}"#,
        "missing_field",
        "passage is missing",
    ),
    (
        br#"{"query": 2024, "passage": "p"}"#,
        "wrong_type",
        "query is a number, expected a string",
    ),
    (
        br#"{"query": "q", "passage": ["secret"]}"#,
        "wrong_type",
        "passage is an array, expected a string",
    ),
    (
        br#"{"query": " ", "passage": "p"}"#,
        "empty_query",
        "query is empty",
    ),
    (
        br#"["7", "secret", "p"]"#,
        "wrong_type",
        "the line is an array, expected an object",
    ),
    (br#""secret""#, "wrong_type", "the line is a string"),
    (b"secret text", "malformed_json", "not JSON (column 1)"),
    (b"\"secret", "malformed_json", "the line ends"),
    (
        br#"{"query": "q", "passage": "secret"#,
        "malformed_json",
        "the line ends",
    ),
    (
        br#"{"query": "q", "query": "secret", "passage": "p"}"#,
        "malformed_json",
        "given twice",
    ),
    (
        b"{\"query\": \"q\", \"passage\": \"\xff\"}",
        "malformed_json",
        "byte 28 of the line, expected UTF-8",
    ),
    (
        b"\xff\xfe{\0",
        "malformed_json",
        "the file is UTF-16, expected UTF-8",
    ),
];

#[test]
fn a_bad_line_becomes_a_row_with_its_reason_and_costs_no_other_line() {
    let mut input = Vec::new();
    for (number, (line, ..)) in BAD_LINES.iter().enumerate() {
        // Blank lines have no row, but count as lines.
        input.extend(format!("{}\r\n \n", pairs(number + 1).lines().last().expect("one")).bytes());
        input.extend_from_slice(line);
        input.push(b'\n');
    }
    let bulk = Bulk::new(&input);
    let to_file = bulk.score(&[]);
    let to_stdout = run({
        let mut command = reranker(&["score", "--jsonl"]);
        command.arg(bulk.path("in.jsonl"));
        command
    });
    assert_eq!(to_stdout.stdout, bulk.bytes("out.jsonl"));
    for output in [to_file, to_stdout] {
        assert_eq!(output.status.code(), Some(1));
        let told = stderr(&output);
        for says in [
            "13 of ",
            "malformed_json 6",
            "missing_field 2",
            "13 pairs, ",
        ] {
            assert!(told.contains(says), "{told}");
        }
        assert!(!told.contains("secret"), "{told}");
    }
    let rows = bulk.rows();
    assert_eq!(rows.len(), 2 * BAD_LINES.len());
    for (number, (line, code, message)) in BAD_LINES.iter().enumerate() {
        let (good, bad) = (&rows[2 * number], &rows[2 * number + 1]);
        assert_eq!(
            (&good["id"], &good["truncated"]),
            (&json!(number), &json!(false))
        );
        assert_eq!(
            (&bad["line"], &bad["error"]["code"]),
            (&json!(3 * number + 3), &json!(code))
        );
        let said = bad["error"]["message"].as_str().expect("a message");
        assert!(
            said.contains(message),
            "{}: {said}",
            String::from_utf8_lossy(line)
        );
        assert!(
            bad.get("score").is_none() && !bad.to_string().contains("secret"),
            "{bad}"
        );
    }
}

#[test]
fn what_is_too_long_becomes_a_row_with_its_reason() {
    let long = |words: usize| "word ".repeat(words);
    let line = |id: usize, passage: &str| {
        format!("{}\n", json!({"id": id, "query": "q", "passage": passage}))
    };
    let input = [
        line(0, "short"),
        line(1, &long(30)),
        line(2, "short"),
        line(3, &long(200)),
        line(4, &long(20_000)),
        line(5, "short"),
    ];
    let bulk = Bulk::new(input.concat());
    let mut command = bulk.command("out.jsonl", &["--truncation", "none", "--max-length", "16"]);
    command
        .env("MAX_TEXT_CHARS", "500")
        .env("MAX_BODY_BYTES", "65536");
    let output = run(command);
    assert_eq!(output.status.code(), Some(1));
    let rows = bulk.rows();
    let codes: Vec<Option<&str>> = rows
        .iter()
        .map(|row| row["error"]["code"].as_str())
        .collect();
    assert_eq!(
        codes,
        [
            None,
            Some("pair_too_long"),
            None,
            Some("text_too_long"),
            Some("line_too_long"),
            None
        ]
    );
    let passage = rows[1]["error"]["message"].as_str().expect("a message");
    assert!(passage.starts_with("passage"), "{passage}");
    assert!(
        rows[4]["error"]["message"]
            .to_string()
            .contains("the limit is 65536 (MAX_BODY_BYTES)")
    );
    assert_eq!(rows[0]["logit"], rows[5]["logit"]);
    // The ids of lines that could be read are there.
    assert_eq!((&rows[3]["id"], &rows[4]["id"]), (&json!(3), &Value::Null));
}

#[test]
fn rows_without_a_score_are_tried_again_and_end_as_if_their_lines_had_always_been_right() {
    let good = pairs(40);
    let good: Vec<&str> = good.lines().collect();
    let mut broken = good.clone();
    for index in [0, 17, 39] {
        broken[index] = r#"{"id": 5, "query": "q"}"#;
    }
    let unbroken = Bulk::new(good.join("\n"));
    stdout(&unbroken.score(&[]));
    let bulk = Bulk::new(broken.join("\n"));
    let first = bulk.score(&[]);
    assert_eq!(first.status.code(), Some(1));
    assert!(stderr(&first).contains("3 of "), "{}", stderr(&first));
    // Nothing was mended: the same again.
    let before = bulk.bytes("out.jsonl");
    let again = bulk.score(&[]);
    assert_eq!(again.status.code(), Some(1), "{}", stderr(&again));
    assert_eq!(bulk.bytes("out.jsonl"), before);
    // One is mended, then the others, while lines come to the end.
    broken[17] = good[17];
    std::fs::write(bulk.path("in.jsonl"), broken.join("\n")).expect("written");
    let output = bulk.score(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("2 of "), "{}", stderr(&output));
    let more = format!(
        "{}\n{}",
        good.join("\n"),
        pairs(50).lines().skip(40).collect::<Vec<_>>().join("\n")
    );
    std::fs::write(bulk.path("in.jsonl"), &more).expect("written");
    std::fs::write(unbroken.path("in.jsonl"), &more).expect("written");
    for bulk in [&bulk, &unbroken] {
        let told = bulk.score(&[]);
        stdout(&told);
        assert!(
            stderr(&told).contains("40 pairs are scored already"),
            "{}",
            stderr(&told)
        );
    }
    assert_eq!(bulk.bytes("out.jsonl"), unbroken.bytes("out.jsonl"));
    assert_eq!(
        bulk.bytes("out.jsonl.about"),
        unbroken.bytes("out.jsonl.about")
    );
    let complete = bulk.score(&[]);
    stdout(&complete);
    assert!(
        stderr(&complete).contains("is complete already: 50 rows"),
        "{}",
        stderr(&complete)
    );
}

#[test]
fn ids_come_back_as_they_were_sent() {
    let ids = [
        "12345678901234567890123",
        "-0.10",
        "1e400",
        r#""\u00fc \/""#,
        r#"{"b": [1,  2], "a": null}"#,
        "true",
    ];
    let input: String = ids
        .iter()
        .map(|id| format!("{{\"id\": {id}, \"query\": \"q\", \"passage\": \"p\"}}\n"))
        .collect();
    let bulk = Bulk::new(input);
    stdout(&bulk.score(&[]));
    let text = String::from_utf8(bulk.bytes("out.jsonl")).expect("text");
    for (line, id) in text.lines().zip(ids) {
        assert!(
            line.starts_with(&format!("{{\"id\":{id},\"score\":")),
            "{line}"
        );
    }
}

#[test]
fn half_characters_and_byte_order_marks_are_mended() {
    let pair = |passage: &str| format!("{{\"query\": \"a panda?\", \"passage\": \"{passage}\"}}\n");
    let mark = "\u{feff}";
    let bulk = Bulk::new(
        [
            mark,
            &pair(r"bear \ud83d"),
            &pair(r"bear \ufffd"),
            // Two files with marks, one after the other.
            mark,
            &pair("bear \u{fffd}"),
        ]
        .concat(),
    );
    stdout(&bulk.score(&[]));
    let rows = bulk.rows();
    assert_eq!(rows.len(), 3);
    assert_eq!((&rows[0], &rows[1]), (&rows[1], &rows[2]));
    assert!(rows[0]["score"].is_number());
}

/// How a later run may differ from the one that began a file: what it is told, its arguments, its
/// settings, and its input.
type Difference<'a> = (
    &'a str,
    Vec<String>,
    Vec<(&'a str, String)>,
    Option<&'a str>,
);

#[test]
fn a_file_of_other_scores_is_never_added_to() {
    let bulk = Bulk::new(pairs(12));
    stdout(&bulk.score(&["--max-length", "32"]));
    let whole = bulk.bytes("out.jsonl");
    let half = whole.len() / 2;
    let (bert, packed) = (golden().with_file_name("bert"), bulk.path("packed"));
    let mut pack = reranker(&["pack", "--out"]);
    stdout(&run({
        pack.arg(&packed);
        pack
    }));
    let other_input = pairs(12).replacen("panda", "bear", 1);
    let shorter: String = pairs(12).lines().take(3).collect::<Vec<_>>().join("\n");
    let same = || ["--max-length", "32"].map(str::to_owned).to_vec();
    let with = |more: &[&str]| [same(), more.iter().map(|it| (*it).to_owned()).collect()].concat();
    let path = |path: &Path| path.to_str().expect("plain").to_owned();
    let isas = kernels::Isa::available();
    let mut rows: Vec<Difference> = vec![
        ("raw was false and is true", with(&["--raw"]), vec![], None),
        (
            "max_length was 32 and is 48",
            vec!["--max-length".into(), "48".into()],
            vec![],
            None,
        ),
        (
            "max_length was 32 and is 64",
            vec![],
            vec![("MAX_LENGTH", "64".into())],
            None,
        ),
        (
            "truncation was longest_first and is flag",
            with(&["--truncation", "flag"]),
            vec![],
            None,
        ),
        (
            "truncation was longest_first and is flag",
            same(),
            vec![("TRUNCATION", "flag".into())],
            None,
        ),
        (
            "model was xlm-roberta and is bert",
            with(&["--model", &path(&bert)]),
            vec![],
            None,
        ),
        (
            "model was xlm-roberta and is bert",
            same(),
            vec![("MODEL_DIR", path(&bert))],
            None,
        ),
        (
            "precision was f32 and is int8",
            with(&["--model", &path(&packed)]),
            vec![],
            None,
        ),
        ("line 1 of", same(), vec![], Some(&other_input)),
        ("has only 3 lines", same(), vec![], Some(&shorter)),
    ];
    if let [first, .., last] = &isas[..] {
        assert_ne!(first.name(), last.name());
        rows.push((
            "computed_on was",
            same(),
            vec![("INSTRUCTION_SET", first.name().into())],
            None,
        ));
    }
    for (says, arguments, settings, input) in rows {
        // A file that was finished, and one that was not.
        for length in [whole.len(), half] {
            std::fs::write(bulk.path("out.jsonl"), &whole[..length]).expect("written");
            std::fs::write(bulk.path("in.jsonl"), input.unwrap_or(&pairs(12))).expect("written");
            let about = bulk.bytes("out.jsonl.about");
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let mut command = bulk.command("out.jsonl", &arguments);
            command.envs(settings.iter().map(|(name, value)| (name, value)));
            let output = run(command);
            assert_eq!(output.status.code(), Some(2), "{says}: {}", stderr(&output));
            assert!(
                stderr(&output).contains(says),
                "{}\nlacks {says}",
                stderr(&output)
            );
            let kept = bulk.bytes("out.jsonl");
            // At most the half row of a run that was interrupted is gone.
            assert!(
                whole.starts_with(&kept) && kept.len() + 200 > length,
                "{says}"
            );
            assert!(about.starts_with(&bulk.bytes("out.jsonl.about")), "{says}");
            std::fs::write(bulk.path("out.jsonl.about"), about).expect("written");
        }
    }
    // With the same settings, however they are given, it goes on.
    std::fs::write(bulk.path("in.jsonl"), pairs(12)).expect("written");
    let mut command = bulk.command("out.jsonl", &["--truncation", "longest_first"]);
    command
        .env("MAX_LENGTH", "32")
        .env("MODEL_NAME", "by/another-name")
        .env("THREADS", "1");
    stdout(&run(command));
    assert_eq!(bulk.bytes("out.jsonl"), whole);
}

#[test]
fn a_file_that_score_did_not_write_is_left_as_it_is() {
    let bulk = Bulk::new(pairs(3).trim_end());
    let input = bulk.bytes("in.jsonl");
    std::fs::write(bulk.path("notes.txt"), "a line\nwithout its end").expect("written");
    std::fs::hard_link(bulk.path("in.jsonl"), bulk.path("hard.jsonl")).expect("linked");
    std::os::unix::fs::symlink(bulk.path("in.jsonl"), bulk.path("soft.jsonl")).expect("linked");
    std::fs::hard_link(bulk.path("in.jsonl"), bulk.path("anew.jsonl.partial")).expect("linked");
    std::fs::create_dir(bulk.path("folder")).expect("made");
    let fifo = Command::new("mkfifo").arg(bulk.path("fifo")).status();
    assert!(fifo.expect("mkfifo").success());
    std::fs::write(bulk.path("new.jsonl.about"), "mine").expect("written");
    for (out, says) in [
        ("in.jsonl", "that is the file to read"),
        ("hard.jsonl", "that is the file to read"),
        ("soft.jsonl", "that is the file to read"),
        // Where its rows would be written anew.
        ("anew.jsonl", "that is the file to read"),
        ("notes.txt", "not written by `score`"),
        ("new.jsonl", "not written by `score`"),
        ("folder", "not a plain file"),
        ("fifo", "not a plain file"),
        ("/dev/null", "not a plain file"),
        ("/dev/full", "not a plain file"),
        ("/dev/zero", "not a plain file"),
    ] {
        let output = run(bulk.command(out, &[]));
        assert_eq!(output.status.code(), Some(2), "{out}: {}", stderr(&output));
        assert!(stderr(&output).contains(says), "{out}: {}", stderr(&output));
    }
    assert_eq!(bulk.bytes("in.jsonl"), input);
    assert_eq!(bulk.bytes("notes.txt"), b"a line\nwithout its end");
    assert_eq!(bulk.bytes("new.jsonl.about"), b"mine");

    // The same by redirection: from it, and to it.
    let mut from = reranker(&["score", "--jsonl", "-", "--out"]);
    from.arg(bulk.path("in.jsonl"))
        .stdin(std::fs::File::open(bulk.path("in.jsonl")).expect("opened"));
    let mut to = reranker(&["score", "--jsonl"]);
    let appended = std::fs::OpenOptions::new()
        .append(true)
        .open(bulk.path("in.jsonl"));
    to.arg(bulk.path("in.jsonl"))
        .stdout(appended.expect("opened"));
    for command in [from, to] {
        let output = run(command);
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert!(
            stderr(&output).contains("the file to read"),
            "{}",
            stderr(&output)
        );
    }
    assert_eq!(bulk.bytes("in.jsonl"), input);

    // Rows that somebody changed, added, or began to add.
    stdout(&bulk.score(&[]));
    let rows = String::from_utf8(bulk.bytes("out.jsonl")).expect("text");
    for (changed, says) in [
        (rows.replacen("0.", "1.", 1), "line 1 was changed"),
        (
            format!("{rows}{{\"score\":1}}\n"),
            "line 4 was not written by `score`",
        ),
        (
            format!("{rows}half a li"),
            "line 4 was not written by `score`",
        ),
        (format!("a title\n{rows}"), "line 1 was changed"),
    ] {
        std::fs::write(bulk.path("out.jsonl"), &changed).expect("written");
        let output = bulk.score(&[]);
        assert_eq!(output.status.code(), Some(2), "{says}");
        assert!(stderr(&output).contains(says), "{}", stderr(&output));
        assert_eq!(bulk.bytes("out.jsonl"), changed.as_bytes(), "{says}");
    }
    // A file that is there and empty is nobody's.
    std::fs::write(bulk.path("empty.jsonl"), "").expect("written");
    stdout(&run(bulk.command("empty.jsonl", &[])));
    assert_eq!(bulk.bytes("empty.jsonl"), rows.as_bytes());
}

#[test]
fn of_two_that_write_the_same_file_one_is_refused() {
    let bulk = Bulk::new(pairs(3));
    stdout(&bulk.score(&[]));
    let rows = bulk.bytes("out.jsonl");
    let other = std::fs::File::open(bulk.path("out.jsonl")).expect("opened");
    other.try_lock().expect("nobody else writes it");
    let refused = bulk.score(&[]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        stderr(&refused).contains("another process is writing it"),
        "{}",
        stderr(&refused)
    );
    drop(other);
    stdout(&bulk.score(&[]));
    assert_eq!(bulk.bytes("out.jsonl"), rows);
}

#[test]
fn an_output_that_cannot_be_written_ends_with_1_and_one_that_nobody_reads_is_no_error() {
    let bulk = Bulk::new(pairs(600));
    let input = bulk.path("in.jsonl").to_str().expect("plain").to_owned();
    let commands: [&[&str]; 12] = [
        &["score", "--query", "q", "p"],
        &["score", "--jsonl", &input],
        &["doctor"],
        &["verify", "--model", "models/demo"],
        &["variables"],
        &["eval", "--data", "tests/sets", "--model", "models/demo"],
        &[
            "eval",
            "--data",
            "tests/sets",
            "--model",
            "models/demo",
            "--json",
            "-",
        ],
        &["bench", "--rounds", "1", "--workload", "1x128"],
        &["bench", "peak", "--time", "1"],
        &["bench", "cold", "--runs", "1", "--tokens", "16"],
        &["--help"],
        &["--version"],
    ];
    for arguments in commands {
        let command = || {
            let mut command = reranker(arguments);
            command.current_dir(env!("CARGO_MANIFEST_DIR"));
            command
        };
        let mut full = command();
        let device = std::fs::OpenOptions::new().write(true).open("/dev/full");
        full.stdout(device.expect("opened")).stderr(Stdio::piped());
        let full = run(full);
        assert_eq!(
            full.status.code(),
            Some(1),
            "{arguments:?}: {}",
            stderr(&full)
        );
        assert!(
            stderr(&full).contains("No space left on device"),
            "{arguments:?}: {}",
            stderr(&full)
        );

        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut closed = command();
        closed.stdout(writer).stderr(Stdio::piped());
        let closed = run(closed);
        assert_eq!(
            closed.status.code(),
            Some(0),
            "{arguments:?}: {}",
            stderr(&closed)
        );
        assert!(!stderr(&closed).contains("panicked"), "{}", stderr(&closed));

        // Nobody reads stderr either: the exit code is what it would have been.
        let mut both = command();
        let device = std::fs::OpenOptions::new().write(true).open("/dev/full");
        both.stdout(Stdio::null()).stderr(device.expect("opened"));
        assert_eq!(
            both.status().expect("runs").code(),
            Some(0),
            "{arguments:?}"
        );
    }
}

#[test]
fn pack_writes_over_nothing_but_packed_models() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    std::fs::create_dir(path("model")).expect("made");
    let files = ["config.json", "tokenizer.json", "model.safetensors"];
    for file in files {
        std::fs::copy(golden().join(file), path("model").join(file)).expect("copied");
    }
    std::fs::write(path("victim"), "precious").expect("written");
    std::os::unix::fs::symlink(path("victim"), path("linked.partial")).expect("linked");
    std::fs::hard_link(path("victim"), path("named.partial")).expect("linked");
    std::os::unix::fs::symlink("/dev/null", path("to-null")).expect("linked");
    let fifo = Command::new("mkfifo").arg(path("fifo")).status();
    assert!(fifo.expect("mkfifo").success());
    let pack = |out: &Path| {
        let mut command = reranker(&["pack", "--high-precision", "none", "--model"]);
        command.arg(path("model")).arg("--out").arg(out);
        run(command)
    };
    for (out, says) in [
        (path("model/model.safetensors"), "is no packed model"),
        (path("model/tokenizer.json"), "is no packed model"),
        (path("model/config.json"), "is no packed model"),
        (path("victim"), "is no packed model"),
        (path("fifo"), "not a plain file"),
        (path("to-null"), "not a plain file"),
        (PathBuf::from("/dev/full"), "not a plain file"),
        (path("model"), "not a plain file"),
        (path("linked"), "linked.partial"),
        (path("named"), "named.partial"),
    ] {
        let output = pack(&out);
        assert!(
            matches!(output.status.code(), Some(1 | 2)),
            "{}",
            out.display()
        );
        assert!(
            stderr(&output).contains(says),
            "{}: {}",
            out.display(),
            stderr(&output)
        );
    }
    for file in files {
        let same = std::fs::read(golden().join(file)).expect("read");
        assert!(
            std::fs::read(path("model").join(file)).expect("read") == same,
            "{file}"
        );
    }
    assert_eq!(std::fs::read(path("victim")).expect("read"), b"precious");
    use std::os::unix::fs::FileTypeExt;
    let kind = std::fs::metadata("/dev/full").expect("there").file_type();
    assert!(kind.is_char_device());
    // A new one, the same again, and over an older version's.
    let out = path("packed.safetensors");
    stdout(&pack(&out));
    let packed = std::fs::read(&out).expect("packed");
    stdout(&pack(&out));
    assert!(std::fs::read(&out).expect("packed") == packed);
}

#[test]
fn every_command_takes_the_model_by_the_same_option() {
    let model = golden().to_str().expect("plain").to_owned();
    for arguments in [
        &["score", "--query", "q", "p"][..],
        &["doctor"],
        &["check"],
        &["bench", "--rounds", "1", "--workload", "1x128"],
    ] {
        let mut command = reranker(arguments);
        command
            .env("MODEL_DIR", "/no/such/folder")
            .args(["--model", &model]);
        stdout(&run(command));
    }
    let mut verify = reranker(&["verify", "--model", "models/demo"]);
    verify.current_dir(env!("CARGO_MANIFEST_DIR"));
    assert!(stdout(&run(verify)).contains("serverless-reranker-demo"));
    for alias in ["quantize", "convert", "download"] {
        let help = stdout(&run(reranker(&[alias, "--help"])));
        assert!(help.contains("Usage: reranker"), "{help}");
    }
}

#[test]
fn verify_passes_on_the_models_own_scores_and_fails_on_others() {
    let golden: Value = serde_json::from_slice(
        &std::fs::read(golden().with_extension("json")).expect("the golden file"),
    )
    .expect("JSON");
    let rows: Vec<Value> = golden["pairs"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|pair| pair["truncation"] == "longest_first" && pair["max_length"] == golden["max_length"])
        .map(|pair| json!({"query": pair["query"], "passage": pair["passage"], "logit": pair["logit"]}))
        .collect();
    assert!(rows.len() > 10);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("scores.json");
    let verify = |rows: &[Value]| {
        let scores = json!({"model": "tiny", "tolerance": 1e-5, "rows": rows});
        std::fs::write(&file, scores.to_string()).expect("written");
        run(reranker(&["verify", "--scores", &file.to_string_lossy()]))
    };
    let passed = verify(&rows);
    assert!(stdout(&passed).contains(&format!("{0} of {0} rows pass", rows.len())));
    let mut wrong = rows.clone();
    wrong[3]["logit"] = json!(rows[3]["logit"].as_f64().expect("a number") + 0.01);
    let failed = verify(&wrong);
    assert_eq!(failed.status.code(), Some(1));
    let text = String::from_utf8_lossy(&failed.stdout).into_owned();
    assert_eq!(text.matches("FAIL").count(), 1, "{text}");

    // Nothing to compare with is no fault.
    let unknown = run(reranker(&["verify"]));
    assert_eq!(unknown.status.code(), Some(0));
    assert!(stdout(&unknown).contains("no scores are known"));
}

#[test]
fn the_bundled_model_gives_the_scores_it_was_published_with() {
    let mut command = reranker(&["verify"]);
    command
        .env_remove("MODEL_DIR")
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = run(command);
    let text = stdout(&output);
    assert!(text.contains("serverless-reranker-demo"), "{text}");
    assert!(stderr(&output).contains("bundled demo model, not bge-reranker-v2-m3"));
}

#[test]
fn the_demo_model_does_not_pass_for_another() {
    let mut command = reranker(&["score", "--query", "q", "p"]);
    command
        .env("MODEL_DIR", "models/demo")
        .env("MODEL_NAME", "BAAI/bge-reranker-v2-m3")
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = run(command);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("found the demo model"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn doctor_says_what_is_wrong_and_what_to_do() {
    let healthy = stdout(&run(reranker(&["doctor"])));
    assert!(
        healthy.contains("instruction set: ") && healthy.contains("xlm-roberta"),
        "{healthy}"
    );
    assert!(!healthy.contains("WRONG"), "{healthy}");
    let cost = "a request of 100 passages of 128 tokens: about ";
    assert!(healthy.contains(cost), "{healthy}");
    let mut misspelt = reranker(&["doctor"]);
    misspelt.env("MAX_LENTH", "256").env("WORKERS", "2");
    let noted = stdout(&run(misspelt));
    for note in [
        "MAX_LENTH is set, which means nothing here: did you mean MAX_LENGTH?",
        "did you mean THREADS?",
    ] {
        assert!(noted.contains(note), "{noted}");
    }
    let mut broken = reranker(&["doctor"]);
    broken.env("MODEL_DIR", "/no/such/folder");
    let output = run(broken);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("WRONG model: MODEL_DIR: there is no folder or packed file /no/such/folder"),
        "{text}"
    );
}

#[test]
fn doctor_tells_the_processor_in_one_line_without_a_model() {
    let available = kernels::Isa::available();
    for (at, isa) in available.iter().enumerate() {
        let mut command = reranker(&["doctor", "--cpu"]);
        command
            .env("INSTRUCTION_SET", isa.name())
            .env("THREADS", "1")
            .env("MODEL_DIR", "/no/such/folder");
        let line = stdout(&run(command));
        assert_eq!(line.lines().count(), 1, "{line}");
        let used = format!("used: {isa} (tier {});", isa.tier());
        for part in [
            &used,
            " cores had;",
            " int8 operations a nanosecond at most on 1 threads;",
            "100 passages of 128 tokens with bge-reranker-v2-m3 in int8: about ",
        ] {
            assert!(line.contains(part), "{part} is missing in {line}");
        }
        for (place, other) in available.iter().enumerate() {
            let forced = format!("{other} (INSTRUCTION_SET forces a slower one)");
            assert_eq!(line.contains(&forced), place > at, "{other}: {line}");
        }
    }
    let both = run(reranker(&["doctor", "--cpu", "--model", "models/demo"]));
    assert_eq!(both.status.code(), Some(2));
}

#[test]
#[cfg(not(feature = "cuda"))]
fn a_gpu_that_is_asked_for_and_not_there_is_refused_at_once_and_with_the_reason() {
    let serve = |settings: &[(&str, &str)]| {
        let mut command = reranker(&["serve"]);
        command.envs(settings.iter().copied());
        let output = run(command);
        assert_eq!(output.status.code(), Some(2), "{settings:?}");
        // Where the output is no terminal, a service's log is JSON.
        stderr(&output) + &String::from_utf8_lossy(&output.stdout)
    };
    let said = serve(&[("DEVICE", "cuda")]);
    assert!(
        said.contains("DEVICE=cuda: this program was built without"),
        "{said}"
    );
    let said = serve(&[("DEVICE", "cuda"), ("PRECISION", "int8")]);
    assert!(
        said.contains("PRECISION=int8 is computed on CPUs"),
        "{said}"
    );
    let said = serve(&[("PRECISION", "f16")]);
    assert!(
        said.contains("PRECISION=f16 needs a GPU: this program"),
        "{said}"
    );
    let said = serve(&[("PRECISION", "bf16"), ("DEVICE", "cpu")]);
    assert!(
        said.contains("PRECISION=bf16 needs a GPU: DEVICE=cpu"),
        "{said}"
    );

    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("packed.safetensors"), "").expect("written");
    let folder = dir.path().to_str().expect("a plain path");
    let said = serve(&[("DEVICE", "cuda"), ("MODEL_DIR", folder)]);
    assert!(
        said.contains("is a packed model, which computes on CPUs"),
        "{said}"
    );

    let doctor = |device| {
        let mut command = reranker(&["doctor"]);
        command.env("DEVICE", device);
        run(command)
    };
    let report = stdout(&doctor("auto"));
    assert!(
        report.contains("GPU: not used: this program was built without"),
        "{report}"
    );
    let refused = doctor("cuda");
    assert_eq!(refused.status.code(), Some(1));
    let report = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert!(
        report.contains("WRONG DEVICE=cuda: this program"),
        "{report}"
    );
}

#[test]
fn a_wrong_configuration_lists_everything_and_exits_with_2() {
    for args in [&["serve"][..], &["doctor"], &["score", "--query", "q", "p"]] {
        let mut command = reranker(args);
        command
            .env("PORT", "http")
            .env("MAX_PAIRS", "0")
            .env("TRUNCATION", "some");
        let output = run(command);
        assert_eq!(output.status.code(), Some(2));
        for name in ["PORT=", "MAX_PAIRS=", "TRUNCATION="] {
            assert!(stderr(&output).contains(name), "{}", stderr(&output));
        }
    }
    // An instruction set is judged by the machine, later than the others.
    let mut command = reranker(&["score", "--query", "q", "p"]);
    command.env("INSTRUCTION_SET", "mmx");
    let output = run(command);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("INSTRUCTION_SET"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn every_instruction_set_of_this_machine_can_be_forced() {
    let mut logits = Vec::new();
    for isa in kernels::Isa::available() {
        let folder = tempfile::tempdir().expect("a folder");
        let input = folder.path().join("in.jsonl");
        std::fs::write(&input, pairs(5)).expect("written");
        let mut command = reranker(&["score", "--jsonl", &input.to_string_lossy()]);
        command.env("INSTRUCTION_SET", isa.name());
        let scored = lines(&stdout(&run(command)));
        logits.push(scored[4]["logit"].as_f64().expect("a number"));
    }
    for logit in &logits {
        assert!((logit - logits[0]).abs() < 1e-5, "{logits:?}");
    }
}

#[test]
fn bench_reports_every_workload() {
    let output = run(reranker(&["bench", "--json", "--rounds", "1"]));
    let report = lines(&stdout(&output));
    assert_eq!(report.len(), 5, "{report:?}");
    let names: Vec<&str> = report[1..]
        .iter()
        .filter_map(|line| line["workload"].as_str())
        .collect();
    assert_eq!(names, ["1x128", "1x512", "8x512", "mixed"]);
    assert_eq!(report[0]["tier"], kernels::Kernels::detect().isa().tier());
    for line in &report[1..] {
        assert!(line["tokens_per_s"].as_f64().expect("a number") > 0.0);
    }
    let unknown = run(reranker(&["bench", "--workload", "9x9"]));
    assert_eq!(unknown.status.code(), Some(2));
}

/// `reranker eval` on the sets below tests/, with the bundled model unless `args` names others.
fn eval(args: &[&str]) -> Command {
    let mut command = reranker(&["eval", "--data", "tests/sets"]);
    command
        .args(args)
        .env("MODEL_DIR", "models/demo")
        .env("PRECISION", "f32")
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

fn near(found: &Value, expected: f64) {
    assert!(
        (number(found) - expected).abs() < 1e-9,
        "{found} != {expected}"
    );
}

/// What `--keep` wrote of one run: the logits by query.
fn kept_logits(file: &Path) -> Vec<(String, Vec<f32>)> {
    let text = std::fs::read_to_string(file).expect("kept scores");
    lines(&text)[1..]
        .iter()
        .map(|line| {
            let logits = line["logits"].as_array().expect("a list");
            let query = line["query"].as_str().expect("an id").to_owned();
            (query, logits.iter().map(|l| number(l) as f32).collect())
        })
        .collect()
}

#[test]
fn eval_tells_what_the_given_order_and_the_models_order_are_worth() {
    let folder = tempfile::tempdir().expect("a folder");
    let json = folder.path().join("figures.jsonl");
    let output = run(eval(&["--json", &json.to_string_lossy()]));
    let table = stdout(&output);
    let figures = lines(&std::fs::read_to_string(&json).expect("figures"));
    assert_eq!(figures.len(), 2);
    let (garden, kitchen) = (&figures[0], &figures[1]);

    // By hand: k1 has gains 0, 2, 1, 0 of 2, 1, 1; k2 finds its passage first, k3 second; nothing
    // is relevant to k4.
    let k1 = (2.0 / 3f64.log2() + 0.5) / (2.0 + 1.0 / 3f64.log2() + 0.5);
    near(
        &kitchen["as_given"]["ndcg_at_10"],
        (k1 + 1.0 + 1.0 / 3f64.log2()) / 3.0,
    );
    near(&kitchen["as_given"]["mrr_at_10"], 2.0 / 3.0);
    assert_eq!(kitchen["set"], "kitchen");
    assert_eq!(kitchen["queries"], 3);
    assert_eq!(kitchen["queries_left_out"], 1);
    assert_eq!(
        (&kitchen["pairs"], &kitchen["scored_pairs"]),
        (&json!(9), &json!(9))
    );
    // The model has c3 between k1's relevant passages, of which one is no candidate; k2 and k3 it
    // orders well.
    let k1_by_model = (2.0 + 0.5) / (2.0 + 1.0 / 3f64.log2() + 0.5);
    near(&kitchen["ndcg_at_10"], (k1_by_model + 2.0) / 3.0);
    near(&kitchen["mrr_at_10"], 1.0);
    assert_eq!(kitchen["model"], "serverless-reranker-demo");
    assert!(number(&kitchen["pairs_per_s"]) > 0.0);
    // Without a candidate file every query meets every document, and there is no order to improve
    // on.
    assert_eq!(
        (&garden["set"], &garden["pairs"]),
        (&json!("garden"), &json!(6))
    );
    assert_eq!(garden.get("as_given"), None);
    near(&garden["ndcg_at_10"], 1.0);

    for (set, who, figure) in [
        ("kitchen", "as given", "0.7312"),
        ("kitchen", "serverless-reranker-demo", "0.9328"),
        ("garden", "serverless-reranker-demo", "1.0000"),
        ("mean of sets", "serverless-reranker-demo", "0.9664"),
    ] {
        let row = table
            .lines()
            .find(|line| line.starts_with(set) && line.contains(who));
        assert!(row.is_some_and(|row| row.contains(figure)), "{table}");
    }
    // As JSON on stdout, the table gives way; the first line of the candidates is k1 alone.
    let one = stdout(&run(eval(&[
        "--sets",
        "kitchen",
        "--queries",
        "1",
        "--json",
        "-",
    ])));
    let one = lines(&one);
    assert_eq!((one.len(), &one[0]["queries"]), (1, &json!(1)));
    near(&one[0]["as_given"]["ndcg_at_10"], k1);
}

#[test]
fn eval_compares_every_model_with_the_first() {
    let folder = tempfile::tempdir().expect("a folder");
    let keep = folder.path().join("scores");
    let output = run(eval(&[
        "--sets",
        "kitchen",
        "--model",
        "models/demo",
        "--model",
        "models/demo",
        "--model",
        &golden().to_string_lossy(),
        "--keep",
        &keep.to_string_lossy(),
        "--json",
        "-",
    ]));
    let figures = lines(&stdout(&output));
    assert_eq!(figures.len(), 3);
    assert_eq!(figures[0].get("against"), None);
    let same = &figures[1]["against"];
    assert_eq!(same["model"], "serverless-reranker-demo");
    near(&same["kendall_tau_b"], 1.0);
    for difference in ["score_difference", "logit_difference"] {
        near(&same[difference]["max"], 0.0);
    }
    near(&same["ndcg_at_10_difference"], 0.0);

    let mut files: Vec<PathBuf> = std::fs::read_dir(&keep)
        .expect("kept")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    assert_eq!(files.len(), 3, "{files:?}");
    let of = |name: &str| {
        let file = files
            .iter()
            .find(|path| path.to_string_lossy().contains(name));
        kept_logits(file.unwrap_or_else(|| panic!("{name} is not in {files:?}")))
    };
    let (demo, other) = (of("demo"), of("xlm-roberta"));
    // The logits are those that the other commands give.
    let mut score = reranker(&[
        "score",
        "--raw",
        "--query",
        "Why does my custard curdle?",
        "Custard powder Custard powder is thickened with cornflour and contains no egg.",
    ]);
    score
        .env("MODEL_DIR", "models/demo")
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    let printed = stdout(&run(score));
    let (_, k3) = &demo[2];
    assert!(
        printed.trim_start().starts_with(&format!("{:.5}", k3[0])),
        "{printed} {k3:?}"
    );

    // Counted out anew: pairs ordered alike less pairs ordered oppositely, as nothing is tied here.
    let mut taus = Vec::new();
    let mut logit_differences = Vec::new();
    for ((query, a), (same_query, b)) in demo.iter().zip(&other) {
        assert_eq!(query, same_query);
        let mut balance = Vec::new();
        for i in 0..a.len() {
            for j in 0..i {
                balance.push(f64::from(((a[i] - a[j]) * (b[i] - b[j])).signum()));
            }
            logit_differences.push(f64::from(a[i]) - f64::from(b[i]));
        }
        taus.push(balance.iter().sum::<f64>() / balance.len() as f64);
    }
    let against = &figures[2]["against"];
    near(&against["kendall_tau_b"], taus.iter().sum::<f64>() / 3.0);
    let absolute = || logit_differences.iter().map(|d| d.abs());
    near(
        &against["logit_difference"]["mean"],
        absolute().sum::<f64>() / 9.0,
    );
    near(
        &against["logit_difference"]["max"],
        absolute().fold(0.0, f64::max),
    );
    near(
        &against["ndcg_at_10_difference"],
        number(&figures[2]["ndcg_at_10"]) - number(&figures[0]["ndcg_at_10"]),
    );
}

#[test]
fn an_interrupted_eval_goes_on_from_the_scores_it_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let keep = folder.path().to_string_lossy().into_owned();
    let measure = |model: &str| {
        let output = run(eval(&[
            "--sets", "kitchen", "--keep", &keep, "--json", "-", "--model", model,
        ]));
        lines(&stdout(&output)).remove(0)
    };
    let first = measure("models/demo");
    let entry = std::fs::read_dir(folder.path()).expect("kept").next();
    let file = entry.expect("one file").expect("an entry").path();
    let whole = std::fs::read(&file).expect("kept scores");
    let queries = |bytes: &[u8]| {
        let whole_lines = bytes.iter().filter(|b| **b == b'\n').count();
        whole_lines.saturating_sub(1)
    };
    let candidates = [4, 3, 2];
    for cut in [
        0,
        5,
        whole.len() / 2,
        whole.len() * 2 / 3,
        whole.len() - 1,
        whole.len(),
    ] {
        std::fs::write(&file, &whole[..cut]).expect("written");
        let again = measure("models/demo");
        assert_eq!(
            std::fs::read(&file).expect("kept scores"),
            whole,
            "cut at {cut}"
        );
        let left: i32 = candidates[queries(&whole[..cut])..].iter().sum();
        assert_eq!(again["scored_pairs"], left, "cut at {cut}");
        for figure in [
            "ndcg_at_10",
            "mrr_at_10",
            "tokens",
            "pairs",
            "relevant_above_half",
        ] {
            assert_eq!(again[figure], first[figure], "{figure}");
        }
    }

    // Scores of other weights, of other candidates, or of something else are not taken for this
    // run's.
    let text = String::from_utf8(whole).expect("text");
    let first_logit = number(&json!(kept_logits(&file)[0].1[0])) as f32;
    for (from, to, says) in [
        (
            first_logit.to_string(),
            (first_logit + 0.01).to_string(),
            "not this model's",
        ),
        (
            "\"query\":\"k2\"".into(),
            "\"query\":\"k9\"".into(),
            "line 3 has 3 scores of the query \"k9\"",
        ),
        (
            "\"precision\":\"".into(),
            "\"precision\":\"i".into(),
            "holds other scores: precision was if32 and is f32",
        ),
        (
            "{\"set\"".into(),
            "{\"group\"".into(),
            "line 1 does not say",
        ),
    ] {
        assert!(text.contains(&from), "{from} is not in {text}");
        std::fs::write(&file, text.replacen(&from, &to, 1)).expect("written");
        let output = run(eval(&["--sets", "kitchen", "--keep", &keep]));
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(says), "{}", stderr(&output));
    }
}

#[test]
fn kept_scores_of_int8_are_this_models_on_every_instruction_set() {
    let folder = tempfile::tempdir().expect("a folder");
    let packed = folder.path().join("packed.safetensors");
    let mut pack = reranker(&["pack", "--out"]);
    pack.arg(&packed);
    stdout(&run(pack));
    let keep = folder.path().join("kept").to_string_lossy().into_owned();
    let model = packed.to_string_lossy();
    for isa in kernels::Isa::available() {
        let mut command = eval(&[
            "--sets", "kitchen", "--keep", &keep, "--json", "-", "--model", &model,
        ]);
        command
            .env("INSTRUCTION_SET", isa.name())
            .env("PRECISION", "int8");
        let figures = lines(&stdout(&run(command)));
        assert_eq!(figures[0]["precision"], "int8");
        // The first of three queries stays.
        for entry in std::fs::read_dir(&keep).expect("kept") {
            let path = entry.expect("an entry").path();
            let text = std::fs::read_to_string(&path).expect("text");
            let first: Vec<&str> = text.lines().take(2).collect();
            std::fs::write(path, first.join("\n") + "\n").expect("written");
        }
    }
}

#[test]
fn eval_writes_its_figures_over_nothing_but_figures() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("figures.jsonl");
    let write = || {
        run(eval(&[
            "--sets",
            "kitchen",
            "--json",
            &file.to_string_lossy(),
        ]))
    };
    stdout(&write());
    let first = std::fs::read_to_string(&file).expect("figures");
    stdout(&write());
    assert_eq!(
        lines(&std::fs::read_to_string(&file).expect("figures")).len(),
        1
    );
    assert_eq!(lines(&first).len(), 1);
    for other in ["{\"_id\":\"d1\",\"text\":\"a\"}\n", "notes"] {
        std::fs::write(&file, other).expect("written");
        let refused = write();
        assert_eq!(refused.status.code(), Some(2));
        assert!(
            stderr(&refused).contains("is not from `eval`"),
            "{}",
            stderr(&refused)
        );
        assert_eq!(std::fs::read_to_string(&file).expect("text"), other);
    }
}

#[test]
fn eval_says_which_set_file_or_model_is_wrong() {
    let unknown = run(eval(&["--sets", "kitchen,cellar"]));
    assert_eq!(unknown.status.code(), Some(2));
    assert!(
        stderr(&unknown).contains("there is no set \"cellar\", only garden, kitchen"),
        "{}",
        stderr(&unknown)
    );
    let model = run(eval(&[
        "--model",
        "models/demo",
        "--model",
        "no-such-model",
    ]));
    assert_eq!(model.status.code(), Some(1));
    assert!(
        stderr(&model).contains("no-such-model"),
        "{}",
        stderr(&model)
    );
    let folder = tempfile::tempdir().expect("a folder");
    let set = folder.path().join("broken");
    std::fs::create_dir_all(set.join("qrels")).expect("a folder");
    let kitchen = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sets/kitchen");
    for file in ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"] {
        std::fs::copy(kitchen.join(file), set.join(file)).expect("copied");
    }
    let list = "{\"query_id\": \"k2\", \"candidates\": [\"c6\", \"c66\"]}\n";
    std::fs::write(set.join("candidates.test.jsonl"), list).expect("written");
    let output = run(reranker(&["eval", "--data", &set.to_string_lossy()]));
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains(
            "candidates.test.jsonl, line 1: candidates[1]: \"c66\" is not in corpus.jsonl"
        ),
        "{}",
        stderr(&output)
    );
}

#[test]
fn bench_cold_starts_processes_and_tells_where_their_time_went() {
    let model = golden();
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo");
    let report = lines(&stdout(&run(reranker(&[
        "bench",
        "cold",
        "--json",
        "--drop",
        "--runs",
        "2",
        "--tokens",
        "24",
        "--model",
        &model.to_string_lossy(),
        "--model",
        &demo.to_string_lossy(),
    ]))));
    let kinds: Vec<(&str, &str)> = report[1..]
        .iter()
        .filter_map(|line| Some((line["model"].as_str()?, line["cache"].as_str()?)))
        .collect();
    assert_eq!(
        kinds,
        [
            ("xlm-roberta", "dropped"),
            ("xlm-roberta", "warm"),
            ("demo", "dropped"),
            ("demo", "warm")
        ]
    );
    for line in &report[1..] {
        assert_eq!(
            (&line["tokens"], &line["runs"]),
            (&json!(24), &json!(2)),
            "{line}"
        );
        let seconds = line["seconds_median"].as_f64().expect("a time");
        assert_eq!(line["seconds"].as_array().map(Vec::len), Some(2));
        assert!(
            line["peak_rss_bytes"]
                .as_u64()
                .is_some_and(|bytes| bytes > 1 << 20)
        );
        let spans = line["spans"].as_array().expect("spans");
        let names: Vec<&str> = spans
            .iter()
            .filter_map(|span| span["name"].as_str())
            .collect();
        assert_eq!(
            names,
            [
                "process",
                "tokenizer",
                "weights",
                "prefetch",
                "encode",
                "inference"
            ]
        );
        let ms = |index: usize, name: &str| spans[index][name].as_f64().expect("a time");
        let (process, inference) = (0, 5);
        assert_eq!(ms(process, "start_ms"), 0.0);
        assert!(ms(process, "ms") > 0.0 && ms(inference, "ms") > 0.0);
        assert!(ms(inference, "start_ms") >= ms(1, "start_ms") + ms(1, "ms"));
        println!("{} {} {seconds}", line["model"], line["cache"]);
    }
    for args in [
        &["bench", "cold", "--runs", "0"][..],
        &["bench", "cold", "--tokens", "0"],
        &["bench", "--rounds", "2", "cold"],
    ] {
        assert_eq!(run(reranker(args)).status.code(), Some(2), "{args:?}");
    }
    let broken = run(reranker(&["bench", "cold", "--model", "/no/such/model"]));
    assert_eq!(broken.status.code(), Some(1));
    assert!(
        stderr(&broken).contains("there is no folder"),
        "{}",
        stderr(&broken)
    );
}

#[test]
fn help_explains_every_command_and_option() {
    let help = stdout(&run(reranker(&["--help"])));
    for command in [
        "serve",
        "score",
        "eval",
        "fetch",
        "pack",
        "models",
        "list",
        "rm",
        "verify",
        "doctor",
        "bench",
        "variables",
    ] {
        assert!(
            help.contains(&format!("  {command} ")),
            "{command} is missing in\n{help}"
        );
    }
    let score = stdout(&run(reranker(&["score", "--help"])));
    for option in [
        "--query",
        "--jsonl",
        "--out",
        "--raw",
        "--max-length",
        "--truncation",
    ] {
        assert!(score.contains(option), "{option} is missing in\n{score}");
    }
}

#[test]
fn bench_peak_tells_the_operations_of_every_instruction_set() {
    for isa in kernels::Isa::available() {
        let mut command = reranker(&["bench", "peak", "--json", "--time", "5"]);
        command
            .env("INSTRUCTION_SET", isa.name())
            .env("THREADS", "1");
        let peak = &lines(&stdout(&run(command)))[0];
        assert_eq!(peak["instruction_set"], isa.name());
        assert!(
            peak["int8_gops"].as_f64().expect("a number") > 0.0,
            "{peak}"
        );
    }
}

/// What a driver that times several engines in turn relies on.
#[test]
fn bench_serves_prepared_runs_of_sequences_from_a_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let ids = folder.path().join("ids.jsonl");
    let rows = [
        ("pair", [0, 7, 8, 2]),
        ("two", [0, 5, 6, 2]),
        ("two", [0, 7, 8, 2]),
    ];
    let text: String = rows
        .iter()
        .map(|(workload, ids)| format!("{}\n", json!({"workload": workload, "ids": ids})))
        .collect();
    std::fs::write(&ids, text).expect("written");
    let mut command = reranker(&["bench", "--serve", "--ids", &ids.to_string_lossy()]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut asked = child.stdin.take().expect("a pipe");
    asked
        .write_all(b"prepare pair\nprepare two\nrun two\nrun three\nwhat\n")
        .expect("written");
    drop(asked);
    let answers = lines(&stdout(&child.wait_with_output().expect("it ends")));
    assert_eq!(answers.len(), 6, "{answers:?}");
    assert_eq!(answers[0]["ready"], true);
    let (pair, two) = (&answers[1], &answers[2]);
    assert_eq!(two["logits"].as_array().map(Vec::len), Some(2));
    assert_eq!(two["logits"][1], pair["logits"][0], "the same sequence");
    assert!(answers[3]["seconds"].as_f64().expect("a number") > 0.0);
    for refused in &answers[4..] {
        assert!(refused["error"].is_string(), "{refused}");
    }

    std::fs::write(
        &ids,
        json!({"workload": "pair", "ids": [1 << 30]}).to_string(),
    )
    .expect("written");
    let refused = run(reranker(&[
        "bench",
        "--serve",
        "--ids",
        &ids.to_string_lossy(),
    ]));
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("line 1"), "{}", stderr(&refused));
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(bytes).expect("packed");
    packer.finish().expect("packed")
}

fn unpacked(bytes: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    MultiGzDecoder::new(bytes)
        .read_to_end(&mut whole)
        .expect("whole gzip");
    whole
}

#[test]
fn gzip_is_read_by_name_and_by_content_and_written_by_name() {
    let bulk = Bulk::new(pairs(40));
    stdout(&bulk.score(&[]));
    let rows = bulk.bytes("out.jsonl");
    let input = packed(pairs(40).as_bytes());
    // In two pieces, as `cat a.gz b.gz` makes it.
    let (first, second) = (pairs(15), pairs(40)[pairs(15).len()..].to_owned());
    let pieces = [packed(first.as_bytes()), packed(second.as_bytes())].concat();
    for (name, bytes) in [
        ("pairs.jsonl.gz", &input),
        ("pairs.JSONL.GZ", &pieces),
        ("pairs", &input),
    ] {
        std::fs::write(bulk.path(name), bytes).expect("written");
        let mut command = reranker(&["score", "--jsonl"]);
        command.arg(bulk.path(name));
        assert_eq!(stdout(&run(command)).as_bytes(), rows, "{name}");
    }
    let mut from_stdin = reranker(&["score", "--jsonl", "-"]);
    from_stdin.stdin(std::fs::File::open(bulk.path("pairs")).expect("opened"));
    assert_eq!(stdout(&run(from_stdin)).as_bytes(), rows);

    let score = || run(bulk.command("packed.jsonl.gz", &[]));
    stdout(&score());
    let whole = bulk.bytes("packed.jsonl.gz");
    assert_eq!(unpacked(&whole), rows);
    let left = || {
        let folder = std::fs::read_dir(bulk.folder.path()).expect("a folder");
        let names = folder.map(|entry| entry.expect("an entry").file_name());
        let mut names: Vec<String> = names
            .map(|name| name.to_string_lossy().into_owned())
            .filter(|name| name.starts_with("packed"))
            .collect();
        names.sort();
        names
    };
    assert_eq!(left(), ["packed.jsonl.about", "packed.jsonl.gz"]);
    // Again, and again after a kill between the packing and the removal of what was packed: nothing
    // is left to score.
    for both in [false, true] {
        if both {
            std::fs::write(bulk.path("packed.jsonl"), &rows).expect("written");
        }
        let again = score();
        assert!(
            stderr(&again).contains("complete already: 40 rows"),
            "{}",
            stderr(&again)
        );
        assert_eq!(bulk.bytes("packed.jsonl.gz"), whole);
        assert_eq!(left(), ["packed.jsonl.about", "packed.jsonl.gz"]);
    }
    // A run that was interrupted, and one whose input has grown, go on.
    std::fs::remove_file(bulk.path("packed.jsonl.gz")).expect("removed");
    let cut = rows.len() / 2;
    std::fs::write(bulk.path("packed.jsonl"), &rows[..cut]).expect("written");
    stdout(&score());
    assert_eq!(bulk.bytes("packed.jsonl.gz"), whole);
    std::fs::write(bulk.path("in.jsonl"), pairs(55)).expect("written");
    stdout(&score());
    stdout(&bulk.score(&[]));
    assert_eq!(
        unpacked(&bulk.bytes("packed.jsonl.gz")),
        bulk.bytes("out.jsonl")
    );
    assert_eq!(left(), ["packed.jsonl.about", "packed.jsonl.gz"]);
}

#[test]
fn what_is_no_gzip_or_not_ours_is_refused_and_left() {
    let bulk = Bulk::new(pairs(40));
    stdout(&run(bulk.command("ours.jsonl.gz", &[])));
    let input = packed(pairs(40).as_bytes());
    for (name, bytes, code, says) in [
        (
            "text.jsonl.gz",
            pairs(40).into_bytes(),
            1,
            "it is not a gzip file",
        ),
        ("empty.gz", Vec::new(), 1, "it is not a gzip file"),
        (
            "cut.jsonl.gz",
            input[..input.len() - 9].to_vec(),
            1,
            "cut.jsonl.gz",
        ),
    ] {
        std::fs::write(bulk.path(name), bytes).expect("written");
        let mut command = reranker(&["score", "--jsonl"]);
        command.arg(bulk.path(name));
        let output = run(command);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{name}: {}",
            stderr(&output)
        );
        assert!(
            stderr(&output).contains(says),
            "{name}: {}",
            stderr(&output)
        );
    }
    let ours = bulk.bytes("ours.jsonl.gz");
    std::fs::write(bulk.path("foreign.jsonl.gz"), &input).expect("written");
    std::fs::copy(bulk.path("ours.jsonl.gz"), bulk.path("both.jsonl.gz")).expect("copied");
    std::fs::copy(bulk.path("ours.jsonl.about"), bulk.path("both.jsonl.about")).expect("copied");
    std::fs::write(bulk.path("both.jsonl"), "mine").expect("written");
    for (name, says) in [
        ("foreign.jsonl.gz", "not written by `score`"),
        ("both.jsonl.gz", "holds something else"),
    ] {
        let before = bulk.bytes(name);
        let output = run(bulk.command(name, &[]));
        assert_eq!(output.status.code(), Some(2), "{name}: {}", stderr(&output));
        assert!(
            stderr(&output).contains(says),
            "{name}: {}",
            stderr(&output)
        );
        assert_eq!(bulk.bytes(name), before);
    }
    assert_eq!(bulk.bytes("both.jsonl"), b"mine");
    // The input itself.
    std::fs::rename(bulk.path("foreign.jsonl.gz"), bulk.path("in.jsonl")).expect("renamed");
    std::fs::hard_link(bulk.path("in.jsonl"), bulk.path("same.jsonl.gz")).expect("linked");
    let output = run(bulk.command("same.jsonl.gz", &[]));
    assert!(
        stderr(&output).contains("that is the file to read"),
        "{}",
        stderr(&output)
    );
    assert_eq!(bulk.bytes("in.jsonl"), input);
    assert_eq!(bulk.bytes("ours.jsonl.gz"), ours);
}

#[test]
fn a_cost_is_told_before_anything_runs() {
    let told = stdout(&run(reranker(&[
        "cost", "--pairs", "2000000", "--tokens", "512", "--batch", "20",
    ])));
    for part in [
        "2000000 pairs of 512 tokens",
        "20 pairs a call",
        "4.1 s",
        "$238.42",
    ] {
        assert!(told.contains(part), "{part} is not in\n{told}");
    }
    for wrong in [
        ["--tokens", "0"],
        ["--model", "gpt"],
        ["--concurrency", "0"],
    ] {
        let output = run(reranker(&["cost", wrong[0], wrong[1]]));
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(stderr(&output).contains(wrong[0]), "{}", stderr(&output));
    }
}
