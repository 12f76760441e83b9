#!/usr/bin/env bash
# Drives the example clients in client/ against the real program.
#
#   suites/client/run.sh [PROGRAM]      PROGRAM: target/release/reranker where it is not given
#
# Needs python3, bash, curl and jq.
set -euo pipefail
cd "$(dirname "$0")/../.."
source suites/lib.sh

program=$(program "${1-}")

missing=()
for tool in curl jq; do command -v $tool >/dev/null || missing+=($tool); done
if ((${#missing[@]})); then
    if ! debian "${missing[@]}"; then
        echo "NOT RUN: the tests of the clients need ${missing[*]}, and this machine can't install any" >&2
        exit 0
    fi
fi

exec python3 suites/client/drive.py "$program"
