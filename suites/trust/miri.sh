#!/usr/bin/env bash
# The kernels under Miri, which interprets them and reports undefined behaviour: the plain code, the thread pool's sharing and the
# scratch memory; then AVX2, of which Miri knows enough. Needs a nightly toolchain with `miri` and `rust-src`.
set -euo pipefail
cd "$(dirname "$0")/../.."
if ! cargo +nightly miri --version >/dev/null 2>&1 &&
    ! rustup component add miri rust-src --toolchain nightly >/dev/null 2>&1; then
    echo "no nightly toolchain with miri and rust-src, and none can be installed"
    exit 77
fi
export CARGO_TARGET_DIR=target/miri
# The pools keep their threads to the end of the process, by design; and the queues that rayon is built on keep to tree borrows, but not
# to stacked ones.
export MIRIFLAGS="-Zmiri-ignore-leaks -Zmiri-tree-borrows -Zmiri-permissive-provenance"
cargo +nightly miri test --locked --quiet -p kernels --test small
# rayon's own scope ends while another thread still holds a reference to it, which no model of aliasing allows: for the tests of the pool
# alone Miri looks for races, bounds and lifetimes only.
MIRIFLAGS="-Zmiri-ignore-leaks -Zmiri-disable-stacked-borrows -Zmiri-permissive-provenance" \
    cargo +nightly miri test --locked --quiet -p kernels --lib -- scratch parallel
RUSTFLAGS="-Ctarget-feature=+avx2,+fma" CARGO_TARGET_DIR=target/miri-avx2 \
    cargo +nightly miri test --locked --quiet -p kernels --test small
