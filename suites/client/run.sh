#!/usr/bin/env bash
# Drives the example clients in client/ against the real program.
#
#   suites/client/run.sh [PROGRAM]      PROGRAM: target/release/reranker where it is not given
#
# Needs python3, bash, curl and jq.
set -euo pipefail
cd "$(dirname "$0")/../.."

program=${1:-target/release/reranker}
if [[ ! -x $program ]]; then
    echo "there is no $program: build it with cargo build --release" >&2
    exit 2
fi

root() { if [[ $(id -u) == 0 ]]; then "$@"; else sudo -n "$@"; fi; }
missing=()
for tool in curl jq; do command -v $tool >/dev/null || missing+=($tool); done
if ((${#missing[@]})); then
    if ! { root apt-get update -qq && root apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null; }; then
        echo "NOT RUN: the tests of the clients need ${missing[*]}, and this machine can't install any" >&2
        exit 0
    fi
fi

exec python3 suites/client/drive.py "$program"
