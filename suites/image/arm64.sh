#!/usr/bin/env bash
# Builds the image for arm64, compiled across as `make image PLATFORM=linux/arm64` does everywhere, and runs its program under emulation.
# Half an hour on two cores. What is missing is installed: an engine, and from Debian what stands in for Dockerfile.lambda's toolchain
# where that cannot be pulled, with the libraries that rustup would bring.
set -euo pipefail
cd "$(dirname "$0")/../.."
source suites/lib.sh
work=$PWD/target/image
image=reranker:arm64

suites/aarch64/install.sh
eval "$(suites/image/engine.sh "$work/engine")"
if [[ ${DOCKER_HOST:-} == "unix://$work/engine/"* ]]; then
    trap 'kill "$(cat "$work/engine/podman.pid")"' EXIT
fi
RUST_IMAGE=$(sed -n 's/^ARG RUST_IMAGE=//p' Dockerfile.lambda)
if ! docker image inspect "$RUST_IMAGE" >/dev/null 2>&1; then
    RUST_IMAGE=rust-cross:debian
    docker image inspect "$RUST_IMAGE" >/dev/null 2>&1 ||
        python3 suites/image/toolchain.py --cross | docker import --change "ENV CARGO_HOME=/usr/local/cargo" - "$RUST_IMAGE" >/dev/null
fi
make --no-print-directory image IMAGE=$image RUST_IMAGE="$RUST_IMAGE" PLATFORM=linux/arm64 BUILD_ARGS="--network host"
python3 suites/image/drive.py --emulated $image arm64 qemu-aarch64-static
