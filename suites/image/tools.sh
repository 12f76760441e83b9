#!/usr/bin/env bash
# Installs from PyPI, at pinned versions, what checks and describes the image: target/image/tools/bin, and the SAM CLI where suites/aws/run.sh
# has it, too: target/aws/tools/bin. A changed list is installed anew.
set -euo pipefail
cd "$(dirname "$0")/../.."
tools() { # folder, requirements
    if ! cmp -s "$2" "$1/installed.txt"; then
        rm -rf "$1"
        python3 -m venv "$1"
        "$1/bin/pip" install --quiet --disable-pip-version-check --requirement "$2"
        cp "$2" "$1/installed.txt"
    fi
}
tools target/image/tools suites/image/requirements.txt
tools target/aws/tools suites/aws/requirements.txt
