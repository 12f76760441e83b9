#!/bin/sh
# A load of mixed dialects against the real program: valid bodies small and large, mistakes, deadlines, clients that hang up, bursts.
#
#   suites/load/run.sh [PROGRAM] [SECONDS]      PROGRAM: target/release/reranker where it is not given; SECONDS: 60, at least 8
#
# MODEL_DIR names another model than the bundled one, LOAD_SEED another order of requests. Needs only python3; takes some seconds more
# than SECONDS.
set -eu
cd "$(dirname "$0")/../.."

program=${1:-target/release/reranker}
if [ ! -x "$program" ]; then
    echo "there is no $program: build it with cargo build --release" >&2
    exit 2
fi

exec python3 suites/load/drive.py "$program" "${2:-60}"
