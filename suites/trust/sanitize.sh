#!/usr/bin/env bash
# Tests under a sanitizer, on every instruction set of this machine. `address`: the kernels' and those of mapped files, which are all
# the unsafe code there is. `thread`: the kernels' thread pool and everything that is shared over it; the standard library is compiled
# for it too, so it needs a nightly toolchain with `rust-src`.
set -euo pipefail
cd "$(dirname "$0")/../.."
host=$(rustc -vV | sed -n 's/^host: //p')
case ${1:?address or thread} in
address)
    # The option is not stable; the compiler is.
    RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address" CARGO_TARGET_DIR=target/asan \
        cargo test --locked --quiet -p kernels --lib --tests --target "$host"
    # Of the engine only its own code is instrumented; what it depends on is what `make test` has compiled.
    test=$(RUSTC_WRAPPER=$PWD/suites/trust/bootstrap.sh cargo rustc --locked -p reranker-engine --lib --profile test --message-format json \
        -- -Zsanitizer=address | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
    "$test" --quiet weights:: tokenizer:: model::
    ;;
thread)
    if ! [[ -d $(rustc +nightly --print sysroot)/lib/rustlib/src/rust/library ]] &&
        ! rustup component add rust-src --toolchain nightly >/dev/null 2>&1; then
        echo "no nightly toolchain with rust-src, and none can be installed"
        exit 77
    fi
    # The pool parks and wakes threads in ways that the sanitizer follows only where it sees all of the library.
    RUSTFLAGS="-Zsanitizer=thread" CARGO_TARGET_DIR=target/tsan \
        cargo +nightly test --locked --quiet -Zbuild-std -p kernels --target "$host" --lib --test small --test int8 --test oracle
    ;;
*)
    echo "no such sanitizer: $1" >&2
    exit 2
    ;;
esac
