# shellcheck shell=bash
# To be sourced at the top of the tree: NVIDIA's compiler from PyPI as CUDA_HOME, and in $libraries what a program with the `cuda`
# feature is linked to. What PyPI has not, or only in large (cuBLAS, the driver's own library), is stood in for by libraries whose
# functions only fail.
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
export CUDA_HOME
# The newest version that the bindings know; the compiler may be newer.
export CUDARC_CUDA_VERSION=13040

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
