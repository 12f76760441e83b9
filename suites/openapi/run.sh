#!/usr/bin/env bash
# Drives every operation of /openapi.json with schemathesis: no answer may be a 5xx or one that the document does not have.
#
#   suites/openapi/run.sh [PROGRAM]      PROGRAM: target/release/reranker where it is not given
#
# MODEL_DIR names another model than the bundled one. What schemathesis comes from is in requirements.txt, complete, from PyPI; it is
# kept under target/openapi, where each run leaves its reports.
set -euo pipefail
cd "$(dirname "$0")/../.."
source suites/lib.sh

program=$(program "${1-}")

folder=target/openapi
venv $folder/venv suites/openapi/requirements.txt --no-deps --only-binary :all:

exec $folder/venv/bin/python suites/openapi/drive.py "$program" $folder
