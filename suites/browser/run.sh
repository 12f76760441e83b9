#!/usr/bin/env bash
# Drives the playground and the API's page in headless Chromium, against the real program.
#
#   suites/browser/run.sh [PROGRAM]      PROGRAM: target/release/reranker where it is not given
#
# Chromium is Debian's, and installed where it is missing; the driver and the accessibility rules come from npm at the versions and
# checksums in package-lock.json, and are kept under target/browser.
set -euo pipefail
cd "$(dirname "$0")/../.."
source suites/lib.sh

program=$(program "${1-}")

missing=()
command -v chromium >/dev/null || missing+=(chromium)
command -v npm >/dev/null || missing+=(nodejs npm)
if ((${#missing[@]})); then
    if ! debian "${missing[@]}"; then
        echo "NOT RUN: the tests in a browser need Debian's packages, and this machine can't install any: ${missing[*]}" >&2
        exit 0
    fi
fi

folder=target/browser
if changed suites/browser/package-lock.json "$folder"; then
    cp suites/browser/package.json suites/browser/package-lock.json "$folder"
    npm ci --prefix "$folder" --ignore-scripts --no-audit --no-fund --loglevel=error
    installed suites/browser/package-lock.json "$folder"
fi

exec node suites/browser/playground.mjs "$folder" "$(command -v chromium)" "$program"
