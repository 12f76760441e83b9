//! The commands as a user calls them: the real program, on a tiny real model.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

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

#[test]
fn a_bad_line_is_named_and_the_lines_before_it_are_scored() {
    let folder = tempfile::tempdir().expect("a folder");
    let input = folder.path().join("in.jsonl");
    for (line, says) in [
        (r#"{"query": "q"}"#, "line 2"),
        ("secret text", "line 2"),
        (r#"{"query": " ", "passage": "p"}"#, "query is empty"),
    ] {
        std::fs::write(&input, format!("{}{line}\n", pairs(1))).expect("written");
        let output = run(reranker(&["score", "--jsonl", &input.to_string_lossy()]));
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(lines(&String::from_utf8_lossy(&output.stdout)).len(), 1);
        assert!(stderr(&output).contains(says), "{}", stderr(&output));
        assert!(!stderr(&output).contains("secret"), "{}", stderr(&output));
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

    let unknown = run(reranker(&["verify"]));
    assert_eq!(unknown.status.code(), Some(2));
    assert!(stderr(&unknown).contains("BAAI/bge-reranker-v2-m3"));
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
fn a_tokenizer_with_more_tokens_than_the_embedding_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let golden = golden();
    let tests = golden.parent().expect("a folder");
    std::fs::copy(
        golden.join("tokenizer.json"),
        folder.path().join("tokenizer.json"),
    )
    .expect("copied");
    for entry in std::fs::read_dir(tests.join("roberta")).expect("a model") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name");
        if name != "tokenizer.json" {
            std::fs::copy(&path, folder.path().join(name)).expect("copied");
        }
    }
    let mut command = reranker(&["score", "--query", "q", "p"]);
    command.env("MODEL_DIR", folder.path());
    let output = run(command);
    assert_eq!(output.status.code(), Some(1));
    let message = stderr(&output);
    assert!(
        message.contains(
            "tokenizer.json: vocabulary: found 2000 tokens, expected at most the embedding's"
        ),
        "{message}"
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
    let mut broken = reranker(&["doctor"]);
    broken.env("MODEL_DIR", "/no/such/folder");
    let output = run(broken);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("WRONG model: MODEL_DIR: there is no folder /no/such/folder"),
        "{text}"
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
    for line in &report[1..] {
        assert!(line["tokens_per_s"].as_f64().expect("a number") > 0.0);
    }
    let unknown = run(reranker(&["bench", "--workload", "9x9"]));
    assert_eq!(unknown.status.code(), Some(2));
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
    for command in ["serve", "score", "verify", "doctor", "bench", "variables"] {
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
