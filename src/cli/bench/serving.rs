//! `reranker bench --serve`: one timed run for each line of standard input, as
//! `bench/peers/serving.py` has the other engines do, so that a driver can time them all in turn.

use std::io::Write;
use std::time::Instant;

use serde_json::{Value, json};

use super::super::output;
use super::{Bench, Workload};

pub fn serve(bench: &Bench) -> anyhow::Result<()> {
    let mut out = output::stdout();
    let mut say = |answer: Value| -> std::io::Result<()> {
        writeln!(out, "{answer}")?;
        out.flush()
    };
    say(json!({
        "ready": true,
        "system": bench.engine,
        "version": concat!("reranker ", env!("CARGO_PKG_VERSION")),
        "threads": bench.pool.current_num_threads(),
    }))?;
    for line in std::io::stdin().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        say(match words[..] {
            ["prepare", name] => on(bench, name, prepare)?,
            ["run", name] => on(bench, name, run)?,
            _ => json!({"error": format!("not understood: {}", line.trim())}),
        })?;
    }
    Ok(())
}

fn on(
    bench: &Bench,
    name: &str,
    act: fn(&Bench, &Workload) -> anyhow::Result<Value>,
) -> anyhow::Result<Value> {
    match bench.workloads.iter().find(|known| known.name == name) {
        Some(workload) => act(bench, workload),
        None => Ok(json!({"error": format!("there is no workload {name}")})),
    }
}

/// There is one way to run a request, packed as the service packs it.
fn prepare(bench: &Bench, workload: &Workload) -> anyhow::Result<Value> {
    bench.run(workload)?;
    let logits = bench.run(workload)?;
    Ok(json!({"workload": workload.name, "way": "packed", "tried": {}, "logits": logits}))
}

fn run(bench: &Bench, workload: &Workload) -> anyhow::Result<Value> {
    let start = Instant::now();
    bench.run(workload)?;
    Ok(json!({"workload": workload.name, "seconds": start.elapsed().as_secs_f64()}))
}
