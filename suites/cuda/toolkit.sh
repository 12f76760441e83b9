# shellcheck shell=bash
# To be sourced at the top of the tree: NVIDIA's compiler from PyPI as CUDA_HOME, and in $libraries what a program with the `cuda`
# feature is linked to. What PyPI has not, or only in large (cuBLAS, the driver's own library), is stood in for by libraries whose
# functions only fail. CUDA 13.0, the oldest of its major version: a driver reads PTX of its own version and older ones only.
source suites/lib.sh
work=$PWD/target/cuda
venv=$work/toolkit
venv "$venv" suites/cuda/requirements.txt
CUDA_HOME=$(echo "$venv"/lib/python3*/site-packages/nvidia/cu13)
export CUDA_HOME
# The bindings of the same version.
export CUDARC_CUDA_VERSION=13000

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
# Every function that there are bindings for, and each of them answers CUDA_ERROR_STUB_LIBRARY. It has the true library's name, so that
# the program finds that one where it is installed.
stand_in() { # NAME VERSION BINDINGS
    local soname=lib$1.so.$2
    sed -nE 's/.*fn (cu[a-zA-Z0-9_]+)\(.*/int \1(void) { return 34; }/p' "$bindings/$3/sys/mod.rs" | sort -u |
        gcc -shared -fPIC -Wl,-soname,"$soname" -x c - -o "$libraries/$soname"
    ln -s "$soname" "$libraries/lib$1.so"
}
stand_in cuda 1 driver
stand_in cublas 13 cublas
stand_in cublasLt 13 cublaslt
