#!/usr/bin/env bash
# Compiles the kernels for AArch64 and runs their tests under emulation, all of them on a CPU with every extension, and those of the
# int8 engine on one with none, where the program must find the base set by itself. What is missing is installed; ends with status 77
# where it cannot be. With --guard also the tests whose operands lie against pages that may not be touched, which take some minutes more.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=aarch64-unknown-linux-gnu

suites/aarch64/install.sh

# Debian's compiler, whatever else is installed; static, because a dynamic program needs the target's libraries at run time.
export RUSTC=/usr/bin/rustc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-C target-feature=+crt-static"

run_tests() { # CPU, cargo's choice of tests…
    printf '\n-- %s\n' "$1"
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64-static -cpu $1" \
        /usr/bin/cargo test --locked -p kernels --target $target --target-dir target/aarch64 "${@:2}"
}
run_tests max --lib --test oracle --test int8
if [[ ${1:-} == --guard ]]; then run_tests max --test guard; fi
run_tests cortex-a72 --test int8
