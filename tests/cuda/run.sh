#!/usr/bin/env bash
# Checks the `cuda` feature on a machine without a GPU: lints everything with it, links the program, and sees it start without a driver,
# fall back to the CPU and refuse to where it must. The compiler of the kernels comes from PyPI; what is not there (cuBLAS, which is
# large, the driver's own library, and kernels that are never called) is stood in for by libraries whose functions only fail.
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
export CUDA_HOME PATH=$CUDA_HOME/bin:$PATH CUDA_COMPUTE_CAP=75 NVCC=$PWD/tests/cuda/nvcc
# The newest version that the bindings know; the compiler may be newer.
export CUDARC_CUDA_VERSION=13040

printf -- '-- lints\n'
cargo clippy --locked --features cuda --all-targets --target-dir "$work" -- -D warnings

printf -- '-- the program\n'
bindings=$(cargo metadata --format-version 1 --locked --features cuda | python3 -c '
import json, os, sys
cudarc = next(package for package in json.load(sys.stdin)["packages"] if package["name"] == "cudarc")
print(os.path.dirname(cudarc["manifest_path"]) + "/src")')
libraries=$work/libraries
rm -rf "$libraries"
mkdir -p "$libraries"
for name in cudart nvrtc curand; do
    ln -s "$(echo "$CUDA_HOME"/lib/lib$name.so.*)" "$libraries/lib$name.so"
done
# Every function that there are bindings for, and each of them answers CUDA_ERROR_STUB_LIBRARY.
stand_in() { # NAME BINDINGS
    local soname=lib$1.so.1
    sed -nE 's/.*fn (cu[a-zA-Z0-9_]+)\(.*/int \1(void) { return 34; }/p' "$bindings/$2/sys/mod.rs" | sort -u |
        gcc -shared -fPIC -Wl,-soname,"$soname" -x c - -o "$libraries/$soname"
    ln -s "$soname" "$libraries/lib$1.so"
}
stand_in cuda driver
stand_in cublas cublas
stand_in cublasLt cublaslt
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
