#!/usr/bin/env bash
# Installs from PyPI, at pinned versions, what checks and describes the image: target/image/tools/bin. A changed list is installed anew.
set -euo pipefail
cd "$(dirname "$0")/../.."
tools=target/image/tools
if ! cmp -s tests/image/requirements.txt $tools/installed.txt; then
    rm -rf $tools
    python3 -m venv $tools
    $tools/bin/pip install --quiet --disable-pip-version-check --requirement tests/image/requirements.txt
    cp tests/image/requirements.txt $tools/installed.txt
fi
