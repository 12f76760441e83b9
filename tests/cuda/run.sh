#!/usr/bin/env bash
# Checks the `cuda` feature on a machine without a GPU: lints everything with it, links the program, and sees it start without a driver,
# fall back to the CPU and refuse to where it must. The compiler of the kernels comes from PyPI; what is not there (cuBLAS, which is
# large, and the driver's own library) is stood in for by libraries whose functions only fail. Takes a quarter of an hour on two cores,
# nearly all of it for candle's kernels, which are compiled once.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$PWD/target/cuda
venv=$work/toolkit
list=tests/cuda/requirements.txt

if ! cmp -s $list "$venv/installed.txt"; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement $list
    cp $list "$venv/installed.txt"
fi
CUDA_HOME=$(echo "$venv"/lib/python3*/site-packages/nvidia/cu13)
export CUDA_HOME PATH=$CUDA_HOME/bin:$PATH CUDA_COMPUTE_CAP=75
# The newest version that the bindings know; the compiler may be newer.
export CUDARC_CUDA_VERSION=13040

printf -- '-- lints\n'
cargo clippy --locked --features cuda --all-targets --target-dir "$work" -- -D warnings

printf -- '-- the program\n'
# Linked first with names alone, which shows the functions that it calls, and these are then made.
libraries=$work/libraries
rm -rf "$libraries"
mkdir -p "$libraries"
for name in cudart nvrtc curand; do
    ln -s "$(echo "$CUDA_HOME"/lib/lib$name.so.*)" "$libraries/lib$name.so"
done
stand_in() { # NAME SONAME, functions on stdin
    sed 's/.*/int &(void) { return 34; }/' | gcc -shared -fPIC -Wl,-soname,"$2" -x c - -o "$libraries/$2"
    ln -sf "$2" "$libraries/lib$1.so"
}
for name in cuda cublas cublasLt; do
    stand_in $name lib$name.so.1 </dev/null
done
cargo rustc --locked --features cuda --bin reranker --target-dir "$work" -- \
    -L "native=$libraries" -C link-arg=-Wl,--unresolved-symbols=ignore-all -C link-arg=-Wl,--no-as-needed
program=$work/debug/reranker
called() { nm --dynamic --undefined-only "$program" | sed -n "s/.* \($1[A-Za-z0-9_]*\).*/\1/p" | sort -u; }
called 'cu[A-Z]' | stand_in cuda libcuda.so.1
called 'cublas' | stand_in cublas libcublas.so.1
echo "calls $(called 'cu[A-Z]' | wc -l) functions of the driver, $(called cublas | wc -l) of cuBLAS"

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
PORT=0 LOG_FORMAT=text timeout --signal TERM 5 "$program" serve 2>&1 | expect "DEVICE=auto: computing on the CPU"
"$program" score --query 'what is a panda?' 'a bear of China' 2>&1 | expect 'a bear of China'
