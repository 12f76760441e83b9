#!/usr/bin/env bash
# A load of mixed dialects against the real program: valid bodies small and large, mistakes, deadlines, clients that hang up, bursts.
#
#   suites/load/run.sh [PROGRAM] [SECONDS]      PROGRAM: target/release/reranker where it is not given; SECONDS: 60, at least 8
#
# MODEL_DIR names another model than the bundled one, LOAD_SEED another order of requests. Needs only python3; takes some seconds more
# than SECONDS.
set -euo pipefail
cd "$(dirname "$0")/../.."
source suites/lib.sh

program=$(program "${1-}")

exec python3 suites/load/drive.py "$program" "${2:-60}"
