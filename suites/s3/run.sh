#!/usr/bin/env bash
# Models from S3: a real server on loopback (moto), a model of several hundred megabytes, and a proxy that breaks what it passes on.
#
#   suites/s3/run.sh [PROGRAM] [PART…]      PROGRAM: target/release/reranker where it is not given; PART: of drive.py, all of them
#
# moto comes from PyPI at the versions in requirements.txt and is kept under target/s3, as is the large model. Full disks are small file
# systems in a mount namespace, for which Linux wants root or user namespaces.
set -euo pipefail
cd "$(dirname "$0")/../.."
source suites/lib.sh

program=$(program "${1-}")
shift || true
work=$PWD/target/s3
venv "$work/venv" suites/s3/requirements.txt --no-deps --only-binary :all:

# Packed anew with each program, whose format it has.
rm -rf "$work/large" "$work/run"
mkdir -p "$work/run/middle"
make_model() { # folder, rows of 384 bytes
    PYTHONPATH=suites/s3 python3 -c 'import sys, model, pathlib; model.lengthen(pathlib.Path("models/demo"), pathlib.Path(sys.argv[1]), int(sys.argv[2]))' "$1" "$2"
}
make_model "$work/large" 800000
"$program" pack --model "$work/large" --high-precision none
make_model "$work/middle" 120000
"$program" pack --model "$work/middle" --high-precision none --out "$work/run/middle/packed.safetensors"
rm -rf "$work/middle"
[[ -f models/demo/packed.safetensors ]] || "$program" pack --model models/demo

"$work/venv/bin/python" -u suites/s3/drive.py "$program" "$work/large" "$work/run" "$@"
rm -rf "$work/large" "$work/run"
