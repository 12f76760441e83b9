#!/bin/sh
# Runs the recorded events through AWS's own Lambda emulator (RIE) and through cargo-lambda's, and compares each answer with
# plain HTTP.
#
#   suites/emulators/run.sh [PROGRAM]      PROGRAM: target/release/reranker where it is not given
#
# The emulators come from PyPI at the versions and checksums in requirements.txt, and are kept under target/emulators.
set -eu
cd "$(dirname "$0")/../.."

program=${1:-target/release/reranker}
if [ ! -x "$program" ]; then
    echo "there is no $program: build it with cargo build --release" >&2
    exit 2
fi
case $(uname -m) in
    x86_64) arch=x86_64 ;;
    aarch64 | arm64) arch=arm64 ;;
    *) echo "there is no emulator for $(uname -m)" >&2; exit 2 ;;
esac

requirements=suites/emulators/requirements.txt
folder=target/emulators
# A changed list is installed anew.
if ! cmp -s "$requirements" "$folder/installed.txt"; then
    rm -rf "$folder"
    mkdir -p "$folder"
    python3 -m pip install --quiet --no-deps --require-hashes --only-binary :all: --disable-pip-version-check --root-user-action=ignore \
        --target "$folder/packages" --requirement "$requirements"
    cp "$requirements" "$folder/installed.txt"
fi

exec python3 suites/emulators/drive.py \
    "$folder/packages/samcli/local/rapid/aws-lambda-rie-$arch" "$folder/packages/bin/cargo-lambda" "$program"
