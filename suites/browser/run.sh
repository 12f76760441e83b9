#!/usr/bin/env bash
# Drives the playground and the API's page in headless Chromium, against the real program.
#
#   suites/browser/run.sh [PROGRAM]      PROGRAM: target/release/reranker where it is not given
#
# Chromium is Debian's, and installed where it is missing; the driver and the accessibility rules come from npm at the versions and
# checksums in package-lock.json, and are kept under target/browser.
set -euo pipefail
cd "$(dirname "$0")/../.."

program=${1:-target/release/reranker}
if [[ ! -x $program ]]; then
    echo "there is no $program: build it with cargo build --release" >&2
    exit 2
fi

root() { if [[ $(id -u) == 0 ]]; then "$@"; else sudo -n "$@"; fi; }
missing=()
command -v chromium >/dev/null || missing+=(chromium)
command -v npm >/dev/null || missing+=(nodejs npm)
if ((${#missing[@]})); then
    if ! { root apt-get update -qq && root apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null; }; then
        echo "NOT RUN: the tests in a browser need Debian's packages, and this machine can't install any: ${missing[*]}" >&2
        exit 0
    fi
fi

folder=target/browser
# A changed list is installed anew.
if ! cmp -s suites/browser/package-lock.json "$folder/installed.json"; then
    rm -rf "$folder"
    mkdir -p "$folder"
    cp suites/browser/package.json suites/browser/package-lock.json "$folder"
    npm ci --prefix "$folder" --ignore-scripts --no-audit --no-fund --loglevel=error
    cp suites/browser/package-lock.json "$folder/installed.json"
fi

exec node suites/browser/playground.mjs "$folder" "$(command -v chromium)" "$program"
