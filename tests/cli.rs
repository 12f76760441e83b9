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
        text.contains("WRONG model: MODEL_DIR: there is no folder or packed file /no/such/folder"),
        "{text}"
    );
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

    // By hand: k1 has gains 0, 2, 1, 0 of 2, 1, 1; k2 finds its passage first, k3 second; nothing is relevant to k4.
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
    // The model has c3 between k1's relevant passages, of which one is no candidate; k2 and k3 it orders well.
    let k1_by_model = (2.0 + 0.5) / (2.0 + 1.0 / 3f64.log2() + 0.5);
    near(&kitchen["ndcg_at_10"], (k1_by_model + 2.0) / 3.0);
    near(&kitchen["mrr_at_10"], 1.0);
    assert_eq!(kitchen["model"], "serverless-reranker-demo");
    assert!(number(&kitchen["pairs_per_s"]) > 0.0);
    // Without a candidate file every query meets every document, and there is no order to improve on.
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

    // Scores of other weights, of other candidates, or of something else are not taken for this run's.
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
            "holds scores of",
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
