#!/usr/bin/env bash
# Runs fuzz targets: `fuzz/run.sh all 60` shares 60 seconds between all of them, `fuzz/run.sh TARGET 600` gives one 600.
# FUZZ_JOBS (1) is how many run at a time. What was found goes on from run to run in target/fuzz/corpus; what fails is in
# target/fuzz/artifacts. Prints executions per target in lines that begin with `record: `.
set -euo pipefail
cd "$(dirname "$0")"
which=${1:?"all, or a target of fuzz/fuzz_targets"} seconds=${2:?seconds}

# Name, and its share of the time, in parts: cheap ones do enough in little.
shares=(
    "dialects 5" "router 5" "config 1" "safetensors 3" "packed 3" "tokenizer 5" "compiled_tokenizer 5" "truncation 2" "chunking 3"
    "lambda_event 4" "trace_headers 2" "hub 2"
)

# libFuzzer is written in C++.
source ../suites/lib.sh
command -v c++ >/dev/null || debian g++

# The program itself, for packed models to damage: as the tests have it, which have compiled what it depends on. A build of the program
# alone would compile most of that again, without the features that tests ask for.
(cd .. && cargo test --workspace --locked --quiet --no-run --test panics)
# One lock file for everything: the program's, to which cargo adds what fuzzing needs.
cp ../Cargo.lock Cargo.lock
cargo build --quiet
bin=$PWD/../target/debug work=$PWD/../target/fuzz
rm -rf "$work/seeds" "$work/logs"
mkdir -p "$work/logs"
export FUZZ_FILES=$work/files
mkdir -p "$FUZZ_FILES"
for model in tests/golden/{bert,roberta,xlm-roberta} models/demo; do
    "$bin/reranker" pack --model "../$model" --out "$FUZZ_FILES/$(basename $model).safetensors" >"$work/pack.txt" 2>&1 ||
        { cat "$work/pack.txt"; exit 1; }
done
"$bin/seeds" "$work/seeds"

total=0
for share in "${shares[@]}"; do total=$((total + ${share#* })); done
one() { # target, seconds
    local target=$1
    mkdir -p "$work/corpus/$target" "$work/artifacts/$target"
    # Texts are short: what is long is found by length alone, and tests have it.
    "$bin/$target" "$work/corpus/$target" "$work/seeds/$target" -max_total_time="$2" -max_len="${FUZZ_MAX_LEN:-4096}" \
        -timeout=20 -rss_limit_mb=3000 -print_final_stats=1 -verbosity=1 -reload=0 \
        -artifact_prefix="$work/artifacts/$target/" >"$work/logs/$target.log" 2>&1 ||
        { tail -n 40 "$work/logs/$target.log" >&2; return 1; }
}
failed=0
for share in "${shares[@]}"; do
    read -r target parts <<<"$share"
    if [[ $which != all && $which != "$target" ]]; then continue; fi
    time=$seconds
    if [[ $which == all ]]; then time=$(((seconds * parts * ${FUZZ_JOBS:-1} + total - 1) / total)); fi
    while [[ $(jobs -rp | wc -l) -ge ${FUZZ_JOBS:-1} ]]; do wait -n || failed=1; done
    one "$target" "$time" &
done
while [[ -n $(jobs -p) ]]; do wait -n || failed=1; done
sum=0
for log in "$work"/logs/*.log; do
    target=$(basename "$log" .log)
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    edges=$(grep -oE 'cov: [0-9]+' "$log" | tail -n 1 || true)
    took=$(sed -n 's/^Done [0-9]* runs in \([0-9]*\) second.*/\1/p' "$log")
    printf 'record: %-20s %12s executions  %6s s  %s\n' "$target" "${executions:-none}" "${took:-?}" "${edges/cov:/edges:}"
    sum=$((sum + ${executions:-0}))
done
printf 'record: %-20s %12d executions\n' total "$sum"
exit $failed
