#!/usr/bin/env bash
# Installs from PyPI, at pinned versions, what checks and describes the image: target/image/tools/bin, and the SAM CLI where suites/aws/run.sh
# has it, too: target/aws/tools/bin.
set -euo pipefail
cd "$(dirname "$0")/../.."
source suites/lib.sh
venv target/image/tools suites/image/requirements.txt
venv target/aws/tools suites/aws/requirements.txt
