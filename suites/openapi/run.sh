#!/bin/sh
# Drives every operation of /openapi.json with schemathesis: no answer may be a 5xx or one that the document does not have.
#
#   suites/openapi/run.sh [PROGRAM]      PROGRAM: target/release/reranker where it is not given
#
# MODEL_DIR names another model than the bundled one. What schemathesis comes from is in requirements.txt, complete, from PyPI; it is
# kept under target/openapi, where each run leaves its reports.
set -eu
cd "$(dirname "$0")/../.."

program=${1:-target/release/reranker}
if [ ! -x "$program" ]; then
    echo "there is no $program: build it with cargo build --release" >&2
    exit 2
fi

requirements=suites/openapi/requirements.txt
folder=target/openapi
# A changed list is installed anew.
if ! cmp -s "$requirements" "$folder/venv/installed"; then
    rm -rf "$folder/venv"
    mkdir -p "$folder"
    python3 -m venv "$folder/venv"
    "$folder/venv/bin/python" -m pip install --quiet --no-deps --only-binary :all: --disable-pip-version-check \
        --root-user-action=ignore --requirement "$requirements"
    cp "$requirements" "$folder/venv/installed"
fi

exec "$folder/venv/bin/python" suites/openapi/drive.py "$program" "$folder"
