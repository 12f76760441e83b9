#!/usr/bin/env bash
# Checks the `cuda` feature on a machine without a GPU: lints everything with it, links the program, and sees it start without a driver,
# fall back to the CPU and refuse to where it must. The compiler of the kernels comes from PyPI; kernels that are never called are left out.
set -euo pipefail
cd "$(dirname "$0")/../.."
source suites/cuda/toolkit.sh
export PATH=$CUDA_HOME/bin:$PATH CUDA_COMPUTE_CAP=75 NVCC=$PWD/suites/cuda/nvcc

printf -- '-- lints\n'
cargo clippy --locked --features cuda --all-targets --target-dir "$work" -- -D warnings

printf -- '-- the program\n'
LIBRARY_PATH=$libraries cargo build --locked --features cuda --target-dir "$work"
program=$work/debug/reranker

export LD_LIBRARY_PATH=$libraries:$CUDA_HOME/lib
unset DEVICE PRECISION USE_FP16 MODEL_DIR MODEL_NAME
expect() { # PATTERN, what is searched on stdin
    local text
    text=$(cat)
    grep -qF -- "$1" <<<"$text" || { printf 'expected "%s" in:\n%s\n' "$1" "$text" >&2; exit 1; }
    printf 'ok: %s\n' "$1"
}
refused() { # STATUS, command…
    local status=0 wanted=$1
    shift
    "$@" 2>&1 || status=$?
    [[ $status == "$wanted" ]] || echo "status $status instead of $wanted"
}
missing='the NVIDIA driver is not installed'
"$program" doctor | expect "GPU: not used: $missing"
DEVICE=cuda refused 2 "$program" serve | expect "DEVICE=cuda: $missing"
PRECISION=f16 refused 2 "$program" score --query q p | expect "PRECISION=f16 needs a GPU: $missing"
DEVICE=cuda refused 1 "$program" doctor | expect "WRONG DEVICE=cuda: $missing"
# Where a GPU is not ruled out the CPU serves, and the log says why.
{ PORT=0 LOG_FORMAT=text timeout --signal TERM 5 "$program" serve 2>&1 || [[ $? == 124 ]]; } | expect "DEVICE=auto: computing on the CPU"
"$program" score --query 'what is a panda?' 'a bear of China' 2>&1 | expect 'a bear of China'
